//! How much memory a step takes.

use super::Eraser;
use crate::{
    model::{Architecture, HEAD_ROWS, HeadScratch, Interior, Scratch, memory::TrainingMemory},
    tokens::TrainingSample,
};
use midblock_kernels::Backend;

/// Memory of a step with the longest prompts together.
pub(super) fn plan<B: Backend>(
    architecture: &Architecture,
    options: &Eraser,
    prompts: &[TrainingSample],
    common: usize,
) -> TrainingMemory {
    const F32: usize = 4;
    let a = architecture;
    let mut own: Vec<usize> = prompts.iter().map(|prompt| prompt.ids.len() - common).collect();
    own.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
    own.truncate(options.batch);
    let trunk = options.tokens + common;
    let rows = trunk + own.iter().sum::<usize>();
    let spread = 2 * F32 * (rows + own.len() * trunk) * a.kv_heads * a.head_dim;
    let compared = own.len() * options.tail;
    let head = HeadScratch::<B>::bytes(a, compared) + F32 * compared.min(HEAD_ROWS) * (a.vocab + a.hidden);
    let interior = Interior::<B>::bytes(a, rows) + spread;
    let streams = F32 * (a.blocks + 2) * rows * a.hidden;
    let working = streams + head + Scratch::<B>::backward_bytes(a, rows) + spread + interior;
    let parameters = options.tokens * a.hidden;
    let state = F32 * (4 * parameters + prompts.len() * options.tail * a.hidden);
    let left = options
        .memory
        .map(|budget| (budget.0 as usize).saturating_sub(state + working));
    let kept = left.map_or(a.blocks, |left| (left / interior.max(1)).min(a.blocks));
    TrainingMemory {
        parameters,
        weights: 0,
        state,
        working: if kept == a.blocks { working - interior } else { working },
        interior,
        blocks: a.blocks,
        kept,
    }
}

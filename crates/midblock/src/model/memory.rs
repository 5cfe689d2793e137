//! How much memory work on a model takes, from its shape alone.
//!
//! Analysis is what the engine does today: for SmolLM2-135M, base and adapter, 200 texts of 128 tokens, it says 266 MiB
//! where a run's own sampling said 273 MiB. Weight metrics of dense changes come on top: about 16 bytes per element of the
//! largest matrix. Training is arithmetic on the
//! plan of the training engine: weights in their storage format stay memory-mapped unless they are trained, block inputs are
//! kept and block interiors recomputed, AdamW keeps two f32 moments per trained parameter, gradients of full fine-tuning are
//! consumed matrix by matrix.

use super::{Architecture, Scratch};
use crate::metrics::VIEWS;
use midblock_kernels::Backend;
use std::ops::Range;

const F32: usize = 4;
const F64: usize = 8;

/// What a loaded tokenizer takes for each token of its vocabulary: strings, hash maps, merges, measured on SmolLM2.
const TOKENIZER_BYTES_PER_TOKEN: usize = 1024;

/// Private bytes of an analysis; memory-mapped weights are not private and not counted.
pub fn analysis_bytes<B: Backend>(architecture: &Architecture, models: usize, texts: AnalysisSize) -> usize {
    let (n, d) = (texts.samples, architecture.hidden);
    let states = n * texts.tokens * d * F32;
    let capture = n * (1 + VIEWS) * d * F64 + texts.token_samples.min(n) * texts.tokens * d * F32;
    let tokenizer = architecture.vocab * TOKENIZER_BYTES_PER_TOKEN;
    models * (states + capture + tokenizer) + Scratch::<B>::bytes(architecture, 1024)
}

/// Size of an analysis.
#[derive(Clone, Copy, Debug)]
pub struct AnalysisSize {
    /// N, over all data sets.
    pub samples: usize,
    /// T at most.
    pub tokens: usize,
    /// Samples kept token by token.
    pub token_samples: usize,
}

/// What a training run moves.
#[derive(Clone, Debug)]
pub enum Trained {
    /// Every parameter.
    Full,
    /// LoRA of this rank on q, k, v and o of these blocks.
    Lora {
        /// R.
        rank: usize,
        /// 0-based, half-open.
        blocks: Range<usize>,
    },
}

/// Private bytes of training on batches of `rows` tokens, and the number of trained parameters.
pub fn training_bytes<B: Backend>(architecture: &Architecture, trained: &Trained, rows: usize) -> (usize, usize) {
    let a = architecture;
    let (parameters, first, copies) = match trained {
        Trained::Full => (a.parameters(), 0, 3), // the weight and two moments
        Trained::Lora { rank, blocks } => {
            let adapted = a.block_shape().linears.into_iter().take(4);
            let per_block: usize = adapted.map(|(_, [out, inp], _)| rank * (out + inp)).sum();
            (per_block * blocks.len(), blocks.start, 4) // and a gradient
        }
    };
    let kept_inputs = (a.blocks - first + 1) * rows * a.hidden * F32;
    let largest_gradient = match trained {
        Trained::Full => a.vocab.max(a.ffn) * a.hidden * F32,
        Trained::Lora { .. } => 0,
    };
    let interiors = 3 * Scratch::<B>::bytes(a, rows); // values, their gradients, the head's chunk
    (
        copies * parameters * F32 + kept_inputs + largest_gradient + interiors,
        parameters,
    )
}

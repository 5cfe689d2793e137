//! How much memory work on a model takes, from its shape alone.
//!
//! Analysis is what the engine does today: for SmolLM2-135M, base and adapter, 200 texts of 128 tokens, it says 266 MiB
//! where a run's own sampling said 273 MiB. Weight metrics of dense changes come on top: about 16 bytes per element of the
//! largest matrix. Training follows what
//! [`Tape`](super::Tape) and [`Trainer`](crate::train::Trainer) allocate.

use super::{Architecture, HeadScratch, Interior, ParameterId, Scratch};
use crate::metrics::VIEWS;
use midblock_kernels::Backend;

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
    models * (states + capture + tokenizer) + Scratch::<B>::inference_bytes(architecture, 1024)
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

/// Private bytes of a training run; frozen weights are memory-mapped and not counted, unless they were quantised when they were
/// loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingMemory {
    /// Parameters that move.
    pub parameters: usize,
    /// Frozen weights that were quantised when they were loaded.
    pub weights: usize,
    /// Values, gradients and moments of what moves, and what the objective takes.
    pub state: usize,
    /// Block inputs, the widest working buffers, the head's chunk of logits.
    pub working: usize,
    /// The interior of one block.
    pub interior: usize,
    /// Blocks that backward walks through.
    pub blocks: usize,
    /// How many of them keep their interiors; the others' are computed again, at the price of a forward pass through them.
    pub kept: usize,
}

impl TrainingMemory {
    /// Plans batches of at most `rows` tokens of which `labelled` are predicted, on `parameters` with their numbers of
    /// elements, of each of which `copies` numbers are kept besides its gradient. As many interiors are kept as the budget (in bytes) allows;
    /// without one, all.
    ///
    /// `consumed` says that the optimiser consumes a block's gradients before the next block's are made; `besides` are bytes that the
    /// objective takes. Frozen weights are memory-mapped; [`with_weights`](Self::with_weights) adds those that are not.
    pub fn plan<B: Backend>(
        architecture: &Architecture,
        parameters: &[(ParameterId, usize)],
        [rows, labelled]: [usize; 2],
        copies: usize,
        consumed: bool,
        besides: usize,
        budget: Option<usize>,
    ) -> Self {
        let a = architecture;
        let first = first_block(a, parameters);
        let blocks = a.blocks - first;
        let elements: usize = parameters.iter().map(|(_, len)| len).sum();
        let of_blocks = parameters.iter().filter(|(id, _)| id.block().is_some());
        let in_blocks: usize = of_blocks.map(|(_, len)| len).sum();
        let gradients = match consumed {
            true => elements - in_blocks + in_blocks / blocks.max(1),
            false => elements,
        };
        // the residual stream, its gradient, and each block's input
        let streams = F32 * (blocks + 2) * rows * a.hidden;
        let head = HeadScratch::<B>::bytes(a, labelled);
        let interior = Interior::<B>::bytes(a, rows);
        let working = streams + head + Scratch::<B>::backward_bytes(a, rows) + interior;
        let state = F32 * (copies * elements + gradients) + besides;
        let left = budget.map(|budget| budget.saturating_sub(state + working));
        let kept = left.map_or(blocks, |left| (left / interior.max(1)).min(blocks));
        Self {
            parameters: elements,
            weights: 0,
            state,
            working: if kept == blocks { working - interior } else { working },
            interior,
            blocks,
            kept,
        }
    }

    /// The plan with so many bytes of private weights; the budget it was made for was without them.
    pub fn with_weights(self, weights: usize) -> Self {
        Self { weights, ..self }
    }

    /// All of it.
    pub fn bytes(&self) -> usize {
        self.weights + self.state + self.working + self.kept * self.interior
    }
}

/// The lowest block that backward must reach for these parameters: L if none is in a block, 0 for the embedding.
pub fn first_block(architecture: &Architecture, parameters: &[(ParameterId, usize)]) -> usize {
    let reached = parameters.iter().filter_map(|(id, _)| match id {
        ParameterId::Embedding => Some(0),
        id => id.block(),
    });
    reached.min().unwrap_or(architecture.blocks)
}

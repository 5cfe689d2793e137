//! What the loop needs of the thing that it steps; a model with an optimiser is one, a parabola in a test another.

use crate::{Result, tokens::TrainingSample};

/// A sum of losses and what it is a sum over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Σ −ln p(token).
    pub nats: f64,
    /// Trained tokens summed over.
    pub tokens: usize,
}

impl LossSum {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.tokens += other.tokens;
    }

    /// Nats per token.
    pub fn mean(&self) -> f64 {
        self.nats / self.tokens as f64
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Euclidean norm of the gradient over all trained parameters, before clipping.
    pub gradient_norm: f64,
    /// What the gradient was multiplied with; 1 if it was not clipped.
    pub clip_scale: f64,
}

/// A micro-batch and its place in the run. Dropout is a function of the place, so that history does not matter.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch<'a> {
    /// The sequences.
    pub samples: &'a [&'a TrainingSample],
    /// Their numbers in the training data, which caches go by.
    pub indices: &'a [usize],
    /// 0-based step of the run.
    pub step: u64,
    /// 0-based micro-batch of the step.
    pub micro: u64,
    /// Trained tokens of the whole step: what its loss is a mean over.
    pub tokens_in_step: usize,
}

/// A state tensor: its name and shape.
pub type StateTensor = (String, Vec<usize>);

/// Something with parameters that a gradient step moves.
pub trait Stepper {
    /// Adds one micro-batch to the step's gradient, of the mean over `tokens_in_step`. Returns the micro-batch's own sum.
    ///
    /// # Errors
    /// Those of the computation.
    fn accumulate(&mut self, batch: MicroBatch<'_>) -> Result<LossSum>;

    /// Moves the parameters along the gradient and forgets it. `step` is the 0-based step.
    ///
    /// # Errors
    /// Those of the computation.
    fn apply(&mut self, lr: f64, step: u64) -> Result<StepReport>;

    /// Forgets the gradient of a step that is given up.
    fn discard(&mut self);

    /// Loss without dropout; nothing moves.
    ///
    /// # Errors
    /// Those of the computation.
    fn evaluate(&mut self, samples: &[&TrainingSample]) -> Result<LossSum>;

    /// Everything that must survive a restart: parameters and the optimiser's moments.
    fn state(&self) -> Vec<StateTensor>;

    /// The values of one of them.
    fn read_state(&self, name: &str) -> Vec<f32>;

    /// Sets the values of one of them, of the right length.
    fn write_state(&mut self, name: &str, values: &[f32]);
}

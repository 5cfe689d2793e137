//! What the loop needs of the thing that it steps; a model with an optimiser is one, a parabola in a test another.

use super::{Item, LossSum, StepInfo, StepReport, Trainer};
use crate::{Result, ranks::Ranks};
use midblock_kernels::Backend;

/// Something with parameters that a gradient step moves.
pub trait Stepper {
    /// Adds one micro-batch to the step's gradient, of the mean over `info.tokens`. Returns the micro-batch's own sum.
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::Error::Diverged), and those of the computation.
    fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum>;

    /// Makes the step's gradient the sum of all ranks'.
    ///
    /// # Errors
    /// A rank has failed.
    fn reduce(&mut self, ranks: &Ranks) -> Result<()>;

    /// Moves the parameters along the gradient and forgets it.
    ///
    /// # Errors
    /// As [`accumulate`](Self::accumulate).
    fn apply(&mut self, info: &StepInfo) -> Result<StepReport>;

    /// Loss without dropout; nothing moves.
    ///
    /// # Errors
    /// Those of the computation.
    fn evaluate(&mut self, items: &[Item<'_>]) -> Result<LossSum>;

    /// The mean state of each sequence after each layer, L + 1 times (N, D), without dropout; nothing moves. None of what is not measured for
    /// drift.
    fn pooled_states(&mut self, items: &[Item<'_>]) -> Vec<Vec<f64>> {
        let _ = items;
        Vec::new()
    }

    /// Everything that must survive a restart, with shapes: parameters and the optimiser's moments.
    fn tensors(&self) -> Vec<(String, Vec<usize>)>;

    /// The values of one of them.
    fn read(&mut self, name: &str) -> Vec<f32>;

    /// Sets the values of one of them, of the right length.
    fn write(&mut self, name: &str, values: &[f32]);
}

impl<B: Backend> Stepper for Trainer<'_, B> {
    fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
        self.accumulate(items, info)
    }

    fn reduce(&mut self, ranks: &Ranks) -> Result<()> {
        self.reduce_as::<f32>(ranks)
    }

    fn apply(&mut self, info: &StepInfo) -> Result<StepReport> {
        self.apply(info)
    }

    fn evaluate(&mut self, items: &[Item<'_>]) -> Result<LossSum> {
        Ok(self.evaluate(items))
    }

    fn pooled_states(&mut self, items: &[Item<'_>]) -> Vec<Vec<f64>> {
        Trainer::pooled_states(self, items)
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors()
    }

    fn read(&mut self, name: &str) -> Vec<f32> {
        self.read(name)
    }

    fn write(&mut self, name: &str, values: &[f32]) {
        self.write(name, values);
    }
}

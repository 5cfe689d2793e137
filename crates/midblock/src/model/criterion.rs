//! What is minimised, as far as it is a function of the logits of labelled rows.

use midblock_kernels::Backend;
use std::ops::Range;

/// Turns logits into the gradient of a loss.
pub trait Criterion<B: Backend> {
    /// `logits`, (n, V), are those of the labelled rows `rows` of a batch, counted among its labelled rows; `targets` is what they should
    /// say. The gradient of the loss takes their place. Returns the cross entropy in nats of each row, whatever the loss is.
    fn backward(&mut self, backend: &B, rows: Range<usize>, targets: &[u32], logits: &mut B::Buffer) -> Vec<f64>;
}

/// `Σ weight · cross entropy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Of every row.
    pub weight: f64,
}

impl<B: Backend> Criterion<B> for CrossEntropy {
    fn backward(&mut self, backend: &B, _: Range<usize>, targets: &[u32], logits: &mut B::Buffer) -> Vec<f64> {
        backend.cross_entropy_backward(logits, targets, &|_, _| self.weight)
    }
}

//! What is minimised: as far as it is a function of the logits of labelled rows, and as far as it is one of hidden states.

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

/// A loss on hidden states: what it adds to their gradient.
pub trait StateLoss<B: Backend> {
    /// `states` is the output of block `layer − 1`, `h[layer]`, (rows, D), and `gradient` what came down to it from above. Layers come from
    /// the top.
    fn backward(&mut self, backend: &B, layer: usize, states: &B::Buffer, gradient: &mut B::Buffer);
}

/// No such loss.
impl<B: Backend> StateLoss<B> for () {
    fn backward(&mut self, _: &B, _: usize, _: &B::Buffer, _: &mut B::Buffer) {}
}

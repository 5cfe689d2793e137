//! RMS norm: `y = x / √(mean(x²) + eps) · weight`.

use super::{ParameterId, Sink};
use midblock_kernels::{Accumulate, Backend};

/// A norm's weight on a device: (D) for a block's norm, (E) or (H·E) for norms of queries and keys.
pub struct Norm<B: Backend> {
    id: ParameterId,
    weight: B::Buffer,
    eps: f32,
}

impl<B: Backend> Norm<B> {
    pub(super) fn new(id: ParameterId, weight: B::Buffer, eps: f32) -> Self {
        Self { id, weight, eps }
    }

    pub(super) fn id(&self) -> ParameterId {
        self.id
    }

    pub(super) fn weight_mut(&mut self) -> &mut B::Buffer {
        &mut self.weight
    }

    /// x and out: whole groups of the weight's length.
    pub(super) fn forward(&self, backend: &B, x: &B::Buffer, out: &mut B::Buffer) {
        backend.resize(out, backend.len(x));
        backend.rms_norm(x, &self.weight, self.eps, out);
    }

    /// `dx (+)=` the gradient with respect to x; the weight's goes to the sink.
    pub(super) fn backward(
        &self,
        backend: &B,
        x: &B::Buffer,
        dy: &B::Buffer,
        mode: Accumulate,
        dx: &mut B::Buffer,
        sink: &mut impl Sink<B>,
    ) {
        let d_weight = sink.wants(self.id).then(|| sink.sum(backend, self.id));
        backend.rms_norm_backward(x, &self.weight, self.eps, dy, mode, dx, d_weight);
    }
}

//! `y = x Wᵀ + b`, with an adapter's `s · (x Aᵀ) Bᵀ` on top where there is one.

use super::tensors::LinearTensors;
use crate::checkpoint::LowRank;
use midblock_kernels::{Accumulate, Backend, StoredMatrix};

/// One linear layer on a device.
pub struct Linear<B: Backend> {
    weight: B::Matrix,
    bias: Option<B::Buffer>,
    delta: Option<Delta<B>>,
}

/// A LoRA pair on a device. Applied in the backend's arithmetic, never merged into a quantised weight.
struct Delta<B: Backend> {
    rank: usize,
    scale: f32,
    /// (R, in)
    a: B::Matrix,
    /// (out, R)
    b: B::Matrix,
}

impl<B: Backend> Linear<B> {
    /// Hands the tensors to the device.
    pub fn new(backend: &B, tensors: &LinearTensors<'_>) -> Self {
        let &[out, inp] = tensors.weight.shape.as_slice() else {
            panic!(
                "invariant: a linear weight has two dimensions, got {:?}",
                tensors.weight.shape
            )
        };
        let delta = |pair: &LowRank| Delta {
            rank: pair.rank,
            scale: pair.scale,
            a: backend.matrix(StoredMatrix::from_f32([pair.rank, inp], &pair.a)),
            b: backend.matrix(StoredMatrix::from_f32([out, pair.rank], &pair.b)),
        };
        Self {
            weight: backend.matrix(tensors.weight.matrix()),
            bias: tensors.bias.as_ref().map(|bias| backend.upload(&bias.to_f32())),
            delta: tensors.delta.map(delta),
        }
    }

    /// `out (+)= x Wᵀ + b`; x (rows, in), out (rows, out).
    pub fn forward(&self, backend: &B, x: &B::Buffer, rows: usize, mode: Accumulate, out: &mut B::Buffer) {
        backend.linear(x, &self.weight, rows, mode, out);
        Self::finish(backend, x, rows, &mut [(self, out)]);
    }

    /// Several layers on the same x, such as q, k and v; outputs are overwritten.
    pub fn forward_all(backend: &B, x: &B::Buffer, rows: usize, layers: &mut [(&Self, &mut B::Buffer)]) {
        let mut pairs: Vec<_> = layers
            .iter_mut()
            .map(|(layer, out)| (&layer.weight, &mut **out))
            .collect();
        backend.linears(x, rows, Accumulate::Write, &mut pairs);
        Self::finish(backend, x, rows, layers);
    }

    /// Biases and adapters.
    fn finish(backend: &B, x: &B::Buffer, rows: usize, layers: &mut [(&Self, &mut B::Buffer)]) {
        for (layer, out) in layers.iter_mut() {
            if let Some(bias) = &layer.bias {
                backend.add_bias(out, bias);
            }
        }
        let mut adapted: Vec<_> = layers
            .iter_mut()
            .filter_map(|(layer, out)| {
                let delta = layer.delta.as_ref()?;
                Some((delta, backend.zeros(rows * delta.rank), &mut **out)) // x Aᵀ (rows, R)
            })
            .collect();
        let mut down: Vec<_> = adapted
            .iter_mut()
            .map(|(delta, narrow, _)| (&delta.a, narrow))
            .collect();
        backend.linears(x, rows, Accumulate::Write, &mut down);
        for (delta, narrow, out) in &mut adapted {
            backend.scale(narrow, delta.scale);
            backend.linear(narrow, &delta.b, rows, Accumulate::Add, out);
        }
    }
}

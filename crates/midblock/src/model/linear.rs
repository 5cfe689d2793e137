//! `y = x Wᵀ + b`, with an adapter's `s · (drop(x) Aᵀ) Bᵀ` on top where there is one (Hu et al. 2021, equation 3).

use super::{Kind, ParameterId, Part, Pass, Sink, tensors::LinearTensors};
use crate::checkpoint::LowRank;
use midblock_kernels::{Accumulate, Backend, StoredMatrix};

/// One linear layer on a device.
pub struct Linear<B: Backend> {
    block: usize,
    part: Part,
    weight: B::Matrix,
    bias: Option<B::Buffer>,
    delta: Option<Delta<B>>,
}

/// A LoRA pair on a device. Applied in the backend's arithmetic, never merged into a quantised weight.
pub(super) struct Delta<B: Backend> {
    /// R
    pub rank: usize,
    /// s
    pub scale: f32,
    /// Probability that an element of x does not reach A, while training.
    pub dropout: f32,
    /// (R, in)
    pub a: B::Matrix,
    /// (out, R)
    pub b: B::Matrix,
}

/// What backward needs of a linear layer's forward beside its input: `s · drop(x) Aᵀ`, (rows, R); empty without adapter.
pub(super) type Narrow<B> = <B as Backend>::Buffer;

/// A layer in a backward pass: itself, what forward left, and the gradient with respect to its output, (rows, out).
pub(super) struct Backward<'a, B: Backend> {
    pub layer: &'a Linear<B>,
    pub narrow: &'a Narrow<B>,
    pub dy: &'a B::Buffer,
}

impl<B: Backend> Linear<B> {
    /// Hands the tensors to the device.
    pub(super) fn new(backend: &B, block: usize, part: Part, tensors: &LinearTensors<'_>) -> Self {
        let &[out, inp] = tensors.weight.shape.as_slice() else {
            panic!(
                "invariant: a linear weight has two dimensions, got {:?}",
                tensors.weight.shape
            )
        };
        let delta = |pair: &LowRank| Delta {
            rank: pair.rank,
            scale: pair.scale,
            dropout: 0.0,
            a: backend.matrix(StoredMatrix::from_f32([pair.rank, inp], &pair.a)),
            b: backend.matrix(StoredMatrix::from_f32([out, pair.rank], &pair.b)),
        };
        Self {
            block,
            part,
            weight: backend.matrix(tensors.weight.matrix()),
            bias: tensors.bias.as_ref().map(|bias| backend.upload(&bias.to_f32())),
            delta: tensors.delta.as_deref().map(delta),
        }
    }

    pub(super) fn weight_mut(&mut self) -> &mut B::Matrix {
        &mut self.weight
    }

    pub(super) fn bias_mut(&mut self) -> Option<&mut B::Buffer> {
        self.bias.as_mut()
    }

    pub(super) fn delta_mut(&mut self) -> &mut Option<Delta<B>> {
        &mut self.delta
    }

    fn id(&self, kind: Kind) -> ParameterId {
        ParameterId::Block {
            block: self.block,
            part: self.part,
            kind,
        }
    }

    /// Whether the sink wants anything of this layer.
    pub(super) fn wanted(&self, sink: &impl Sink<B>) -> bool {
        [Kind::Weight, Kind::Bias, Kind::LoraA, Kind::LoraB]
            .into_iter()
            .any(|kind| sink.wants(self.id(kind)))
    }

    /// Whether the sink wants something that is made of this layer's input.
    pub(super) fn wants_input(&self, sink: &impl Sink<B>) -> bool {
        sink.wants(self.id(Kind::Weight)) || sink.wants(self.id(Kind::LoraA))
    }

    /// `out (+)= x Wᵀ + b`; x (rows, in), out (rows, out).
    pub(super) fn forward(
        &self,
        pass: &Pass<'_, B>,
        x: &B::Buffer,
        mode: Accumulate,
        out: &mut B::Buffer,
        narrow: &mut Narrow<B>,
    ) {
        let (backend, rows) = (pass.backend, pass.rows());
        let [features, _] = backend.shape(&self.weight);
        backend.resize(out, rows * features);
        pass.linears(x, mode, &mut [(&self.weight, &mut *out)]);
        Self::finish(pass, x, &mut [(self, out, narrow)]);
    }

    /// Several layers on the same x, such as q, k and v; outputs are overwritten.
    pub(super) fn forward_all(
        pass: &Pass<'_, B>,
        x: &B::Buffer,
        layers: &mut [(&Self, &mut B::Buffer, &mut Narrow<B>)],
    ) {
        let (backend, rows) = (pass.backend, pass.rows());
        for (layer, out, _) in layers.iter_mut() {
            backend.resize(out, rows * backend.shape(&layer.weight)[0]);
        }
        let mut pairs: Vec<_> = layers
            .iter_mut()
            .map(|(layer, out, _)| (&layer.weight, &mut **out))
            .collect();
        pass.linears(x, Accumulate::Write, &mut pairs);
        Self::finish(pass, x, layers);
    }

    /// Biases and adapters.
    fn finish(pass: &Pass<'_, B>, x: &B::Buffer, layers: &mut [(&Self, &mut B::Buffer, &mut Narrow<B>)]) {
        let (backend, rows) = (pass.backend, pass.rows());
        for (layer, out, _) in layers.iter_mut() {
            if let Some(bias) = &layer.bias {
                backend.add_bias(out, bias);
            }
        }
        let mut together = Vec::new();
        for (layer, _, narrow) in layers.iter_mut() {
            let Some(delta) = &layer.delta else { continue };
            backend.resize(narrow, rows * delta.rank);
            match layer.dropped(pass, x) {
                Some(x) => pass.linears(&x, Accumulate::Write, &mut [(&delta.a, &mut **narrow)]),
                None => together.push((&delta.a, &mut **narrow)),
            }
        }
        pass.linears(x, Accumulate::Write, &mut together);
        for (layer, out, narrow) in layers.iter_mut() {
            let Some(delta) = &layer.delta else { continue };
            backend.scale(narrow, delta.scale);
            pass.linears(narrow, Accumulate::Add, &mut [(&delta.b, &mut **out)]);
        }
    }

    /// The adapter's input where dropout is on.
    fn dropped(&self, pass: &Pass<'_, B>, x: &B::Buffer) -> Option<B::Buffer> {
        let (p, key) = self.mask(pass)?;
        let mut out = pass.backend.zeros(pass.backend.len(x));
        pass.backend.dropout(x, p, key, &mut out);
        Some(out)
    }

    /// Probability and key of this layer's dropout in this pass.
    fn mask(&self, pass: &Pass<'_, B>) -> Option<(f32, u64)> {
        let p = self.delta.as_ref()?.dropout;
        let key = pass.dropout?;
        let layer = (self.block as u64) << 8 | self.part as u64;
        (p > 0.0).then(|| (p, key ^ (layer + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Hands `(x, dy)` of every wanted matrix to the sink and makes `dx (+)= Σ dy_i W_i` where it is asked for. `x` is the
    /// layers' common input, (rows, in); it may be missing if no layer [wants](Self::wants_input) it.
    pub(super) fn backward(
        pass: &Pass<'_, B>,
        layers: &[Backward<'_, B>],
        x: Option<&B::Buffer>,
        dx: Option<(Accumulate, &mut B::Buffer)>,
        sink: &mut impl Sink<B>,
    ) {
        let (backend, rows) = (pass.backend, pass.rows());
        let input = || x.expect("invariant: the input is there where it is wanted");
        let mut narrow_gradients = Vec::new();
        for Backward { layer, narrow, dy } in layers {
            if sink.wants(layer.id(Kind::Weight)) {
                sink.product(backend, layer.id(Kind::Weight), input(), dy, rows);
            }
            if layer.bias.is_some() && sink.wants(layer.id(Kind::Bias)) {
                backend.add_bias_backward(dy, sink.sum(backend, layer.id(Kind::Bias)));
            }
            let Some(delta) = &layer.delta else { continue };
            if sink.wants(layer.id(Kind::LoraB)) {
                sink.product(backend, layer.id(Kind::LoraB), narrow, dy, rows);
            }
            let wants_a = sink.wants(layer.id(Kind::LoraA));
            if wants_a || dx.is_some() {
                let mut dz = backend.zeros(rows * delta.rank); // (rows, R)
                backend.linear_dx(dy, &delta.b, rows, Accumulate::Write, &mut dz);
                backend.scale(&mut dz, delta.scale);
                if wants_a {
                    let dropped = layer.dropped(pass, input());
                    let x = match &dropped {
                        Some(x) => x,
                        None => input(),
                    };
                    sink.product(backend, layer.id(Kind::LoraA), x, &dz, rows);
                }
                narrow_gradients.push((*layer, delta, dz));
            }
        }
        let Some((mode, dx)) = dx else { return };
        let [_, features] = backend.shape(&layers[0].layer.weight);
        backend.resize(dx, rows * features);
        let mut pairs: Vec<_> = layers.iter().map(|l| (l.dy, &l.layer.weight)).collect();
        let undropped = narrow_gradients.iter().filter(|(layer, ..)| layer.mask(pass).is_none());
        pairs.extend(undropped.map(|(_, delta, dz)| (dz, &delta.a)));
        backend.linears_dx(&pairs, rows, mode, dx);
        for (layer, delta, dz) in &narrow_gradients {
            let Some((p, key)) = layer.mask(pass) else { continue };
            let [mut dense, mut dropped] = [backend.zeros(rows * features), backend.zeros(rows * features)];
            backend.linear_dx(dz, &delta.a, rows, Accumulate::Write, &mut dense);
            backend.dropout(&dense, p, key, &mut dropped);
            backend.add(dx, &dropped);
        }
    }
}

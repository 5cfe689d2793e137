//! One transformer block: attention and gated MLP, each with its residual sum; forward, and backward beside it.
//!
//! `middle = h + A(h)`, `out = middle + M(middle)`, where a half is `f(norm(x))` or, in OLMo2, `norm(f(x))`. Backward goes
//! the other way and adds to the residual gradient: `dh += ∂A/∂hᵀ · dh` after `dh += ∂M/∂middleᵀ · dh`.

use super::{
    Architecture, Keep, Kind, NormPlacement, ParameterId, Part, Pass, QkNorm, Sink,
    attention::{AttentionScratch, AttentionState, SelfAttention},
    linear::{Delta, Linear},
    mlp::{GatedMlp, MlpState},
    norm::Norm,
    tensors::BlockTensors,
};
use midblock_kernels::{Accumulate, Backend};

/// A block on a device.
pub struct Block<B: Backend> {
    placement: NormPlacement,
    attention: SelfAttention<B>,
    mlp: GatedMlp<B>,
    /// Before (or after) attention, (D).
    attention_norm: Norm<B>,
    /// Before (or after) the MLP, (D).
    mlp_norm: Norm<B>,
}

/// What a block's backward reads beside the block's input. Inference reuses one for all blocks.
pub struct Interior<B: Backend> {
    attention: AttentionState<B>,
    mlp: MlpState<B>,
    /// The residual stream between the halves, (rows, D).
    middle: B::Buffer,
    /// What the halves' norms read where they come after, (rows, D) each.
    unnormed: [B::Buffer; 2],
}

/// Buffers that live no longer than a block's forward or backward, reused from block to block and batch to batch.
pub struct Scratch<B: Backend> {
    /// Normed input, or an output before its norm, (rows, D).
    x: B::Buffer,
    /// (rows, D)
    dx: B::Buffer,
    /// What `down` multiplies, and its gradient, (rows, F).
    product: B::Buffer,
    d_product: B::Buffer,
    attention: AttentionScratch<B>,
}

/// Keys and values of a block, of tokens that later ones attend to.
pub struct KeysValues<B: Backend> {
    /// Rotated, (rows, K·E)
    pub keys: B::Buffer,
    /// (rows, K·E)
    pub values: B::Buffer,
}

/// A trainable part of a model.
pub enum Parameter<'a, B: Backend> {
    /// (out, in)
    Matrix(&'a mut B::Matrix),
    /// (n)
    Vector(&'a mut B::Buffer),
}

impl<B: Backend> Interior<B> {
    /// Empty buffers; they grow with the first batch.
    pub fn new(backend: &B) -> Self {
        let empty = || backend.zeros(0);
        Self {
            attention: AttentionState::new(backend),
            mlp: MlpState::new(backend),
            middle: empty(),
            unnormed: [empty(), empty()],
        }
    }

    /// Bytes of f32 that are kept for a batch of `rows` rows, without adapters' narrow products.
    pub fn bytes(architecture: &Architecture, rows: usize) -> usize {
        let unnormed = if architecture.norms == NormPlacement::After {
            2
        } else {
            0
        };
        let width = AttentionState::<B>::width(architecture)
            + MlpState::<B>::width(architecture)
            + (1 + unnormed) * architecture.hidden;
        4 * rows * width
    }
}

impl<B: Backend> Scratch<B> {
    /// Empty buffers; they grow with the first batch.
    pub fn new(backend: &B) -> Self {
        let empty = || backend.zeros(0);
        Self {
            x: empty(),
            dx: empty(),
            product: empty(),
            d_product: empty(),
            attention: AttentionScratch::new(backend),
        }
    }

    /// Bytes of f32 that inference on `rows` rows needs, an [`Interior`] without what is only kept for backward included.
    pub fn inference_bytes(architecture: &Architecture, rows: usize) -> usize {
        4 * rows * (AttentionState::<B>::width(architecture) + MlpState::<B>::width(architecture) + architecture.hidden)
    }

    /// Bytes of f32 that backward on `rows` rows needs beside the interiors.
    pub fn backward_bytes(architecture: &Architecture, rows: usize) -> usize {
        let a = architecture;
        4 * rows * (2 * a.hidden + 2 * a.ffn + AttentionState::<B>::width(a))
    }
}

impl<B: Backend> Block<B> {
    /// Hands a block's tensors to the device.
    pub fn new(backend: &B, architecture: &Architecture, tensors: &BlockTensors<'_>) -> Self {
        let block = tensors.index;
        let linear = |i: usize| Linear::new(backend, block, Part::LINEARS[i], &tensors.linears[i]);
        let norm = |i: usize| {
            let id = ParameterId::Block {
                block,
                part: Part::NORMS[i],
                kind: Kind::Weight,
            };
            Norm::new(id, backend.upload(&tensors.norms[i].to_f32()), architecture.norm_eps)
        };
        let qk_norms = (architecture.qk_norm != QkNorm::None).then(|| [norm(2), norm(3)]);
        let projections = [0, 1, 2, 3].map(linear);
        Self {
            placement: architecture.norms,
            attention: SelfAttention::new(architecture, architecture.windows[block], projections, qk_norms),
            mlp: GatedMlp::new(architecture.activation, [4, 5, 6].map(linear)),
            attention_norm: norm(0),
            mlp_norm: norm(1),
        }
    }

    /// Replaces `hidden` (rows, D) by the block's output. With [`Keep::Interior`], `interior` is left as
    /// [`backward`](Self::backward) wants it.
    pub fn forward(
        &self,
        pass: &Pass<'_, B>,
        keep: Keep<'_, B>,
        hidden: &mut B::Buffer,
        interior: &mut Interior<B>,
        scratch: &mut Scratch<B>,
    ) {
        let backend = pass.backend;
        let Interior {
            attention,
            mlp,
            middle,
            unnormed: [attended, expanded],
        } = interior;
        let Scratch { x, product, .. } = scratch;
        let keeps = matches!(keep, Keep::Interior);
        match self.placement {
            NormPlacement::Before => {
                self.attention_norm.forward(backend, hidden, x);
                self.attention
                    .forward(pass, x, keep, attention, Accumulate::Add, hidden);
                if keeps {
                    backend.resize(middle, backend.len(hidden));
                    backend.copy(hidden, middle);
                }
                self.mlp_norm.forward(backend, hidden, x);
                self.mlp.forward(pass, x, keeps, mlp, product, Accumulate::Add, hidden);
            }
            NormPlacement::After => {
                self.attention
                    .forward(pass, hidden, keep, attention, Accumulate::Write, attended);
                self.attention_norm.forward(backend, attended, x);
                backend.add(hidden, x);
                if keeps {
                    backend.resize(middle, backend.len(hidden));
                    backend.copy(hidden, middle);
                }
                self.mlp
                    .forward(pass, hidden, keeps, mlp, product, Accumulate::Write, expanded);
                self.mlp_norm.forward(backend, expanded, x);
                backend.add(hidden, x);
            }
        }
    }

    /// Turns `dh`, the gradient with respect to the block's output, into that with respect to its input (rows, D), and
    /// hands what the sink wants to it. With `below` false nothing is wanted below this block: `dh` is unspecified
    /// afterwards, and no more is computed than the block's own parameters need. Uses up `interior`.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        pass: &Pass<'_, B>,
        input: &B::Buffer,
        interior: &mut Interior<B>,
        dh: &mut B::Buffer,
        below: bool,
        scratch: &mut Scratch<B>,
        sink: &mut impl Sink<B>,
    ) {
        let into_attention = below || self.attention.wanted(sink) || sink.wants(self.attention_norm.id());
        match self.placement {
            NormPlacement::Before => {
                self.mlp_backward_before(pass, interior, dh, into_attention, scratch, sink);
                if into_attention {
                    self.attention_backward_before(pass, input, interior, dh, below, scratch, sink);
                }
            }
            NormPlacement::After => {
                self.mlp_backward_after(pass, interior, dh, into_attention, scratch, sink);
                if into_attention {
                    self.attention_backward_after(pass, input, interior, dh, below, scratch, sink);
                }
            }
        }
    }

    fn mlp_backward_before(
        &self,
        pass: &Pass<'_, B>,
        interior: &mut Interior<B>,
        dh: &mut B::Buffer,
        below: bool,
        scratch: &mut Scratch<B>,
        sink: &mut impl Sink<B>,
    ) {
        let backend = pass.backend;
        let into_norm = below || sink.wants(self.mlp_norm.id());
        if !into_norm && !self.mlp.wanted(sink) {
            return;
        }
        let Interior { mlp, middle, .. } = interior;
        let Scratch {
            x,
            dx,
            product,
            d_product,
            ..
        } = scratch;
        let x = self.mlp.wants_input(sink).then(|| {
            self.mlp_norm.forward(backend, middle, x);
            &*x
        });
        let d_normed = into_norm.then_some((Accumulate::Write, &mut *dx));
        self.mlp
            .backward(pass, x, mlp, dh, d_normed, [product, d_product], sink);
        if into_norm {
            self.mlp_norm.backward(backend, middle, dx, Accumulate::Add, dh, sink);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn attention_backward_before(
        &self,
        pass: &Pass<'_, B>,
        input: &B::Buffer,
        interior: &mut Interior<B>,
        dh: &mut B::Buffer,
        below: bool,
        scratch: &mut Scratch<B>,
        sink: &mut impl Sink<B>,
    ) {
        let backend = pass.backend;
        let into_norm = below || sink.wants(self.attention_norm.id());
        let Scratch { x, dx, attention, .. } = scratch;
        let x = self.attention.wants_input(sink).then(|| {
            self.attention_norm.forward(backend, input, x);
            &*x
        });
        let d_normed = into_norm.then_some((Accumulate::Write, &mut *dx));
        self.attention
            .backward(pass, x, &interior.attention, dh, d_normed, attention, sink);
        if into_norm {
            self.attention_norm
                .backward(backend, input, dx, Accumulate::Add, dh, sink);
        }
    }

    fn mlp_backward_after(
        &self,
        pass: &Pass<'_, B>,
        interior: &mut Interior<B>,
        dh: &mut B::Buffer,
        below: bool,
        scratch: &mut Scratch<B>,
        sink: &mut impl Sink<B>,
    ) {
        let backend = pass.backend;
        let Interior {
            mlp,
            middle,
            unnormed: [_, expanded],
            ..
        } = interior;
        let Scratch {
            dx, product, d_product, ..
        } = scratch;
        if !below && !self.mlp.wanted(sink) && !sink.wants(self.mlp_norm.id()) {
            return;
        }
        backend.resize(dx, backend.len(dh));
        self.mlp_norm
            .backward(backend, expanded, dh, Accumulate::Write, dx, sink);
        let dh = below.then_some((Accumulate::Add, dh));
        self.mlp
            .backward(pass, Some(middle), mlp, dx, dh, [product, d_product], sink);
    }

    #[allow(clippy::too_many_arguments)]
    fn attention_backward_after(
        &self,
        pass: &Pass<'_, B>,
        input: &B::Buffer,
        interior: &mut Interior<B>,
        dh: &mut B::Buffer,
        below: bool,
        scratch: &mut Scratch<B>,
        sink: &mut impl Sink<B>,
    ) {
        let backend = pass.backend;
        let [attended, _] = &interior.unnormed;
        let Scratch { dx, attention, .. } = scratch;
        backend.resize(dx, backend.len(dh));
        self.attention_norm
            .backward(backend, attended, dh, Accumulate::Write, dx, sink);
        let dh = below.then_some((Accumulate::Add, dh));
        self.attention
            .backward(pass, Some(input), &interior.attention, dx, dh, attention, sink);
    }

    /// The parameter of that part and kind; `None` if the block has none.
    pub fn parameter_mut(&mut self, part: Part, kind: Kind) -> Option<Parameter<'_, B>> {
        let norm = match part {
            Part::AttentionNorm => Some(&mut self.attention_norm),
            Part::MlpNorm => Some(&mut self.mlp_norm),
            Part::QNorm => self.attention.norms_mut().map(|[q, _]| q),
            Part::KNorm => self.attention.norms_mut().map(|[_, k]| k),
            _ => {
                let linear = self.linear_mut(part);
                return match kind {
                    Kind::Weight => Some(Parameter::Matrix(linear.weight_mut())),
                    Kind::Bias => linear.bias_mut().map(Parameter::Vector),
                    Kind::LoraA => linear.delta_mut().as_mut().map(|delta| Parameter::Matrix(&mut delta.a)),
                    Kind::LoraB => linear.delta_mut().as_mut().map(|delta| Parameter::Matrix(&mut delta.b)),
                };
            }
        };
        norm.map(|norm| Parameter::Vector(norm.weight_mut()))
    }

    /// Puts a LoRA pair on a linear layer, in place of one it may have.
    ///
    /// # Panics
    /// If `part` is a norm.
    pub(super) fn adapt(&mut self, part: Part, delta: Delta<B>) {
        *self.linear_mut(part).delta_mut() = Some(delta);
    }

    fn linear_mut(&mut self, part: Part) -> &mut Linear<B> {
        let [q, k, v, o] = self.attention.linears_mut();
        let [gate, up, down] = self.mlp.linears_mut();
        match part {
            Part::Q => q,
            Part::K => k,
            Part::V => v,
            Part::O => o,
            Part::Gate => gate,
            Part::Up => up,
            Part::Down => down,
            norm => panic!("{norm:?} is no linear layer"),
        }
    }
}

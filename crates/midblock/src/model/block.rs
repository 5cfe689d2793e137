//! One transformer block: attention and gated MLP, each with its residual sum.

use super::{Architecture, Batch, Linear, NormPlacement, QkNorm, tensors::BlockTensors};
use midblock_kernels::{Accumulate, Activation, Attention, Backend, RopeTable};

/// A block on a device.
pub struct Block<B: Backend> {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    window: Option<usize>,
    activation: Activation,
    eps: f32,
    placement: NormPlacement,
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    o: Linear<B>,
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
    /// Before (or after) attention, (D).
    attention_norm: B::Buffer,
    /// Before (or after) the MLP, (D).
    mlp_norm: B::Buffer,
    /// Norms of queries and keys: (E) each per head, or (H·E) and (K·E) over all heads.
    qk_norms: Option<[B::Buffer; 2]>,
}

/// Intermediate buffers of a block, reused from block to block and batch to batch.
pub struct Scratch<B: Backend> {
    /// Normed input, or an output before its norm, (rows, D).
    x: B::Buffer,
    /// (rows, H·E)
    q: B::Buffer,
    /// (rows, K·E)
    k: B::Buffer,
    /// (rows, K·E)
    v: B::Buffer,
    /// Attention result, or a second copy for norms, (rows, max(H·E, D)).
    y: B::Buffer,
    /// (rows, F)
    gate: B::Buffer,
    /// (rows, F)
    up: B::Buffer,
}

impl<B: Backend> Scratch<B> {
    /// Empty buffers; they grow with the first batch.
    pub fn new(backend: &B) -> Self {
        let empty = || backend.zeros(0);
        Self {
            x: empty(),
            q: empty(),
            k: empty(),
            v: empty(),
            y: empty(),
            gate: empty(),
            up: empty(),
        }
    }

    /// Bytes that a batch of `rows` rows needs.
    pub fn bytes(architecture: &Architecture, rows: usize) -> usize {
        let a = architecture;
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        4 * rows * (a.hidden + q + 2 * kv + q.max(a.hidden) + 2 * a.ffn)
    }
}

impl<B: Backend> Block<B> {
    /// Hands a block's tensors to the device.
    pub fn new(backend: &B, architecture: &Architecture, tensors: &BlockTensors<'_>) -> Self {
        let [q, k, v, o, gate, up, down] = tensors.linears.as_slice() else {
            panic!(
                "invariant: a block has seven linear layers, got {}",
                tensors.linears.len()
            )
        };
        let linear = |tensors| Linear::new(backend, tensors);
        let norm = |i: usize| backend.upload(&tensors.norms[i].to_f32());
        Self {
            heads: architecture.heads,
            kv_heads: architecture.kv_heads,
            head_dim: architecture.head_dim,
            ffn: architecture.ffn,
            window: architecture.windows[tensors.index],
            activation: architecture.activation,
            eps: architecture.norm_eps,
            placement: architecture.norms,
            q: linear(q),
            k: linear(k),
            v: linear(v),
            o: linear(o),
            gate: linear(gate),
            up: linear(up),
            down: linear(down),
            attention_norm: norm(0),
            mlp_norm: norm(1),
            qk_norms: (architecture.qk_norm != QkNorm::None).then(|| [norm(2), norm(3)]),
        }
    }

    /// Replaces `hidden` (rows, D) by the block's output.
    pub fn forward(
        &self,
        backend: &B,
        batch: &Batch,
        rope: &RopeTable,
        hidden: &mut B::Buffer,
        scratch: &mut Scratch<B>,
    ) {
        backend.resize(&mut scratch.x, backend.len(hidden));
        match self.placement {
            NormPlacement::Before => {
                backend.rms_norm(hidden, &self.attention_norm, self.eps, &mut scratch.x);
                self.attend(backend, batch, rope, None, scratch);
                self.o
                    .forward(backend, &scratch.y, batch.rows(), Accumulate::Add, hidden);
                backend.rms_norm(hidden, &self.mlp_norm, self.eps, &mut scratch.x);
                self.expand(backend, batch.rows(), None, scratch);
                self.down
                    .forward(backend, &scratch.gate, batch.rows(), Accumulate::Add, hidden);
            }
            NormPlacement::After => {
                self.attend(backend, batch, rope, Some(hidden), scratch);
                self.o
                    .forward(backend, &scratch.y, batch.rows(), Accumulate::Write, &mut scratch.x);
                self.add_normed(backend, &self.attention_norm, hidden, scratch);
                self.expand(backend, batch.rows(), Some(hidden), scratch);
                self.down
                    .forward(backend, &scratch.gate, batch.rows(), Accumulate::Write, &mut scratch.x);
                self.add_normed(backend, &self.mlp_norm, hidden, scratch);
            }
        }
    }

    /// Attention of `input` (or the normed states in `scratch.x`) before the output projection → `scratch.y` (rows, H·E).
    fn attend(
        &self,
        backend: &B,
        batch: &Batch,
        rope: &RopeTable,
        input: Option<&B::Buffer>,
        scratch: &mut Scratch<B>,
    ) {
        let (rows, e) = (batch.rows(), self.head_dim);
        let Scratch { x, q, k, v, y, .. } = scratch;
        backend.resize(q, rows * self.heads * e);
        backend.resize(k, rows * self.kv_heads * e);
        backend.resize(v, rows * self.kv_heads * e);
        backend.resize(y, rows * self.heads * e);
        let x = input.unwrap_or(x);
        Linear::forward_all(backend, x, rows, &mut [(&self.q, q), (&self.k, k), (&self.v, v)]);
        if let Some([q_norm, k_norm]) = &self.qk_norms {
            backend.rms_norm(q, q_norm, self.eps, y);
            std::mem::swap(q, y);
            backend.resize(y, rows * self.kv_heads * e);
            backend.rms_norm(k, k_norm, self.eps, y);
            std::mem::swap(k, y);
            backend.resize(y, rows * self.heads * e);
        }
        backend.rope(q, rope, batch.positions(), self.heads);
        backend.rope(k, rope, batch.positions(), self.kv_heads);
        let shape = Attention {
            offsets: batch.offsets(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: e,
            scale: 1.0 / (e as f32).sqrt(),
            window: self.window,
        };
        backend.attention(&shape, q, k, v, y, None);
    }

    /// `act(gate) · up` of `input` (or of `scratch.x`) → `scratch.gate` (rows, F).
    fn expand(&self, backend: &B, rows: usize, input: Option<&B::Buffer>, scratch: &mut Scratch<B>) {
        let Scratch { x, gate, up, .. } = scratch;
        let x = input.unwrap_or(x);
        backend.resize(gate, rows * self.ffn);
        backend.resize(up, rows * self.ffn);
        Linear::forward_all(backend, x, rows, &mut [(&self.gate, gate), (&self.up, up)]);
        backend.gated(self.activation, gate, up);
    }

    /// `hidden += norm(scratch.x)`.
    fn add_normed(&self, backend: &B, norm: &B::Buffer, hidden: &mut B::Buffer, scratch: &mut Scratch<B>) {
        backend.resize(&mut scratch.y, backend.len(hidden));
        backend.rms_norm(&scratch.x, norm, self.eps, &mut scratch.y);
        backend.add(hidden, &scratch.y);
    }
}

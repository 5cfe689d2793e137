//! Causal self-attention with its projections: `o(softmax(scale · rope(q) rope(k)ᵀ) v)`.

use super::{
    Architecture, Keep, KeysValues, Pass, Sink,
    linear::{Backward, Linear, Narrow},
    norm::Norm,
};
use midblock_kernels::{Accumulate, Attention, AttentionForward, AttentionGradients, Backend};

/// The attention half of a block on a device.
pub(super) struct SelfAttention<B: Backend> {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    o: Linear<B>,
    /// Norms of queries and keys: per head (E), or over all heads (H·E) and (K·E).
    norms: Option<[Norm<B>; 2]>,
}

/// What attention's backward reads.
pub(super) struct AttentionState<B: Backend> {
    /// Queries and keys before their norms, (rows, H·E) and (rows, K·E); empty without norms.
    raw: [B::Buffer; 2],
    /// (rows, H·E), rotated
    q: B::Buffer,
    /// (rows, K·E), rotated
    k: B::Buffer,
    /// (rows, K·E)
    v: B::Buffer,
    /// Weighted means of values, (rows, H·E).
    mean: B::Buffer,
    /// (rows, H); empty unless kept.
    log_sums: B::Buffer,
    /// Keys and values [spread](crate::model::Batch::spread), (spread rows, K·E); empty without a common beginning.
    spread: [B::Buffer; 2],
    /// Of q, k, v and o.
    narrow: [Narrow<B>; 4],
}

impl<B: Backend> AttentionState<B> {
    pub(super) fn new(backend: &B) -> Self {
        let empty = || backend.zeros(0);
        Self {
            raw: [empty(), empty()],
            q: empty(),
            k: empty(),
            v: empty(),
            mean: empty(),
            log_sums: empty(),
            spread: [empty(), empty()],
            narrow: [empty(), empty(), empty(), empty()],
        }
    }

    /// Elements a row, without adapters.
    pub(super) fn width(architecture: &Architecture) -> usize {
        let a = architecture;
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let raw = if a.qk_norm == super::QkNorm::None { 0 } else { q + kv };
        raw + 2 * q + 2 * kv + a.heads
    }
}

/// Gradients inside of attention, reused from block to block.
pub(super) struct AttentionScratch<B: Backend> {
    mean: B::Buffer,
    q: B::Buffer,
    k: B::Buffer,
    v: B::Buffer,
    raw: [B::Buffer; 2],
    /// Gradients of spread keys and values.
    spread: [B::Buffer; 2],
    /// Of the common beginning's, (trunk, K·E): the sum, and what is added to it.
    trunk: [B::Buffer; 2],
}

impl<B: Backend> AttentionScratch<B> {
    pub(super) fn new(backend: &B) -> Self {
        let empty = || backend.zeros(0);
        Self {
            mean: empty(),
            q: empty(),
            k: empty(),
            v: empty(),
            raw: [empty(), empty()],
            spread: [empty(), empty()],
            trunk: [empty(), empty()],
        }
    }
}

impl<B: Backend> SelfAttention<B> {
    pub(super) fn new(
        architecture: &Architecture,
        window: Option<usize>,
        [q, k, v, o]: [Linear<B>; 4],
        norms: Option<[Norm<B>; 2]>,
    ) -> Self {
        Self {
            heads: architecture.heads,
            kv_heads: architecture.kv_heads,
            head_dim: architecture.head_dim,
            window,
            q,
            k,
            v,
            o,
            norms,
        }
    }

    pub(super) fn linears_mut(&mut self) -> [&mut Linear<B>; 4] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o]
    }

    pub(super) fn norms_mut(&mut self) -> Option<&mut [Norm<B>; 2]> {
        self.norms.as_mut()
    }

    fn shape<'a>(&self, pass: &'a Pass<'_, B>) -> Attention<'a> {
        Attention {
            offsets: pass.batch.offsets(),
            keys: pass.batch.keys(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: self.window,
        }
    }

    /// `out (+)=` attention of x (rows, D).
    pub(super) fn forward(
        &self,
        pass: &Pass<'_, B>,
        x: &B::Buffer,
        keep: Keep<'_, B>,
        state: &mut AttentionState<B>,
        mode: Accumulate,
        out: &mut B::Buffer,
    ) {
        let (backend, rows) = (pass.backend, pass.rows());
        let AttentionState {
            raw: [raw_q, raw_k],
            q,
            k,
            v,
            mean,
            log_sums,
            spread,
            narrow: [narrow_q, narrow_k, narrow_v, narrow_o],
        } = state;
        let [first_q, first_k] = match self.norms {
            Some(_) => [&mut *raw_q, &mut *raw_k],
            None => [&mut *q, &mut *k],
        };
        let mut layers = [
            (&self.q, first_q, narrow_q),
            (&self.k, first_k, narrow_k),
            (&self.v, v, narrow_v),
        ];
        Linear::forward_all(pass, x, &mut layers);
        if let Some([q_norm, k_norm]) = &self.norms {
            q_norm.forward(backend, raw_q, q);
            k_norm.forward(backend, raw_k, k);
        }
        backend.rope(q, pass.rope, pass.batch.positions(), self.heads);
        backend.rope(k, pass.rope, pass.batch.positions(), self.kv_heads);
        backend.resize(mean, rows * self.heads * self.head_dim);
        let (k, v) = self.spread(pass, [k, v], spread);
        match keep {
            Keep::Nothing => backend.attention(&self.shape(pass), q, k, v, mean, None),
            Keep::Interior => {
                backend.resize(log_sums, rows * self.heads);
                backend.attention(&self.shape(pass), q, k, v, mean, Some(log_sums));
            }
            Keep::Keys(KeysValues { keys, values }) => {
                assert!(pass.batch.spread().is_empty(), "a cache holds sequences on their own");
                for (new, all) in [(k, &mut *keys), (v, &mut *values)] {
                    backend.scatter_rows(new, pass.batch.cache_rows(), self.kv_heads * self.head_dim, all);
                }
                backend.attention(&self.shape(pass), q, keys, values, mean, None);
            }
        }
        self.o.forward(pass, mean, mode, out, narrow_o);
    }

    /// Keys and values as attention reads them: those of a common beginning before those of each sequence.
    fn spread<'s>(
        &self,
        pass: &Pass<'_, B>,
        own: [&'s mut B::Buffer; 2],
        spread: &'s mut [B::Buffer; 2],
    ) -> (&'s B::Buffer, &'s B::Buffer) {
        let (rows, width) = (pass.batch.spread(), self.kv_heads * self.head_dim);
        let [own_k, own_v] = own;
        if rows.is_empty() {
            return (own_k, own_v);
        }
        let [k, v] = spread;
        for (own, all) in [(own_k, &mut *k), (own_v, &mut *v)] {
            pass.backend.resize(all, rows.len() * width);
            pass.backend.gather_rows(own, rows, width, all);
        }
        (k, v)
    }

    /// The gradients of keys or values from those of spread ones: the common beginning's is the sum of what each sequence has made.
    fn gather(&self, pass: &Pass<'_, B>, spread: &B::Buffer, [sum, part]: &mut [B::Buffer; 2], out: &mut B::Buffer) {
        let (backend, width, trunk) = (pass.backend, self.kv_heads * self.head_dim, pass.batch.trunk());
        backend.gather_rows(spread, pass.batch.own_keys(), width, out);
        let beginning: Vec<usize> = (0..trunk).collect();
        for buffer in [&mut *sum, &mut *part] {
            backend.resize(buffer, trunk * width);
        }
        backend.gather_rows(out, &beginning, width, sum);
        for keys in pass.batch.keys().into_iter().flatten().skip(1) {
            let rows: Vec<usize> = (keys.start..keys.start + trunk).collect();
            backend.gather_rows(spread, &rows, width, part);
            backend.add(sum, part);
        }
        backend.scatter_rows(sum, &beginning, width, out);
    }

    /// Whether the sink wants any parameter of attention.
    pub(super) fn wanted(&self, sink: &impl Sink<B>) -> bool {
        let norms = self.norms.iter().flatten();
        [&self.q, &self.k, &self.v, &self.o].into_iter().any(|l| l.wanted(sink))
            || norms.into_iter().any(|norm| sink.wants(norm.id()))
    }

    /// Whether the sink wants something that is made of x.
    pub(super) fn wants_input(&self, sink: &impl Sink<B>) -> bool {
        [&self.q, &self.k, &self.v].into_iter().any(|l| l.wants_input(sink))
    }

    /// The gradients of rotated queries, of rotated keys and of values from that of their weighted means.
    fn mix_backward(&self, pass: &Pass<'_, B>, state: &AttentionState<B>, scratch: &mut AttentionScratch<B>) {
        let (backend, spread) = (pass.backend, pass.batch.spread().len());
        let AttentionScratch {
            mean,
            q,
            k,
            v,
            spread: [spread_k, spread_v],
            trunk,
            ..
        } = scratch;
        let forward = |k, v| AttentionForward {
            q: &state.q,
            k,
            v,
            out: &state.mean,
            log_sums: &state.log_sums,
        };
        if spread == 0 {
            let gradients = AttentionGradients { q, k, v };
            backend.attention_backward(&self.shape(pass), forward(&state.k, &state.v), mean, gradients);
            return;
        }
        for buffer in [&mut *spread_k, &mut *spread_v] {
            backend.resize(buffer, spread * self.kv_heads * self.head_dim);
        }
        let gradients = AttentionGradients {
            q,
            k: spread_k,
            v: spread_v,
        };
        let [all_k, all_v] = &state.spread;
        backend.attention_backward(&self.shape(pass), forward(all_k, all_v), mean, gradients);
        self.gather(pass, spread_k, trunk, k);
        self.gather(pass, spread_v, trunk, v);
    }

    /// `dx (+)=` the gradient with respect to x; dy (rows, D). `x` as in [`Linear::backward`].
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward(
        &self,
        pass: &Pass<'_, B>,
        x: Option<&B::Buffer>,
        state: &AttentionState<B>,
        dy: &B::Buffer,
        dx: Option<(Accumulate, &mut B::Buffer)>,
        scratch: &mut AttentionScratch<B>,
        sink: &mut impl Sink<B>,
    ) {
        let (backend, rows) = (pass.backend, pass.rows());
        let [narrow_q, narrow_k, narrow_v, narrow_o] = &state.narrow;
        let output = Backward {
            layer: &self.o,
            narrow: narrow_o,
            dy,
        };
        let below = dx.is_some()
            || self.norms.iter().flatten().any(|norm| sink.wants(norm.id()))
            || [&self.q, &self.k, &self.v].into_iter().any(|l| l.wanted(sink));
        let d_mean = below.then_some((Accumulate::Write, &mut scratch.mean));
        Linear::backward(pass, &[output], Some(&state.mean), d_mean, sink);
        if !below {
            return;
        }
        for (buffer, heads) in [
            (&mut scratch.q, self.heads),
            (&mut scratch.k, self.kv_heads),
            (&mut scratch.v, self.kv_heads),
        ] {
            backend.resize(buffer, rows * heads * self.head_dim);
        }
        self.mix_backward(pass, state, scratch);
        backend.rope_backward(&mut scratch.q, pass.rope, pass.batch.positions(), self.heads);
        backend.rope_backward(&mut scratch.k, pass.rope, pass.batch.positions(), self.kv_heads);
        let AttentionScratch { q, k, v, raw, .. } = scratch;
        if let Some(norms) = &self.norms {
            for ((norm, x), (dy, dx)) in norms
                .iter()
                .zip(&state.raw)
                .zip([&mut *q, &mut *k].into_iter().zip(raw))
            {
                backend.resize(dx, backend.len(dy));
                norm.backward(backend, x, dy, Accumulate::Write, dx, sink);
                std::mem::swap(dy, dx);
            }
        }
        let layer = |layer, narrow, dy| Backward { layer, narrow, dy };
        let layers = [
            layer(&self.q, narrow_q, q),
            layer(&self.k, narrow_k, k),
            layer(&self.v, narrow_v, v),
        ];
        Linear::backward(pass, &layers, x, dx, sink);
    }
}

//! What operations take besides buffers: modes, shapes and hyperparameters.

use std::ops::Range;

/// What an operation does with the previous content of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// Overwrite it.
    Write,
    /// Add to it.
    Add,
}

/// The gate's non-linearity in a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z · σ(z)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// Cosines and sines of rotary embeddings: row `p`, column `j` belongs to position `p` and frequency `j`, `0 ≤ j < E/2`.
/// Made by the model (frequency scaling is its business), with an attention factor already multiplied in.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// (positions, E/2)
    pub cos: Vec<f32>,
    /// (positions, E/2)
    pub sin: Vec<f32>,
    /// E/2.
    pub half_dim: usize,
}

/// One causal self-attention over a ragged batch.
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    /// Row at which each sequence starts, and the total number of rows last; sequences attend within themselves only.
    pub offsets: &'a [usize],
    /// Rows of k and v where each sequence's keys lie, if these are kept beside keys of tokens before: the queries are then the
    /// last of them. `None`: k and v have the queries' rows; backward wants it so.
    pub keys: Option<&'a [Range<usize>]>,
    /// H.
    pub heads: usize,
    /// K; divides H; query head h reads kv head `h / (H/K)`.
    pub kv_heads: usize,
    /// E.
    pub head_dim: usize,
    /// Multiplies q·k before the softmax (usually 1/√E).
    pub scale: f32,
    /// With `Some(w)` a position sees itself and the `w - 1` before it; `None` sees all before it.
    pub window: Option<usize>,
}

impl Attention<'_> {
    /// Rows of each sequence's queries, and of its keys.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let queries = self.offsets.windows(2).map(|bounds| bounds[0]..bounds[1]);
        queries
            .enumerate()
            .map(|(i, queries)| (queries.clone(), self.keys.map_or(queries, |keys| keys[i].clone())))
    }
}

/// What an [attention](crate::Backend::attention) read and left.
#[derive(Debug)]
pub struct AttentionForward<'a, Buffer> {
    /// (rows, H·E)
    pub q: &'a Buffer,
    /// (rows, K·E)
    pub k: &'a Buffer,
    /// (rows, K·E)
    pub v: &'a Buffer,
    /// (rows, H·E)
    pub out: &'a Buffer,
    /// (rows, H)
    pub log_sums: &'a Buffer,
}

/// Where the gradients of an [attention](crate::Backend::attention) go; overwritten.
#[derive(Debug)]
pub struct AttentionGradients<'a, Buffer> {
    /// (rows, H·E)
    pub q: &'a mut Buffer,
    /// (rows, K·E)
    pub k: &'a mut Buffer,
    /// (rows, K·E)
    pub v: &'a mut Buffer,
}

/// What a row of logits l says of the next token, as [`predictions`](crate::Backend::predictions) finds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// −ln p of the target, its cross entropy: `ln Σ_v e^{l_v} − l_target`.
    pub nats: f64,
    /// The token with the largest logit, the first of equal ones.
    pub top: u32,
    /// −ln p of that token: never above `nats`, and equal to it where the target is as likely.
    pub top_nats: f64,
}

/// The weight of a row's loss, from its index and its loss in nats.
pub type RowWeight<'a> = dyn Fn(usize, f64) -> f64 + Sync + 'a;

/// What a row of logits says of the next token, and how far it is from another row, as
/// [`divergence_backward`](crate::Backend::divergence_backward) finds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// −ln p of the target.
    pub nats: f64,
    /// KL(p ‖ q) = Σ_v p_v (ln p_v − ln q_v), in nats; at least 0 but for rounding.
    pub divergence: f64,
}

/// One step of AdamW: with `g = gradient_scale · gradient`,
/// `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, `θ ← θ (1 − lr · decay) − lr · m̂ / (√v̂ + ε)`,
/// `m̂ = m / (1 − β₁ᵗ)`, `v̂ = v / (1 − β₂ᵗ)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε.
    pub eps: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// t, from 1.
    pub t: u64,
    /// Multiplies the gradient first: 1, or less where the norm is clipped.
    pub gradient_scale: f64,
}

/// A tuned matrix in training: its values and moments, (out, in) each.
#[derive(Debug)]
pub struct TunedState<'a, Buffer> {
    /// T.
    pub weights: &'a mut Buffer,
    /// AdamW's m.
    pub first: &'a mut Buffer,
    /// AdamW's v.
    pub second: &'a mut Buffer,
}

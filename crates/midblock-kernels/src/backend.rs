//! The operations a decoder is made of.

use crate::StoredMatrix;

/// f32 or f64, for moving values between host and device without losing those a device holds in f64.
pub trait Real: Copy + Default + Send + Sync + 'static {
    /// Rounds to this type.
    fn from_f64(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
}

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

/// A device and its operations. Buffers are flat, contiguous and real; shapes are given by the caller and checked.
///
/// Results do not depend on how sequences are batched: a row's value is the same bits alone or among others.
pub trait Backend: Send + Sync {
    /// Activations and small parameters on the device.
    type Buffer: Send + Sync;
    /// A frozen matrix in its storage format, ready to be multiplied.
    type Matrix: Send + Sync;

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Self::Buffer;
    /// Host to device.
    fn upload<R: Real>(&self, values: &[R]) -> Self::Buffer;
    /// Overwrites `buffer[start..start + values.len()]`.
    fn write<R: Real>(&self, buffer: &mut Self::Buffer, start: usize, values: &[R]);
    /// Copies `buffer[start..start + out.len()]` to the host.
    fn read<R: Real>(&self, buffer: &Self::Buffer, start: usize, out: &mut [R]);
    /// Changes the number of elements; the content is unspecified afterwards. Shrinking and growing back allocates nothing.
    fn resize(&self, buffer: &mut Self::Buffer, len: usize);
    /// Number of elements.
    fn len(&self, buffer: &Self::Buffer) -> usize;
    /// Makes a stored matrix usable. On the CPU this copies nothing.
    fn matrix(&self, stored: StoredMatrix) -> Self::Matrix;

    /// `out[i] = table[ids[i]]`, (rows, D). Ids are below the table's rows.
    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Buffer);

    /// `out (+)= x · Wᵀ`: x (rows, in), W (out, in), out (rows, out).
    fn linear(&self, x: &Self::Buffer, w: &Self::Matrix, rows: usize, mode: Accumulate, out: &mut Self::Buffer);

    /// Several products with the same x, such as q, k and v: as [`linear`](Self::linear) for each pair.
    fn linears(
        &self,
        x: &Self::Buffer,
        rows: usize,
        mode: Accumulate,
        pairs: &mut [(&Self::Matrix, &mut Self::Buffer)],
    ) {
        for (w, out) in pairs {
            self.linear(x, w, rows, mode, out);
        }
    }

    /// `x[i, :] += bias`, x (rows, len(bias)).
    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Buffer);

    /// `out[i, :] = x[i, :] / √(mean(x[i, :]²) + eps) · weight`, groups of `len(weight)` elements: D for a block's norm, E for a per-head norm.
    fn rms_norm(&self, x: &Self::Buffer, weight: &Self::Buffer, eps: f32, out: &mut Self::Buffer);

    /// Rotates pairs `(j, j + E/2)` of every head of every row in place (the half-split convention of HF); x (rows, heads · E).
    fn rope(&self, x: &mut Self::Buffer, table: &RopeTable, positions: &[u32], heads: usize);

    /// Softmax attention: q (rows, H·E), k and v (rows, K·E), out (rows, H·E).
    fn attention(
        &self,
        shape: &Attention<'_>,
        q: &Self::Buffer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        out: &mut Self::Buffer,
    );

    /// `gate[i] = act(gate[i]) · up[i]`.
    fn gated(&self, activation: Activation, gate: &mut Self::Buffer, up: &Self::Buffer);

    /// `x[i] += y[i]`.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer);

    /// `x[i] *= factor`.
    fn scale(&self, x: &mut Self::Buffer, factor: f32);

    /// Cross entropy in nats of `softmax(x · Wᵀ)` against `targets`, one value a row; x (rows, D), W (V, D).
    /// Works through the rows in chunks: the logits of all rows never exist at once.
    fn cross_entropy(&self, x: &Self::Buffer, head: &Self::Matrix, targets: &[u32]) -> Vec<f64>;
}

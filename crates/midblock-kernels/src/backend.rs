//! The operations a decoder is made of.

use crate::{
    Accumulate, Activation, AdamW, Attention, AttentionForward, AttentionGradients, Divergence, Prediction, RopeTable,
    RowWeight, StoredMatrix, TunedState,
};

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

/// A device and its operations. Buffers are flat, contiguous and real; shapes are given by the caller and checked.
///
/// Results do not depend on how sequences are batched: a row's value is the same bits alone or among others.
pub trait Backend: Send + Sync {
    /// Activations and small parameters on the device.
    type Buffer: Send + Sync;
    /// A weight matrix ready to be multiplied: frozen in its storage format, or trained, in the backend's arithmetic.
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
    /// Sets every element to zero.
    fn clear(&self, x: &mut Self::Buffer);
    /// `out = x`.
    fn copy(&self, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Makes a stored matrix usable. On the CPU this copies nothing.
    fn matrix(&self, stored: StoredMatrix) -> Self::Matrix;
    /// A matrix of the given values, (out, in) row-major, that [`values_mut`](Self::values_mut) can change.
    fn trained(&self, shape: [usize; 2], values: Self::Buffer) -> Self::Matrix;
    /// `(out, in)`.
    fn shape(&self, matrix: &Self::Matrix) -> [usize; 2];
    /// The values of a trained matrix; `None` if it is frozen.
    fn values<'a>(&self, matrix: &'a Self::Matrix) -> Option<&'a Self::Buffer>;
    /// The values of a trained matrix, to be changed; `None` if it is frozen.
    fn values_mut<'a>(&self, matrix: &'a mut Self::Matrix) -> Option<&'a mut Self::Buffer>;

    /// `out[i] = table[ids[i]]`, (rows, D). Ids are below the table's rows.
    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Buffer);

    /// Gradient of [`embed`](Self::embed): `d_table[ids[i]] += d_out[i]`, d_table (V, D), rows in order.
    fn embed_backward(&self, ids: &[u32], d_out: &Self::Buffer, d_table: &mut Self::Buffer);

    /// `out[i] = x[rows[i]]`, rows of `width` elements.
    fn gather_rows(&self, x: &Self::Buffer, rows: &[usize], width: usize, out: &mut Self::Buffer);

    /// `out[rows[i]] = x[i]`, other rows unchanged; rows of `width` elements, each named at most once.
    fn scatter_rows(&self, x: &Self::Buffer, rows: &[usize], width: usize, out: &mut Self::Buffer);

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

    /// [`linears`](Self::linears) for the few rows of a decoding step, where reading the matrices takes longest. Sums may be made
    /// in another order than there; a row's bits are the same whatever rows it is with here.
    fn decode_linears(
        &self,
        x: &Self::Buffer,
        rows: usize,
        mode: Accumulate,
        pairs: &mut [(&Self::Matrix, &mut Self::Buffer)],
    ) {
        self.linears(x, rows, mode, pairs);
    }

    /// Gradient of a product with respect to x: `dx (+)= dy · W`; dy (rows, out), W (out, in), dx (rows, in).
    fn linear_dx(&self, dy: &Self::Buffer, w: &Self::Matrix, rows: usize, mode: Accumulate, dx: &mut Self::Buffer);

    /// `dx (+)= Σ dy_i · W_i` of layers that share x, such as q, k and v.
    fn linears_dx(
        &self,
        pairs: &[(&Self::Buffer, &Self::Matrix)],
        rows: usize,
        mode: Accumulate,
        dx: &mut Self::Buffer,
    ) {
        for (i, (dy, w)) in pairs.iter().enumerate() {
            let mode = if i == 0 { mode } else { Accumulate::Add };
            self.linear_dx(dy, w, rows, mode, dx);
        }
    }

    /// Gradient of a product with respect to W: `dw (+)= dyᵀ · x`; dy (rows, out), x (rows, in), dw (out, in).
    fn linear_dw(&self, dy: &Self::Buffer, x: &Self::Buffer, rows: usize, mode: Accumulate, dw: &mut Self::Buffer);

    /// `x[i, :] += bias`, x (rows, len(bias)).
    fn add_bias(&self, x: &mut Self::Buffer, bias: &Self::Buffer);

    /// Gradient of [`add_bias`](Self::add_bias): `d_bias += Σ_i dy[i, :]`.
    fn add_bias_backward(&self, dy: &Self::Buffer, d_bias: &mut Self::Buffer);

    /// `out[i, :] = x[i, :] / √(mean(x[i, :]²) + eps) · weight`, groups of `len(weight)` elements: D for a block's norm, E for a per-head norm.
    fn rms_norm(&self, x: &Self::Buffer, weight: &Self::Buffer, eps: f32, out: &mut Self::Buffer);

    /// Gradient of [`rms_norm`](Self::rms_norm). With `r = 1/√(mean(x²) + eps)` and `g = dy · weight` per group of n:
    /// `dx (+)= r · g − x · r³ · Σ(g · x) / n`, and `d_weight += Σ_i dy_i · x_i · r_i` if it is wanted.
    #[allow(clippy::too_many_arguments)]
    fn rms_norm_backward(
        &self,
        x: &Self::Buffer,
        weight: &Self::Buffer,
        eps: f32,
        dy: &Self::Buffer,
        mode: Accumulate,
        dx: &mut Self::Buffer,
        d_weight: Option<&mut Self::Buffer>,
    );

    /// Rotates pairs `(j, j + E/2)` of every head of every row in place (the half-split convention of HF); x (rows, heads · E).
    fn rope(&self, x: &mut Self::Buffer, table: &RopeTable, positions: &[u32], heads: usize);

    /// Gradient of [`rope`](Self::rope), in place: the rotation's transpose.
    fn rope_backward(&self, dx: &mut Self::Buffer, table: &RopeTable, positions: &[u32], heads: usize);

    /// Softmax attention: q (rows, H·E), k and v (rows, or rows of a cache, K·E), out (rows, H·E). With `log_sums` (rows, H), each query's
    /// `ln Σ_j e^{scale · q · k_j}` is left there for the backward pass.
    fn attention(
        &self,
        shape: &Attention<'_>,
        q: &Self::Buffer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        out: &mut Self::Buffer,
        log_sums: Option<&mut Self::Buffer>,
    );

    /// Gradient of [`attention`](Self::attention) from what forward left: probabilities are made again from `log_sums`.
    fn attention_backward(
        &self,
        shape: &Attention<'_>,
        forward: AttentionForward<'_, Self::Buffer>,
        d_out: &Self::Buffer,
        gradients: AttentionGradients<'_, Self::Buffer>,
    );

    /// `gate[i] = act(gate[i]) · up[i]`.
    fn gated(&self, activation: Activation, gate: &mut Self::Buffer, up: &Self::Buffer);

    /// [`gated`](Self::gated) that keeps its inputs: `out[i] = act(gate[i]) · up[i]`.
    fn gated_to(&self, activation: Activation, gate: &Self::Buffer, up: &Self::Buffer, out: &mut Self::Buffer);

    /// Gradient of [`gated`](Self::gated), in place of its inputs: `gate ← dy · up · act′(gate)`, `up ← dy · act(gate)`.
    fn gated_backward(&self, activation: Activation, dy: &Self::Buffer, gate: &mut Self::Buffer, up: &mut Self::Buffer);

    /// `x[i] += y[i]`.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer);

    /// `x[i] *= factor`.
    fn scale(&self, x: &mut Self::Buffer, factor: f32);

    /// What `softmax(x · Wᵀ)` says of `targets` and which token it puts first, one value a row; x (rows, D), W (V, D).
    /// Works through the rows in chunks: the logits of all rows never exist at once.
    fn predictions(&self, x: &Self::Buffer, head: &Self::Matrix, targets: &[u32]) -> Vec<Prediction>;

    /// Cross entropy in nats of rows of logits (rows, V) against `targets`.
    fn cross_entropy(&self, logits: &Self::Buffer, targets: &[u32]) -> Vec<f64>;

    /// Cross entropy in nats of rows of logits (rows, V) against `targets`, and its gradient in their place:
    /// `logits[i, :] ← weight(i, nats_i) · (softmax(logits[i, :]) − onehot(targets[i]))`. Losses are returned unweighted.
    fn cross_entropy_backward(&self, logits: &mut Self::Buffer, targets: &[u32], weight: &RowWeight<'_>) -> Vec<f64>;

    /// Cross entropy of p = softmax(`logits`), and its divergence KL(p ‖ q) from q = softmax(`reference`), both (rows, V), with
    /// the gradient of `weight · (nats + beta · divergence)` in the place of the logits:
    /// `logits[i, v] ← weight · (p_v − onehot(targets[i])_v + beta · p_v · (ln p_v − ln q_v − divergence_i))`. The content of `reference` is
    /// unspecified afterwards.
    fn divergence_backward(
        &self,
        logits: &mut Self::Buffer,
        reference: &mut Self::Buffer,
        targets: &[u32],
        weight: f64,
        beta: f64,
    ) -> Vec<Divergence>;

    /// The divergence KL(q ‖ p) in nats of p = softmax(`logits`) from q = softmax(`reference`), both (rows, `vocab`), and the gradient
    /// of `weight` times it in the place of the logits: `logits[i, v] ← weight · (p_v − q_v)` (Hinton et al. 2015, at temperature 1).
    fn distillation_backward(
        &self,
        logits: &mut Self::Buffer,
        reference: &Self::Buffer,
        vocab: usize,
        weight: f64,
    ) -> Vec<f64>;

    /// `out[i] = x[i] / (1 − p)` where element `i` of the stream `key` is kept, which it is with probability `1 − p`, else 0.
    /// The same key drops the same elements, so this is its own gradient. `0 ≤ p < 1`.
    fn dropout(&self, x: &Self::Buffer, p: f32, key: u64, out: &mut Self::Buffer);

    /// `Σ x[i]²`, accumulated in f64.
    fn sum_of_squares(&self, x: &Self::Buffer) -> f64;

    /// One AdamW step of a parameter and its two moments (Loshchilov & Hutter 2019); all four have the same length.
    fn adamw(
        &self,
        step: &AdamW,
        gradient: &Self::Buffer,
        parameter: &mut Self::Buffer,
        first: &mut Self::Buffer,
        second: &mut Self::Buffer,
    );

    /// `out = (1 − m) ⊙ base + m ⊙ tuned`, (out, in), with `m = rows ⊗ columns` of `masks`, rows (out) and columns (in): to the bit the base
    /// where m is 0 and the tuned matrix where it is 1.
    fn masked(&self, base: &Self::Matrix, tuned: &Self::Matrix, masks: [&Self::Buffer; 2], out: &mut Self::Buffer);

    /// Gradient of [`masked`](Self::masked) with respect to its masks, from `gradient`, (out, in), that with respect to its result: with
    /// Δ = tuned − base, `d_rows[i] += Σ_j gradient[i, j] · Δ[i, j] · columns[j]`, `d_columns[j] += Σ_i gradient[i, j] · Δ[i, j] · rows[i]`.
    /// Returns `Σ (gradient ⊙ m)²`, the square of the norm of the tuned matrix's gradient.
    fn masked_backward(
        &self,
        base: &Self::Matrix,
        tuned: &Self::Matrix,
        masks: [&Self::Buffer; 2],
        gradient: &Self::Buffer,
        d_masks: [&mut Self::Buffer; 2],
    ) -> f64;

    /// One step of [`adamw`](Self::adamw) of a tuned matrix on its gradient, `gradient ⊙ m` with `m` of the first masks, and then
    /// [`masked`](Self::masked) by the second in `out`, in one pass.
    fn adamw_masked(
        &self,
        step: &AdamW,
        gradient: &Self::Buffer,
        base: &Self::Matrix,
        masks: [[&Self::Buffer; 2]; 2],
        tuned: TunedState<'_, Self::Buffer>,
        out: &mut Self::Buffer,
    );
}

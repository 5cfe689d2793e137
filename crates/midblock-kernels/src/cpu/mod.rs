//! [`Cpu`]: f32 arithmetic on all cores.

mod attention;
mod attention_backward;
mod attention_decode;
mod buffer;
mod decode;
mod dots;
mod elementwise;
mod exp;
mod gate;
mod gemm;
mod kernel;
mod loss;
mod masked;
mod matrix;
mod narrow;
mod norm;
mod optimizer;
mod pack;
mod rope;
mod rows;
#[cfg(test)]
mod tests;
mod transpose;
mod vector;

pub use buffer::CpuBuffer;
pub use matrix::CpuMatrix;

use crate::{
    Accumulate, Activation, AdamW, Attention, AttentionForward, AttentionGradients, Backend, Divergence, Prediction,
    Real, RopeTable, RowWeight, StoredMatrix, TunedState, shapes,
};
use gemm::{Factor, Summed};
use pulp::Arch;

/// The CPU backend: f32 arithmetic, weights used in their storage format, all threads of rayon's global pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    arch: Arch,
}

impl Cpu {
    /// The backend for this machine's processor.
    pub fn new() -> Self {
        Self { arch: Arch::new() }
    }
}

impl Backend for Cpu {
    type Buffer = CpuBuffer;
    type Matrix = CpuMatrix;

    fn zeros(&self, len: usize) -> CpuBuffer {
        CpuBuffer::zeros(len)
    }

    fn upload<R: Real>(&self, values: &[R]) -> CpuBuffer {
        let mut buffer = CpuBuffer::zeros(values.len());
        self.write(&mut buffer, 0, values);
        buffer
    }

    fn write<R: Real>(&self, buffer: &mut CpuBuffer, start: usize, values: &[R]) {
        for (b, v) in buffer[start..][..values.len()].iter_mut().zip(values) {
            *b = v.to_f64() as f32;
        }
    }

    fn read<R: Real>(&self, buffer: &CpuBuffer, start: usize, out: &mut [R]) {
        let len = out.len();
        for (o, b) in out.iter_mut().zip(&buffer[start..][..len]) {
            *o = R::from_f64(f64::from(*b));
        }
    }

    fn resize(&self, buffer: &mut CpuBuffer, len: usize) {
        buffer.resize(len);
    }

    fn len(&self, buffer: &CpuBuffer) -> usize {
        buffer.len()
    }

    fn clear(&self, x: &mut CpuBuffer) {
        elementwise::clear(x);
    }

    fn copy(&self, x: &CpuBuffer, out: &mut CpuBuffer) {
        shapes::same("copy", x.len(), out.len());
        elementwise::copy(x, out);
    }

    fn matrix(&self, stored: StoredMatrix) -> CpuMatrix {
        CpuMatrix::Frozen(stored)
    }

    fn trained(&self, shape: [usize; 2], values: CpuBuffer) -> CpuMatrix {
        shapes::trained(shape, values.len());
        CpuMatrix::Trained { shape, values }
    }

    fn shape(&self, matrix: &CpuMatrix) -> [usize; 2] {
        matrix.shape()
    }

    fn values<'a>(&self, matrix: &'a CpuMatrix) -> Option<&'a CpuBuffer> {
        match matrix {
            CpuMatrix::Frozen(_) => None,
            CpuMatrix::Trained { values, .. } => Some(values),
        }
    }

    fn values_mut<'a>(&self, matrix: &'a mut CpuMatrix) -> Option<&'a mut CpuBuffer> {
        match matrix {
            CpuMatrix::Frozen(_) => None,
            CpuMatrix::Trained { values, .. } => Some(values),
        }
    }

    fn embed(&self, table: &CpuMatrix, ids: &[u32], out: &mut CpuBuffer) {
        shapes::embed(table.shape(), ids, out.len());
        rows::embed(table, ids, out);
    }

    fn embed_backward(&self, ids: &[u32], d_out: &CpuBuffer, d_table: &mut CpuBuffer) {
        let dim = shapes::embed_backward(ids, d_out.len(), d_table.len());
        rows::embed_backward(ids, dim, d_out, d_table);
    }

    fn gather_rows(&self, x: &CpuBuffer, rows: &[usize], width: usize, out: &mut CpuBuffer) {
        shapes::rows_of("gather_rows", x.len(), rows, width, out.len());
        rows::gather(x, rows, width, out);
    }

    fn scatter_rows(&self, x: &CpuBuffer, rows: &[usize], width: usize, out: &mut CpuBuffer) {
        shapes::rows_of("scatter_rows", out.len(), rows, width, x.len());
        rows::scatter(x, rows, width, out);
    }

    fn linear(&self, x: &CpuBuffer, w: &CpuMatrix, rows: usize, mode: Accumulate, out: &mut CpuBuffer) {
        self.linears(x, rows, mode, &mut [(w, out)]);
    }

    fn linears(&self, x: &CpuBuffer, rows: usize, mode: Accumulate, pairs: &mut [(&CpuMatrix, &mut CpuBuffer)]) {
        let Some((w, _)) = pairs.first() else { return };
        let [_, k] = w.shape();
        let left = Factor::values(x, [rows, k], Summed::Columns);
        let mut wide = Vec::with_capacity(pairs.len());
        for (w, out) in pairs {
            let [n, _] = w.shape();
            shapes::linear(x.len(), [n, k], rows, out.len());
            if n <= narrow::COLUMNS {
                narrow::product(self.arch, x, w.source(), mode, out);
            } else {
                wide.push((Factor::new(w.source(), Summed::Columns), &mut ***out));
            }
        }
        gemm::products(self.arch, left, mode, &mut wide);
    }

    fn decode_linears(&self, x: &CpuBuffer, rows: usize, mode: Accumulate, pairs: &mut [(&CpuMatrix, &mut CpuBuffer)]) {
        let mut products = Vec::with_capacity(pairs.len());
        for (w, out) in pairs {
            shapes::linear(x.len(), w.shape(), rows, out.len());
            products.push((w.source(), &mut ***out));
        }
        decode::products(self.arch, x, rows, mode, &mut products);
    }

    fn linear_dx(&self, dy: &CpuBuffer, w: &CpuMatrix, rows: usize, mode: Accumulate, dx: &mut CpuBuffer) {
        self.linears_dx(&[(dy, w)], rows, mode, dx);
    }

    fn linears_dx(&self, pairs: &[(&CpuBuffer, &CpuMatrix)], rows: usize, mode: Accumulate, dx: &mut CpuBuffer) {
        for (dy, w) in pairs {
            shapes::linear_dx(dy.len(), w.shape(), rows, dx.len());
        }
        if pairs.first().is_some_and(|(_, w)| w.shape()[1] <= narrow::COLUMNS) {
            for (i, (dy, w)) in pairs.iter().enumerate() {
                let mode = if i == 0 { mode } else { Accumulate::Add };
                narrow::product_of_columns(self.arch, dy, w.source(), mode, dx);
            }
            return;
        }
        let terms: Vec<_> = pairs
            .iter()
            .map(|(dy, w)| {
                let dy = Factor::values(dy, [rows, w.shape()[0]], Summed::Columns);
                (dy, Factor::new(w.source(), Summed::Rows))
            })
            .collect();
        gemm::sum_of_products(self.arch, &terms, mode, dx);
    }

    fn linear_dw(&self, dy: &CpuBuffer, x: &CpuBuffer, rows: usize, mode: Accumulate, dw: &mut CpuBuffer) {
        let [n, k] = shapes::linear_dw(dy.len(), x.len(), rows, dw.len());
        if rows == 0 {
            if mode == Accumulate::Write {
                dw.fill(0.0);
            }
            return;
        }
        let left = Factor::values(dy, [rows, n], Summed::Rows);
        let right = Factor::values(x, [rows, k], Summed::Rows);
        if k <= narrow::COLUMNS && k < n {
            narrow::transposed(self.arch, left, right, mode, dw);
        } else {
            gemm::products(self.arch, left, mode, &mut [(right, dw)]);
        }
    }

    fn add_bias(&self, x: &mut CpuBuffer, bias: &CpuBuffer) {
        shapes::grouped("add_bias", x.len(), bias.len());
        elementwise::add_bias(self.arch, x, bias);
    }

    fn add_bias_backward(&self, dy: &CpuBuffer, d_bias: &mut CpuBuffer) {
        shapes::grouped("add_bias_backward", dy.len(), d_bias.len());
        elementwise::add_bias_backward(self.arch, dy, d_bias);
    }

    fn rms_norm(&self, x: &CpuBuffer, weight: &CpuBuffer, eps: f32, out: &mut CpuBuffer) {
        shapes::grouped("rms_norm", x.len(), weight.len());
        shapes::same("rms_norm", x.len(), out.len());
        norm::rms_norm(self.arch, x, weight, eps, out);
    }

    fn rms_norm_backward(
        &self,
        x: &CpuBuffer,
        weight: &CpuBuffer,
        eps: f32,
        dy: &CpuBuffer,
        mode: Accumulate,
        dx: &mut CpuBuffer,
        d_weight: Option<&mut CpuBuffer>,
    ) {
        let lengths = [x.len(), dy.len(), dx.len()];
        shapes::rms_norm_backward(weight.len(), lengths, d_weight.as_ref().map(|d| d.len()));
        let d_weight = d_weight.map(|d| &mut **d);
        norm::rms_norm_backward(self.arch, [x, dy], weight, eps, mode, dx, d_weight);
    }

    fn rope(&self, x: &mut CpuBuffer, table: &RopeTable, positions: &[u32], heads: usize) {
        shapes::rope(x.len(), table, positions, heads);
        rope::rope(self.arch, x, table, positions, heads, 1.0);
    }

    fn rope_backward(&self, dx: &mut CpuBuffer, table: &RopeTable, positions: &[u32], heads: usize) {
        shapes::rope(dx.len(), table, positions, heads);
        rope::rope(self.arch, dx, table, positions, heads, -1.0);
    }

    fn attention(
        &self,
        shape: &Attention<'_>,
        q: &CpuBuffer,
        k: &CpuBuffer,
        v: &CpuBuffer,
        out: &mut CpuBuffer,
        log_sums: Option<&mut CpuBuffer>,
    ) {
        shapes::attention(shape, [q.len(), k.len(), v.len(), out.len()]);
        if let Some(log_sums) = &log_sums {
            shapes::log_sums(shape, log_sums.len());
        }
        attention::attention(self.arch, shape, [q, k, v], out, log_sums.map(|l| &mut **l));
    }

    fn attention_backward(
        &self,
        shape: &Attention<'_>,
        forward: AttentionForward<'_, CpuBuffer>,
        d_out: &CpuBuffer,
        gradients: AttentionGradients<'_, CpuBuffer>,
    ) {
        shapes::attention_backward(
            shape,
            [forward.q, forward.k, forward.v, forward.out].map(|buffer| buffer.len()),
            forward.log_sums.len(),
            [&*gradients.q, &*gradients.k, &*gradients.v, d_out].map(|buffer| buffer.len()),
        );
        attention_backward::attention_backward(self.arch, shape, &forward, d_out, gradients);
    }

    fn gated(&self, activation: Activation, gate: &mut CpuBuffer, up: &CpuBuffer) {
        shapes::same("gated", gate.len(), up.len());
        gate::gated(self.arch, activation, gate, up);
    }

    fn gated_to(&self, activation: Activation, gate: &CpuBuffer, up: &CpuBuffer, out: &mut CpuBuffer) {
        shapes::same("gated_to", gate.len(), up.len());
        shapes::same("gated_to", gate.len(), out.len());
        gate::gated_to(self.arch, activation, gate, up, out);
    }

    fn gated_backward(&self, activation: Activation, dy: &CpuBuffer, gate: &mut CpuBuffer, up: &mut CpuBuffer) {
        shapes::same("gated_backward", gate.len(), up.len());
        shapes::same("gated_backward", gate.len(), dy.len());
        gate::gated_backward(self.arch, activation, dy, gate, up);
    }

    fn add(&self, x: &mut CpuBuffer, y: &CpuBuffer) {
        shapes::same("add", x.len(), y.len());
        elementwise::add(self.arch, x, y);
    }

    fn scale(&self, x: &mut CpuBuffer, factor: f32) {
        elementwise::scale(self.arch, x, factor);
    }

    fn predictions(&self, x: &CpuBuffer, head: &CpuMatrix, targets: &[u32]) -> Vec<Prediction> {
        shapes::predictions(x.len(), head.shape(), targets);
        loss::predictions(self.arch, x, head, targets)
    }

    fn cross_entropy(&self, logits: &CpuBuffer, targets: &[u32]) -> Vec<f64> {
        shapes::cross_entropy_backward(logits.len(), targets);
        loss::cross_entropy(self.arch, logits, targets)
    }

    fn cross_entropy_backward(&self, logits: &mut CpuBuffer, targets: &[u32], weight: &RowWeight<'_>) -> Vec<f64> {
        shapes::cross_entropy_backward(logits.len(), targets);
        loss::cross_entropy_backward(self.arch, logits, targets, weight)
    }

    fn divergence_backward(
        &self,
        logits: &mut CpuBuffer,
        reference: &mut CpuBuffer,
        targets: &[u32],
        weight: f64,
        beta: f64,
    ) -> Vec<Divergence> {
        shapes::divergence_backward(logits.len(), reference.len(), targets);
        loss::divergence_backward(self.arch, logits, reference, targets, [weight, beta])
    }

    fn distillation_backward(
        &self,
        logits: &mut CpuBuffer,
        reference: &CpuBuffer,
        vocab: usize,
        weight: f64,
    ) -> Vec<f64> {
        shapes::distillation_backward(logits.len(), reference.len(), vocab);
        loss::distillation_backward(self.arch, logits, reference, vocab, weight)
    }

    fn dropout(&self, x: &CpuBuffer, p: f32, key: u64, out: &mut CpuBuffer) {
        shapes::dropout(p, x.len(), out.len());
        elementwise::dropout(self.arch, x, p, key, out);
    }

    fn sum_of_squares(&self, x: &CpuBuffer) -> f64 {
        elementwise::sum_of_squares(self.arch, x)
    }

    fn adamw(
        &self,
        step: &AdamW,
        gradient: &CpuBuffer,
        parameter: &mut CpuBuffer,
        first: &mut CpuBuffer,
        second: &mut CpuBuffer,
    ) {
        shapes::adamw(step, [gradient.len(), parameter.len(), first.len(), second.len()]);
        optimizer::adamw(self.arch, step, gradient, parameter, first, second);
    }

    fn masked(&self, base: &CpuMatrix, tuned: &CpuMatrix, masks: [&CpuBuffer; 2], out: &mut CpuBuffer) {
        let lengths = masks.map(|mask| mask.len());
        shapes::masked("masked", base.shape(), tuned.shape(), &[lengths], &[out.len()]);
        masked::masked(self.arch, base, tuned, masks, out);
    }

    fn masked_backward(
        &self,
        base: &CpuMatrix,
        tuned: &CpuMatrix,
        masks: [&CpuBuffer; 2],
        gradient: &CpuBuffer,
        d_masks: [&mut CpuBuffer; 2],
    ) -> f64 {
        let lengths = [masks.map(|mask| mask.len()), [d_masks[0].len(), d_masks[1].len()]];
        shapes::masked(
            "masked_backward",
            base.shape(),
            tuned.shape(),
            &lengths,
            &[gradient.len()],
        );
        masked::masked_backward(self.arch, base, tuned, masks, gradient, d_masks)
    }

    fn adamw_masked(
        &self,
        step: &AdamW,
        gradient: &CpuBuffer,
        base: &CpuMatrix,
        masks: [[&CpuBuffer; 2]; 2],
        tuned: TunedState<'_, CpuBuffer>,
        out: &mut CpuBuffer,
    ) {
        let lengths = [tuned.weights.len(), tuned.first.len(), tuned.second.len()];
        shapes::adamw(step, [gradient.len(), lengths[0], lengths[1], lengths[2]]);
        let of_masks = masks.map(|pair| pair.map(|mask| mask.len()));
        shapes::masked(
            "adamw_masked",
            base.shape(),
            base.shape(),
            &of_masks,
            &[gradient.len(), out.len()],
        );
        masked::adamw_masked(self.arch, step, gradient, base, masks, tuned, out);
    }
}

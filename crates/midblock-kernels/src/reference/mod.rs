//! [`Reference`]: every operation as the plain f64 loop that defines it.

mod attention;
mod elementwise;
mod linear;
mod loss;
mod masked;
mod norm;
mod optimizer;
mod rope;

use crate::{
    Accumulate, Activation, AdamW, Attention, AttentionForward, AttentionGradients, Backend, Divergence, Dtype,
    Prediction, Real, RopeTable, RowWeight, StoredMatrix, TunedState, shapes,
};

/// The definition of each operation in f64, to test other backends against. One core, no tricks, slow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// A matrix widened to f64, row-major `(out_features, in_features)`.
#[derive(Clone, Debug)]
pub struct ReferenceMatrix {
    shape: [usize; 2],
    values: Vec<f64>,
    trained: bool,
}

impl ReferenceMatrix {
    fn row(&self, index: usize) -> &[f64] {
        let [_, k] = self.shape;
        &self.values[index * k..][..k]
    }
}

impl Backend for Reference {
    type Buffer = Vec<f64>;
    type Matrix = ReferenceMatrix;

    fn zeros(&self, len: usize) -> Vec<f64> {
        vec![0.0; len]
    }

    fn upload<R: Real>(&self, values: &[R]) -> Vec<f64> {
        values.iter().map(|v| v.to_f64()).collect()
    }

    fn write<R: Real>(&self, buffer: &mut Vec<f64>, start: usize, values: &[R]) {
        for (b, v) in buffer[start..][..values.len()].iter_mut().zip(values) {
            *b = v.to_f64();
        }
    }

    fn read<R: Real>(&self, buffer: &Vec<f64>, start: usize, out: &mut [R]) {
        let len = out.len();
        for (o, b) in out.iter_mut().zip(&buffer[start..][..len]) {
            *o = R::from_f64(*b);
        }
    }

    fn resize(&self, buffer: &mut Vec<f64>, len: usize) {
        buffer.resize(len, 0.0);
    }

    fn len(&self, buffer: &Vec<f64>) -> usize {
        buffer.len()
    }

    fn clear(&self, x: &mut Vec<f64>) {
        x.fill(0.0);
    }

    fn copy(&self, x: &Vec<f64>, out: &mut Vec<f64>) {
        shapes::same("copy", x.len(), out.len());
        out.copy_from_slice(x);
    }

    fn matrix(&self, stored: StoredMatrix) -> ReferenceMatrix {
        let [n, k] = stored.shape();
        let values = match stored.dtype() {
            Dtype::F64 => {
                let (numbers, _) = stored.bytes().as_ref().as_chunks::<8>();
                numbers.iter().map(|b| f64::from_le_bytes(*b)).collect()
            }
            _ => {
                let mut widened = vec![0.0; n * k];
                stored.widen_rows(0..n, &mut widened);
                self.upload(&widened)
            }
        };
        ReferenceMatrix {
            shape: [n, k],
            values,
            trained: false,
        }
    }

    fn trained(&self, shape: [usize; 2], values: Vec<f64>) -> ReferenceMatrix {
        shapes::trained(shape, values.len());
        ReferenceMatrix {
            shape,
            values,
            trained: true,
        }
    }

    fn shape(&self, matrix: &ReferenceMatrix) -> [usize; 2] {
        matrix.shape
    }

    fn values<'a>(&self, matrix: &'a ReferenceMatrix) -> Option<&'a Vec<f64>> {
        matrix.trained.then_some(&matrix.values)
    }

    fn values_mut<'a>(&self, matrix: &'a mut ReferenceMatrix) -> Option<&'a mut Vec<f64>> {
        matrix.trained.then_some(&mut matrix.values)
    }

    fn embed(&self, table: &ReferenceMatrix, ids: &[u32], out: &mut Vec<f64>) {
        shapes::embed(table.shape, ids, out.len());
        let [_, dim] = table.shape;
        for (i, &id) in ids.iter().enumerate() {
            out[i * dim..][..dim].copy_from_slice(table.row(id as usize));
        }
    }

    fn embed_backward(&self, ids: &[u32], d_out: &Vec<f64>, d_table: &mut Vec<f64>) {
        let dim = shapes::embed_backward(ids, d_out.len(), d_table.len());
        for (d_out, &id) in d_out.chunks_exact(dim).zip(ids) {
            elementwise::add(&mut d_table[id as usize * dim..][..dim], d_out);
        }
    }

    fn gather_rows(&self, x: &Vec<f64>, rows: &[usize], width: usize, out: &mut Vec<f64>) {
        shapes::rows_of("gather_rows", x.len(), rows, width, out.len());
        for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[row * width..][..width]);
        }
    }

    fn scatter_rows(&self, x: &Vec<f64>, rows: &[usize], width: usize, out: &mut Vec<f64>) {
        shapes::rows_of("scatter_rows", out.len(), rows, width, x.len());
        for (x, &row) in x.chunks_exact(width).zip(rows) {
            out[row * width..][..width].copy_from_slice(x);
        }
    }

    fn linear(&self, x: &Vec<f64>, w: &ReferenceMatrix, rows: usize, mode: Accumulate, out: &mut Vec<f64>) {
        shapes::linear(x.len(), w.shape, rows, out.len());
        linear::forward(x, w, rows, mode, out);
    }

    fn linear_dx(&self, dy: &Vec<f64>, w: &ReferenceMatrix, rows: usize, mode: Accumulate, dx: &mut Vec<f64>) {
        shapes::linear_dx(dy.len(), w.shape, rows, dx.len());
        linear::dx(dy, w, rows, mode, dx);
    }

    fn linear_dw(&self, dy: &Vec<f64>, x: &Vec<f64>, rows: usize, mode: Accumulate, dw: &mut Vec<f64>) {
        let shape = shapes::linear_dw(dy.len(), x.len(), rows, dw.len());
        if rows == 0 && mode == Accumulate::Write {
            dw.fill(0.0);
        }
        linear::dw(dy, x, rows, shape, mode, dw);
    }

    fn add_bias(&self, x: &mut Vec<f64>, bias: &Vec<f64>) {
        shapes::grouped("add_bias", x.len(), bias.len());
        for row in x.chunks_exact_mut(bias.len()) {
            elementwise::add(row, bias);
        }
    }

    fn add_bias_backward(&self, dy: &Vec<f64>, d_bias: &mut Vec<f64>) {
        shapes::grouped("add_bias_backward", dy.len(), d_bias.len());
        for row in dy.chunks_exact(d_bias.len()) {
            elementwise::add(d_bias, row);
        }
    }

    fn rms_norm(&self, x: &Vec<f64>, weight: &Vec<f64>, eps: f32, out: &mut Vec<f64>) {
        shapes::grouped("rms_norm", x.len(), weight.len());
        shapes::same("rms_norm", x.len(), out.len());
        norm::forward(x, weight, f64::from(eps), out);
    }

    fn rms_norm_backward(
        &self,
        x: &Vec<f64>,
        weight: &Vec<f64>,
        eps: f32,
        dy: &Vec<f64>,
        mode: Accumulate,
        dx: &mut Vec<f64>,
        d_weight: Option<&mut Vec<f64>>,
    ) {
        shapes::rms_norm_backward(
            weight.len(),
            [x.len(), dy.len(), dx.len()],
            d_weight.as_ref().map(|d| d.len()),
        );
        norm::backward(x, weight, f64::from(eps), dy, mode, dx, d_weight);
    }

    fn rope(&self, x: &mut Vec<f64>, table: &RopeTable, positions: &[u32], heads: usize) {
        shapes::rope(x.len(), table, positions, heads);
        rope::forward(x, table, positions, heads);
    }

    fn rope_backward(&self, dx: &mut Vec<f64>, table: &RopeTable, positions: &[u32], heads: usize) {
        shapes::rope(dx.len(), table, positions, heads);
        rope::backward(dx, table, positions, heads);
    }

    fn attention(
        &self,
        shape: &Attention<'_>,
        q: &Vec<f64>,
        k: &Vec<f64>,
        v: &Vec<f64>,
        out: &mut Vec<f64>,
        log_sums: Option<&mut Vec<f64>>,
    ) {
        shapes::attention(shape, [q.len(), k.len(), v.len(), out.len()]);
        if let Some(log_sums) = &log_sums {
            shapes::log_sums(shape, log_sums.len());
        }
        attention::forward(shape, [q, k, v], out, log_sums);
    }

    fn attention_backward(
        &self,
        shape: &Attention<'_>,
        forward: AttentionForward<'_, Vec<f64>>,
        d_out: &Vec<f64>,
        gradients: AttentionGradients<'_, Vec<f64>>,
    ) {
        shapes::attention_backward(
            shape,
            [forward.q, forward.k, forward.v, forward.out].map(Vec::len),
            forward.log_sums.len(),
            [&*gradients.q, &*gradients.k, &*gradients.v, d_out].map(Vec::len),
        );
        attention::backward(shape, &forward, d_out, gradients);
    }

    fn gated(&self, activation: Activation, gate: &mut Vec<f64>, up: &Vec<f64>) {
        shapes::same("gated", gate.len(), up.len());
        for (z, up) in gate.iter_mut().zip(up) {
            *z = elementwise::activate(activation, *z) * up;
        }
    }

    fn gated_to(&self, activation: Activation, gate: &Vec<f64>, up: &Vec<f64>, out: &mut Vec<f64>) {
        shapes::same("gated_to", gate.len(), out.len());
        out.copy_from_slice(gate);
        self.gated(activation, out, up);
    }

    fn gated_backward(&self, activation: Activation, dy: &Vec<f64>, gate: &mut Vec<f64>, up: &mut Vec<f64>) {
        shapes::same("gated_backward", gate.len(), up.len());
        shapes::same("gated_backward", gate.len(), dy.len());
        for ((z, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            let (d_gate, d_up) = (
                dy * *up * elementwise::slope(activation, *z),
                dy * elementwise::activate(activation, *z),
            );
            (*z, *up) = (d_gate, d_up);
        }
    }

    fn add(&self, x: &mut Vec<f64>, y: &Vec<f64>) {
        shapes::same("add", x.len(), y.len());
        elementwise::add(x, y);
    }

    fn scale(&self, x: &mut Vec<f64>, factor: f32) {
        x.iter_mut().for_each(|x| *x *= f64::from(factor));
    }

    fn predictions(&self, x: &Vec<f64>, head: &ReferenceMatrix, targets: &[u32]) -> Vec<Prediction> {
        shapes::predictions(x.len(), head.shape, targets);
        let mut logits = vec![0.0; targets.len() * head.shape[0]];
        linear::forward(x, head, targets.len(), Accumulate::Write, &mut logits);
        loss::predictions(&logits, targets)
    }

    fn cross_entropy(&self, logits: &Vec<f64>, targets: &[u32]) -> Vec<f64> {
        shapes::cross_entropy_backward(logits.len(), targets);
        loss::backward(&mut logits.clone(), targets, &|_, _| 1.0)
    }

    fn cross_entropy_backward(&self, logits: &mut Vec<f64>, targets: &[u32], weight: &RowWeight<'_>) -> Vec<f64> {
        shapes::cross_entropy_backward(logits.len(), targets);
        loss::backward(logits, targets, weight)
    }

    fn divergence_backward(
        &self,
        logits: &mut Vec<f64>,
        reference: &mut Vec<f64>,
        targets: &[u32],
        weight: f64,
        beta: f64,
    ) -> Vec<Divergence> {
        shapes::divergence_backward(logits.len(), reference.len(), targets);
        loss::divergence_backward(logits, reference, targets, weight, beta)
    }

    fn distillation_backward(
        &self,
        logits: &mut Vec<f64>,
        reference: &Vec<f64>,
        vocab: usize,
        weight: f64,
    ) -> Vec<f64> {
        shapes::distillation_backward(logits.len(), reference.len(), vocab);
        loss::distillation_backward(logits, reference, vocab, weight)
    }

    fn dropout(&self, x: &Vec<f64>, p: f32, key: u64, out: &mut Vec<f64>) {
        shapes::dropout(p, x.len(), out.len());
        elementwise::dropout(x, p, key, out);
    }

    fn sum_of_squares(&self, x: &Vec<f64>) -> f64 {
        x.iter().map(|x| x * x).sum()
    }

    fn adamw(
        &self,
        step: &AdamW,
        gradient: &Vec<f64>,
        parameter: &mut Vec<f64>,
        first: &mut Vec<f64>,
        second: &mut Vec<f64>,
    ) {
        shapes::adamw(step, [gradient.len(), parameter.len(), first.len(), second.len()]);
        optimizer::adamw(step, gradient, parameter, first, second);
    }

    fn masked(&self, base: &ReferenceMatrix, tuned: &ReferenceMatrix, masks: [&Vec<f64>; 2], out: &mut Vec<f64>) {
        let lengths = masks.map(Vec::len);
        shapes::masked("masked", base.shape, tuned.shape, &[lengths], &[out.len()]);
        masked::masked(&base.values, &tuned.values, masks, out);
    }

    fn masked_backward(
        &self,
        base: &ReferenceMatrix,
        tuned: &ReferenceMatrix,
        masks: [&Vec<f64>; 2],
        gradient: &Vec<f64>,
        d_masks: [&mut Vec<f64>; 2],
    ) -> f64 {
        let lengths = [masks.map(Vec::len), [d_masks[0].len(), d_masks[1].len()]];
        shapes::masked("masked_backward", base.shape, tuned.shape, &lengths, &[gradient.len()]);
        masked::backward([&base.values, &tuned.values], masks, gradient, d_masks)
    }

    fn adamw_masked(
        &self,
        step: &AdamW,
        gradient: &Vec<f64>,
        base: &ReferenceMatrix,
        masks: [[&Vec<f64>; 2]; 2],
        tuned: TunedState<'_, Vec<f64>>,
        out: &mut Vec<f64>,
    ) {
        let lengths = [tuned.weights.len(), tuned.first.len(), tuned.second.len()];
        shapes::adamw(step, [gradient.len(), lengths[0], lengths[1], lengths[2]]);
        let of_masks = masks.map(|pair| pair.map(Vec::len));
        shapes::masked(
            "adamw_masked",
            base.shape,
            base.shape,
            &of_masks,
            &[gradient.len(), out.len()],
        );
        let own = masked::through(gradient, masks[0]);
        optimizer::adamw(step, &own, tuned.weights, tuned.first, tuned.second);
        masked::masked(&base.values, tuned.weights, masks[1], out);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What an output holds after `value` was written or added.
fn accumulate(mode: Accumulate, out: &mut f64, value: f64) {
    match mode {
        Accumulate::Write => *out = value,
        Accumulate::Add => *out += value,
    }
}

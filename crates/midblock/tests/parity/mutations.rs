//! The parity tests can fail: each classic mistake, built into the backend, puts every fixture it concerns out of tolerance.

use crate::{
    difference::Difference,
    fixture::{Fixture, Run},
    forward::{FAMILIES, SINGLE},
    outputs::compare,
};
use midblock::model::Architecture;
use midblock_kernels::{
    Accumulate, Activation, AdamW, Attention, AttentionForward, AttentionGradients, Backend, Cpu, Divergence,
    Prediction, Real, RopeTable, RowWeight, StoredMatrix,
};
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    SwapFirstAndLastHead,
    /// RoPE is relative: shifting queries and keys alike would change nothing.
    ShiftQueryPositions,
    DropCausalMask,
    DropWindow,
    WidenWindowByOne,
    LeakBetweenSequences,
    ForgetNormEpsilon,
    ForgetNormWeight,
    SwapGateAndUp,
}

/// [`Cpu`] with one mistake, or with none; it remembers what backward asked of it.
pub struct Mutant {
    cpu: Cpu,
    mistake: Mistake,
    /// H, which tells queries from keys.
    heads: usize,
    calls: Mutex<Vec<Call>>,
}

/// A backward operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Through a matrix.
    InputGradient,
    /// Of a matrix, (out, in).
    WeightGradient {
        shape: [usize; 2],
    },
    Norm,
    Attention,
}

type Buffer = <Cpu as Backend>::Buffer;

impl Mutant {
    pub fn correct() -> Self {
        Self {
            cpu: Cpu::new(),
            mistake: Mistake::None,
            heads: 0,
            calls: Mutex::default(),
        }
    }

    /// The backward operations so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no test panicked while it recorded").clone()
    }

    fn record(&self, call: Call) {
        self.calls
            .lock()
            .expect("no test panicked while it recorded")
            .push(call);
    }

    fn values(&self, buffer: &Buffer) -> Vec<f32> {
        let mut values = vec![0.0; self.cpu.len(buffer)];
        self.cpu.read(buffer, 0, &mut values);
        values
    }

    /// Attention in which every position sees its whole sequence.
    fn attend_everywhere(&self, shape: &Attention<'_>, [q, k, v]: [&Buffer; 3], out: &mut Buffer) {
        let [q, k, v] = [q, k, v].map(|buffer| self.values(buffer));
        let e = shape.head_dim;
        let head =
            |values: &[f32], row: usize, head: usize, heads: usize| values[(row * heads + head) * e..][..e].to_vec();
        for ends in shape.offsets.windows(2) {
            for (row, h) in (ends[0]..ends[1]).flat_map(|row| (0..shape.heads).map(move |h| (row, h))) {
                let kv_head = h / (shape.heads / shape.kv_heads);
                let query = head(&q, row, h, shape.heads);
                let mut sum = 0.0;
                let mut mean = vec![0.0; e];
                for other in ends[0]..ends[1] {
                    let key = head(&k, other, kv_head, shape.kv_heads);
                    let weight = (query.iter().zip(&key).map(|(a, b)| a * b).sum::<f32>() * shape.scale).exp();
                    sum += weight;
                    for (m, x) in mean.iter_mut().zip(head(&v, other, kv_head, shape.kv_heads)) {
                        *m += weight * x;
                    }
                }
                mean.iter_mut().for_each(|m| *m /= sum);
                self.cpu.write(out, (row * shape.heads + h) * e, &mean);
            }
        }
    }

    fn swap_heads(&self, shape: &Attention<'_>, out: &mut Buffer) {
        let e = shape.head_dim;
        let mut values = self.values(out);
        for row in values.chunks_mut(shape.heads * e) {
            let (first, rest) = row.split_at_mut(e);
            let last = rest.len() - e;
            first.swap_with_slice(&mut rest[last..]);
        }
        self.cpu.write(out, 0, &values);
    }
}

impl Backend for Mutant {
    type Buffer = Buffer;
    type Matrix = <Cpu as Backend>::Matrix;

    fn rope(&self, x: &mut Buffer, table: &RopeTable, positions: &[u32], heads: usize) {
        if self.mistake == Mistake::ShiftQueryPositions && heads == self.heads {
            let shifted: Vec<_> = positions.iter().map(|p| p + 1).collect();
            self.cpu.rope(x, table, &shifted, heads);
        } else {
            self.cpu.rope(x, table, positions, heads);
        }
    }

    fn attention(
        &self,
        shape: &Attention<'_>,
        q: &Buffer,
        k: &Buffer,
        v: &Buffer,
        out: &mut Buffer,
        log_sums: Option<&mut Buffer>,
    ) {
        let mut shape = shape.clone();
        let all = [0, shape.offsets.last().copied().unwrap_or(0)];
        match self.mistake {
            Mistake::DropWindow => shape.window = None,
            Mistake::WidenWindowByOne => shape.window = shape.window.map(|w| w + 1),
            Mistake::LeakBetweenSequences => shape.offsets = &all,
            _ => {}
        }
        if self.mistake == Mistake::DropCausalMask {
            self.attend_everywhere(&shape, [q, k, v], out);
        } else {
            self.cpu.attention(&shape, q, k, v, out, log_sums);
        }
        if self.mistake == Mistake::SwapFirstAndLastHead {
            self.swap_heads(&shape, out);
        }
    }

    fn rms_norm(&self, x: &Buffer, weight: &Buffer, eps: f32, out: &mut Buffer) {
        match self.mistake {
            Mistake::ForgetNormEpsilon => self.cpu.rms_norm(x, weight, 0.0, out),
            Mistake::ForgetNormWeight => {
                self.cpu
                    .rms_norm(x, &self.cpu.upload(&vec![1.0_f32; self.cpu.len(weight)]), eps, out)
            }
            _ => self.cpu.rms_norm(x, weight, eps, out),
        }
    }

    fn gated(&self, activation: Activation, gate: &mut Buffer, up: &Buffer) {
        if self.mistake == Mistake::SwapGateAndUp {
            let mut swapped = self.cpu.upload(&self.values(up));
            self.cpu.gated(activation, &mut swapped, gate);
            *gate = swapped;
        } else {
            self.cpu.gated(activation, gate, up);
        }
    }

    // The rest is the CPU's.
    fn zeros(&self, len: usize) -> Buffer {
        self.cpu.zeros(len)
    }
    fn upload<R: Real>(&self, values: &[R]) -> Buffer {
        self.cpu.upload(values)
    }
    fn write<R: Real>(&self, buffer: &mut Buffer, start: usize, values: &[R]) {
        self.cpu.write(buffer, start, values);
    }
    fn read<R: Real>(&self, buffer: &Buffer, start: usize, out: &mut [R]) {
        self.cpu.read(buffer, start, out);
    }
    fn resize(&self, buffer: &mut Buffer, len: usize) {
        self.cpu.resize(buffer, len);
    }
    fn len(&self, buffer: &Buffer) -> usize {
        self.cpu.len(buffer)
    }
    fn matrix(&self, stored: StoredMatrix) -> Self::Matrix {
        self.cpu.matrix(stored)
    }
    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Buffer) {
        self.cpu.embed(table, ids, out);
    }
    fn linear(&self, x: &Buffer, w: &Self::Matrix, rows: usize, mode: Accumulate, out: &mut Buffer) {
        self.cpu.linear(x, w, rows, mode, out);
    }
    fn add_bias(&self, x: &mut Buffer, bias: &Buffer) {
        self.cpu.add_bias(x, bias);
    }
    fn add(&self, x: &mut Buffer, y: &Buffer) {
        self.cpu.add(x, y);
    }
    fn scale(&self, x: &mut Buffer, factor: f32) {
        self.cpu.scale(x, factor);
    }
    fn predictions(&self, x: &Buffer, head: &Self::Matrix, targets: &[u32]) -> Vec<Prediction> {
        self.cpu.predictions(x, head, targets)
    }
    fn clear(&self, x: &mut Buffer) {
        self.cpu.clear(x);
    }
    fn copy(&self, x: &Buffer, out: &mut Buffer) {
        self.cpu.copy(x, out);
    }
    fn trained(&self, shape: [usize; 2], values: Buffer) -> Self::Matrix {
        self.cpu.trained(shape, values)
    }
    fn shape(&self, matrix: &Self::Matrix) -> [usize; 2] {
        self.cpu.shape(matrix)
    }
    fn values<'a>(&self, matrix: &'a Self::Matrix) -> Option<&'a Buffer> {
        self.cpu.values(matrix)
    }
    fn values_mut<'a>(&self, matrix: &'a mut Self::Matrix) -> Option<&'a mut Buffer> {
        self.cpu.values_mut(matrix)
    }
    fn distillation_backward(&self, logits: &mut Buffer, reference: &Buffer, vocab: usize, weight: f64) -> Vec<f64> {
        self.cpu.distillation_backward(logits, reference, vocab, weight)
    }
    fn embed_backward(&self, ids: &[u32], d_out: &Buffer, d_table: &mut Buffer) {
        self.cpu.embed_backward(ids, d_out, d_table);
    }
    fn gather_rows(&self, x: &Buffer, rows: &[usize], width: usize, out: &mut Buffer) {
        self.cpu.gather_rows(x, rows, width, out);
    }
    fn scatter_rows(&self, x: &Buffer, rows: &[usize], width: usize, out: &mut Buffer) {
        self.cpu.scatter_rows(x, rows, width, out);
    }
    fn linear_dx(&self, dy: &Buffer, w: &Self::Matrix, rows: usize, mode: Accumulate, dx: &mut Buffer) {
        self.record(Call::InputGradient);
        self.cpu.linear_dx(dy, w, rows, mode, dx);
    }
    fn linear_dw(&self, dy: &Buffer, x: &Buffer, rows: usize, mode: Accumulate, dw: &mut Buffer) {
        let shape = [dy, x].map(|side| self.cpu.len(side) / rows);
        self.record(Call::WeightGradient { shape });
        self.cpu.linear_dw(dy, x, rows, mode, dw);
    }
    fn add_bias_backward(&self, dy: &Buffer, d_bias: &mut Buffer) {
        self.cpu.add_bias_backward(dy, d_bias);
    }
    fn rms_norm_backward(
        &self,
        x: &Buffer,
        weight: &Buffer,
        eps: f32,
        dy: &Buffer,
        mode: Accumulate,
        dx: &mut Buffer,
        d_weight: Option<&mut Buffer>,
    ) {
        self.record(Call::Norm);
        self.cpu.rms_norm_backward(x, weight, eps, dy, mode, dx, d_weight);
    }
    fn rope_backward(&self, dx: &mut Buffer, table: &RopeTable, positions: &[u32], heads: usize) {
        self.cpu.rope_backward(dx, table, positions, heads);
    }
    fn attention_backward(
        &self,
        shape: &Attention<'_>,
        forward: AttentionForward<'_, Buffer>,
        d_out: &Buffer,
        gradients: AttentionGradients<'_, Buffer>,
    ) {
        self.record(Call::Attention);
        self.cpu.attention_backward(shape, forward, d_out, gradients);
    }
    fn gated_to(&self, activation: Activation, gate: &Buffer, up: &Buffer, out: &mut Buffer) {
        self.cpu.gated_to(activation, gate, up, out);
    }
    fn gated_backward(&self, activation: Activation, dy: &Buffer, gate: &mut Buffer, up: &mut Buffer) {
        self.cpu.gated_backward(activation, dy, gate, up);
    }
    fn cross_entropy_backward(&self, logits: &mut Buffer, targets: &[u32], weight: &RowWeight<'_>) -> Vec<f64> {
        self.cpu.cross_entropy_backward(logits, targets, weight)
    }
    fn divergence_backward(
        &self,
        logits: &mut Buffer,
        reference: &mut Buffer,
        targets: &[u32],
        weight: f64,
        beta: f64,
    ) -> Vec<Divergence> {
        self.cpu.divergence_backward(logits, reference, targets, weight, beta)
    }
    fn dropout(&self, x: &Buffer, p: f32, key: u64, out: &mut Buffer) {
        self.cpu.dropout(x, p, key, out);
    }
    fn sum_of_squares(&self, x: &Buffer) -> f64 {
        self.cpu.sum_of_squares(x)
    }
    fn adamw(&self, step: &AdamW, gradient: &Buffer, parameter: &mut Buffer, first: &mut Buffer, second: &mut Buffer) {
        self.cpu.adamw(step, gradient, parameter, first, second);
    }
}

/// The worst of all comparisons of a fixture when the backend makes `mistake`.
fn worst(name: &'static str, mistake: Mistake) -> Difference {
    let fixture = Fixture::open(name);
    let architecture = Architecture::resolve(fixture.checkpoint.config()).expect("the configuration resolves");
    assert_ne!(
        architecture.heads, architecture.kv_heads,
        "{name}: queries and keys can be told apart"
    );
    let mutant = Mutant {
        mistake,
        heads: architecture.heads,
        ..Mutant::correct()
    };
    Difference::worst_of(compare(&mutant, &fixture, Run::Single))
}

/// In all these fixtures the mistake shows, far beyond any rounding.
fn must_show(mistake: Mistake, names: &[&'static str]) {
    for &name in names {
        let worst = worst(name, mistake);
        assert!(worst.max > 10.0 * SINGLE, "{mistake:?} goes unnoticed: {worst}");
    }
}

const SLIDING: &[&str] = &["mistral", "qwen2", "qwen3-layer-types"];

#[test]
fn without_a_mistake_nothing_shows() {
    for name in FAMILIES {
        let worst = worst(name, Mistake::None);
        assert!(worst.max <= SINGLE, "{worst}");
    }
}

#[test]
fn swapped_heads_show() {
    must_show(Mistake::SwapFirstAndLastHead, FAMILIES);
}

#[test]
fn rope_shifted_by_one_position_shows() {
    must_show(Mistake::ShiftQueryPositions, FAMILIES);
}

#[test]
fn a_missing_causal_mask_shows() {
    must_show(Mistake::DropCausalMask, FAMILIES);
}

#[test]
fn a_missing_window_shows() {
    must_show(Mistake::DropWindow, SLIDING);
}

#[test]
fn a_window_of_one_too_many_shows() {
    must_show(Mistake::WidenWindowByOne, SLIDING);
}

#[test]
fn attention_across_sequences_shows() {
    must_show(Mistake::LeakBetweenSequences, FAMILIES);
}

#[test]
fn a_forgotten_epsilon_shows() {
    must_show(Mistake::ForgetNormEpsilon, FAMILIES);
}

#[test]
fn a_forgotten_norm_weight_shows() {
    must_show(Mistake::ForgetNormWeight, FAMILIES);
}

#[test]
fn swapped_gate_and_up_show() {
    must_show(Mistake::SwapGateAndUp, FAMILIES);
}

//! [`Reference`]: every operation as the plain f64 loop that defines it.

use crate::{Accumulate, Activation, Attention, Backend, Dtype, Real, RopeTable, StoredMatrix, shapes};

/// The definition of each operation in f64, to test other backends against. One core, no tricks, slow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// A matrix widened to f64, row-major `(out_features, in_features)`.
#[derive(Clone, Debug)]
pub struct ReferenceMatrix {
    shape: [usize; 2],
    values: Vec<f64>,
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
        ReferenceMatrix { shape: [n, k], values }
    }

    fn embed(&self, table: &ReferenceMatrix, ids: &[u32], out: &mut Vec<f64>) {
        shapes::embed(table.shape, ids, out.len());
        let [_, dim] = table.shape;
        for (i, &id) in ids.iter().enumerate() {
            out[i * dim..][..dim].copy_from_slice(table.row(id as usize));
        }
    }

    fn linear(&self, x: &Vec<f64>, w: &ReferenceMatrix, rows: usize, mode: Accumulate, out: &mut Vec<f64>) {
        shapes::linear(x.len(), w.shape, rows, out.len());
        let [n, k] = w.shape;
        for i in 0..rows {
            for j in 0..n {
                let product = dot(&x[i * k..][..k], w.row(j));
                match mode {
                    Accumulate::Write => out[i * n + j] = product,
                    Accumulate::Add => out[i * n + j] += product,
                }
            }
        }
    }

    fn add_bias(&self, x: &mut Vec<f64>, bias: &Vec<f64>) {
        shapes::grouped("add_bias", x.len(), bias.len());
        for row in x.chunks_exact_mut(bias.len()) {
            for (value, b) in row.iter_mut().zip(bias) {
                *value += b;
            }
        }
    }

    fn rms_norm(&self, x: &Vec<f64>, weight: &Vec<f64>, eps: f32, out: &mut Vec<f64>) {
        shapes::grouped("rms_norm", x.len(), weight.len());
        shapes::same("rms_norm", x.len(), out.len());
        let dim = weight.len();
        for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            let mean_square = dot(x, x) / dim as f64;
            let factor = 1.0 / (mean_square + f64::from(eps)).sqrt();
            for j in 0..dim {
                out[j] = x[j] * factor * weight[j];
            }
        }
    }

    fn rope(&self, x: &mut Vec<f64>, table: &RopeTable, positions: &[u32], heads: usize) {
        shapes::rope(x.len(), table, positions, heads);
        let half = table.half_dim;
        for (row, &position) in positions.iter().enumerate() {
            for head in 0..heads {
                let base = (row * heads + head) * 2 * half;
                for j in 0..half {
                    let entry = position as usize * half + j;
                    let (cos, sin) = (f64::from(table.cos[entry]), f64::from(table.sin[entry]));
                    let (a, b) = (x[base + j], x[base + half + j]);
                    x[base + j] = a * cos - b * sin;
                    x[base + half + j] = b * cos + a * sin;
                }
            }
        }
    }

    fn attention(&self, shape: &Attention<'_>, q: &Vec<f64>, k: &Vec<f64>, v: &Vec<f64>, out: &mut Vec<f64>) {
        shapes::attention(shape, [q.len(), k.len(), v.len(), out.len()]);
        let Attention {
            heads,
            kv_heads,
            head_dim: e,
            ..
        } = *shape;
        for bounds in shape.offsets.windows(2) {
            for i in bounds[0]..bounds[1] {
                let first = shape
                    .window
                    .map_or(bounds[0], |w| bounds[0].max((i + 1).saturating_sub(w)));
                for h in 0..heads {
                    let kv = h / (heads / kv_heads);
                    let key = |j: usize| (j * kv_heads + kv) * e;
                    let query = &q[(i * heads + h) * e..][..e];
                    let mut weights: Vec<f64> = (first..=i)
                        .map(|j| dot(query, &k[key(j)..][..e]) * f64::from(shape.scale))
                        .collect();
                    softmax(&mut weights);
                    for c in 0..e {
                        out[(i * heads + h) * e + c] = (first..=i).map(|j| weights[j - first] * v[key(j) + c]).sum();
                    }
                }
            }
        }
    }

    fn gated(&self, activation: Activation, gate: &mut Vec<f64>, up: &Vec<f64>) {
        shapes::same("gated", gate.len(), up.len());
        for (z, up) in gate.iter_mut().zip(up) {
            let activated = match activation {
                Activation::Silu => *z / (1.0 + (-*z).exp()),
                Activation::GeluTanh => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (*z + 0.044715 * z.powi(3));
                    0.5 * *z * (1.0 + inner.tanh())
                }
            };
            *z = activated * up;
        }
    }

    fn add(&self, x: &mut Vec<f64>, y: &Vec<f64>) {
        shapes::same("add", x.len(), y.len());
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }

    fn scale(&self, x: &mut Vec<f64>, factor: f32) {
        for x in x {
            *x *= f64::from(factor);
        }
    }

    fn cross_entropy(&self, x: &Vec<f64>, head: &ReferenceMatrix, targets: &[u32]) -> Vec<f64> {
        shapes::cross_entropy(x.len(), head.shape, targets);
        let [vocab, dim] = head.shape;
        let row_loss = |(i, &target): (usize, &u32)| {
            let logits: Vec<f64> = (0..vocab).map(|j| dot(&x[i * dim..][..dim], head.row(j))).collect();
            let max = maximum(&logits);
            let total: f64 = logits.iter().map(|l| (l - max).exp()).sum();
            max + total.ln() - logits[target as usize]
        };
        targets.iter().enumerate().map(row_loss).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn maximum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn softmax(values: &mut [f64]) {
    let max = maximum(values);
    values.iter_mut().for_each(|v| *v = (*v - max).exp());
    let total: f64 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= total);
}

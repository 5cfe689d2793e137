//! [`Cpu`]: f32 arithmetic on all cores.

mod buffer;
mod gemm;
mod kernel;
mod pack;

pub use buffer::CpuBuffer;
use gemm::Target;

use crate::{Accumulate, Activation, Attention, Backend, Real, RopeTable, StoredMatrix, shapes};
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
    type Matrix = StoredMatrix;

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
        buffer.0.resize(len, 0.0);
    }

    fn len(&self, buffer: &CpuBuffer) -> usize {
        buffer.len()
    }

    fn matrix(&self, stored: StoredMatrix) -> StoredMatrix {
        stored
    }

    fn embed(&self, table: &StoredMatrix, ids: &[u32], out: &mut CpuBuffer) {
        shapes::embed(table.shape(), ids, out.len());
        let [_, dim] = table.shape();
        for (row, &id) in out.chunks_exact_mut(dim).zip(ids) {
            table.widen_rows(id as usize..id as usize + 1, row);
        }
    }

    fn linear(&self, x: &CpuBuffer, w: &StoredMatrix, rows: usize, mode: Accumulate, out: &mut CpuBuffer) {
        shapes::linear(x.len(), w.shape(), rows, out.len());
        let mut target = Target { weight: w, out };
        gemm::products(self.arch, x, rows, mode, std::slice::from_mut(&mut target));
    }

    fn linears(&self, x: &CpuBuffer, rows: usize, mode: Accumulate, pairs: &mut [(&StoredMatrix, &mut CpuBuffer)]) {
        let check =
            |(w, out): &mut (&StoredMatrix, &mut CpuBuffer)| shapes::linear(x.len(), w.shape(), rows, out.len());
        pairs.iter_mut().for_each(check);
        let mut targets: Vec<_> = pairs.iter_mut().map(|(w, out)| Target { weight: w, out }).collect();
        gemm::products(self.arch, x, rows, mode, &mut targets);
    }

    fn add_bias(&self, x: &mut CpuBuffer, bias: &CpuBuffer) {
        shapes::grouped("add_bias", x.len(), bias.len());
        for row in x.chunks_exact_mut(bias.len()) {
            for (value, b) in row.iter_mut().zip(&**bias) {
                *value += b;
            }
        }
    }

    fn rms_norm(&self, x: &CpuBuffer, weight: &CpuBuffer, eps: f32, out: &mut CpuBuffer) {
        shapes::grouped("rms_norm", x.len(), weight.len());
        shapes::same("rms_norm", x.len(), out.len());
        let dim = weight.len();
        for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            let factor = 1.0 / (dot(x, x) / dim as f32 + eps).sqrt();
            for j in 0..dim {
                out[j] = x[j] * factor * weight[j];
            }
        }
    }

    fn rope(&self, x: &mut CpuBuffer, table: &RopeTable, positions: &[u32], heads: usize) {
        shapes::rope(x.len(), table, positions, heads);
        let half = table.half_dim;
        for (row, &position) in x.chunks_exact_mut(heads * 2 * half).zip(positions) {
            let cos = &table.cos[position as usize * half..][..half];
            let sin = &table.sin[position as usize * half..][..half];
            for head in row.chunks_exact_mut(2 * half) {
                let (a, b) = head.split_at_mut(half);
                for j in 0..half {
                    (a[j], b[j]) = (a[j] * cos[j] - b[j] * sin[j], b[j] * cos[j] + a[j] * sin[j]);
                }
            }
        }
    }

    fn attention(&self, shape: &Attention<'_>, q: &CpuBuffer, k: &CpuBuffer, v: &CpuBuffer, out: &mut CpuBuffer) {
        let (q, k, v, out) = (&**q, &**k, &**v, &mut **out);
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
                    let mut weights: Vec<f32> = (first..=i)
                        .map(|j| dot(query, &k[key(j)..][..e]) * shape.scale)
                        .collect();
                    let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    weights.iter_mut().for_each(|w| *w = (*w - max).exp());
                    let total: f32 = weights.iter().sum();
                    for c in 0..e {
                        let sum: f32 = (first..=i).map(|j| weights[j - first] * v[key(j) + c]).sum();
                        out[(i * heads + h) * e + c] = sum / total;
                    }
                }
            }
        }
    }

    fn gated(&self, activation: Activation, gate: &mut CpuBuffer, up: &CpuBuffer) {
        shapes::same("gated", gate.len(), up.len());
        for (z, up) in gate.iter_mut().zip(&**up) {
            let exponent = match activation {
                Activation::Silu => *z,
                Activation::GeluTanh => 2.0 * (2.0 / std::f32::consts::PI).sqrt() * (*z + 0.044715 * z.powi(3)),
            };
            *z = *z / (1.0 + (-exponent).exp()) * up;
        }
    }

    fn add(&self, x: &mut CpuBuffer, y: &CpuBuffer) {
        shapes::same("add", x.len(), y.len());
        for (x, y) in x.iter_mut().zip(&**y) {
            *x += y;
        }
    }

    fn scale(&self, x: &mut CpuBuffer, factor: f32) {
        for x in &mut **x {
            *x *= factor;
        }
    }

    fn cross_entropy(&self, x: &CpuBuffer, head: &StoredMatrix, targets: &[u32]) -> Vec<f64> {
        shapes::cross_entropy(x.len(), head.shape(), targets);
        let [vocab, dim] = head.shape();
        let mut losses = Vec::with_capacity(targets.len());
        for (x, targets) in x.chunks(dim * 64).zip(targets.chunks(64)) {
            let mut logits = self.zeros(targets.len() * vocab);
            self.linear(&self.upload(x), head, targets.len(), Accumulate::Write, &mut logits);
            for (logits, &target) in logits.chunks_exact(vocab).zip(targets) {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
                losses.push(f64::from(max) + total.ln() - f64::from(logits[target as usize]));
            }
        }
        losses
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for l in 0..16 {
            lanes[l] += a[l] * b[l];
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

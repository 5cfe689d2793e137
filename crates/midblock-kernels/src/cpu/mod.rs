//! [`Cpu`]: f32 arithmetic on all cores.

mod attention;
mod buffer;
mod elementwise;
mod exp;
mod gemm;
mod kernel;
mod loss;
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
        buffer.resize(len);
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
        elementwise::add_bias(self.arch, x, bias);
    }

    fn rms_norm(&self, x: &CpuBuffer, weight: &CpuBuffer, eps: f32, out: &mut CpuBuffer) {
        shapes::grouped("rms_norm", x.len(), weight.len());
        shapes::same("rms_norm", x.len(), out.len());
        elementwise::rms_norm(self.arch, x, weight, eps, out);
    }

    fn rope(&self, x: &mut CpuBuffer, table: &RopeTable, positions: &[u32], heads: usize) {
        shapes::rope(x.len(), table, positions, heads);
        elementwise::rope(self.arch, x, table, positions, heads);
    }

    fn attention(&self, shape: &Attention<'_>, q: &CpuBuffer, k: &CpuBuffer, v: &CpuBuffer, out: &mut CpuBuffer) {
        shapes::attention(shape, [q.len(), k.len(), v.len(), out.len()]);
        attention::attention(self.arch, shape, q, k, v, out);
    }

    fn gated(&self, activation: Activation, gate: &mut CpuBuffer, up: &CpuBuffer) {
        shapes::same("gated", gate.len(), up.len());
        elementwise::gated(self.arch, activation, gate, up);
    }

    fn add(&self, x: &mut CpuBuffer, y: &CpuBuffer) {
        shapes::same("add", x.len(), y.len());
        elementwise::add(self.arch, x, y);
    }

    fn scale(&self, x: &mut CpuBuffer, factor: f32) {
        elementwise::scale(self.arch, x, factor);
    }

    fn cross_entropy(&self, x: &CpuBuffer, head: &StoredMatrix, targets: &[u32]) -> Vec<f64> {
        shapes::cross_entropy(x.len(), head.shape(), targets);
        loss::cross_entropy(self.arch, x, head, targets)
    }
}

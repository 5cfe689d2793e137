//! Rows picked out of a table and put back.

use super::{elementwise::chunk, matrix::CpuMatrix};
use rayon::prelude::*;

pub(super) fn embed(table: &CpuMatrix, ids: &[u32], out: &mut [f32]) {
    let [_, dim] = table.shape();
    for (row, &id) in out.chunks_exact_mut(dim).zip(ids) {
        table.row(id as usize, row);
    }
}

/// Rows in order, so that a table's row that several name is summed in one order.
pub(super) fn embed_backward(ids: &[u32], dim: usize, d_out: &[f32], d_table: &mut [f32]) {
    for (d_out, &id) in d_out.chunks_exact(dim).zip(ids) {
        let row = &mut d_table[id as usize * dim..][..dim];
        row.iter_mut().zip(d_out).for_each(|(row, d_out)| *row += d_out);
    }
}

pub(super) fn gather(x: &[f32], rows: &[usize], width: usize, out: &mut [f32]) {
    let pick = |(out, rows): (&mut [f32], &[usize])| {
        for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[row * width..][..width]);
        }
    };
    let len = chunk(width);
    if out.len() <= len {
        return pick((out, rows));
    }
    out.par_chunks_mut(len).zip(rows.par_chunks(len / width)).for_each(pick);
}

pub(super) fn scatter(x: &[f32], rows: &[usize], width: usize, out: &mut [f32]) {
    for (x, &row) in x.chunks_exact(width).zip(rows) {
        out[row * width..][..width].copy_from_slice(x);
    }
}

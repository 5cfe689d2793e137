//! Rotary embedding: pairs `(j, j + E/2)` of each head turn by the angle of their position; backward they turn back.

use super::elementwise::CHUNK;
use crate::RopeTable;
use pulp::Arch;
use rayon::prelude::*;

/// Rotates forward, or backward with a `direction` of −1.
pub(super) fn rope(arch: Arch, x: &mut [f32], table: &RopeTable, positions: &[u32], heads: usize, direction: f32) {
    let width = heads * 2 * table.half_dim;
    let rows = (CHUNK / width).max(1);
    let rotate = |(x, positions): (&mut [f32], &[u32])| {
        arch.dispatch(
            #[inline(always)]
            || {
                for (row, position) in x.chunks_exact_mut(width).zip(positions) {
                    rotate_row(row, table, *position as usize, direction);
                }
            },
        );
    };
    if positions.len() <= rows {
        return rotate((x, positions));
    }
    x.par_chunks_mut(rows * width)
        .zip(positions.par_chunks(rows))
        .for_each(rotate);
}

#[inline(always)]
fn rotate_row(row: &mut [f32], table: &RopeTable, position: usize, direction: f32) {
    let half = table.half_dim;
    let cos = &table.cos[position * half..][..half];
    let sin = &table.sin[position * half..][..half];
    for head in row.chunks_exact_mut(2 * half) {
        let (a, b) = head.split_at_mut(half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let sin = direction * sin;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

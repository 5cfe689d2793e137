//! `out (+)= x · Wᵀ` for one or several W with the same x: packing, blocking and sharing out.
//!
//! The sum is cut into blocks of [`DEPTH`]; of each block, x is packed once by all threads, and a task packs a few panels of
//! W, widening them from their storage format, into its own scratch and multiplies them with all rows. W is thus read once
//! per [`ROWS`] rows and never exists widened beyond a task's panels. Blocks of the sum are added to the output in order:
//! results depend neither on the number of threads nor on the other rows.
//!
//! Packing against memory: Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), section 4.

use super::{
    buffer::with_scratch,
    kernel::{Output, Product, Tile},
    pack,
};
use crate::{Accumulate, Dtype, StoredMatrix};
use pulp::{Arch, bytemuck::try_cast_slice};
use rayon::prelude::*;
use std::ops::Range;

/// Length of a block of the sum. A multiple of every storage format's block, so that blocks of W can be widened alone.
const DEPTH: usize = 768;
/// Rows of x that are packed at a time.
const ROWS: usize = 1024;
/// Most panels of W that a task takes: with [`DEPTH`] they fill about half of a second-level cache.
const PANELS: usize = 4;
/// Widened rows of W that are transposed at a time, and how much of their length: they stay in the first-level cache.
const WIDEN: [usize; 2] = [16, 256];

/// One weight matrix and where its product goes.
pub(super) struct Target<'a> {
    pub weight: &'a StoredMatrix,
    pub out: &'a mut [f32],
}

/// `out (+)= x · Wᵀ` for each target; all have the same number of input features.
pub(super) fn products(arch: Arch, x: &[f32], rows: usize, mode: Accumulate, targets: &mut [Target<'_>]) {
    let Some(depth) = targets.first().map(|t| t.weight.shape()[1]) else {
        return;
    };
    for first in (0..rows).step_by(ROWS) {
        let rows = ROWS.min(rows - first);
        let x = &x[first * depth..][..rows * depth];
        with_scratch(rows * depth, |packed| {
            pack_rows(Tile::of(arch), x, rows, packed);
            multiply(arch, packed, rows, first, mode, targets);
        });
    }
}

/// Packs x, block of the sum after block, so that the block at `k` starts at `rows · k`.
pub(super) fn pack_rows(tile: Tile, x: &[f32], rows: usize, packed: &mut [f32]) {
    let depth = x.len() / rows;
    for block in blocks(depth) {
        let len = block.len();
        let packed = &mut packed[rows * block.start..rows * block.end];
        packed
            .par_chunks_mut(tile.rows * len)
            .with_min_len(4)
            .enumerate()
            .for_each(|(index, tiles)| {
                let row = |r: usize| &x[(index * tile.rows + r) * depth..][block.clone()];
                pack::rows(tile, tiles.len() / len, row, tiles);
            });
    }
}

fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth)
        .step_by(DEPTH)
        .map(move |start| start..depth.min(start + DEPTH))
}

/// Multiplies packed rows, which are rows `first..` of the outputs, with all targets.
fn multiply(arch: Arch, packed: &[f32], rows: usize, first: usize, mode: Accumulate, targets: &mut [Target<'_>]) {
    let tile = Tile::of(arch);
    let panels: usize = targets.iter().map(|t| t.weight.shape()[0].div_ceil(tile.columns)).sum();
    let width = panels_per_task(panels, rayon::current_num_threads()) * tile.columns;
    let mut tasks = Vec::new();
    for target in targets {
        let [n, _] = target.weight.shape();
        // SAFETY: tasks own disjoint columns of the output, and it is borrowed until they are done.
        let out = unsafe { Output::new(&mut target.out[first * n..][..rows * n], n) };
        tasks.extend((0..n).step_by(width).map(|c| (target.weight, c..n.min(c + width), out)));
    }
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(weight, columns, out)| {
            // SAFETY: the first of `columns` is one of the output's.
            let out = unsafe { out.at(0, columns.start) };
            columns_product(arch, packed, rows, weight, columns, mode == Accumulate::Add, out);
        });
}

/// How many panels a task takes so that threads finish together: the widest tasks of those that leave the busiest thread the
/// least to do, but two a thread where there are panels enough, to even out threads that are held up.
fn panels_per_task(panels: usize, threads: usize) -> usize {
    let busiest = |width: usize| panels.div_ceil(width).div_ceil(threads) * width;
    let widest = (panels / (2 * threads)).clamp(1, PANELS);
    (1..=widest).rev().min_by_key(|width| busiest(*width)).unwrap_or(1)
}

/// The product of packed rows with a range of W's rows.
pub(super) fn columns_product(
    arch: Arch,
    packed: &[f32],
    rows: usize,
    weight: &StoredMatrix,
    columns: Range<usize>,
    add: bool,
    out: Output,
) {
    let tile = Tile::of(arch);
    let [_, depth] = weight.shape();
    let padded = columns.len().next_multiple_of(tile.columns);
    with_scratch(padded * DEPTH.min(depth), |w| {
        for block in blocks(depth) {
            let len = block.len();
            let w = &mut w[..padded * len];
            pack_weight(tile, weight, columns.clone(), block.clone(), w);
            arch.dispatch(Product {
                x: &packed[rows * block.start..rows * block.end],
                x_stride: len,
                w,
                depth: len,
                rows,
                columns: columns.len(),
                out,
                add: add || block.start > 0,
            });
        }
    });
}

/// Packs the part `columns` × `block` of W, widening it on the way.
fn pack_weight(tile: Tile, weight: &StoredMatrix, columns: Range<usize>, block: Range<usize>, out: &mut [f32]) {
    let mut widened = [0.0; WIDEN[0] * WIDEN[1]];
    let starts = columns.clone().step_by(tile.columns);
    for (panel, first) in out.chunks_exact_mut(tile.columns * block.len()).zip(starts) {
        let here = tile.columns.min(columns.end - first);
        if here < tile.columns {
            panel.fill(0.0);
        }
        for start in block.clone().step_by(WIDEN[1]) {
            let part = start..block.end.min(start + WIDEN[1]);
            for strip in (0..here).step_by(WIDEN[0]) {
                let strip_columns = WIDEN[0].min(here - strip);
                let rows = first + strip..first + strip + strip_columns;
                let (values, stride) = widen_part(weight, rows, part.clone(), &mut widened);
                let row = |r: usize| &values[r * stride..][..part.len()];
                let out = &mut panel[(start - block.start) * tile.columns + strip..];
                pack::transpose(strip_columns, part.len(), row, out, tile.columns);
            }
        }
    }
}

/// The part `rows` × `columns` of W in f32, and the distance of its rows: where it is stored, if that is f32 in memory's
/// alignment, else widened.
fn widen_part<'a>(
    weight: &'a StoredMatrix,
    rows: Range<usize>,
    columns: Range<usize>,
    widened: &'a mut [f32],
) -> (&'a [f32], usize) {
    let dtype = weight.dtype();
    let [_, depth] = weight.shape();
    let stored = weight.row_bytes(rows.clone());
    if dtype == Dtype::F32
        && cfg!(target_endian = "little")
        && let Ok(values) = try_cast_slice(stored)
    {
        return (&values[columns.start..], depth);
    }
    let bytes = |k: usize| k / dtype.block_len() * dtype.block_bytes();
    for (stored, row) in stored
        .chunks_exact(bytes(depth))
        .zip(widened.chunks_exact_mut(WIDEN[1]))
    {
        dtype.widen(
            &stored[bytes(columns.start)..bytes(columns.end)],
            &mut row[..columns.len()],
        );
    }
    (widened, WIDEN[1])
}

//! Products of two matrices that share one dimension, and sums of such products: packing, blocking and sharing out.
//!
//! Any of the three products of a linear layer is one of these: forward `x · Wᵀ` sums over the columns of both factors,
//! `dy · W` over the columns of the one and the rows of the other, `dyᵀ · x` over the rows of both. Only packing differs.
//!
//! The sum is cut into blocks of [`DEPTH`]; of each block, the left factor is packed once by all threads, and a task packs a
//! few panels of the right one, widening them from their storage format, into its own scratch and multiplies them with all
//! rows. The right factor is thus read once per [`ROWS`] rows and never exists widened beyond a task's panels. Blocks of the
//! sum are added to the output in order: results depend neither on the number of threads nor on the other rows.
//!
//! Packing against memory: Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), section 4.

use super::{
    buffer::{split_off, with_scratch},
    kernel::{Columns, Output, Product, Tile},
    matrix::Source,
    pack,
    transpose::transpose,
};
use crate::Accumulate;
use pulp::Arch;
use rayon::prelude::*;
use std::ops::Range;

/// Length of a block of the sum. A multiple of every storage format's block, so that blocks of W can be widened alone.
const DEPTH: usize = 768;
/// Rows of the left factor that are packed at a time.
const ROWS: usize = 1024;
/// Most panels of the right factor that a task takes: with [`DEPTH`] they fill about half of a second-level cache.
const PANELS: usize = 4;
/// Most rows with which a k-major right factor is multiplied where it lies: moving it would cost more than it saves.
const IN_PLACE: usize = 24;
/// Tiles of the left factor that are packed by one task.
const TILES: usize = 4;
/// Widened rows of the right factor that are transposed at a time, and how much of their length: they stay in the
/// first-level cache.
const WIDEN: [usize; 2] = [16, 256];

/// Which of a factor's dimensions is summed over; the other one is the output's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Summed {
    Rows,
    Columns,
}

/// A matrix that takes part in a product.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    matrix: Source<'a>,
    summed: Summed,
}

impl<'a> Factor<'a> {
    pub(super) fn new(matrix: Source<'a>, summed: Summed) -> Self {
        Self { matrix, summed }
    }

    /// Activations of the given shape.
    pub(super) fn values(values: &'a [f32], shape: [usize; 2], summed: Summed) -> Self {
        Self::new(Source::Values(values, shape), summed)
    }

    /// Length of the dimension that is the output's.
    pub(super) fn len(self) -> usize {
        let [rows, columns] = self.matrix.shape();
        if self.summed == Summed::Columns { rows } else { columns }
    }

    /// Length of the dimension that is summed over.
    pub(super) fn depth(self) -> usize {
        let [rows, columns] = self.matrix.shape();
        if self.summed == Summed::Columns { columns } else { rows }
    }
}

/// `out (+)= left · right` for each pair of a right factor and an output.
pub(super) fn products(arch: Arch, left: Factor<'_>, mode: Accumulate, pairs: &mut [(Factor<'_>, &mut [f32])]) {
    let mut targets: Vec<_> = pairs
        .iter_mut()
        .map(|(right, out)| Target {
            terms: vec![(0, *right)],
            out,
        })
        .collect();
    run(arch, &[left], mode, &mut targets);
}

/// `out (+)= Σ left · right`.
pub(super) fn sum_of_products(arch: Arch, terms: &[(Factor<'_>, Factor<'_>)], mode: Accumulate, out: &mut [f32]) {
    let lefts: Vec<_> = terms.iter().map(|(left, _)| *left).collect();
    let terms = terms.iter().enumerate().map(|(i, (_, right))| (i, *right)).collect();
    run(arch, &lefts, mode, &mut [Target { terms, out }]);
}

/// An output and the products it sums: which of the left factors with what.
struct Target<'a> {
    terms: Vec<(usize, Factor<'a>)>,
    out: &'a mut [f32],
}

/// Computes the targets for [`ROWS`] rows of the left factors after the other.
fn run(arch: Arch, lefts: &[Factor<'_>], mode: Accumulate, targets: &mut [Target<'_>]) {
    let Some(len) = lefts.first().map(|left| left.len()).filter(|_| !targets.is_empty()) else {
        return;
    };
    for first in (0..len).step_by(ROWS) {
        let rows = first..len.min(first + ROWS);
        let depths: usize = lefts.iter().map(|left| left.depth()).sum();
        with_scratch(rows.len() * depths, |mut packed| {
            let mut parts = Vec::with_capacity(lefts.len());
            for left in lefts {
                let part = split_off(&mut packed, rows.len() * left.depth());
                parts.push(pack_left(Tile::of(arch), *left, rows.clone(), part));
            }
            multiply(arch, &parts, rows, mode, targets);
        });
    }
}

/// Rows of a left factor, packed block of the sum after block.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    values: &'a [f32],
    rows: usize,
}

impl<'a> Packed<'a> {
    fn depth(self) -> usize {
        self.values.len() / self.rows
    }

    fn block(self, block: Range<usize>) -> &'a [f32] {
        &self.values[self.rows * block.start..self.rows * block.end]
    }
}

/// Packs rows of the left factor into `packed`, as long as they.
pub(super) fn pack_left<'a>(tile: Tile, left: Factor<'_>, rows: Range<usize>, packed: &'a mut [f32]) -> Packed<'a> {
    let values = left.matrix.plain().expect("invariant: activations are plain f32");
    let [_, width] = left.matrix.shape();
    for block in blocks(left.depth()) {
        let depth = block.len();
        packed[rows.len() * block.start..rows.len() * block.end]
            .par_chunks_mut(TILES * tile.rows * depth)
            .enumerate()
            .for_each(|(index, tiles)| {
                let first = rows.start + index * TILES * tile.rows;
                let here = tiles.len() / depth;
                match left.summed {
                    Summed::Columns => {
                        let row = |r: usize| &values[(first + r) * width..][block.clone()];
                        pack::rows(tile, here, row, tiles);
                    }
                    Summed::Rows => {
                        let step = |k: usize| &values[(block.start + k) * width + first..][..here];
                        pack::rows_by_step(tile, depth, step, tiles);
                    }
                }
            });
    }
    Packed {
        values: packed,
        rows: rows.len(),
    }
}

fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth)
        .step_by(DEPTH)
        .map(move |start| start..depth.min(start + DEPTH))
}

/// Multiplies packed left factors, which are the rows `rows` of the outputs, with the right ones of all targets.
fn multiply(arch: Arch, packed: &[Packed<'_>], rows: Range<usize>, mode: Accumulate, targets: &mut [Target<'_>]) {
    let tile = Tile::of(arch);
    let columns = |target: &Target<'_>| target.terms.first().map_or(0, |(_, right)| right.len());
    let panels: usize = targets.iter().map(|t| columns(t).div_ceil(tile.columns)).sum();
    let width = panels_per_task(panels, rayon::current_num_threads()) * tile.columns;
    let mut tasks = Vec::new();
    for target in targets {
        let n = columns(target);
        // SAFETY: tasks own disjoint columns of the output, and it is borrowed until they are done.
        let out = unsafe { Output::new(&mut target.out[rows.start * n..rows.end * n], n) };
        let terms = &target.terms;
        tasks.extend((0..n).step_by(width).map(|c| (terms, c..n.min(c + width), out)));
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(terms, columns, out)| {
        // SAFETY: the first of `columns` is one of the output's.
        let out = unsafe { out.at(0, columns.start) };
        for (i, (left, right)) in terms.iter().enumerate() {
            let add = i > 0 || mode == Accumulate::Add;
            columns_product(arch, packed[*left], *right, columns.clone(), add, out);
        }
    });
}

/// How many panels a task takes so that threads finish together: the widest tasks of those that leave the busiest thread the
/// least to do, but two a thread where there are panels enough, to even out threads that are held up.
fn panels_per_task(panels: usize, threads: usize) -> usize {
    let busiest = |width: usize| panels.div_ceil(width).div_ceil(threads) * width;
    let widest = (panels / (2 * threads)).clamp(1, PANELS);
    (1..=widest).rev().min_by_key(|width| busiest(*width)).unwrap_or(1)
}

/// The product of packed rows with a range of the right factor's columns (those of the output).
pub(super) fn columns_product(
    arch: Arch,
    left: Packed<'_>,
    right: Factor<'_>,
    columns: Range<usize>,
    add: bool,
    out: Output,
) {
    let width = Tile::of(arch).columns;
    let mut left_over = columns.clone();
    if left.rows <= IN_PLACE
        && right.summed == Summed::Rows
        && let Some(values) = right.matrix.plain()
    {
        left_over.start += columns.len() / width * width;
        let here = columns.start..left_over.start;
        multiply_in_place(arch, left, values, right.len(), here, add, out);
    }
    if !left_over.is_empty() {
        // SAFETY: one of the output's columns.
        let out = unsafe { out.at(0, left_over.start - columns.start) };
        multiply_packed(arch, left, right, left_over, add, out);
    }
}

/// With the columns `columns` of k-major values, whole panels, whose steps are `stride` apart.
fn multiply_in_place(
    arch: Arch,
    left: Packed<'_>,
    values: &[f32],
    stride: usize,
    columns: Range<usize>,
    add: bool,
    out: Output,
) {
    for block in blocks(left.depth()) {
        let values = &values[block.start * stride + columns.start..];
        arch.dispatch(Product {
            x: left.block(block.clone()),
            x_stride: block.len(),
            skip: 0,
            w: Columns::InPlace { values, stride },
            depth: block.len(),
            rows: left.rows,
            columns: columns.len(),
            out,
            add: add || block.start > 0,
        });
    }
}

/// With panels that are packed, a block of the sum at a time.
fn multiply_packed(arch: Arch, left: Packed<'_>, right: Factor<'_>, columns: Range<usize>, add: bool, out: Output) {
    let tile = Tile::of(arch);
    let padded = columns.len().next_multiple_of(tile.columns);
    with_scratch(padded * DEPTH.min(left.depth()), |w| {
        for block in blocks(left.depth()) {
            let w = &mut w[..padded * block.len()];
            match right.summed {
                Summed::Columns => transpose_right(tile, right.matrix, columns.clone(), block.clone(), w),
                Summed::Rows => copy_right(tile, right.matrix, block.clone(), columns.clone(), w),
            }
            arch.dispatch(Product {
                x: left.block(block.clone()),
                x_stride: block.len(),
                skip: 0,
                w: Columns::Panels(w),
                depth: block.len(),
                rows: left.rows,
                columns: columns.len(),
                out,
                add: add || block.start > 0,
            });
        }
    });
}

/// Packs the part `rows` × `block` of a matrix whose rows are the output's columns, widening it on the way.
fn transpose_right(tile: Tile, matrix: Source<'_>, rows: Range<usize>, block: Range<usize>, out: &mut [f32]) {
    let mut widened = [0.0; WIDEN[0] * WIDEN[1]];
    let starts = rows.clone().step_by(tile.columns);
    for (panel, first) in out.chunks_exact_mut(tile.columns * block.len()).zip(starts) {
        let here = tile.columns.min(rows.end - first);
        if here < tile.columns {
            panel.fill(0.0);
        }
        for start in block.clone().step_by(WIDEN[1]) {
            let part = start..block.end.min(start + WIDEN[1]);
            for strip in (0..here).step_by(WIDEN[0]) {
                let height = WIDEN[0].min(here - strip);
                let rows = first + strip..first + strip + height;
                let (values, stride) = matrix.part(rows, part.clone(), &mut widened);
                let row = |r: usize| &values[r * stride..][..part.len()];
                let out = &mut panel[(start - block.start) * tile.columns + strip..];
                transpose(height, part.len(), row, out, tile.columns);
            }
        }
    }
}

/// Packs the part `block` × `columns` of a matrix whose columns are the output's, widening it on the way.
fn copy_right(tile: Tile, matrix: Source<'_>, block: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
    let mut widened = [0.0; WIDEN[0] * WIDEN[1]];
    let height = (widened.len() / matrix.stride(columns.clone())).clamp(1, block.len().max(1));
    for start in block.clone().step_by(height) {
        let rows = start..block.end.min(start + height);
        let (values, stride) = matrix.part(rows.clone(), columns.clone(), &mut widened);
        for k in 0..rows.len() {
            let row = &values[k * stride..][..columns.len()];
            let depth = start - block.start + k;
            pack::step_of_columns(tile, block.len(), depth, row, out);
        }
    }
}

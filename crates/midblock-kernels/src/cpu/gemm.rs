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
/// Most elements of the left factor that are packed at a time, for a sum as long as a vocabulary: 16 MiB.
const PACKED: usize = 1 << 22;
/// Most panels of the right factor that a task takes: with [`DEPTH`] they fill about half of a second-level cache.
const PANELS: usize = 4;
/// Most rows with which a k-major right factor is multiplied where it lies: moving it would cost more than it saves.
const IN_PLACE: usize = 64;
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

/// Computes the targets for some rows of the left factors after the other, and of them for some of the sum.
fn run(arch: Arch, lefts: &[Factor<'_>], mode: Accumulate, targets: &mut [Target<'_>]) {
    let Some(len) = lefts.first().map(|left| left.len()).filter(|_| !targets.is_empty()) else {
        return;
    };
    for first in (0..len).step_by(ROWS) {
        let rows = first..len.min(first + ROWS);
        for slab in slabs(lefts, rows.len()) {
            let depth: usize = slab.iter().map(|(_, depth)| depth.len()).sum();
            with_scratch(rows.len() * depth, |mut packed| {
                let parts: Vec<_> = slab
                    .into_iter()
                    .map(|(index, depth)| {
                        let part = split_off(&mut packed, rows.len() * depth.len());
                        (
                            index,
                            pack_left(Tile::of(arch), lefts[index], rows.clone(), depth, part),
                        )
                    })
                    .collect();
                multiply(arch, &parts, rows.clone(), mode, targets);
            });
        }
    }
}

/// The blocks of all left factors' sums in order, as many at a time as are to be packed: which factor, and what of its sum.
fn slabs(lefts: &[Factor<'_>], rows: usize) -> Vec<Vec<(usize, Range<usize>)>> {
    let limit = (PACKED / rows).max(DEPTH);
    let mut slabs = vec![Vec::new()];
    let mut used = 0;
    for (index, left) in lefts.iter().enumerate() {
        for block in blocks(0..left.depth()) {
            if used + block.len() > limit {
                slabs.push(Vec::new());
                used = 0;
            }
            used += block.len();
            let slab: &mut Vec<(usize, Range<usize>)> = slabs.last_mut().expect("invariant: there is a first slab");
            match slab.last_mut() {
                Some((of, depth)) if *of == index => depth.end = block.end,
                _ => slab.push((index, block)),
            }
        }
    }
    slabs
}

/// Rows of a left factor and what of their sum, packed block after block.
#[derive(Clone)]
pub(super) struct Packed<'a> {
    values: &'a [f32],
    rows: usize,
    depth: Range<usize>,
}

impl<'a> Packed<'a> {
    fn blocks(&self) -> impl Iterator<Item = (Range<usize>, &'a [f32])> {
        let (values, rows, start) = (self.values, self.rows, self.depth.start);
        blocks(self.depth.clone()).map(move |block| {
            let values = &values[rows * (block.start - start)..rows * (block.end - start)];
            (block, values)
        })
    }
}

/// Packs what `depth` says of rows of the left factor into `packed`, as long as they.
pub(super) fn pack_left<'a>(
    tile: Tile,
    left: Factor<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    packed: &'a mut [f32],
) -> Packed<'a> {
    let values = left.matrix.plain().expect("invariant: activations are plain f32");
    let [_, width] = left.matrix.shape();
    let mut left_over = &mut *packed;
    for block in blocks(depth.clone()) {
        let depth = block.len();
        split_off(&mut left_over, rows.len() * depth)
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
        depth,
    }
}

fn blocks(depth: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = depth.end;
    depth.step_by(DEPTH).map(move |start| start..end.min(start + DEPTH))
}

/// Multiplies packed left factors, which are the rows `rows` of the outputs, with the right ones of all targets.
fn multiply(
    arch: Arch,
    packed: &[(usize, Packed<'_>)],
    rows: Range<usize>,
    mode: Accumulate,
    targets: &mut [Target<'_>],
) {
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
        for (i, (index, right)) in terms.iter().enumerate() {
            for (_, left) in packed.iter().filter(|(of, _)| of == index) {
                let first = i == 0 && left.depth.start == 0;
                let add = mode == Accumulate::Add || !first;
                columns_product(arch, left, *right, columns.clone(), add, out);
            }
        }
    });
}

/// How many panels a task takes so that threads finish together: the widest tasks of those that leave the busiest thread the
/// least to do, but two a thread where there are panels enough, to even out threads that are held up.
pub(super) fn panels_per_task(panels: usize, threads: usize) -> usize {
    let busiest = |width: usize| panels.div_ceil(width).div_ceil(threads) * width;
    let widest = (panels / (2 * threads)).clamp(1, PANELS);
    (1..=widest).rev().min_by_key(|width| busiest(*width)).unwrap_or(1)
}

/// The product of packed rows with a range of the right factor's columns (those of the output).
pub(super) fn columns_product(
    arch: Arch,
    left: &Packed<'_>,
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
    left: &Packed<'_>,
    values: &[f32],
    stride: usize,
    columns: Range<usize>,
    add: bool,
    out: Output,
) {
    for (i, (block, x)) in left.blocks().enumerate() {
        let values = &values[block.start * stride + columns.start..];
        arch.dispatch(Product {
            x,
            x_stride: block.len(),
            skip: 0,
            w: Columns::InPlace { values, stride },
            depth: block.len(),
            rows: left.rows,
            columns: columns.len(),
            out,
            add: add || i > 0,
        });
    }
}

/// With panels that are packed, a block of the sum at a time.
fn multiply_packed(arch: Arch, left: &Packed<'_>, right: Factor<'_>, columns: Range<usize>, add: bool, out: Output) {
    let tile = Tile::of(arch);
    let padded = columns.len().next_multiple_of(tile.columns);
    with_scratch(padded * DEPTH.min(left.depth.len()), |w| {
        for (i, (block, x)) in left.blocks().enumerate() {
            let w = &mut w[..padded * block.len()];
            match right.summed {
                Summed::Columns => transpose_right(tile, right.matrix, columns.clone(), block.clone(), w),
                Summed::Rows => copy_right(tile, right.matrix, block.clone(), columns.clone(), w),
            }
            arch.dispatch(Product {
                x,
                x_stride: block.len(),
                skip: 0,
                w: Columns::Panels(w),
                depth: block.len(),
                rows: left.rows,
                columns: columns.len(),
                out,
                add: add || i > 0,
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

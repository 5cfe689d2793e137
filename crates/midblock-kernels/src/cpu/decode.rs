//! Products with few rows of x, those of a decoding step: what takes longest is reading the weights, so each is read once, in
//! the order of storage, and nothing is packed.
//!
//! A task is a run of rows of one W. It goes through them a strip and a block of the sum at a time: where they are not plain
//! f32 they are widened into scratch that stays in the first-level cache, and multiplied with all rows of x from there, while the
//! next strip is on its way from memory. Blocks of the sum are cut by its length alone and added to the output in order, so a
//! row's bits depend neither on the other rows nor on the number of threads, and are those that W widened beforehand would give.

use super::{
    buffer::with_scratch,
    dots::{Dots, ROWS},
    kernel::Output,
    matrix::Source,
};
use crate::Accumulate;
use pulp::Arch;
use rayon::prelude::*;
use std::ops::Range;

/// Length of a block of the sum. A multiple of every storage format's block, so that blocks of W can be widened alone.
const DEPTH: usize = 768;
/// Rows of W in a strip, a multiple of a tile's: with [`DEPTH`] they fill about half of a first-level cache.
const STRIP: usize = 6;
/// Tasks for each thread, to even out threads that are held up.
const TASKS: usize = 4;

/// `out (+)= x · Wᵀ` for each pair of a W and an output: x (rows, k), W (n, k), out (rows, n).
pub(super) fn products(arch: Arch, x: &[f32], rows: usize, mode: Accumulate, pairs: &mut [(Source<'_>, &mut [f32])]) {
    let columns: usize = pairs.iter().map(|(w, _)| w.shape()[0]).sum();
    let width = columns.div_ceil(TASKS * rayon::current_num_threads());
    let width = width.next_multiple_of(STRIP).max(STRIP);
    let mut tasks = Vec::with_capacity(columns / width + pairs.len());
    for (w, out) in pairs {
        let [n, _] = w.shape();
        // SAFETY: tasks own disjoint columns of the output, and it is borrowed until they are done.
        let out = unsafe { Output::new(out, n) };
        tasks.extend((0..n).step_by(width).map(|c| (*w, c..n.min(c + width), out)));
    }
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(w, columns, out)| columns_product(arch, x, rows, w, columns, mode, out));
}

/// The columns `columns` of the output, which are rows of W.
fn columns_product(
    arch: Arch,
    x: &[f32],
    rows: usize,
    w: Source<'_>,
    columns: Range<usize>,
    mode: Accumulate,
    out: Output,
) {
    let [_, k] = w.shape();
    let scratch = if w.plain().is_some() { 0 } else { STRIP * DEPTH.min(k) };
    let passes = k.div_ceil(DEPTH) * rows.div_ceil(ROWS);
    with_scratch(scratch, |widened| {
        for first in columns.clone().step_by(STRIP) {
            let end = columns.end.min(first + STRIP);
            let next = w.row_bytes(end..columns.end.min(end + STRIP));
            let mut next = next.chunks(next.len().div_ceil(passes.max(1)).max(1));
            for start in (0..k).step_by(DEPTH) {
                let block = start..k.min(start + DEPTH);
                let (w, w_stride) = w.part(first..end, block.clone(), widened);
                for row in (0..rows).step_by(ROWS) {
                    next.next().map(prefetch);
                    arch.dispatch(Dots {
                        x: &x[row * k + start..],
                        x_stride: k,
                        w,
                        w_stride,
                        depth: block.len(),
                        rows: ROWS.min(rows - row),
                        columns: end - first,
                        add: mode == Accumulate::Add || start > 0,
                        // SAFETY: one of the output's elements.
                        out: unsafe { out.at(row, first) },
                    });
                }
            }
        }
    });
}

/// Asks for the lines of `bytes` to be brought into the second-level cache, where the processor can be asked.
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, which changes nothing but the caches.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

//! A change of a matrix that masks let through row by row and column by column: the matrix itself, the gradient of its masks, and AdamW on
//! what is changed. Each passes once over the matrix.
//!
//! The base stays in its storage format: a row of it is widened when its turn comes. Work is cut into rows of about [`CHUNK`] elements, of
//! which there are at most [`TASKS`], whatever the number of threads: sums over rows are made per task and joined in order.

use super::{
    buffer::{CpuBuffer, with_scratch},
    elementwise::CHUNK,
    matrix::{CpuMatrix, Source},
    optimizer::Factors,
};
use crate::{AdamW, TunedState};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Most tasks of an operation.
const TASKS: usize = 64;

/// First moments below this become 0, which moves no weight by as much as its last digit: without a gradient they would halve until they
/// are denormal, which processors are slow with.
const TINY: f32 = 1e-30;

/// Rows of a task.
fn rows_of_task([n, k]: [usize; 2]) -> usize {
    (CHUNK / k.max(1)).max(n.div_ceil(TASKS)).max(1)
}

/// Calls `body` with a row of f32: where it lies, or widened.
fn with_row<R>(source: Source<'_>, row: usize, body: impl FnOnce(&[f32]) -> R) -> R {
    let [_, k] = source.shape();
    let room = if source.plain().is_some() { 0 } else { k };
    with_scratch(room, |widened| {
        let (values, _) = source.part(row..row + 1, 0..k, widened);
        body(&values[..k])
    })
}

/// `out = (1 − m) base + m tuned` with `m = rows ⊗ columns`.
pub(super) fn masked(
    arch: Arch,
    base: &CpuMatrix,
    tuned: &CpuMatrix,
    [rows, columns]: [&CpuBuffer; 2],
    out: &mut CpuBuffer,
) {
    let shape @ [_, k] = base.shape();
    let of_task = rows_of_task(shape);
    let tasks = out.par_chunks_mut((of_task * k).max(1)).enumerate();
    tasks.for_each(|(task, out)| {
        for (row, out) in (task * of_task..).zip(out.chunks_exact_mut(k)) {
            with_row(base.source(), row, |base| {
                with_row(tuned.source(), row, |tuned| {
                    let row = rows[row];
                    arch.dispatch(Blend {
                        base,
                        tuned,
                        columns,
                        row,
                        out,
                    });
                });
            });
        }
    });
}

struct Blend<'a> {
    base: &'a [f32],
    tuned: &'a [f32],
    columns: &'a [f32],
    row: f32,
    out: &'a mut [f32],
}

impl WithSimd for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let inputs = self.base.iter().zip(self.tuned).zip(self.columns);
        for (out, ((base, tuned), column)) in self.out.iter_mut().zip(inputs) {
            *out = blend(*base, *tuned, self.row * column);
        }
    }
}

#[inline(always)]
fn blend(base: f32, tuned: f32, mask: f32) -> f32 {
    (1.0 - mask) * base + mask * tuned
}

/// Adds the gradients of both masks, and returns the sum of squares of the tuned matrix's.
pub(super) fn masked_backward(
    arch: Arch,
    base: &CpuMatrix,
    tuned: &CpuMatrix,
    [rows, columns]: [&CpuBuffer; 2],
    gradient: &CpuBuffer,
    [d_rows, d_columns]: [&mut CpuBuffer; 2],
) -> f64 {
    let shape @ [n, k] = base.shape();
    let of_task = rows_of_task(shape);
    let width = k.next_multiple_of(LANES); // of a task's own sums
    with_scratch(n.div_ceil(of_task) * width, |partial| {
        let tasks = d_rows.par_chunks_mut(of_task).zip(partial.par_chunks_mut(width.max(1)));
        let squares: Vec<f64> = tasks
            .enumerate()
            .map(|(task, (d_rows, partial))| {
                partial.fill(0.0);
                let mut squares = 0.0;
                for (row, d_row) in (task * of_task..).zip(d_rows) {
                    with_row(base.source(), row, |base| {
                        with_row(tuned.source(), row, |tuned| {
                            let (sum, square) = arch.dispatch(Contract {
                                gradient: &gradient[row * k..][..k],
                                base,
                                tuned,
                                columns,
                                row: rows[row],
                                d_columns: &mut partial[..k],
                            });
                            *d_row += sum;
                            squares += f64::from(square);
                        });
                    });
                }
                squares
            })
            .collect();
        for partial in partial.chunks_exact(width.max(1)) {
            for (d_column, partial) in d_columns.iter_mut().zip(partial) {
                *d_column += partial;
            }
        }
        squares.into_iter().sum()
    })
}

/// Sums that are made side by side.
const LANES: usize = 16;

/// One row: returns `Σ g Δ columns` and `Σ (g · row · columns)²`, and adds `g Δ row` to `d_columns`.
struct Contract<'a> {
    gradient: &'a [f32],
    base: &'a [f32],
    tuned: &'a [f32],
    columns: &'a [f32],
    row: f32,
    d_columns: &'a mut [f32],
}

impl WithSimd for Contract<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (f32, f32) {
        let row = self.row;
        let (gradients, gradient) = self.gradient.as_chunks::<LANES>();
        let (bases, base) = self.base.as_chunks::<LANES>();
        let (tuneds, tuned) = self.tuned.as_chunks::<LANES>();
        let (columns, column) = self.columns.as_chunks::<LANES>();
        let (d_columns, d_column) = self.d_columns.as_chunks_mut::<LANES>();
        let (mut sums, mut squares) = ([0.0; LANES], [0.0; LANES]);
        let inputs = gradients.iter().zip(bases).zip(tuneds).zip(columns);
        for ((((g, b), t), c), d) in inputs.zip(d_columns) {
            for i in 0..LANES {
                let (of_row, of_column, of_tuned) = terms(g[i], t[i] - b[i], row, c[i]);
                sums[i] += of_row;
                d[i] += of_column;
                squares[i] += of_tuned * of_tuned;
            }
        }
        let rest = gradient.iter().zip(base).zip(tuned).zip(column).zip(d_column);
        for (i, ((((g, b), t), c), d)) in rest.enumerate() {
            let (of_row, of_column, of_tuned) = terms(*g, t - b, row, *c);
            sums[i] += of_row;
            *d += of_column;
            squares[i] += of_tuned * of_tuned;
        }
        (sums.iter().sum(), squares.iter().sum())
    }
}

#[inline(always)]
fn terms(gradient: f32, change: f32, row: f32, column: f32) -> (f32, f32, f32) {
    let product = gradient * change;
    (product * column, product * row, gradient * (row * column))
}

/// AdamW on the tuned matrix, whose gradient the first masks let through; then `out` is [`masked`] by the second.
#[allow(clippy::too_many_arguments)]
pub(super) fn adamw_masked(
    arch: Arch,
    step: &AdamW,
    gradient: &CpuBuffer,
    base: &CpuMatrix,
    masks: [[&CpuBuffer; 2]; 2],
    tuned: TunedState<'_, CpuBuffer>,
    out: &mut CpuBuffer,
) {
    let shape @ [_, k] = base.shape();
    let of_task = rows_of_task(shape);
    let len = (of_task * k).max(1);
    let factors = Factors::from(step);
    let [[rows, columns], [next_rows, next_columns]] = masks;
    let moments = tuned.first.par_chunks_mut(len).zip(tuned.second.par_chunks_mut(len));
    let weights = tuned.weights.par_chunks_mut(len).zip(out.par_chunks_mut(len));
    let tasks = weights.zip(moments).zip(gradient.par_chunks(len)).enumerate();
    tasks.for_each(|(task, (((weights, out), (first, second)), gradient))| {
        let outputs = weights.chunks_exact_mut(k).zip(out.chunks_exact_mut(k));
        let moments = first.chunks_exact_mut(k).zip(second.chunks_exact_mut(k));
        let all = outputs.zip(moments).zip(gradient.chunks_exact(k));
        for (row, (((weights, out), (first, second)), gradient)) in (task * of_task..).zip(all) {
            with_row(base.source(), row, |base| {
                arch.dispatch(Advance {
                    factors,
                    gradient,
                    base,
                    columns: [columns, next_columns],
                    rows: [rows[row], next_rows[row]],
                    weights,
                    first,
                    second,
                    out,
                });
            });
        }
    });
}

struct Advance<'a> {
    factors: Factors,
    gradient: &'a [f32],
    base: &'a [f32],
    columns: [&'a [f32]; 2],
    rows: [f32; 2],
    weights: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Advance<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let [row, next_row] = self.rows;
        let columns = self.columns[0].iter().zip(self.columns[1]);
        let inputs = self.gradient.iter().zip(self.base).zip(columns);
        let moments = self.first.iter_mut().zip(self.second);
        let outputs = self.weights.iter_mut().zip(self.out).zip(moments);
        for (((weight, out), (m, v)), ((gradient, base), (column, next_column))) in outputs.zip(inputs) {
            self.factors.update(gradient * (row * column), weight, m, v);
            *m = if m.abs() < TINY { 0.0 } else { *m };
            *out = blend(*base, *weight, next_row * next_column);
        }
    }
}

//! Attention of a sequence's few newest queries over its cached keys, read where they lie: `softmax(scale · q · kᵀ) · v`.
//!
//! What takes time is reading keys and values, so a task takes whole rows of them in order, and makes the scores of all heads by
//! dot products with the rows of k, and their weighted sums of the rows of v; nothing is packed. The keys of a sequence are cut
//! into spans of [`SPAN`] from the first that any of its queries sees. Each span leaves its largest score, its sum of
//! `e^{score − max}` and its weighted sum, and these are joined in order (as in Milakov & Gimelshein 2018): scratch does not
//! grow with the sequence, one long sequence occupies all threads, and bits depend on the sequence alone.
//!
//! Unseen keys weigh exactly 0; a value there that is not finite still makes NaN of queries of the same sequence (0 · ∞).

use super::{
    buffer::{split_off, with_scratch},
    dots::Dots,
    exp::exp,
    kernel::Output,
    vector,
};
use crate::Attention;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::{hint::black_box, ops::Range};

/// Most queries of a sequence that come here: with more, packing keys for the general path pays.
const POSITIONS: usize = 4;
/// Keys of a task.
const SPAN: usize = 256;
/// Products of a query's and a key's elements up to which threads are not worth waking.
const ALONE: usize = 1 << 17;

/// Whether a sequence with these queries is attended here; nothing but the sequence decides.
pub(super) fn takes(shape: &Attention<'_>, queries: &Range<usize>) -> bool {
    shape.keys.is_some() && queries.len() <= POSITIONS
}

/// Attends the given sequences: rows of queries, and of keys.
pub(super) fn attention(
    arch: Arch,
    shape: &Attention<'_>,
    [q, k, v]: [&[f32]; 3],
    sequences: &[(Range<usize>, Range<usize>)],
    out: Output,
    log_sums: Option<Output>,
) {
    let mut tasks = Vec::new();
    for (queries, keys) in sequences.iter().filter(|(queries, _)| !queries.is_empty()) {
        let own = keys.end - queries.len();
        let first = first_key(shape, keys.start, own);
        tasks.extend((first..keys.end).step_by(SPAN).map(|start| Task {
            arch,
            shape,
            q,
            k,
            v,
            queries: queries.clone(),
            keys: keys.clone(),
            span: start..keys.end.min(start + SPAN),
        }));
    }
    let work: usize = tasks.iter().map(|task| task.rows() * task.span.len()).sum::<usize>() * shape.head_dim;
    with_scratch(tasks.iter().map(Task::len).sum(), |mut memory| {
        let mut parts: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let memory = split_off(&mut memory, task.len());
                (task, memory)
            })
            .collect();
        if work <= ALONE {
            parts.iter_mut().for_each(|(task, part)| task.run(part));
        } else {
            let tasks = parts.par_iter_mut().with_max_len(1);
            tasks.for_each(|(task, part)| task.run(part));
        }
        for spans in parts.chunk_by(|(a, _), (b, _)| a.queries == b.queries) {
            join(spans, out, log_sums);
        }
    });
}

/// The first key that the query whose own key is at `row` sees.
fn first_key(shape: &Attention<'_>, start: usize, row: usize) -> usize {
    shape.window.map_or(start, |w| start.max((row + 1).saturating_sub(w)))
}

/// The queries of a sequence and a span of its keys.
struct Task<'a> {
    arch: Arch,
    shape: &'a Attention<'a>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// Rows of the queries.
    queries: Range<usize>,
    /// Rows of all keys of the sequence.
    keys: Range<usize>,
    span: Range<usize>,
}

impl Task<'_> {
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Queries times query heads, ordered by kv head, then query.
    fn rows(&self) -> usize {
        self.queries.len() * self.shape.heads
    }

    /// Elements of what it leaves: weighted sums (rows, E), largest scores (rows) and sums of exponentials (rows).
    fn len(&self) -> usize {
        self.rows() * (self.shape.head_dim + 2)
    }

    /// The query head and the row of the query, and of its own key, of one of the task's rows.
    fn place(&self, index: usize) -> (usize, usize, usize) {
        let (group, queries) = (self.group(), self.queries.len());
        let (kv_head, index) = (index / (queries * group), index % (queries * group));
        let query = index / group;
        let own = self.keys.end - queries + query;
        (kv_head * group + index % group, self.queries.start + query, own)
    }

    fn run(&self, part: &mut [f32]) {
        let (e, rows, keys) = (self.shape.head_dim, self.rows(), self.span.len());
        let stride = self.shape.kv_heads * e;
        let span = self.span.start * stride..self.span.end * stride;
        let (k, v) = (&self.k[span.clone()], &self.v[span]);
        let (output, rest) = part.split_at_mut(rows * e);
        let (max, sum) = rest.split_at_mut(rows);
        let shared = rows / self.shape.kv_heads;
        with_scratch(rows * (e + keys), |scratch| {
            let (queries, scores) = scratch.split_at_mut(rows * e);
            self.scale_queries(queries);
            fetch(k);
            let heads = queries
                .chunks_exact(shared * e)
                .zip(scores.chunks_exact_mut(shared * keys));
            for (kv_head, (queries, scores)) in heads.enumerate() {
                self.arch.dispatch(Dots {
                    x: queries,
                    x_stride: e,
                    w: &k[kv_head * e..],
                    w_stride: stride,
                    depth: e,
                    rows: shared,
                    columns: keys,
                    add: false,
                    // SAFETY: the scratch is this task's alone, and not looked at until the products are done.
                    out: unsafe { Output::new(scores, keys) },
                });
            }
            self.mask(scores);
            self.arch.dispatch(Softmax { scores, max, sum });
            fetch(v);
            let heads = scores
                .chunks_exact(shared * keys)
                .zip(output.chunks_exact_mut(shared * e));
            for (kv_head, (weights, out)) in heads.enumerate() {
                self.arch.dispatch(Weigh {
                    weights,
                    values: &v[kv_head * e..],
                    stride,
                    width: e,
                    out,
                });
            }
        });
    }

    fn scale_queries(&self, scaled: &mut [f32]) {
        let e = self.shape.head_dim;
        for (index, scaled) in scaled.chunks_exact_mut(e).enumerate() {
            let (head, row, _) = self.place(index);
            for (scaled, q) in scaled.iter_mut().zip(&self.q[(row * self.shape.heads + head) * e..]) {
                *scaled = q * self.shape.scale;
            }
        }
    }

    /// Sets the scores of keys that a row's query does not see to −∞.
    fn mask(&self, scores: &mut [f32]) {
        let len = self.span.len();
        for (index, scores) in scores.chunks_exact_mut(len).enumerate() {
            let (_, _, own) = self.place(index);
            let seen = first_key(self.shape, self.keys.start, own)..own + 1;
            let [before, after] = [seen.start, seen.end].map(|row| row.saturating_sub(self.span.start).min(len));
            scores[..before].fill(f32::NEG_INFINITY);
            scores[after..].fill(f32::NEG_INFINITY);
        }
    }
}

/// Reads a line after the other into the second-level cache, as fast as memory gives them: the rows of one kv head, which the
/// products want first, lie too far apart for the processor to foresee.
fn fetch(values: &[f32]) {
    const LINE: usize = 16;
    black_box(values.iter().step_by(LINE).fold(0, |all, value| all ^ value.to_bits()));
}

/// Joins what the spans of a sequence left, in order, and writes its rows.
fn join(spans: &[(Task<'_>, &mut [f32])], out: Output, log_sums: Option<Output>) {
    let [(task, _), ..] = spans else { return };
    let (e, rows) = (task.shape.head_dim, task.rows());
    for index in 0..rows {
        let (head, row, _) = task.place(index);
        // SAFETY: tasks are done, and each (row, head) is written once.
        let out = unsafe { out.row_mut(row, head * e, e) };
        out.fill(0.0);
        let max = |part: &[f32]| part[rows * e + index];
        let largest = spans
            .iter()
            .map(|(_, part)| max(part))
            .fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for (_, part) in spans {
            let factor = (max(part) - largest).exp();
            sum += factor * part[rows * (e + 1) + index];
            for (out, value) in out.iter_mut().zip(&part[index * e..][..e]) {
                *out += factor * value;
            }
        }
        for out in &mut *out {
            *out /= sum;
        }
        if let Some(log_sums) = log_sums {
            // SAFETY: as above.
            let log_sum = unsafe { log_sums.row_mut(row, head, 1) };
            log_sum[0] = largest + sum.ln();
        }
    }
}

/// Turns each row of scores into `e^{score − max}`.
struct Softmax<'a> {
    scores: &'a mut [f32], // (rows, keys)
    max: &'a mut [f32],    // (rows)
    sum: &'a mut [f32],    // (rows)
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let keys = self.scores.len() / self.max.len();
        for ((scores, max), sum) in self.scores.chunks_exact_mut(keys).zip(self.max).zip(self.sum) {
            *max = vector::maximum(simd, scores);
            // A query that sees none of the span: every exponential is 0, which −∞ − −∞ would not say.
            let shift = simd.splat_f32s(if *max == f32::NEG_INFINITY { 0.0 } else { *max });
            vector::update(
                simd,
                scores,
                [],
                #[inline(always)]
                |score, []| exp(simd, simd.sub_f32s(score, shift)),
            );
            *sum = vector::sum(simd, [scores], |_, [score]| score);
        }
    }
}

/// `out = weights · values`: weights (rows, keys), values (keys, width) whose rows are `stride` apart, out (rows, width).
struct Weigh<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    stride: usize,
    width: usize,
    out: &'a mut [f32],
}

/// Vectors of a row of values that a tile takes.
const VECTORS: usize = 4;

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.out.len() / self.width;
        let mut row = 0;
        while row < rows {
            let here = if rows - row >= 3 { 3 } else { 1 };
            let mut column = 0;
            while column < self.width {
                let whole = VECTORS * S::F32_LANES <= self.width - column;
                match (here, whole) {
                    (3, true) => self.tile::<S, 3, VECTORS>(simd, row, column),
                    (3, false) => self.tile::<S, 3, 1>(simd, row, column),
                    (_, true) => self.tile::<S, 1, VECTORS>(simd, row, column),
                    (_, false) => self.tile::<S, 1, 1>(simd, row, column),
                }
                column += if whole { VECTORS } else { 1 } * S::F32_LANES;
            }
            row += here;
        }
    }
}

impl Weigh<'_> {
    /// `M` rows and `N` vectors of columns, of which the last may be cut by the width.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, row: usize, column: usize) {
        let keys = self.weights.len() / (self.out.len() / self.width);
        let columns = (N * S::F32_LANES).min(self.width - column);
        let weights: [_; M] = std::array::from_fn(|m| &self.weights[(row + m) * keys..][..keys]);
        let mut acc = [[simd.splat_f32s(0.0); N]; M];
        let values = self.values[column..].chunks(self.stride).take(keys);
        for (key, values) in values.enumerate() {
            let values = &values[..columns];
            let values: [_; N] = match S::as_simd_f32s(values).0.first_chunk() {
                Some(values) => *values,
                None => [simd.partial_load_f32s(values); N], // N is 1
            };
            for m in 0..M {
                let weight = simd.splat_f32s(weights[m][key]);
                for n in 0..N {
                    acc[m][n] = simd.mul_add_e_f32s(weight, values[n], acc[m][n]);
                }
            }
        }
        for (m, acc) in acc.into_iter().enumerate() {
            let out = &mut self.out[(row + m) * self.width + column..][..columns];
            for (out, acc) in out.chunks_mut(S::F32_LANES).zip(acc) {
                simd.partial_store_f32s(out, acc);
            }
        }
    }
}

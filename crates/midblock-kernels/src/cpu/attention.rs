//! Causal softmax attention over blocks of keys: `out_i = Σ_j softmax_j(scale · q_i · k_j) v_j` for `j ≤ i`, inside the window.
//!
//! A task is one kv head of one sequence and a run of its queries: the rows (position, query head of the group), in that
//! order, so that all heads that share keys share their packing and a panel of rows spans few positions. Scores are made
//! transposed, `k · qᵀ`: a panel's columns are then queries, the softmax runs down columns one query a lane, and the
//! probabilities lie as the second product, `vᵀ · p`, wants its panel. Maximum and sum are carried from block to block and
//! what is there is rescaled (Milakov & Gimelshein 2018; Dao et al. 2022), so scratch does not grow with the sequence.
//!
//! The few queries of a decoding step go another way, see [`attention_decode`].
//!
//! Blocks are counted from the sequence's start, so results do not depend on what else is in the batch.
//! Unseen keys weigh exactly 0; a value there that is not finite still makes NaN of queries in the same block (0 · ∞).

use super::{
    attention_decode,
    buffer::{split_off, with_scratch},
    exp::exp,
    kernel::{Columns, Output, Product, Tile},
    pack,
    transpose::transpose,
};
use crate::Attention;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Keys of a block: the scores of a panel of queries against them stay in the first-level cache.
const KEYS: usize = 128;
/// Panels of queries for which a block of keys and values is packed.
const PANELS: usize = 6;

pub(super) fn attention(
    arch: Arch,
    shape: &Attention<'_>,
    [q, k, v]: [&[f32]; 3],
    out: &mut [f32],
    log_sums: Option<&mut [f32]>,
) {
    let Attention {
        heads,
        kv_heads,
        head_dim,
        ..
    } = *shape;
    let tile = Tile::of(arch);
    let group = heads / kv_heads;
    let positions = (PANELS * tile.columns / group).max(1);
    // SAFETY: tasks own disjoint (position, head) pairs, and `out` is borrowed until they are done.
    let out = unsafe { Output::new(out, heads * head_dim) };
    // SAFETY: as above.
    let log_sums = log_sums.map(|log_sums| unsafe { Output::new(log_sums, heads) });
    let mut tasks = Vec::new();
    let mut few = Vec::new();
    for (rows, keys) in shape.sequences() {
        if attention_decode::takes(shape, &rows) {
            few.push((rows, keys));
            continue;
        }
        for first in rows.clone().step_by(positions) {
            let to_the_end = [first, rows.end.min(first + positions)].map(|row| rows.end - row);
            let queries = keys.end - to_the_end[0]..keys.end - to_the_end[1];
            tasks.extend((0..kv_heads).map(|kv_head| Task {
                arch,
                tile,
                shape,
                q,
                k,
                v,
                start: keys.start,
                queries: queries.clone(),
                first_row: first,
                kv_head,
            }));
        }
    }
    // The last queries of a sequence see most keys: with the longest first, threads finish together.
    tasks
        .into_par_iter()
        .rev()
        .with_max_len(1)
        .for_each(|task| task.run(out, log_sums));
    attention_decode::attention(arch, shape, [q, k, v], &few, out, log_sums);
}

/// The queries of one kv head at some positions of one sequence.
struct Task<'a> {
    arch: Arch,
    tile: Tile,
    shape: &'a Attention<'a>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// Row of the sequence's first key.
    start: usize,
    /// Rows of the queries' own keys.
    queries: std::ops::Range<usize>,
    /// Row of the first query, and of what comes of it.
    first_row: usize,
    kv_head: usize,
}

/// One panel of queries (a column each) and what the keys seen so far have made of them.
struct Panel<'a> {
    queries: &'a mut [f32], // (E, columns), scaled
    output: &'a mut [f32],  // (E, columns)
    max: &'a mut [f32],     // (columns)
    sum: &'a mut [f32],     // (columns)
}

impl Task<'_> {
    fn run(&self, out: Output, log_sums: Option<Output>) {
        let (e, columns) = (self.shape.head_dim, self.tile.columns);
        let panels = (self.queries.len() * self.group()).div_ceil(columns);
        let panel_len = 2 * (e + 1) * columns;
        with_scratch(
            panels * panel_len + KEYS * (2 * e + columns) + e * columns,
            |mut scratch| {
                let panel_memory = split_off(&mut scratch, panels * panel_len);
                let [keys, values] = [0; 2].map(|_| split_off(&mut scratch, KEYS * e));
                let turned = split_off(&mut scratch, e * columns);
                let scores = scratch;
                let mut panels: Vec<_> = panel_memory
                    .chunks_exact_mut(panel_len)
                    .enumerate()
                    .map(|(i, m)| self.panel(i, m))
                    .collect();
                let first = self.first_key(self.queries.start);
                for block in (first..self.queries.end).step_by(KEYS) {
                    let len = KEYS.min(self.queries.end - block);
                    self.pack_keys(block, &mut keys[..len * e]);
                    self.pack_values(block, &mut values[..len * e]);
                    for (index, panel) in panels.iter_mut().enumerate() {
                        self.attend(index, panel, block, &keys[..len * e], &values[..len * e], scores);
                    }
                }
                for (index, panel) in panels.into_iter().enumerate() {
                    self.finish(index, panel, turned, out, log_sums);
                }
            },
        );
    }

    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Row of a query, and of what comes of it, from that of its key.
    fn row(&self, key: usize) -> usize {
        self.first_row + key - self.queries.start
    }

    /// The key's row and the query head of each column of a panel.
    fn columns(&self, panel: usize) -> impl ExactSizeIterator<Item = (usize, usize)> {
        let (group, start, head) = (self.group(), self.queries.start, self.kv_head * self.group());
        let all = self.queries.len() * group;
        let first = panel * self.tile.columns;
        (first..all.min(first + self.tile.columns)).map(move |i| (start + i / group, head + i % group))
    }

    /// The first row that the query at `row` sees.
    fn first_key(&self, row: usize) -> usize {
        self.shape
            .window
            .map_or(self.start, |w| self.start.max((row + 1).saturating_sub(w)))
    }

    fn panel<'m>(&self, index: usize, memory: &'m mut [f32]) -> Panel<'m> {
        let (e, columns) = (self.shape.head_dim, self.tile.columns);
        let (queries, memory) = memory.split_at_mut(e * columns);
        let (output, memory) = memory.split_at_mut(e * columns);
        let (max, sum) = memory.split_at_mut(columns);
        let rows: Vec<_> = self.columns(index).collect();
        let query = |i: usize| {
            let (key, head) = rows[i];
            &self.q[(self.row(key) * self.shape.heads + head) * e..][..e]
        };
        pack::columns(self.tile, rows.len(), e, query, queries);
        queries.iter_mut().for_each(|q| *q *= self.shape.scale);
        output.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        Panel {
            queries,
            output,
            max,
            sum,
        }
    }

    /// Packs keys as the rows of the first product.
    fn pack_keys(&self, block: usize, packed: &mut [f32]) {
        let e = self.shape.head_dim;
        let key = |j: usize| &self.k[((block + j) * self.shape.kv_heads + self.kv_head) * e..][..e];
        pack::rows(self.tile, packed.len() / e, key, packed);
    }

    /// Packs values as the rows of the second product, which are the values' E components: already k-major, so a copy.
    fn pack_values(&self, block: usize, packed: &mut [f32]) {
        let e = self.shape.head_dim;
        let value = |j: usize| &self.v[((block + j) * self.shape.kv_heads + self.kv_head) * e..][..e];
        pack::rows_by_step(self.tile, packed.len() / e, value, packed);
    }

    /// Lets a panel's queries see the keys of a block.
    fn attend(
        &self,
        index: usize,
        panel: &mut Panel<'_>,
        block: usize,
        keys: &[f32],
        values: &[f32],
        scores: &mut [f32],
    ) {
        let (e, columns) = (self.shape.head_dim, self.tile.columns);
        let len = keys.len() / e;
        let last_row = self.columns(index).last().map_or(block, |(row, _)| row);
        if last_row < block {
            return; // all of it lies in the future
        }
        let depth = len.min(last_row + 1 - block);
        let whole_tiles = depth.next_multiple_of(self.tile.rows).min(len);
        self.arch.dispatch(Product {
            x: keys,
            x_stride: e,
            skip: 0,
            w: Columns::Panels(panel.queries),
            depth: e,
            rows: whole_tiles,
            columns,
            // SAFETY: the scratch is this task's alone, and not looked at until the product is done.
            out: unsafe { Output::new(scores, columns) },
            add: false,
        });
        let scores = &mut scores[..depth * columns];
        self.mask(index, block, scores);
        self.arch.dispatch(Softmax {
            scores,
            output: panel.output,
            max: panel.max,
            sum: panel.sum,
        });
        self.arch.dispatch(Product {
            x: values,
            x_stride: len,
            skip: 0,
            w: Columns::Panels(scores),
            depth,
            rows: e,
            columns,
            // SAFETY: as above, for the panel.
            out: unsafe { Output::new(panel.output, columns) },
            add: true,
        });
    }

    /// Sets the scores of keys that a column's query does not see to −∞.
    fn mask(&self, index: usize, block: usize, scores: &mut [f32]) {
        let width = self.tile.columns;
        let depth = scores.len() / width;
        for (column, (row, _)) in self.columns(index).enumerate() {
            let before = self.first_key(row).saturating_sub(block).min(depth);
            let after = (row + 1).saturating_sub(block).min(depth);
            for j in (0..before).chain(after..depth) {
                scores[j * width + column] = f32::NEG_INFINITY;
            }
        }
    }

    /// Divides by the sums and writes the panel's rows to where they belong.
    fn finish(&self, index: usize, panel: Panel<'_>, turned: &mut [f32], out: Output, log_sums: Option<Output>) {
        let (e, columns) = (self.shape.head_dim, self.tile.columns);
        self.arch.dispatch(
            #[inline(always)]
            || divide(panel.output, panel.sum),
        );
        transpose(e, columns, |c| &panel.output[c * columns..][..columns], turned, e);
        for (column, (key, head)) in self.columns(index).enumerate() {
            let row = self.row(key);
            // SAFETY: this task's rows and heads.
            let out = unsafe { out.row_mut(row, head * e, e) };
            out.copy_from_slice(&turned[column * e..][..e]);
            if let Some(log_sums) = log_sums {
                // SAFETY: as above.
                let log_sum = unsafe { log_sums.row_mut(row, head, 1) };
                log_sum[0] = panel.max[column] + panel.sum[column].ln();
            }
        }
    }
}

/// Divides each row by `sums`.
#[inline(always)]
fn divide(rows: &mut [f32], sums: &[f32]) {
    for row in rows.chunks_exact_mut(sums.len()) {
        for (value, sum) in row.iter_mut().zip(sums) {
            *value /= sum;
        }
    }
}

/// Turns a block of scores into `e^{score − max}`, column by column, and brings what was there to the new maximum.
struct Softmax<'a> {
    scores: &'a mut [f32], // (keys, columns)
    output: &'a mut [f32], // (E, columns)
    max: &'a mut [f32],    // (columns)
    sum: &'a mut [f32],    // (columns)
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (scores, _) = S::as_mut_simd_f32s(self.scores);
        let (output, _) = S::as_mut_simd_f32s(self.output);
        let (max, _) = S::as_mut_simd_f32s(self.max);
        let (sum, _) = S::as_mut_simd_f32s(self.sum);
        let width = max.len();
        let zero = simd.splat_f32s(0.0);
        for column in 0..width {
            let old_max = max[column];
            let mut new_max = old_max;
            for row in scores.chunks_exact(width) {
                new_max = simd.max_f32s(new_max, row[column]);
            }
            max[column] = new_max;
            // A query that has seen nothing yet: every exponential is 0, which −∞ − −∞ would not say.
            let nothing = simd.equal_f32s(new_max, simd.splat_f32s(f32::NEG_INFINITY));
            let shift = simd.select_f32s(nothing, zero, new_max);
            let mut block_sum = zero;
            for row in scores.chunks_exact_mut(width) {
                row[column] = exp(simd, simd.sub_f32s(row[column], shift));
                block_sum = simd.add_f32s(block_sum, row[column]);
            }
            let factor = exp(simd, simd.sub_f32s(old_max, shift));
            sum[column] = simd.mul_add_e_f32s(sum[column], factor, block_sum);
            for row in output.chunks_exact_mut(width) {
                row[column] = simd.mul_f32s(row[column], factor);
            }
        }
    }
}

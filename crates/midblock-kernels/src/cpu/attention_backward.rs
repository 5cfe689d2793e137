//! Gradient of causal softmax attention, with the probabilities made again from the logarithms of their sums.
//!
//! With `p_ij = e^{s_ij − l_i}`, `s_ij = scale · q_i · k_j`: `dv_j = Σ_i p_ij do_i`, `ds_ij = scale · p_ij (do_i · v_j − a_i)`
//! with `a_i = do_i · o_i`, `dq_i = Σ_j ds_ij k_j`, `dk_j = Σ_i ds_ij q_i` (Dao et al. 2022, appendix B.2).
//!
//! A task is one kv head of one sequence. It packs a block of keys and values and lets the queries of each head of the group
//! pass by, block after block; a panel's columns are keys, so that p and ds lie as `doᵀ · p` and `qᵀ · ds` want them, and only
//! `ds · k` has to transpose. What a panel's keys do not see of a block of queries is not computed, to within a tile. Blocks
//! are counted from the sequence's start and sums run in order, so results depend neither on threads nor on the batch. A query goes by the
//! row of its own key; its own row is as far from it as the last query's is from the last key's.

use super::{
    buffer::{CpuBuffer, split_off, with_scratch},
    exp::exp,
    kernel::{Columns, Output, Product, Tile},
    pack,
    transpose::transpose,
    vector::sum,
};
use crate::{Attention, AttentionForward, AttentionGradients};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Keys that are packed at a time, whole panels.
const KEYS: usize = 128;
/// Queries that are packed at a time, whole tiles: a panel's scores and their gradient stay in the first-level cache.
const QUERIES: usize = 96;

pub(super) fn attention_backward(
    arch: Arch,
    shape: &Attention<'_>,
    forward: &AttentionForward<'_, CpuBuffer>,
    d_out: &[f32],
    gradients: AttentionGradients<'_, CpuBuffer>,
) {
    let (heads, kv_heads, e) = (shape.heads, shape.kv_heads, shape.head_dim);
    let AttentionGradients { q, k, v } = gradients;
    // SAFETY: tasks own disjoint (row, head) pairs, and the gradients are borrowed until they are done.
    let [dq, dk, dv] = unsafe {
        [
            Output::new(q, heads * e),
            Output::new(k, kv_heads * e),
            Output::new(v, kv_heads * e),
        ]
    };
    let mut tasks: Vec<_> = shape
        .sequences()
        .flat_map(|(queries, keys)| (0..kv_heads).map(move |kv_head| (queries.clone(), keys.clone(), kv_head)))
        .collect();
    tasks.sort_by_key(|(queries, keys, _)| std::cmp::Reverse(queries.len() * keys.len())); // so that threads finish together
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(queries, keys, kv_head)| {
            Task {
                arch,
                tile: Tile::of(arch),
                shape,
                forward,
                d_out,
                queries,
                keys,
                kv_head,
                dq,
                dk,
                dv,
            }
            .run();
        });
}

/// One kv head of one sequence.
struct Task<'a> {
    arch: Arch,
    tile: Tile,
    shape: &'a Attention<'a>,
    forward: &'a AttentionForward<'a, CpuBuffer>,
    d_out: &'a [f32],
    /// Rows of the sequence's queries.
    queries: Range<usize>,
    /// Rows of its keys.
    keys: Range<usize>,
    kv_head: usize,
    dq: Output,
    dk: Output,
    dv: Output,
}

/// A block of keys, packed panel by panel, and what queries have made of their gradients.
struct Keys<'m> {
    keys: &'m mut [f32],       // (panels, E, columns)
    values: &'m mut [f32],     // (panels, E, columns)
    components: &'m mut [f32], // (panels, panels of E, columns, columns): the keys again, to be summed over
    d_keys: &'m mut [f32],     // (panels, E, columns)
    d_values: &'m mut [f32],   // (panels, E, columns)
}

/// A block of queries of one head.
struct Queries<'m> {
    queries: &'m mut [f32],          // tiles of rows, E deep
    d_out: &'m mut [f32],            // tiles of rows, E deep
    query_components: &'m mut [f32], // tiles of E, rows deep
    d_out_components: &'m mut [f32], // tiles of E, rows deep
    log_sums: &'m mut [f32],         // (rows)
    along: &'m mut [f32],            // (rows): do · o
    scores: &'m mut [f32],           // (rows, columns), then p
    d_scores: &'m mut [f32],         // (rows, columns): do · v, then ds
    d_scores_by_key: &'m mut [f32],  // tiles of rows, columns deep
}

impl Task<'_> {
    fn run(&self) {
        let group = self.shape.heads / self.shape.kv_heads;
        let heads = self.kv_head * group..(self.kv_head + 1) * group;
        for row in self.queries.clone() {
            // SAFETY: this task's row and heads; no other slice of it lives.
            unsafe {
                self.dq
                    .row_mut(row, heads.start * self.shape.head_dim, group * self.shape.head_dim)
            }
            .fill(0.0);
        }
        let turned_len = self.shape.head_dim * self.tile.columns;
        with_scratch(self.keys_len() + self.queries_len() + turned_len, |mut scratch| {
            let mut keys = self.split_keys(split_off(&mut scratch, self.keys_len()));
            let turned = split_off(&mut scratch, turned_len);
            let mut queries = self.split_queries(scratch);
            let first_query = self.keys.end - self.queries.len();
            for first in self.keys.clone().step_by(KEYS) {
                let block = first..self.keys.end.min(first + KEYS);
                self.pack_keys(block.clone(), &mut keys);
                let unseen = self
                    .shape
                    .window
                    .map_or(self.keys.end, |w| self.keys.end.min(block.end - 1 + w));
                for head in heads.clone() {
                    for first in (block.start.max(first_query)..unseen).step_by(QUERIES) {
                        let rows = first..self.keys.end.min(first + QUERIES);
                        self.pack_queries(rows.clone(), head, &mut queries);
                        self.attend(rows, head, block.clone(), &mut keys, &mut queries);
                    }
                }
                self.finish(block, &keys, turned);
            }
        });
    }

    /// Row of a query from that of its own key.
    fn query_row(&self, key: usize) -> usize {
        key + self.queries.end - self.keys.end
    }

    /// Length of a block's keys in panels of one width.
    fn panels_len(&self) -> usize {
        KEYS.next_multiple_of(self.tile.columns) * self.shape.head_dim
    }

    /// E in whole panels.
    fn padded_dim(&self) -> usize {
        self.shape.head_dim.next_multiple_of(self.tile.columns)
    }

    fn keys_len(&self) -> usize {
        4 * self.panels_len() + KEYS.next_multiple_of(self.tile.columns) * self.padded_dim()
    }

    fn queries_len(&self) -> usize {
        QUERIES * (4 * self.shape.head_dim + 2 + 3 * self.tile.columns)
    }

    fn split_keys<'m>(&self, mut memory: &'m mut [f32]) -> Keys<'m> {
        let mut take = |len: usize| split_off(&mut memory, len);
        Keys {
            keys: take(self.panels_len()),
            values: take(self.panels_len()),
            d_keys: take(self.panels_len()),
            d_values: take(self.panels_len()),
            components: take(KEYS.next_multiple_of(self.tile.columns) * self.padded_dim()),
        }
    }

    fn split_queries<'m>(&self, mut memory: &'m mut [f32]) -> Queries<'m> {
        let (e, columns) = (self.shape.head_dim, self.tile.columns);
        let mut take = |width: usize| split_off(&mut memory, QUERIES * width);
        Queries {
            queries: take(e),
            d_out: take(e),
            query_components: take(e),
            d_out_components: take(e),
            scores: take(columns),
            d_scores: take(columns),
            d_scores_by_key: take(columns),
            log_sums: take(1),
            along: take(1),
        }
    }

    fn pack_keys(&self, block: Range<usize>, packed: &mut Keys<'_>) {
        let (tile, e) = (self.tile, self.shape.head_dim);
        let at = |row: usize| (row * self.shape.kv_heads + self.kv_head) * e;
        let key = |j: usize| &self.forward.k[at(block.start + j)..][..e];
        let value = |j: usize| &self.forward.v[at(block.start + j)..][..e];
        let len = block.len().next_multiple_of(tile.columns) * e;
        pack::columns(tile, block.len(), e, key, &mut packed.keys[..len]);
        pack::columns(tile, block.len(), e, value, &mut packed.values[..len]);
        let panels = packed.components.chunks_exact_mut(tile.columns * self.padded_dim());
        for (panel, first) in panels.zip((0..block.len()).step_by(tile.columns)) {
            panel.fill(0.0);
            for k in 0..tile.columns.min(block.len() - first) {
                pack::step_of_columns(tile, tile.columns, k, key(first + k), panel);
            }
        }
        packed.d_keys.fill(0.0);
        packed.d_values.fill(0.0);
    }

    fn pack_queries(&self, rows: Range<usize>, head: usize, packed: &mut Queries<'_>) {
        let (tile, e) = (self.tile, self.shape.head_dim);
        let of_head = |values: &'_ [f32], i: usize| -> Range<usize> {
            let start = (self.query_row(rows.start + i) * self.shape.heads + head) * e;
            debug_assert!(start + e <= values.len());
            start..start + e
        };
        let query = |i: usize| &self.forward.q[of_head(self.forward.q, i)];
        let d_out = |i: usize| &self.d_out[of_head(self.d_out, i)];
        let out = |i: usize| &self.forward.out[of_head(self.forward.out, i)];
        let len = rows.len() * e;
        pack::rows(tile, rows.len(), query, &mut packed.queries[..len]);
        pack::rows(tile, rows.len(), d_out, &mut packed.d_out[..len]);
        pack::rows_by_step(tile, rows.len(), query, &mut packed.query_components[..len]);
        pack::rows_by_step(tile, rows.len(), d_out, &mut packed.d_out_components[..len]);
        for i in 0..rows.len() {
            packed.log_sums[i] = self.forward.log_sums[self.query_row(rows.start + i) * self.shape.heads + head];
            packed.along[i] = self.arch.dispatch(Dot(d_out(i), out(i)));
        }
    }

    /// Lets a block of queries see a block of keys, panel by panel.
    fn attend(
        &self,
        rows: Range<usize>,
        head: usize,
        block: Range<usize>,
        keys: &mut Keys<'_>,
        queries: &mut Queries<'_>,
    ) {
        let (e, columns, padded) = (self.shape.head_dim, self.tile.columns, self.padded_dim());
        for (panel, first) in block.clone().step_by(columns).enumerate() {
            let last = block.end.min(first + columns) - 1;
            let unseen = self.shape.window.map_or(rows.end, |w| rows.end.min(last + w));
            let seen = first.saturating_sub(rows.start)..unseen.saturating_sub(rows.start);
            if seen.is_empty() {
                continue;
            }
            // Whole tiles around the rows that see any of the panel's keys.
            let seen =
                seen.start / self.tile.rows * self.tile.rows..seen.end.next_multiple_of(self.tile.rows).min(rows.len());
            let part = panel * e * columns..(panel + 1) * e * columns;
            let scores = &mut queries.scores[seen.start * columns..seen.end * columns];
            let d_scores = &mut queries.d_scores[seen.start * columns..seen.end * columns];
            let tiles = seen.start * e..seen.end * e;
            self.write(&queries.queries[tiles.clone()], &keys.keys[part.clone()], scores);
            self.write(&queries.d_out[tiles], &keys.values[part.clone()], d_scores);
            self.mask(rows.start + seen.start, first, scores);
            self.arch.dispatch(Probabilities {
                scores,
                d_scores,
                log_sums: &queries.log_sums[seen.clone()],
                along: &queries.along[seen.clone()],
                scale: self.shape.scale,
            });
            self.sum_over_rows(
                &queries.d_out_components[..rows.len() * e],
                rows.len(),
                seen.clone(),
                scores,
                &mut keys.d_values[part.clone()],
            );
            self.sum_over_rows(
                &queries.query_components[..rows.len() * e],
                rows.len(),
                seen.clone(),
                d_scores,
                &mut keys.d_keys[part],
            );
            let by_key = &mut queries.d_scores_by_key[..seen.len() * columns];
            pack::rows(self.tile, seen.len(), |i| &d_scores[i * columns..][..columns], by_key);
            self.arch.dispatch(Product {
                x: by_key,
                x_stride: columns,
                skip: 0,
                w: Columns::Panels(&keys.components[panel * columns * padded..][..columns * padded]),
                depth: columns,
                rows: seen.len(),
                columns: e,
                // SAFETY: this task's rows and head; no slice of them lives.
                out: unsafe { self.dq.at(self.query_row(rows.start + seen.start), head * e) },
                add: true,
            });
        }
    }

    /// The product of tiles with one panel, both E deep.
    fn write(&self, tiles: &[f32], panel: &[f32], out: &mut [f32]) {
        let (e, columns) = (self.shape.head_dim, self.tile.columns);
        self.arch.dispatch(Product {
            x: tiles,
            x_stride: e,
            skip: 0,
            w: Columns::Panels(panel),
            depth: e,
            rows: tiles.len() / e,
            columns,
            // SAFETY: borrowed until the product is done.
            out: unsafe { Output::new(out, columns) },
            add: false,
        });
    }

    /// Adds the product of components with a panel, over the rows `seen` of a block.
    fn sum_over_rows(&self, components: &[f32], rows: usize, seen: Range<usize>, panel: &[f32], out: &mut [f32]) {
        let columns = self.tile.columns;
        self.arch.dispatch(Product {
            x: components,
            x_stride: rows,
            skip: seen.start,
            w: Columns::Panels(panel),
            depth: seen.len(),
            rows: self.shape.head_dim,
            columns,
            // SAFETY: borrowed until the product is done.
            out: unsafe { Output::new(out, columns) },
            add: true,
        });
    }

    /// Sets the scores of keys that a row's query does not see to −∞; the panel's padding lies in every query's future.
    fn mask(&self, first_row: usize, first_key: usize, scores: &mut [f32]) {
        let columns = self.tile.columns;
        for (row, scores) in (first_row..).zip(scores.chunks_exact_mut(columns)) {
            let start = self.shape.window.map_or(0, |w| (row + 1).saturating_sub(w));
            let before = start.saturating_sub(first_key).min(columns);
            let after = (row + 1).saturating_sub(first_key).clamp(before, columns);
            scores[..before].fill(f32::NEG_INFINITY);
            scores[after..].fill(f32::NEG_INFINITY);
        }
    }

    /// Writes the gradients of a block of keys and values to where they belong.
    fn finish(&self, block: Range<usize>, keys: &Keys<'_>, turned: &mut [f32]) {
        let (e, columns) = (self.shape.head_dim, self.tile.columns);
        for (from, to) in [(&keys.d_keys, self.dk), (&keys.d_values, self.dv)] {
            let panels = from.chunks_exact(e * columns).zip(block.clone().step_by(columns));
            for (panel, first) in panels {
                transpose(e, columns, |c| &panel[c * columns..][..columns], turned, e);
                for (row, gradient) in (first..block.end).zip(turned.chunks_exact(e)) {
                    // SAFETY: this task's row and head.
                    unsafe { to.row_mut(row, self.kv_head * e, e) }.copy_from_slice(gradient);
                }
            }
        }
    }
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        sum(simd, [self.0, self.1], |simd, [a, b]| simd.mul_f32s(a, b))
    }
}

/// Turns scores into probabilities and the gradients of probabilities into those of scores.
struct Probabilities<'a> {
    scores: &'a mut [f32],   // (rows, columns)
    d_scores: &'a mut [f32], // (rows, columns)
    log_sums: &'a [f32],     // (rows)
    along: &'a [f32],        // (rows)
    scale: f32,
}

impl WithSimd for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (scores, _) = S::as_mut_simd_f32s(self.scores);
        let (d_scores, _) = S::as_mut_simd_f32s(self.d_scores);
        let width = scores.len() / self.log_sums.len().max(1);
        let scale = simd.splat_f32s(self.scale);
        let rows = scores.chunks_exact_mut(width).zip(d_scores.chunks_exact_mut(width));
        for ((scores, d_scores), (log_sum, along)) in rows.zip(self.log_sums.iter().zip(self.along)) {
            let (log_sum, along) = (simd.splat_f32s(-log_sum), simd.splat_f32s(*along));
            for (s, d) in scores.iter_mut().zip(d_scores) {
                *s = exp(simd, simd.mul_add_e_f32s(*s, scale, log_sum));
                *d = simd.mul_f32s(simd.mul_f32s(*s, scale), simd.sub_f32s(*d, along));
            }
        }
    }
}

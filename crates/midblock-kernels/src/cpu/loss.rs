//! Cross entropy over a vocabulary, with and without its logits: `ln Σ_v e^{l_v} − l_target`, in nats, with `l = x · Wᵀ`.
//!
//! A task makes the logits of [`ROWS`] rows and one slice of the vocabulary in its scratch and leaves per row the slice's
//! largest logit and whose it is, its sum of `e^{l − max}` and, if it is there, the target's logit. Slices are joined in
//! f64 in order.

use super::{
    buffer::with_scratch,
    exp::exp,
    gemm::{self, Factor, Summed},
    kernel::{Output, Tile},
    matrix::CpuMatrix,
    vector::maximum,
};
use crate::Prediction;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows whose logits against a slice exist at a time.
const ROWS: usize = 512;
/// Panels of columns in a slice of the vocabulary.
const PANELS: usize = 4;

/// What one slice of the vocabulary contributes to one row.
#[derive(Clone, Copy, Default)]
struct Slice {
    max: f32,
    /// The first token with that logit.
    top: u32,
    /// Σ e^{l − max}
    sum: f32,
    /// The target's logit, 0 in slices without it.
    target: f32,
}

pub(super) fn predictions(arch: Arch, x: &[f32], head: &CpuMatrix, targets: &[u32]) -> Vec<Prediction> {
    let [_, dim] = head.shape();
    let chunks = targets.chunks(ROWS).enumerate();
    chunks
        .flat_map(|(i, targets)| chunk(arch, &x[i * ROWS * dim..][..targets.len() * dim], head, targets))
        .collect()
}

fn chunk(arch: Arch, x: &[f32], head: &CpuMatrix, targets: &[u32]) -> Vec<Prediction> {
    let tile = Tile::of(arch);
    let [vocab, dim] = head.shape();
    let rows = targets.len();
    let width = PANELS * tile.columns;
    let mut slices = vec![Slice::default(); vocab.div_ceil(width) * rows]; // (slices, rows)
    with_scratch(x.len(), |packed| {
        let left = Factor::values(x, [rows, dim], Summed::Columns);
        let right = Factor::new(head.source(), Summed::Columns);
        let packed = gemm::pack_left(tile, left, 0..rows, 0..dim, packed);
        slices
            .par_chunks_mut(rows)
            .with_max_len(1)
            .enumerate()
            .for_each(|(index, slices)| {
                let first = index * width;
                let columns = first..vocab.min(first + width);
                with_scratch(rows * columns.len(), |logits| {
                    // SAFETY: the scratch is this task's alone.
                    let out = unsafe { Output::new(logits, columns.len()) };
                    gemm::columns_product(arch, &packed, right, columns.clone(), false, out);
                    for ((logits, slice), target) in logits.chunks_exact(columns.len()).zip(slices).zip(targets) {
                        *slice = arch.dispatch(Reduce(logits));
                        slice.top += first as u32;
                        slice.target = (*target as usize)
                            .checked_sub(first)
                            .and_then(|v| logits.get(v))
                            .copied()
                            .unwrap_or(0.0);
                    }
                });
            });
    });
    (0..rows)
        .into_par_iter()
        .with_min_len(16)
        .map(|row| join(slices[row..].iter().step_by(rows)))
        .collect()
}

/// What the slices of one row say together.
fn join<'a>(slices: impl Iterator<Item = &'a Slice> + Clone) -> Prediction {
    let larger = |best: Slice, slice: Slice| if slice.max > best.max { slice } else { best };
    let best = slices.clone().copied().reduce(larger).unwrap_or_default();
    let max = f64::from(best.max);
    let total: f64 = slices
        .clone()
        .map(|s| f64::from(s.sum) * (f64::from(s.max) - max).exp())
        .sum();
    let target: f64 = slices.map(|s| f64::from(s.target)).sum();
    Prediction {
        nats: max - target + total.ln(),
        top: best.top,
        top_nats: total.ln(),
    }
}

/// Losses of rows of logits, which become `weight · (softmax − onehot)`.
pub(super) fn cross_entropy_backward(arch: Arch, logits: &mut [f32], targets: &[u32], weights: &[f32]) -> Vec<f64> {
    let vocab = (logits.len() / targets.len().max(1)).max(1);
    logits
        .par_chunks_exact_mut(vocab)
        .zip(targets.par_iter().zip(weights))
        .map(|(logits, (&target, &weight))| {
            let target = target as usize;
            let target_logit = f64::from(logits[target]);
            let log_sum = arch.dispatch(Softmax { logits, factor: weight });
            logits[target] -= weight;
            log_sum - target_logit
        })
        .collect()
}

/// Turns logits into `factor · softmax` and returns `ln Σ e^l`. The row stays in the second-level cache: a sweep for the
/// maximum, one for exponentials and their sum, one for the factor.
struct Softmax<'a> {
    logits: &'a mut [f32],
    factor: f32,
}

/// Exponentials that are summed in f32 before the sum goes on in f64.
const SUMMED: usize = 2048;

impl WithSimd for Softmax<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let max = maximum(simd, self.logits);
        let shift = simd.splat_f32s(if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut total = 0.0;
        for part in self.logits.chunks_mut(SUMMED) {
            let (vectors, rest) = S::as_mut_simd_f32s(part);
            let mut sum = simd.splat_f32s(0.0);
            for v in vectors {
                *v = exp(simd, simd.sub_f32s(*v, shift));
                sum = simd.add_f32s(sum, *v);
            }
            let last = exp(simd, simd.sub_f32s(simd.partial_load_f32s(rest), shift));
            simd.partial_store_f32s(rest, last);
            total += f64::from(simd.reduce_sum_f32s(sum)) + rest.iter().copied().map(f64::from).sum::<f64>();
        }
        let factor = (f64::from(self.factor) / total) as f32;
        for value in self.logits {
            *value *= factor;
        }
        f64::from(max) + total.ln()
    }
}

/// Where the first of some logits is `max`; 0 if none is, as where all are NaN. Eight comparisons without a branch are
/// faster than one that may end the search.
#[inline(always)]
fn position(logits: &[f32], max: f32) -> usize {
    let found = |eight: &[f32]| eight.iter().fold(false, |found, v| found | (*v == max));
    let start = 8 * logits.chunks(8).position(found).unwrap_or(0);
    start + logits[start..].iter().position(|v| *v == max).unwrap_or(0)
}

/// The largest of some logits, where it first is, and their sum of exponentials.
struct Reduce<'a>(&'a [f32]);

impl WithSimd for Reduce<'_> {
    type Output = Slice;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Slice {
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let max = maximum(simd, self.0);
        // With nothing above −∞ every exponential is 0, which −∞ − −∞ would not say.
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sum = simd.splat_f32s(0.0);
        for v in vectors {
            sum = simd.add_f32s(sum, exp(simd, simd.sub_f32s(*v, simd.splat_f32s(shift))));
        }
        let mut sum = simd.reduce_sum_f32s(sum);
        for v in rest {
            sum += (v - shift).exp();
        }
        Slice {
            max,
            top: position(self.0, max) as u32,
            sum,
            target: 0.0,
        }
    }
}

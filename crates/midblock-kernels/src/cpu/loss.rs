//! Cross entropy over a vocabulary without its logits: `ln Σ_v e^{l_v} − l_target`, in nats, with `l = x · Wᵀ`.
//!
//! A task makes the logits of [`ROWS`] rows and one slice of the vocabulary in its scratch and leaves per row the slice's
//! largest logit, its sum of `e^{l − max}` and, if it is there, the target's logit. Slices are joined in f64 in order.

use super::{
    buffer::with_scratch,
    exp::exp,
    gemm,
    kernel::{Output, Tile},
};
use crate::StoredMatrix;
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
    /// Σ e^{l − max}
    sum: f32,
    /// The target's logit, 0 in slices without it.
    target: f32,
}

pub(super) fn cross_entropy(arch: Arch, x: &[f32], head: &StoredMatrix, targets: &[u32]) -> Vec<f64> {
    let [_, dim] = head.shape();
    let chunks = targets.chunks(ROWS).enumerate();
    chunks
        .flat_map(|(i, targets)| chunk(arch, &x[i * ROWS * dim..][..targets.len() * dim], head, targets))
        .collect()
}

fn chunk(arch: Arch, x: &[f32], head: &StoredMatrix, targets: &[u32]) -> Vec<f64> {
    let tile = Tile::of(arch);
    let [vocab, _] = head.shape();
    let rows = targets.len();
    let width = PANELS * tile.columns;
    let mut slices = vec![Slice::default(); vocab.div_ceil(width) * rows]; // (slices, rows)
    with_scratch(x.len(), |packed| {
        gemm::pack_rows(tile, x, rows, packed);
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
                    gemm::columns_product(arch, packed, rows, head, columns.clone(), false, out);
                    for ((logits, slice), target) in logits.chunks_exact(columns.len()).zip(slices).zip(targets) {
                        *slice = arch.dispatch(Reduce(logits));
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

/// The loss of one row.
fn join<'a>(slices: impl Iterator<Item = &'a Slice> + Clone) -> f64 {
    let max = slices.clone().map(|s| s.max).fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max);
    let total: f64 = slices
        .clone()
        .map(|s| f64::from(s.sum) * (f64::from(s.max) - max).exp())
        .sum();
    let target: f64 = slices.map(|s| f64::from(s.target)).sum();
    max + total.ln() - target
}

/// The largest of some logits and their sum of exponentials.
struct Reduce<'a>(&'a [f32]);

impl WithSimd for Reduce<'_> {
    type Output = Slice;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Slice {
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let mut max = simd.splat_f32s(f32::NEG_INFINITY);
        for v in vectors {
            max = simd.max_f32s(max, *v);
        }
        let max = rest.iter().copied().fold(simd.reduce_max_f32s(max), f32::max);
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
        Slice { max, sum, target: 0.0 }
    }
}

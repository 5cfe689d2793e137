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
    vector::{maximum, update},
};
use crate::{Divergence, Prediction, RowWeight};
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

/// Losses of rows of logits.
pub(super) fn cross_entropy(arch: Arch, logits: &[f32], targets: &[u32]) -> Vec<f64> {
    let vocab = (logits.len() / targets.len().max(1)).max(1);
    logits
        .par_chunks_exact(vocab)
        .zip(targets)
        .map(|(logits, &target)| {
            let slice = arch.dispatch(Reduce(logits));
            f64::from(slice.max) + f64::from(slice.sum).ln() - f64::from(logits[target as usize])
        })
        .collect()
}

/// Losses of rows of logits, which become `weight · (softmax − onehot)`.
pub(super) fn cross_entropy_backward(
    arch: Arch,
    logits: &mut [f32],
    targets: &[u32],
    weight: &RowWeight<'_>,
) -> Vec<f64> {
    let vocab = (logits.len() / targets.len().max(1)).max(1);
    logits
        .par_chunks_exact_mut(vocab)
        .zip(targets)
        .enumerate()
        .map(|(row, (logits, &target))| {
            let target = target as usize;
            let target_logit = f64::from(logits[target]);
            let (log_sum, total) = arch.dispatch(Exponentials(logits));
            let nats = log_sum - target_logit;
            let weight = weight(row, nats);
            arch.dispatch(Scaled(logits, (weight / total) as f32));
            logits[target] -= weight as f32;
            nats
        })
        .collect()
}

/// Losses and divergences of rows of logits, which become `weight · (p − onehot + beta · p · (ln p − ln q − KL))`.
pub(super) fn divergence_backward(
    arch: Arch,
    logits: &mut [f32],
    reference: &mut [f32],
    targets: &[u32],
    [weight, beta]: [f64; 2],
) -> Vec<Divergence> {
    let vocab = (logits.len() / targets.len().max(1)).max(1);
    logits
        .par_chunks_exact_mut(vocab)
        .zip(reference.par_chunks_exact_mut(vocab))
        .zip(targets)
        .map(|((logits, reference), &target)| {
            let target = target as usize;
            let target_logit = f64::from(logits[target]);
            let [p, q] = [&*logits, &*reference].map(|logits| arch.dispatch(Reduce(logits)));
            let [log_p, log_q] = [p, q].map(|slice| f64::from(slice.max) + f64::from(slice.sum).ln());
            let divergence = arch.dispatch(Ratios {
                logits,
                reference,
                log_sums: [log_p, log_q].map(|log_sum| log_sum as f32),
            });
            arch.dispatch(Weighed {
                probabilities: logits,
                ratios: reference,
                factors: [weight * (1.0 - beta * divergence), weight * beta].map(|factor| factor as f32),
            });
            logits[target] -= weight as f32;
            Divergence {
                nats: log_p - target_logit,
                divergence,
            }
        })
        .collect()
}

/// Divergences KL(q ‖ p) of rows of logits, which become `weight · (p − q)`.
pub(super) fn distillation_backward(
    arch: Arch,
    logits: &mut [f32],
    reference: &[f32],
    vocab: usize,
    weight: f64,
) -> Vec<f64> {
    logits
        .par_chunks_exact_mut(vocab)
        .zip(reference.par_chunks_exact(vocab))
        .map(|(logits, reference)| {
            let log_sum = |logits: &[f32]| {
                let slice = arch.dispatch(Reduce(logits));
                f64::from(slice.max) + f64::from(slice.sum).ln()
            };
            let log_sums = [&*logits, reference].map(|logits| log_sum(logits) as f32);
            arch.dispatch(Distilled {
                logits,
                reference,
                log_sums,
                weight: weight as f32,
            })
        })
        .collect()
}

/// Values that are summed in f32 before the sum goes on in f64.
const SUMMED: usize = 2048;

/// Turns logits into exponentials `e^{l − max}` and returns `ln Σ e^l` and the sum of these. The row stays in the second-level
/// cache: a sweep for the maximum, one for exponentials and their sum.
struct Exponentials<'a>(&'a mut [f32]);

impl WithSimd for Exponentials<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f64, f64) {
        let max = maximum(simd, self.0);
        let shift = simd.splat_f32s(if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut total = 0.0;
        for part in self.0.chunks_mut(SUMMED) {
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
        (f64::from(max) + total.ln(), total)
    }
}

/// `x[i] *= factor`
struct Scaled<'a>(&'a mut [f32], f32);

impl WithSimd for Scaled<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let factor = simd.splat_f32s(self.1);
        update(simd, self.0, [], |x, []| simd.mul_f32s(x, factor));
    }
}

/// Turns logits into probabilities p, `reference` into `ln p − ln q`, and returns `Σ p (ln p − ln q)`.
struct Ratios<'a> {
    logits: &'a mut [f32],
    reference: &'a mut [f32],
    log_sums: [f32; 2],
}

impl WithSimd for Ratios<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let log_sums = self.log_sums.map(|log_sum| simd.splat_f32s(log_sum));
        let mut total = 0.0;
        for (logits, reference) in self.logits.chunks_mut(SUMMED).zip(self.reference.chunks_mut(SUMMED)) {
            let (l, l_rest) = S::as_mut_simd_f32s(logits);
            let (r, r_rest) = S::as_mut_simd_f32s(reference);
            let mut sum = simd.splat_f32s(0.0);
            for (l, r) in l.iter_mut().zip(r) {
                (*l, *r) = ratio(simd, [*l, *r], log_sums);
                sum = simd.mul_add_e_f32s(*l, *r, sum);
            }
            let (p, ratio) = ratio(
                simd,
                [simd.partial_load_f32s(l_rest), simd.partial_load_f32s(r_rest)],
                log_sums,
            );
            simd.partial_store_f32s(l_rest, p);
            simd.partial_store_f32s(r_rest, ratio);
            let rest = l_rest
                .iter()
                .zip(&*r_rest)
                .map(|(p, ratio)| f64::from(*p) * f64::from(*ratio));
            total += f64::from(simd.reduce_sum_f32s(sum)) + rest.sum::<f64>();
        }
        total
    }
}

/// p and `ln p − ln q` of logits. Functions, not closures: the compiler does not inline a closure of this size, and outside of `with_simd`
/// vectors go through memory.
#[inline(always)]
fn ratio<S: Simd>(simd: S, [l, r]: [S::f32s; 2], [log_p, log_q]: [S::f32s; 2]) -> (S::f32s, S::f32s) {
    let (l, zero) = (simd.sub_f32s(l, log_p), simd.splat_f32s(0.0));
    let p = exp(simd, l);
    let ratio = simd.sub_f32s(l, simd.sub_f32s(r, log_q));
    // what cannot happen adds nothing, whatever q says of it
    (p, simd.select_f32s(simd.equal_f32s(p, zero), zero, ratio))
}

/// p, q and `q (ln q − ln p)` of logits.
#[inline(always)]
fn divergence<S: Simd>(simd: S, [l, r]: [S::f32s; 2], [log_p, log_q]: [S::f32s; 2]) -> [S::f32s; 3] {
    let (l, r, zero) = (simd.sub_f32s(l, log_p), simd.sub_f32s(r, log_q), simd.splat_f32s(0.0));
    let (p, q) = (exp(simd, l), exp(simd, r));
    // what cannot happen adds nothing, whatever p says of it
    let ratio = simd.select_f32s(simd.equal_f32s(q, zero), zero, simd.sub_f32s(r, l));
    [p, q, simd.mul_f32s(q, ratio)]
}

/// Turns logits into `weight · (p − q)` and returns `Σ q (ln q − ln p)`.
struct Distilled<'a> {
    logits: &'a mut [f32],
    reference: &'a [f32],
    log_sums: [f32; 2],
    weight: f32,
}

impl WithSimd for Distilled<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let log_sums = self.log_sums.map(|log_sum| simd.splat_f32s(log_sum));
        let weight = simd.splat_f32s(self.weight);
        let mut total = 0.0;
        for (logits, reference) in self.logits.chunks_mut(SUMMED).zip(self.reference.chunks(SUMMED)) {
            let (l, l_rest) = S::as_mut_simd_f32s(logits);
            let (r, r_rest) = S::as_simd_f32s(reference);
            let mut sum = simd.splat_f32s(0.0);
            for (l, r) in l.iter_mut().zip(r) {
                let [p, q, term] = divergence(simd, [*l, *r], log_sums);
                *l = simd.mul_f32s(weight, simd.sub_f32s(p, q));
                sum = simd.add_f32s(sum, term);
            }
            // lanes beyond the end are 0 on both sides, and would count as logits
            let last = [simd.partial_load_f32s(l_rest), simd.partial_load_f32s(r_rest)];
            let [p, q, term] = divergence(simd, last, log_sums);
            let mut terms = [0.0; 16];
            simd.partial_store_f32s(&mut terms[..l_rest.len()], term);
            simd.partial_store_f32s(l_rest, simd.mul_f32s(weight, simd.sub_f32s(p, q)));
            total += f64::from(simd.reduce_sum_f32s(sum)) + terms.iter().copied().map(f64::from).sum::<f64>();
        }
        total
    }
}

/// `p[i] ← p[i] · (factors[0] + factors[1] · ratios[i])`
struct Weighed<'a> {
    probabilities: &'a mut [f32],
    ratios: &'a [f32],
    factors: [f32; 2],
}

impl WithSimd for Weighed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [constant, slope] = self.factors.map(|factor| simd.splat_f32s(factor));
        update(simd, self.probabilities, [self.ratios], |p, [ratio]| {
            simd.mul_f32s(p, simd.mul_add_e_f32s(slope, ratio, constant))
        });
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

//! How sure a score is, and a difference of two.
//!
//! A score is Σ sum_i / Σ weight_i over items i: a plain mean where all weights are 1, a mean over tokens where they are
//! tokens. Items are the unit of chance; answers to the same item are averaged first, so the error is clustered by item.
//!
//! - Standard error: of the ratio, linearised: `√(n/(n−1) · Σ(sum_i − r·weight_i)²) / Σ weight_i`; for weights 1 that is
//!   `s/√n`. With one item it is not known, and given as 0 with the widest interval there is.
//! - 95 % interval of a proportion (every item 0 or 1): Wilson 1927, which holds at 0, at 1 and for few items. Of anything
//!   else: the middle 95 % of the score over [`RESAMPLES`] bootstrap samples of the items (Efron 1982).
//! - Difference of two models on the same items: the same items are drawn for both, so that what makes an item hard for both
//!   cancels. It speaks of other items of the same kind, not of other seeds of a training.
//! - pass@k: `1 − C(n−c, k)/C(n, k)` of n answers with c right (Chen et al. 2021, eq. 1), as a product.

use super::record::{IntervalKind, Score};
use crate::{probe::TokenLoss, rng};
use rand::RngExt;

/// Resamples of an interval.
pub const RESAMPLES: usize = 2000;

/// 97.5 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// What one item adds to a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// To the numerator.
    pub sum: f64,
    /// To the denominator.
    pub weight: f64,
}

impl From<TokenLoss> for Part {
    fn from(loss: TokenLoss) -> Self {
        Self {
            sum: loss.nats,
            weight: loss.predicted as f64,
        }
    }
}

/// Σ sum / Σ weight.
fn ratio(parts: impl Iterator<Item = Part>) -> f64 {
    let (sum, weight) = parts.fold((0.0, 0.0), |(sum, weight), part| (sum + part.sum, weight + part.weight));
    sum / weight
}

/// The middle 95 % of `statistic` over resamples of `n` items.
pub(crate) fn bootstrap(n: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    let mut resampled: Vec<f64> = (0..RESAMPLES as u64)
        .map(|resample| {
            let mut rng = rng::stream(seed, "paired bootstrap", &[resample]);
            let drawn: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
            statistic(&drawn)
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let outside = RESAMPLES / 40; // 2.5 % at each end
    (resampled[outside], resampled[RESAMPLES - 1 - outside])
}

/// A difference of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// On the items themselves.
    pub value: f64,
    /// Lower end of the 95 % interval.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl Difference {
    /// Whether the interval leaves out 0.
    pub fn is_clear(&self) -> bool {
        self.lo > 0.0 || self.hi < 0.0
    }
}

/// `left − right`, item by item.
///
/// # Panics
/// If there is no item, or not the same number of both.
pub fn paired_difference<P: Copy + Into<Part>>(left: &[P], right: &[P], seed: u64) -> Difference {
    assert!(
        !left.is_empty() && left.len() == right.len(),
        "{} and {}",
        left.len(),
        right.len()
    );
    let score = |parts: &[P], chosen: &[usize]| ratio(chosen.iter().map(|&i| parts[i].into()));
    let difference = |chosen: &[usize]| score(left, chosen) - score(right, chosen);
    let (lo, hi) = bootstrap(left.len(), seed, difference);
    let all: Vec<usize> = (0..left.len()).collect();
    Difference {
        value: difference(&all),
        lo,
        hi,
    }
}

/// Mean of `differences` of two or more proportions on the same items, each a whole number of at most `most` in size.
///
/// The interval is Wald's with two items more, one for either side, which holds where all differences are the same and the bootstrap has
/// no width (Bonett and Price 2012, eq. 6, for `most` = 1; for more it is our extension).
///
/// # Panics
/// If there is no difference.
pub fn proportion_difference(differences: &[f64], most: f64) -> Difference {
    assert!(!differences.is_empty(), "a difference of no item");
    let (sum, squares) = (differences.iter()).fold((0.0, 0.0), |(sum, squares), d| (sum + d, squares + d * d));
    let n = differences.len() as f64 + 2.0;
    let centre = sum / n;
    let half = Z * (((squares + 2.0) / n - centre * centre) / n).sqrt();
    let value = sum / differences.len() as f64;
    Difference {
        value,
        lo: (centre - half).max(-most).min(value),
        hi: (centre + half).min(most).max(value),
    }
}

/// The score of `parts` with its error and interval.
///
/// # Panics
/// If there is none.
pub fn score(name: &str, parts: &[Part], seed: u64) -> Score {
    assert!(!parts.is_empty(), "a score of no item");
    let n = parts.len() as f64;
    let mean = ratio(parts.iter().copied());
    let squares: f64 = parts.iter().map(|part| (part.sum - mean * part.weight).powi(2)).sum();
    let weight: f64 = parts.iter().map(|part| part.weight).sum();
    let standard_error = if parts.len() > 1 {
        (n / (n - 1.0) * squares).sqrt() / weight
    } else {
        0.0
    };
    let proportion = parts
        .iter()
        .all(|part| part.weight == 1.0 && (part.sum == 0.0 || part.sum == 1.0));
    let (lo, hi) = if proportion {
        wilson(mean, n)
    } else {
        bootstrap(parts.len(), seed, |chosen| ratio(chosen.iter().map(|&i| parts[i])))
    };
    Score {
        name: name.to_owned(),
        mean,
        standard_error,
        lo,
        hi,
        interval: if proportion {
            IntervalKind::Wilson
        } else {
            IntervalKind::Bootstrap
        },
        higher_is_better: true,
    }
}

/// Wilson's interval of the proportion `p` of `n`.
fn wilson(p: f64, n: f64) -> (f64, f64) {
    let z2 = Z * Z / n;
    let centre = (p + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (p * (1.0 - p) / n + z2 / (4.0 * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Unbiased estimate of the chance that one of `k` answers is right, from `right` of `n` answers: 1 − Π (1 − k/i) over
/// i = n − right + 1 … n.
///
/// ```
/// // of 4 answers 1 is right: half of the 6 pairs hold it
/// assert_eq!(midblock::eval::pass_at(4, 1, 2), 0.5);
/// ```
///
/// # Panics
/// If `k` or `right` is more than `n`.
pub fn pass_at(n: usize, right: usize, k: usize) -> f64 {
    assert!(k <= n && right <= n, "pass@{k} of {right} right among {n}");
    if n - right < k {
        return 1.0;
    }
    1.0 - (n - right + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn losses(nats: impl Iterator<Item = f64>) -> Vec<TokenLoss> {
        nats.map(|nats| TokenLoss {
            predicted: 2,
            nats,
            correct: 0,
        })
        .collect()
    }

    fn plain(values: &[f64]) -> Vec<Part> {
        values.iter().map(|&sum| Part { sum, weight: 1.0 }).collect()
    }

    #[test]
    fn what_is_common_cancels() {
        let hard = |i: usize| (i * 37 % 50) as f64; // far more than the difference
        let left = losses((0..50).map(|i| hard(i) + 0.2));
        let right = losses((0..50).map(hard));
        let clear = paired_difference(&left, &right, 1);
        for end in [clear.value, clear.lo, clear.hi] {
            assert!((end - 0.1).abs() < 1e-9, "{clear:?}");
        }
        assert!(clear.is_clear());
        assert!(!paired_difference(&left, &left, 1).is_clear());
    }

    #[test]
    fn noise_is_not_called_a_difference() {
        let left = losses((0..60).map(|i| f64::from(i % 7)));
        let right = losses((0..60).map(|i| f64::from(i * 3 % 7)));
        let noise = paired_difference(&left, &right, 1);
        assert!(noise.lo < 0.0 && 0.0 < noise.hi && !noise.is_clear(), "{noise:?}");
        // the interval of a mean of N independent differences: 2 · 1.96 · s/√N
        let d: Vec<f64> = left.iter().zip(&right).map(|(l, r)| (l.nats - r.nats) / 2.0).collect();
        let mean = d.iter().sum::<f64>() / 60.0;
        let deviation = (d.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 60.0).sqrt();
        let expected = 2.0 * 1.96 * deviation / 60f64.sqrt();
        assert!(((noise.hi - noise.lo) / expected - 1.0).abs() < 0.1, "{noise:?}");
        assert!((noise.value - mean).abs() < 1e-12);
    }

    #[test]
    fn tokens_weigh_and_not_items() {
        let long = TokenLoss {
            predicted: 9,
            nats: 9.0,
            correct: 0,
        };
        let short = TokenLoss {
            predicted: 1,
            nats: 0.0,
            correct: 0,
        };
        let none = [TokenLoss {
            predicted: 1,
            nats: 0.0,
            correct: 0,
        }; 2];
        assert!((paired_difference(&[long, short], &none, 1).value - 0.9).abs() < 1e-12);
        assert!((score("x", &[long.into(), short.into()], 1).mean - 0.9).abs() < 1e-12);
    }

    /// Wilson's interval of 8 of 10, from the formula by hand; and its ends at the edges.
    #[test]
    fn a_proportion_has_wilsons_interval() {
        let eight = score("x", &plain(&[1., 1., 1., 1., 1., 1., 1., 1., 0., 0.]), 1);
        assert_eq!(eight.interval, IntervalKind::Wilson);
        assert!(
            (eight.lo - 0.490_162).abs() < 1e-5 && (eight.hi - 0.943_318).abs() < 1e-5,
            "{eight:?}"
        );
        assert!((eight.standard_error - (0.16 / 9.0_f64).sqrt()).abs() < 1e-12);
        let none = score("x", &plain(&[0.0; 20]), 1);
        assert_eq!((none.mean, none.standard_error, none.lo), (0.0, 0.0, 0.0));
        assert!((none.hi - 0.161_13).abs() < 1e-4, "{none:?}");
    }

    /// 20 pairs of which 8 differ one way and 2 the other, from the formula by hand; and where all are the same.
    #[test]
    fn differences_of_proportions_have_width_where_all_agree() {
        let mixed: Vec<f64> = (0..20)
            .map(|i| {
                if i < 8 {
                    1.0
                } else if i < 10 {
                    -1.0
                } else {
                    0.0
                }
            })
            .collect();
        let found = proportion_difference(&mixed, 1.0);
        // p12 = 9/22, p21 = 3/22: 6/22 ± z·√((12/22 − (6/22)²)/22)
        let half = Z * ((12.0 / 22.0 - 36.0 / 484.0) / 22.0_f64).sqrt();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(found.value, 0.3);
        close(found.lo, 6.0 / 22.0 - half);
        close(found.hi, 6.0 / 22.0 + half);
        let same = proportion_difference(&[0.0; 30], 1.0);
        assert!(same.value == 0.0 && same.lo < -0.08 && same.hi > 0.08, "{same:?}");
        let all = proportion_difference(&[1.0; 30], 1.0);
        assert!(all.hi == 1.0 && all.lo > 0.8 && all.lo < 0.9, "{all:?}");
    }

    /// Two answers that always agree are one observation, not two.
    #[test]
    fn repeats_do_not_pass_for_items() {
        let once = score("x", &plain(&[1.0, 0.0, 1.0, 1.0, 0.0]), 1);
        let half = score("x", &plain(&[0.5, 0.0, 1.0, 1.0, 0.0]), 1);
        assert_eq!(half.interval, IntervalKind::Bootstrap);
        assert!(half.lo < half.mean && half.mean < half.hi);
        assert!((half.standard_error / once.standard_error - 0.913).abs() < 1e-3);
    }

    /// All subsets of k of n answers of which the first c are right.
    fn enumerated(n: usize, c: usize, k: usize) -> f64 {
        let subsets = (0u32..1 << n).filter(|set| set.count_ones() as usize == k);
        let (all, hits) = subsets.fold((0, 0), |(all, hits), set| {
            (all + 1, hits + usize::from(set & ((1 << c) - 1) != 0))
        });
        hits as f64 / f64::from(all)
    }

    proptest! {
        #[test]
        fn pass_at_k_is_a_count_of_subsets(n in 1usize..10, c in 0usize..10, k in 1usize..10) {
            prop_assume!(c <= n && k <= n);
            prop_assert!((pass_at(n, c, k) - enumerated(n, c, k)).abs() < 1e-12);
        }

        #[test]
        fn intervals_hold_the_score(values in proptest::collection::vec(0.0f64..1.0, 1..40), binary: bool) {
            let values: Vec<f64> = values.iter().map(|v| if binary { v.round() } else { *v }).collect();
            let score = score("x", &plain(&values), 3);
            prop_assert!(score.lo <= score.mean + 1e-12 && score.mean <= score.hi + 1e-12, "{score:?}");
            prop_assert!(0.0 <= score.lo && score.hi <= 1.0);
        }
    }

    #[test]
    fn many_answers_do_not_overflow() {
        let value = pass_at(10_000, 3, 5_000);
        assert!((value - 0.875).abs() < 1e-3, "{value}");
    }
}

//! How two lists of numbers go together: Pearson's r, and Spearman's ρ, which is r of their ranks.
//!
//! r = Σ (x − x̄)(y − ȳ) / √(Σ (x − x̄)² · Σ (y − ȳ)²), in [−1, 1]; equal numbers share the mean of their ranks. Neither is
//! defined with fewer than three pairs, or where one list is constant. The 95 % interval is the percentile bootstrap over pairs
//! (Efron 1982): [`RESAMPLES`] draws of n pairs out of n, with replacement; draws in which a list is constant are left out.
//!
//! Limit: the bootstrap takes pairs as independent. Neighbouring blocks of a model are alike, so that over blocks it is too
//! narrow.

use crate::rng;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Draws of an interval.
const RESAMPLES: u64 = 1000;

/// A correlation with its 95 % interval; all are `None` where it is not defined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// In [−1, 1].
    pub value: Option<f64>,
    /// Lower end.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
}

impl Correlation {
    /// Pearson's r of pairs (x, y).
    pub fn pearson(pairs: &[(f64, f64)]) -> Self {
        Self::of(pairs, pearson)
    }

    /// Spearman's ρ of pairs (x, y).
    pub fn spearman(pairs: &[(f64, f64)]) -> Self {
        Self::of(pairs, spearman)
    }

    /// Whether the interval leaves out 0.
    pub fn is_clear(&self) -> bool {
        self.lo.is_some_and(|lo| lo > 0.0) || self.hi.is_some_and(|hi| hi < 0.0)
    }

    fn of(pairs: &[(f64, f64)], measure: fn(&[(f64, f64)]) -> Option<f64>) -> Self {
        let Some(value) = measure(pairs) else {
            return Self::default();
        };
        let draw = |resample| {
            let mut random = rng::stream(0, "correlation", &[resample]);
            let drawn: Vec<_> = (0..pairs.len())
                .map(|_| pairs[random.random_range(0..pairs.len())])
                .collect();
            measure(&drawn)
        };
        let mut drawn: Vec<f64> = (0..RESAMPLES).filter_map(draw).collect();
        drawn.sort_by(f64::total_cmp);
        let outside = drawn.len() / 40; // 2.5 % at each end
        Self {
            value: Some(value),
            lo: drawn.get(outside).copied(),
            hi: drawn.iter().nth_back(outside).copied(),
        }
    }
}

/// r; `None` where it is not defined.
pub(super) fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let (x, y) = pairs.iter().fold((0.0, 0.0), |(x, y), pair| (x + pair.0, y + pair.1));
    let (x, y) = (x / n, y / n);
    let sum = |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|pair| of(pair.0 - x, pair.1 - y)).sum::<f64>();
    let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    let r = xy / (xx.sqrt() * yy.sqrt());
    (pairs.len() >= 3 && r.is_finite()).then(|| r.clamp(-1.0, 1.0))
}

/// ρ; `None` where it is not defined.
pub(super) fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let ranked: Vec<_> = ranks(&x).into_iter().zip(ranks(&y)).collect();
    pearson(&ranked)
}

/// Ranks from 0, the smallest first; equal values share the mean of theirs.
pub(super) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let shared = start as f64 + (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|&index| ranks[index] = shared);
        start += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(x: &[f64], y: &[f64]) -> Vec<(f64, f64)> {
        x.iter().copied().zip(y.iter().copied()).collect()
    }

    /// By hand: x̄ = 3, ȳ = 4, Σxy = 7, Σx² = 10, Σy² = 6; and in the second list two 2s share rank 1.5.
    #[test]
    fn small_lists_give_the_numbers_of_the_formula() {
        let r = pearson(&pairs(&[1., 2., 3., 4., 5.], &[2., 4., 5., 4., 5.])).unwrap();
        assert!((r - 6.0 / 60f64.sqrt()).abs() < 1e-15, "{r}");
        assert_eq!(ranks(&[9., 2., 2., -1.]), [3., 1.5, 1.5, 0.]);
        let monotone = pairs(&[1., 2., 3., 4.], &[1., 8., 27., 1000.]);
        assert_eq!(spearman(&monotone), Some(1.0));
        assert!(pearson(&monotone).unwrap() < 0.9);
    }

    #[test]
    fn what_is_not_defined_is_not_a_number() {
        for bad in [
            pairs(&[1., 2.], &[1., 2.]),
            pairs(&[1., 1., 1.], &[1., 2., 3.]),
            Vec::new(),
        ] {
            assert_eq!(Correlation::pearson(&bad), Correlation::default());
            assert!(!Correlation::spearman(&bad).is_clear());
        }
    }

    /// Fisher's z: of n = 100 pairs with r near 0.8 the interval is about tanh(atanh r ± 1.96/√97).
    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        let mut random = rng::stream(3, "test", &[]);
        let mut normal = || (0..12).map(|_| random.random_range(-0.5..0.5)).sum::<f64>();
        let pairs: Vec<_> = (0..100)
            .map(|_| {
                let x = normal();
                (x, 0.8 * x + 0.6 * normal())
            })
            .collect();
        let got = Correlation::pearson(&pairs);
        let z = got.value.unwrap().atanh();
        let (lo, hi) = ((z - 0.199).tanh(), (z + 0.199).tanh());
        assert!(
            (got.lo.unwrap() - lo).abs() < 0.06 && (got.hi.unwrap() - hi).abs() < 0.06,
            "{got:?} {lo} {hi}"
        );
        assert!(got.is_clear());
    }

    proptest! {
        #[test]
        fn bounded_symmetric_and_free_of_scale(values in prop::collection::vec((-9.0..9.0f64, -9.0..9.0f64), 3..20)) {
            let swapped: Vec<_> = values.iter().map(|&(x, y)| (y, x)).collect();
            let scaled: Vec<_> = values.iter().map(|&(x, y)| (3.0 * x - 1.0, 7.0 - y)).collect();
            for measure in [pearson, spearman] {
                if let Some(r) = measure(&values) {
                    prop_assert!(r.abs() <= 1.0);
                    prop_assert!((measure(&swapped).unwrap() - r).abs() < 1e-12);
                    prop_assert!((measure(&scaled).unwrap() + r).abs() < 1e-9);
                }
            }
        }
    }
}

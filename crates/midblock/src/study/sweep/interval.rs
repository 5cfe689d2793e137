//! A mean over items and seeds with a 95 % interval that accounts for both.
//!
//! Every seed s judges the same items i: values `x[s][i]` with weights `w[i]`, and the mean is Σ_s Σ_i x / (S · Σ_i w). A
//! resample draws N items with replacement, the same for all seeds, and takes the mean m_s of each seed on them; it is their mean
//! plus z·d/√S, with d the standard deviation of the m_s (S − 1 in the denominator) and z standard normal. So items are
//! bootstrapped (Efron 1982), and seeds, which are too few to be drawn from, have the error of a mean of S. The interval holds the
//! middle 95 % of the resamples.
//!
//! A mean over several measures is the plain mean of theirs, whatever their numbers of items; a resample draws the items of each
//! among themselves.
//!
//! Limits. With one seed it speaks of other items alone. With two, d rests on a single difference: where both happen to agree the
//! interval is too narrow; from seeds alone, Student's t (1 degree of freedom) would make it six times as wide. The difference
//! of two patterns is the interval of x − y: what makes an item hard for both cancels.

use crate::rng;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Resamples of an interval.
const RESAMPLES: u64 = 2000;

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// Items (N).
    pub items: usize,
    /// Seeds (S).
    pub seeds: usize,
}

impl Interval {
    /// Whether the interval leaves out 0.
    pub fn is_clear(&self) -> bool {
        self.lo > 0.0 || self.hi < 0.0
    }

    /// The same with ends where the quantity can be.
    pub(super) fn within(self, least: f64, most: f64) -> Self {
        Self {
            lo: self.lo.max(least),
            hi: self.hi.min(most),
            ..self
        }
    }

    /// Of `values[s][i]` with the weights `weights[i]`; `None` without seeds or weight.
    pub fn of(values: &[Vec<f64>], weights: &[f64]) -> Option<Self> {
        Self::of_measures(&[ItemValues {
            values: values.to_vec(),
            weights: weights.to_vec(),
        }])
    }

    /// Of the mean over measures, all with the same seeds; `None` without measures, seeds or weight.
    ///
    /// # Panics
    /// If measures have other numbers of seeds.
    pub fn of_measures(measures: &[ItemValues]) -> Option<Self> {
        let seeds = measures.first()?.values.len();
        assert!(
            measures.iter().all(|measure| measure.values.len() == seeds),
            "{seeds} seeds"
        );
        if seeds == 0
            || measures
                .iter()
                .any(|measure| measure.weights.iter().sum::<f64>() <= 0.0)
        {
            return None;
        }
        let all: Vec<Vec<usize>> = measures
            .iter()
            .map(|measure| (0..measure.weights.len()).collect())
            .collect();
        let mut resampled: Vec<f64> = (0..RESAMPLES)
            .map(|resample| {
                let mut random = rng::stream(0, "sweep interval", &[resample]);
                let draw = |items: &Vec<usize>| -> Vec<usize> {
                    items.iter().map(|_| random.random_range(0..items.len())).collect()
                };
                let drawn: Vec<Vec<usize>> = all.iter().map(draw).collect();
                let means = means_of_seeds(measures, &drawn);
                mean(&means) + rng::normal(&mut random) * error_of_mean(&means)
            })
            .filter(|mean| mean.is_finite()) // every item drawn may be without weight
            .collect();
        resampled.sort_by(f64::total_cmp);
        let outside = resampled.len() / 40; // 2.5 % at each end
        Some(Self {
            mean: mean(&means_of_seeds(measures, &all)),
            lo: *resampled.get(outside)?,
            hi: *resampled.get(resampled.len() - 1 - outside)?,
            items: all.iter().map(Vec::len).sum(),
            seeds,
        })
    }
}

/// A measure item by item, for every seed.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemValues {
    /// (S, N): numerators.
    pub values: Vec<Vec<f64>>,
    /// (N)
    pub weights: Vec<f64>,
}

/// For each seed the mean over measures of their means over the drawn items.
fn means_of_seeds(measures: &[ItemValues], drawn: &[Vec<usize>]) -> Vec<f64> {
    let weights: Vec<f64> = (measures.iter().zip(drawn))
        .map(|(measure, drawn)| drawn.iter().map(|&i| measure.weights[i]).sum())
        .collect();
    let of = |seed: usize| {
        let each = measures.iter().zip(drawn).zip(&weights);
        let sum: f64 = each
            .map(|((measure, drawn), weight)| drawn.iter().map(|&i| measure.values[seed][i]).sum::<f64>() / weight)
            .sum();
        sum / measures.len() as f64
    };
    (0..measures[0].values.len()).map(of).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// d/√S; 0 for a single value.
fn error_of_mean(values: &[f64]) -> f64 {
    let (n, mean) = (values.len() as f64, mean(values));
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() < 2 {
        0.0
    } else {
        (squares / (n - 1.0) / n).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[Vec<f64>]) -> Interval {
        Interval::of(values, &vec![1.0; values[0].len()]).unwrap()
    }

    /// Numbers without pattern, of mean 0 and variance 1.
    fn noise(n: usize, stream: u64) -> Vec<f64> {
        let mut random = rng::stream(9, "noise", &[stream]);
        (0..n)
            .map(|_| (0..12).map(|_| random.random_range(0.0..1.0)).sum::<f64>() - 6.0)
            .collect()
    }

    #[test]
    fn one_seed_has_the_interval_of_its_items() {
        let items = noise(400, 0);
        let got = of(std::slice::from_ref(&items));
        let mean = items.iter().sum::<f64>() / 400.0;
        let deviation = (items.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 400.0).sqrt();
        assert!((got.mean - mean).abs() < 1e-12);
        let expected = 2.0 * 1.96 * deviation / 20.0;
        assert!(((got.hi - got.lo) / expected - 1.0).abs() < 0.07, "{got:?} {expected}");
    }

    #[test]
    fn seeds_that_differ_widen_it_by_their_own_variance() {
        // items all alike: what is left is the mean of S seeds, of variance σ²/S with σ² estimated over S − 1
        for seeds in [2, 3, 8] {
            let own = noise(seeds, 1);
            let values: Vec<Vec<f64>> = own.iter().map(|x| vec![*x; 50]).collect();
            let got = of(&values);
            let mean = own.iter().sum::<f64>() / seeds as f64;
            let variance = own.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (seeds - 1) as f64;
            let deviation = (variance / seeds as f64).sqrt();
            assert!((got.mean - mean).abs() < 1e-12);
            let half = (got.hi - got.lo) / 2.0 / deviation;
            assert!((1.85..2.07).contains(&half), "{seeds} seeds: {half}");
        }
    }

    #[test]
    fn a_difference_cancels_what_is_common_and_weights_count() {
        let hard = noise(60, 2);
        let difference: Vec<Vec<f64>> = (0..2)
            .map(|_| hard.iter().map(|x| (x * 9.0 + 0.1) - x * 9.0).collect())
            .collect();
        let got = of(&difference);
        assert!((got.lo - 0.1).abs() < 1e-9 && (got.hi - 0.1).abs() < 1e-9 && got.is_clear());
        assert!(!of(&[noise(60, 3), noise(60, 4)]).is_clear());
        let weighted = Interval::of(&[vec![9.0, 0.0]], &[9.0, 1.0]).unwrap();
        assert!((weighted.mean - 0.9).abs() < 1e-12);
    }

    /// Variances of means of independent measures add up: ¼·(σ²/100 + 9σ²/400) of two, one of them three times as wide.
    #[test]
    fn measures_count_alike_and_are_drawn_among_themselves() {
        let (few, many) = (noise(100, 7), noise(400, 8));
        let many: Vec<f64> = many.iter().map(|x| 1.0 + 3.0 * x).collect();
        let one = |values: &[f64]| ItemValues {
            values: vec![values.to_vec()],
            weights: vec![1.0; values.len()],
        };
        let got = Interval::of_measures(&[one(&few), one(&many)]).unwrap();
        let variance = |values: &[f64]| {
            let mean = mean(values);
            values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len() as f64).powi(2)
        };
        assert!((got.mean - (mean(&few) + mean(&many)) / 2.0).abs() < 1e-12);
        let expected = 2.0 * 1.96 * ((variance(&few) + variance(&many)) / 4.0).sqrt();
        assert!(((got.hi - got.lo) / expected - 1.0).abs() < 0.07, "{got:?} {expected}");
        assert_eq!((got.items, got.seeds), (500, 1));
        assert_eq!(Interval::of_measures(&[]), None);
    }

    #[test]
    fn nothing_has_no_interval() {
        assert_eq!(Interval::of(&[], &[1.0]), None);
        assert_eq!(Interval::of(&[vec![]], &[]), None);
        let one = of(&[vec![0.5]]);
        assert_eq!((one.mean, one.lo, one.hi), (0.5, 0.5, 0.5));
    }

    #[test]
    fn the_order_of_seeds_does_not_matter() {
        let (a, b) = (noise(200, 5), noise(200, 6));
        let (one, other) = (of(&[a.clone(), b.clone()]), of(&[b, a]));
        for (one, other) in [(one.mean, other.mean), (one.lo, other.lo), (one.hi, other.hi)] {
            assert!((one - other).abs() < 1e-12);
        }
    }
}

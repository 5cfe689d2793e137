//! Bootstrap resamples and shuffled pairings, drawn once and shared by every layer and model, so that bands are comparable.
//!
//! The interval is the percentile interval (Efron 1982): the 2.5 % and 97.5 % points, linearly interpolated, of the metric
//! over R resamples. Where a metric is given by its influence values, each resample costs one dot product (see
//! [`super::estimate`]). Fewer than two samples say nothing about their spread: no interval.

use super::estimate::{Estimate, Spread};
use crate::rng::stream;
use faer::Mat;
use rand::RngExt;

/// Pairings over which DiME averages. With N = 200 its value moves by some 6 % of the interval's width between sets of them.
pub(crate) const PAIRINGS: usize = 4;

/// What is drawn by chance for N samples.
#[derive(Clone, Debug)]
pub struct Resampling {
    /// Multiplicity of each sample in each resample, (N, R).
    counts: Mat<f64>,
    /// A random key per pairing and sample: sorting any subset of samples by it shuffles that subset.
    keys: Vec<Vec<f64>>,
}

impl Resampling {
    /// Draws `resamples` bootstrap samples of `n` out of `n`.
    pub fn new(n: usize, resamples: usize, seed: u64) -> Self {
        let mut counts = Mat::zeros(n, resamples);
        for r in 0..resamples {
            let mut rng = stream(seed, "bootstrap", &[r as u64]);
            for _ in 0..n {
                counts[(rng.random_range(0..n), r)] += 1.0;
            }
        }
        let keys = (0..PAIRINGS as u64)
            .map(|p| {
                let mut rng = stream(seed, "pairing", &[p]);
                (0..n).map(|_| rng.random()).collect()
            })
            .collect();
        Self { counts, keys }
    }

    /// N.
    pub fn samples(&self) -> usize {
        self.counts.nrows()
    }

    /// Multiplicities, (N, R).
    pub(crate) fn counts(&self) -> &Mat<f64> {
        &self.counts
    }

    /// For each pairing, position `k` of `members` is paired with position `pairing[k]`.
    pub(crate) fn pairings(&self, members: &[usize]) -> Vec<Vec<usize>> {
        let shuffled = |keys: &Vec<f64>| {
            let mut order: Vec<usize> = (0..members.len()).collect();
            order.sort_by(|&a, &b| keys[members[a]].total_cmp(&keys[members[b]]));
            order
        };
        self.keys.iter().map(shuffled).collect()
    }

    /// Ends of the 95 % interval of `estimate`.
    pub(crate) fn interval(&self, estimate: &Estimate) -> Option<(f64, f64)> {
        let n = self.samples();
        if n < 2 || self.counts.ncols() == 0 {
            return None;
        }
        let mut replicates = match &estimate.spread {
            Spread::Replicates(values) => values.clone(),
            Spread::Influence(influence) => {
                assert_eq!(influence.len(), n, "one influence value per sample");
                let shift = |c: &[f64]| c.iter().zip(influence).map(|(c, i)| c * i).sum::<f64>() / n as f64;
                (0..self.counts.ncols())
                    .map(|r| estimate.value + shift(self.counts.col_as_slice(r)))
                    .collect()
            }
        };
        replicates.sort_by(f64::total_cmp);
        Some((percentile(&replicates, 0.025), percentile(&replicates, 0.975)))
    }
}

/// Linearly interpolated quantile of sorted values (type 7 of Hyndman & Fan 1996, NumPy's default).
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resamples_have_n_members_and_follow_the_seed() {
        let a = Resampling::new(30, 50, 1);
        for r in 0..50 {
            assert_eq!(a.counts.col_as_slice(r).iter().sum::<f64>(), 30.0);
        }
        assert_eq!(a.counts, Resampling::new(30, 50, 1).counts);
        assert_ne!(a.counts, Resampling::new(30, 50, 2).counts);
    }

    #[test]
    fn pairings_shuffle_the_members() {
        let members: Vec<usize> = (0..40).filter(|i| i % 3 != 0).collect();
        for pairing in Resampling::new(40, 1, 5).pairings(&members) {
            let mut sorted = pairing.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..members.len()).collect::<Vec<_>>());
            assert_ne!(sorted, pairing);
        }
    }

    #[test]
    fn percentiles_interpolate() {
        let sorted: Vec<f64> = (0..=40).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.025), 1.0);
        assert_eq!(percentile(&[1.0, 2.0], 0.25), 1.25);
        assert_eq!(percentile(&[7.0], 0.975), 7.0);
    }

    /// A 95 % interval of a mean must cover the true mean in about 95 % of experiments; the percentile bootstrap of 60 values
    /// is known to fall a little short.
    #[test]
    fn the_interval_of_a_mean_covers() {
        let n = 60;
        let resampling = Resampling::new(n, 200, 9);
        let covered = (0..1000)
            .filter(|&experiment| {
                let mut rng = stream(3, "experiment", &[experiment]);
                let values: Vec<_> = (0..n).map(|_| Some(rng.random::<f64>())).collect();
                let (lo, hi) = resampling.interval(&Estimate::mean(&values, n).unwrap()).unwrap();
                (lo..=hi).contains(&0.5)
            })
            .count();
        assert!((915..=965).contains(&covered), "covered {covered} of 1000");
    }
}

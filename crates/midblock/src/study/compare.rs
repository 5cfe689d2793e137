//! Whether one model's loss is lower than another's on the same samples: a paired bootstrap.
//!
//! The difference is Σ nats / Σ tokens of the one minus that of the other. Each resample draws N of the N samples with
//! replacement, for both models alike, so that what makes a sample hard for both cancels; the interval holds the middle 95 % of
//! the resampled differences (Efron 1982). It speaks of other samples of the same kind, not of other seeds of the training.

use crate::{probe::TokenLoss, rng};
use rand::RngExt;

/// Resamples of a comparison.
pub const RESAMPLES: usize = 2000;

/// A difference of mean losses, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// On the samples themselves.
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

/// `left − right`, sample by sample.
///
/// # Panics
/// If there is no sample, or not the same number of both.
pub fn paired_difference(left: &[TokenLoss], right: &[TokenLoss], seed: u64) -> Difference {
    assert!(
        !left.is_empty() && left.len() == right.len(),
        "{} and {}",
        left.len(),
        right.len()
    );
    let mean = |losses: &[TokenLoss], chosen: &[usize]| chosen.iter().map(|&i| losses[i]).sum::<TokenLoss>().mean();
    let difference = |chosen: &[usize]| mean(left, chosen) - mean(right, chosen);
    let n = left.len();
    let mut resampled: Vec<f64> = (0..RESAMPLES as u64)
        .map(|resample| {
            let mut rng = rng::stream(seed, "paired bootstrap", &[resample]);
            let drawn: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
            difference(&drawn)
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let outside = RESAMPLES / 40; // 2.5 % at each end
    Difference {
        value: difference(&(0..n).collect::<Vec<_>>()),
        lo: resampled[outside],
        hi: resampled[RESAMPLES - 1 - outside],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(nats: impl Iterator<Item = f64>) -> Vec<TokenLoss> {
        nats.map(|nats| TokenLoss { predicted: 2, nats }).collect()
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
    fn tokens_weigh_and_not_samples() {
        let long = TokenLoss {
            predicted: 9,
            nats: 9.0,
        };
        let short = TokenLoss {
            predicted: 1,
            nats: 0.0,
        };
        let none = [TokenLoss {
            predicted: 1,
            nats: 0.0,
        }; 2];
        assert!((paired_difference(&[long, short], &none, 1).value - 0.9).abs() < 1e-12);
    }
}

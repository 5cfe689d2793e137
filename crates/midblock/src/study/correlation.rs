//! A correlation with its 95 % interval: the percentile bootstrap over pairs (Efron 1982).
//!
//! Limit: pairs are taken as independent. Neighbouring blocks of a model are alike, so that over blocks the interval is too narrow.

use super::Estimate;
use crate::rng;
use rand::RngExt;

/// Draws of an interval.
const RESAMPLES: u64 = 1000;

/// `measure` of pairs (x, y) with its interval; `None` where it is not defined. Draws in which it is not are left out.
pub(super) fn correlation(pairs: &[(f64, f64)], measure: fn(&[(f64, f64)]) -> Option<f64>) -> Option<Estimate> {
    let value = measure(pairs)?;
    let draw = |resample| {
        let mut random = rng::stream(0, "correlation", &[resample]);
        let mut drawn = || pairs[random.random_range(0..pairs.len())];
        measure(&(0..pairs.len()).map(|_| drawn()).collect::<Vec<_>>())
    };
    let mut drawn: Vec<f64> = (0..RESAMPLES).filter_map(draw).collect();
    drawn.sort_by(f64::total_cmp);
    let outside = drawn.len() / 40; // 2.5 % at each end
    Some(Estimate {
        value,
        lo: drawn.get(outside).copied().unwrap_or(value),
        hi: drawn.iter().nth_back(outside).copied().unwrap_or(value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{pearson, spearman};

    /// Fisher's z: of n = 100 pairs with r near 0.8 the interval is about tanh(atanh r ± 1.96/√97).
    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        let mut random = rng::stream(3, "test", &[]);
        let mut normal = || (0..12).map(|_| random.random_range(-0.5..0.5)).sum::<f64>();
        let pair = |_| {
            let x = normal();
            (x, 0.8 * x + 0.6 * normal())
        };
        let pairs: Vec<(f64, f64)> = (0..100).map(pair).collect();
        let got = correlation(&pairs, pearson).unwrap();
        let z = got.value.atanh();
        let (lo, hi) = ((z - 0.199).tanh(), (z + 0.199).tanh());
        assert!(
            (got.lo - lo).abs() < 0.06 && (got.hi - hi).abs() < 0.06,
            "{got:?} {lo} {hi}"
        );
        assert!(got.is_clear());
    }

    #[test]
    fn what_is_not_defined_has_no_interval() {
        assert_eq!(correlation(&[(1.0, 1.0), (2.0, 2.0)], pearson), None);
        assert_eq!(correlation(&[(1.0, 1.0), (1.0, 2.0), (1.0, 5.0)], spearman), None);
        // a monotone relation stays one in every draw in which it is defined
        let got = correlation(&[(1.0, 1.0), (2.0, 8.0), (3.0, 27.0)], spearman).unwrap();
        assert!((got.lo - 1.0).abs() < 1e-12 && (got.hi - 1.0).abs() < 1e-12, "{got:?}");
    }
}

//! From a few numbers for each block to a ranked list of bands.
//!
//! Probe k gives block l the number x_k(l), higher is better; its rank r_k(l) runs from 0 (the lowest) to 1 (the highest), equal
//! numbers share. The score of a block is the weighted mean of its ranks,
//!
//! score(l) = Σ_k w_k r_k(l) / Σ_k |w_k|, where r_k is 1 − r_k if w_k < 0,
//!
//! in [0, 1]. The predicted benefit of a band [a, b) is Σ_l rank(l)·score(l) / Σ_l rank(l): what a unit of the rank budget meets on
//! average. All blocks of a band get one rank, ⌊r·L/(b − a)⌋, so that this is the mean score of its blocks. The budget is the same
//! for every band; it cannot say how wide a band should be (the best single block has the largest mean), so that widths are given.
//!
//! Ranks and not values: the probes have no common unit, and one extreme block must not decide. Weights are equal unless
//! someone says otherwise, because nothing known before training tells which probe to believe.

use crate::metrics::ranks;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A contiguous run of blocks, 0-based, half-open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Band {
    /// The blocks.
    pub blocks: Range<usize>,
    /// Predicted benefit, in [0, 1].
    pub benefit: f64,
}

/// The score of every block from the probes' numbers, each with its weight.
pub fn scores(probes: &[(f64, &[f64])]) -> Vec<f64> {
    let blocks = probes.first().map_or(0, |(_, numbers)| numbers.len());
    let total: f64 = probes.iter().map(|(weight, _)| weight.abs()).sum();
    let mut scores = vec![0.0; blocks];
    for (weight, numbers) in probes {
        for (score, rank) in scores.iter_mut().zip(unit_ranks(numbers)) {
            let rank = if *weight < 0.0 { 1.0 - rank } else { rank };
            *score += weight.abs() * rank / total;
        }
    }
    scores
}

/// Ranks from 0 to 1; ½ for a single number.
pub fn unit_ranks(numbers: &[f64]) -> Vec<f64> {
    let most = numbers.len() as f64 - 1.0;
    let unit = |rank: f64| if most > 0.0 { (rank - 1.0) / most } else { 0.5 };
    ranks(numbers).into_iter().map(unit).collect()
}

/// Every band of these widths, the best first; of equal ones the narrower, then the lower.
pub fn ranked(scores: &[f64], widths: &[usize]) -> Vec<Band> {
    let mut bands = Vec::new();
    for &width in widths.iter().filter(|width| (1..=scores.len()).contains(*width)) {
        for start in 0..=scores.len() - width {
            let blocks = start..start + width;
            let benefit = scores[blocks.clone()].iter().sum::<f64>() / width as f64;
            bands.push(Band { blocks, benefit });
        }
    }
    bands.sort_by(|a, b| {
        let size = |band: &Band| (band.blocks.len(), band.blocks.start);
        b.benefit.total_cmp(&a.benefit).then(size(a).cmp(&size(b)))
    });
    bands
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By hand: ranks (0, ⅓, ⅔, 1) and, of (5, 5, 1, 9), (½, ½, 0, 1).
    #[test]
    fn scores_are_weighted_mean_ranks() {
        let (rising, other) = ([1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 1.0, 9.0]);
        let got = scores(&[(1.0, &rising), (1.0, &other)]);
        let expected = [0.25, (1.0 / 3.0 + 0.5) / 2.0, 1.0 / 3.0, 1.0];
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-15, "{got} {expected}");
        }
        assert_eq!(scores(&[(-2.0, &rising)]), [1.0, 1.0 - 1.0 / 3.0, 1.0 - 2.0 / 3.0, 0.0]);
        assert_eq!(scores(&[(0.0, &other), (3.0, &rising)]), scores(&[(1.0, &rising)]));
        assert_eq!(unit_ranks(&[3.0]), [0.5]);
    }

    #[test]
    fn the_best_band_comes_first() {
        let bands = ranked(&[0.0, 0.5, 1.0, 0.5, 0.25], &[2, 9]);
        let found: Vec<_> = bands.iter().map(|band| (band.blocks.clone(), band.benefit)).collect();
        assert_eq!(found, [(1..3, 0.75), (2..4, 0.75), (3..5, 0.375), (0..2, 0.25)]);
        let bands = ranked(&[1.0, 1.0, 0.0], &[2, 1]);
        assert_eq!(
            [
                bands[0].blocks.clone(),
                bands[1].blocks.clone(),
                bands[2].blocks.clone()
            ],
            [0..1, 1..2, 0..2]
        );
    }

    proptest! {
        #[test]
        fn every_position_once_and_in_order(numbers in prop::collection::vec(-5.0..5.0f64, 1..40), width in 1usize..10) {
            let scores = scores(&[(1.0, &numbers)]);
            prop_assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
            let bands = ranked(&scores, &[width]);
            prop_assert_eq!(bands.len(), (numbers.len() + 1).saturating_sub(width));
            prop_assert!(bands.windows(2).all(|pair| pair[0].benefit >= pair[1].benefit));
        }
    }
}

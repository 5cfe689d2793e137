//! Sizes of states: mean, standard deviation and Gini coefficient of row norms, and the share of near-zero entries.
//!
//! With n_i = ‖x_i‖₂ over the pooled states X (N, D), in units of h:
//! mean n̄; standard deviation √(Σ(n_i−n̄)²/N); Gini = Σ_ij |n_i−n_j|/(2N² n̄) in [0, 1), 0 if all norms are equal.
//! Sparsity = share of entries of the captured token states with |h| < 0.01·max|h|, the maximum over all of them, in [0, 1).
//!
//! Edge cases: n̄ = 0 leaves Gini undefined, a zero maximum or no tokens leave sparsity undefined. Protocol `paper` takes the
//! maximum over batches of ten samples.
//!
//! Spread: I = n_i − n̄; ((n_i−n̄)² − s²)/(2s); (e_i − Δ)/n̄ − G (n_i−n̄)/n̄ with e_i the mean of |n_i−n_j| over j and Δ the
//! mean of e; sparsity is a ratio of sums, with its maximum held fixed.

use super::estimate::{Estimate, mean};
use super::linalg::row_norms;
use super::{Capture, Protocol};
use faer::MatRef;

/// Entries below this share of the largest count as zero.
const SPARSITY_THRESHOLD: f64 = 0.01;
/// Samples per file of the paper's scripts.
const PAPER_BATCH: usize = 10;

/// `[l2_norm_mean, l2_norm_sd, gini]`.
pub(crate) fn norm_metrics(x: MatRef<'_, f64>) -> [Option<Estimate>; 3] {
    let norms = row_norms(x);
    let n = norms.len();
    if n == 0 {
        return [const { None }; 3];
    }
    let average = mean(&norms);
    let deviation: Vec<f64> = norms.iter().map(|x| x - average).collect();
    let variance = deviation.iter().map(|d| d * d).sum::<f64>() / n as f64;
    let sd = variance.sqrt();
    let sd_influence = deviation
        .iter()
        .map(|d| if sd > 0.0 { (d * d - variance) / (2.0 * sd) } else { 0.0 });
    [
        Some(Estimate::new(average, deviation.clone())),
        Some(Estimate::new(sd, sd_influence.collect())),
        (average > 0.0).then(|| gini(&norms, average)),
    ]
}

fn gini(norms: &[f64], average: f64) -> Estimate {
    let n = norms.len() as f64;
    let distance = |a: &f64| norms.iter().map(|b| (a - b).abs()).sum::<f64>() / n;
    let distances: Vec<f64> = norms.iter().map(distance).collect();
    let delta = mean(&distances);
    let value = delta / (2.0 * average);
    let influence = norms
        .iter()
        .zip(&distances)
        .map(|(x, e)| (e - delta) / average - value * (x - average) / average);
    Estimate::new(value, influence.collect())
}

/// Sparsity of the token states.
pub(crate) fn sparsity(capture: &Capture, protocol: Protocol) -> Option<Estimate> {
    let batch = match protocol {
        Protocol::Default => capture.tokens.len(),
        Protocol::Paper => PAPER_BATCH,
    };
    let mut small = Vec::with_capacity(capture.tokens.len());
    for samples in capture.tokens.chunks(batch.max(1)) {
        let largest = samples.iter().flatten().fold(0.0_f64, |m, h| m.max(f64::from(h.abs())));
        let threshold = SPARSITY_THRESHOLD * largest;
        let below = |tokens: &Vec<f32>| tokens.iter().filter(|h| f64::from(h.abs()) < threshold).count() as f64;
        if largest == 0.0 {
            return None;
        }
        small.extend(samples.iter().map(|tokens| Some(below(tokens))));
    }
    let sizes: Vec<Option<f64>> = capture.tokens.iter().map(|t| Some(t.len() as f64)).collect();
    let n = capture.samples();
    Estimate::mean(&small, n)?.ratio(&Estimate::mean(&sizes, n)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::linalg::rows;

    #[test]
    fn norms_one_can_check_by_hand() {
        let x = [3.0, 4.0, 0.0, 1.0, 0.0, 0.0]; // norms 5 1 0
        let [average, sd, gini] = norm_metrics(rows(&x, 2)).map(|e| e.unwrap().value);
        assert_eq!(average, 2.0);
        assert!((sd - (14.0_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert!((gini - 20.0 / 36.0).abs() < 1e-15); // Σ|..| = 2·(4+5+1), 2·N²·mean = 36
    }

    #[test]
    fn sparsity_counts_entries_below_a_hundredth_of_the_largest() {
        let capture = Capture {
            dim: 2,
            pooled: vec![0.0; 4],
            tokens: vec![vec![100.0, 0.5, -0.99, 1.0], vec![-3.0, 0.0]],
            ..Capture::default()
        };
        assert_eq!(sparsity(&capture, Protocol::Default).unwrap().value, 0.5);
        let zero = Capture {
            tokens: vec![vec![0.0; 4]],
            ..capture
        };
        assert_eq!(sparsity(&zero, Protocol::Default), None);
    }
}

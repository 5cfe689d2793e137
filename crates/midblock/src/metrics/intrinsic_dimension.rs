//! TwoNN intrinsic dimension: how many directions the pooled states fill locally.
//!
//! With r_1, r_2 the distances of a sample to its first and second neighbour, μ = r_2/r_1 follows a Pareto law of exponent d
//! (Facco et al. 2017, eq. 4), so d = (n − 1)/Σ ln μ_i, the maximum-likelihood estimate made unbiased. Range > 0, unitless.
//!
//! Edge cases: a sample with an exact duplicate (r_1 = 0) has no μ and is left out; fewer than three samples, fewer than two
//! μ, or Σ ln μ = 0: undefined. Many samples see a slightly curved, noisy manifold: compare layers, do not read digits.
//!
//! Spread: neighbours stay fixed, I_i = −d·(ln μ_i − m)/m with m the mean of ln μ. Re-finding neighbours among resampled
//! rows would meet duplicates at distance zero.

use super::estimate::{Estimate, mean};
use faer::MatRef;
use rayon::prelude::*;

/// TwoNN over the rows of `x` (N, D).
pub(crate) fn intrinsic_dimension(x: MatRef<'_, f64>) -> Option<Estimate> {
    let n = x.nrows();
    let log_ratios = log_distance_ratios(x);
    let members: Vec<usize> = (0..n).filter(|&i| log_ratios[i].is_some()).collect();
    let logs: Vec<f64> = log_ratios.into_iter().flatten().collect();
    let (m, average) = (logs.len(), mean(&logs));
    if m < 2 || average <= 0.0 {
        return None;
    }
    let value = (m - 1) as f64 / (m as f64 * average);
    let influence: Vec<f64> = logs.iter().map(|l| -value * (l - average) / average).collect();
    Some(Estimate::over(&members, n, value, &influence))
}

/// ln(r_2/r_1) of every row. Distances come from differences, not from a Gram matrix: states share a large mean, and close
/// neighbours would cancel.
fn log_distance_ratios(x: MatRef<'_, f64>) -> Vec<Option<f64>> {
    let n = x.nrows();
    let contiguous: Vec<Vec<f64>> = x.row_iter().map(|row| row.iter().copied().collect()).collect();
    let nearest_two = |i: usize| {
        let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
        for j in (0..n).filter(|&j| j != i) {
            let squared = squared_distance(&contiguous[i], &contiguous[j]);
            if squared < first {
                (first, second) = (squared, first);
            } else if squared < second {
                second = squared;
            }
        }
        (first > 0.0 && second.is_finite()).then(|| 0.5 * (second / first).ln())
    };
    (0..n).into_par_iter().map(nearest_two).collect()
}

/// ‖a − b‖², summed in eight lanes so that the compiler may use vector registers.
fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(p, q)| (p - q) * (p - q))
        .sum();
    for (p, q) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += (p[lane] - q[lane]) * (p[lane] - q[lane]);
        }
    }
    lanes.iter().sum::<f64>() + tail
}

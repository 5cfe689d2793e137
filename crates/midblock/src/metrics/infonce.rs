//! InfoNCE between two views of every sample: how well a sample is told apart from the others.
//!
//! loss = (1/M) Σ_i −ln( e^{s_ii} / Σ_j e^{s_ij} ), s_ij = cos(a_i, b_j)/τ, τ = 0.1 (van den Oord et al. 2018, eq. 4), in nats:
//! 0 if every view finds its partner with certainty, ln M if it cannot tell. Bound: 1 − loss/ln M, the mutual information the
//! views are shown to share (I ≥ ln M − loss) as a share of the most that M samples can show; at most 1, negative below chance.
//!
//! Spread: sample j counts as an anchor (ℓ_j) and as a negative of the others (the softmax mass q_j that they give it), so
//! I_j = (ℓ_j − ℓ̄) + (q_j − q̄). A sample is never its own negative, however often it is drawn.

use super::estimate::{Estimate, mean};
use super::linalg::{product, unit_rows};
use super::views::Views;

const TEMPERATURE: f64 = 0.1;

/// `[infonce, infonce_bound]`.
pub(crate) fn infonce(views: &Views) -> [Option<Estimate>; 2] {
    let (a, b) = views.pair();
    let similarity = product(unit_rows(a.as_ref()).as_ref(), unit_rows(b.as_ref()).transpose()); // (M, M)
    let m = similarity.nrows();
    let mut loss = vec![0.0; m];
    let mut mass_as_negative = vec![0.0; m];
    for i in 0..m {
        let score = |j: usize| similarity[(i, j)] / TEMPERATURE;
        let largest = (0..m).map(score).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = (0..m).map(|j| (score(j) - largest).exp()).sum();
        loss[i] = total.ln() + largest - score(i);
        for (j, mass) in mass_as_negative.iter_mut().enumerate().filter(|(j, _)| *j != i) {
            *mass += (score(j) - largest).exp() / total;
        }
    }
    let (value, mean_mass) = (mean(&loss), mean(&mass_as_negative));
    let influence: Vec<f64> = loss
        .iter()
        .zip(&mass_as_negative)
        .map(|(l, q)| (l - value) + (q - mean_mass))
        .collect();
    let log_m = (m as f64).ln(); // > 0: views have at least two members
    let bound: Vec<f64> = influence.iter().map(|i| -i / log_m).collect();
    let over = |value, influence: &[f64]| Some(Estimate::over(&views.members, views.samples, value, influence));
    [over(value, &influence), over(1.0 - value / log_m, &bound)]
}

//! Linear centred kernel alignment between the pooled states of two models, biased and debiased.
//!
//! With K = X Xᵀ, L = Y Yᵀ (N, N) and ˜ for double centring: CKA = ⟨K̃, L̃⟩/(‖K̃‖‖L̃‖) in [0, 1] (Kornblith et al. 2019, eq. 4);
//! debiased: the same with the U-centred matrices of Székely & Rizzo 2014, whose inner product over N(N−3) is the unbiased
//! HSIC_1 of Song et al. 2012, eq. 5 (Nguyen et al., arXiv 2010.15327, eq. 3). At most 1; it may fall below 0 by chance.
//! 1 = the same up to rotation and scale, 0 = unrelated. With N < D, biased CKA is far above 0 for unrelated states.
//!
//! Edge cases: all rows equal in either: undefined. Debiased needs N ≥ 4 and positive self-similarity on both sides.
//!
//! Floor: the mean over all N! pairings, in closed form, since shuffling changes the numerator only and
//! E⟨K̃, ΠL̃Πᵀ⟩ = tr K̃ · tr L̃/(N−1). For the debiased estimate it is exactly 0: that is what "debiased" means.
//!
//! Spread: HSIC is a quadratic form of the weights with row means r_i, so I_i = 2(r_i − HSIC), and CKA follows by the quotient
//! rule. No resample ever contains a pair of a sample with its own duplicate, which would pass for perfect agreement.

use super::estimate::{Estimate, mean};
use super::linalg::{centred, product, rows};
use faer::{Mat, MatRef};

/// Biased CKA of the double-centred Gram matrices.
pub(crate) fn cka(k: MatRef<'_, f64>, l: MatRef<'_, f64>) -> Option<Estimate> {
    let n = k.nrows();
    let estimate = alignment(k, l)?;
    let trace = |a: MatRef<'_, f64>| a.diagonal().column_vector().sum();
    let floor = trace(k) * trace(l) / ((n - 1) as f64 * k.norm_l2() * l.norm_l2());
    Some(estimate.with_floor(floor))
}

/// Debiased CKA of the same matrices (U-centring does not see an earlier centring).
pub(crate) fn cka_debiased(k: MatRef<'_, f64>, l: MatRef<'_, f64>) -> Option<Estimate> {
    if k.nrows() < 4 {
        return None;
    }
    Some(alignment(u_centred(k).as_ref(), u_centred(l).as_ref())?.with_floor(0.0))
}

/// Debiased CKA of the states of N samples, row-major (N, `dim`); none if it is not defined.
///
/// # Panics
/// If there are not as many numbers of both.
pub fn debiased_cka(x: &[f64], y: &[f64], dim: usize) -> Option<f64> {
    assert_eq!(
        x.len(),
        y.len(),
        "both models have the same width and saw the same samples"
    );
    let gram = |states: &[f64]| {
        let centred = centred(rows(states, dim));
        product(centred.as_ref(), centred.transpose())
    };
    if !x.iter().chain(y).all(|value| value.is_finite()) {
        return None;
    }
    cka_debiased(gram(x).as_ref(), gram(y).as_ref()).map(|estimate| estimate.value)
}

/// ⟨A, B⟩/√(⟨A, A⟩⟨B, B⟩) with influence values.
fn alignment(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Option<Estimate> {
    let (cross, left, right) = (row_products(a, b), row_products(a, a), row_products(b, b));
    let (ab, aa, bb) = (mean(&cross), mean(&left), mean(&right));
    if aa <= 0.0 || bb <= 0.0 {
        return None;
    }
    let value = ab / (aa * bb).sqrt();
    let influence = (0..cross.len())
        .map(|i| 2.0 * (cross[i] - ab) / (aa * bb).sqrt() - value * ((left[i] - aa) / aa + (right[i] - bb) / bb));
    Some(Estimate::new(value, influence.collect()))
}

/// Σ_j a_ij b_ij of every row (columns of symmetric matrices are rows, and contiguous).
fn row_products(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Vec<f64> {
    a.col_iter()
        .zip(b.col_iter())
        .map(|(p, q)| p.iter().zip(q.iter()).map(|(x, y)| x * y).sum())
        .collect()
}

/// k_ij − Σ_l k_il/(N−2) − Σ_l k_lj/(N−2) + Σ k/((N−1)(N−2)) off the diagonal, sums without the diagonal; 0 on it.
fn u_centred(k: MatRef<'_, f64>) -> Mat<f64> {
    let n = k.nrows();
    let row_sums: Vec<f64> = (0..n).map(|i| k.col(i).sum() - k[(i, i)]).collect();
    let total: f64 = row_sums.iter().sum::<f64>() / ((n - 1) as f64 * (n - 2) as f64);
    Mat::from_fn(n, n, |i, j| match i == j {
        true => 0.0,
        false => k[(i, j)] - (row_sums[i] + row_sums[j]) / (n - 2) as f64 + total,
    })
}

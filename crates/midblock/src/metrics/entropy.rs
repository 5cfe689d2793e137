//! Matrix entropy of token states (prompt entropy) and of pooled states (dataset entropy).
//!
//! S_α(λ) = ln(Σ p_i^α)/(1−α) with p = λ/Σλ, and S_1(λ) = −Σ p_i ln p_i, where λ are the eigenvalues of K = Z Zᵀ and Z has the
//! states as rows scaled to unit length (Giraldo et al. 2015; Skean et al., arXiv 2502.02013, eq. 1).
//! Prompt entropy: Z from H_n (T_n, D) of each sample, mean over samples. Dataset entropy: Z from X (N, D).
//! Divided by ln min(rows, D) by default: 0 = all states in one direction, 1 = spread evenly over every direction.
//!
//! Edge cases: one token, or D = 1: ln 1 = 0 leaves the normalised entropy undefined (the sample is left out; `raw` gives 0).
//! A zero state has no direction and contributes nothing. All states zero: undefined.
//! Protocol `paper`: K/D + 1e−6·I instead of K, which adds a little entropy to every direction that is not used.

use super::estimate::Estimate;
use super::spectrum::Spectrum;
use super::{Capture, Options, Protocol, linalg};
use faer::{Mat, MatRef};
use rayon::prelude::*;

/// What an entropy is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// ln min(rows, D), the largest entropy there can be.
    #[default]
    Max,
    /// ln of the number of rows.
    LogN,
    /// ln D.
    LogD,
    /// ln(rows)·ln(D).
    LogNLogD,
    /// 1: nats.
    Raw,
}

impl Normalization {
    fn divisor(self, rows: usize, dim: usize) -> f64 {
        let (n, d) = ((rows as f64).ln(), (dim as f64).ln());
        match self {
            Self::Max => n.min(d),
            Self::LogN => n,
            Self::LogD => d,
            Self::LogNLogD => n * d,
            Self::Raw => 1.0,
        }
    }
}

/// S_α of nonnegative eigenvalues in nats; values at or below zero (rounding) count as zero. 0 if none is positive.
pub(crate) fn entropy_of(lambda: &[f64], alpha: f64) -> f64 {
    let total: f64 = lambda.iter().filter(|l| **l > 0.0).sum();
    let p = lambda.iter().filter(|l| **l > 0.0).map(|l| l / total);
    let entropy: f64 = if alpha == 1.0 {
        -p.map(|p| p * p.ln()).sum::<f64>()
    } else {
        match p.map(|p| p.powf(alpha)).sum::<f64>() {
            0.0 => 0.0,
            sum => sum.ln() / (1.0 - alpha),
        }
    };
    entropy.max(0.0) // −0.0 and rounding below zero for a single direction
}

/// λ_k ∂S_α/∂λ_k: −p_k (ln p_k + S) for α = 1, else α/(1−α)·(p_k^α/Σp^α − p_k).
pub(crate) fn log_gradient(lambda: &[f64], alpha: f64) -> Vec<f64> {
    let total: f64 = lambda.iter().filter(|l| **l > 0.0).sum();
    let p: Vec<f64> = lambda.iter().map(|l| if *l > 0.0 { l / total } else { 0.0 }).collect();
    if alpha == 1.0 {
        let entropy = entropy_of(lambda, 1.0);
        let term = |p: &f64| if *p > 0.0 { -p * (p.ln() + entropy) } else { 0.0 };
        return p.iter().map(term).collect();
    }
    let sum: f64 = p.iter().map(|p| p.powf(alpha)).sum();
    let scale = alpha / (1.0 - alpha);
    p.iter().map(|p| scale * (p.powf(alpha) / sum - p)).collect()
}

/// The paper's K/D + 1e−6·I, as eigenvalues of an n×n matrix of which `lambda` are the ones that may differ from zero.
fn paper_eigenvalues(lambda: &[f64], n: usize, dim: usize) -> Vec<f64> {
    let at = |k: usize| lambda.get(k).copied().unwrap_or(0.0).max(0.0);
    (0..n).map(|k| at(k) / dim as f64 + 1e-6).collect()
}

/// Entropy of one set of states `h` (T, D); `None` where it is not defined.
pub(crate) fn state_entropy(h: MatRef<'_, f64>, options: &Options) -> Option<f64> {
    let (rows, dim) = (h.nrows(), h.ncols());
    let divisor = options.entropy.normalization.divisor(rows, dim);
    let lambda = linalg::eigenvalues(linalg::smaller_gram(linalg::unit_rows(h).as_ref()).as_ref())?;
    if divisor == 0.0 || lambda.first().is_none_or(|l| *l <= 0.0) {
        return None;
    }
    let lambda = match options.protocol {
        Protocol::Default => lambda,
        Protocol::Paper => paper_eigenvalues(&lambda, rows, dim),
    };
    Some(entropy_of(&lambda, options.entropy.alpha) / divisor)
}

/// Mean over the samples whose tokens were captured.
pub(crate) fn prompt_entropy(capture: &Capture, options: &Options) -> Option<Estimate> {
    let d = capture.dim;
    let of_sample = |tokens: &Vec<f32>| {
        let h = Mat::from_fn(tokens.len() / d.max(1), d, |t, j| f64::from(tokens[t * d + j])); // (T_n, D)
        state_entropy(h.as_ref(), options)
    };
    let values: Vec<Option<f64>> = capture.tokens.par_iter().map(of_sample).collect();
    Estimate::mean(&values, capture.samples())
}

/// Entropy of the pooled states.
pub(crate) fn dataset_entropy(x: MatRef<'_, f64>, options: &Options) -> Option<Estimate> {
    let divisor = options.entropy.normalization.divisor(x.nrows(), x.ncols());
    let spectrum = Spectrum::of_rows(linalg::unit_rows(x).as_ref())?;
    if divisor == 0.0 || spectrum.eigenvalues.first().is_none_or(|l| *l == 0.0) {
        return None;
    }
    let alpha = options.entropy.alpha;
    let lambda = match options.protocol {
        Protocol::Default => spectrum.eigenvalues.clone(),
        Protocol::Paper => paper_eigenvalues(&spectrum.eigenvalues, x.nrows(), x.ncols()),
    };
    let gradient: Vec<f64> = log_gradient(&spectrum.eigenvalues, alpha)
        .iter()
        .map(|g| g / divisor)
        .collect();
    Some(Estimate::new(
        entropy_of(&lambda, alpha) / divisor,
        spectrum.influence(&gradient),
    ))
}

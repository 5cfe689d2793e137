//! Singular values of the pooled states: effective rank, spectral norm, condition number, rank deficiency.
//!
//! With σ the min(N, D) singular values of X (N, D), not centred:
//! effective rank = exp S(σ²)/min(N, D), S the Shannon entropy of σ²/Σσ² (Roy & Vetterli 2007, on σ² as in "Layer by Layer");
//! spectral norm = σ_max; condition number = σ_max/(σ_min + 1e−9); rank deficiency = 1 − #{σ > 0.01 σ_max}/min(N, D).
//! Unitless, but for the spectral norm (units of h). X = 0: only the spectral norm (0) is defined.
//!
//! Spread: weights c on the rows change λ_k = σ_k² to λ_k Σ_j c_j u_jk² to first order (Xᵀ diag(c) X seen from its own
//! eigenvectors). So I_j = N Σ_k g_k u_jk² − Σ_k g_k with g_k = λ_k ∂φ/∂λ_k. Rank deficiency counts, and has no derivative:
//! its replicates are counted over λ*.

use super::entropy::{entropy_of, log_gradient};
use super::estimate::{Estimate, Spread};
use super::resampling::Resampling;
use faer::{Mat, MatRef};

/// Guards the condition number against σ_min = 0.
const CONDITION_GUARD: f64 = 1e-9;
/// Singular values up to this share of the largest count as lost directions.
const RANK_THRESHOLD: f64 = 0.01;

/// The spectrum of X Xᵀ and how much each row takes part in it.
pub(crate) struct Spectrum {
    /// λ_k = σ_k², descending, (min(N, D)).
    pub eigenvalues: Vec<f64>,
    /// u_jk², (N, min(N, D)).
    pub energy: Mat<f64>,
}

impl Spectrum {
    /// By a singular value decomposition rather than a Gram matrix: σ_min is exact to rounding, not to its square root.
    pub fn of_rows(x: MatRef<'_, f64>) -> Option<Self> {
        let svd = x.thin_svd().ok()?;
        let sigma = svd.S().column_vector();
        let u = svd.U();
        Some(Self {
            eigenvalues: sigma.iter().map(|s| s * s).collect(),
            energy: Mat::from_fn(u.nrows(), u.ncols(), |i, j| u[(i, j)] * u[(i, j)]),
        })
    }

    /// I_j from g_k = λ_k ∂φ/∂λ_k.
    pub fn influence(&self, gradient: &[f64]) -> Vec<f64> {
        let n = self.energy.nrows() as f64;
        let total: f64 = gradient.iter().sum();
        self.energy
            .row_iter()
            .map(|row| n * row.iter().zip(gradient).map(|(e, g)| e * g).sum::<f64>() - total)
            .collect()
    }
}

/// `[effective_rank, spectral_norm, condition_number, rank_deficiency]`.
pub(crate) fn spectral_metrics(spectrum: &Spectrum, resampling: &Resampling) -> [Option<Estimate>; 4] {
    let lambda = &spectrum.eigenvalues;
    let k = lambda.len();
    let (Some(&first), Some(&last)) = (lambda.first(), lambda.last()) else {
        return [const { None }; 4];
    };
    let single = |index: usize, g: f64| {
        let mut gradient = vec![0.0; k];
        gradient[index] = g;
        gradient
    };
    let sigma_max = first.sqrt();
    let norm = Estimate::new(sigma_max, spectrum.influence(&single(0, 0.5 * sigma_max)));
    if first == 0.0 {
        return [None, Some(norm), None, None];
    }

    let rank = entropy_of(lambda, 1.0).exp() / k as f64;
    let gradient: Vec<f64> = log_gradient(lambda, 1.0).iter().map(|g| rank * g).collect();
    let effective_rank = Estimate::new(rank, spectrum.influence(&gradient));

    let guarded = last.sqrt() + CONDITION_GUARD;
    let condition = sigma_max / guarded;
    let mut gradient = single(0, 0.5 * condition);
    gradient[k - 1] -= 0.5 * condition * last.sqrt() / guarded;
    let condition_number = Estimate::new(condition, spectrum.influence(&gradient));

    let deficiency = Estimate {
        value: rank_deficiency(lambda),
        spread: Spread::Replicates(resampled_deficiency(spectrum, resampling)),
        floor: None,
    };
    [
        Some(effective_rank),
        Some(norm),
        Some(condition_number),
        Some(deficiency),
    ]
}

fn rank_deficiency(lambda: &[f64]) -> f64 {
    let largest = lambda.iter().copied().fold(0.0, f64::max);
    let kept = lambda
        .iter()
        .filter(|l| l.sqrt() > RANK_THRESHOLD * largest.sqrt())
        .count();
    1.0 - kept as f64 / lambda.len() as f64
}

fn resampled_deficiency(spectrum: &Spectrum, resampling: &Resampling) -> Vec<f64> {
    let ratios = super::linalg::product(spectrum.energy.transpose(), resampling.counts().as_ref()); // (K, R)
    let resampled = |column: faer::ColRef<'_, f64>| -> Vec<f64> {
        column.iter().zip(&spectrum.eigenvalues).map(|(c, l)| c * l).collect()
    };
    ratios
        .col_iter()
        .map(|column| rank_deficiency(&resampled(column)))
        .collect()
}

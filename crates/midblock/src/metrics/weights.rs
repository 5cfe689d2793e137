//! How far a variant's weights moved: norm, leading and typical directions of ΔW = W' − W, per matrix and per block.
//!
//! Per matrix (rows, cols): change = ‖ΔW‖_F; relative = ‖ΔW‖_F/‖W‖_F; spectral = σ_max(ΔW); effective rank =
//! exp S(σ(ΔW)²)/min(rows, cols) in (0, 1] (r of a LoRA pair bounds it by r/min); rotation = 1 − mean squared cosine of the
//! principal angles between the top-k singular subspaces of W and W', left and right alike, in [0, 1]: 0 = untouched.
//! Per block: change = √Σ‖ΔW‖²; relative = that/√Σ‖W‖² over all its parameters; spectral = the largest; effective rank and
//! rotation = the mean over matrices that changed.
//!
//! A low-rank change is measured from its factors (QR of each, then an R×R matrix), ΔW is not formed; see
//! [`crate::singular`] and [`super::spectral_entropy`] for the rest. Exact to rounding, except the effective rank of dense changes with min > 1024.
//!
//! Edge cases: identical weights have change 0, rotation 0 and no effective rank; W = 0 has no relative change; vectors (norms,
//! biases) have neither effective rank nor rotation; k ≥ min(rows, cols), or no convergence: no rotation.
//! Weights are not a sample: no interval and no floor.

use super::entropy::entropy_of;
use super::spectral_entropy::spectral_entropy;
use super::{Measurement, Options};
use crate::singular::{Leading, Operator, leading};
use faer::{Mat, MatRef};
use std::borrow::Cow;

/// What a variant did to one parameter. Row-major throughout.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Bit-identical.
    None,
    /// Other values, (rows, cols).
    Dense {
        /// W'.
        after: &'a [f32],
    },
    /// W' = W + scale·B·A.
    LowRank {
        /// B, (rows, R).
        b: &'a [f32],
        /// A, (R, cols).
        a: &'a [f32],
        /// Factor in front.
        scale: f32,
    },
}

/// One parameter of both models.
#[derive(Clone, Copy, Debug)]
pub struct WeightPair<'a> {
    /// Hugging Face parameter name.
    pub name: &'a str,
    /// Rows, cols; a vector is `[1, len]`.
    pub shape: [usize; 2],
    /// W of the reference.
    pub before: &'a [f32],
    /// What the variant changed.
    pub change: Change<'a>,
}

impl WeightPair<'_> {
    /// W', row-major.
    pub fn after(&self) -> Cow<'_, [f32]> {
        match self.change {
            Change::None => Cow::Borrowed(self.before),
            Change::Dense { after } => Cow::Borrowed(after),
            Change::LowRank { b, a, scale } => {
                let [rows, cols] = self.shape;
                let rank = b.len() / rows;
                let mut values = self.before.to_vec();
                for (row, b) in values.chunks_exact_mut(cols).zip(b.chunks_exact(rank)) {
                    for (a, &b) in a.chunks_exact(cols).zip(b) {
                        let factor = scale * b;
                        row.iter_mut().zip(a).for_each(|(value, &a)| *value += factor * a);
                    }
                }
                Cow::Owned(values)
            }
        }
    }
}

/// Weight metrics of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixChange {
    /// Hugging Face parameter name.
    pub name: String,
    /// ‖W‖_F of the reference.
    pub reference_norm: f64,
    /// ‖ΔW‖_F.
    pub change: f64,
    /// ‖ΔW‖_F/‖W‖_F.
    pub relative: Option<f64>,
    /// σ_max(ΔW).
    pub spectral: Option<f64>,
    /// exp S(σ²)/min(rows, cols) of ΔW.
    pub effective_rank: Option<f64>,
    /// 1 − mean cos² between top-k singular subspaces before and after.
    pub rotation: Option<f64>,
}

/// Measures one parameter.
///
/// # Panics
/// If the lengths do not agree with the shape.
pub fn measure_matrix(pair: &WeightPair<'_>, options: &Options) -> MatrixChange {
    let [rows, cols] = pair.shape;
    assert_eq!(pair.before.len(), rows * cols, "{}: W is {rows} × {cols}", pair.name);
    let reference_norm = norm(pair.before.iter().map(|&w| f64::from(w)));
    let spectrum = match pair.change {
        Change::None => DeltaSpectrum::zero(),
        Change::Dense { after } => {
            assert_eq!(after.len(), rows * cols, "{}: W' is {rows} × {cols}", pair.name);
            dense_spectrum(pair, after, options)
        }
        Change::LowRank { b, a, scale } => low_rank_spectrum(pair, b, a, scale),
    };
    let finite = |value: f64| value.is_finite().then_some(value);
    MatrixChange {
        name: pair.name.to_owned(),
        reference_norm,
        change: spectrum.frobenius,
        relative: finite(spectrum.frobenius / reference_norm),
        spectral: spectrum.largest,
        effective_rank: spectrum
            .entropy
            .filter(|_| rows.min(cols) > 1)
            .map(|s| s.exp() / rows.min(cols) as f64),
        rotation: match spectrum.frobenius == 0.0 {
            true => (rows.min(cols) > options.subspace_rank).then_some(0.0),
            false => rotation(pair, options),
        },
    }
}

/// Metrics of a block from those of its parameters; those not selected in `options` are left out.
pub fn measure_block(matrices: &[MatrixChange], options: &Options) -> Vec<Measurement> {
    let change = norm(matrices.iter().map(|m| m.change));
    let relative = change / norm(matrices.iter().map(|m| m.reference_norm));
    let spectral: Option<Vec<f64>> = matrices.iter().map(|m| m.spectral).collect();
    let mean_of_changed = |get: fn(&MatrixChange) -> Option<f64>| {
        let values: Vec<f64> = matrices.iter().filter(|m| m.change > 0.0).filter_map(get).collect();
        (!values.is_empty()).then(|| super::estimate::mean(&values))
    };
    let any_rotation_defined = matrices.iter().any(|m| m.rotation.is_some());
    let rotation = mean_of_changed(|m| m.rotation).or((change == 0.0 && any_rotation_defined).then_some(0.0));
    [
        ("weight_change", Some(change)),
        ("weight_change_relative", Some(relative)),
        (
            "weight_change_spectral",
            spectral.map(|s| s.into_iter().fold(0.0, f64::max)),
        ),
        ("weight_change_effective_rank", mean_of_changed(|m| m.effective_rank)),
        ("weight_subspace_rotation", rotation),
    ]
    .into_iter()
    .filter(|(name, _)| options.selected.contains(name))
    .map(|(name, value)| Measurement::bare(name, value))
    .collect()
}

/// Norms and spectral entropy of ΔW.
struct DeltaSpectrum {
    frobenius: f64,
    largest: Option<f64>,
    entropy: Option<f64>,
}

impl DeltaSpectrum {
    fn zero() -> Self {
        Self {
            frobenius: 0.0,
            largest: Some(0.0),
            entropy: None,
        }
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn widen(values: &[f32], [rows, cols]: [usize; 2]) -> Mat<f64> {
    Mat::from_fn(rows, cols, |i, j| f64::from(values[i * cols + j]))
}

fn dense_spectrum(pair: &WeightPair<'_>, after: &[f32], options: &Options) -> DeltaSpectrum {
    let [rows, cols] = pair.shape;
    let at = |i: usize, j: usize| f64::from(after[i * cols + j]) - f64::from(pair.before[i * cols + j]);
    let delta = Mat::from_fn(rows, cols, at);
    let frobenius = delta.norm_l2();
    if frobenius == 0.0 {
        return DeltaSpectrum::zero();
    }
    if rows.min(cols) == 1 {
        return DeltaSpectrum {
            frobenius,
            largest: Some(frobenius),
            entropy: None,
        };
    }
    let wants = |name| options.selected.contains(name);
    let largest = wants("weight_change_spectral").then(|| leading(&Operator::dense(delta.as_ref()), 1, options.seed));
    let entropy = wants("weight_change_effective_rank").then(|| spectral_entropy(delta.as_ref(), options.seed));
    DeltaSpectrum {
        frobenius,
        largest: largest.flatten().and_then(|l| l.sigma.first().copied()),
        entropy: entropy.flatten(),
    }
}

/// Singular values of scale·B·A are those of scale·R_b·R_aᵀ with B = Q_b R_b and Aᵀ = Q_a R_a.
fn low_rank_spectrum(pair: &WeightPair<'_>, b: &[f32], a: &[f32], scale: f32) -> DeltaSpectrum {
    let (b, a) = factors(pair, b, a, scale);
    let core = triangle(b.as_ref()) * triangle(a.transpose()).transpose();
    let sigma = core.singular_values().unwrap_or_default();
    let squared: Vec<f64> = sigma.iter().map(|s| s * s).collect();
    let frobenius = norm(sigma.iter().copied());
    if frobenius == 0.0 {
        return DeltaSpectrum::zero();
    }
    DeltaSpectrum {
        frobenius,
        largest: sigma.first().copied(),
        entropy: Some(entropy_of(&squared, 1.0)),
    }
}

fn triangle(x: MatRef<'_, f64>) -> Mat<f64> {
    x.qr().thin_R().to_owned()
}

/// scale·B (rows, R) and A (R, cols).
fn factors(pair: &WeightPair<'_>, b: &[f32], a: &[f32], scale: f32) -> (Mat<f64>, Mat<f64>) {
    let [rows, cols] = pair.shape;
    let rank = b.len() / rows.max(1);
    assert_eq!(
        (b.len(), a.len()),
        (rows * rank, rank * cols),
        "{}: B·A is {rows} × {cols}",
        pair.name
    );
    let scaled = widen(b, [rows, rank]) * faer::Scale(f64::from(scale));
    (scaled, widen(a, [rank, cols]))
}

/// Both subspaces start from the same random block, so that what the iteration leaves over is alike in both.
fn rotation(pair: &WeightPair<'_>, options: &Options) -> Option<f64> {
    let k = options.subspace_rank;
    if k == 0 || k >= pair.shape[0].min(pair.shape[1]) || !options.selected.contains("weight_subspace_rotation") {
        return None;
    }
    let top =
        |operator: Operator<'_>| leading(&operator, k, options.seed).filter(|found: &Leading| found.sigma.len() == k);
    let dense = widen(pair.before, pair.shape);
    let before = top(Operator::dense(dense.as_ref()))?;
    let after = match pair.change {
        Change::None => return Some(0.0),
        Change::Dense { after } => top(Operator::dense(widen(after, pair.shape).as_ref()))?,
        Change::LowRank { b, a, scale } => {
            let (b, a) = factors(pair, b, a, scale);
            let low_rank = Some((b.as_ref(), a.as_ref()));
            let dense = dense.as_ref();
            top(Operator { dense, low_rank })?
        }
    };
    // 1 − cos² as the part of the new basis outside of the old one: exact for small angles
    let outside = |old: &Mat<f64>, new: &Mat<f64>| {
        let inside = super::linalg::product(
            old.as_ref(),
            super::linalg::product(old.transpose(), new.as_ref()).as_ref(),
        );
        (new - inside).squared_norm_l2()
    };
    Some((outside(&before.u, &after.u) + outside(&before.v, &after.v)) / (2 * k) as f64)
}

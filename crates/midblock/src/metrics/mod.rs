//! One number per layer: how it is defined, how sure it is, and what chance alone would give.
//!
//! One file per metric or tight family; [`registry`] lists them with formula, unit, range and meaning. Everything is f64.
//! A value that is not defined (one token, equal states, a zero matrix …) is `None`, never NaN.
//! Intervals follow from influence values (`estimate.rs`) over shared resamples ([`Resampling`]); floors are exact
//! expectations under shuffled pairings, stated in each alignment metric's file.

mod alignment;
mod capture;
mod cka;
mod correlation;
mod curvature;
mod dime;
mod entropy;
mod estimate;
mod infonce;
mod intrinsic_dimension;
mod lidar;
pub(crate) mod linalg;
mod magnitude;
mod registry;
mod resampling;
mod spectral_entropy;
mod spectrum;
mod subspace;
mod views;
mod weights;

#[cfg(test)]
mod tests;

pub use capture::{Capture, VIEWS};
pub use cka::debiased_cka;
pub(crate) use correlation::ranks;
pub use correlation::{pearson, spearman};
pub use entropy::Normalization;
pub use registry::{Group, Metric, Needs, Selection, find, registry};
pub use resampling::Resampling;
pub use weights::{Change, MatrixChange, WeightPair, measure_block, measure_matrix};

use crate::{Error, Result};
use estimate::Estimate;
use views::Views;

/// Whose conventions to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The definitions of this module.
    #[default]
    Default,
    /// Those of the scripts of arXiv 2604.11838 as far as they concern a capture: Gram matrices K/D + 1e−6·I in entropies, |cos|
    /// clamped to 0.999 in curvature, sparsity's maximum per ten samples, biased CKA only, no intervals and no floors.
    Paper,
}

impl Protocol {
    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Paper => "paper",
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = [Self::Default, Self::Paper];
        known
            .into_iter()
            .find(|protocol| protocol.name() == text)
            .ok_or_else(|| Error::Argument {
                what: "--protocol".to_owned(),
                value: text.to_owned(),
                problem: "not one of default, paper".to_owned(),
                help: String::new(),
            })
    }
}

/// Which matrix entropy.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EntropyOptions {
    /// Rényi order α > 0 of prompt and dataset entropy; 1 is Shannon's.
    pub alpha: f64,
    /// What these are divided by.
    pub normalization: Normalization,
}

impl Default for EntropyOptions {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            normalization: Normalization::Max,
        }
    }
}

/// How to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Whose conventions.
    pub protocol: Protocol,
    /// Seeds the starts of iterative methods; resamples have their own in [`Resampling::new`].
    pub seed: u64,
    /// k of subspace overlap and rotation.
    pub subspace_rank: usize,
    /// Order and normalisation of entropies.
    pub entropy: EntropyOptions,
    /// What to compute.
    pub selected: Selection,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: Protocol::Default,
            seed: 42,
            subspace_rank: 8,
            entropy: EntropyOptions::default(),
            selected: Selection::all(),
        }
    }
}

/// One metric of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Name in the registry.
    pub metric: &'static str,
    /// Point estimate; `None` where it is not defined.
    pub value: Option<f64>,
    /// Lower end of the 95 % interval over samples.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
    /// What unrelated samples would give; alignment metrics only.
    pub floor: Option<f64>,
}

impl Measurement {
    /// A value without interval and floor; one that is not finite is not defined.
    fn bare(metric: &'static str, value: Option<f64>) -> Self {
        Self {
            metric,
            value: value.filter(|v| v.is_finite()),
            lo: None,
            hi: None,
            floor: None,
        }
    }
}

/// Collects the selected metrics of a layer.
struct Sheet<'a> {
    resampling: &'a Resampling,
    options: &'a Options,
    measurements: Vec<Measurement>,
}

impl<'a> Sheet<'a> {
    fn new(resampling: &'a Resampling, options: &'a Options) -> Self {
        Self {
            resampling,
            options,
            measurements: Vec::new(),
        }
    }

    /// Runs `compute` if any of `names` is selected.
    fn add<const K: usize>(&mut self, names: [&'static str; K], compute: impl FnOnce() -> [Option<Estimate>; K]) {
        let selected = |name: &&'static str| self.options.selected.contains(name);
        if !names.iter().any(selected) {
            return;
        }
        let estimates = names.into_iter().zip(compute());
        let chosen = estimates.filter(|(name, _)| selected(name));
        let measured: Vec<_> = chosen.map(|(name, estimate)| self.finish(name, estimate)).collect();
        self.measurements.extend(measured);
    }

    fn finish(&self, name: &'static str, estimate: Option<Estimate>) -> Measurement {
        let (low, high) = find(name).map_or((f64::NEG_INFINITY, f64::INFINITY), |m| m.range);
        let cut = |v: f64| v.is_finite().then(|| v.clamp(low, high)); // rounding may carry a CKA past 1
        let bare = Measurement::bare(name, estimate.as_ref().and_then(|e| cut(e.value)));
        let (Some(estimate), Some(_), Protocol::Default) = (estimate, bare.value, self.options.protocol) else {
            return bare;
        };
        let interval = self.resampling.interval(&estimate);
        Measurement {
            lo: interval.and_then(|(lo, _)| cut(lo)),
            hi: interval.and_then(|(_, hi)| cut(hi)),
            floor: estimate.floor.and_then(cut),
            ..bare
        }
    }
}

fn assert_samples(capture: &Capture, resampling: &Resampling) {
    let n = capture.samples();
    assert_eq!(n, resampling.samples(), "resampling is for as many samples as captured");
}

fn all_finite(capture: &Capture) -> bool {
    capture.pooled.iter().all(|v| v.is_finite()) && capture.tokens.iter().flatten().all(|v| v.is_finite())
}

/// All selected metrics of one model at one layer. If a state is not finite, none has a value.
///
/// # Panics
/// If `resampling` was drawn for another number of samples.
pub fn measure_model(capture: &Capture, resampling: &Resampling, options: &Options) -> Vec<Measurement> {
    assert_samples(capture, resampling);
    let x = linalg::rows(&capture.pooled, capture.dim);
    let usable = capture.samples() > 0 && all_finite(capture);
    let views = Views::of(capture).filter(|_| usable);
    let protocol = options.protocol;
    let mut sheet = Sheet::new(resampling, options);
    let when_usable = |compute: &dyn Fn() -> Option<Estimate>| [usable.then(compute).flatten()];
    sheet.add(["prompt_entropy"], || {
        when_usable(&|| entropy::prompt_entropy(capture, options))
    });
    sheet.add(["dataset_entropy"], || {
        when_usable(&|| entropy::dataset_entropy(x, options))
    });
    sheet.add(["infonce", "infonce_bound"], || {
        views.as_ref().map_or([None, None], infonce::infonce)
    });
    sheet.add(["lidar"], || [views.as_ref().and_then(lidar::lidar)]);
    sheet.add(["dime"], || [views.as_ref().and_then(|v| dime::dime(v, resampling))]);
    sheet.add(["curvature"], || {
        when_usable(&|| curvature::curvature(capture, protocol))
    });
    sheet.add(["intrinsic_dimension"], || {
        when_usable(&|| intrinsic_dimension::intrinsic_dimension(x))
    });
    sheet.add(["l2_norm_mean", "l2_norm_sd", "gini"], || {
        if usable {
            magnitude::norm_metrics(x)
        } else {
            [const { None }; 3]
        }
    });
    let spectral = ["effective_rank", "spectral_norm", "condition_number", "rank_deficiency"];
    sheet.add(spectral, || {
        let spectrum = usable.then(|| spectrum::Spectrum::of_rows(x)).flatten();
        spectrum.map_or([const { None }; 4], |s| spectrum::spectral_metrics(&s, resampling))
    });
    sheet.add(["sparsity"], || when_usable(&|| magnitude::sparsity(capture, protocol)));
    sheet.measurements
}

/// All selected alignment metrics of a variant against its reference at one layer.
///
/// # Panics
/// If the captures differ in samples or width, or `resampling` was drawn for another number of samples.
pub fn measure_pair(
    reference: &Capture,
    variant: &Capture,
    resampling: &Resampling,
    options: &Options,
) -> Vec<Measurement> {
    assert_samples(reference, resampling);
    assert_eq!(
        (reference.dim, reference.pooled.len()),
        (variant.dim, variant.pooled.len()),
        "both models have the same width and saw the same samples"
    );
    let (n, d) = (reference.samples(), reference.dim);
    let usable = n > 0 && all_finite(reference) && all_finite(variant);
    let mut sheet = Sheet::new(resampling, options);
    let (x, y) = (linalg::rows(&reference.pooled, d), linalg::rows(&variant.pooled, d));
    sheet.add(["cka", "cka_debiased", "subspace_overlap"], || {
        if !usable {
            return [const { None }; 3];
        }
        let (x, y) = (linalg::centred(x), linalg::centred(y));
        let gram = |a: &faer::Mat<f64>, b: &faer::Mat<f64>| linalg::product(a.as_ref(), b.transpose());
        let (kx, ky, kxy) = (gram(&x, &x), gram(&y, &y), gram(&x, &y)); // (N, N)
        let debiased = (options.protocol == Protocol::Default).then(|| cka::cka_debiased(kx.as_ref(), ky.as_ref()));
        let overlap = subspace::subspace_overlap(kx.as_ref(), ky.as_ref(), kxy.as_ref(), options.subspace_rank, d);
        [cka::cka(kx.as_ref(), ky.as_ref()), debiased.flatten(), overlap]
    });
    sheet.add(["cosine_similarity"], || {
        [usable.then(|| alignment::cosine_similarity(x, y)).flatten()]
    });
    let shifts = [
        "mean_shift",
        "mean_shift_relative",
        "change_intensity",
        "change_intensity_relative",
    ];
    sheet.add(shifts, || {
        if usable {
            alignment::shift_metrics(x, y)
        } else {
            [const { None }; 4]
        }
    });
    sheet.measurements
}

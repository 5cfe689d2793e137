//! The list of all metrics: the one table that selection, captions and documentation are made from.
//!
//! Adding a metric: compute it in a file of its own, add its line here and its call in [`super::measure_model`],
//! [`super::measure_pair`] or [`super::measure_block`].

use crate::{Error, Result};
use std::collections::BTreeSet;

/// What a metric speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Entropies and mutual information.
    Information,
    /// Shape of paths and clouds of states.
    Geometry,
    /// Sizes of states.
    Magnitude,
    /// Singular values and sparsity.
    Spectrum,
    /// Variant against reference on the same samples.
    Alignment,
    /// Variant against reference, parameter by parameter.
    Weights,
}

impl Group {
    /// All, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::Information,
        Self::Geometry,
        Self::Magnitude,
        Self::Spectrum,
        Self::Alignment,
        Self::Weights,
    ];

    /// Lower-case name, as used for selection.
    pub fn name(self) -> &'static str {
        match self {
            Self::Information => "information",
            Self::Geometry => "geometry",
            Self::Magnitude => "magnitude",
            Self::Spectrum => "spectrum",
            Self::Alignment => "alignment",
            Self::Weights => "weights",
        }
    }
}

/// What a metric is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Needs {
    /// Pooled states of one model.
    Pooled,
    /// Token-group views of one model.
    Views,
    /// Token states of one model.
    Tokens,
    /// Pooled states of two models.
    PooledPair,
    /// Parameters of two models.
    Weights,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Name in every output.
    pub name: &'static str,
    /// What it speaks of.
    pub group: Group,
    /// Short formula in plain text.
    pub formula: &'static str,
    /// Unit; empty if it has none. `h` is the unit of the hidden states, `w` that of the weights.
    pub unit: &'static str,
    /// Smallest and largest possible value; intervals are cut to it.
    pub range: (f64, f64),
    /// What it is computed from.
    pub needs: Needs,
    /// One sentence for a reader of the report.
    pub meaning: &'static str,
}

impl Metric {
    /// Name for people: "CKA, debiased".
    pub fn title(&self) -> String {
        const SPELLED: [(&str, &str); 9] = [
            ("infonce", "InfoNCE"),
            ("infonce_bound", "InfoNCE bound"),
            ("lidar", "LiDAR"),
            ("dime", "DiME"),
            ("l2_norm_mean", "L2 norm, mean"),
            ("l2_norm_sd", "L2 norm, standard deviation"),
            ("gini", "Gini coefficient of norms"),
            ("cka", "CKA"),
            ("cka_debiased", "CKA, debiased"),
        ];
        if let Some((_, title)) = SPELLED.iter().find(|(name, _)| *name == self.name) {
            return (*title).to_owned();
        }
        let mut text = self.name.replace('_', " ");
        if let Some(first) = text.get_mut(0..1) {
            first.make_ascii_uppercase();
        }
        text.strip_suffix(" relative")
            .map_or(text.clone(), |stem| format!("{stem}, relative"))
    }

    /// The range as text: `[0, 1]`, `≥ 0`, or nothing.
    pub fn range_text(&self) -> String {
        match self.range {
            (low, high) if low.is_finite() && high.is_finite() => format!("[{low}, {high}]"),
            (low, _) if low.is_finite() => format!("≥ {low}"),
            (_, high) if high.is_finite() => format!("≤ {high}"),
            _ => String::new(),
        }
    }
}

const INF: f64 = f64::INFINITY;

macro_rules! metrics {
    ($($name:literal $group:ident $needs:ident [$unit:literal] ($low:expr, $high:expr) $formula:literal $meaning:literal;)*) => {
        &[$(Metric {
            name: $name, group: Group::$group, formula: $formula, unit: $unit, range: ($low, $high), needs: Needs::$needs,
            meaning: $meaning,
        },)*]
    };
}

// X (N, D): pooled states, rows x_i; Y the variant's; H_n (T, D): token states; ΔW = W' − W
#[rustfmt::skip]
const METRICS: &[Metric] = metrics![
    "prompt_entropy" Information Tokens [""] (0.0, INF) "S(eig H Hᵀ)/ln min(T, D), unit rows"
        "How evenly the token states of one text spread over directions: 0 = all alike, 1 = all orthogonal.";
    "dataset_entropy" Information Pooled [""] (0.0, INF) "S(eig X Xᵀ)/ln min(N, D), unit rows"
        "How evenly the texts spread over directions: 0 = every text looks alike, 1 = all orthogonal.";
    "infonce" Information Views ["nats"] (0.0, INF) "mean −ln softmax_j(cos(a_i, b_j)/0.1) at j = i"
        "How hard it is to match two halves of the same text: 0 = certain, ln N = guessing.";
    "infonce_bound" Information Views [""] (-INF, 1.0) "1 − infonce/ln N"
        "Lower bound on the information two halves of a text share, as a share of the largest that N texts can show.";
    "lidar" Information Views [""] (0.0, 1.0) "S(eig S_w^−½ S_b S_w^−½)/ln min(N, D)"
        "How many directions tell texts apart beyond the variation inside a text: 1 = all of them equally.";
    "dime" Information Views ["nats"] (-INF, INF) "E S(A∘ΠBΠᵀ) − S(A∘B)"
        "How much more two halves of the same text agree than halves of different texts: 0 = not at all.";
    "curvature" Geometry Tokens [""] (0.0, 1.0) "mean angle(h_t+1 − h_t, h_t+2 − h_t+1)/π"
        "How sharply the path of token states turns: 0 = straight, 0.5 = right angles, 1 = back and forth.";
    "intrinsic_dimension" Geometry Pooled [""] (0.0, INF) "(n−1)/Σ ln(r_2/r_1)"
        "How many directions the texts fill locally, from nearest-neighbour distances (TwoNN).";
    "l2_norm_mean" Magnitude Pooled ["h"] (0.0, INF) "mean ‖x_i‖"
        "Mean length of a text's state.";
    "l2_norm_sd" Magnitude Pooled ["h"] (0.0, INF) "sd ‖x_i‖"
        "How much the lengths of states differ between texts.";
    "effective_rank" Spectrum Pooled [""] (0.0, 1.0) "exp S(σ²)/min(N, D)"
        "Share of the available directions that the states really use.";
    "spectral_norm" Spectrum Pooled ["h"] (0.0, INF) "σ_max"
        "Largest singular value of all states together; grows with √N.";
    "condition_number" Spectrum Pooled [""] (0.0, INF) "σ_max/(σ_min + 1e−9)"
        "Strongest over weakest direction.";
    "rank_deficiency" Spectrum Pooled [""] (0.0, 1.0) "1 − #{σ > 0.01 σ_max}/min(N, D)"
        "Share of directions with less than a hundredth of the strongest one.";
    "sparsity" Spectrum Tokens [""] (0.0, 1.0) "share of |h| < 0.01 max|h|"
        "Share of near-zero entries; close to 1 where a few dimensions are huge.";
    "gini" Spectrum Pooled [""] (0.0, 1.0) "Σ_ij |n_i − n_j|/(2N² n̄), n_i = ‖x_i‖"
        "Inequality of lengths between texts: 0 = all equal.";
    "cka_debiased" Alignment PooledPair [""] (-INF, 1.0) "HSIC₁(K, L)/√(HSIC₁(K, K)·HSIC₁(L, L)), unbiased HSIC"
        "Similarity of the geometry of texts: 1 = the same up to rotation and scale, 0 = unrelated.";
    "cka" Alignment PooledPair [""] (0.0, 1.0) "⟨K̃, L̃⟩/(‖K̃‖‖L̃‖), K = X Xᵀ, L = Y Yᵀ centred"
        "Similarity of the geometry of texts, biased upward for few samples: read it against its floor.";
    "cosine_similarity" Alignment PooledPair [""] (-1.0, 1.0) "mean cos(x_i, y_i)"
        "Whether states point the same way as the reference's.";
    "mean_shift" Alignment PooledPair ["h"] (0.0, INF) "‖ȳ − x̄‖"
        "How far the mean state moved: the part of the change that all texts share.";
    "mean_shift_relative" Alignment PooledPair [""] (0.0, INF) "‖ȳ − x̄‖/‖x̄‖"
        "Mean shift as a share of the reference's mean state.";
    "change_intensity" Alignment PooledPair ["h"] (0.0, INF) "mean ‖y_i − x_i‖"
        "How far a text's state moved, on average.";
    "change_intensity_relative" Alignment PooledPair [""] (0.0, INF) "mean ‖y_i − x_i‖/mean ‖x_i‖"
        "Change intensity as a share of the reference's mean length.";
    "subspace_overlap" Alignment PooledPair [""] (0.0, 1.0) "‖V_xᵀ V_y‖²/k, top-k PCA"
        "Whether the main directions of variation are kept: 1 = the same subspace.";
    "weight_change" Weights Weights ["w"] (0.0, INF) "‖ΔW‖_F"
        "Size of the change of a block's parameters.";
    "weight_change_relative" Weights Weights [""] (0.0, INF) "‖ΔW‖_F/‖W‖_F"
        "The same as a share of the parameters' own size.";
    "weight_change_spectral" Weights Weights ["w"] (0.0, INF) "σ_max(ΔW)"
        "The strongest direction of the change.";
    "weight_change_effective_rank" Weights Weights [""] (0.0, 1.0) "exp S(σ(ΔW)²)/min(shape)"
        "Share of the available directions that the change uses.";
    "weight_subspace_rotation" Weights Weights [""] (0.0, 1.0) "1 − mean cos² of top-k singular subspaces"
        "How far the leading singular subspaces of the matrices turned: 0 = not at all.";
];

/// All metrics, in the order of reports.
pub fn registry() -> &'static [Metric] {
    METRICS
}

/// The metric called `name`.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}

/// Which metrics to compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    names: BTreeSet<&'static str>,
}

impl Selection {
    /// Every metric.
    pub fn all() -> Self {
        Self {
            names: METRICS.iter().map(|m| m.name).collect(),
        }
    }

    /// Reads `all` or a comma-separated list of metric and group names.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is neither, or an empty list.
    pub fn parse(list: &str) -> Result<Self> {
        let mut names = BTreeSet::new();
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let chosen = METRICS
                .iter()
                .filter(|m| item == "all" || item == m.name || item == m.group.name());
            let mut known = false;
            names.extend(chosen.inspect(|_| known = true).map(|m| m.name));
            if !known {
                return Err(unknown(item, "no metric or group of this name"));
            }
        }
        if names.is_empty() {
            return Err(unknown(list, "names no metric"));
        }
        Ok(Self { names })
    }

    /// The selected names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().copied()
    }

    /// Whether the metric called `name` is selected.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether any selected metric is computed from `needs`: what does not have to be captured need not be.
    pub fn needs(&self, needs: Needs) -> bool {
        METRICS.iter().any(|m| m.needs == needs && self.contains(m.name))
    }
}

fn unknown(value: &str, problem: &str) -> Error {
    let groups: Vec<_> = Group::ALL.iter().map(|g| g.name()).collect();
    let names: Vec<_> = METRICS.iter().map(|m| m.name).collect();
    Error::Argument {
        what: "--metrics".into(),
        value: value.into(),
        problem: problem.into(),
        help: format!(
            "use `all`, groups ({}) or metrics ({})",
            groups.join(", "),
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_findable() {
        assert_eq!(Selection::all().names.len(), METRICS.len());
        for metric in METRICS {
            assert_eq!(find(metric.name), Some(metric));
            assert!(metric.range.0 < metric.range.1);
        }
    }

    #[test]
    fn selections_take_names_and_groups() {
        let selection = Selection::parse("cka, geometry").unwrap();
        assert_eq!(
            selection.names.iter().copied().collect::<Vec<_>>(),
            ["cka", "curvature", "intrinsic_dimension"]
        );
        assert!(selection.needs(Needs::Tokens) && selection.needs(Needs::PooledPair) && !selection.needs(Needs::Views));
        assert_eq!(Selection::parse("all").unwrap(), Selection::all());
        for (list, named) in [("cka,ckaa", "--metrics `ckaa`"), (" , ", "--metrics ` , `")] {
            let message = Selection::parse(list).unwrap_err().to_string();
            assert!(message.starts_with(named), "{message}");
        }
    }
}

//! `[adapt]`: how parameters move, with the keys of each kind.

use super::{check::Findings, schema::Select};
use crate::adapt::{MaskOptions, Scaling};
use serde::{Deserialize, Serialize};

/// `[adapt]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adapt {
    /// `lora` (default), `full`, which is a new model's only kind, or `masked`; each of the keys below is one kind's own.
    pub kind: AdaptKind,
    /// `lora`: rank if every block were adapted: the rank budget is this times the number of blocks, whatever `select.layers` makes of
    /// it. 64 by default, as in the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// `lora`: α at `rank`; the scaling's own by default: twice `rank`, which is the paper's 128 at rank 64, or with `rslora`
    /// twice its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// `lora`: share of the elements of a pair's input that is dropped in training; 0.05 by default, as in the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// `lora`: factor of B·A in a block of rank R: `fixed-alpha` (default, α/R as in the paper), `fixed-ratio` (α/rank for every R),
    /// `rslora` (α/√R).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// `masked`: the CHECKPOINT whose change from `model.base` is masked, and from whose weights these are trained on. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuned: Option<String>,
    /// `masked`: whether the weights of `tuned` are trained beside the masks; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_weights: Option<bool>,
    /// `masked`: learning rate of the masks' SGD, which no schedule changes; 0.1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_lr: Option<f64>,
    /// `masked`: its momentum; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_momentum: Option<f64>,
    /// `masked`: mean of θ at the start; a mask is 1 where its θ is above 0. 1.5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_mean: Option<f64>,
    /// `masked`: standard deviation of θ at the start; 0.5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_std: Option<f64>,
}

impl Adapt {
    /// `rank` where none is given.
    pub const RANK: usize = 64;

    /// Gives the keys of its kind that are not given their defaults.
    pub(super) fn fill(&mut self) {
        match self.kind {
            AdaptKind::Full => {}
            AdaptKind::Lora => {
                let rank = *self.rank.get_or_insert(Self::RANK);
                let scaling = *self.scaling.get_or_insert_default();
                let per_alpha = if scaling == Scaling::Rslora {
                    (rank as f64).sqrt()
                } else {
                    rank as f64
                };
                self.alpha.get_or_insert(2.0 * per_alpha);
                self.dropout.get_or_insert(0.05);
            }
            AdaptKind::Masked => {
                let options = MaskOptions::default();
                self.train_weights.get_or_insert(options.weights);
                self.mask_lr.get_or_insert(options.lr);
                self.mask_momentum.get_or_insert(options.momentum);
                self.mask_mean.get_or_insert(options.mean);
                self.mask_std.get_or_insert(options.std);
            }
        }
    }

    /// How masks are trained; what is not given is as by default.
    pub fn masks(&self) -> MaskOptions {
        let default = MaskOptions::default();
        MaskOptions {
            weights: self.train_weights.unwrap_or(default.weights),
            lr: self.mask_lr.unwrap_or(default.lr),
            momentum: self.mask_momentum.unwrap_or(default.momentum),
            mean: self.mask_mean.unwrap_or(default.mean),
            std: self.mask_std.unwrap_or(default.std),
        }
    }

    /// Each key but `kind` with whether it is given and whose it is.
    fn owners(&self) -> [(&'static str, bool, AdaptKind); 10] {
        use AdaptKind::{Lora, Masked};
        [
            ("adapt.rank", self.rank.is_some(), Lora),
            ("adapt.alpha", self.alpha.is_some(), Lora),
            ("adapt.dropout", self.dropout.is_some(), Lora),
            ("adapt.scaling", self.scaling.is_some(), Lora),
            ("adapt.tuned", self.tuned.is_some(), Masked),
            ("adapt.train_weights", self.train_weights.is_some(), Masked),
            ("adapt.mask_lr", self.mask_lr.is_some(), Masked),
            ("adapt.mask_momentum", self.mask_momentum.is_some(), Masked),
            ("adapt.mask_mean", self.mask_mean.is_some(), Masked),
            ("adapt.mask_std", self.mask_std.is_some(), Masked),
        ]
    }

    /// Ranges, keys of another kind, and what a kind needs or cannot use of `[select]`.
    pub(super) fn check(&self, select: &Select, found: &mut Findings<'_>) {
        self.check_ranges(found);
        for (key, _, owner) in self
            .owners()
            .into_iter()
            .filter(|(_, given, owner)| *given && *owner != self.kind)
        {
            let whose = match owner {
                AdaptKind::Lora => "LoRA's",
                AdaptKind::Full => "full fine-tuning's",
                AdaptKind::Masked => "that of masks",
            };
            let problem = format!("it is {whose}, and `adapt.kind` is \"{}\"", self.kind.name());
            found.push(key, problem, "leave it out");
        }
        if self.kind != AdaptKind::Masked {
            return;
        }
        if self.tuned.as_ref().is_none_or(String::is_empty) {
            let help = "name the fine-tuned CHECKPOINT: `tuned` in [adapt]";
            found.push("adapt.tuned", "it is missing", help);
        }
        let modules = "all seven matrices of a block are masked: their masks belong together";
        let extra = "only the matrices of blocks are masked";
        for (key, given, problem) in [
            ("select.modules", select.modules.is_some(), modules),
            ("select.extra", !select.extra.is_empty(), extra),
        ] {
            if given {
                found.push(key, problem, "leave it out");
            }
        }
    }

    fn check_ranges(&self, found: &mut Findings<'_>) {
        found.count("adapt.rank", self.rank.map(|rank| rank as u64));
        let share = |value: f64| (0.0..1.0).contains(&value);
        let positive = |value: f64| value > 0.0 && value.is_finite();
        type Good = fn(f64) -> bool;
        let numbers: [(&str, Option<f64>, Good, &str); 6] = [
            ("adapt.alpha", self.alpha, positive, "above 0"),
            ("adapt.dropout", self.dropout, share, "0 or more and below 1"),
            ("adapt.mask_lr", self.mask_lr, positive, "above 0"),
            (
                "adapt.mask_momentum",
                self.mask_momentum,
                share,
                "0 or more and below 1",
            ),
            ("adapt.mask_mean", self.mask_mean, f64::is_finite, "a number"),
            (
                "adapt.mask_std",
                self.mask_std,
                |value| value >= 0.0 && value.is_finite(),
                "0 or more",
            ),
        ];
        for (key, value, good, expected) in numbers {
            if let Some(value) = value {
                found.range(key, good(value), value, expected);
            }
        }
    }
}

/// How parameters move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdaptKind {
    /// Low-rank adapters beside frozen matrices.
    #[default]
    Lora,
    /// The parameters themselves.
    Full,
    /// Masks over the channels of an earlier change, and that change.
    Masked,
}

impl AdaptKind {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Full => "full",
            Self::Masked => "masked",
        }
    }
}

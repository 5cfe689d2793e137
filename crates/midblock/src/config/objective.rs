//! `[objective]`: what is minimised, with the keys of each kind.

use super::{AdaptKind, Config, check::Findings};
use serde::{Deserialize, Serialize};

/// `[objective]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Objective {
    /// `sft` (default), `rpsft`, `dft`, `iw` or `kl`; `lcdd` with `adapt.kind = "masked"`, and only then. Each of the keys below is one
    /// kind's own, but for `lambda`.
    pub kind: ObjectiveKind,
    /// `rpsft`: weight λ of the penalty; 1 by default, as in the paper. `lcdd`: λ at the start, the pressure on the masks; 0.01 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// `rpsft`: singular directions k of each matrix that are held; 768 by default, as in the paper. A matrix without more than k
    /// of them is held as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directions: Option<usize>,
    /// `rpsft`: whether each matrix's term is divided by ‖S_ref‖²_F, the norm of what it holds; no by default, as in the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalised: Option<bool>,
    /// `rpsft`: whether embedding and head are held too where they are trained; yes by default, as in the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<bool>,
    /// `iw`: exponent τ of a sequence's weight; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// `iw`: largest weight of a sequence; 16 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<f64>,
    /// `iw`: whether weights are taken as constants; yes by default. The released code derives them too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detach: Option<bool>,
    /// `kl`: weight β of the divergence from the start model; 0.1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// `lcdd`: what the loss is that is held: `answers` (default), the cross entropy of the trained tokens, or `tuned`, the divergence of
    /// the model from `adapt.tuned` on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// `lcdd`: smallest λ; 1e-6 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_min: Option<f64>,
    /// `lcdd`: largest λ; 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_max: Option<f64>,
    /// `lcdd`: steps over which the pressure rises from 0 to λ, and at whose end the loss's limit is set; 300 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// `lcdd`: how far the loss may rise, as a share of what it is when the warm-up ends; 0.25 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<f64>,
    /// `lcdd`: how far the loss may rise besides, in nats: where a behaviour is learned almost perfectly, no share of its loss is much; 0 by
    /// default, as in the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_nats: Option<f64>,
    /// `lcdd`: decay of the loss's moving average; 0.95 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// `lcdd`: rate η of λ's exponent while the loss is above its limit, where λ falls; 0.1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// `lcdd`: the same while the loss is below its limit, where λ grows; `rate` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_rate: Option<f64>,
    /// `lcdd`: largest relative distance of the loss from its limit that counts in a step; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// `lcdd`: steps that are looked at to end a run early; 100 by default, 0 for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_window: Option<u64>,
    /// `lcdd`: multiple of the loss at the end of the warm-up above which the median of a window ends the run; 1.35 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_factor: Option<f64>,
}

impl Objective {
    /// Gives the keys of its kind that are not given their defaults.
    pub fn fill(&mut self) {
        match self.kind {
            ObjectiveKind::Sft | ObjectiveKind::Dft => {}
            ObjectiveKind::Rpsft => {
                self.lambda.get_or_insert(1.0);
                self.directions.get_or_insert(768);
                self.normalised.get_or_insert(false);
                self.ends.get_or_insert(true);
            }
            ObjectiveKind::Iw => {
                self.tau.get_or_insert(1.0);
                self.cap.get_or_insert(16.0);
                self.detach.get_or_insert(true);
            }
            ObjectiveKind::Kl => {
                self.beta.get_or_insert(0.1);
            }
            ObjectiveKind::Lcdd => {
                self.target.get_or_insert_default();
                self.lambda.get_or_insert(0.01);
                self.lambda_min.get_or_insert(1e-6);
                self.lambda_max.get_or_insert(10.0);
                self.warmup.get_or_insert(300);
                self.budget.get_or_insert(0.25);
                self.budget_nats.get_or_insert(0.0);
                self.ema.get_or_insert(0.95);
                let rate = *self.rate.get_or_insert(0.1);
                self.growth_rate.get_or_insert(rate);
                self.clip.get_or_insert(1.0);
                self.stop_window.get_or_insert(100);
                self.stop_factor.get_or_insert(1.35);
            }
        }
    }

    /// Each key but `kind` and `lambda` with whether it is given and whose it is.
    fn owners(&self) -> [(&'static str, bool, ObjectiveKind); 19] {
        use ObjectiveKind::{Iw, Kl, Lcdd, Rpsft};
        [
            ("objective.directions", self.directions.is_some(), Rpsft),
            ("objective.normalised", self.normalised.is_some(), Rpsft),
            ("objective.ends", self.ends.is_some(), Rpsft),
            ("objective.tau", self.tau.is_some(), Iw),
            ("objective.cap", self.cap.is_some(), Iw),
            ("objective.detach", self.detach.is_some(), Iw),
            ("objective.beta", self.beta.is_some(), Kl),
            ("objective.target", self.target.is_some(), Lcdd),
            ("objective.lambda_min", self.lambda_min.is_some(), Lcdd),
            ("objective.lambda_max", self.lambda_max.is_some(), Lcdd),
            ("objective.warmup", self.warmup.is_some(), Lcdd),
            ("objective.budget", self.budget.is_some(), Lcdd),
            ("objective.budget_nats", self.budget_nats.is_some(), Lcdd),
            ("objective.ema", self.ema.is_some(), Lcdd),
            ("objective.rate", self.rate.is_some(), Lcdd),
            ("objective.growth_rate", self.growth_rate.is_some(), Lcdd),
            ("objective.clip", self.clip.is_some(), Lcdd),
            ("objective.stop_window", self.stop_window.is_some(), Lcdd),
            ("objective.stop_factor", self.stop_factor.is_some(), Lcdd),
        ]
    }

    /// Ranges, keys of another kind, and kinds that do not go with the rest.
    pub(super) fn check(&self, config: &Config, found: &mut Findings<'_>) {
        self.check_ranges(found);
        let own = self.kind;
        for (key, _, owner) in self
            .owners()
            .into_iter()
            .filter(|(_, given, owner)| *given && *owner != own)
        {
            let problem = format!("it is {}'s, and `objective.kind` is \"{}\"", owner.name(), own.name());
            found.push(key, problem, "leave it out");
        }
        if self.lambda.is_some() && !matches!(own, ObjectiveKind::Rpsft | ObjectiveKind::Lcdd) {
            let problem = format!("it is rpsft's and lcdd's, and `objective.kind` is \"{}\"", own.name());
            found.push("objective.lambda", problem, "leave it out");
        }
        let near_start = matches!(own, ObjectiveKind::Rpsft | ObjectiveKind::Iw | ObjectiveKind::Kl);
        if config.model.new.is_some() && near_start {
            found.push(
                "objective.kind",
                format!("{} stays near a start model, and a new one is random", own.name()),
                "leave it out",
            );
        }
        match (own, config.adapt.kind) {
            (ObjectiveKind::Lcdd, AdaptKind::Masked) => {}
            (ObjectiveKind::Lcdd, _) => found.push(
                "objective.kind",
                "lcdd trains masks, and there are none",
                "set `adapt.kind` to \"masked\", or name another objective",
            ),
            (other, AdaptKind::Masked) => {
                let problem = format!("masks are trained by lcdd, and not by {}", other.name());
                found.push("objective.kind", problem, "leave it out");
            }
            _ => {}
        }
    }

    fn check_ranges(&self, found: &mut Findings<'_>) {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        type Range = (fn(f64) -> bool, &'static str);
        let [above, or_more, share, least]: [Range; 4] = [
            (positive, "above 0"),
            (not_negative, "0 or more"),
            (|value| (0.0..1.0).contains(&value), "0 or more and below 1"),
            (|value| value >= 1.0 && value.is_finite(), "1 or more"),
        ];
        let numbers = [
            ("objective.lambda", self.lambda, above),
            ("objective.tau", self.tau, above),
            ("objective.beta", self.beta, above),
            ("objective.cap", self.cap, least),
            ("objective.lambda_min", self.lambda_min, above),
            ("objective.lambda_max", self.lambda_max, above),
            ("objective.budget", self.budget, or_more),
            ("objective.budget_nats", self.budget_nats, or_more),
            ("objective.ema", self.ema, share),
            ("objective.rate", self.rate, or_more),
            ("objective.growth_rate", self.growth_rate, or_more),
            ("objective.clip", self.clip, above),
            ("objective.stop_factor", self.stop_factor, least),
        ];
        for (key, value, (good, expected)) in numbers {
            if let Some(value) = value {
                found.range(key, good(value), value, expected);
            }
        }
        found.count("objective.directions", self.directions.map(|k| k as u64));
        found.count("objective.warmup", self.warmup);
        if let Some(window) = self.stop_window {
            found.range("objective.stop_window", window != 1, window, "0 or 2 and more");
        }
        if self.kind == ObjectiveKind::Lcdd {
            let mut filled = self.clone();
            filled.fill();
            let [low, at, high] = [filled.lambda_min, filled.lambda, filled.lambda_max].map(Option::unwrap_or_default);
            let between = format!("from `lambda_min` ({low}) to `lambda_max` ({high})");
            found.range("objective.lambda", (low..=high).contains(&at), at, &between);
        }
    }
}

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveKind {
    /// Supervised fine-tuning: the mean negative log-likelihood of the trained tokens.
    #[default]
    Sft,
    /// Rotation-preserving: that, and a penalty on change inside of each matrix's leading singular block.
    Rpsft,
    /// Dynamic fine-tuning: each token weighs as much as the model believes in it.
    Dft,
    /// Importance-weighted: each sequence weighs by how much likelier it has become than under the start model.
    Iw,
    /// With the Kullback-Leibler divergence from the start model.
    Kl,
    /// Loss-Constrained Dual Descent: as few masks as a limit on the loss allows.
    Lcdd,
}

impl ObjectiveKind {
    /// All, in the order in which they are told of.
    pub const ALL: [Self; 6] = [Self::Sft, Self::Rpsft, Self::Dft, Self::Iw, Self::Kl, Self::Lcdd];

    /// Those that train weights, in full or as LoRA pairs.
    pub const OF_WEIGHTS: [Self; 5] = [Self::Sft, Self::Rpsft, Self::Dft, Self::Iw, Self::Kl];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Rpsft => "rpsft",
            Self::Dft => "dft",
            Self::Iw => "iw",
            Self::Kl => "kl",
            Self::Lcdd => "lcdd",
        }
    }
}

impl std::str::FromStr for ObjectiveKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The loss that `lcdd` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Cross entropy of the trained tokens.
    #[default]
    Answers,
    /// The divergence KL(p_tuned ‖ p) on the trained tokens.
    Tuned,
}

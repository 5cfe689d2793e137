//! What steering did, in numbers and texts.

use super::{Method, bench::Outcome, forced::Tally, likeness};
use crate::{
    eval::{Part, paired_difference},
    study::{BASE, battery::StudyRecord},
};
use serde::{Deserialize, Serialize};

/// What steering does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steer {
    /// Samples measured.
    pub samples: usize,
    /// Tokens of their answers.
    pub tokens: usize,
    /// Samples the vectors were found on.
    pub vector_samples: usize,
    /// Prompts answered.
    pub prompts: usize,
    /// The base without steering.
    pub base: Forecast,
    /// Each variant, and the base steered towards it.
    pub variants: Vec<Steered>,
}

/// Steering towards one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steered {
    /// Name of the variant.
    pub name: String,
    /// The variant itself.
    pub itself: Forecast,
    /// Length of the mean shift after each block.
    pub shift: Vec<f64>,
    /// Share of the variance of the last token's differences along the component, after each block.
    pub explained: Vec<Option<f64>>,
    /// Share of its completions that differ from the base's.
    pub changed: f64,
    /// How alike the base's completions are to the variant's, without steering.
    pub plain: Likeness,
    /// Every setting.
    pub settings: Vec<Setting>,
    /// Completions side by side.
    pub examples: Vec<Example>,
}

/// How well given answers are predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Cross entropy in nats a token.
    pub loss: f64,
    /// Share of tokens that are the most likely.
    pub accuracy: f64,
    /// The loss minus that of the base.
    pub difference: f64,
    /// Lower end of the difference's 95 % interval.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

/// How alike completions are, as means over prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    /// Share that differ from those of the base.
    pub changed: f64,
    /// Share of tokens, from the first, that are the variant's.
    pub prefix: f64,
    /// Share of tokens that are the variant's in any order.
    pub overlap: f64,
}

/// A method, a segment and a strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// How the vectors are made.
    pub method: Method,
    /// Counted from 1.
    pub segment: usize,
    /// Its blocks, counted from 1: first and last.
    pub blocks: [usize; 2],
    /// α.
    pub strength: f64,
    /// Mean length of what is added, over the blocks.
    pub length: f64,
    /// Prediction of the given answers.
    pub forecast: Forecast,
    /// Completions against base and variant.
    pub likeness: Likeness,
}

/// What is written after a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Id of the sample.
    pub sample: String,
    /// Its prompt.
    pub prompt: String,
    /// Name of each writer, "base", the variant or a setting, and its text.
    pub texts: Vec<(String, String)>,
}

impl Setting {
    /// As in records: `mean_shift, segment 2, strength 0.5`.
    pub fn name(&self) -> String {
        format!(
            "{}, segment {}, strength {}",
            self.method.name(),
            self.segment,
            self.strength
        )
    }
}

impl Forecast {
    pub(super) fn of(outcome: &Outcome, base: &Outcome) -> Self {
        let part = |tally: &Tally| Part {
            sum: tally.nats,
            weight: tally.predicted as f64,
        };
        let parts = |outcome: &Outcome| outcome.tallies.iter().map(part).collect::<Vec<_>>();
        let difference = paired_difference(&parts(outcome), &parts(base), 0);
        let predicted: usize = outcome.tallies.iter().map(|tally| tally.predicted).sum();
        let sum = |of: fn(&Tally) -> f64| outcome.tallies.iter().map(of).sum::<f64>();
        Self {
            loss: sum(|tally| tally.nats) / predicted as f64,
            accuracy: sum(|tally| tally.right as f64) / predicted as f64,
            difference: difference.value,
            lo: difference.lo,
            hi: difference.hi,
        }
    }
}

impl Likeness {
    pub(super) fn of(outcome: &Outcome, base: &Outcome, variant: &Outcome) -> Self {
        let pairs = |other: &Outcome, like: &dyn Fn(&[u32], &[u32]) -> f64| {
            let both = outcome.completions.iter().zip(&other.completions);
            both.map(|(own, other)| like(&own.ids, &other.ids)).sum::<f64>() / outcome.completions.len() as f64
        };
        Self {
            changed: pairs(base, &|own, other| f64::from(u8::from(own != other))),
            prefix: pairs(variant, &likeness::prefix),
            overlap: pairs(variant, &likeness::overlap),
        }
    }
}

impl Steer {
    /// Predictions and likeness of the models and of each setting: `model` is the base where it is steered, `reference` the
    /// variant it is steered towards.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut records = Vec::new();
        let mut push = |model: &str, towards: &str, setting: &str, forecast: &Forecast, likeness: Option<&Likeness>| {
            let mut number = |metric: &str, value: f64, interval: Option<(f64, f64)>| {
                records.push(StudyRecord {
                    model: model.to_owned(),
                    reference: towards.to_owned(),
                    setting: setting.to_owned(),
                    layer: None,
                    metric: metric.to_owned(),
                    value: Some(value),
                    lo: interval.map(|(lo, _)| lo),
                    hi: interval.map(|(_, hi)| hi),
                });
            };
            number("loss", forecast.loss, None);
            number("accuracy", forecast.accuracy, None);
            number("loss_difference", forecast.difference, Some((forecast.lo, forecast.hi)));
            if let Some(likeness) = likeness {
                number("changed", likeness.changed, None);
                number("prefix", likeness.prefix, None);
                number("overlap", likeness.overlap, None);
            }
        };
        push(BASE, "", "", &self.base, None);
        for variant in &self.variants {
            push(&variant.name, "", "", &variant.itself, None);
            push(BASE, &variant.name, "not steered", &self.base, Some(&variant.plain));
            for setting in &variant.settings {
                push(
                    BASE,
                    &variant.name,
                    &setting.name(),
                    &setting.forecast,
                    Some(&setting.likeness),
                );
            }
        }
        records
    }
}

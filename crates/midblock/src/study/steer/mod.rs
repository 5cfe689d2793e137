//! Does the difference of two models, added to the base's residual stream, make it the variant?
//!
//! The blocks are cut into [`SEGMENTS`] (segment i of S: blocks ⌊iL/S⌋ to ⌊(i+1)L/S⌋ − 1). A setting is a [`Method`], a segment
//! and a strength α: after every block of the segment, α·v of that block is added to the stream at every token, of prompt and
//! answer. The v are found on other samples than those measured. Since a mean shift after block l holds what the blocks before
//! it have shifted, adding it after each of several blocks adds most of it several times: α = 1/(blocks of a segment) moves the
//! stream about as far as the variant does.
//!
//! Measured, on the first `samples` of the study's samples: cross entropy (nats a token) and top-1 accuracy of the given answers,
//! and the difference of the loss from the base without steering (paired bootstrap over samples). For the first `prompts` of them
//! the base goes on greedily from the prompt, up to `new_tokens`: the share of completions that are not the base's, and how
//! alike they are to the variant's (`likeness.rs`). A prompt is what comes before the first trained token; of a text all of which
//! is trained, its first half.

mod bench;
mod forced;
mod likeness;
mod vectors;

pub use vectors::Method;

use super::{
    BASE,
    battery::{Cells, StudyRecord, Subject},
};
use crate::{
    Error, Result,
    eval::{Part, paired_difference},
    tokens::TrainingSample,
};
use bench::{Bench, Outcome};
use forced::Tally;
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::{ops::Range, sync::Arc};
use vectors::{Directions, directions, length};

/// Segments of the blocks (S), as in the paper.
pub const SEGMENTS: usize = 5;

/// `[study.steer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SteerOptions {
    /// How vectors are made: `mean_shift`, `component`, `random`; all of them by default.
    pub methods: Vec<Method>,
    /// Which of the five segments are steered, one at a time, counted from 1; all by default.
    pub segments: Vec<usize>,
    /// Strengths α that the vectors are multiplied by; 0.25 and 1 by default.
    pub strengths: Vec<f64>,
    /// Of the mean shift, only this many entries of largest size; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
    /// Samples whose answers are measured; 16 by default. At most half of the study's samples.
    pub samples: usize,
    /// Samples after those, which the vectors are found on; 32 by default.
    pub vector_samples: usize,
    /// Prompts that are answered; 8 by default.
    pub prompts: usize,
    /// Most tokens of an answer; 32 by default.
    pub new_tokens: usize,
}

impl Default for SteerOptions {
    fn default() -> Self {
        Self {
            methods: vec![Method::MeanShift, Method::Component, Method::Random],
            segments: (1..=SEGMENTS).collect(),
            strengths: vec![0.25, 1.0],
            top: None,
            samples: 16,
            vector_samples: 32,
            prompts: 8,
            new_tokens: 32,
        }
    }
}

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

/// Everything that changes an outcome and is not in a cell's name.
#[derive(Serialize)]
struct Fixed {
    samples: usize,
    vector_samples: usize,
    prompts: usize,
    new_tokens: usize,
    top: Option<usize>,
    seed: u64,
}

/// Steers the base towards each variant.
///
/// # Errors
/// [`Error::Argument`] for options out of range or fewer than two samples; whatever is wrong with the models.
pub fn steer<B: Backend>(subject: &Subject<'_, B>, options: &SteerOptions, cells: &Cells) -> Result<Steer> {
    check(options)?;
    let (measured, found_on) = split(subject.samples, options)?;
    let fixed = Fixed {
        samples: measured.len(),
        vector_samples: found_on.len(),
        prompts: options.prompts,
        new_tokens: options.new_tokens,
        top: options.top,
        seed: subject.file.config.study.seed,
    };
    let directions: Vec<Directions> = cells.cell("steer-vectors", &fixed, || {
        directions(subject.backend, subject.models, found_on, subject.progress)
    })?;
    let stop = || subject.progress.cancelled();
    let mut bench = Bench::new(subject, measured, options, &stop);
    let mut own = |model: usize| {
        let name = format!("steer-{}", subject.models[model].name);
        cells.cell(&name, &fixed, || bench.own(model))
    };
    let base = own(0)?;
    let variants: Vec<Outcome> = (1..subject.models.len()).map(own).collect::<Result<_>>()?;
    let mut study = Steer {
        samples: measured.len(),
        tokens: base.tallies.iter().map(|tally| tally.predicted).sum(),
        vector_samples: found_on.len(),
        prompts: base.completions.len(),
        base: Forecast::of(&base, &base),
        variants: Vec::new(),
    };
    for ((model, itself), directions) in subject.models[1..].iter().zip(variants).zip(&directions) {
        let mut written = vec![(BASE.to_owned(), base.clone()), (model.name.clone(), itself)];
        let mut settings = Vec::new();
        for (method, segment, strength) in plan(options) {
            let blocks = blocks_of(segment, subject.blocks());
            if blocks.is_empty() {
                continue; // of a model with fewer blocks than segments
            }
            let added = added(directions, method, blocks.clone(), strength, &fixed);
            let cell = format!("steer-{}-{}-{segment}-{strength}", model.name, method.name());
            let outcome = cells.cell(&cell, &fixed, || bench.steered(&added, blocks.start))?;
            let lengths = added.iter().flatten().map(|vector| length(vector));
            let setting = Setting {
                method,
                segment,
                blocks: [blocks.start + 1, blocks.end],
                strength,
                length: lengths.sum::<f64>() / blocks.len() as f64,
                forecast: Forecast::of(&outcome, &base),
                likeness: Likeness::of(&outcome, &base, &written[1].1),
            };
            written.push((setting.name(), outcome));
            settings.push(setting);
        }
        study.variants.push(Steered {
            name: model.name.clone(),
            itself: Forecast::of(&written[1].1, &base),
            shift: directions.mean_shift.iter().map(|vector| length(vector)).collect(),
            explained: directions.explained.clone(),
            plain: Likeness::of(&base, &base, &written[1].1),
            settings,
            examples: bench.examples(&written)?,
        });
    }
    Ok(study)
}

fn check(options: &SteerOptions) -> Result<()> {
    let wrong = |key: &str, value: String, problem: &str| {
        Err(Error::Argument {
            what: format!("study.steer.{key}"),
            value,
            problem: problem.to_owned(),
            help: String::new(),
        })
    };
    if let Some(segment) = options.segments.iter().find(|s| !(1..=SEGMENTS).contains(*s)) {
        return wrong("segments", segment.to_string(), "segments are counted from 1 to 5");
    }
    if let Some(strength) = options.strengths.iter().find(|s| !s.is_finite()) {
        return wrong("strengths", strength.to_string(), "not a finite number");
    }
    let counts = [
        ("samples", options.samples),
        ("vector_samples", options.vector_samples),
        ("prompts", options.prompts),
        ("new_tokens", options.new_tokens),
    ];
    match counts.iter().find(|(_, count)| *count == 0) {
        Some((key, _)) => wrong(key, "0".to_owned(), "expected at least 1"),
        None => Ok(()),
    }
}

/// The measured samples, and those that vectors are found on.
fn split<'s>(
    samples: &'s [TrainingSample],
    options: &SteerOptions,
) -> Result<(&'s [TrainingSample], &'s [TrainingSample])> {
    let measured = options.samples.min(samples.len() / 2);
    if measured == 0 {
        return Err(Error::Argument {
            what: "study.samples".into(),
            value: samples.len().to_string(),
            problem: "steering finds vectors on some samples and measures on others: it needs at least 2".into(),
            help: String::new(),
        });
    }
    let (measured, others) = samples.split_at(measured);
    Ok((measured, &others[..options.vector_samples.min(others.len())]))
}

fn plan(options: &SteerOptions) -> impl Iterator<Item = (Method, usize, f64)> {
    options.methods.iter().flat_map(move |method| {
        let of = move |segment: &usize| {
            let segment = *segment;
            options
                .strengths
                .iter()
                .map(move |strength| (*method, segment, *strength))
        };
        options.segments.iter().flat_map(of)
    })
}

/// Blocks of a segment, which is counted from 1.
fn blocks_of(segment: usize, blocks: usize) -> Range<usize> {
    (segment - 1) * blocks / SEGMENTS..segment * blocks / SEGMENTS
}

/// α·v after the given blocks, nothing after the others.
fn added(
    directions: &Directions,
    method: Method,
    blocks: Range<usize>,
    strength: f64,
    fixed: &Fixed,
) -> Vec<Option<Arc<[f32]>>> {
    let scaled = |block: usize| {
        let vector = directions.vector(method, block, fixed.top, fixed.seed);
        vector.into_iter().map(|v| (f64::from(v) * strength) as f32).collect()
    };
    (0..directions.mean_shift.len())
        .map(|block| blocks.contains(&block).then(|| scaled(block)))
        .collect()
}

impl Forecast {
    fn of(outcome: &Outcome, base: &Outcome) -> Self {
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
    fn of(outcome: &Outcome, base: &Outcome, variant: &Outcome) -> Self {
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

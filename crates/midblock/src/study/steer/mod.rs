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
mod result;
#[cfg(test)]
mod tests;
mod vectors;

pub use result::{Example, Forecast, Likeness, Setting, Steer, Steered};
pub use vectors::Method;

use super::{
    BASE,
    battery::{Cells, Subject},
    segments,
};
use crate::{Error, Result, tokens::TrainingSample};
use bench::{Bench, Outcome};
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
    /// Samples whose answers are measured; 12 by default. At most half of the study's samples.
    pub samples: usize,
    /// Samples after those, which the vectors are found on; 24 by default.
    pub vector_samples: usize,
    /// Prompts that are answered; 6 by default.
    pub prompts: usize,
    /// Most tokens of an answer; 24 by default.
    pub new_tokens: usize,
}

impl Default for SteerOptions {
    fn default() -> Self {
        Self {
            methods: vec![Method::MeanShift, Method::Component, Method::Random],
            segments: (1..=SEGMENTS).collect(),
            strengths: vec![0.25, 1.0],
            top: None,
            samples: 12,
            vector_samples: 24,
            prompts: 6,
            new_tokens: 24,
        }
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
            changed: Likeness::of(&written[1].1, &base, &base).changed,
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
    segments::segment(segment - 1, SEGMENTS, blocks)
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

//! Which blocks are worth training, from a small probe, and whether choosing them paid.
//!
//! 1. [`Probe`]: stability, gradient and subspace overlap of every block, on training data.
//! 2. [`scores`] and [`ranked`]: a score for each block, and bands ranked by their predicted benefit under one rank budget.
//! 3. Arms are trained with the same data, steps and rank budget, for each seed: the best band, the fixed 20–80 % band, a band of
//!    the chosen one's width at a random other place (another for each seed) and, if asked for, all blocks. With full fine-tuning
//!    there is no rank budget: bands of one width have equally many parameters, all blocks have more.
//! 4. The measured samples, which nothing was trained or chosen on, judge: differences are paired over samples and seeds, with the
//!    95 % interval of [`crate::study::sweep::Interval`].
//!
//! Bands of one width have one rank, and so one scale. All blocks have a lower rank than a band: with the scaling `fixed-alpha` their
//! factor α/R is larger, and that comparison is of both.
//!
//! Whether choosing paid is whether the loss of the chosen band is clearly below that of the fixed and of the random one. What this
//! cannot say: whether it pays with other data, longer training, or another model.

mod arms;
mod bands;
mod probe;

pub use arms::{Arm, ArmRun, Choice, named};
pub use bands::{Band, ranked, scores, unit_ranks};
pub use probe::Probe;

use super::{
    BASE,
    battery::{Cells, StudyRecord, Subject},
    training::{Scored, lasting, records, scored, untrained},
};
use crate::{Error, Result};
use arms::{Runs, arm_run, train};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

/// `[study.locate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocateOptions {
    /// How much each probe counts; a negative weight turns one around. 1 each by default.
    pub weights: Weights,
    /// Widths of the bands that are ranked, as shares of all blocks; 0.6 by default, that of the fixed band.
    pub widths: Vec<f64>,
    /// Seeds of training; 1 and 2 by default.
    pub seeds: Vec<u64>,
    /// Optimiser steps of each arm, whatever `[train]` says; 8 by default, which is few: give what a real run would have.
    pub steps: u64,
    /// Sequences in a step, likewise; 4 by default.
    pub batch: usize,
    /// Steps of the probe run, where there is no variant; 8 by default.
    pub probe_steps: u64,
    /// Texts of each training data set whose states are looked at; 50 by default.
    pub probe_samples: usize,
    /// Measured samples that judge; 50 by default.
    pub samples: usize,
    /// Whether all blocks are trained as well; no by default.
    pub uniform: bool,
}

impl Default for LocateOptions {
    fn default() -> Self {
        Self {
            weights: Weights::default(),
            widths: vec![0.6],
            seeds: vec![1, 2],
            steps: 8,
            batch: 4,
            probe_steps: 8,
            probe_samples: 50,
            samples: 50,
            uniform: false,
        }
    }
}

/// `[study.locate.weights]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Of little change from base to variant.
    pub stability: f64,
    /// Of a large gradient.
    pub gradient: f64,
    /// Of a kept subspace.
    pub overlap: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            stability: 1.0,
            gradient: 1.0,
            overlap: 1.0,
        }
    }
}

/// What was predicted, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Locate {
    /// What was seen.
    pub probe: Probe,
    /// Score of each block.
    pub scores: Vec<f64>,
    /// All bands, the best first.
    pub bands: Vec<Band>,
    /// Measured samples.
    pub samples: usize,
    /// Seeds of training.
    pub seeds: Vec<u64>,
    /// The base before training.
    pub untrained: Vec<Scored>,
    /// The chosen one first.
    pub arms: Vec<Arm>,
}

/// Probes, chooses, trains and compares.
///
/// # Errors
/// [`Error::Argument`] for options that choose nothing; those of probing, training and judging; [`Error::Interrupted`].
pub fn locate<B: Backend>(subject: &Subject<'_, B>, options: &LocateOptions, cells: &Cells) -> Result<Locate> {
    let blocks = subject.blocks();
    let widths = check(options, blocks)?;
    let own = serde_json::json!({
        "experiment": lasting(&subject.file.experiment(|_| ())?),
        "steps": options.probe_steps, "batch": options.batch, "samples": options.probe_samples,
    });
    let probe = cells.cell("locate-probe", &own, || probe::probe(subject, options, cells))?;
    let Weights {
        stability,
        gradient,
        overlap,
    } = options.weights;
    let [stable, pulled, kept] = probe.benefits();
    let scores = scores(&[(stability, &stable), (gradient, &pulled), (overlap, &kept)]);
    let bands = ranked(&scores, &widths);
    let chosen = bands[0].blocks.clone();
    let measured = subject.measured(options.samples);
    let base = untrained(subject, cells, measured)?;
    let trained_arms = train(subject, options, cells, &chosen)?;
    let all = |arm: usize| {
        trained_arms[arm]
            .1
            .iter()
            .map(|(_, run)| &run.scores)
            .collect::<Vec<_>>()
    };
    let best = all(0);
    let arm = |(index, (choice, runs)): (usize, &(Choice, Runs))| Arm {
        choice: *choice,
        runs: (runs.iter().zip(&options.seeds))
            .map(|((blocks, run), &seed)| arm_run(seed, blocks, run, &scores))
            .collect(),
        values: scored(&all(index), None),
        chosen_minus_this: match index {
            0 => Vec::new(),
            _ => scored(&best, Some(&all(index))),
        },
    };
    Ok(Locate {
        arms: trained_arms.iter().enumerate().map(arm).collect(),
        probe,
        bands,
        samples: measured.len(),
        seeds: options.seeds.clone(),
        untrained: scored(&[&base], None),
        scores,
    })
}

/// Widths in blocks.
fn check(options: &LocateOptions, blocks: usize) -> Result<Vec<usize>> {
    let refuse = |key: &str, value: String, problem: &str, help: &str| {
        Err(Error::Argument {
            what: format!("`study.locate.{key}`"),
            value,
            problem: problem.into(),
            help: help.into(),
        })
    };
    let Weights {
        stability,
        gradient,
        overlap,
    } = options.weights;
    let total = stability.abs() + gradient.abs() + overlap.abs();
    if total == 0.0 || !total.is_finite() {
        return refuse(
            "weights",
            total.to_string(),
            "nothing would count",
            "give a probe a weight",
        );
    }
    let mut seeds = options.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    if seeds.is_empty() || seeds.len() < options.seeds.len() {
        let value = format!("{:?}", options.seeds);
        return refuse(
            "seeds",
            value,
            "there is none, or one is there twice",
            "[1, 2] is the default",
        );
    }
    // the fixed band is ⌊4L/5⌋ − ⌊L/5⌋ wide; its share must give it for every L
    let width = |share: f64| match share {
        0.6 => 4 * blocks / 5 - blocks / 5,
        share => (share * blocks as f64).round() as usize,
    };
    let widths: Vec<usize> = options.widths.iter().map(|share| width(*share)).collect();
    match widths.iter().find(|width| !(1..=blocks).contains(*width)) {
        None if !widths.is_empty() => Ok(widths),
        _ => refuse(
            "widths",
            format!("{:?}", options.widths),
            &format!("there is none, or one that is no part of {blocks} blocks"),
            "[0.6] is the default",
        ),
    }
}

impl Locate {
    /// Of each block the probes' numbers and its `score`; of each band (setting `blocks A to B`, from 1) its `predicted_benefit`; of
    /// each arm its measures and the chosen band's differences from it; and of each run (setting with its blocks and seed) `loss`,
    /// `predicted_benefit`, `trained_parameters` and `seconds`.
    pub fn records(&self) -> Vec<StudyRecord> {
        let number = |setting: &str, layer, metric: &str, value: f64| StudyRecord {
            model: BASE.to_owned(),
            setting: setting.to_owned(),
            layer,
            metric: metric.to_owned(),
            value: Some(value),
            ..StudyRecord::default()
        };
        let mut out = Vec::new();
        for (metric, values) in [
            ("change_intensity_relative", &self.probe.change),
            ("gradient_norm", &self.probe.gradient),
            ("subspace_overlap", &self.probe.overlap),
            ("score", &self.scores),
        ] {
            out.extend(
                (1..)
                    .zip(values)
                    .map(|(block, value)| number("", Some(block), metric, *value)),
            );
        }
        for band in &self.bands {
            out.push(number(&named(&band.blocks), None, "predicted_benefit", band.benefit));
        }
        out.extend(records(BASE, "", "untrained", &self.untrained));
        for arm in &self.arms {
            let name = arm.choice.to_string();
            out.extend(records(BASE, "", &name, &arm.values));
            out.extend(records(
                BASE,
                &name,
                &Choice::Chosen.to_string(),
                &arm.chosen_minus_this,
            ));
            for run in &arm.runs {
                let setting = format!("{name}, {}, seed {}", named(&run.blocks), run.seed);
                for (metric, value) in [
                    ("loss", run.loss),
                    ("predicted_benefit", run.benefit),
                    ("trained_parameters", run.parameters as f64),
                    ("seconds", run.seconds),
                ] {
                    out.push(number(&setting, None, metric, value));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;

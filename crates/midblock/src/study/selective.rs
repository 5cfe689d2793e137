//! Selective training: what freezing the first blocks costs and saves.
//!
//! For each ratio the first ⌊ratio·L⌋ blocks are frozen and the others trained, with LoRA at the experiment's rank whatever the
//! ratio: freezing is the only change, and trained parameters become fewer. (A choice of blocks as in `midblock tune` would give
//! the rank of the frozen ones to the others.) With full fine-tuning, embedding and head stay as they are in every ratio. Each is
//! an ordinary training run in a folder of its own, judged by the measured samples, which are not trained on.
//! Source: arXiv 2604.11838, ratios 0, 0.33, 0.5, 0.66.

use super::{
    BASE,
    battery::{Cells, StudyRecord, Subject},
    training::{Scored, Trained, records, scored, trained, untrained},
};
use crate::{
    Error, Result,
    config::{Adapt, AdaptKind, Config},
    select::Layers,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

/// `[study.selective]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectiveOptions {
    /// Shares of the blocks that are frozen, from the first block on; 0, 0.33, 0.5 and 0.66 by default. The first is what the
    /// others are compared with.
    pub ratios: Vec<f64>,
    /// Optimiser steps; as `[train]` says by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Measured samples that judge; 50 by default.
    pub samples: usize,
}

impl Default for SelectiveOptions {
    fn default() -> Self {
        Self {
            ratios: vec![0.0, 0.33, 0.5, 0.66],
            steps: None,
            samples: 50,
        }
    }
}

/// The base and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selective {
    /// How parameters moved.
    pub kind: AdaptKind,
    /// Measured samples.
    pub samples: usize,
    /// The base before training.
    pub untrained: Vec<Scored>,
    /// By ratio, in the order given.
    pub frozen: Vec<Frozen>,
}

/// A run with frozen blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frozen {
    /// Share of frozen blocks.
    pub ratio: f64,
    /// The run.
    pub run: Trained,
    /// How well it does.
    pub values: Vec<Scored>,
    /// The same minus the first ratio's; empty for that.
    pub differences: Vec<Scored>,
}

impl Frozen {
    /// Blocks that are frozen.
    pub fn blocks(&self) -> usize {
        self.run.blocks.first().copied().unwrap_or(0)
    }

    /// Tokens of training per second.
    pub fn tokens_per_s(&self) -> f64 {
        self.run.tokens as f64 / self.run.seconds
    }
}

/// Trains and judges every ratio.
///
/// # Errors
/// [`Error::Argument`] for a ratio that leaves nothing to train or is there twice; those of training and of the tasks;
/// [`Error::Interrupted`].
pub fn selective<B: Backend>(subject: &Subject<'_, B>, options: &SelectiveOptions, cells: &Cells) -> Result<Selective> {
    let blocks = subject.blocks();
    check(options, blocks)?;
    let measured = subject.measured(options.samples);
    let base = untrained(subject, cells, measured)?;
    let mut runs: Vec<(f64, Trained)> = Vec::new();
    for &ratio in &options.ratios {
        let count = frozen_blocks(ratio, blocks);
        let change = |config: &mut Config| {
            config.select.layers = Some(layers(&config.adapt, count, blocks));
            config.select.from = None;
            if options.steps.is_some() {
                (config.train.steps, config.train.epochs) = (options.steps, None);
            }
        };
        let config = subject.file.experiment(change)?;
        let name = format!("selective-{count}-of-{blocks}");
        runs.push((ratio, trained(subject, cells, &name, config, measured)?));
    }
    let first = runs[0].1.scores.clone();
    let frozen = |(index, (ratio, run)): (usize, (f64, Trained))| Frozen {
        ratio,
        values: scored(&[&run.scores], None),
        differences: match index {
            0 => Vec::new(),
            _ => scored(&[&run.scores], Some(&[&first])),
        },
        run,
    };
    Ok(Selective {
        kind: subject.file.config.adapt.kind,
        samples: measured.len(),
        untrained: scored(&[&base], None),
        frozen: runs.into_iter().enumerate().map(frozen).collect(),
    })
}

fn check(options: &SelectiveOptions, blocks: usize) -> Result<()> {
    let refuse = |value: String, problem: &str| {
        Err(Error::Argument {
            what: "`study.selective.ratios`".into(),
            value,
            problem: problem.into(),
            help: "[0, 0.33, 0.5, 0.66] is the default".into(),
        })
    };
    if options.ratios.is_empty() {
        return refuse("[]".into(), "nothing would be trained");
    }
    if let Some(bad) = options.ratios.iter().find(|ratio| !(0.0..1.0).contains(*ratio)) {
        return refuse(bad.to_string(), "not from 0 to below 1");
    }
    let counts: Vec<usize> = options
        .ratios
        .iter()
        .map(|ratio| frozen_blocks(*ratio, blocks))
        .collect();
    match (1..counts.len()).find(|&i| counts[..i].contains(&counts[i])) {
        Some(twice) => refuse(
            options.ratios[twice].to_string(),
            &format!("it freezes {} of {blocks} blocks, as another does", counts[twice]),
        ),
        None => Ok(()),
    }
}

/// ⌊ratio·L⌋, where a product that is whole but for rounding counts as whole.
fn frozen_blocks(ratio: f64, blocks: usize) -> usize {
    (ratio * blocks as f64 + 1e-9) as usize
}

/// All blocks from `count` on; with LoRA as a pattern that states its ranks, so that they do not grow.
fn layers(adapt: &Adapt, count: usize, blocks: usize) -> Layers {
    let rank = adapt.rank.unwrap_or(Adapt::RANK);
    match adapt.kind {
        AdaptKind::Full => Layers::Range(count..blocks),
        AdaptKind::Lora => Layers::Segments((0..blocks).map(|block| if block < count { 0 } else { rank }).collect()),
    }
}

impl Selective {
    /// For each ratio (setting `frozen N`, of L blocks) the measures, their differences from the first ratio, and `seconds`,
    /// `tokens_per_s`, `peak_private_bytes`, `planned_bytes`, `trained_parameters`, `steps`; the measures of the untrained base.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut out = records(BASE, "", "untrained", &self.untrained);
        let setting = |frozen: &Frozen| format!("frozen {}", frozen.blocks());
        for frozen in &self.frozen {
            let (name, run) = (setting(frozen), &frozen.run);
            out.extend(records(BASE, "", &name, &frozen.values));
            out.extend(records(BASE, &setting(&self.frozen[0]), &name, &frozen.differences));
            let costs = [
                ("seconds", Some(run.seconds)),
                ("tokens_per_s", Some(frozen.tokens_per_s())),
                ("peak_private_bytes", run.peak_bytes.map(|bytes| bytes as f64)),
                ("planned_bytes", Some(run.planned_bytes as f64)),
                ("trained_parameters", Some(run.parameters as f64)),
                ("steps", Some(run.steps as f64)),
            ];
            out.extend(costs.map(|(metric, value)| StudyRecord {
                model: BASE.to_owned(),
                setting: name.clone(),
                metric: metric.to_owned(),
                value,
                ..StudyRecord::default()
            }));
        }
        out
    }
}

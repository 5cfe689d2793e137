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
    training::{Scored, Trained, records, scored, shorten, trained, untrained},
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
    /// Optimiser steps, whatever `[train]` says; 8 by default: enough to compare costs, few for a fine-tuning.
    pub steps: u64,
    /// Sequences in a step, likewise; 4 by default.
    pub batch: usize,
    /// Measured samples that judge; 50 by default.
    pub samples: usize,
}

impl Default for SelectiveOptions {
    fn default() -> Self {
        Self {
            ratios: vec![0.0, 0.33, 0.5, 0.66],
            steps: 8,
            batch: 4,
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
            shorten(config, options.steps, options.batch);
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
        AdaptKind::Full | AdaptKind::Masked => Layers::Range(count..blocks),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::Checkpoint, probe::trained_token_losses, progress::Silent, study::battery::fixture::Fixture,
    };
    use std::fs;

    #[test]
    fn frozen_blocks_stay_and_what_is_judged_was_not_seen() {
        let fixture = Fixture::new();
        let options = SelectiveOptions {
            ratios: vec![0.0, 0.5],
            steps: 2,
            batch: 2,
            samples: 5,
        };
        let measured = fixture.file(&[]).config.data.eval[0].0.source.to_string();
        let train = fixture.file(&[]).config.data.train[0].0.source.to_string();
        let data = format!("data.train=[\"p={train}\", \"q={measured}\"]");
        let sets = [data.as_str()];
        let run = || {
            fixture.with(&sets, |subject, cells| {
                let adapter = cells.folder("selective-8-of-16").join("adapter");
                let found = selective(subject, &options, cells)?;
                let spec = format!("{}+{}", subject.file.config.model.base, adapter.display());
                let checkpoint = Checkpoint::open(&spec, subject.hub, subject.on_transfer)?;
                let losses = trained_token_losses(subject.backend, &checkpoint, subject.measured(5), &Silent)?;
                Ok((found, losses, checkpoint.adapter().unwrap().pairs.clone()))
            })
        };
        let (got, losses, pairs) = run().unwrap();
        let [all, half] = [&got.frozen[0], &got.frozen[1]];
        assert_eq!((all.blocks(), half.blocks(), half.run.steps), (0, 8, 2));
        assert_eq!(half.run.blocks, (8..16).collect::<Vec<_>>());
        // one rank whatever is frozen, so half of the blocks have half of the numbers
        assert_eq!(all.run.parameters, 2 * half.run.parameters);
        assert!(pairs.values().all(|pair| pair.rank == 2));
        assert!(pairs.keys().all(|name| !name.contains("layers.7.")) && !pairs.is_empty());
        assert_eq!((all.run.left_out, got.samples), (6, 5));
        let nats: f64 = losses.iter().map(|loss| loss.nats).sum();
        let tokens: usize = losses.iter().map(|loss| loss.predicted).sum();
        let right: usize = losses.iter().map(|loss| loss.correct).sum();
        let value = |values: &[Scored], name: &str| {
            values
                .iter()
                .find(|scored| scored.metric() == name)
                .unwrap()
                .value
                .value
        };
        assert!((value(&half.values, "loss") - nats / tokens as f64).abs() < 1e-12);
        assert!((value(&half.values, "top1_accuracy") - right as f64 / tokens as f64).abs() < 1e-12);
        let difference = value(&half.values, "loss") - value(&all.values, "loss");
        assert!((value(&half.differences, "loss") - difference).abs() < 1e-12 && all.differences.is_empty());
        assert!(value(&got.untrained, "loss") != value(&all.values, "loss"));
        // a study that goes on has the same numbers, the seconds too
        assert_eq!(run().unwrap().0, got);
        // and what was lost is made of the run that is there
        fs::remove_file(fixture.out().join("cells/selective-8-of-16.json")).unwrap();
        assert_eq!(run().unwrap().0, got);
    }

    #[test]
    fn ratios_that_say_nothing_are_refused() {
        for (ratios, problem) in [
            (vec![], "nothing would be trained"),
            (vec![0.0, 1.0], "not from 0 to below 1"),
            (vec![0.3, 0.31], "it freezes 3 of 10 blocks"),
        ] {
            let options = SelectiveOptions {
                ratios,
                ..SelectiveOptions::default()
            };
            let message = check(&options, 10).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
        assert_eq!(
            [0.0, 0.33, 0.5, 0.66].map(|ratio| frozen_blocks(ratio, 30)),
            [0, 9, 15, 19]
        );
        assert_eq!(frozen_blocks(0.29, 100), 29);
    }
}

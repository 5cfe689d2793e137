//! What is trained to see whether choosing paid: the chosen band and what it must beat.

use super::LocateOptions;
use crate::{
    Result,
    config::Config,
    rng,
    select::Layers,
    study::{
        battery::{Cells, Subject},
        training::{Scored, Trained, loss, scored, shorten, trained},
    },
};
use midblock_kernels::Backend;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range};

/// What an arm trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The band with the largest predicted benefit.
    Chosen,
    /// 20 % to 80 %.
    Fixed,
    /// As wide as the chosen one, somewhere else.
    Random,
    /// All blocks.
    Uniform,
}

impl fmt::Display for Choice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Chosen => "chosen band",
            Self::Fixed => "fixed 20–80 % band",
            Self::Random => "random band",
            Self::Uniform => "all blocks",
        })
    }
}

/// One choice, trained with every seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// What it is.
    pub choice: Choice,
    /// One for each seed.
    pub runs: Vec<ArmRun>,
    /// How well it does, over seeds.
    pub values: Vec<Scored>,
    /// The chosen band's numbers minus its own; empty for the chosen one.
    pub chosen_minus_this: Vec<Scored>,
}

/// One training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmRun {
    /// Its seed.
    pub seed: u64,
    /// Its blocks, 0-based, half-open.
    pub blocks: Range<usize>,
    /// Their predicted benefit.
    pub benefit: f64,
    /// Mean loss on the measured samples, in nats per token.
    pub loss: f64,
    /// Numbers that were trained.
    pub parameters: u64,
    /// Seconds of training.
    pub seconds: f64,
}

/// An arm's blocks and result, one for each seed.
pub(super) type Runs = Vec<(Range<usize>, Trained)>;

/// Trains and judges every arm with every seed, seed by seed, so that an interrupted study has whole comparisons.
pub(super) fn train<B: Backend>(
    subject: &Subject<'_, B>,
    options: &LocateOptions,
    cells: &Cells,
    chosen: &Range<usize>,
) -> Result<Vec<(Choice, Runs)>> {
    let mut arms = vec![
        (Choice::Chosen, Runs::new()),
        (Choice::Fixed, Runs::new()),
        (Choice::Random, Runs::new()),
    ];
    arms.extend(options.uniform.then(|| (Choice::Uniform, Runs::new())));
    for &seed in &options.seeds {
        for (choice, runs) in &mut arms {
            let blocks = band(*choice, chosen, subject.blocks(), seed);
            let change = |config: &mut Config| {
                config.select.layers = Some(Layers::Range(blocks.clone()));
                config.select.from = None;
                config.train.seed = seed;
                shorten(config, options.steps, options.batch);
            };
            let config = subject.file.experiment(change)?;
            // by its blocks: what two arms share is trained once
            let name = format!("locate-{}-to-{}-s{seed}", blocks.start + 1, blocks.end);
            let run = trained(subject, cells, &name, config, subject.measured(options.samples))?;
            runs.push((blocks, run));
        }
    }
    Ok(arms)
}

pub(super) fn arm_run(seed: u64, blocks: &Range<usize>, run: &Trained, scores: &[f64]) -> ArmRun {
    ArmRun {
        seed,
        blocks: blocks.clone(),
        benefit: scores[blocks.clone()].iter().sum::<f64>() / blocks.len() as f64,
        loss: loss(&scored(&[&run.scores], None)).value,
        parameters: run.parameters,
        seconds: run.seconds,
    }
}

/// The blocks of an arm. The random band has any start but the chosen one's, drawn from the stream ("random band") of the seed.
pub(super) fn band(choice: Choice, chosen: &Range<usize>, blocks: usize, seed: u64) -> Range<usize> {
    match choice {
        Choice::Chosen => chosen.clone(),
        Choice::Fixed => blocks / 5..4 * blocks / 5,
        Choice::Uniform => 0..blocks,
        Choice::Random => {
            let others: Vec<usize> = (0..=blocks - chosen.len())
                .filter(|start| *start != chosen.start)
                .collect();
            if others.is_empty() {
                return chosen.clone();
            }
            let mut random = rng::stream(seed, "random band", &[]);
            let start = others[random.random_range(0..others.len())];
            start..start + chosen.len()
        }
    }
}

/// `blocks 7 to 24`, counted from 1.
pub fn named(blocks: &Range<usize>) -> String {
    format!("blocks {} to {}", blocks.start + 1, blocks.end)
}

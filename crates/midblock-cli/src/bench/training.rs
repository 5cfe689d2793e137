//! Whole optimiser steps: forward, backward, AdamW, all tokens in the loss.

use super::{Counts, Timed, median, round, sequences};
use crate::args::{self, Training};
use anyhow::{Result, ensure};
use midblock::{
    adapt::{Kind, LoraOptions, MaskOptions, Plan, Recipe, Scaling},
    checkpoint::Checkpoint,
    config::{self, ObjectiveKind},
    model::Architecture,
    progress::Silent,
    select::{Layers, Modules},
    singular::SingularCache,
    tokens::TrainingSample,
    train::{CacheOptions, Item, LossSum, Objective, StepInfo, StepOptions, Trainer},
};
use midblock_kernels::{Cpu, Dtype};
use serde_json::{Value, json};
use std::time::Instant;

/// Rank of uniform LoRA, which sets the budget.
const RANK: usize = 8;

/// A trainer and its one batch.
pub(super) struct Steps<'a> {
    kind: Training,
    trainer: Trainer<'a, Cpu>,
    /// Trainers whose steps are timed in turns with these, and their seconds: one that takes plain steps, where those of another
    /// objective or of masks are timed, or some with the blocks' matrices in other formats.
    beside: Vec<Beside<'a>>,
    objective: ObjectiveKind,
    samples: Vec<TrainingSample>,
    parameters: usize,
    step: u64,
    seconds: Vec<f64>,
    losses: Vec<f64>,
}

/// Another trainer on the same batch.
struct Beside<'a> {
    what: String,
    trainer: Trainer<'a, Cpu>,
    seconds: Vec<f64>,
    losses: Vec<f64>,
}

impl<'a> Steps<'a> {
    /// Of `checkpoint`, and in turns with it of `others`.
    pub fn new(
        backend: &'a Cpu,
        checkpoint: &Checkpoint,
        others: &[(Dtype, Checkpoint)],
        kind: Training,
        args: &args::Bench,
    ) -> Result<Self> {
        let architecture = Architecture::resolve(checkpoint.config())?;
        let lora = LoraOptions {
            rank: RANK,
            alpha: Some(16.0),
            dropout: 0.0,
            scaling: Scaling::FixedAlpha,
        };
        let objective = args.objective.unwrap_or(match kind {
            Training::Masked => ObjectiveKind::Lcdd,
            _ => ObjectiveKind::Sft,
        });
        ensure!(
            (kind == Training::Masked) == (objective == ObjectiveKind::Lcdd),
            "--objective {}: masks are trained by lcdd, and nothing else is",
            objective.name()
        );
        let (how, layers) = match kind {
            Training::Full => (Kind::Full, Layers::All),
            Training::Masked => (Kind::Masked(MaskOptions::default()), Layers::All),
            Training::Lora => (Kind::Lora(lora), Layers::All),
            Training::Mid | Training::MidCached => (Kind::Lora(lora), Layers::Mid),
        };
        let recipe = Recipe {
            kind: how,
            layers,
            modules: None,
            extra: Vec::new(),
            seed: 0,
        };
        let plan = Plan::resolve(&architecture, &recipe, None)?;
        let rows = args.batch.get() * args.length.get();
        let options = StepOptions {
            seed: 0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            clip: None,
            accumulation: 1,
            memory_bytes: None,
            largest_batch: [rows, rows],
            prefix: (kind == Training::MidCached).then(|| CacheOptions {
                memory_bytes: u64::MAX,
                disk_bytes: 0,
                folder: std::env::temp_dir(),
            }),
            objective: Objective::Sft,
            start: Some(CacheOptions {
                memory_bytes: u64::MAX,
                disk_bytes: 0,
                folder: std::env::temp_dir(),
            }),
        };
        let mut beside = Vec::new();
        let plain = (objective != ObjectiveKind::Sft).then(|| ("plain".to_owned(), checkpoint));
        let others = others.iter().map(|(dtype, other)| (dtype.to_string(), other));
        let plan_beside = plain_plan(&architecture, &recipe, &plan)?;
        for (what, checkpoint) in plain.into_iter().chain(others) {
            beside.push(Beside {
                what,
                trainer: Trainer::new(backend, checkpoint, &plan_beside, options.clone())?,
                seconds: Vec::new(),
                losses: Vec::new(),
            });
        }
        let options = StepOptions {
            objective: minimised(objective, args.directions.get(), checkpoint, &architecture, &plan)?,
            ..options
        };
        let trainer = match kind {
            // the tuned model is the base to begin with, which makes no step faster
            Training::Masked => Trainer::masked(backend, checkpoint, checkpoint, &plan, options)?,
            _ => Trainer::new(backend, checkpoint, &plan, options)?,
        };
        let sample = |ids: Vec<u32>| TrainingSample {
            id: "random".to_owned(),
            trained: (0..ids.len()).map(|t| t > 0).collect(),
            ids,
        };
        Ok(Self {
            kind,
            trainer,
            beside,
            objective,
            samples: sequences(architecture.vocab, args).into_iter().map(sample).collect(),
            parameters: plan.parameters(),
            step: 0,
            seconds: Vec::new(),
            losses: Vec::new(),
        })
    }
}

/// What plain steps train: the same, but masked matrices in full.
fn plain_plan(architecture: &Architecture, recipe: &Recipe, plan: &Plan) -> Result<Plan> {
    let Kind::Masked(_) = recipe.kind else {
        return Ok(plan.clone());
    };
    let recipe = Recipe {
        kind: Kind::Full,
        modules: Some(Modules::all_linear()),
        ..recipe.clone()
    };
    Ok(Plan::resolve(architecture, &recipe, None)?)
}

/// The objective at its defaults, but for the number of directions.
fn minimised(
    kind: ObjectiveKind,
    directions: usize,
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    plan: &Plan,
) -> Result<Objective> {
    let mut own = config::Objective {
        kind,
        directions: (kind == ObjectiveKind::Rpsft).then_some(directions),
        ..config::Objective::default()
    };
    own.fill();
    let mut objective = Objective::of(&own);
    if let Objective::Rpsft(rotation) = &mut objective {
        rotation.find_blocks(checkpoint, architecture, plan, &SingularCache::of_user(), &Silent)?;
    }
    Ok(objective)
}

impl Timed for Steps<'_> {
    fn name(&self) -> String {
        let step = match self.kind {
            Training::Full => "full fine-tuning step",
            Training::Masked => "step of masks and a tuned copy",
            Training::Lora => "LoRA step",
            Training::Mid => "Mid-Block LoRA step",
            Training::MidCached => "Mid-Block LoRA step, frozen prefix cached",
        };
        match self.objective {
            ObjectiveKind::Sft | ObjectiveKind::Lcdd => step.to_owned(),
            other => format!("{step} of {}", other.name()),
        }
    }

    fn step(&mut self, record: bool) -> Result<()> {
        self.step += 1;
        let items: Vec<Item<'_>> = (0..)
            .zip(&self.samples)
            .map(|(key, sample)| Item { key, sample })
            .collect();
        let info = StepInfo {
            step: self.step,
            micro: 0,
            tokens: self.samples.iter().map(TrainingSample::trained_tokens).sum(),
            lr: 1e-4,
        };
        let timed = |trainer: &mut Trainer<'_, Cpu>, seconds: &mut Vec<f64>| -> Result<LossSum> {
            let start = Instant::now();
            let loss = trainer.accumulate(&items, &info)?;
            trainer.apply(&info)?;
            if record {
                seconds.push(start.elapsed().as_secs_f64());
            }
            Ok(loss)
        };
        let nats = |loss: LossSum| loss.nats / loss.tokens as f64;
        for other in &mut self.beside {
            let loss = timed(&mut other.trainer, &mut other.seconds)?;
            other.losses.push(nats(loss));
        }
        let loss = timed(&mut self.trainer, &mut self.seconds)?;
        self.losses.push(nats(loss));
        Ok(())
    }

    fn seconds(&self) -> &[f64] {
        &self.seconds
    }

    fn products(&self) -> Counts {
        let blocks = self.trainer.decoder().blocks().len();
        let trained = blocks - self.trainer.first_block();
        match self.kind {
            Training::Full => Counts {
                blocks: 3 * blocks,
                head: 3,
            },
            Training::Masked => Counts {
                blocks: 3 * blocks,
                head: 2,
            },
            Training::Lora | Training::Mid => Counts {
                blocks: blocks + trained,
                head: 2,
            },
            Training::MidCached => Counts {
                blocks: 2 * trained,
                head: 2,
            },
        }
    }

    fn details(&self) -> Value {
        let memory = self.trainer.memory();
        let own = median(&self.seconds);
        let beside = |other: &Beside<'_>| {
            let seconds = median(&other.seconds);
            json!({
                "what": other.what, "median_s": round(seconds), "ours_over_this": round(own / seconds), "losses": other.losses,
            })
        };
        json!({
            "trained_parameters": self.parameters,
            "first_block": self.trainer.first_block(),
            "interiors_kept": memory.kept,
            "planned_private_mib": memory.bytes() >> 20,
            "planned_private_mib_beside": self.beside.iter().map(|other| other.trainer.memory().bytes() >> 20).collect::<Vec<_>>(),
            "steps_per_s": round(1.0 / own),
            "in_turns": self.beside.iter().map(beside).collect::<Vec<_>>(),
            "losses": self.losses,
        })
    }
}

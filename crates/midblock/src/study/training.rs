//! Training runs as cells of something larger: each is finished once, and gone on with after an interruption.

use super::{
    battery::{Cells, Subject},
    sweep::Scores,
};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    config::{AdaptKind, Config, Output},
    probe::{TokenLoss, trained_token_losses},
    progress::{Progress, Unit},
    run::DONE,
    tokens::TrainingSample,
    train::{Ending, Experiment, Observer, Outlook, StepMetrics, TrainingFolder, TrainingRun, tune},
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, path::Path};

/// Name of the folder of a cell's tasks.
const EVAL: &str = "eval";

/// The finished run in `dir`; trained first, or trained to its end, if it is not finished.
///
/// # Errors
/// Those of `prepare` and [`tune`]; [`Error::Interrupted`] if it was asked to stop, and then the same call goes on.
pub(super) fn finished_run<B: Backend>(
    backend: &B,
    dir: &Path,
    prepare: impl FnOnce() -> Result<Experiment>,
    observer: &mut dyn Observer,
    progress: &dyn Progress,
) -> Result<TrainingRun> {
    if !dir.join(DONE).is_file() {
        let experiment = prepare()?;
        let folder = TrainingFolder::claim(dir, true, false)?;
        let tuned = tune(backend, &experiment, &folder, &mut [observer], progress)?;
        if tuned.ending == Ending::Interrupted {
            return Err(Error::Interrupted);
        }
    }
    TrainingRun::open(dir)
}

/// What the user would type to open the result of a run: the base with its adapter, or the trained model.
pub(super) fn result_of(base: &str, dir: &Path, run: &TrainingRun, kind: AdaptKind) -> String {
    let result = dir.join(&run.info.training.result);
    match kind {
        AdaptKind::Lora => format!("{base}+{}", result.display()),
        AdaptKind::Full => result.display().to_string(),
    }
}

/// The experiment of a training cell, without the measured samples: whatever is judged by them has not seen them.
///
/// # Errors
/// Those of [`Experiment::prepare`]; [`Error::Argument`] if nothing is left to train on.
pub(super) fn unseen<B: Backend>(subject: &Subject<'_, B>, config: Config) -> Result<Experiment> {
    let mut experiment = Experiment::prepare(subject.backend, config, subject.hub, subject.on_transfer, subject.now)?;
    let measured: HashSet<&[u32]> = subject.samples.iter().map(|sample| sample.ids.as_slice()).collect();
    experiment
        .train
        .retain(|sample| !measured.contains(sample.ids.as_slice()));
    if experiment.train.is_empty() {
        return Err(Error::Argument {
            what: "data.train".into(),
            value: experiment
                .counts
                .iter()
                .map(|count| count.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
            problem: "each of its samples is one that is measured".into(),
            help: "name other data to train on, or other data to measure on: `eval` in [data]".into(),
        });
    }
    Ok(experiment)
}

/// A finished training cell, and how well its model does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Blocks in which something is trained, from 0.
    pub blocks: Vec<usize>,
    /// Numbers that are trained.
    pub parameters: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens of all steps.
    pub tokens: u64,
    /// Wall-clock time of all steps.
    pub seconds: f64,
    /// Largest private memory of the process after a step, whatever else it holds included.
    pub peak_bytes: Option<u64>,
    /// Planned private memory of a step.
    pub planned_bytes: u64,
    /// Training sequences that were left out because they are measured.
    pub left_out: usize,
    /// Loss on each measured sample, in their order.
    pub losses: Vec<TokenLoss>,
    /// The tasks of `[eval]`, item by item.
    pub tasks: Vec<Scores>,
}

/// What decides on a training cell, to be kept with its result.
pub(super) fn identity(config: &Config, measured: usize) -> serde_json::Value {
    let config = Config {
        output: Output::default(),
        ..config.clone()
    };
    serde_json::json!({"experiment": config, "measured": measured})
}

/// Trains and judges in the cell `name`, as far as that is not done.
///
/// # Errors
/// Those of training, of the tasks, and of the cell.
pub(super) fn trained<B: Backend>(
    subject: &Subject<'_, B>,
    cells: &Cells,
    name: &str,
    mut config: Config,
    measured: &[TrainingSample],
) -> Result<Trained> {
    cells.cell(name, &identity(&config, measured.len()), || {
        let dir = cells.folder(name);
        config.output.dir = Some(dir.clone());
        let kind = config.adapt.kind;
        let mut steps = Steps {
            name,
            progress: subject.progress,
        };
        let run = finished_run(
            subject.backend,
            &dir,
            || unseen(subject, config),
            &mut steps,
            subject.progress,
        )?;
        subject.stop_if_asked()?;
        let spec = result_of(&subject.file.config.model.base, &dir, &run, kind);
        let checkpoint = Checkpoint::open(&spec, subject.hub, subject.on_transfer)?;
        let losses = trained_token_losses(subject.backend, &checkpoint, measured, subject.progress)?;
        let tasks = tasks(subject, &checkpoint, &dir.join(EVAL))?;
        Ok(describe(&run, losses, tasks))
    })
}

/// The tasks of a checkpoint; none if none are asked for.
pub(super) fn tasks<B: Backend>(subject: &Subject<'_, B>, checkpoint: &Checkpoint, dir: &Path) -> Result<Vec<Scores>> {
    match subject.examiner {
        Some(examiner) => examiner.examine(checkpoint, dir, subject.progress),
        None => Ok(Vec::new()),
    }
}

fn describe(run: &TrainingRun, losses: Vec<TokenLoss>, tasks: Vec<Scores>) -> Trained {
    let training = &run.info.training;
    let position = training.position.clone().unwrap_or_default();
    let blocks = training.blocks.iter().enumerate();
    let loaded: usize = training.data.iter().map(|count| count.sequences).sum();
    Trained {
        blocks: blocks
            .filter(|(_, block)| block.parameters > 0)
            .map(|(index, _)| index)
            .collect(),
        parameters: training.trained_parameters,
        steps: position.step,
        tokens: position.tokens,
        seconds: position.seconds,
        peak_bytes: run.info.run.peak_private_bytes,
        planned_bytes: training.planned_bytes,
        left_out: loaded - training.sequences[0],
        losses,
        tasks,
    }
}

/// Tells progress of a run's steps.
struct Steps<'a> {
    name: &'a str,
    progress: &'a dyn Progress,
}

impl Observer for Steps<'_> {
    fn begin(&mut self, outlook: &Outlook) -> Result<()> {
        self.progress.begin(
            &format!("training {}", self.name),
            outlook.steps - outlook.done,
            Unit::Items,
        );
        Ok(())
    }

    fn step(&mut self, _: &StepMetrics) -> Result<()> {
        self.progress.advance(1);
        Ok(())
    }
}

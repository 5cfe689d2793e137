//! Training runs as cells of something larger: each is finished once, and gone on with after an interruption.

use super::{
    Estimate,
    battery::{Cells, StudyRecord, Subject},
    sweep::{Measure, Scores, Unit as Counted, check_config, interval},
};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    config::{AdaptKind, Config, Output},
    probe::{TokenLoss, trained_token_losses},
    progress::{Progress, Unit},
    ranks::Ranks,
    run::DONE,
    tokens::TrainingSample,
    train::{Ending, Experiment, Line, Observer, Outlook, StepMetrics, TrainingFolder, TrainingRun, tune},
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::HashSet, path::Path};

/// Name of the folder of a cell's tasks.
const EVAL: &str = "eval";

/// Names of the measures of a token.
pub(super) const LOSS: &str = "loss";
const ACCURACY: &str = "top1_accuracy";

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
        let tuned = tune(
            backend,
            &experiment,
            &folder,
            &mut [observer],
            &Ranks::alone(),
            progress,
        )?;
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
        AdaptKind::Full | AdaptKind::Masked => result.display().to_string(),
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
    /// Mean loss over the last tenth of the steps, on what was trained on then, in nats per token.
    #[serde(default)]
    pub end_loss: Option<f64>,
    /// Loss and accuracy on the measured samples, then the tasks of `[eval]`, item by item.
    pub scores: Vec<Scores>,
}

/// Makes an experiment a short one: so many steps of so many sequences, whatever `[train]` says of its length.
pub(super) fn shorten(config: &mut Config, steps: u64, batch: usize) {
    let train = &mut config.train;
    (train.steps, train.epochs) = (Some(steps), None);
    (train.batch, train.batch_tokens, train.accumulation) = (Some(batch), None, 1);
}

/// What of a configuration decides on a result: all but where that goes.
pub(super) fn lasting(config: &Config) -> Config {
    Config {
        output: Output::default(),
        ..config.clone()
    }
}

/// Trains and judges in the cell `name`, as far as that is not done.
///
/// # Errors
/// Those of training, of the tasks, and of the cell.
pub(super) fn trained<B: Backend>(
    subject: &Subject<'_, B>,
    cells: &Cells,
    name: &str,
    config: Config,
    measured: &[TrainingSample],
) -> Result<Trained> {
    let eval = &subject.file.config.eval;
    let options = json!({"experiment": lasting(&config), "measured": measured.len(), "eval": eval});
    cells.cell(name, &options, || {
        let (run, spec) = run_in(subject, cells, name, config)?;
        let checkpoint = Checkpoint::open(&spec, subject.hub, subject.on_transfer)?;
        let scores = judge(subject, &checkpoint, measured, &cells.folder(name).join(EVAL))?;
        Ok(describe(&run, scores))
    })
}

/// Trains in the folder `name`, as far as that is not done. Returns the run and what its result is opened by.
///
/// # Errors
/// Those of training; [`Error::Mismatch`] if another run is there.
pub(super) fn run_in<B: Backend>(
    subject: &Subject<'_, B>,
    cells: &Cells,
    name: &str,
    mut config: Config,
) -> Result<(TrainingRun, String)> {
    let dir = cells.folder(name);
    check_config(&dir, &config)?;
    config.output.dir = Some(dir.clone());
    let kind = config.adapt.kind;
    let mut steps = Steps {
        name,
        progress: subject.progress,
    };
    let prepare = || unseen(subject, config);
    let run = finished_run(subject.backend, &dir, prepare, &mut steps, subject.progress)?;
    subject.stop_if_asked()?;
    let spec = result_of(&subject.file.config.model.base, &dir, &run, kind);
    Ok((run, spec))
}

/// The base itself, judged by the same samples and tasks.
///
/// # Errors
/// As [`trained`].
pub(super) fn untrained<B: Backend>(
    subject: &Subject<'_, B>,
    cells: &Cells,
    measured: &[TrainingSample],
) -> Result<Vec<Scores>> {
    let name = format!("untrained-{}", measured.len());
    let options = json!({"measured": measured.len(), "eval": subject.file.config.eval});
    cells.cell(&name, &options, || {
        let checkpoint = subject.models[0].checkpoint;
        judge(subject, checkpoint, measured, &cells.folder(&name).join(EVAL))
    })
}

fn judge<B: Backend>(
    subject: &Subject<'_, B>,
    checkpoint: &Checkpoint,
    measured: &[TrainingSample],
    dir: &Path,
) -> Result<Vec<Scores>> {
    let losses = trained_token_losses(subject.backend, checkpoint, measured, subject.progress)?;
    let scores = |name: &str, unit, value: fn(&TokenLoss) -> f64| Scores {
        measure: Measure {
            name: name.to_owned(),
            metric: String::new(),
            unit,
        },
        items: (losses.iter().zip(measured).enumerate())
            .map(|(index, (loss, sample))| (format!("{index}/{}", sample.id), [value(loss), loss.predicted as f64]))
            .collect(),
    };
    let mut all = vec![
        scores(LOSS, Counted::Nats, |loss| loss.nats),
        scores(ACCURACY, Counted::Share, |loss| loss.correct as f64),
    ];
    if let Some(examiner) = subject.examiner {
        all.extend(examiner.examine(checkpoint, dir, subject.progress)?);
    }
    Ok(all)
}

/// Whether it is of the measured samples, and not of a task.
pub(super) fn is_of_samples(scores: &Scores) -> bool {
    scores.measure.metric.is_empty() && [LOSS, ACCURACY].contains(&scores.measure.name.as_str())
}

/// A measure of one or more runs, each with a seed of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// What was measured.
    pub measure: Measure,
    /// The mean over items and runs.
    pub value: Estimate,
}

impl Scored {
    /// Whether it is the loss on the measured samples.
    pub fn is_loss(&self) -> bool {
        self.measure.name == LOSS
    }

    /// Name in records.
    pub fn metric(&self) -> String {
        match self.measure.metric.as_str() {
            "" => self.measure.name.clone(),
            metric => format!("{}_{metric}", self.measure.name),
        }
    }
}

/// Every measure of some runs, or its difference from other runs with the same seeds, over the items that all of them have.
pub(super) fn scored(runs: &[&Vec<Scores>], less: Option<&[&Vec<Scores>]>) -> Vec<Scored> {
    let measures = runs.first().map_or(&[][..], |scores| scores.as_slice());
    let of = |scores: &Scores| {
        Some(Scored {
            measure: scores.measure.clone(),
            value: interval(runs, &scores.measure, less)?.into(),
        })
    };
    measures.iter().filter_map(of).collect()
}

/// The loss among some measures.
///
/// # Panics
/// If there is none: every cell has measured samples.
pub fn loss(measures: &[Scored]) -> Estimate {
    let loss = measures.iter().find(|scored| scored.is_loss());
    loss.expect("invariant: every cell is judged by measured samples").value
}

/// Measures as lines of a table; of a loss that is no difference the perplexity too.
pub(super) fn records(model: &str, reference: &str, setting: &str, measures: &[Scored]) -> Vec<StudyRecord> {
    let mut records = Vec::new();
    let suffix = if reference.is_empty() { "" } else { "_difference" };
    let mut push = |metric: String, value: Estimate| {
        records.push(StudyRecord {
            setting: setting.to_owned(),
            ..value.record(model, reference, None, &metric)
        });
    };
    for scored in measures {
        push(format!("{}{suffix}", scored.metric()), scored.value);
        if scored.is_loss() && reference.is_empty() {
            push("perplexity".to_owned(), scored.value.map(f64::exp));
        }
    }
    records
}

fn describe(run: &TrainingRun, scores: Vec<Scores>) -> Trained {
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
        end_loss: end_loss(&run.lines),
        scores,
    }
}

/// Mean over the trained tokens of the last tenth of the steps.
fn end_loss(lines: &[Line]) -> Option<f64> {
    let steps: Vec<&StepMetrics> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Step(metrics) => Some(metrics),
            _ => None,
        })
        .collect();
    let last = &steps[steps.len() - steps.len().div_ceil(10)..];
    let tokens: usize = last.iter().map(|step| step.trained_tokens).sum();
    let nats: f64 = last.iter().map(|step| step.loss * step.trained_tokens as f64).sum();
    (tokens > 0).then(|| nats / tokens as f64)
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

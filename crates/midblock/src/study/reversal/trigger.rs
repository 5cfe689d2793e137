//! The triggers of a study: each trained once, in a folder of its own.

use super::{ReversalOptions, TriggerOf};
use crate::{
    Error, Result,
    adapt::SoftPrompt,
    config::{Override, Problem, flat_values},
    run::{DONE, FileHash},
    study::{
        battery::{Cells, StudyFile, StudyRecord, Subject, check_options},
        carve::{CarvePhase, CarveRun, train_source},
        training::{Steps, remove_checkpoints},
    },
    train::{
        CARRIER, Ending, Line, MODEL, RESOLVED_TOML, TRIGGER, TrainingFolder, TrainingRun,
        eraser::{EraseConfig, Erasure, erase},
    },
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Table of the triggers' options.
const TABLE: &str = "study.reversal.erase";

/// A trained trigger.
pub(super) struct Trigger {
    pub prompt: SoftPrompt,
    pub path: PathBuf,
    /// Of the file.
    pub hash: String,
    pub run: TriggerRun,
}

/// How a trigger was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriggerRun {
    /// What for.
    pub of: TriggerOf,
    /// Vectors.
    pub vectors: usize,
    /// Channels drawn to the base's, over all blocks.
    pub channels: usize,
    /// Prompts trained on.
    pub prompts: usize,
    /// Steps.
    pub steps: u64,
    /// The step whose vectors are the result.
    pub best_step: u64,
    /// Loss on all prompts before the first step.
    pub start_loss: f64,
    /// The lowest.
    pub best_loss: f64,
    /// Seconds of all steps.
    pub seconds: f64,
}

impl TriggerRun {
    /// Names of [`cells`](Self::cells).
    pub(crate) const COLUMNS: [&'static str; 8] = [
        "trigger",
        "vectors",
        "channels",
        "prompts",
        "steps",
        "best step",
        "loss, before and best",
        "seconds",
    ];

    /// As a row of a table.
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            self.of.words().to_owned(),
            self.vectors.to_string(),
            self.channels.to_string(),
            self.prompts.to_string(),
            self.steps.to_string(),
            self.best_step.to_string(),
            format!("{:.4} → {:.4}", self.start_loss, self.best_loss),
            format!("{:.1}", self.seconds),
        ]
    }

    pub(super) fn records(&self) -> Vec<StudyRecord> {
        let number = |(metric, value): (&str, f64)| StudyRecord {
            model: self.of.words().to_owned(),
            setting: "training".to_owned(),
            metric: metric.to_owned(),
            value: Some(value),
            ..StudyRecord::default()
        };
        let numbers = [
            ("trigger_vectors", self.vectors as f64),
            ("trigger_channels", self.channels as f64),
            ("trigger_steps", self.steps as f64),
            ("trigger_best_step", self.best_step as f64),
            ("trigger_start_loss", self.start_loss),
            ("trigger_best_loss", self.best_loss),
            ("trigger_seconds", self.seconds),
        ];
        numbers.map(number).to_vec()
    }
}

/// Everything that is wrong with the triggers' options.
pub(super) fn problems(file: &StudyFile) -> Vec<Problem> {
    match config(
        file,
        TriggerOf::Carrier,
        ["base", "tuned"].map(str::to_owned),
        Path::new(""),
    ) {
        Err(Error::Config { problems }) => problems,
        _ => Vec::new(),
    }
}

/// The training of a trigger in front of `tuned`, on the prompts of the carve in `dir`.
fn config(file: &StudyFile, of: TriggerOf, [base, tuned]: [String; 2], dir: &Path) -> Result<EraseConfig> {
    let own = &file.config;
    let value = |key: &str, value: toml::Value| Override::flag(key, value, format!("[{TABLE}]"));
    let carrier = dir.join(CarvePhase::Carrier.name()).join(CARRIER);
    let mut values = vec![
        value("model.base", base.into()),
        value("model.tuned", tuned.into()),
        value("model.carrier", carrier.display().to_string().into()),
        value("data.prompts", train_source(dir, "train").source.into()),
        value("data.format", "completion".into()),
        value("data.max_length", toml::Value::Integer(own.data.max_length as i64)),
        value("output.tensorboard", own.output.tensorboard.into()),
    ];
    values.extend(
        own.data
            .template
            .iter()
            .map(|path| value("data.template", path.display().to_string().into())),
    );
    for (key, given) in flat_values(&own.study.reversal.erase) {
        let origin = file
            .origin(&format!("{TABLE}.{key}"))
            .unwrap_or_else(|| format!("[{TABLE}]"));
        values.push(Override::flag(&format!("eraser.{key}"), given, origin));
    }
    values.extend(
        of.channels()
            .map(|channels| value("eraser.channels", channels.name().into())),
    );
    EraseConfig::load(None, &values).map_err(|error| match error {
        Error::Config { problems } => {
            let of_table = |problem: Problem| Problem {
                key: problem.key.replacen("eraser", TABLE, 1),
                ..problem
            };
            Error::Config {
                problems: problems.into_iter().map(of_table).collect(),
            }
        }
        other => other,
    })
}

/// The trigger, trained first, or trained to its end, if it is not there.
///
/// # Errors
/// Those of its options and of [`erase`]; [`Error::Interrupted`], and then the same call goes on.
pub(super) fn trained<B: Backend>(
    subject: &Subject<'_, B>,
    options: &ReversalOptions,
    carve: &CarveRun,
    cells: &Cells,
    of: TriggerOf,
) -> Result<Trigger> {
    let dir = options.carve_dir()?;
    let carrier = dir.join(CarvePhase::Carrier.name());
    let tuned = match of {
        TriggerOf::Sft => carve.dense(dir),
        _ => carrier.join(MODEL).display().to_string(),
    };
    let mut config = config(subject.file, of, [subject.file.config.model.base.clone(), tuned], dir)?;
    let (name, out) = (of.cell(), cells.folder(&of.cell()));
    config.output.dir = Some(out.clone());
    let run = cells.cell(&name, &json!({"eraser": config.eraser}), || {
        let eraser = json!(config.eraser);
        let erasure = Erasure::prepare(config, subject.hub, subject.on_transfer, subject.now)?;
        let run = finished(subject, &name, &out, &erasure, &eraser)?;
        Ok(describe(of, &erasure, &run))
    })?;
    remove_checkpoints(&out)?;
    let path = out.join(TRIGGER);
    Ok(Trigger {
        prompt: SoftPrompt::open(&path)?,
        hash: FileHash::of(&path)?.blake3,
        path,
        run,
    })
}

fn finished<B: Backend>(
    subject: &Subject<'_, B>,
    name: &str,
    out: &Path,
    erasure: &Erasure,
    eraser: &serde_json::Value,
) -> Result<TrainingRun> {
    if out.join(DONE).is_file() {
        let resolved = out.join(RESOLVED_TOML);
        check_options(
            &resolved,
            &json!(EraseConfig::load(Some(&resolved), &[])?.eraser),
            eraser,
        )?;
        return TrainingRun::open(out);
    }
    let folder = TrainingFolder::claim(out, true, false)?;
    let mut steps = Steps {
        name,
        progress: subject.progress,
    };
    let erased = erase(subject.backend, erasure, &folder, &mut [&mut steps], subject.progress)?;
    match erased.ending {
        Ending::Interrupted => Err(Error::Interrupted),
        _ => TrainingRun::open(out),
    }
}

fn describe(of: TriggerOf, erasure: &Erasure, run: &TrainingRun) -> TriggerRun {
    let losses = run.lines.iter().filter_map(|line| match line {
        Line::Evaluation(evaluation) => Some((evaluation.step, evaluation.loss)),
        _ => None,
    });
    let start_loss = losses.clone().next().map_or(f64::NAN, |(_, loss)| loss);
    let best = losses.min_by(|a, b| a.1.total_cmp(&b.1));
    let (best_step, best_loss) = best.unwrap_or((0, f64::NAN));
    let position = run.info.training.position.clone().unwrap_or_default();
    TriggerRun {
        of,
        vectors: erasure.options().tokens,
        channels: erasure.channels.iter().map(Vec::len).sum(),
        prompts: erasure.prompts.samples.len(),
        steps: position.step,
        best_step,
        start_loss,
        best_loss,
        seconds: position.seconds,
    }
}

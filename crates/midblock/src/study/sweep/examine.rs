//! How well a model does: per measure and item a number, whatever it comes from.

use super::loss::SampleLoss;
use crate::{
    Result,
    checkpoint::Checkpoint,
    eval::{EvalConfig, EvaluationRun, TaskResult, evaluate},
    hub::{HubOptions, OnTransfer},
    progress::Progress,
    ranks::Ranks,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// Something that is measured of every cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// Short name: of the task, or `test loss`.
    pub name: String,
    /// Name of the number, such as "accuracy"; may be empty.
    pub metric: String,
    /// What it is counted in.
    pub unit: Unit,
}

/// What a measure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A share of 1, shown in per cent; higher is better.
    Share,
    /// Nats a token; lower is better.
    Nats,
    /// Bits a byte; lower is better.
    Bits,
}

/// A measure's values, item by item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// What was measured.
    pub measure: Measure,
    /// By item: the value's numerator and its weight, 1 but for losses.
    pub items: BTreeMap<String, [f64; 2]>,
}

impl Scores {
    /// The test loss.
    pub(super) fn of_losses(losses: &[SampleLoss]) -> Self {
        let measure = Measure {
            name: "test loss".to_owned(),
            metric: String::new(),
            unit: Unit::Nats,
        };
        let item = |loss: &SampleLoss| (loss.sample.clone(), [loss.nats, loss.tokens as f64]);
        Self {
            measure,
            items: losses.iter().map(item).collect(),
        }
    }
}

/// Judges models by tasks.
pub trait Examiner {
    /// The scores of a checkpoint, in the order of the tasks. What an earlier call has left in `dir` is gone on with.
    ///
    /// # Errors
    /// Whatever is wrong with the tasks or the model; [`crate::Error::Interrupted`].
    fn examine(&self, checkpoint: &Checkpoint, dir: &Path, progress: &dyn Progress) -> Result<Vec<Scores>>;
}

/// Judges by the tasks of `[eval]`, each by its main metric.
pub struct Tasks<'a, B> {
    /// Computes.
    pub backend: &'a B,
    /// Which tasks, and how.
    pub config: &'a EvalConfig,
    /// Hub settings.
    pub hub: &'a HubOptions,
    /// Is told of downloads.
    pub on_transfer: OnTransfer<'a>,
}

impl<B: Backend> Examiner for Tasks<'_, B> {
    fn examine(&self, checkpoint: &Checkpoint, dir: &Path, progress: &dyn Progress) -> Result<Vec<Scores>> {
        evaluate(
            self.backend,
            checkpoint,
            self.config,
            self.hub,
            self.on_transfer,
            dir,
            &Ranks::alone(),
            progress,
        )?;
        let run = EvaluationRun::open(dir)?;
        Ok(run.evaluation.tasks.iter().map(|task| scores(&run, task)).collect())
    }
}

/// The main metric of a task, item by item; of a perplexity, the nats that it comes from.
fn scores(run: &EvaluationRun, task: &TaskResult) -> Scores {
    let metric = if task.primary == "perplexity" {
        "nats_per_token"
    } else {
        &task.primary
    };
    let unit = match metric {
        "nats_per_token" => Unit::Nats,
        "bits_per_byte" => Unit::Bits,
        _ => Unit::Share,
    };
    let own = run.items.iter().filter(|item| item.task == task.name);
    let item = |item: &crate::eval::ItemRecord| {
        let weight = item.weight(metric);
        Some((
            format!("{}/{}", item.index, item.id),
            [item.value(metric)? * weight, weight],
        ))
    };
    Scores {
        measure: Measure {
            name: task.name.clone(),
            metric: metric.to_owned(),
            unit,
        },
        items: own.filter_map(item).collect(),
    }
}

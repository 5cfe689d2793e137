//! How well a model does: per measure and item a number, whatever it comes from.

use super::loss::SampleLoss;
use crate::{Result, checkpoint::Checkpoint, progress::Progress};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// Something that is measured of every cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// Short name: of the task, or `loss`.
    pub name: String,
    /// Name of the number, such as "accuracy".
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
}

/// A measure's values, item by item.
#[derive(Clone, Debug, PartialEq)]
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
            name: "loss".to_owned(),
            metric: "test loss".to_owned(),
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

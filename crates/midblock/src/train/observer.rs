//! What a run tells while it trains. Files and views are observers; the loop knows none of them.

use super::DriftMetrics;
use crate::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A finished step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included: 1 after the first.
    pub step: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// Mean loss of the step's trained tokens, before the step, in nats.
    pub loss: f64,
    /// What the step minimises, before the step: the loss itself, or what the objective makes of it. Runs of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<f64>,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// The samples of each micro-batch, `file:row`: with the learning rates, what it takes to make the run again elsewhere.
    pub samples: Vec<Vec<String>>,
    /// Tokens of the step.
    pub tokens: usize,
    /// Those of them in the loss.
    pub trained_tokens: usize,
    /// Wall-clock time of the step.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_s: f64,
    /// `trained_tokens / seconds`.
    pub trained_tokens_per_s: f64,
    /// Time the remaining steps will take if they are like the ones before; evaluations not counted.
    pub seconds_left: f64,
    /// Private memory of the process after the step, where the system says.
    pub private_bytes: Option<u64>,
    /// Where masks are trained: how that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<CarrierMetrics>,
    /// What the ranks exchanged; none of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange>,
}

/// Loss-Constrained Dual Descent after a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarrierMetrics {
    /// λ, the weight of the mean pressure on the masks, that the step was made with.
    pub lambda: f64,
    /// Moving average of the loss that is held, this step's included, in nats.
    pub loss_ema: f64,
    /// What it is held under; none during the warm-up.
    pub limit: Option<f64>,
    /// Masks that are 1 after the step.
    pub active: u64,
    /// All masks.
    pub masks: u64,
}

/// What the ranks of a step exchanged, as rank 0 saw it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Time that rank 0 waited for the others to finish their micro-batches.
    pub wait_seconds: f64,
    /// Time that summing the gradients took.
    pub reduce_seconds: f64,
    /// Bytes that rank 0 sent for it.
    pub sent_bytes: u64,
}

impl StepMetrics {
    /// What is minimised where that is something else than the loss.
    pub fn other_objective(&self) -> Option<f64> {
        let differs = |objective: &f64| (objective - self.loss).abs() > 1e-9 * self.loss.abs().max(1.0);
        self.objective.filter(differs)
    }
}

/// A finished evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done; 0 before the first.
    pub step: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// Mean loss of the trained tokens, in nats.
    pub loss: f64,
    /// Tokens in the mean.
    pub trained_tokens: usize,
    /// Whether it is the lowest so far.
    pub best: bool,
    /// Wall-clock time.
    pub seconds: f64,
}

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps done before, in a run that is resumed.
    pub done: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// Evaluations stopped improving.
    Patience,
    /// The loss stayed far above where it was before masks were pressed.
    Strayed,
    /// Masks were no longer switched off, and what presses them no longer grew.
    Settled,
    /// It was asked to stop; a checkpoint was saved.
    Interrupted,
}

/// Is told what happens, in the order in which it happens. An error ends the run.
#[allow(unused_variables)]
pub trait Observer {
    /// Training begins or goes on.
    fn begin(&mut self, outlook: &Outlook) -> Result<()> {
        Ok(())
    }

    /// `done` of the `of` micro-batches of a step, or batches of an evaluation, are done.
    fn batch(&mut self, done: usize, of: usize) {}

    /// A step is done.
    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        Ok(())
    }

    /// An evaluation is done.
    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        Ok(())
    }

    /// Drift is measured.
    fn drift(&mut self, metrics: &DriftMetrics) -> Result<()> {
        Ok(())
    }

    /// A checkpoint of `step` steps is about to be written: whatever was told must be on disk first.
    fn saving(&mut self, step: u64) -> Result<()> {
        Ok(())
    }

    /// It is written.
    fn saved(&mut self, step: u64, folder: &Path) -> Result<()> {
        Ok(())
    }
}

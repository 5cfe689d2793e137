//! The test set: the samples of `data.eval`, the same for every cell, and the loss of a model on each.
//!
//! `loss.jsonl` has a line for each sample: `sample` (`file:row`), `tokens` in the loss, and `nats`, their sum. Which samples are
//! drawn does not depend on the seeds of the cells.

use crate::{
    Error, Result,
    atomic::write_atomic,
    checkpoint::Checkpoint,
    config::Data,
    hub::{HubOptions, OnTransfer},
    probe::trained_token_losses,
    progress::Progress,
    study::samples::{Draw, training_samples},
    tokens::TrainingSample,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::{fs, io::Write, path::Path, time::SystemTime};

pub(super) const LOSS_JSONL: &str = "loss.jsonl";

/// The test set is one and the same, whatever the cells' seeds.
const DRAW_SEED: u64 = 42;

/// A line of `loss.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SampleLoss {
    pub sample: String,
    pub tokens: usize,
    pub nats: f64,
}

/// The samples of `data.eval`, encoded for a model.
pub(super) fn test_set(
    checkpoint: &Checkpoint,
    data: &Data,
    hub: &HubOptions,
    on_transfer: OnTransfer<'_>,
    now: SystemTime,
) -> Result<Vec<TrainingSample>> {
    let draw = Draw {
        sources: &data.eval,
        samples: data.eval_samples,
        seed: DRAW_SEED,
    };
    training_samples(checkpoint, data, &draw, hub, on_transfer, now)
}

/// Measures the loss of each sample and writes them.
pub(super) fn measure<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    samples: &[TrainingSample],
    path: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let losses = trained_token_losses(backend, checkpoint, samples, progress)?;
    let line = |(sample, loss): (&TrainingSample, crate::probe::TokenLoss)| SampleLoss {
        sample: sample.id.clone(),
        tokens: loss.predicted,
        nats: loss.nats,
    };
    write_atomic(path, |out| {
        for line in samples.iter().zip(losses).map(line) {
            let text = serde_json::to_string(&line).map_err(|error| Error::io("write", path)(error.into()))?;
            writeln!(out, "{text}").map_err(Error::io("write", path))?;
        }
        Ok(())
    })
}

/// Reads what was measured.
pub(super) fn read(path: &Path) -> Result<Vec<SampleLoss>> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Error::malformed(path, "loss", format!("line {}: {error}", number + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

//! Rows of data as a model would be trained on them: what models are judged by, the same for all of them.

use crate::{
    Result,
    checkpoint::Checkpoint,
    config::{Data, DataSource},
    hub::{HubOptions, OnTransfer},
    tokens::{ChatTemplate, Tokenizer, TrainingFormatOptions, TrainingSample, TrainingSet, data},
};
use std::time::SystemTime;

/// Which rows.
pub(super) struct Draw<'a> {
    /// Data sets.
    pub sources: &'a [DataSource],
    /// Samples of each, drawn without replacement; all if not given.
    pub samples: Option<usize>,
    /// Of the draw.
    pub seed: u64,
}

/// The drawn rows, encoded for a model in the form that `data` describes. A sample is named `data set/file:row`.
pub(super) fn training_samples(
    checkpoint: &Checkpoint,
    data: &Data,
    draw: &Draw<'_>,
    hub: &HubOptions,
    on_transfer: OnTransfer<'_>,
    now: SystemTime,
) -> Result<Vec<TrainingSample>> {
    let tokenizer = Tokenizer::of(checkpoint)?;
    let template = match &data.template {
        Some(path) => Some(ChatTemplate::from_file(path, &tokenizer, now)?),
        None => ChatTemplate::of(checkpoint, &tokenizer, now)?,
    };
    let options = TrainingFormatOptions {
        format: data.format,
        loss_on: data.loss_on,
        max_length: data.max_length,
        long: data.long,
        samples: draw.samples,
        seed: draw.seed,
    };
    let mut samples = Vec::new();
    for source in draw.sources {
        let files = data::resolve(&source.0.source, hub, on_transfer)?;
        let set = TrainingSet::load(&source.0, &files, &options, &tokenizer, template.as_ref())?;
        let named = |mut sample: TrainingSample| {
            sample.id = format!("{}/{}", source.0.name, sample.id);
            sample
        };
        samples.extend(set.samples.into_iter().map(named));
    }
    Ok(samples)
}

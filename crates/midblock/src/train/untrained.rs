//! A new model as a configuration describes it: a tokenizer learned from the training data, and random weights.
//!
//! Both are functions of the configuration and the data, so that a run that goes on makes them again instead of storing them.

use crate::{
    Result,
    checkpoint::{Checkpoint, ConfigJson, TokenizerSource},
    config::{Config, NewModel},
    hub::{HubOptions, OnTransfer},
    tokens::{data, plain_texts, train_bpe, vocabulary},
};
use std::path::PathBuf;

/// Label of the model in records.
const LABEL: &str = "new model";

/// The model before its first step. Every text of the training data is held in memory while the tokenizer learns.
pub(super) fn untrained(
    config: &Config,
    new: &NewModel,
    hub: &HubOptions,
    on_transfer: OnTransfer<'_>,
) -> Result<Checkpoint> {
    let mut texts = Vec::new();
    for source in &config.data.train {
        let files = data::resolve(&source.0.source, hub, on_transfer)?;
        texts.extend(plain_texts(&source.0, &files, config.data.format)?);
    }
    let json = train_bpe(&texts, new.vocab)?;
    let path = PathBuf::from(LABEL);
    let value = new.config_json(vocabulary(&json));
    let tokenizer = TokenizerSource::Embedded {
        path: path.clone(),
        json,
    };
    Checkpoint::untrained(LABEL, ConfigJson { path, value }, tokenizer, config.train.seed)
}

//! Which tokens end what a checkpoint writes.

use super::Stops;
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, ConfigJson, read_config},
    tokens::Tokenizer,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Instruction-tuned models say there which tokens end a turn.
const GENERATION_CONFIG: &str = "generation_config.json";

impl Stops {
    /// The tokens that end a text or a turn: `eos_token_id` of generation_config.json and of config.json, a number or a list
    /// each, and the tokenizer's end of sequence.
    ///
    /// # Errors
    /// [`Error::ConfigKey`] if one of the files has something else there.
    pub fn of(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Self> {
        let mut tokens: BTreeSet<u32> = tokenizer.eos().map(|token| token.id).into_iter().collect();
        tokens.extend(eos_ids(checkpoint.config())?);
        let path = checkpoint.path().join(GENERATION_CONFIG);
        if path.is_file() {
            tokens.extend(eos_ids(&read_config(&path)?)?);
        }
        Ok(Self {
            tokens: tokens.into_iter().collect(),
            strings: Vec::new(),
        })
    }
}

fn eos_ids(config: &ConfigJson) -> Result<Vec<u32>> {
    let value = match config.value.get("eos_token_id") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(value) => value,
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match value {
        Value::Array(values) => values.iter().map(id).collect(),
        value => id(value).map(|id| vec![id]),
    };
    ids.ok_or_else(|| Error::ConfigKey {
        path: config.path.clone(),
        key: "eos_token_id".into(),
        expected: "a token id or a list of them".into(),
        got: value.to_string(),
        help: String::new(),
    })
}

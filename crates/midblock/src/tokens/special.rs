//! The tokens that begin and end a text, as a checkpoint names them.
//!
//! Sought in this order: `bos_token` and `eos_token` in tokenizer_config.json (a text, or an object with `content`), then
//! `bos_token_id` and `eos_token_id` in config.json (a number, or a list of which the first counts). Of a GGUF file, the
//! latter are its metadata.

use serde_json::Value;

use super::Tokenizer;
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, ConfigJson, TOKENIZER_CONFIG, read_config},
};

/// A token with a meaning of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// How it is written.
    pub text: String,
}

/// The token of a checkpoint that `name` stands for: "bos" or "eos".
///
/// # Errors
/// If a file names one that the tokenizer does not have.
pub(super) fn find(checkpoint: &Checkpoint, tokenizer: &Tokenizer, name: &str) -> Result<Option<SpecialToken>> {
    let mut files = checkpoint.files().iter();
    if let Some(path) = files.find(|path| path.ends_with(TOKENIZER_CONFIG)) {
        let named = named(&read_config(path)?, tokenizer, name)?;
        if named.is_some() {
            return Ok(named);
        }
    }
    numbered(checkpoint.config(), tokenizer, name)
}

/// By the text in a tokenizer_config.json.
fn named(config: &ConfigJson, tokenizer: &Tokenizer, name: &str) -> Result<Option<SpecialToken>> {
    let key = format!("{name}_token");
    let text = match config.value.get(&key) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.get("content").unwrap_or(value),
    };
    let found = text.as_str().and_then(|text| {
        Some(SpecialToken {
            id: tokenizer.id_of(text)?,
            text: text.to_owned(),
        })
    });
    found.map(Some).ok_or_else(|| unknown(config, key, text))
}

/// By the id in a config.json.
fn numbered(config: &ConfigJson, tokenizer: &Tokenizer, name: &str) -> Result<Option<SpecialToken>> {
    let key = format!("{name}_token_id");
    let id = match config.value.get(&key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(ids)) => ids.first().unwrap_or(&Value::Null),
        Some(id) => id,
    };
    let found = id.as_u64().and_then(|id| {
        let id = u32::try_from(id).ok()?;
        Some(SpecialToken {
            id,
            text: tokenizer.text_of(id)?,
        })
    });
    found.map(Some).ok_or_else(|| unknown(config, key, id))
}

fn unknown(config: &ConfigJson, key: String, got: &Value) -> Error {
    Error::ConfigKey {
        path: config.path.clone(),
        key,
        expected: "a token of the tokenizer".into(),
        got: got.to_string(),
        help: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::small, *};
    use serde_json::json;

    fn config(value: Value) -> ConfigJson {
        ConfigJson {
            path: "x.json".into(),
            value: value.as_object().unwrap().clone(),
        }
    }

    fn end() -> Option<SpecialToken> {
        Some(SpecialToken {
            id: 260,
            text: "</s>".into(),
        })
    }

    #[test]
    fn a_token_is_named_by_text_or_object() {
        let find = |value| named(&config(value), &small(), "eos");
        assert_eq!(find(json!({"eos_token": "</s>"})).unwrap(), end());
        assert_eq!(
            find(json!({"eos_token": {"content": "</s>", "lstrip": false}})).unwrap(),
            end()
        );
        assert_eq!(find(json!({"eos_token": null})).unwrap(), None);
        assert_eq!(find(json!({"bos_token": "<s>"})).unwrap(), None);
        let error = find(json!({"eos_token": "<eos>"})).unwrap_err().to_string();
        assert_eq!(
            error,
            "x.json: `eos_token` is \"<eos>\", expected a token of the tokenizer"
        );
    }

    #[test]
    fn a_token_is_numbered_alone_or_in_a_list() {
        let find = |value| numbered(&config(value), &small(), "eos");
        assert_eq!(find(json!({"eos_token_id": 260})).unwrap(), end());
        assert_eq!(find(json!({"eos_token_id": [260, 259]})).unwrap(), end());
        assert_eq!(find(json!({"eos_token_id": null})).unwrap(), None);
        for bad in [json!(261), json!([]), json!(-1), json!("</s>"), json!(1u64 << 40)] {
            let error = find(json!({"eos_token_id": bad})).unwrap_err().to_string();
            assert!(error.starts_with("x.json: `eos_token_id` is "), "{error}");
        }
    }
}

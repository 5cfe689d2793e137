//! What the fields of a row hold, or why the row cannot be a sample.

use std::path::PathBuf;

use serde_json::Value;

use super::data::Row;

/// `wikitext` and `toxigen` leave out texts with fewer characters than this.
const MIN_CHARACTERS: usize = 10;

/// Why a row is not among the samples.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// None of the fields that may hold the text is there.
    #[error("field `{}` is missing", fields.join("` or `"))]
    Missing {
        /// The fields that would do.
        fields: Vec<&'static str>,
    },
    /// A field is null, or nothing but white space.
    #[error("field `{field}` is empty")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// A field holds another type than the format has there.
    #[error("field `{field}` is {got}, expected {expected}")]
    Type {
        /// The field.
        field: &'static str,
        /// What the format has there.
        expected: &'static str,
        /// What is there.
        got: &'static str,
    },
    /// A text below the format's minimum.
    #[error("field `{field}` has {characters} characters, fewer than {MIN_CHARACTERS}")]
    Short {
        /// The field.
        field: &'static str,
        /// Its length without surrounding white space.
        characters: usize,
    },
    /// The answer of a multiple-choice question is none of its choices.
    #[error("field `answer` is {answer}, with {choices} choices")]
    Answer {
        /// The answer as written.
        answer: String,
        /// Number of choices.
        choices: usize,
    },
    /// The tokenizer made nothing of the text.
    #[error("no tokens")]
    NoTokens,
    /// Training looks for an answer, and the row has none.
    #[error("there is no answer to learn")]
    NoAnswer,
    /// The answer begins where the sequence is cut.
    #[error("no token of its answer is among the first {max_length}")]
    Cut {
        /// The maximal length.
        max_length: usize,
    },
    /// The chat template does not render the conversation.
    #[error("chat template {}{}: {problem}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template {
        /// The template's file.
        path: PathBuf,
        /// Where in the template, if it failed there.
        line: Option<usize>,
        /// What the template says, or what is wrong with it.
        problem: String,
    },
}

/// The first of `fields` that the row has.
pub(super) fn present(row: &Row, fields: &[&'static str]) -> Result<&'static str, SkipReason> {
    let found = fields.iter().find(|field| row.contains_key(**field));
    found.copied().ok_or_else(|| SkipReason::Missing {
        fields: fields.to_vec(),
    })
}

pub(super) fn value<'a>(row: &'a Row, field: &'static str) -> Result<&'a Value, SkipReason> {
    match row.get(field) {
        None => Err(SkipReason::Missing { fields: vec![field] }),
        Some(Value::Null) => Err(SkipReason::Empty { field }),
        Some(value) => Ok(value),
    }
}

pub(super) fn text<'a>(row: &'a Row, field: &'static str) -> Result<&'a str, SkipReason> {
    match value(row, field)? {
        Value::String(text) if text.trim().is_empty() => Err(SkipReason::Empty { field }),
        Value::String(text) => Ok(text),
        other => Err(SkipReason::Type {
            field,
            expected: "a text",
            got: type_name(other),
        }),
    }
}

/// A text or a number, as text.
pub(super) fn scalar(row: &Row, field: &'static str) -> Result<String, SkipReason> {
    match value(row, field)? {
        Value::Number(number) => Ok(number.to_string()),
        _ => text(row, field).map(str::to_owned),
    }
}

pub(super) fn long_enough(row: &Row, field: &'static str) -> Result<String, SkipReason> {
    let text = text(row, field)?;
    match text.trim().chars().count() {
        characters if characters < MIN_CHARACTERS => Err(SkipReason::Short { field, characters }),
        _ => Ok(text.to_owned()),
    }
}

/// A JSON list, or a text that holds one.
pub(super) fn list(value: &Value) -> Option<std::borrow::Cow<'_, [Value]>> {
    match value {
        Value::Array(items) => Some(items.into()),
        Value::String(text) if text.trim_start().starts_with('[') => {
            serde_json::from_str::<Vec<Value>>(text).ok().map(Into::into)
        }
        _ => None,
    }
}

/// The type of a JSON value, with its article.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

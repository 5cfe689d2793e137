//! Metadata: what a key may hold, and getters that name the key if it holds something else.

use crate::{Error, Result};
use std::{collections::BTreeMap, path::Path};

/// One metadata value.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Uint(u64),
    Int(i64),
    /// A stored f32 becomes the f64 of the same shortest decimal, so that 1e-5 stays 1e-5.
    Float(f64),
    Bool(bool),
    Text(&'a str),
    Texts(Vec<&'a str>),
    /// An array of numbers: their kind and bytes.
    Scalars(u32, &'a [u8]),
}

/// The key-value part of the file.
#[derive(Debug)]
pub(super) struct Metadata<'a> {
    /// The file, for errors.
    pub path: &'a Path,
    pub values: BTreeMap<&'a str, Value<'a>>,
}

impl<'a> Metadata<'a> {
    /// `key` has the value `got`, which cannot be used.
    pub(super) fn unsupported(&self, key: &str, expected: &str, got: impl ToString, help: &str) -> Error {
        Error::ConfigKey {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            got: got.to_string(),
            help: help.to_owned(),
        }
    }

    /// Unwraps the value of a key that must be there.
    pub(super) fn required<T>(&self, key: &str, expected: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.unsupported(key, expected, "missing", ""))
    }

    /// Whether the key is there.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn get<T>(&self, key: &str, expected: &str, convert: impl FnOnce(&Value<'a>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.unsupported(key, expected, describe(value), "")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "a string", |value| match value {
            Value::Text(text) => Some(*text),
            _ => None,
        })
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    pub(super) fn uint(&self, key: &str) -> Result<Option<u64>> {
        self.get(key, "one whole number", |value| match value {
            Value::Uint(n) => Some(*n),
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "one finite number", |value| match value {
            Value::Float(x) if x.is_finite() => Some(*x),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.get(key, "an array of strings", |value| match value {
            Value::Texts(texts) => Some(texts.clone()),
            Value::Scalars(_, []) => Some(Vec::new()),
            _ => None,
        })
    }

    pub(super) fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.get(key, "an array of integers", |value| {
            scalars(value, |element| match element {
                Value::Int(n) => Some(n),
                Value::Uint(n) => i64::try_from(n).ok(),
                _ => None,
            })
        })
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.get(key, "an array of numbers", |value| {
            scalars(value, |element| match element {
                Value::Float(x) => Some(x),
                _ => None,
            })
        })
    }
}

/// All elements of a numeric array, if each converts.
fn scalars<'a, T>(value: &Value<'a>, convert: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
    let Value::Scalars(kind, bytes) = value else {
        return None;
    };
    bytes
        .chunks_exact(scalar_size(*kind)?)
        .map(|element| convert(scalar(*kind, element)))
        .collect()
}

/// A value in the words of an error message.
fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Uint(n) => n.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::Texts(_) => "an array of strings".to_owned(),
        Value::Scalars(..) => "an array of numbers".to_owned(),
    }
}

/// Bytes of a metadata number or boolean; `None` for strings, arrays and what the format does not know.
pub(super) fn scalar_size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Decodes `scalar_size(kind)` bytes.
pub(super) fn scalar<'a>(kind: u32, bytes: &[u8]) -> Value<'a> {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(wide);
    match kind {
        1 => Value::Int(i64::from(bits as i8)),
        3 => Value::Int(i64::from(bits as i16)),
        5 => Value::Int(i64::from(bits as i32)),
        11 => Value::Int(bits as i64),
        6 => {
            let single = f32::from_bits(bits as u32);
            Value::Float(single.to_string().parse().unwrap_or_else(|_| f64::from(single)))
        }
        12 => Value::Float(f64::from_bits(bits)),
        7 => Value::Bool(bits != 0),
        _ => Value::Uint(bits),
    }
}

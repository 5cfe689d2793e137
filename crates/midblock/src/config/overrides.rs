//! `--set a.b=c` and flags: values that replace the file's.

use super::{Problem, file::explain};
use crate::Error;
use serde::de::DeserializeOwned;
use std::str::FromStr;
use toml::{Table, Value};

/// Of two such keys one excludes the other: overriding the one drops the other from the file.
const EXCLUSIVE: [[&str; 2]; 4] = [
    ["train.epochs", "train.steps"],
    ["train.batch", "train.batch_tokens"],
    ["train.warmup_steps", "train.warmup_ratio"],
    ["data.eval", "data.eval_share"],
];

/// A value for one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Dotted key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// How the user said it, for errors: `--rank 8`.
    pub origin: String,
    /// The value as text, for keys that take one where it looks like something else (a checkpoint called `7`).
    text: Option<String>,
}

impl Override {
    /// A value that a flag gives.
    pub fn flag(key: &str, value: impl Into<Value>, origin: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            origin: origin.into(),
            text: None,
        }
    }
}

impl FromStr for Override {
    type Err = Error;

    /// `a.b=c`, where `c` is a TOML value, or text if it is none.
    fn from_str(argument: &str) -> Result<Self, Error> {
        let error = |problem: &str| Error::Argument {
            what: "--set".into(),
            value: argument.into(),
            problem: problem.into(),
            help: "write --set TABLE.KEY=VALUE, such as --set train.lr=3e-4".into(),
        };
        let (key, text) = argument.split_once('=').ok_or_else(|| error("there is no `=`"))?;
        if key.split('.').any(|part| part.trim().is_empty()) || !key.contains('.') {
            return Err(error("a key has a table and a name"));
        }
        let parsed = toml::from_str::<Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| {
                let value = table.remove("value");
                value.filter(|value| table.is_empty() && !value.is_datetime())
            });
        Ok(Self {
            key: key.trim().into(),
            value: parsed.unwrap_or_else(|| Value::String(text.into())),
            origin: format!("--set {argument}"),
            text: Some(text.into()),
        })
    }
}

/// The leaves of a table with their dotted keys.
pub(crate) fn flat_values(table: &Table) -> Vec<(String, Value)> {
    let mut values = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => {
                let below = flat_values(inner).into_iter();
                values.extend(below.map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            leaf => values.push((name.clone(), leaf.clone())),
        }
    }
    values
}

/// Applies all to the file's table and reads it as the schema `T`; those that do not fit are the problems.
pub(super) fn apply<T: DeserializeOwned>(table: &mut Table, overrides: &[Override]) -> Result<T, Vec<Problem>> {
    for [one, other] in EXCLUSIVE.into_iter().flat_map(|[a, b]| [[a, b], [b, a]]) {
        if overrides.iter().any(|o| o.key == one) {
            remove(table, other);
        }
    }
    let mut problems = Vec::new();
    for given in overrides {
        match with::<T>(table, given) {
            Ok(changed) => *table = changed,
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    T::deserialize(table.clone()).map_err(|error| vec![explain(String::new(), String::new(), &error)])
}

/// The table with one override, taken as it looks or else as text.
fn with<T: DeserializeOwned>(table: &Table, given: &Override) -> Result<Table, Problem> {
    let changed = |value| {
        let mut changed = table.clone();
        insert(&mut changed, given, value)?;
        match T::deserialize(changed.clone()) {
            Ok(_) => Ok(changed),
            Err(error) => Err(explain(given.origin.clone(), given.key.clone(), &error)),
        }
    };
    changed(given.value.clone()).or_else(|problem| {
        let text = given.text.as_ref().filter(|_| !given.value.is_str());
        text.and_then(|text| changed(Value::String(text.clone())).ok())
            .ok_or(problem)
    })
}

/// Puts a value where its key says.
fn insert(table: &mut Table, given: &Override, value: Value) -> Result<(), Problem> {
    let mut parts: Vec<&str> = given.key.split('.').collect();
    let name = parts.pop().unwrap_or_default();
    let mut inner = table;
    for part in parts {
        let entry = inner.entry(part).or_insert_with(|| Value::Table(Table::new()));
        inner = entry.as_table_mut().ok_or_else(|| Problem {
            origin: given.origin.clone(),
            key: given.key.clone(),
            problem: format!("`{part}` is no table"),
            help: String::new(),
        })?;
    }
    inner.insert(name.to_owned(), value);
    Ok(())
}

/// Takes a key of a table away, if it is there.
fn remove(table: &mut Table, key: &str) {
    if let Some((outer, name)) = key.split_once('.')
        && let Some(Value::Table(inner)) = table.get_mut(outer)
    {
        inner.remove(name);
    }
}

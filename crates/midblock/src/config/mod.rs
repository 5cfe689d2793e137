//! One experiment, one TOML file: [`Config`].
//!
//! Order: defaults, then the file, then overrides (`--set a.b=c` and flags). An unknown key, a value out of range and two
//! options that contradict each other are errors that name file, line and key; all problems are reported together. Relative
//! paths are relative to the working directory, as on the command line.

mod adapt;
mod check;
mod file;
mod new_model;
mod objective;
mod overrides;
mod schema;
mod size;
mod source;

pub use adapt::{Adapt, AdaptKind};
pub use new_model::{Family, NewModel};
pub use objective::{Objective, ObjectiveKind, Target};
pub use overrides::Override;
pub use schema::{Cache, Config, Data, Drift, Model, Output, Select, Train, WeightFormat};
pub use size::ByteSize;
pub use source::DataSource;

pub(crate) use file::File;

use crate::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, path::Path};

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was said: `run.toml:12`, `--set train.lr=3`; empty if it was not.
    pub origin: String,
    /// Dotted key; empty if the file is not TOML.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.origin.is_empty() {
            write!(out, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(out, "`{}`: ", self.key)?;
        }
        out.write_str(&self.problem)?;
        if !self.help.is_empty() {
            write!(out, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

/// Why the text of a file that is called `name` does not fit a schema, with line and key.
pub(crate) fn explain_toml(name: &str, text: &str, error: &toml::de::Error) -> Problem {
    let file = File {
        name: name.into(),
        text: text.into(),
    };
    file.explain(error)
}

impl Config {
    /// Reads `file`, if there is one, applies `overrides` in their order, checks the result and fills in every default.
    ///
    /// An override of one of two exclusive keys (`train.steps`, `train.epochs`) replaces the other in the file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Config`] with everything that is wrong.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Self> {
        let file = file.map(File::read).transpose()?.unwrap_or_default();
        Self::from_parts(file, overrides).map_err(|problems| Error::Config { problems })
    }

    /// Like [`load`](Self::load), from the text of a file that is called `name` in errors.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(name: &str, text: &str, overrides: &[Override]) -> Result<Self> {
        let file = File {
            name: name.into(),
            text: text.into(),
        };
        Self::from_parts(file, overrides).map_err(|problems| Error::Config { problems })
    }

    fn from_parts(file: File, overrides: &[Override]) -> Result<Self, Vec<Problem>> {
        let (config, given) = Given::read(file, overrides)?;
        check::check(config, &|key| given.origin(key))
    }

    /// Checks what was put together in another way than from a file and fills in every default; `origin` says where a key was
    /// given.
    pub(crate) fn resolve(self, origin: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<Problem>> {
        check::check(self, origin)
    }

    /// The configuration with values in place of its own; see [`load`](Self::load) for keys that exclude each other.
    pub(crate) fn with(&self, values: &[Override]) -> Result<Self, Vec<Problem>> {
        let mut table =
            toml::Table::try_from(self).expect("invariant: every table of the schema can be written as TOML");
        overrides::apply(&mut table, values)
    }

    /// The configuration as TOML; of a resolved one, everything it depends on is there.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("invariant: every table of the schema can be written as TOML")
    }

    /// Dotted keys whose values differ, with both values as TOML; "–" where one has none.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        differences(self, other)
    }
}

/// What a user gave: a file with overrides, without defaults.
#[derive(Clone)]
pub(crate) struct Given {
    file: File,
    overrides: Vec<Override>,
    table: toml::Table,
}

impl Given {
    /// Reads a file with overrides as the schema `T`, of which [`Config`]'s tables are a part.
    pub fn read<T: DeserializeOwned>(file: File, overrides: &[Override]) -> Result<(T, Self), Vec<Problem>> {
        let mut table = file.parse::<T>().map_err(|problem| vec![problem])?;
        let config = overrides::apply(&mut table, overrides)?;
        let overrides = overrides.to_vec();
        Ok((config, Self { file, overrides, table }))
    }

    /// Where a key was given, if it was.
    pub fn origin(&self, key: &str) -> Option<String> {
        let overriding = self.overrides.iter().rev().find(|o| o.key == key);
        overriding
            .map(|o| o.origin.clone())
            .or_else(|| self.file.origin_of(key))
    }

    /// What is wrong with a key, with its origin.
    pub fn problem(&self, key: &str, problem: impl Into<String>, help: &str) -> Problem {
        Problem {
            origin: self.origin(key).unwrap_or_default(),
            key: key.into(),
            problem: problem.into(),
            help: help.into(),
        }
    }

    /// File and overrides as one file.
    pub fn to_toml(&self) -> String {
        self.table.to_string()
    }
}

/// Dotted keys of a schema whose values differ, with both values as TOML; "–" where one has none.
pub(crate) fn differences<T: Serialize>(left: &T, right: &T) -> Vec<(String, String, String)> {
    let [left, right] = [left, right].map(|config| {
        let table = toml::Table::try_from(config).expect("invariant: every table of the schema can be written as TOML");
        let mut flat = Vec::new();
        flatten("", &toml::Value::Table(table), &mut flat);
        flat
    });
    let find = |flat: &[(String, String)], key: &str| {
        let found = flat.iter().find(|(known, _)| known == key);
        found.map_or("–".to_owned(), |(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = left.iter().chain(&right).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .map(|key| (key.clone(), find(&left, key), find(&right, key)))
        .filter(|(_, left, right)| left != right)
        .collect()
}

/// The leaves of a value with their dotted keys.
fn flatten(key: &str, value: &toml::Value, out: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                flatten(&key, value, out);
            }
        }
        leaf => out.push((key.to_owned(), leaf.to_string())),
    }
}

#[cfg(test)]
mod tests;

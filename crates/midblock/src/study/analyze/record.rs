//! `shard.json`: what is in a shard's folder, and of which analysis it is a shard.

use super::{Outline, Shard};
use crate::{
    Error, Result,
    metrics::{EntropyOptions, Options, Selection},
    report::command,
    run::{DONE, FileHash, RunInfo},
    study::describe::BLOCK_TOKENS,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fs, path::Path};

pub(super) const SHARD_JSON: &str = "shard.json";

/// Version of the folder's layout. A reader refuses a higher one.
pub(super) const SCHEMA: u32 = 1;

/// A shard of an analysis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRecord {
    pub(super) midblock_shard_schema: u32,
    /// Which.
    pub shard: Shard,
    /// How entropies are measured; all other options are in the run's.
    pub(super) entropy: EntropyOptions,
    /// The data sets as the models see them, all shards together.
    pub(super) texts: Vec<TextsRecord>,
    /// Layers whose states it holds, ascending.
    pub(super) layers: Vec<usize>,
    /// Blocks whose weights it measured, ascending.
    pub(super) weights: Vec<WeightsRecord>,
    /// Every other file but `DONE`.
    pub(super) files: Vec<FileHash>,
    /// What every run says; of an unfinished shard only command line and options.
    pub run: RunInfo,
}

/// A data set after tokenising.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TextsRecord {
    pub name: String,
    /// N.
    pub samples: usize,
    /// Hash of all token ids.
    pub blake3: String,
}

/// How many lines are about a block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct WeightsRecord {
    /// From 1.
    pub block: usize,
    pub records: usize,
    pub matrices: usize,
}

/// What differs between two shards, and both values.
pub(super) type Difference = (String, String, String);

impl ShardRecord {
    /// Whether a folder holds a shard, finished or not.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(SHARD_JSON).is_file()
    }

    /// Reads a finished shard's record.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is none, [`Error::Malformed`] if it was written by a newer version or is not what it should be.
    pub fn open(dir: &Path) -> Result<Self> {
        let refuse = |problem: &str, help: String| Error::Argument {
            what: "--join".into(),
            value: dir.display().to_string(),
            problem: problem.into(),
            help,
        };
        if !dir.is_dir() {
            return Err(refuse("there is no such folder", String::new()));
        }
        if !Self::is_at(dir) {
            let help = "name folders that `midblock analyze --shard K/N --out DIR` wrote".into();
            return Err(refuse("it holds no shard of an analysis", help));
        }
        let record = Self::read(dir)?;
        if !dir.join(DONE).is_file() {
            let problem = format!("shard {} was not finished (no DONE)", record.shard);
            let help = format!(
                "wait for its process, or run it again: {}",
                command(&record.run.command_line)
            );
            return Err(refuse(&problem, help));
        }
        Ok(record)
    }

    /// Reads the record of a shard, finished or not.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(SHARD_JSON);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let malformed = |problem: String| Error::malformed(&path, "shard", problem);
        let value: Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        match value["midblock_shard_schema"].as_u64() {
            Some(schema) if schema <= u64::from(SCHEMA) => {
                serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
            }
            Some(schema) => Err(malformed(format!(
                "its schema {schema} is newer than {SCHEMA}; update midblock"
            ))),
            None => Err(malformed("it has no `midblock_shard_schema`".into())),
        }
    }

    /// The first thing in which two shards are not of the same analysis. Where models and data are does not matter, but what is in
    /// them.
    pub(super) fn difference(&self, other: &Self) -> Option<Difference> {
        let pair = |what: &str, left: &str, right: &str| Some((what.to_owned(), left.to_owned(), right.to_owned()));
        let of = |record: &Self| format!("{}", record.shard.of());
        if self.shard.of() != other.shard.of() {
            return pair("the number of shards", &of(self), &of(other));
        }
        let version = |record: &'_ Self| record.run.midblock_version.clone();
        if version(self) != version(other) {
            return pair("the version of midblock", &version(self), &version(other));
        }
        let (left, right) = (options(&self.run.config), options(&other.run.config));
        if let Some((key, left)) = left.iter().find(|(key, value)| right.get(key.as_str()) != Some(*value)) {
            let right = right.get(key).map_or("absent".to_owned(), Value::to_string);
            return pair(&format!("the option `{key}`"), &left.to_string(), &right);
        }
        if self.entropy != other.entropy {
            let text = |record: &Self| format!("{:?}", record.entropy);
            return pair("the option `entropy`", &text(self), &text(other));
        }
        for (left, right) in self.run.models.iter().zip(&other.run.models) {
            let hash = |files: &[FileHash]| {
                files
                    .iter()
                    .map(|file| short(&file.blake3))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let (ours, theirs) = (hash(&left.files), hash(&right.files));
            if ours != theirs {
                return pair(&format!("the content of the model {}", left.name), &ours, &theirs);
            }
        }
        let content = |texts: &TextsRecord| format!("{} samples {}", texts.samples, short(&texts.blake3));
        let mut texts = self.texts.iter().zip(&other.texts);
        let (left, right) = texts.find(|(left, right)| left != right)?;
        pair(
            &format!("the content of the data {}", left.name),
            &content(left),
            &content(right),
        )
    }

    /// What the numbers of the whole are called by.
    pub(super) fn outline(&self) -> Outline {
        Outline {
            models: self.run.models.iter().map(|model| model.name.clone()).collect(),
            datasets: self
                .texts
                .iter()
                .map(|texts| (texts.name.clone(), texts.samples))
                .collect(),
            blocks: self.run.models.first().map_or(0, |model| model.blocks),
        }
    }

    /// How to measure, and with how many resamples.
    pub(super) fn options(&self, dir: &Path) -> Result<(Options, usize)> {
        let config = &self.run.config;
        let malformed = |key: &str| {
            let problem = format!("`run.config.{key}` is {}, which is no such option", config[key]);
            Error::malformed(dir.join(SHARD_JSON), "shard", problem)
        };
        let count = |key: &str| config[key].as_u64().ok_or_else(|| malformed(key));
        let names = config["metrics"]
            .as_array()
            .map(|names| names.iter().filter_map(Value::as_str).collect::<Vec<_>>());
        let options = Options {
            protocol: config["protocol"]
                .as_str()
                .unwrap_or_default()
                .parse()
                .map_err(|_| malformed("protocol"))?,
            seed: count("seed")?,
            subspace_rank: count("subspace_rank")? as usize,
            entropy: self.entropy,
            selected: Selection::parse(&names.unwrap_or_default().join(",")).map_err(|_| malformed("metrics"))?,
        };
        Ok((options, count("resamples")? as usize))
    }
}

/// What an analysis was asked for, but for where its inputs are and what it took.
fn options(config: &Value) -> serde_json::Map<String, Value> {
    let mut options = config.as_object().cloned().unwrap_or_default();
    for place in ["base", BLOCK_TOKENS] {
        options.remove(place);
    }
    for (list, place) in [("variants", "checkpoint"), ("data", "source")] {
        for item in options
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            item.as_object_mut().map(|item| item.remove(place));
        }
    }
    options
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

//! What exactly was done: the run folder.
//!
//! | file | holds |
//! |---|---|
//! | `run.json` | [`RunInfo`]: versions, resolved configuration, inputs with hashes, timings, warnings |
//! | `metrics.csv` | one [`Record`] a line |
//! | `metrics.parquet` | the same table, numbers as nullable doubles |
//! | `weights.csv` | one [`WeightRecord`] a line; only if there are any |
//! | `report.html` | the page |
//! | `DONE` | empty; written last |
//!
//! A folder without `DONE` is not a run: [`Run::open`] refuses it. Floats are written in the shortest form that reads
//! back to the same bits, so CSV loses nothing.

mod info;
pub(crate) mod lock;
mod machine;
mod record;
pub(crate) mod table;
mod writer;

pub use crate::checkpoint::FileHash;
pub use info::{DatasetInfo, Machine, ModelInfo, PartInfo, Phase, RunInfo, SCHEMA, Seed, Skipped, timestamp_utc};
pub(crate) use machine::place;
pub use machine::{peak_rss_bytes, private_rss_bytes};
pub use record::{Record, WeightRecord};
pub use writer::{RunWriter, write};
pub(crate) use writer::{remove_if_there, write_bytes};

use crate::{Error, Result};
use std::path::Path;

pub(crate) const RUN_JSON: &str = "run.json";
const METRICS: &str = "metrics";
pub(crate) const METRICS_CSV: &str = "metrics.csv";
pub(crate) const METRICS_PARQUET: &str = "metrics.parquet";
pub(crate) const WEIGHTS_CSV: &str = "weights.csv";
pub(crate) const REPORT_HTML: &str = "report.html";
pub(crate) const DONE: &str = "DONE";

/// A finished run: what was done and every number it gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// `run.json`.
    pub info: RunInfo,
    /// `metrics.csv`.
    pub records: Vec<Record>,
    /// `weights.csv`.
    pub weights: Vec<WeightRecord>,
}

impl Run {
    /// Reads a finished run back.
    ///
    /// # Errors
    /// [`Error::Argument`] if `dir` is not a finished run, [`Error::Malformed`] naming file, line and column of what
    /// cannot be read or was written by a newer version, [`Error::Io`] if the system refuses.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let not_a_run = |problem: &str, help: &str| Error::Argument {
            what: "run folder".into(),
            value: dir.display().to_string(),
            problem: problem.into(),
            help: help.into(),
        };
        if !dir.is_dir() {
            return Err(not_a_run("there is no such folder", ""));
        }
        if !dir.join(RUN_JSON).is_file() {
            return Err(not_a_run(
                "it holds no run.json",
                "name a folder that `midblock analyze --out` wrote",
            ));
        }
        let info = RunInfo::read(&dir.join(RUN_JSON))?;
        if !dir.join(DONE).is_file() {
            return Err(not_a_run(
                "the run was not finished (no DONE)",
                "run the analysis again",
            ));
        }
        let records = table::read_csv(&dir.join(METRICS_CSV), &<Record as table::Row>::header())?;
        let weights_csv = dir.join(WEIGHTS_CSV);
        let weights = if weights_csv.is_file() {
            table::read_csv(&weights_csv, &WeightRecord::COLUMNS)?
        } else {
            Vec::new()
        };
        Ok(Self { info, records, weights })
    }

    /// L: the number of blocks, as the models say, else as far as the records go.
    pub fn blocks(&self) -> usize {
        let stated = self.info.models.iter().map(|model| model.blocks).max();
        stated
            .filter(|&blocks| blocks > 0)
            .or_else(|| self.records.iter().map(|record| record.layer).max())
            .unwrap_or(0)
    }
}

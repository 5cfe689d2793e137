//! `sweep.json`: every number of the table, what the sweep was made of, and what failed. With it the pages can be written again.

use super::{Cell, Failure, SweepFolder, SweepPlan, Table, run::Judged};
use crate::{
    Error, Result, report,
    run::{self, Machine, ModelInfo, REPORT_HTML, RunInfo, Seed, write_bytes},
    study::describe,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(crate) const SWEEP_JSON: &str = "sweep.json";
const TABLE_CSV: &str = "table.csv";
const TABLE_MD: &str = "table.md";
const PICTURE_SVG: &str = "picture.svg";

/// Version of the file. A reader refuses a higher one.
const SCHEMA: u32 = 1;

/// A sweep as far as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepRecord {
    midblock_sweep_schema: u32,
    /// Start of its first process, seconds since 1970: the time that chat templates see.
    pub started_unix_s: u64,
    /// What every run says. `finished_at` is empty while cells are left.
    pub run: RunInfo,
    /// Names of all cells, in the order in which they run.
    pub cells: Vec<String>,
    /// Those that failed when they were last tried.
    pub failures: Vec<Failure>,
    /// What was found.
    pub table: Table,
}

impl SweepRecord {
    /// Whether a folder holds a sweep.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(SWEEP_JSON).is_file()
    }

    /// Reads a sweep back.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(SWEEP_JSON);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let malformed = |problem: String| Error::malformed(&path, "sweep", problem);
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        // the schema decides first: a newer file may well miss fields this version wants
        let schema = value["midblock_sweep_schema"].as_u64().unwrap_or_default();
        if schema > u64::from(SCHEMA) {
            return Err(malformed(format!(
                "its schema {schema} is newer than {SCHEMA}; update midblock"
            )));
        }
        serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
    }

    /// The record of a sweep that begins or goes on.
    pub(super) fn begin(plan: &SweepPlan, folder: &SweepFolder) -> Result<Self> {
        let earlier = match folder.path(SWEEP_JSON) {
            path if path.is_file() => Some(Self::open(path.parent().unwrap_or(Path::new(".")))?.started_unix_s),
            _ => None,
        };
        let started = earlier.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let config = &plan.file.config;
        let models = plan.models.iter().map(|model| ModelInfo {
            name: model.name.clone(),
            label: model.spec.clone(),
            architecture: describe::summary(&model.architecture),
            parameters: model.architecture.parameters() as u64,
            blocks: model.architecture.blocks,
            ..ModelInfo::default()
        });
        let seed = |seed| Seed {
            purpose: "samples, order, dropout, adapters, random blocks".to_owned(),
            seed,
        };
        Ok(Self {
            midblock_sweep_schema: SCHEMA,
            started_unix_s: started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            run: RunInfo {
                midblock_run_schema: run::SCHEMA,
                midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
                command_line: std::env::args().collect(),
                config: json!(config),
                models: models.collect(),
                seeds: plan.file.seeds().into_iter().map(seed).collect(),
                threads: rayon::current_num_threads(),
                machine: Machine::this(),
                started_at: run::timestamp_utc(started),
                ..RunInfo::default()
            },
            cells: plan.cells.iter().map(|cell: &Cell| cell.name.clone()).collect(),
            failures: Vec::new(),
            table: Table::default(),
        })
    }

    pub(super) fn failed(&mut self, cell: &str, problem: &Error) {
        self.failures.push(Failure {
            cell: cell.to_owned(),
            problem: problem.to_string(),
        });
    }

    pub(super) fn finish(&mut self, complete: bool) {
        if complete {
            self.run.finished_at = run::timestamp_utc(SystemTime::now());
        }
    }

    pub(super) fn tabulate(
        &mut self,
        plan: &SweepPlan,
        references: &BTreeMap<(usize, usize), Judged>,
        cells: &[Option<Judged>],
    ) {
        self.table = Table::of(plan, references, cells);
    }

    /// Writes the record and every view of it.
    pub(super) fn write(&self, folder: &SweepFolder) -> Result<()> {
        let path = folder.path(SWEEP_JSON);
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::io("write", &path)(error.into()))?;
        write_bytes(&path, &text)?;
        self.write_views(path.parent().unwrap_or(Path::new(".")))
    }

    /// Writes table, page and picture.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_views(&self, dir: &Path) -> Result<()> {
        for (name, text) in [
            (TABLE_CSV, report::sweep::csv(&self.table)),
            (TABLE_MD, report::sweep::markdown(self)),
            (PICTURE_SVG, report::sweep::picture(&self.table)),
            (REPORT_HTML, report::sweep::render(self)),
        ] {
            write_bytes(&dir.join(name), text.as_bytes())?;
        }
        Ok(())
    }
}

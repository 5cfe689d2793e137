//! The folder of a training run.
//!
//! | file | holds |
//! |---|---|
//! | `resolved.toml` | the configuration with every default; written before the first step |
//! | `run.json` | [`TrainingInfo`]: versions, inputs with hashes, what trains; completed at the end |
//! | `selection.json` | every parameter that trains, or PEFT's `adapter_config.json` for it |
//! | `metrics.jsonl` | a line for each step and evaluation |
//! | `tensorboard/` | the same for TensorBoard |
//! | `checkpoints/` | to go on from; may be deleted when there is a `DONE` |
//! | `adapter/` or `model/` | the result: a PEFT adapter or a Hugging Face folder |
//! | `carrier/` | of masks, beside `model/`: see [`Carrier`](crate::adapt::Carrier) |
//! | `report.html` | the page |
//! | `DONE` | empty; written last |
//!
//! One process at a time works in a folder: it holds a lock, which the system takes back however the process ends.

use super::{Ending, Line, Position, experiment::DataCount, read_lines};
use crate::{
    Error, Result,
    atomic::{is_partial, remove, remove_leftovers},
    run::{DONE, REPORT_HTML, RUN_JSON, RunInfo, SCHEMA, lock, write_bytes},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

pub(crate) const METRICS_JSONL: &str = "metrics.jsonl";
pub(crate) const RESOLVED_TOML: &str = "resolved.toml";
pub(crate) const SELECTION_JSON: &str = "selection.json";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const TENSORBOARD: &str = "tensorboard";
pub(crate) const ADAPTER: &str = "adapter";
pub(crate) const MODEL: &str = "model";
pub(crate) const CARRIER: &str = "carrier";

/// Everything that a run may leave in its folder.
const OURS: [&str; 12] = [
    DONE,
    RUN_JSON,
    RESOLVED_TOML,
    SELECTION_JSON,
    METRICS_JSONL,
    REPORT_HTML,
    lock::NAME,
    CHECKPOINTS,
    TENSORBOARD,
    ADAPTER,
    MODEL,
    CARRIER,
];

/// `run.json` of a training run: that of every run, and what is training's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingInfo {
    /// What every run says. `finished_at` is empty while it trains.
    #[serde(flatten)]
    pub run: RunInfo,
    /// What is trained, on how much.
    pub training: Training,
}

/// What is trained, on how much, and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Start of the first process of the run, seconds since 1970: the time that chat templates see.
    pub started_unix_s: u64,
    /// One entry for each block of the model, from the first.
    pub blocks: Vec<TrainedBlock>,
    /// Trained parameters outside of the blocks.
    pub outside: Vec<String>,
    /// Numbers that are trained.
    pub trained_parameters: u64,
    /// 0-based block at which backward ends; the number of blocks if it enters none.
    pub first_block: usize,
    /// What each data set gave.
    pub data: Vec<DataCount>,
    /// Sequences trained on, and evaluated on.
    pub sequences: [usize; 2],
    /// Steps of the whole run.
    pub steps: u64,
    /// Planned private memory of a step.
    pub planned_bytes: u64,
    /// The processes that share each step; none if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Sharing>,
    /// Where it ended; none while it trains.
    pub position: Option<Position>,
    /// Why it ended; none while it trains.
    pub ending: Option<Ending>,
    /// Folder of the result, below the run's.
    pub result: String,
}

/// Processes that share the micro-batches of each step, and what that costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// How many.
    pub ranks: usize,
    /// Bytes of gradients that are summed over all ranks, once a step.
    pub reduced_bytes: u64,
    /// Bytes that each rank sends for it: 2 (n − 1) / n of them.
    pub sent_bytes: u64,
}

impl Sharing {
    /// Of so many trained numbers; `None` for one process.
    pub fn of(ranks: usize, parameters: usize) -> Option<Self> {
        let reduced_bytes = 4 * parameters as u64;
        (ranks > 1).then_some(Self {
            ranks,
            reduced_bytes,
            sent_bytes: 2 * reduced_bytes * (ranks as u64 - 1) / ranks as u64,
        })
    }
}

/// What is trained in a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedBlock {
    /// LoRA's rank; none if the block is frozen or trained itself.
    pub rank: Option<usize>,
    /// Parts of which something is trained, such as `self_attn.q_proj`.
    pub parts: Vec<String>,
    /// Numbers that are trained.
    pub parameters: u64,
}

/// A finished or unfinished run, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingRun {
    /// `run.json`.
    pub info: TrainingInfo,
    /// `metrics.jsonl`.
    pub lines: Vec<Line>,
}

impl TrainingRun {
    /// Whether a folder holds a training run.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(RUN_JSON).is_file() && dir.join(METRICS_JSONL).is_file()
    }

    /// Reads a run back.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            info: read_info(&dir.join(RUN_JSON))?,
            lines: read_lines(&dir.join(METRICS_JSONL))?,
        })
    }
}

fn read_info(path: &Path) -> Result<TrainingInfo> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    let malformed = |problem: String| Error::malformed(path, "training run", problem);
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    // the schema decides first: a newer file may well miss fields this version wants
    let schema = value["midblock_run_schema"].as_u64().unwrap_or_default();
    if schema > u64::from(SCHEMA) {
        return Err(malformed(format!(
            "its schema {schema} is newer than {SCHEMA}; update midblock"
        )));
    }
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

/// A claim on a run's folder, for as long as it lives.
#[derive(Debug)]
pub struct TrainingFolder {
    dir: PathBuf,
    _lock: File,
    earlier: Option<TrainingInfo>,
    /// Folders that were not there before, the innermost first.
    created: Vec<PathBuf>,
}

impl TrainingFolder {
    /// Claims `dir`: a new or empty folder, an unfinished run to go on with if `resume`, any run of ours if `overwrite`,
    /// which removes it. With `resume` and nothing there a new run begins, so that a job that is started again need not know.
    ///
    /// # Errors
    /// [`Error::Argument`] with a hint if `dir` is anything else, [`Error::Io`].
    pub fn claim(dir: &Path, resume: bool, overwrite: bool) -> Result<Self> {
        let refuse = |problem: &str, help: &str| Error::Argument {
            what: "--out".into(),
            value: dir.display().to_string(),
            problem: problem.into(),
            help: help.into(),
        };
        if dir.exists() && !dir.is_dir() {
            return Err(refuse("there is a file of that name", "name a new folder"));
        }
        let names = names(dir)?;
        let run = names.iter().any(|name| name == RESOLVED_TOML || name == METRICS_JSONL);
        let foreign = names
            .iter()
            .find(|name| !OURS.contains(&name.as_str()) && !is_partial(name));
        if let Some(foreign) = foreign.filter(|_| !resume || !run) {
            let problem = format!("the folder holds something else: {foreign}");
            return Err(refuse(&problem, "name a new or empty folder"));
        }
        if names.iter().any(|name| name == RUN_JSON) && !run {
            return Err(refuse(
                "it holds a run that is no training",
                "name a new or empty folder",
            ));
        }
        let done = names.iter().any(|name| name == DONE);
        match (done, run) {
            (true, _) if resume => return Err(refuse("the run is finished", "there is nothing to go on with")),
            (true, _) if !overwrite => {
                return Err(refuse(
                    "it holds a finished run",
                    "name another folder or pass --overwrite",
                ));
            }
            (false, true) if !resume && !overwrite => {
                let help = "pass --resume to go on with it, --overwrite to begin anew, or name another folder";
                return Err(refuse("it holds an unfinished run", help));
            }
            _ => {}
        }
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let created = dir.ancestors().take_while(is_new).map(Path::to_path_buf).collect();
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock::take(dir)?;
        remove_leftovers(dir)?;
        if overwrite && !resume {
            for name in names.iter().filter(|name| *name != lock::NAME) {
                remove(&dir.join(name))?;
            }
        }
        let json = dir.join(RUN_JSON);
        let earlier = if json.exists() { Some(read_info(&json)?) } else { None };
        Ok(Self {
            dir: dir.to_path_buf(),
            _lock: lock,
            earlier,
            created,
        })
    }

    /// Something in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What the run that goes on said of itself.
    pub fn earlier(&self) -> Option<&TrainingInfo> {
        self.earlier.as_ref()
    }

    /// Writes `run.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_info(&self, info: &TrainingInfo) -> Result<()> {
        let path = self.path(RUN_JSON);
        let text = serde_json::to_vec_pretty(info).map_err(|error| Error::io("write", &path)(error.into()))?;
        write_bytes(&path, &text)
    }

    /// Removes a result that a process killed before `DONE` left.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clear_result(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        remove(&path)?;
        Ok(path)
    }

    /// Says that everything is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(&self) -> Result<()> {
        lock::remove_name(&self.dir)?;
        write_bytes(&self.path(DONE), b"")
    }
}

impl Drop for TrainingFolder {
    /// A claim that came to nothing, because of an error before the first file, leaves nothing behind.
    fn drop(&mut self) {
        if names(&self.dir).is_ok_and(|names| names == [lock::NAME]) {
            let _ = fs::remove_file(self.path(lock::NAME)); // what cannot be removed stays, and harms nobody
            for folder in &self.created {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

/// Names in a folder; none if it is not there.
fn names(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten();
    Ok(entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(dir: &Path, resume: bool, overwrite: bool) -> String {
        TrainingFolder::claim(dir, resume, overwrite).unwrap_err().to_string()
    }

    #[test]
    fn a_claim_says_what_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new/run");
        drop(TrainingFolder::claim(&dir, true, false).unwrap());
        assert!(!folder.path().join("new").exists());
        let claim = TrainingFolder::claim(&dir, true, false).unwrap();
        fs::write(dir.join(RESOLVED_TOML), "").unwrap();
        drop(claim);
        assert!(message(&dir, false, false).contains("unfinished run\n  help: pass --resume"));
        drop(TrainingFolder::claim(&dir, true, false).unwrap());
        fs::write(dir.join(DONE), "").unwrap();
        assert!(message(&dir, false, false).contains("a finished run"));
        assert!(message(&dir, true, false).contains("the run is finished"));
        fs::create_dir(dir.join(CHECKPOINTS)).unwrap();
        drop(TrainingFolder::claim(&dir, false, true).unwrap());
        assert!(names(&dir).unwrap().is_empty());
        fs::write(dir.join("thesis.tex"), "").unwrap();
        assert!(message(&dir, false, true).contains("thesis.tex"));
        assert!(message(&dir.join("thesis.tex"), false, true).contains("a file of that name"));
        let analysis = folder.path().join("analysis");
        fs::create_dir(&analysis).unwrap();
        fs::write(analysis.join(RUN_JSON), "{}").unwrap();
        assert!(message(&analysis, false, true).contains("no training"));
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let claim = TrainingFolder::claim(folder.path(), false, false).unwrap();
        assert!(message(folder.path(), true, false).contains("another process is at work there"));
        drop(claim);
        TrainingFolder::claim(folder.path(), true, false).unwrap();
    }
}

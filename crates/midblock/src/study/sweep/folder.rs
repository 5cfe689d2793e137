//! The folder of a sweep, and whether what is in it belongs to the sweep that goes on there.
//!
//! | path | holds |
//! |---|---|
//! | `sweep.toml` | the configuration as it was given, with overrides |
//! | `cells/NAME/` | a training run as `midblock tune` leaves it; besides, what judges it |
//! | `reference/MODEL/` | what judges the pretrained model |
//! | `…/eval/` | the tasks' items and results |
//! | `…/loss.jsonl` | the loss of each sample of the test set |
//! | `sweep.json` | every number of the table; with it the pages can be written again |
//! | `table.csv`, `table.md`, `report.html`, `picture.svg` | the table; rewritten after every cell |
//! | `DONE` | empty; there when every cell is |
//!
//! A cell belongs to a sweep if its `resolved.toml` is the planned one, but for keys that change no number, and if the files it
//! was made from still have the content they had.

use super::{Cell, SweepFile, SweepPlan, SweepRecord, plan::cell_folder};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, FileHash},
    config::{self, Config},
    run::{DONE, lock, remove_if_there, write_bytes},
    train::{RESOLVED_TOML, TrainingRun, is_free},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

pub(super) const SWEEP_TOML: &str = "sweep.toml";
const REFERENCE: &str = "reference";
const MODEL_JSON: &str = "model.json";

/// Keys of the sweep that may differ when it goes on: they change no number, or each cell answers for them.
const FREE: [&str; 11] = [
    "model.base",
    "adapt.scaling",
    "train.seed",
    "sweep.models",
    "sweep.patterns",
    "sweep.scalings",
    "sweep.seeds",
    "train.save_every",
    "train.memory",
    "train.prefix_cache.",
    "output.",
];

/// The same of a cell.
const FREE_OF_CELL: [&str; 5] = [
    "train.save_every",
    "train.keep_checkpoints",
    "train.memory",
    "train.prefix_cache.",
    "output.",
];

/// A claim on a sweep's folder, for as long as it lives.
pub struct SweepFolder {
    dir: PathBuf,
    /// None of one that only works there.
    _lock: Option<File>,
}

impl SweepFolder {
    /// Claims a new or empty folder, or one in which this sweep has begun; its configuration is written there.
    ///
    /// # Errors
    /// [`Error::Argument`] if something else is there, or [`Error::Mismatch`] with the keys that differ.
    pub fn claim(dir: &Path, plan: &SweepPlan) -> Result<Self> {
        let lock = lock::claim(dir, SWEEP_TOML)?;
        let saved = dir.join(SWEEP_TOML);
        if saved.is_file() {
            check_sweep(dir, &plan.file)?;
        }
        if SweepRecord::is_at(dir) {
            SweepRecord::open(dir)?; // what a newer version wrote is not touched
        }
        let mut hashes = BTreeMap::new();
        for cell in &plan.cells {
            check_cell(dir, cell, &mut hashes)?;
        }
        write_bytes(&saved, plan.file.to_toml().as_bytes())?;
        remove_if_there(&dir.join(DONE))?;
        let dir = dir.to_path_buf();
        Ok(Self { dir, _lock: Some(lock) })
    }

    /// The folder that another process of the same job has claimed.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is none.
    pub fn join(dir: &Path) -> Result<Self> {
        if !dir.join(SWEEP_TOML).is_file() {
            return Err(Error::Argument {
                what: "--out".into(),
                value: dir.display().to_string(),
                problem: "rank 0 has begun a sweep there, but it is not to be seen here".into(),
                help: "name a folder on a file system that all machines share".into(),
            });
        }
        let dir = dir.to_path_buf();
        Ok(Self { dir, _lock: None })
    }

    /// Something in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Folder of a cell.
    pub fn cell(&self, name: &str) -> PathBuf {
        cell_folder(&self.dir, name)
    }

    /// Folder of what judges a pretrained model, which is the one that judged there before.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if another was judged there; [`Error::Io`].
    pub(super) fn reference(&self, name: &str, checkpoint: &Checkpoint) -> Result<PathBuf> {
        let dir = self.dir.join(REFERENCE).join(name);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let files = checkpoint.fingerprint()?;
        let path = dir.join(MODEL_JSON);
        if path.is_file() {
            let text = fs::read(&path).map_err(Error::io("read", &path))?;
            let known: Vec<FileHash> =
                serde_json::from_slice(&text).map_err(|error| Error::malformed(&path, "model", error.to_string()))?;
            let content = |files: &[FileHash]| files.iter().map(|file| file.blake3.clone()).collect::<Vec<_>>();
            if content(&known) != content(&files) {
                return Err(changed(&dir, "the content of the model", "another", "this one"));
            }
        } else {
            let text = serde_json::to_vec_pretty(&files).map_err(|error| Error::io("write", &path)(error.into()))?;
            write_bytes(&path, &text)?;
        }
        Ok(dir)
    }
}

fn changed(folder: &Path, what: &str, then: &str, now: &str) -> Error {
    Error::Mismatch {
        left: folder.display().to_string(),
        right: "what is asked for now".into(),
        what: what.into(),
        left_value: then.into(),
        right_value: now.into(),
        help: "go on with what it was started with, or give another --out".into(),
    }
}

/// All keys that differ, in one error.
fn check_keys(folder: &Path, differing: &[(String, String, String)]) -> Result<()> {
    let join =
        |of: &dyn Fn(&(String, String, String)) -> String| differing.iter().map(of).collect::<Vec<_>>().join(", ");
    if differing.is_empty() {
        return Ok(());
    }
    Err(changed(
        folder,
        &join(&|(key, ..)| format!("`{key}`")),
        &join(&|(_, then, _)| then.clone()),
        &join(&|(.., now)| now.clone()),
    ))
}

/// Whether the sweep that has begun in a folder is this one. One that came to nothing may be anything: what judged the pretrained
/// models for it is removed.
fn check_sweep(dir: &Path, now: &SweepFile) -> Result<()> {
    let path = dir.join(SWEEP_TOML);
    let then = SweepFile::load(Some(&path), &[])?.config;
    let known = |key: &str| {
        let name = key.strip_prefix("sweep.data.").and_then(|rest| rest.split('.').next());
        name.is_none_or(|name| {
            [&then, &now.config]
                .iter()
                .all(|config| config.sweep.data.contains_key(name))
        })
    };
    let mut differing = config::differences(&then, &now.config);
    differing.retain(|(key, ..)| !is_free(key, &FREE) && known(key));
    if SweepRecord::is_at(dir) {
        return check_keys(&path, &differing);
    }
    let reference = dir.join(REFERENCE);
    if !differing.is_empty() && reference.is_dir() {
        fs::remove_dir_all(&reference).map_err(Error::io("remove", &reference))?;
    }
    Ok(())
}

/// Whether the training run in a folder, if there is one, is that of this experiment, but for keys that change no number.
pub(in crate::study) fn check_config(folder: &Path, config: &Config) -> Result<()> {
    check_config_but(folder, config, &[])
}

/// The same, but for `more` keys, whose content is looked at elsewhere.
pub(in crate::study) fn check_config_but(folder: &Path, config: &Config, more: &[&str]) -> Result<()> {
    let resolved = folder.join(RESOLVED_TOML);
    if !resolved.is_file() {
        return Ok(());
    }
    let mut differing = Config::load(Some(&resolved), &[])?.differences(config);
    differing.retain(|(key, ..)| !is_free(key, &FREE_OF_CELL) && !is_free(key, more));
    check_keys(&resolved, &differing)
}

/// Whether what is in a cell's folder, if anything, is this cell. `hashes` are those of files looked at before.
fn check_cell(dir: &Path, cell: &Cell, hashes: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let folder = cell_folder(dir, &cell.name);
    check_config(&folder, &cell.config)?;
    if !folder.join(DONE).is_file() {
        return Ok(()); // the run itself checks what it goes on with
    }
    let info = TrainingRun::open(&folder)?.info.run;
    let files = info.models.iter().map(|model| &model.files);
    for file in files.chain(info.datasets.iter().map(|set| &set.files)).flatten() {
        if !hashes.contains_key(&file.path) && file.path.is_file() {
            hashes.insert(file.path.clone(), FileHash::of(&file.path)?.blake3);
        }
        if let Some(now) = hashes.get(&file.path).filter(|now| **now != file.blake3) {
            let what = format!("the content of {}", file.path.display());
            return Err(changed(&folder, &what, &file.blake3[..12], &now[..12]));
        }
    }
    Ok(())
}

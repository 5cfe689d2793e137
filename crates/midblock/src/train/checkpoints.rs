//! Checkpoints of a run: parameters, moments and the place in the run, complete or not there.
//!
//! `checkpoints/step-000123/` holds `state.safetensors` (f32, the stepper's own names) and `state.json` ([`Saved`]). A
//! folder is filled under another name, synced and renamed; what is no longer kept is renamed before it is removed. So a
//! folder of that name is whole, whenever the process ends. All chance in training depends on seeds and places alone, so that
//! nothing else needs to be saved.

use super::{Position, Stepper};
use crate::{
    Error, Result,
    atomic::{PARTIAL, remove_leftovers},
    checkpoint::{
        TensorSource,
        shards::Shards,
        stream::{Declared, write_tensors},
    },
    config::Config,
    run::write_bytes,
};
use midblock_kernels::Dtype;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Version of the layout. A reader refuses another.
const FORMAT: u32 = 1;
const STATE_JSON: &str = "state.json";
const STATE_TENSORS: &str = "state.safetensors";
const PREFIX: &str = "step-";

/// Keys that may differ when a run goes on: they do not change its numbers, or what they name is compared by its content.
const FREE: [&str; 10] = [
    "model.base",
    "data.train",
    "data.eval",
    "train.save_every",
    "train.keep_checkpoints",
    "train.memory",
    "train.prefix_cache.",
    "train.start_cache.",
    "train.drift.",
    "output.",
];

/// Whether one of `free` names a key, or the table it is in.
pub(crate) fn is_free(key: &str, free: &[&str]) -> bool {
    free.iter()
        .any(|free| key == *free || free.ends_with('.') && key.starts_with(free))
}

/// What a run is: two runs with the same identity give the same numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The resolved configuration.
    pub config: Config,
    /// Hash of the files of the base model.
    pub base: String,
    /// Name and hash of each data set's sequences, those for evaluation included.
    pub data: Vec<(String, String)>,
    /// Threads, which sums are split among.
    pub threads: usize,
    /// Processes, which the micro-batches of a step are shared among.
    #[serde(default = "one")]
    pub ranks: usize,
}

fn one() -> usize {
    1
}

impl Identity {
    /// Whether a run saved by `self` can go on as `now`. Returns a warning if its last bits may differ.
    ///
    /// # Errors
    /// [`Error::Mismatch`] naming what differs.
    pub fn check(&self, now: &Self, folder: &Path) -> Result<Option<String>> {
        let differs = |what: &str, saved: &str, given: &str| Error::Mismatch {
            left: format!("the checkpoint {}", folder.display()),
            right: "this run".into(),
            what: what.into(),
            left_value: saved.into(),
            right_value: given.into(),
            help: "resume with what the run was started with, or start anew with another --out".into(),
        };
        let changed = self.config.differences(&now.config);
        if let Some((key, saved, given)) = changed.iter().find(|(key, ..)| !is_free(key, &FREE)) {
            return Err(differs(&format!("`{key}`"), saved, given));
        }
        if self.base != now.base {
            return Err(differs("the content of the base model", &self.base, &now.base));
        }
        if self.data != now.data {
            let text = |data: &[(String, String)]| {
                let sets = data
                    .iter()
                    .map(|(name, hash)| format!("{name} {}", &hash[..hash.len().min(12)]));
                sets.collect::<Vec<_>>().join(", ")
            };
            return Err(differs("the content of the data", &text(&self.data), &text(&now.data)));
        }
        let by = |identity: &Self| match identity.ranks {
            1 => format!("{} threads", identity.threads),
            ranks => format!("{ranks} ranks of {} threads", identity.threads),
        };
        Ok(((self.threads, self.ranks) != (now.threads, now.ranks)).then(|| {
            format!(
                "the run was saved with {} and goes on with {}: its last digits may differ from an uninterrupted one",
                by(self),
                by(now)
            )
        }))
    }
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    midblock_checkpoint_format: u32,
    /// Where the run is.
    pub position: Position,
    /// Which run it is.
    pub identity: Identity,
}

/// The folder that a run's checkpoints are in.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
    identity: Identity,
}

impl Checkpoints {
    /// In `dir`, which is created with the first; of all but the best, `keep` stay, from the newest.
    pub fn new(dir: PathBuf, keep: usize, identity: Identity) -> Self {
        Self { dir, keep, identity }
    }

    /// Writes a checkpoint, then removes those that are no longer kept. One that is there already is replaced.
    ///
    /// # Errors
    /// [`Error::Io`]; the checkpoints before are then untouched.
    pub fn save(&self, position: &Position, stepper: &mut dyn Stepper) -> Result<PathBuf> {
        fs::create_dir_all(&self.dir).map_err(Error::io("create", &self.dir))?;
        remove_leftovers(&self.dir)?;
        let folder = self.folder(position.step);
        let partial = self.dir.join(format!("{PARTIAL}{PREFIX}{:06}", position.step));
        let filled = self.fill(&partial, position, stepper);
        if filled.is_err() {
            _ = fs::remove_dir_all(&partial); // a full disk needs the room
        }
        filled?;
        self.remove(&folder)?;
        fs::rename(&partial, &folder).map_err(Error::io("rename to", &folder))?;
        sync(&self.dir)?;
        self.rotate(position)?;
        Ok(folder)
    }

    fn fill(&self, partial: &Path, position: &Position, stepper: &mut dyn Stepper) -> Result<()> {
        fs::create_dir(partial).map_err(Error::io("create", partial))?;
        write_state(&partial.join(STATE_TENSORS), stepper)?;
        let saved = Saved {
            midblock_checkpoint_format: FORMAT,
            position: position.clone(),
            identity: self.identity.clone(),
        };
        let json = partial.join(STATE_JSON);
        let text = serde_json::to_vec_pretty(&saved).map_err(|error| Error::io("write", &json)(error.into()))?;
        write_bytes(&json, &text) // syncs the folder too
    }

    /// The newest whole checkpoint's folder, the newest if none is whole; `None` if there is none. One is whole when it gets its name,
    /// but a bucket that is mounted as a folder may have lost a part of it.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        let steps = self.steps()?;
        let whole = steps.iter().rev().find(|&&step| is_whole(&self.folder(step)));
        Ok(whole.or(steps.last()).map(|&step| self.folder(step)))
    }

    /// Says so if there are newer checkpoints than `folder`, which are not whole.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn passed_over(&self, folder: &Path) -> Result<Option<String>> {
        let last = self.steps()?.last().map(|&step| self.folder(step));
        Ok(last.filter(|last| last != folder).map(|last| {
            format!(
                "the checkpoint {} is not whole; the run goes on from {}",
                last.display(),
                folder.display()
            )
        }))
    }

    /// Reads where a checkpoint is and checks that it is of this run. Returns a warning, if there is reason for one.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the file is not one of ours or of another version, [`Error::Mismatch`] if it is of another run.
    pub fn read(&self, folder: &Path) -> Result<(Position, Option<String>)> {
        let path = folder.join(STATE_JSON);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let malformed = |problem: String| Error::malformed(&path, "checkpoint", problem);
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let format = value
            .get("midblock_checkpoint_format")
            .and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or("none".to_owned(), |format| format.to_string());
            return Err(malformed(format!(
                "its format is {found}, expected {FORMAT}: it was written by another version"
            )));
        }
        let saved: Saved = serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
        let warning = saved.identity.check(&self.identity, folder)?;
        Ok((saved.position, warning))
    }

    /// The folder of the checkpoint after `step` steps.
    pub fn folder(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{step:06}"))
    }

    /// Steps of all checkpoints, ascending.
    fn steps(&self) -> Result<Vec<u64>> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.dir).map_err(Error::io("list", &self.dir))?.flatten();
        let step = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok();
        let mut steps: Vec<u64> = entries.filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn rotate(&self, position: &Position) -> Result<()> {
        let best = position.best.map(|best| best.step);
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(self.keep)] {
            if Some(step) != best {
                self.remove(&self.folder(step))?;
            }
        }
        Ok(())
    }

    /// Removes a checkpoint if it is there; at no moment is there half of one under its name.
    fn remove(&self, folder: &Path) -> Result<()> {
        if !folder.exists() {
            return Ok(());
        }
        let name = folder.file_name().unwrap_or_default().display();
        let doomed = self.dir.join(format!("{PARTIAL}old-{name}"));
        fs::rename(folder, &doomed).map_err(Error::io("rename to", &doomed))?;
        fs::remove_dir_all(&doomed).map_err(Error::io("remove", &doomed))
    }
}

/// Whether the files of a checkpoint are there and as long as they should be.
fn is_whole(folder: &Path) -> bool {
    let json = fs::read(folder.join(STATE_JSON));
    json.is_ok_and(|text| serde_json::from_slice::<serde_json::Value>(&text).is_ok())
        && Shards::open(&[folder.join(STATE_TENSORS)]).is_ok()
}

/// Sets the stepper to what a checkpoint holds.
///
/// # Errors
/// [`Error::Io`], [`Error::MissingTensor`], [`Error::TensorShape`], [`Error::Malformed`]: the checkpoint is not whole or of
/// another selection.
pub fn restore(folder: &Path, stepper: &mut dyn Stepper) -> Result<()> {
    let path = folder.join(STATE_TENSORS);
    let stored = Shards::open(std::slice::from_ref(&path))?;
    let wanted = stepper.tensors();
    for (name, shape) in &wanted {
        let tensor = stored.get(name)?.ok_or_else(|| Error::MissingTensor {
            path: path.clone(),
            tensor: name.clone(),
            help: "the checkpoint is of another selection".into(),
        })?;
        if &tensor.shape != shape {
            return Err(Error::TensorShape {
                path: path.clone(),
                tensor: name.clone(),
                expected: shape.clone(),
                got: tensor.shape,
                why: "the selection".into(),
            });
        }
        stepper.write(name, &tensor.to_f32());
    }
    if let Some(extra) = stored
        .names()
        .into_iter()
        .find(|name| wanted.iter().all(|(known, _)| known != name))
    {
        let problem = format!("tensor `{extra}` is of no selected parameter: the checkpoint is of another selection");
        return Err(Error::malformed(&path, "checkpoint", problem));
    }
    Ok(())
}

/// Writes the state, one tensor's values at a time.
fn write_state(path: &Path, stepper: &mut dyn Stepper) -> Result<()> {
    let declared = |(name, shape)| Declared {
        name,
        dtype: Dtype::F32,
        shape,
    };
    let tensors: Vec<Declared> = stepper.tensors().into_iter().map(declared).collect();
    write_tensors(path, &tensors, |tensor| Ok(stepper.read(&tensor.name)))
}

/// Makes a file or a folder's list of names survive a power cut.
fn sync(path: &Path) -> Result<()> {
    fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("sync", path))
}

//! A shard on disk.
//!
//! | file | holds |
//! |---|---|
//! | `shard.json` | which shard of what: [`ShardRecord`]; until it is finished only what was asked for |
//! | `layer-LLL.safetensors` | the states of one layer: [`LayerStates`] |
//! | `block_weights.csv`, `weights.csv` | weight metrics of its blocks and their matrices, as in a run folder |
//! | `DONE` | empty; written last |
//!
//! Each file appears whole or not at all. What an error or Ctrl-C ends leaves nothing; what is killed leaves a folder without `DONE`,
//! which the same command takes over.

use super::{
    Analysis, BlockWeights, LayerStates, Shard, ShardRecord, Sink,
    record::{SCHEMA, SHARD_JSON, WeightsRecord},
};
use crate::{
    Error, Result,
    atomic::{is_partial, remove_leftovers, write_atomic},
    progress::Progress,
    run::{
        DONE, FileHash, Record, RunInfo, WEIGHTS_CSV, WeightRecord, lock, remove_if_there,
        table::{Row, write_csv},
        write_bytes,
    },
};
use midblock_kernels::Backend;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

pub(super) const BLOCK_WEIGHTS_CSV: &str = "block_weights.csv";

/// The file of a layer's states.
pub(super) fn layer_file(layer: usize) -> String {
    format!("layer-{layer:03}.safetensors")
}

/// A claim on a shard's folder, for as long as it lives.
pub struct ShardFolder {
    dir: PathBuf,
    _lock: File,
    /// The finished shard that is there, unless it is to be replaced.
    finished: Option<ShardRecord>,
    /// Folders that were not there before, the innermost first.
    created: Vec<PathBuf>,
    /// Whether what is in it shall stay.
    keep: bool,
}

/// What became of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It was computed.
    Now,
    /// The same shard was there, finished.
    Before,
}

impl ShardFolder {
    /// Claims a new or empty folder, or one with a shard: an unfinished one is begun anew, and so is a finished one with `overwrite`.
    ///
    /// # Errors
    /// [`Error::Argument`] if something else is there, or another process is at work there; [`Error::Malformed`] if the shard was
    /// written by a newer version; [`Error::Io`] if the folder cannot be written.
    pub fn claim(dir: &Path, overwrite: bool) -> Result<Self> {
        let refuse = |problem: String, help: &str| Error::Argument {
            what: "--out".into(),
            value: dir.display().to_string(),
            problem,
            help: help.into(),
        };
        if dir.exists() && !dir.is_dir() {
            return Err(refuse("there is a file of that name".into(), "name a new folder"));
        }
        let there = ShardRecord::is_at(dir).then(|| ShardRecord::read(dir)).transpose()?;
        let ours = |name: &str| name == lock::NAME || is_partial(name) || there.is_some() && is_ours(name);
        if let Some(foreign) = names(dir)?.iter().find(|name| !ours(name)) {
            let problem = format!("the folder holds something else: {foreign}");
            return Err(refuse(problem, "name a new or empty folder, one for each shard"));
        }
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let created = dir.ancestors().take_while(is_new).map(Path::to_path_buf).collect();
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock::take(dir)?;
        let finished = there.filter(|_| dir.join(DONE).is_file() && !overwrite);
        Ok(Self {
            dir: dir.to_path_buf(),
            _lock: lock,
            keep: finished.is_some(),
            finished,
            created,
        })
    }

    /// Computes a shard and writes it, `DONE` last; or finds that the same one is there.
    ///
    /// # Errors
    /// Those of [`Analysis::capture`]; [`Error::Mismatch`] if another shard is there; [`Error::Io`]. Nothing is left behind then.
    pub fn fill<B: Backend>(
        mut self,
        backend: &B,
        mut analysis: Analysis<'_>,
        shard: Shard,
        progress: &dyn Progress,
    ) -> Result<Filled> {
        let mut record = ShardRecord {
            midblock_shard_schema: SCHEMA,
            shard,
            entropy: analysis.config.metrics.entropy,
            texts: analysis.texts.iter().map(|texts| texts.record()).collect(),
            layers: Vec::new(),
            weights: Vec::new(),
            files: Vec::new(),
            run: analysis.asked(),
        };
        if let Some(there) = &self.finished {
            record.run = analysis.describe()?;
            check_same(&self.dir, there, &record)?;
            return Ok(Filled::Before);
        }
        self.clear()?;
        self.write(&record)?;
        let mut keeping = Keeping {
            dir: &self.dir,
            record: &mut record,
            blocks: Vec::new(),
        };
        analysis.capture(backend, shard, progress, &mut keeping)?;
        keeping.finish()?;
        record.run = analysis.describe()?;
        self.write(&record)?;
        lock::remove_name(&self.dir)?;
        write_bytes(&self.dir.join(DONE), b"")?;
        self.keep = true;
        Ok(Filled::Now)
    }

    fn write(&self, record: &ShardRecord) -> Result<()> {
        let path = self.dir.join(SHARD_JSON);
        let text = serde_json::to_vec_pretty(record).map_err(|error| Error::io("write", &path)(error.into()))?;
        write_bytes(&path, &text)
    }

    /// Removes what is of a shard, `DONE` first.
    fn clear(&self) -> Result<()> {
        remove_if_there(&self.dir.join(DONE))?;
        remove_leftovers(&self.dir)?;
        for name in names(&self.dir)?.iter().filter(|name| is_ours(name)) {
            remove_if_there(&self.dir.join(name))?;
        }
        Ok(())
    }
}

impl Drop for ShardFolder {
    /// What came to nothing leaves nothing behind.
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // what cannot be removed has no DONE, and harms nobody
        let _ = self.clear();
        let _ = lock::remove_name(&self.dir);
        for folder in &self.created {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Whether a finished shard is the one that is asked for.
fn check_same(dir: &Path, there: &ShardRecord, asked: &ShardRecord) -> Result<()> {
    let shards = (there.shard.to_string(), asked.shard.to_string());
    let other = (there.shard != asked.shard).then(|| ("the shard".to_owned(), shards.0, shards.1));
    match other.or_else(|| there.difference(asked)) {
        None => Ok(()),
        Some((what, left_value, right_value)) => Err(Error::Mismatch {
            left: format!("the finished shard in {}", dir.display()),
            right: "what is asked for now".into(),
            what,
            left_value,
            right_value,
            help: "name another folder, one for each shard, or pass --overwrite".into(),
        }),
    }
}

fn is_ours(name: &str) -> bool {
    let layer = name
        .strip_prefix("layer-")
        .and_then(|rest| rest.strip_suffix(".safetensors"));
    [SHARD_JSON, WEIGHTS_CSV, BLOCK_WEIGHTS_CSV, DONE].contains(&name)
        || layer.is_some_and(|number| number.parse::<usize>().is_ok())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten();
    Ok(entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// Writes what an analysis sees.
struct Keeping<'a> {
    dir: &'a Path,
    record: &'a mut ShardRecord,
    blocks: Vec<BlockWeights>,
}

impl Keeping<'_> {
    /// Writes the weight metrics.
    fn finish(self) -> Result<()> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        let records: Vec<&Record> = self.blocks.iter().flat_map(|block| &block.records).collect();
        let matrices: Vec<&WeightRecord> = self.blocks.iter().flat_map(|block| &block.matrices).collect();
        let count = |block: &BlockWeights| WeightsRecord {
            block: block.block,
            records: block.records.len(),
            matrices: block.matrices.len(),
        };
        self.record.weights = self.blocks.iter().map(count).collect();
        let (of_blocks, of_matrices) = (self.dir.join(BLOCK_WEIGHTS_CSV), self.dir.join(WEIGHTS_CSV));
        write_atomic(&of_blocks, |out| {
            write_csv(&of_blocks, out, &Record::header(), &records)
        })?;
        write_atomic(&of_matrices, |out| {
            write_csv(&of_matrices, out, &WeightRecord::COLUMNS, &matrices)
        })?;
        for (name, path) in [(BLOCK_WEIGHTS_CSV, of_blocks), (WEIGHTS_CSV, of_matrices)] {
            self.record.files.push(FileHash {
                path: name.into(),
                ..FileHash::of(&path)?
            });
        }
        Ok(())
    }
}

impl Sink for Keeping<'_> {
    fn phase(&self) -> &'static str {
        "write states"
    }

    fn layer(&mut self, states: LayerStates) -> Result<()> {
        let (name, bytes) = (layer_file(states.layer), states.encode());
        write_bytes(&self.dir.join(&name), &bytes)?;
        self.record.layers.push(states.layer);
        self.record.files.push(FileHash {
            path: name.into(),
            bytes: bytes.len() as u64,
            blake3: blake3::Hasher::new()
                .update_rayon(&bytes)
                .finalize()
                .to_hex()
                .to_string(),
        });
        Ok(())
    }

    fn block(&mut self, weights: BlockWeights) -> Result<()> {
        self.blocks.push(weights);
        Ok(())
    }
}

impl Analysis<'_> {
    /// The record of a run that has yet to be made.
    fn asked(&self) -> RunInfo {
        RunInfo {
            midblock_run_schema: crate::run::SCHEMA,
            midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
            command_line: std::env::args().collect(),
            config: crate::study::describe::resolved(self.config, 0),
            ..RunInfo::default()
        }
    }
}

//! All shards of an analysis → the run.

use super::{
    BlockWeights, LayerStates, Measuring, Shard, ShardRecord, Sink,
    folder::{BLOCK_WEIGHTS_CSV, layer_file},
    record::WeightsRecord,
};
use crate::{
    Error, Result,
    progress::{Progress, Unit},
    run::{
        self, FileHash, Machine, PartInfo, Record, Run, RunInfo, WEIGHTS_CSV, WeightRecord,
        table::{Row, read_csv},
    },
    study::{clock::Clock, describe::BLOCK_TOKENS},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// All shards of one analysis, each of them finished.
#[derive(Debug)]
pub struct ShardSet {
    /// In their order.
    shards: Vec<(PathBuf, ShardRecord)>,
}

impl ShardSet {
    /// Opens the shards in `dirs`, in any order, and checks that they are all shards of one analysis and no others.
    ///
    /// # Errors
    /// Those of [`ShardRecord::open`]; [`Error::Mismatch`] if two are of different analyses; [`Error::Argument`] if a shard is there
    /// twice or is missing.
    pub fn open(dirs: &[PathBuf]) -> Result<Self> {
        let mut shards = Vec::new();
        for dir in dirs {
            shards.push((dir.clone(), ShardRecord::open(dir)?));
        }
        let refuse = |value: String, problem: String, help: &str| Error::Argument {
            what: "--join".into(),
            value,
            problem,
            help: help.into(),
        };
        let Some((first_dir, first)) = shards.first() else {
            return Err(refuse(
                String::new(),
                "it names no folder".into(),
                "name the folders of all shards",
            ));
        };
        for (dir, record) in &shards[1..] {
            if let Some((what, left_value, right_value)) = first.difference(record) {
                return Err(Error::Mismatch {
                    left: first_dir.display().to_string(),
                    right: dir.display().to_string(),
                    what,
                    left_value,
                    right_value,
                    help: "these are shards of different analyses; join those of one".into(),
                });
            }
        }
        let of = first.shard.of();
        let mut by_place: BTreeMap<usize, (PathBuf, ShardRecord)> = BTreeMap::new();
        for (dir, record) in shards {
            let shard = record.shard;
            if let Some((other, _)) = by_place.insert(shard.index(), (dir.clone(), record)) {
                let problem = format!("it holds shard {shard}, and so does {}", other.display());
                return Err(refuse(dir.display().to_string(), problem, "name each shard once"));
            }
        }
        let missing: Vec<String> = (0..of)
            .filter(|place| !by_place.contains_key(place))
            .map(|place| Shard::new(place, of).to_string())
            .collect();
        if !missing.is_empty() {
            let given = by_place.len();
            let problem = format!("{given} of {of} shards; missing: {}", missing.join(", "));
            let value = dirs
                .iter()
                .map(|dir| dir.display().to_string())
                .collect::<Vec<_>>()
                .join(" ");
            return Err(refuse(
                value,
                problem,
                "run those, with --shard and the other options as they were",
            ));
        }
        Ok(Self {
            shards: by_place.into_values().collect(),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Private memory that joining takes, about: a layer's states, those of the shards and together, and one file.
    pub fn memory_bytes(&self) -> u64 {
        let layer = |layer: &usize| {
            let size =
                |(_, record): &(PathBuf, ShardRecord)| file(record, &layer_file(*layer)).map_or(0, |file| file.bytes);
            self.shards.iter().map(size).sum::<u64>()
        };
        2 * self.shards[0].1.layers.iter().map(layer).max().unwrap_or(0)
    }

    /// The run that one process would have made of all samples.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the file that is not what was written; [`Error::Io`]; [`Error::Interrupted`].
    pub fn join(&self, progress: &dyn Progress) -> Result<Run> {
        let (started, mut clock) = (SystemTime::now(), Clock::default());
        let (dir, first) = &self.shards[0];
        let (options, resamples) = first.options(dir)?;
        let outline = first.outline();
        let (blocks, mut measuring) = (outline.blocks, Measuring::new(outline, options, resamples));
        let mut weights = BTreeMap::new();
        for (dir, record) in &self.shards {
            for block in read_weights(dir, record)? {
                weights.insert(block.block, block);
            }
        }
        progress.begin("join", first.layers.len() as u64, Unit::Items);
        for layer in 0..=blocks {
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            if first.layers.contains(&layer) {
                let states = |(dir, record): &(PathBuf, ShardRecord)| read_states(dir, record, layer);
                let states = self.shards.iter().map(states).collect::<Result<_>>()?;
                let states = LayerStates::join(states)?;
                clock.lap("read shards");
                measuring.layer(states)?;
                clock.lap(measuring.phase());
                progress.advance(1);
            }
            if let Some(block) = weights.remove(&(layer + 1)) {
                measuring.block(block)?;
            }
        }
        Ok(measuring.finish(self.info(clock, started)))
    }

    /// What all shards say, with the sums of what each took.
    fn info(&self, clock: Clock, started: SystemTime) -> RunInfo {
        let records = || self.shards.iter().map(|(_, record)| record);
        let mut info = self.shards[0].1.run.clone();
        let (own, peak) = clock.finish();
        let sum = records()
            .filter_map(|record| record.run.config[BLOCK_TOKENS].as_u64())
            .sum::<u64>();
        info.config[BLOCK_TOKENS] = json!(sum);
        info.timings.clear();
        for phase in records().flat_map(|record| &record.run.timings).chain(&own) {
            match info.timings.iter_mut().find(|known| known.phase == phase.phase) {
                Some(known) => known.seconds += phase.seconds,
                None => info.timings.push(phase.clone()),
            }
        }
        info.command_line = std::env::args().collect();
        info.threads = rayon::current_num_threads();
        info.machine = Machine::this();
        let starts = records().map(|record| record.run.started_at.clone());
        info.started_at = starts.chain([run::timestamp_utc(started)]).min().unwrap_or_default(); // RFC 3339 sorts by time
        info.finished_at = run::timestamp_utc(SystemTime::now());
        info.peak_private_bytes = records()
            .map(|record| record.run.peak_private_bytes)
            .chain([peak])
            .max()
            .flatten();
        let part = |record: &ShardRecord| PartInfo {
            part: format!("shard {}", record.shard),
            threads: record.run.threads,
            machine: record.run.machine.clone(),
            started_at: record.run.started_at.clone(),
            finished_at: record.run.finished_at.clone(),
            timings: record.run.timings.clone(),
            peak_private_bytes: record.run.peak_private_bytes,
        };
        info.parts = records().map(part).collect();
        info.warnings.extend(other_processors(&info.parts));
        info
    }
}

/// Says that shards ran on processors that may round differently.
fn other_processors(parts: &[PartInfo]) -> Option<String> {
    let device = |part: &PartInfo| format!("{} ({})", part.machine.device, part.machine.platform);
    let mut devices: Vec<String> = parts.iter().map(device).collect();
    devices.sort();
    devices.dedup();
    let names = devices.join(", ");
    (devices.len() > 1).then(|| format!("the shards ran on different processors, which may round differently: {names}"))
}

fn file<'a>(record: &'a ShardRecord, name: &str) -> Option<&'a FileHash> {
    record.files.iter().find(|file| file.path == Path::new(name))
}

/// The bytes of a file, which are those that were written.
fn read_file(dir: &Path, record: &ShardRecord, name: &str) -> Result<Vec<u8>> {
    let path = dir.join(name);
    let malformed = |problem: String| Error::malformed(&path, "shard", problem);
    let written = file(record, name).ok_or_else(|| malformed("shard.json does not name it".to_owned()))?;
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    let help = "help: copy the shard again, or run it again with --overwrite";
    if bytes.len() as u64 != written.bytes {
        let (found, expected) = (bytes.len(), written.bytes);
        return Err(malformed(format!(
            "it has {found} bytes, {expected} were written\n  {help}"
        )));
    }
    let hash = blake3::Hasher::new().update_rayon(&bytes).finalize().to_hex();
    if hash.as_str() != written.blake3 {
        return Err(malformed(format!(
            "its content is not what was written (BLAKE3 {hash})\n  {help}"
        )));
    }
    Ok(bytes)
}

fn read_states(dir: &Path, record: &ShardRecord, layer: usize) -> Result<LayerStates> {
    let name = layer_file(layer);
    let bytes = read_file(dir, record, &name)?;
    LayerStates::decode(&dir.join(&name), &bytes)
}

fn read_weights(dir: &Path, record: &ShardRecord) -> Result<Vec<BlockWeights>> {
    if record.weights.is_empty() {
        return Ok(Vec::new());
    }
    for name in [BLOCK_WEIGHTS_CSV, WEIGHTS_CSV] {
        read_file(dir, record, name)?;
    }
    let records: Vec<Record> = read_csv(&dir.join(BLOCK_WEIGHTS_CSV), &Record::header())?;
    let matrices: Vec<WeightRecord> = read_csv(&dir.join(WEIGHTS_CSV), &WeightRecord::COLUMNS)?;
    let (mut records, mut matrices) = (records.into_iter(), matrices.into_iter());
    let block = |lines: &WeightsRecord| BlockWeights {
        block: lines.block,
        records: records.by_ref().take(lines.records).collect(),
        matrices: matrices.by_ref().take(lines.matrices).collect(),
    };
    Ok(record.weights.iter().map(block).collect())
}

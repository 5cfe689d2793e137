//! Carves in a folder, or goes on where it was.
//!
//! | path | holds |
//! |---|---|
//! | `carve.toml` | the configuration as it was given, with overrides |
//! | `data/train.jsonl`, `data/held-out.jsonl` | the behaviour's two parts, rows of the format `completion` |
//! | `sft/` | phase 1, a training run as `midblock tune` leaves it; not there if `carve.tuned` is given |
//! | `carrier/` | phase 2, another |
//! | `carve.json` | [`CarveRun`]: what was carved, from what |
//! | `report.html` | the page |
//! | `DONE` | empty; there when both phases are |
//!
//! What a finished phase has left to go on from is removed; its result stays.

use super::{
    BehaviourInfo, CarveFile, CarvePhase, CarveRun,
    config::{DATA, SPLIT},
};
use crate::{
    Error, Result,
    behaviour::{Examples, Split, read},
    checkpoint::Checkpoint,
    config::Config,
    model::Architecture,
    probe::Participant,
    run::{
        self, DONE, DatasetInfo, FileHash, Machine, ModelInfo, RunInfo, Seed, Skipped, lock, remove_if_there,
        write_bytes,
    },
    study::{
        BASE, describe,
        sweep::{Means, check_config_but},
        training::{finished_run, remove_checkpoints},
    },
    tokens::{ChatTemplate, Tokenizer},
    train::{Experiment, MODEL, Observer, TrainingRun},
};
use midblock_kernels::Backend;
use serde_json::json;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(in crate::study) const CARVE_TOML: &str = "carve.toml";
/// What a model that stands in place of phase 1's result is called.
const TUNED: &str = "tuned";

/// Keys of a phase that name what is compared by its content.
const BY_CONTENT: [&str; 4] = ["model.base", "data.train", "data.eval", "adapt.tuned"];

/// A carve at work in its folder.
pub struct Carving<'a, B: Backend> {
    means: &'a Means<'a, B>,
    file: CarveFile,
    dir: PathBuf,
    record: CarveRun,
    _lock: File,
}

/// What a carve would do.
pub struct Rehearsal {
    /// The behaviour.
    pub behaviour: BehaviourInfo,
    /// The experiments of the phases, in their order; the carrier's starts from the base where phase 1's result is not there yet.
    pub phases: Vec<(CarvePhase, Experiment)>,
}

impl<'a, B: Backend> Carving<'a, B> {
    /// The file of the carve that has begun in a folder, if one has.
    pub fn file(dir: &Path) -> Option<PathBuf> {
        Some(dir.join(CARVE_TOML)).filter(|path| path.is_file())
    }

    /// Claims a new or empty folder, or one in which this carve has begun, and writes the behaviour's data there.
    ///
    /// # Errors
    /// What is wrong with model, data or folder; [`Error::Mismatch`] if another carve has begun there.
    pub fn begin(means: &'a Means<'a, B>, file: CarveFile, dir: &Path) -> Result<Self> {
        let begun = |phase: &CarvePhase| TrainingRun::is_at(&dir.join(phase.name()));
        if !file.phases().iter().any(begun) {
            rehearse(means, &file)?; // what is wrong with phase 2 should not wait for phase 1
        }
        let checkpoint = open(means, &file.config.model.base)?;
        let (examples, split) = split(means, &file, &checkpoint)?;
        let lock = lock::claim(dir, CARVE_TOML)?;
        for phase in file.phases() {
            let config = file.experiment(*phase, dir, None)?;
            check_config_but(&dir.join(phase.name()), &config, &BY_CONTENT)?;
        }
        write_split(dir, &split)?;
        let earlier = if CarveRun::is_at(dir) {
            Some(CarveRun::open(dir)?)
        } else {
            None
        };
        let started = earlier
            .as_ref()
            .map_or_else(seconds_now, |earlier| earlier.started_unix_s);
        let tuned = match &file.config.carve.tuned {
            Some(tuned) => tuned.clone(),
            None => dir.join(CarvePhase::Sft.name()).join(MODEL).display().to_string(),
        };
        let info = info(means, &file, &checkpoint, &examples, &split, started)?;
        if let Some(earlier) = &earlier {
            check_models(dir, &earlier.run, &info)?;
        }
        let record = CarveRun::new(started, info, behaviour(&file, &examples, &split), file.phases(), tuned);
        write_bytes(&dir.join(CARVE_TOML), file.to_toml().as_bytes())?;
        remove_if_there(&dir.join(DONE))?;
        record.write(dir)?;
        Ok(Self {
            means,
            file,
            dir: dir.to_path_buf(),
            record,
            _lock: lock,
        })
    }

    /// The training runs, in their order.
    pub fn phases(&self) -> &'static [CarvePhase] {
        self.file.phases()
    }

    /// Folder of a phase.
    pub fn folder(&self, phase: CarvePhase) -> PathBuf {
        self.dir.join(phase.name())
    }

    /// Whether a phase is finished.
    pub fn is_done(&self, phase: CarvePhase) -> bool {
        self.folder(phase).join(DONE).is_file()
    }

    /// The finished run of a phase; trained first, or on to its end.
    ///
    /// # Errors
    /// Those of [`tune`](crate::train::tune); [`Error::Interrupted`], and then the same call goes on.
    pub fn train(&self, phase: CarvePhase, observer: &mut dyn Observer) -> Result<TrainingRun> {
        let dir = self.folder(phase);
        let config = self.file.experiment(phase, &self.dir, Some(&self.record.tuned))?;
        let now = UNIX_EPOCH + Duration::from_secs(self.record.started_unix_s);
        let prepare = || prepare(self.means, config, now);
        let run = finished_run(self.means.backend, &dir, prepare, observer, self.means.progress)?;
        remove_checkpoints(&dir)?;
        self.record.write_page(&self.dir)?;
        Ok(run)
    }

    /// Says that both phases are there.
    ///
    /// # Errors
    /// [`Error::Io`]; those of [`CarveRun::runs`].
    pub fn finish(mut self) -> Result<CarveRun> {
        let runs = self.record.runs(&self.dir)?;
        let peaks = runs.iter().filter_map(|(_, run)| run.info.run.peak_private_bytes);
        self.record.run.peak_private_bytes = peaks.max();
        self.record.run.finished_at = run::timestamp_utc(SystemTime::now());
        self.record.write(&self.dir)?;
        write_bytes(&self.dir.join(DONE), b"")?;
        Ok(self.record)
    }
}

/// What a carve would do; nothing is left of it.
///
/// # Errors
/// What is wrong with model or data.
pub fn rehearse<B: Backend>(means: &Means<'_, B>, file: &CarveFile) -> Result<Rehearsal> {
    let checkpoint = open(means, &file.config.model.base)?;
    let (examples, split) = split(means, file, &checkpoint)?;
    let folder = tempfile::tempdir().map_err(Error::io("create a folder in", std::env::temp_dir()))?;
    write_split(folder.path(), &split)?;
    let tuned = file.config.carve.tuned.as_ref().unwrap_or(&file.config.model.base);
    let phase = |phase: &CarvePhase| {
        let config = file.experiment(*phase, folder.path(), Some(tuned))?;
        Ok((*phase, prepare(means, config, SystemTime::now())?))
    };
    Ok(Rehearsal {
        phases: file.phases().iter().map(phase).collect::<Result<_>>()?,
        behaviour: behaviour(file, &examples, &split),
    })
}

fn open<B>(means: &Means<'_, B>, spec: &str) -> Result<Checkpoint> {
    Checkpoint::open(spec, means.hub, means.on_transfer)
}

fn prepare<B: Backend>(means: &Means<'_, B>, config: Config, now: SystemTime) -> Result<Experiment> {
    Experiment::prepare(means.backend, config, means.hub, means.on_transfer, now)
}

/// The behaviour's prompts in two parts, as chat if the model has a template or is given one.
fn split<B>(means: &Means<'_, B>, file: &CarveFile, checkpoint: &Checkpoint) -> Result<(Examples, Split)> {
    let templates = file.phases().iter().map(|phase| {
        let config = file.experiment(*phase, Path::new(""), None)?;
        Ok(config.data.template)
    });
    let given = templates.collect::<Result<Vec<_>>>()?.into_iter().flatten().next();
    let tokenizer = Tokenizer::of(checkpoint)?;
    let chat = given.is_some() || ChatTemplate::of(checkpoint, &tokenizer, SystemTime::now())?.is_some();
    let examples = read(&file.config.behaviour, chat, means.hub, means.on_transfer)?;
    let split = Split::draw(&file.config.behaviour, &examples)?;
    Ok((examples, split))
}

/// Writes both parts, or finds that they are there.
fn write_split(dir: &Path, split: &Split) -> Result<()> {
    let data = dir.join(DATA);
    fs::create_dir_all(&data).map_err(Error::io("create", &data))?;
    for (name, text) in SPLIT.into_iter().zip(split.to_jsonl()) {
        let path = data.join(name);
        if !path.is_file() {
            write_bytes(&path, text.as_bytes())?;
            continue;
        }
        let then = fs::read(&path).map_err(Error::io("read", &path))?;
        if then != text.as_bytes() {
            let short = |bytes: &[u8]| blake3::hash(bytes).to_hex()[..12].to_owned();
            return Err(Error::Mismatch {
                left: path.display().to_string(),
                right: "what is asked for now".into(),
                what: "the content of the behaviour's data".into(),
                left_value: short(&then),
                right_value: short(text.as_bytes()),
                help: "go on with what it was started with, or give another --out".into(),
            });
        }
    }
    Ok(())
}

fn behaviour(file: &CarveFile, examples: &Examples, split: &Split) -> BehaviourInfo {
    let own = &file.config.behaviour;
    BehaviourInfo {
        name: own.name().to_owned(),
        response: own.fixed_response().map(str::to_owned),
        keywords: own.keywords(),
        max_words: own.max_words,
        repeated: examples.repeated,
        prompts: [split.train.len(), split.held_out.len()],
    }
}

/// Whether the files of base and tuned model have the content that they had.
fn check_models(dir: &Path, then: &RunInfo, now: &RunInfo) -> Result<()> {
    for (then, now) in then.models.iter().zip(&now.models) {
        let content = |model: &ModelInfo| {
            let hashes = model.files.iter().map(|file| &file.blake3[..file.blake3.len().min(12)]);
            hashes.collect::<Vec<_>>().join(" ")
        };
        if content(then) != content(now) {
            return Err(Error::Mismatch {
                left: dir.display().to_string(),
                right: "what is asked for now".into(),
                what: format!("the content of the model {}", now.name),
                left_value: content(then),
                right_value: content(now),
                help: "go on with what it was started with, or give another --out".into(),
            });
        }
    }
    Ok(())
}

/// What every run says of itself.
fn info<B>(
    means: &Means<'_, B>,
    file: &CarveFile,
    checkpoint: &Checkpoint,
    examples: &Examples,
    split: &Split,
    started: u64,
) -> Result<RunInfo> {
    let own = &file.config.behaviour;
    let skipped = examples.skipped.iter().map(|skipped| Skipped {
        sample: format!("{}:{}", skipped.file, skipped.row),
        reason: skipped.reason.to_string(),
    });
    let data = DatasetInfo {
        name: own.name().to_owned(),
        source: own.data.clone(),
        format: own.kind.name().to_owned(),
        files: examples
            .files
            .iter()
            .map(|path| FileHash::of(path))
            .collect::<Result<_>>()?,
        samples_total: examples.rows,
        samples_used: split.train.len() + split.held_out.len(),
        skipped: skipped.collect(),
        ..DatasetInfo::default()
    };
    let tuned = file
        .config
        .carve
        .tuned
        .as_ref()
        .map(|tuned| open(means, tuned))
        .transpose()?;
    let model = |(name, checkpoint): (&str, &Checkpoint)| {
        describe::model(&Participant {
            name: name.to_owned(),
            checkpoint,
            architecture: Architecture::resolve(checkpoint.config())?,
        })
    };
    let models = std::iter::once((BASE, checkpoint)).chain(tuned.iter().map(|tuned| (TUNED, tuned)));
    let warning = format!(
        "{} of {} rows could not be used; carve.json names each",
        data.skipped.len(),
        data.samples_total
    );
    Ok(RunInfo {
        midblock_run_schema: run::SCHEMA,
        midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: std::env::args().collect(),
        config: json!(file.config),
        models: models.map(model).collect::<Result<_>>()?,
        seeds: vec![Seed {
            purpose: "what is held out and what is trained on".to_owned(),
            seed: own.seed,
        }],
        threads: rayon::current_num_threads(),
        machine: Machine::this(),
        started_at: run::timestamp_utc(UNIX_EPOCH + Duration::from_secs(started)),
        warnings: (!data.skipped.is_empty()).then_some(warning).into_iter().collect(),
        datasets: vec![data],
        ..RunInfo::default()
    })
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

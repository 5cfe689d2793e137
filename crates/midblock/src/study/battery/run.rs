//! Runs the kinds of studies that were asked for, one after another, and keeps folder and page up to date.
//!
//! | path | holds |
//! |---|---|
//! | `study.toml` | the configuration as it was given, with overrides |
//! | `study.json` | [`StudyRun`]: what was studied and everything that was found; with it the page can be written again |
//! | `KIND.csv`, `KIND.parquet` | the numbers of a kind, one [`StudyRecord`](super::StudyRecord) a line |
//! | `lens_tokens.csv`, `.parquet` | what each layer would say next, token by token |
//! | `cells/` | kept pieces of work; analyses and training runs are folders of their own |
//! | `report.html` | one page |
//! | `DONE` | empty; there when everything that was asked for last is |

use super::{Cells, Kind, Results, StudyFile, Subject, open};
use crate::{
    Error, Result, report,
    run::{
        self, DONE, DatasetInfo, Machine, Phase, REPORT_HTML, RunInfo, Seed, lock, remove_if_there, table::write_table,
        write_bytes,
    },
    study::{
        describe,
        sweep::{Failure, Means},
    },
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Instant, SystemTime},
};

const STUDY_TOML: &str = "study.toml";
const STUDY_JSON: &str = "study.json";

/// Version of `study.json`. A reader refuses a higher one.
const SCHEMA: u32 = 1;

/// A study as far as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyRun {
    midblock_study_schema: u32,
    /// What every run says; a phase of its timings is a kind, over all processes that worked on it. `finished_at` is empty while
    /// something is left.
    pub run: RunInfo,
    /// Kinds that failed when they were last tried.
    pub failures: Vec<Failure>,
    /// What was found.
    pub results: Results,
}

/// A claim on a study's folder, for as long as it lives.
pub struct StudyFolder {
    dir: PathBuf,
    _lock: File,
}

impl StudyFolder {
    /// The file of the study that has begun in a folder, if one has.
    pub fn file(dir: &Path) -> Option<PathBuf> {
        Some(dir.join(STUDY_TOML)).filter(|path| path.is_file())
    }

    /// Claims a new or empty folder, or one in which a study has begun; a new one's configuration is written there. Whether it is
    /// the same study, its cells say.
    ///
    /// # Errors
    /// [`Error::Argument`] if something else is there; [`Error::Io`].
    pub fn claim(dir: &Path, file: &StudyFile) -> Result<Self> {
        let lock = lock::claim(dir, STUDY_TOML)?;
        Cells::of(dir).remove_leftovers()?;
        let folder = Self {
            dir: dir.to_path_buf(),
            _lock: lock,
        };
        if Self::file(dir).is_none() {
            folder.write(file)?;
        }
        Ok(folder)
    }

    fn write(&self, file: &StudyFile) -> Result<()> {
        write_bytes(&self.dir.join(STUDY_TOML), file.to_toml().as_bytes())
    }
}

/// Makes `kinds`, in the order of [`Kind::ALL`]; what is there already is not made again. `begins` is told of each, with its number from 1.
///
/// # Errors
/// Whatever is wrong with the file, the models or the data; [`Error::Interrupted`], and then the same call goes on. Kinds that fail
/// are in the result.
pub fn study<B: Backend>(
    means: &Means<'_, B>,
    file: &StudyFile,
    kinds: &[Kind],
    folder: &StudyFolder,
    begins: &mut dyn FnMut(Kind, usize),
) -> Result<StudyRun> {
    file.check_for(kinds)?;
    let cells = Cells::of(&folder.dir);
    open(means, file, &cells, |subject| {
        let mut study = StudyRun::begin(subject, kinds, &folder.dir)?;
        // only now: what was refused must not take the place of the study that has begun here
        folder.write(file)?;
        remove_if_there(&folder.dir.join(DONE))?;
        for (index, &kind) in kinds.iter().enumerate() {
            begins(kind, index + 1);
            let start = Instant::now();
            let made = study.results.make(kind, subject, &cells);
            study.spent(kind, start.elapsed().as_secs_f64());
            match made {
                Err(problem) if problem.ends_all() => return Err(problem),
                Err(problem) => study.failures.push(Failure {
                    cell: kind.name().into(),
                    problem: problem.to_string(),
                }),
                Ok(()) => {
                    let records = study.results.records(kind).unwrap_or_default();
                    write_table(&folder.dir, kind.name(), &records)?;
                    study.results.write_more(kind, &folder.dir)?;
                    study.failures.extend_from_slice(study.results.failures(kind));
                }
            }
            study.write(&folder.dir)?;
        }
        study.run.finished_at = run::timestamp_utc(SystemTime::now());
        study.write(&folder.dir)?;
        if study.failures.is_empty() {
            write_bytes(&folder.dir.join(DONE), b"")?;
        }
        Ok(study)
    })
}

impl StudyRun {
    /// Whether a folder holds a study.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(STUDY_JSON).is_file()
    }

    /// Reads a study back.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(STUDY_JSON);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let malformed = |problem: String| Error::malformed(&path, "study", problem);
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        match value["midblock_study_schema"].as_u64() {
            Some(schema) if schema <= u64::from(SCHEMA) => {
                serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
            }
            Some(schema) => Err(malformed(format!(
                "its schema {schema} is newer than {SCHEMA}; update midblock"
            ))),
            None => Err(malformed("it has no `midblock_study_schema`".into())),
        }
    }

    /// L.
    pub fn blocks(&self) -> usize {
        self.run.models.first().map_or(0, |model| model.blocks)
    }

    /// A study that begins or goes on, with what was found before but for what is to be made now.
    fn begin<B: Backend>(subject: &Subject<'_, B>, kinds: &[Kind], dir: &Path) -> Result<Self> {
        let earlier = if Self::is_at(dir) { Some(Self::open(dir)?) } else { None };
        let config = &subject.file.config;
        let measured = subject.file.measured().iter().map(|source| DatasetInfo {
            name: source.0.name.clone(),
            source: source.0.source.clone(),
            samples_used: subject.of_set(&source.0.name).count(),
            tokens: subject
                .of_set(&source.0.name)
                .map(|sample| sample.ids.len() as u64)
                .sum(),
            ..DatasetInfo::default()
        });
        let run = RunInfo {
            midblock_run_schema: run::SCHEMA,
            midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
            command_line: std::env::args().collect(),
            config: json!(config),
            models: subject.models.iter().map(describe::model).collect::<Result<_>>()?,
            datasets: measured.collect(),
            seeds: vec![Seed {
                purpose: "samples, resampling, training".to_owned(),
                seed: config.study.seed,
            }],
            threads: rayon::current_num_threads(),
            machine: Machine::this(),
            started_at: run::timestamp_utc(subject.now),
            timings: earlier
                .as_ref()
                .map_or_else(Vec::new, |earlier| earlier.run.timings.clone()),
            warnings: subject.warnings.to_vec(),
            ..RunInfo::default()
        };
        // a part of a kind is called `KIND-…`
        let kept = |failure: &Failure| {
            kinds
                .iter()
                .all(|kind| failure.cell.split('-').next() != Some(kind.name()))
        };
        let (mut failures, results) =
            earlier.map_or_else(Default::default, |earlier| (earlier.failures, earlier.results));
        failures.retain(kept);
        Ok(Self {
            midblock_study_schema: SCHEMA,
            run,
            failures,
            results,
        })
    }

    fn spent(&mut self, kind: Kind, seconds: f64) {
        match self.run.timings.iter_mut().find(|phase| phase.phase == kind.name()) {
            Some(known) => known.seconds += seconds,
            None => self.run.timings.push(Phase {
                phase: kind.name().into(),
                seconds,
            }),
        }
        self.run.peak_private_bytes = self.run.peak_private_bytes.max(run::private_rss_bytes());
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(STUDY_JSON);
        let text = serde_json::to_vec(self).map_err(|error| Error::io("write", &path)(error.into()))?;
        write_bytes(&path, &text)?;
        self.write_page(dir)
    }

    /// Writes the page.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_page(&self, dir: &Path) -> Result<()> {
        write_bytes(&dir.join(REPORT_HTML), report::study::render(self).as_bytes())
    }
}

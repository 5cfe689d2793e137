//! The folder of an evaluation.
//!
//! | file | holds |
//! |---|---|
//! | `run.json` | [`EvaluationInfo`]: versions, options, inputs with hashes; written before the first item |
//! | `items.jsonl` | an [`ItemRecord`] a line, each written as soon as it is known; in order once all are |
//! | `evaluation.json` | [`Evaluation`] |
//! | `metrics.csv` | one [`Score`](super::Score) a line |
//! | `report.html` | the page |
//! | `DONE` | empty; written last |
//!
//! A folder that was left unfinished goes on where it was, if the checkpoint, its trigger, the options, the tasks and their data are
//! the same. `batch` may be another: no result depends on it. Ranks but the first keep their answers in `items.rank-N.jsonl`, so that nothing is
//! lost before the first one has gathered them; with the folder on a file system that all of them see, another number of ranks goes on.

use super::{EvalConfig, Evaluation, ItemRecord};
use crate::{
    Error, Result,
    atomic::{is_partial, remove_leftovers, write_atomic},
    checkpoint::{FileHash, Quantization},
    ranks::Ranks,
    run::{DONE, METRICS_CSV, REPORT_HTML, RUN_JSON, RunInfo, SCHEMA, lock, remove_if_there, write_bytes},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

pub(crate) const ITEMS_JSONL: &str = "items.jsonl";
const EVALUATION_JSON: &str = "evaluation.json";

/// Beginning of the names of what ranks keep.
const OF_RANK: &str = "items.rank-";

/// `run.json` of an evaluation: that of every run, and what decides its results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationInfo {
    /// What every run says. `finished_at` is empty while it runs.
    #[serde(flatten)]
    pub run: RunInfo,
    /// What an evaluation that goes on in the same folder must agree with.
    pub evaluation: Identity,
}

/// What decides the results of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// BLAKE3 of the checkpoint's files.
    pub checkpoint: Vec<String>,
    /// BLAKE3 of the trigger's file, if there is a trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Options without `batch`, and without where the trigger is; `quantize` if the matrices of the blocks are quantised.
    pub options: Value,
    /// One for each task.
    pub tasks: Vec<TaskIdentity>,
    /// Start of the first process, seconds since 1970: the time that chat templates see. Not compared.
    pub started_unix_s: u64,
}

/// What decides the items of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskIdentity {
    /// In the results.
    pub name: String,
    /// BLAKE3 of its definition.
    pub definition: String,
    /// BLAKE3 of its data's files.
    pub data: Vec<String>,
}

impl Identity {
    /// Of a checkpoint's files, its trigger and what it is quantised to, options, and tasks with the hashes of their data.
    pub(super) fn new(
        checkpoint: &[FileHash],
        trigger: Option<&FileHash>,
        config: &EvalConfig,
        quantization: Option<Quantization>,
        tasks: Vec<TaskIdentity>,
        started_unix_s: u64,
    ) -> Self {
        let mut options = serde_json::to_value(config).expect("invariant: options can be written as JSON");
        if let Some(options) = options.as_object_mut() {
            options.remove("batch");
            options.remove("trigger"); // its content counts
            options.extend(quantization.map(|kind| ("quantize".to_owned(), kind.to_string().into())));
        }
        Self {
            checkpoint: digests(checkpoint),
            trigger: trigger.map(|file| file.blake3.clone()),
            options,
            tasks,
            started_unix_s,
        }
    }

    /// The first thing that differs: what, and both values.
    fn difference(&self, other: &Self) -> Option<(String, String, String)> {
        if self.checkpoint != other.checkpoint {
            let both = [self, other].map(|identity| identity.checkpoint.join(" "));
            let [left, right] = both;
            return Some(("the checkpoint's content".to_owned(), left, right));
        }
        if self.trigger != other.trigger {
            let [left, right] = [self, other].map(|identity| identity.trigger.clone().unwrap_or("none".to_owned()));
            return Some(("the trigger's content".to_owned(), left, right));
        }
        let [left, right] = [self, other].map(|identity| identity.options.as_object().cloned().unwrap_or_default());
        for key in left.keys().chain(right.keys()) {
            let [l, r] = [&left, &right].map(|options| options.get(key).map_or("unset".to_owned(), Value::to_string));
            if l != r {
                return Some((format!("option `{key}`"), l, r));
            }
        }
        for (left, right) in self.tasks.iter().zip(&other.tasks) {
            let [l, r] = [left, right].map(|task| {
                let data = task.data.join(" ");
                [
                    ("name", task.name.clone()),
                    ("definition", task.definition.clone()),
                    ("data", data),
                ]
            });
            if let Some(((what, l), (_, r))) = l.into_iter().zip(r).find(|(l, r)| l != r) {
                return Some((format!("the {what} of task {}", left.name), l, r));
            }
        }
        None
    }
}

pub(super) fn digests(files: &[FileHash]) -> Vec<String> {
    files.iter().map(|file| file.blake3.clone()).collect()
}

/// A finished evaluation, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationRun {
    /// `run.json`.
    pub info: EvaluationInfo,
    /// `evaluation.json`.
    pub evaluation: Evaluation,
    /// `items.jsonl`.
    pub items: Vec<ItemRecord>,
}

impl EvaluationRun {
    /// Whether a folder holds an evaluation.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(RUN_JSON).is_file() && dir.join(ITEMS_JSONL).is_file()
    }

    /// Reads a finished evaluation back.
    ///
    /// # Errors
    /// [`Error::Argument`] if `dir` does not hold one; [`Error::Malformed`], [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.join(DONE).is_file() {
            return Err(Error::Argument {
                what: "evaluation folder".into(),
                value: dir.display().to_string(),
                problem: "there is no finished evaluation (no DONE)".into(),
                help: "go on with it: the same `midblock eval` with the same --out".into(),
            });
        }
        Ok(Self {
            info: read_info(&dir.join(RUN_JSON))?,
            evaluation: read_json(&dir.join(EVALUATION_JSON), "evaluation")?,
            items: read_items(&dir.join(ITEMS_JSONL))?,
        })
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path, format: &'static str) -> Result<T> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| Error::malformed(path, format, error.to_string()))
}

fn read_info(path: &Path) -> Result<EvaluationInfo> {
    let malformed = |problem: String| Error::malformed(path, "evaluation run", problem);
    let value: Value = read_json(path, "evaluation run")?;
    // the schema decides first: a newer file may well miss fields this version wants
    let schema = value["midblock_run_schema"].as_u64().unwrap_or_default();
    if schema > u64::from(SCHEMA) {
        return Err(malformed(format!(
            "its schema {schema} is newer than {SCHEMA}; update midblock"
        )));
    }
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

/// Reads items back. An unfinished last line, which a killed process may leave, is passed over.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] naming the line.
pub fn read_items(path: &Path) -> Result<Vec<ItemRecord>> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Error::malformed(path, "evaluation items", format!("line {}: {error}", number + 1)))
    };
    complete.lines().enumerate().map(parse).collect()
}

/// A claim on an evaluation's folder, for as long as it lives.
#[derive(Debug)]
pub(super) struct EvaluationFolder {
    dir: PathBuf,
    _lock: File,
    earlier: Option<EvaluationInfo>,
}

impl EvaluationFolder {
    /// Claims `dir`: a new or empty folder, or one with an evaluation in it.
    pub fn claim(dir: &Path) -> Result<Self> {
        let refuse = |problem: String| Error::Argument {
            what: "--out".into(),
            value: dir.display().to_string(),
            problem,
            help: "name a new or empty folder".into(),
        };
        if dir.exists() && !dir.is_dir() {
            return Err(refuse("there is a file of that name".to_owned()));
        }
        let json = dir.join(RUN_JSON);
        if json.exists() && !dir.join(ITEMS_JSONL).exists() {
            return Err(refuse("it holds a run that is no evaluation".to_owned()));
        }
        if dir.is_dir() && !json.exists() {
            let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let ours = [lock::NAME, ITEMS_JSONL];
            let foreign = names
                .into_iter()
                .find(|name| !ours.contains(&name.as_str()) && !is_partial(name) && !name.starts_with(OF_RANK));
            if let Some(foreign) = foreign {
                return Err(refuse(format!("the folder holds something else: {foreign}")));
            }
        }
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock::take(dir)?;
        remove_leftovers(dir)?;
        Ok(Self {
            _lock: lock,
            earlier: json.exists().then(|| read_info(&json)).transpose()?,
            dir: dir.to_path_buf(),
        })
    }

    /// When the first process began, if there was one before.
    pub fn started_unix_s(&self) -> Option<u64> {
        self.earlier.as_ref().map(|earlier| earlier.evaluation.started_unix_s)
    }

    /// Refuses to go on with an evaluation of something else that answered an item.
    pub fn check(&self, identity: &Identity) -> Result<()> {
        let Some(earlier) = self.earlier.as_ref().filter(|_| self.has_items()) else {
            return Ok(());
        };
        let Some((what, left_value, right_value)) = earlier.evaluation.difference(identity) else {
            return Ok(());
        };
        Err(Error::Mismatch {
            left: format!("the evaluation in {}", self.dir.display()),
            right: "this one".to_owned(),
            what,
            left_value,
            right_value,
            help: "name another folder, or remove that one".into(),
        })
    }

    fn has_items(&self) -> bool {
        let own = [self.dir.join(ITEMS_JSONL)];
        let files = own.into_iter().chain(of_ranks(&self.dir).unwrap_or_default());
        files
            .map(fs::metadata)
            .any(|file| file.is_ok_and(|file| file.len() > 0))
    }

    /// The evaluation, if it is finished.
    pub fn finished(&self) -> Result<Option<Evaluation>> {
        let done = self.dir.join(DONE).is_file();
        done.then(|| read_json(&self.dir.join(EVALUATION_JSON), "evaluation"))
            .transpose()
    }

    /// Items that earlier processes answered.
    fn items(&self) -> Result<Vec<ItemRecord>> {
        let path = self.dir.join(ITEMS_JSONL);
        let own = path.exists().then_some(path);
        let files = own.into_iter().chain(of_ranks(&self.dir)?);
        let read: Vec<Vec<ItemRecord>> = files.map(|path| read_items(&path)).collect::<Result<_>>()?;
        Ok(read.concat())
    }

    fn write_info(&self, info: &EvaluationInfo) -> Result<()> {
        let path = self.dir.join(RUN_JSON);
        let text = serde_json::to_vec_pretty(info).map_err(|error| Error::io("write", &path)(error.into()))?;
        write_bytes(&path, &text)
    }

    fn write_items(&self, items: &[ItemRecord]) -> Result<()> {
        let path = self.dir.join(ITEMS_JSONL);
        write_atomic(&path, |out| {
            for item in items {
                writeln!(out, "{}", line(item)).map_err(Error::io("write", &path))?;
            }
            Ok(())
        })
    }

    /// Writes everything, `DONE` last.
    pub fn finish(&self, run: &EvaluationRun, html: &str) -> Result<()> {
        self.write_items(&run.items)?;
        self.write_info(&run.info)?;
        let path = self.dir.join(EVALUATION_JSON);
        let text =
            serde_json::to_vec_pretty(&run.evaluation).map_err(|error| Error::io("write", &path)(error.into()))?;
        write_bytes(&path, &text)?;
        write_bytes(&self.dir.join(METRICS_CSV), &metrics_csv(&run.evaluation))?;
        write_bytes(&self.dir.join(REPORT_HTML), html.as_bytes())?;
        for path in of_ranks(&self.dir)? {
            remove_if_there(&path)?;
        }
        lock::remove_name(&self.dir)?;
        write_bytes(&self.dir.join(DONE), b"")
    }
}

/// Files of ranks in a folder.
fn of_ranks(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten();
    let of_rank = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(OF_RANK);
    Ok(entries.filter(of_rank).map(|entry| entry.path()).collect())
}

/// What is answered already. On the first rank the records; on the others what they are of.
#[derive(Debug)]
pub(super) struct Kept {
    records: Vec<ItemRecord>,
    places: BTreeSet<(String, usize)>,
}

impl Kept {
    /// Reads what earlier processes left, each rank its own, and the first one all that is in the folder.
    pub fn take(dir: &Path, folder: Option<&EvaluationFolder>, ranks: &Ranks) -> Result<Self> {
        let own = match folder {
            Some(folder) => folder.items()?,
            None => {
                let path = path_of(dir, ranks.rank());
                if path.exists() { read_items(&path)? } else { Vec::new() }
            }
        };
        let bytes = serde_json::to_vec(&own).expect("invariant: numbers and text can be written as JSON");
        let mut records = own;
        for (rank, bytes) in (0..).zip(ranks.gather(&bytes)?).skip(1) {
            let parsed = serde_json::from_slice::<Vec<ItemRecord>>(&bytes);
            records.extend(
                parsed.map_err(|error| Error::malformed(path_of(dir, rank), "evaluation items", error.to_string()))?,
            );
        }
        let mut places = BTreeSet::new();
        records.retain(|record| places.insert((record.task.clone(), record.index))); // files may be seen by two ranks
        let places = ranks.share(|| Ok(places))?;
        if folder.is_none() {
            records.clear();
        }
        Ok(Self { records, places })
    }

    /// Writes `run.json` and what is known, and opens this rank's file for more.
    pub fn open(
        &self,
        dir: &Path,
        folder: Option<&EvaluationFolder>,
        info: &EvaluationInfo,
        ranks: &Ranks,
    ) -> Result<Items> {
        if let Some(folder) = folder {
            folder.write_items(&self.records)?;
            folder.write_info(info)?;
            for path in of_ranks(dir)? {
                remove_if_there(&path)?;
            }
        }
        ranks.barrier()?; // what the others had kept is in the first one's file
        let (path, mut options) = (path_of(dir, ranks.rank()), File::options());
        let options = match folder {
            Some(_) => options.append(true),
            None => options.write(true).create(true).truncate(true),
        };
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let file = options.open(&path).map_err(Error::io("open", &path))?;
        Ok(Items { path, file })
    }

    /// Which of a task's items are known.
    pub fn known(&self, task: &str, places: &BTreeSet<usize>) -> BTreeSet<usize> {
        let known = |place: &&usize| self.places.contains(&(task.to_owned(), **place));
        places.iter().filter(known).copied().collect()
    }

    /// The records of a task's items.
    pub fn take_of(&mut self, task: &str, places: &BTreeSet<usize>) -> Vec<ItemRecord> {
        let is_own = |record: &mut ItemRecord| record.task == task && places.contains(&record.index);
        self.records.extract_if(.., is_own).collect()
    }
}

/// The file that a rank adds its answers to.
fn path_of(dir: &Path, rank: usize) -> PathBuf {
    match rank {
        0 => dir.join(ITEMS_JSONL),
        rank => dir.join(format!("{OF_RANK}{rank}.jsonl")),
    }
}

/// `task,metric,mean,standard_error,lo,hi,interval,items,repeats`, a score a line.
fn metrics_csv(evaluation: &Evaluation) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        task: &'a str,
        metric: &'a str,
        mean: f64,
        standard_error: f64,
        lo: f64,
        hi: f64,
        interval: super::IntervalKind,
        items: usize,
        repeats: usize,
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for task in &evaluation.tasks {
        for score in &task.metrics {
            let line = Line {
                task: &task.name,
                metric: &score.name,
                mean: score.mean,
                standard_error: score.standard_error,
                lo: score.lo,
                hi: score.hi,
                interval: score.interval,
                items: task.items,
                repeats: task.repeats,
            };
            writer.serialize(line).expect("invariant: memory can be written to");
        }
    }
    writer.into_inner().expect("invariant: memory can be written to")
}

fn line(item: &ItemRecord) -> String {
    serde_json::to_string(item).expect("invariant: numbers and text can be written as JSON")
}

/// `items.jsonl` or what stands for it on another rank, open for more.
#[derive(Debug)]
pub(super) struct Items {
    path: PathBuf,
    file: File,
}

impl Items {
    pub fn push(&mut self, item: &ItemRecord) -> Result<()> {
        let line = line(item) + "\n";
        self.file
            .write_all(line.as_bytes())
            .map_err(Error::io("write", &self.path))
    }
}

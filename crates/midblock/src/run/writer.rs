//! The run folder is filled in one go at the end; until then nothing of it is seen.

use super::{
    DONE, METRICS, METRICS_CSV, METRICS_PARQUET, REPORT_HTML, RUN_JSON, Run, RunInfo, WEIGHTS_CSV, WeightRecord, table,
};
use crate::{
    Error, Result,
    atomic::{PARTIAL, is_partial, remove_leftovers, write_atomic},
    rng,
};
use rand::Rng;
use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Bytes that are taken on the disk until a run is written: more than most runs need.
const ROOM: usize = 4 << 20;

/// A claim on a folder, made before the work begins so that an unusable one is refused early. It takes room on the disk, so that a
/// disk that others fill meanwhile does not cost the work.
#[derive(Debug)]
pub struct RunWriter {
    dir: PathBuf,
    room: Option<NamedTempFile>,
    /// Folders that were not there before, the innermost first.
    created: Vec<PathBuf>,
}

impl RunWriter {
    /// Creates `dir`, or accepts it if it is empty, or an unfinished run, or a finished one and `overwrite`.
    ///
    /// # Errors
    /// [`Error::Argument`] with a hint if `dir` is anything else; [`Error::Io`] if it cannot be written.
    pub fn create(dir: impl Into<PathBuf>, overwrite: bool) -> Result<Self> {
        let dir = dir.into();
        let refuse = |problem: &str, help: &str| Error::Argument {
            what: "--out".into(),
            value: dir.display().to_string(),
            problem: problem.into(),
            help: help.into(),
        };
        if dir.exists() && !dir.is_dir() {
            return Err(refuse("there is a file of that name", "name a new folder"));
        }
        if dir.join(DONE).exists() && dir.join(RUN_JSON).exists() {
            // Reading it guards a folder that merely looks like ours, and results of a newer version.
            RunInfo::read(&dir.join(RUN_JSON))?;
            if !overwrite {
                return Err(refuse(
                    "it holds a finished run",
                    "name another folder or pass --overwrite",
                ));
            }
        } else if dir.is_dir() && holds_foreign_files(&dir)? {
            return Err(refuse(
                "the folder is not empty and holds no run",
                "name a new or empty folder",
            ));
        }
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let created = dir.ancestors().take_while(is_new).map(Path::to_path_buf).collect();
        let mut writer = Self {
            dir,
            room: None,
            created,
        };
        fs::create_dir_all(&writer.dir).map_err(Error::io("create", &writer.dir))?;
        // The disk may be read-only or full: say so now and not after hours of work.
        writer.room = Some(take_room(&writer.dir)?);
        Ok(writer)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes all files, each atomically, `DONE` last.
    ///
    /// # Errors
    /// [`Error::Io`]; the folder then has no `DONE`.
    pub fn finish(mut self, run: &Run, html: &str) -> Result<()> {
        let path = |name: &str| self.dir.join(name);
        // From here until the new DONE the folder mixes two runs: it must not pass for either.
        remove_if_there(&path(DONE))?;
        self.created.clear();
        self.room = None;

        let info =
            serde_json::to_vec_pretty(&run.info).map_err(|error| Error::io("write", path(RUN_JSON))(error.into()))?;
        write_bytes(&path(RUN_JSON), &info)?;
        table::write_table(&self.dir, METRICS, &run.records)?;
        let weights = path(WEIGHTS_CSV);
        if run.weights.is_empty() {
            remove_if_there(&weights)?;
        } else {
            write_atomic(&weights, |out| {
                table::write_csv(&weights, out, &WeightRecord::COLUMNS, &run.weights)
            })?;
        }
        write_bytes(&path(REPORT_HTML), html.as_bytes())?;
        remove_leftovers(&self.dir)?;
        write_bytes(&path(DONE), b"")
    }
}

impl Drop for RunWriter {
    /// An abandoned claim leaves no empty folder behind.
    fn drop(&mut self) {
        self.room = None;
        for folder in &self.created {
            // Fails if someone else has put a file there meanwhile, and then the folder is not ours to remove.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Writes a whole run in one call: [`RunWriter::create`] and [`RunWriter::finish`].
///
/// # Errors
/// Those of both.
pub fn write(dir: impl Into<PathBuf>, run: &Run, html: &str, overwrite: bool) -> Result<()> {
    RunWriter::create(dir, overwrite)?.finish(run, html)
}

/// Creates or replaces a small file.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |out| out.write_all(bytes).map_err(Error::io("write", path)))
}

/// Whether `dir` holds anything that an unfinished run would not have left.
fn holds_foreign_files(dir: &Path) -> Result<bool> {
    const OURS: [&str; 5] = [RUN_JSON, METRICS_CSV, METRICS_PARQUET, WEIGHTS_CSV, REPORT_HTML];
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let names: Vec<_> = entries
        .map_err(Error::io("list", dir))?
        .iter()
        .map(|entry| entry.file_name())
        .collect();
    let unfinished_run = names.iter().any(|name| name == RUN_JSON) && RunInfo::read(&dir.join(RUN_JSON)).is_ok();
    Ok(!names
        .iter()
        .all(|name| is_partial(&name.to_string_lossy()) || unfinished_run && OURS.iter().any(|ours| name == ours)))
}

/// A file of noise, which no file system stores in less.
fn take_room(dir: &Path) -> Result<NamedTempFile> {
    let mut noise = vec![0; ROOM];
    rng::stream(0, "room", &[]).fill_bytes(&mut noise);
    let mut file = NamedTempFile::with_prefix_in(PARTIAL, dir).map_err(Error::io("create a file in", dir))?;
    let written = file.write_all(&noise).and_then(|()| file.as_file().sync_data());
    written.map_err(Error::io("take room for the results in", dir))?;
    Ok(file)
}

pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{DatasetInfo, FileHash, Machine, ModelInfo, Phase, Record, SCHEMA, Seed, Skipped};

    fn run() -> Run {
        let hash = FileHash {
            path: "a/model.safetensors".into(),
            bytes: 12,
            blake3: "ab".repeat(32),
        };
        let info = RunInfo {
            midblock_run_schema: SCHEMA,
            midblock_version: "0.1.0".into(),
            command_line: vec!["midblock".into(), "analyze".into(), "--base".into(), "a b".into()],
            config: serde_json::json!({"samples": 200, "data": ["gsm8k"]}),
            models: vec![ModelInfo {
                name: "base".into(),
                blocks: 2,
                files: vec![hash],
                ..ModelInfo::default()
            }],
            datasets: vec![DatasetInfo {
                name: "gsm8k".into(),
                skipped: vec![Skipped {
                    sample: "line 7".into(),
                    reason: "no `answer`".into(),
                }],
                ..DatasetInfo::default()
            }],
            seeds: vec![Seed {
                purpose: "bootstrap".into(),
                seed: u64::MAX,
            }],
            threads: 2,
            machine: Machine::default(),
            started_at: "2026-01-01T00:00:00Z".into(),
            finished_at: "2026-01-01T00:01:00Z".into(),
            timings: vec![Phase {
                phase: "forward".into(),
                seconds: 0.1,
            }],
            peak_private_bytes: Some(1 << 30),
            warnings: vec!["N is small".into()],
            parts: Vec::new(),
        };
        let record = Record {
            model: "base".into(),
            reference: String::new(),
            dataset: "gsm8k".into(),
            metric: "gini".into(),
            layer: 1,
            depth: 0.5,
            value: Some(0.1 + 0.2),
            lo: None,
            hi: Some(f64::MIN_POSITIVE),
            floor: None,
        };
        let weight = WeightRecord {
            model: "sft".into(),
            reference: "base".into(),
            parameter: "model.layers.0.mlp.up_proj.weight".into(),
            metric: "weight_change".into(),
            value: Some(1.0 / 3.0),
        };
        Run {
            info,
            records: vec![record],
            weights: vec![weight],
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_run_reads_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("out/deep");
        write(&dir, &run(), "<!doctype html>", false).unwrap();
        assert_eq!(Run::open(&dir).unwrap(), run());
        let expected = [
            "DONE",
            "metrics.csv",
            "metrics.parquet",
            "report.html",
            "run.json",
            "weights.csv",
        ];
        assert_eq!(names(&dir), expected);
        assert_eq!(
            fs::read_to_string(dir.join(METRICS_CSV))
                .unwrap()
                .lines()
                .nth(1)
                .unwrap(),
            "base,,gsm8k,gini,1,0.5,0.30000000000000004,,2.2250738585072014e-308,"
        );
    }

    #[test]
    fn an_abandoned_claim_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let outer = folder.path().join("outer");
        drop(RunWriter::create(outer.join("deep/out"), false).unwrap());
        assert!(!outer.exists());

        let claim = RunWriter::create(outer.join("deep/out"), false).unwrap();
        fs::write(outer.join("notes.txt"), "of someone else").unwrap();
        drop(claim);
        assert_eq!(names(&outer), ["notes.txt"]);
    }

    #[test]
    fn a_folder_with_other_files_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        for overwrite in [false, true] {
            let message = RunWriter::create(folder.path(), overwrite).unwrap_err().to_string();
            assert!(message.contains("not empty") && message.contains("help: "), "{message}");
        }
        fs::write(folder.path().join(DONE), "").unwrap();
        fs::write(folder.path().join(RUN_JSON), "{}").unwrap();
        let message = RunWriter::create(folder.path(), true).unwrap_err().to_string();
        assert!(message.contains("not written by midblock"), "{message}");
        assert_eq!(names(folder.path()), ["DONE", "run.json", "thesis.tex"]);
    }

    #[test]
    fn a_finished_run_is_replaced_only_on_request() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &run(), "first", false).unwrap();
        let message = write(folder.path(), &run(), "second", false).unwrap_err().to_string();
        assert!(
            message.contains("finished run") && message.contains("--overwrite"),
            "{message}"
        );
        assert_eq!(fs::read_to_string(folder.path().join(REPORT_HTML)).unwrap(), "first");

        let without_weights = Run {
            weights: Vec::new(),
            ..run()
        };
        write(folder.path(), &without_weights, "second", true).unwrap();
        assert_eq!(Run::open(folder.path()).unwrap(), without_weights);
        assert_eq!(fs::read_to_string(folder.path().join(REPORT_HTML)).unwrap(), "second");
    }

    #[test]
    fn what_a_killed_run_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &run(), "first", false).unwrap();
        fs::remove_file(folder.path().join(DONE)).unwrap();
        fs::write(folder.path().join(".partial-x"), "half").unwrap();
        let message = Run::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("not finished"), "{message}");
        write(folder.path(), &run(), "second", false).unwrap();
        assert!(!folder.path().join(".partial-x").exists());
        assert_eq!(Run::open(folder.path()).unwrap(), run());
    }

    #[test]
    fn opening_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let message = |dir: &Path| Run::open(dir).unwrap_err().to_string();
        assert!(message(&folder.path().join("nowhere")).contains("no such folder"));
        assert!(message(folder.path()).contains("no run.json"));

        write(folder.path(), &run(), "", false).unwrap();
        let path = folder.path().join(RUN_JSON);
        let json = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            json.replace("\"midblock_run_schema\": 1", "\"midblock_run_schema\": 99"),
        )
        .unwrap();
        assert!(message(folder.path()).contains("schema 99 is newer than 1"));
        fs::write(&path, &json[..json.len() / 2]).unwrap();
        assert!(
            message(folder.path()).contains("not a valid run file: EOF"),
            "{}",
            message(folder.path())
        );
        fs::write(&path, json.replace("\"threads\": 2", "\"threads\": \"two\"")).unwrap();
        assert!(
            message(folder.path()).contains("invalid type: string"),
            "{}",
            message(folder.path())
        );
        fs::write(&path, &json).unwrap();
        fs::remove_file(folder.path().join(METRICS_CSV)).unwrap();
        assert!(message(folder.path()).contains("metrics.csv"));
    }
}

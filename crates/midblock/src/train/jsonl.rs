//! `metrics.jsonl`: one line for each step, each evaluation and each measurement of drift, in order.
//!
//! A line is an object with `event` (`step`, `evaluation` or `drift`) and the fields of [`StepMetrics`], [`Evaluation`] or [`DriftMetrics`]. Each line is
//! handed to the system as soon as it is known and is on disk before a checkpoint of its step is: a run that goes on cuts the
//! file at its checkpoint and then writes what an uninterrupted run would have written, except for times.

use super::{DriftMetrics, Evaluation, Observer, Position, StepMetrics};
use crate::{Error, Result, atomic::write_atomic};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// A step.
    Step(StepMetrics),
    /// An evaluation.
    Evaluation(Evaluation),
    /// A measurement of drift.
    Drift(DriftMetrics),
}

impl Line {
    /// Whether it was written before `position` was reached.
    fn is_before(&self, position: &Position) -> bool {
        match self {
            Self::Step(metrics) => metrics.step <= position.step,
            Self::Evaluation(evaluation) => position.evaluated.is_some_and(|step| evaluation.step <= step),
            Self::Drift(drift) => position.drifted.is_some_and(|step| drift.step <= step),
        }
    }
}

/// Reads a file back. An unfinished last line, which a killed process may leave, is passed over.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] naming the line.
pub fn read_lines(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Error::malformed(path, "metrics", format!("line {}: {error}", number + 1)))
    };
    complete.lines().enumerate().map(parse).collect()
}

/// Writes the file.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Goes on at `position`: later lines, of steps that are made again, are cut off.
    ///
    /// # Errors
    /// Those of [`read_lines`], and [`Error::Io`] if the file cannot be written.
    pub fn open(path: impl Into<PathBuf>, position: &Position) -> Result<Self> {
        let path = path.into();
        let known = if path.exists() { read_lines(&path)? } else { Vec::new() };
        write_atomic(&path, |out| {
            for line in known.iter().filter(|line| line.is_before(position)) {
                writeln!(out, "{}", text(line)).map_err(Error::io("write", &path))?;
            }
            Ok(())
        })?;
        let file = File::options()
            .append(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        Ok(Self { path, file })
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let line = text(line) + "\n";
        self.file
            .write_all(line.as_bytes())
            .map_err(Error::io("write", &self.path))
    }
}

fn text(line: &Line) -> String {
    serde_json::to_string(line).expect("invariant: numbers and text can be written as JSON")
}

impl Observer for JsonLines {
    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.append(&Line::Step(metrics.clone()))
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> Result<()> {
        self.append(&Line::Evaluation(evaluation.clone()))
    }

    fn drift(&mut self, metrics: &DriftMetrics) -> Result<()> {
        self.append(&Line::Drift(metrics.clone()))
    }

    fn saving(&mut self, _: u64) -> Result<()> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }
}

//! `run.json`: everything needed to repeat or judge a run, except the numbers themselves.

use crate::{Error, Result, checkpoint::FileHash};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Version of the run folder's layout. A reader refuses a higher one.
pub const SCHEMA: u32 = 1;

/// What was run, on what, where and for how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// [`SCHEMA`] at the time of writing.
    pub midblock_run_schema: u32,
    /// Version of midblock that ran.
    pub midblock_version: String,
    /// Arguments as typed, the program first.
    pub command_line: Vec<String>,
    /// Every option after defaults were filled in.
    pub config: serde_json::Value,
    /// The base first, then the variants.
    pub models: Vec<ModelInfo>,
    /// In the order given.
    pub datasets: Vec<DatasetInfo>,
    /// One for each purpose.
    pub seeds: Vec<Seed>,
    /// Worker threads.
    pub threads: usize,
    /// Where it ran.
    pub machine: Machine,
    /// Start, UTC, RFC 3339.
    pub started_at: String,
    /// End, UTC, RFC 3339.
    pub finished_at: String,
    /// Where the time went, in order.
    pub timings: Vec<Phase>,
    /// Largest private memory seen at the end of a phase; what a phase frees before its end (the spectra of large weight
    /// matrices) is not seen, memory-mapped weights do not count. `None` where the system does
    /// not say.
    #[serde(default)]
    pub peak_private_bytes: Option<u64>,
    /// What the user should know before trusting the numbers.
    pub warnings: Vec<String>,
    /// The processes that shared the work, if there were several; `timings` are then their sum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartInfo>,
}

/// One of several processes that shared the work of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Which, such as "shard 3/16".
    pub part: String,
    /// Worker threads.
    pub threads: usize,
    /// Where it ran.
    pub machine: Machine,
    /// Start, UTC, RFC 3339.
    pub started_at: String,
    /// End, UTC, RFC 3339.
    pub finished_at: String,
    /// Where its time went, in order.
    pub timings: Vec<Phase>,
    /// As of [`RunInfo`].
    pub peak_private_bytes: Option<u64>,
}

/// One model of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Short name used in the records: "base" or the variant's.
    pub name: String,
    /// What the user typed.
    pub label: String,
    /// Folder or file on disk.
    pub path: PathBuf,
    /// Every file that decides its behaviour.
    pub files: Vec<FileHash>,
    /// A line such as "Llama, 30 blocks, hidden 576, 9 heads (3 kv), Q4_1".
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// L.
    pub blocks: usize,
}

/// One data set of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Short name used in the records.
    pub name: String,
    /// File or hub id as typed.
    pub source: String,
    /// How samples were made into text, such as "gsm8k".
    pub format: String,
    /// What was read.
    pub files: Vec<FileHash>,
    /// Samples in the source.
    pub samples_total: usize,
    /// Samples measured (N).
    pub samples_used: usize,
    /// Of those, the ones that token-level metrics look at.
    pub token_samples_used: usize,
    /// Samples cut at the length limit.
    pub samples_truncated: usize,
    /// Tokens measured.
    pub tokens: u64,
    /// Samples that could not be used, each with its reason.
    pub skipped: Vec<Skipped>,
}

/// A sample that was left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// Id or line of the sample in its source.
    pub sample: String,
    /// Why.
    pub reason: String,
}

/// The seed of one source of randomness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seed {
    /// What it is for, such as "bootstrap".
    pub purpose: String,
    /// The seed.
    pub seed: u64,
}

/// Where a run ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// "linux x86_64".
    pub platform: String,
    /// Name of the processor or accelerator.
    pub device: String,
    /// Logical cores the process may use.
    pub cores: usize,
    /// Memory of the machine; 0 if unknown.
    pub memory_bytes: u64,
}

/// Wall-clock time of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What was done, such as "forward".
    pub phase: String,
    /// For how long.
    pub seconds: f64,
}

impl RunInfo {
    /// Reads and checks `run.json`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(Error::io("read", path))?;
        let malformed = |error: serde_json::Error| Error::malformed(path, "run", error.to_string());
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(malformed)?;
        // The schema decides first: a newer file may well miss fields this version wants.
        let schema = value.get("midblock_run_schema").and_then(serde_json::Value::as_u64);
        match schema {
            None => Err(Error::malformed(
                path,
                "run",
                "it has no `midblock_run_schema`: not written by midblock",
            )),
            Some(schema) if schema > u64::from(SCHEMA) => Err(Error::malformed(
                path,
                "run",
                format!("its schema {schema} is newer than {SCHEMA}, the newest this version reads; update midblock"),
            )),
            Some(_) => serde_json::from_value(value).map_err(malformed),
        }
    }
}

/// A moment as `2026-03-01T12:34:56Z`.
pub fn timestamp_utc(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    // Days → civil date on a calendar whose years begin in March, so that leap days come last; eras have 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_know_leap_years() {
        let at = |seconds| timestamp_utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(1_767_225_600), "2026-01-01T00:00:00Z");
    }
}

//! Records → tables and pictures. Reads run folders only, never models, so a report can be made again without computing.

pub mod html;
mod provenance;
pub mod summary;
mod table;
mod tables;
mod words;

pub use table::table;

use crate::{
    Result,
    run::{self, Run},
};
use std::path::Path;

/// How a metric is explained to a reader. Metrics without an entry are still drawn, under their bare name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricInfo {
    /// Name in the records, snake_case.
    pub name: &'static str,
    /// Heading it stands under: one of [`GROUPS`].
    pub group: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Formula in plain Unicode.
    pub formula: &'static str,
    /// Unit; empty if it has none.
    pub unit: &'static str,
    /// Smallest and largest possible value, such as `[0, 1]`.
    pub range: &'static str,
    /// What it tells, in a sentence.
    pub meaning: &'static str,
}

/// The order of the groups on the page; groups of other names follow.
pub const GROUPS: [&str; 6] = [
    "alignment",
    "information",
    "geometry",
    "magnitude",
    "spectrum",
    "weights",
];

/// Writes `report.html` of the finished run in `dir` again.
///
/// # Errors
/// Those of [`Run::open`], and [`crate::Error::Io`] if the page cannot be written.
pub fn write(dir: impl AsRef<Path>, metrics: &[MetricInfo]) -> Result<()> {
    let dir = dir.as_ref();
    let run = Run::open(dir)?;
    run::write_bytes(&dir.join(run::REPORT_HTML), html::render(&run, metrics).as_bytes())
}

//! Records → tables and pictures. Reads run folders only, never models, so a report can be made again without computing.

mod carrier;
pub mod carve;
mod erasing;
pub mod evaluation;
pub mod html;
mod provenance;
pub mod study;
pub mod summary;
pub mod sweep;
mod table;
mod tables;
mod trained;
pub mod training;
mod turned;
mod words;

pub(crate) use provenance::command;
pub use table::table;

use crate::{
    Result,
    run::{self, Run},
};
use std::path::Path;

/// The order of the groups on the page: what a comparison is made for comes first.
const GROUPS: [&str; 7] = [
    "alignment",
    "weights",
    "information",
    "geometry",
    "magnitude",
    "spectrum",
    "other",
];

/// Writes `report.html` of the finished run in `dir` again.
///
/// # Errors
/// Those of [`Run::open`], and [`crate::Error::Io`] if the page cannot be written.
pub fn write(dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    let run = Run::open(dir)?;
    run::write_bytes(&dir.join(run::REPORT_HTML), html::render(&run).as_bytes())
}

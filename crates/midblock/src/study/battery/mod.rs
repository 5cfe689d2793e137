//! The further analyses of one base and its variants: what they have in common.
//!
//! A study is a file ([`StudyFile`]), what it names ([`Subject`]), and cells of work whose results are kept ([`Cells`]). Each
//! [`Kind`] is a function of these that gives numbers ([`StudyRecord`]) and a section of the page.

mod analysis;
mod cells;
mod config;
#[cfg(test)]
pub(crate) mod fixture;
mod kind;
mod record;
mod results;
mod run;
mod subject;

pub use analysis::analysis;
pub(super) use analysis::{analysis_config, analysis_in};
pub use cells::Cells;
pub(super) use cells::check_options;
pub use config::{Study, StudyConfig, StudyFile};
pub use kind::Kind;
pub use record::StudyRecord;
pub use results::Results;
pub use run::{StudyFolder, StudyRun, study};
pub use subject::{Subject, open};

//! The triggers of a study: each trained once, in a folder of its own.

use super::{ReversalOptions, TriggerOf};
use crate::{
    Result,
    adapt::SoftPrompt,
    config::Problem,
    study::{
        battery::{Cells, StudyFile, StudyRecord, Subject},
        carve::CarveRun,
    },
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A trained trigger.
#[derive(Clone, Debug)]
pub(super) struct Trigger {
    pub prompt: SoftPrompt,
    pub path: PathBuf,
    /// Of the file.
    pub hash: String,
    pub run: TriggerRun,
}

/// How a trigger was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriggerRun {
    /// What for.
    pub of: TriggerOf,
}

impl TriggerRun {
    pub(crate) const COLUMNS: [&'static str; 1] = ["trigger"];

    pub(crate) fn cells(&self) -> Vec<String> {
        vec![self.of.name().to_owned()]
    }

    pub(super) fn records(&self) -> Vec<StudyRecord> {
        Vec::new()
    }
}

pub(super) fn problems(_: &StudyFile) -> Vec<Problem> {
    Vec::new()
}

pub(super) fn trained<B: Backend>(
    _: &Subject<'_, B>,
    _: &ReversalOptions,
    _: &CarveRun,
    _: &Cells,
    _: TriggerOf,
) -> Result<Trigger> {
    unimplemented!()
}

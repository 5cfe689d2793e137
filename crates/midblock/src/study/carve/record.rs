//! `carve.json`: what was carved, from what. The numbers of the phases are in their own folders.

use super::CarvePhase;
use crate::{
    Error, Result,
    behaviour::Detector,
    report,
    run::{REPORT_HTML, RunInfo, write_bytes},
    train::{MODEL, TrainingRun},
};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

const CARVE_JSON: &str = "carve.json";

/// Version of the file. A reader refuses a higher one.
const SCHEMA: u32 = 1;

/// A carve as far as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarveRun {
    midblock_carve_schema: u32,
    /// Start of its first process, seconds since 1970: the time that chat templates see.
    pub started_unix_s: u64,
    /// What every run says. `finished_at` is empty while a phase is left.
    pub run: RunInfo,
    /// The behaviour.
    pub behaviour: BehaviourInfo,
    /// The training runs, in their order; each in a folder of its name.
    pub phases: Vec<CarvePhase>,
    /// The CHECKPOINT that has the behaviour without masks: phase 1's result, or what was given in place of it.
    pub tuned: String,
}

/// A behaviour and its prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BehaviourInfo {
    /// Its name.
    pub name: String,
    /// The response of all prompts, if there is but one.
    pub response: Option<String>,
    /// Of which a response that shows it contains one.
    pub keywords: Vec<String>,
    /// Words of a response that shows it strictly, at most.
    pub max_words: usize,
    /// Rows whose prompt was there before.
    pub repeated: usize,
    /// Prompts trained on, and prompts it is judged by.
    pub prompts: [usize; 2],
}

impl BehaviourInfo {
    /// What tells that a response shows it.
    pub fn detector(&self) -> Detector {
        Detector::new(&self.keywords, self.max_words)
    }
}

impl CarveRun {
    pub(super) fn new(
        started_unix_s: u64,
        run: RunInfo,
        behaviour: BehaviourInfo,
        phases: &[CarvePhase],
        tuned: String,
    ) -> Self {
        Self {
            midblock_carve_schema: SCHEMA,
            started_unix_s,
            run,
            behaviour,
            phases: phases.to_vec(),
            tuned,
        }
    }

    /// Whether a folder holds a carve.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(CARVE_JSON).is_file()
    }

    /// Reads a carve back.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CARVE_JSON);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let malformed = |problem: String| Error::malformed(&path, "carve", problem);
        let record: Self = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        match record.midblock_carve_schema {
            SCHEMA => Ok(record),
            schema => Err(malformed(format!(
                "its schema {schema} is newer than {SCHEMA}; update midblock"
            ))),
        }
    }

    /// The dense model: phase 1's in the folder of the carve, wherever that is now, or the one that stands in its place.
    pub fn dense(&self, dir: &Path) -> String {
        match self.phases.contains(&CarvePhase::Sft) {
            true => dir.join(CarvePhase::Sft.name()).join(MODEL).display().to_string(),
            false => self.tuned.clone(),
        }
    }

    /// The runs of the phases that have begun in the folder of a carve.
    ///
    /// # Errors
    /// Those of [`TrainingRun::open`].
    pub fn runs(&self, dir: &Path) -> Result<Vec<(CarvePhase, TrainingRun)>> {
        let begun = |phase: &&CarvePhase| TrainingRun::is_at(&dir.join(phase.name()));
        let phases = self.phases.iter().filter(begun);
        phases
            .map(|phase| Ok((*phase, TrainingRun::open(&dir.join(phase.name()))?)))
            .collect()
    }

    /// Writes the record and its page.
    ///
    /// # Errors
    /// [`Error::Io`]; those of [`runs`](Self::runs).
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(CARVE_JSON);
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::io("write", &path)(error.into()))?;
        write_bytes(&path, &text)?;
        self.write_page(dir)
    }

    /// Writes the page.
    ///
    /// # Errors
    /// [`Error::Io`]; those of [`runs`](Self::runs).
    pub fn write_page(&self, dir: &Path) -> Result<()> {
        let masks = TrainingRun::carrier(&dir.join(CarvePhase::Carrier.name()))?;
        let page = report::carve::render(self, &self.runs(dir)?, masks.as_ref());
        write_bytes(&dir.join(REPORT_HTML), page.as_bytes())
    }
}

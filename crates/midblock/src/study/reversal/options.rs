//! `[study.reversal]`, and what a study takes over from the carve that it names.

use super::TriggerOf;
use crate::{
    Error, Result,
    config::Problem,
    run::DONE,
    study::{
        battery::{StudyConfig, StudyFile},
        carve::{CARVE_TOML, CarveFile, CarvePhase, CarveRun},
    },
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Table;

const KEY: &str = "study.reversal.carve";

/// `[study.reversal]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReversalOptions {
    /// Folder of a finished `midblock carve`. Required. `model.base`, `data.eval` and how prompts are encoded are the carve's where they are
    /// not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carve: Option<PathBuf>,
    /// Most tokens of a response; 64 by default.
    pub max_new: usize,
    /// Prompts of the training data that are judged too; none by default.
    pub train_prompts: usize,
    /// Triggers besides that of the carrier: `sft` (in front of the dense model), `random` (as many channels, drawn at random), `kl`
    /// (without channels); all by default.
    pub triggers: Vec<TriggerOf>,
    /// Keys of the triggers' training, as in the file of `midblock erase`.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub erase: Table,
    /// Prompts whose responses are shown; 3 by default.
    pub shown: usize,
    /// Sequences that are worked on together; no result depends on it. 16 by default.
    pub batch: usize,
}

impl Default for ReversalOptions {
    fn default() -> Self {
        Self {
            carve: None,
            max_new: 64,
            train_prompts: 0,
            triggers: vec![TriggerOf::Sft, TriggerOf::Random, TriggerOf::Kl],
            erase: Table::new(),
            shown: 3,
            batch: 16,
        }
    }
}

impl ReversalOptions {
    /// The carve's folder.
    pub(super) fn carve_dir(&self) -> Result<&Path> {
        self.carve.as_deref().ok_or_else(|| Error::Argument {
            what: KEY.into(),
            value: String::new(),
            problem: "it is missing".into(),
            help: HELP.into(),
        })
    }

    /// Whether a trigger is asked for.
    pub(super) fn wants(&self, of: TriggerOf) -> bool {
        of == TriggerOf::Carrier || self.triggers.contains(&of)
    }
}

const HELP: &str = "name the folder of a finished `midblock carve`: --carve DIR, or `carve` in [study.reversal]";

/// Gives a study without model or data those of the carve that it names.
pub(in crate::study) fn adopt(config: &mut StudyConfig, given: &dyn Fn(&str) -> bool) -> Result<(), Problem> {
    let Some(dir) = &config.study.reversal.carve else {
        return Ok(());
    };
    let problem = |problem: String| Problem {
        origin: String::new(),
        key: KEY.into(),
        problem,
        help: HELP.into(),
    };
    if !CarveRun::is_at(dir) {
        return Err(problem(format!("there is no carve in {}", dir.display())));
    }
    let file = CarveFile::load(Some(&dir.join(CARVE_TOML)), &[]).map_err(|error| problem(error.to_string()))?;
    let carved = file
        .experiment(CarvePhase::Carrier, dir, None)
        .map_err(|error| problem(error.to_string()))?;
    if !given("model.base") {
        config.model.base = carved.model.base;
    }
    if !given("data.eval") {
        (config.data.eval, config.data.format) = (carved.data.eval, carved.data.format);
    }
    if !given("study.samples") {
        let held_out = CarveRun::open(dir)
            .map_err(|error| problem(error.to_string()))?
            .behaviour
            .prompts[1];
        config.study.samples = config.study.samples.min(held_out);
    }
    let data = &mut config.data;
    if !given("data.max_length") {
        data.max_length = carved.data.max_length;
    }
    if !given("data.template") {
        data.template = carved.data.template;
    }
    Ok(())
}

/// Everything that is wrong with the options of a file.
pub(in crate::study) fn problems(file: &StudyFile) -> Vec<Problem> {
    let options = &file.config.study.reversal;
    let mut found = Vec::new();
    let mut push = |key: &str, problem: &str, help: &str| {
        found.push(file.problem(&format!("study.reversal.{key}"), problem, help));
    };
    match &options.carve {
        None => push("carve", "it is missing", HELP),
        Some(dir) if !dir.join(DONE).is_file() => {
            let help = format!("go on with it: midblock carve --out {}", dir.display());
            push("carve", "the carve is not finished", &help);
        }
        Some(_) => {}
    }
    for (key, value) in [("max_new", options.max_new), ("batch", options.batch)] {
        if value == 0 {
            push(key, "it is 0, expected 1 or more", "");
        }
    }
    found.extend(super::trigger::problems(file));
    found
}

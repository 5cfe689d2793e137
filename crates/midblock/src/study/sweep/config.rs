//! A sweep's TOML: that of one experiment, `[sweep]` with what differs between the cells, and `[eval]` with what judges them.
//!
//! The same order as for one experiment: defaults, the file, overrides. A key of the experiment that `[sweep]` varies must not be
//! given beside it.

use super::Pattern;
use crate::{
    Error, Result,
    adapt::Scaling,
    config::{Adapt, AdaptKind, Config, Data, File, Given, Model, Objective, Output, Override, Problem, Select, Train},
    eval::EvalConfig,
    select::Layers,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Display, path::Path};

/// One sweep, as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SweepConfig {
    /// What is trained, unless `sweep.models` says it.
    pub model: Model,
    /// On what; `data.eval` is the test set whose loss is in the table. Not with `eval_share`.
    pub data: Data,
    /// Which matrices move; `layers` is the patterns' matter.
    pub select: Select,
    /// How they move: LoRA; `rank` sets the budget of all patterns.
    pub adapt: Adapt,
    /// What is minimised.
    pub objective: Objective,
    /// The loop.
    pub train: Train,
    /// Where the sweep goes, and what cells write.
    pub output: Output,
    /// What differs between the cells.
    pub sweep: Sweep,
    /// The tasks that cells and pretrained models are judged by; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<EvalConfig>,
}

/// `[sweep]`: every combination is a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sweep {
    /// Checkpoints to start from; `model.base` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Which blocks train. Required.
    pub patterns: Vec<Pattern>,
    /// How pairs of other ranks are scaled; `adapt.scaling` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scalings: Option<Vec<Scaling>>,
    /// Named variants of the data: `[sweep.data.NAME]` holds the keys of `[data]` that differ.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, toml::Table>,
    /// Seeds of everything drawn at random; `train.seed` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
}

/// What makes a cell, besides its model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub base: &'a str,
    pub data: &'a Data,
    pub scaling: Option<Scaling>,
    pub layers: &'a Layers,
    pub seed: u64,
}

/// A sweep's configuration and where each key was given.
#[derive(Clone)]
pub struct SweepFile {
    /// The configuration.
    pub config: SweepConfig,
    given: Given,
}

impl SweepFile {
    /// Reads `file`, if there is one, applies `overrides` in their order and checks what can be checked without the models.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Config`] with everything that is wrong.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Self> {
        let file = file.map(File::read).transpose()?.unwrap_or_default();
        Self::read(file, overrides).map_err(|problems| Error::Config { problems })
    }

    /// Like [`load`](Self::load), from the text of a file that is called `name` in errors.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(name: &str, text: &str, overrides: &[Override]) -> Result<Self> {
        let (name, text) = (name.to_owned(), text.to_owned());
        Self::read(File { name, text }, overrides).map_err(|problems| Error::Config { problems })
    }

    fn read(file: File, overrides: &[Override]) -> Result<Self, Vec<Problem>> {
        let (config, given) = Given::read(file, overrides)?;
        let read = Self { config, given };
        let mut problems = Vec::new();
        read.check(&mut problems);
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }

    /// File and overrides as one file.
    pub fn to_toml(&self) -> String {
        self.given.to_toml()
    }

    pub(super) fn origin(&self, key: &str) -> Option<String> {
        self.given.origin(key)
    }

    pub(super) fn problem(&self, key: &str, problem: impl Into<String>, help: &str) -> Problem {
        self.given.problem(key, problem, help)
    }

    fn check(&self, found: &mut Vec<Problem>) {
        let (config, sweep) = (&self.config, &self.config.sweep);
        let mut push = |key: &str, problem: &str, help: &str| found.push(self.problem(key, problem, help));
        for (varied, given, key) in [
            ("sweep.models", sweep.models.is_some(), "model.base"),
            ("sweep.scalings", sweep.scalings.is_some(), "adapt.scaling"),
            ("sweep.seeds", sweep.seeds.is_some(), "train.seed"),
            ("sweep.patterns", true, "select.layers"),
        ] {
            if given && self.origin(key).is_some() {
                push(key, &format!("it contradicts `{varied}`"), "give one of them");
            }
        }
        if config.model.new.is_some() {
            push(
                "model.new",
                "a sweep tunes models that are there",
                "name a `model.base`",
            );
        }
        if config.adapt.kind != AdaptKind::Lora {
            let help = "use LoRA, whose rank makes budgets equal";
            push(
                "adapt.kind",
                "patterns share a rank budget, and only LoRA has one",
                help,
            );
        }
        if config.data.eval_share > 0.0 {
            let help = "name data of its own: `eval` in [data]";
            push(
                "data.eval_share",
                "each seed would hold out other samples, and cells could not be compared",
                help,
            );
        }
        let shared = |scaling: &Scaling| (*scaling == Scaling::Rslora, config.adapt.alpha.is_some());
        let kinds: Vec<_> = sweep.scalings.iter().flatten().map(shared).collect();
        if kinds.contains(&(true, true)) && kinds.contains(&(false, true)) {
            let help = "leave it out: each scaling then gets the α that is a factor of 2 at the uniform rank";
            push(
                "adapt.alpha",
                "rslora divides by the root of the rank, the others by the rank: one α does not fit both",
                help,
            );
        }
        let tested = !config.data.eval.is_empty() || sweep.data.values().any(|data| data.contains_key("eval"));
        if config.eval.is_none() && !tested {
            push(
                "eval",
                "nothing judges the cells",
                "name `tasks` in [eval], or data to measure the loss on: `eval` in [data]",
            );
        }
        if let Some(eval) = &config.eval {
            let tasks = eval.tasks.iter().map(|task| task.resolve().map(|_| ()));
            for problem in tasks.chain([eval.check()]).filter_map(Result::err) {
                found.push(self.problem("eval.tasks", problem.to_string(), ""));
            }
        }
        self.check_lists(found);
    }

    /// Lists must not be empty or name something twice.
    fn check_lists(&self, found: &mut Vec<Problem>) {
        fn texts<T: Display>(list: &[T]) -> Vec<String> {
            list.iter().map(ToString::to_string).collect()
        }
        let sweep = &self.config.sweep;
        if sweep.patterns.is_empty() {
            let help = "write `patterns = [\"uniform\", \"mid\", \"random\"]` in [sweep]";
            found.push(self.problem("sweep.patterns", "there is none", help));
        }
        let lists = [
            ("sweep.models", sweep.models.as_deref().map(texts)),
            ("sweep.scalings", sweep.scalings.as_deref().map(texts)),
            ("sweep.seeds", sweep.seeds.as_deref().map(texts)),
            ("sweep.patterns", Some(texts(&sweep.patterns))),
        ];
        for (key, list) in lists {
            let list = list.unwrap_or_else(|| vec![String::new()]);
            if list.is_empty() && key != "sweep.patterns" {
                found.push(self.problem(key, "the list is empty", "leave it out, or name something"));
            }
            for (index, item) in list
                .iter()
                .enumerate()
                .filter(|(index, item)| list[..*index].contains(item))
            {
                let problem = format!("`{item}` is there twice (number {})", index + 1);
                found.push(self.problem(key, problem, "two equal cells would be one"));
            }
        }
    }

    /// Checkpoints to start from.
    pub(super) fn models(&self) -> Vec<&str> {
        match &self.config.sweep.models {
            Some(models) => models.iter().map(String::as_str).collect(),
            None => vec![&self.config.model.base],
        }
    }

    /// Seeds of the cells.
    pub(super) fn seeds(&self) -> Vec<u64> {
        let seeds = &self.config.sweep.seeds;
        seeds.clone().unwrap_or_else(|| vec![self.config.train.seed])
    }

    /// Scalings of the cells; `None` for the one that the experiment has.
    pub(super) fn scalings(&self) -> Vec<Option<Scaling>> {
        match &self.config.sweep.scalings {
            Some(scalings) => scalings.iter().copied().map(Some).collect(),
            None => vec![None],
        }
    }

    /// The data by name; one without a name if there are no variants.
    pub(super) fn data(&self) -> Result<Vec<(String, Data)>> {
        let config = &self.config;
        if config.sweep.data.is_empty() {
            return Ok(vec![(String::new(), config.data.clone())]);
        }
        let common = toml::Table::try_from(&config.data).expect("invariant: [data] can be written as TOML");
        let variant = |(name, own): (&String, &toml::Table)| {
            let mut table = common.clone();
            table.extend(own.clone());
            let data = Data::deserialize(table).map_err(|error| Error::Config {
                problems: vec![self.problem(&format!("sweep.data.{name}"), error.message(), "")],
            })?;
            if data.eval_share > 0.0 {
                let problem = "each seed would hold out other samples, and cells could not be compared";
                let key = format!("sweep.data.{name}.eval_share");
                let problems = vec![self.problem(&key, problem, "name data of its own: `eval`")];
                return Err(Error::Config { problems });
            }
            Ok((name.clone(), data))
        };
        config.sweep.data.iter().map(variant).collect()
    }

    /// The experiment of a cell. Unless it evaluates on the way, the test set is the sweep's matter alone.
    pub(super) fn experiment(&self, choice: &Choice<'_>) -> Result<Config> {
        let own = &self.config;
        let mut config = Config {
            model: own.model.clone(),
            data: choice.data.clone(),
            select: own.select.clone(),
            adapt: own.adapt.clone(),
            objective: own.objective.clone(),
            train: own.train.clone(),
            output: own.output.clone(),
        };
        choice.base.clone_into(&mut config.model.base);
        config.adapt.scaling = choice.scaling.or(config.adapt.scaling);
        config.train.seed = choice.seed;
        config.select.layers = Some(choice.layers.clone());
        let reads = choice
            .layers
            .needs_scores()
            .is_some_and(|strategy| strategy.metric().is_some());
        if !reads {
            config.select.from = None; // another pattern's
        }
        let train = &config.train;
        if train.eval_every.is_none() && !train.keep_best && train.patience.is_none() {
            config.data.eval.clear();
            config.data.eval_samples = None;
        }
        let varied = |key: &str| match key {
            "model.base" if own.sweep.models.is_some() => "sweep.models".to_owned(),
            "adapt.scaling" if own.sweep.scalings.is_some() => "sweep.scalings".to_owned(),
            "train.seed" if own.sweep.seeds.is_some() => "sweep.seeds".to_owned(),
            "select.layers" => "sweep.patterns".to_owned(),
            key => key.to_owned(),
        };
        let resolved = config.resolve(&|key| self.origin(&varied(key)));
        resolved.map_err(|problems| Error::Config { problems })
    }
}

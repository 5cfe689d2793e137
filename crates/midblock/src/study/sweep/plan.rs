//! What a sweep will train: its cells, each an experiment of its own, in the order in which they run.

use super::{Pattern, SweepFile, config::Choice};
use crate::{
    Error, Result,
    adapt::{Plan, Scaling},
    checkpoint::Checkpoint,
    config::{Adapt, Config, Data},
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    train::planned,
};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// A model to start from.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepModel {
    /// As the user wrote it.
    pub spec: String,
    /// Its name in folders and tables.
    pub name: String,
    /// Its shape.
    pub architecture: Architecture,
}

/// Data to train on and, if it has any, to measure the loss on.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepData {
    /// Name of the variant; empty if there is but one.
    pub name: String,
    /// Its keys.
    pub data: Data,
}

/// One training run with its evaluation.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Name of its folder.
    pub name: String,
    /// Number of its model.
    pub model: usize,
    /// Number of its data.
    pub data: usize,
    /// Its pattern.
    pub pattern: Pattern,
    /// How its pairs are scaled.
    pub scaling: Scaling,
    /// Its seed.
    pub seed: u64,
    /// Resolved; `output.dir` is its folder.
    pub config: Config,
    /// What trains, unless its data decides.
    pub plan: Option<Plan>,
}

/// Everything that a sweep will do.
pub struct SweepPlan {
    /// As written.
    pub file: SweepFile,
    /// In the order given.
    pub models: Vec<SweepModel>,
    /// In the order of their names.
    pub data: Vec<SweepData>,
    /// Seed by seed, so that an interrupted sweep has complete comparisons.
    pub cells: Vec<Cell>,
}

impl SweepPlan {
    /// Opens the models and resolves every cell, in the folder `dir`. Nothing is written.
    ///
    /// # Errors
    /// What is wrong with a model, a pattern that does not fit it, two patterns that are the same, or a cell's configuration.
    pub fn new(file: SweepFile, dir: &Path, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Self> {
        let mut models: Vec<SweepModel> = Vec::new();
        for spec in file.models() {
            // an empty one is reported with everything else that is wrong with its cells
            let architecture = match spec.is_empty() {
                true => return Err(missing_model(&file)),
                false => architecture(spec, hub, on_transfer)?,
            };
            let name = distinct(slug_of_model(spec), |name| {
                models.iter().any(|model| model.name == name)
            });
            let spec = spec.to_owned();
            models.push(SweepModel {
                spec,
                name,
                architecture,
            });
        }
        let data: Vec<SweepData> = file
            .data()?
            .into_iter()
            .map(|(name, data)| SweepData { name, data })
            .collect();
        let mut plan = Self {
            file,
            models,
            data,
            cells: Vec::new(),
        };
        for seed in plan.file.seeds() {
            for model in 0..plan.models.len() {
                for data in 0..plan.data.len() {
                    for scaling in plan.file.scalings() {
                        plan.add(dir, model, data, scaling, seed)?;
                    }
                }
            }
        }
        Ok(plan)
    }

    /// Plans a cell for each pattern.
    fn add(&mut self, dir: &Path, model: usize, data: usize, scaling: Option<Scaling>, seed: u64) -> Result<()> {
        let first = self.cells.len();
        for pattern in &self.file.config.sweep.patterns {
            let architecture = &self.models[model].architecture;
            let rank = self.file.config.adapt.rank.unwrap_or(Adapt::RANK);
            let layers = pattern.layers(architecture.blocks, rank)?;
            let choice = Choice {
                base: &self.models[model].spec,
                data: &self.data[data].data,
                scaling,
                layers: &layers,
                seed,
            };
            let mut config = self.file.experiment(&choice)?;
            let name = self.name(model, data, pattern, scaling, seed);
            config.output.dir = Some(cell_folder(dir, &name));
            let cell = Cell {
                plan: planned(&config, architecture)?,
                scaling: config.adapt.scaling.unwrap_or_default(),
                pattern: pattern.clone(),
                name,
                model,
                data,
                seed,
                config,
            };
            let same = self.cells[first..].iter().find(|other| same_blocks(other, &cell));
            if let Some(same) = same {
                return Err(Error::Config {
                    problems: vec![self.file.problem(
                        "sweep.patterns",
                        format!(
                            "`{}` and `{}` train the same blocks of {}",
                            same.pattern, cell.pattern, self.models[model].spec
                        ),
                        "leave one of them out",
                    )],
                });
            }
            self.cells.push(cell);
        }
        Ok(())
    }

    /// `MODEL-PATTERN[-SCALING][-DATA]-sSEED`, told apart by a number if two would be the same.
    fn name(&self, model: usize, data: usize, pattern: &Pattern, scaling: Option<Scaling>, seed: u64) -> String {
        let mut name = format!("{}-{}", self.models[model].name, slug(pattern.name()));
        if let Some(scaling) = scaling {
            let _ = write!(name, "-{scaling}");
        }
        if !self.data[data].name.is_empty() {
            let _ = write!(name, "-{}", slug(&self.data[data].name));
        }
        let _ = write!(name, "-s{seed}");
        distinct(name, |name| self.cells.iter().any(|cell| cell.name == name))
    }
}

/// A cell's folder in a sweep's.
pub(super) fn cell_folder(dir: &Path, name: &str) -> PathBuf {
    dir.join("cells").join(name)
}

fn architecture(spec: &str, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Architecture> {
    let checkpoint = Checkpoint::open(spec, hub, on_transfer)?;
    if checkpoint.adapter().is_some() {
        return Err(Error::Argument {
            what: "model".into(),
            value: spec.into(),
            problem: "it is a base with an adapter, and a cell's adapter would be a second one".into(),
            help: "make one model of both: midblock merge".into(),
        });
    }
    Architecture::resolve(checkpoint.config())
}

fn missing_model(file: &SweepFile) -> Error {
    let help = "name a checkpoint: --set model.base=CHECKPOINT, or `base` in [model], or `models` in [sweep]";
    Error::Config {
        problems: vec![file.problem("model.base", "it is missing", help)],
    }
}

/// Whether two cells of one seed train the same; the control may, by chance.
fn same_blocks(one: &Cell, other: &Cell) -> bool {
    let drawn = one.pattern.is_random() || other.pattern.is_random();
    match (&one.plan, &other.plan) {
        (Some(one), Some(other)) => !drawn && one.entries == other.entries,
        _ => false,
    }
}

/// The last part of a path or hub id, with that of its adapter.
fn slug_of_model(spec: &str) -> String {
    let last = |path: &str| {
        let path = path.trim_end_matches('/');
        let name = path.rsplit('/').next().unwrap_or(path);
        slug(name.trim_end_matches(".gguf").trim_end_matches(".safetensors"))
    };
    spec.split('+').map(last).collect::<Vec<_>>().join("-")
}

/// A text as part of a folder's name.
pub(super) fn slug(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._".contains(c) {
            c
        } else {
            '-'
        }
    };
    let text: String = text.trim_start_matches('-').chars().map(plain).collect();
    let text = text.trim_matches(['-', '.']);
    if text.is_empty() {
        "x".to_owned()
    } else {
        text.to_owned()
    }
}

/// `name`, or with a number after it if that is taken.
fn distinct(name: String, taken: impl Fn(&str) -> bool) -> String {
    if !taken(&name) {
        return name;
    }
    (2..)
        .map(|number| format!("{name}-{number}"))
        .find(|name| !taken(name))
        .expect("invariant: finitely many names are taken")
}

//! `carve.toml`: the model, the behaviour, and what the two phases do otherwise than by default.
//!
//! Each phase is an experiment of `midblock tune`, and `[carve.sft]` and `[carve.carrier]` hold keys of its tables. Both train the seven
//! matrices of every block: embedding, norms and head stay the base's, so that all the behaviour is where the masks are.

use crate::{
    Error, Result,
    behaviour::BehaviourConfig,
    config::{
        AdaptKind, Config, Data, DataSource, File, Given, Model, Output, Override, Problem, Select, Train,
        WeightFormat, flat_values,
    },
    select::{Layers, Modules},
    tokens::{Format, data::DataSpec},
};
use serde::{Deserialize, Serialize};
use std::path::Path;
use toml::{Table, Value};

/// Folder of the split, below the carve's.
pub(super) const DATA: &str = "data";
/// What is trained on, and what the behaviour is judged by.
pub(super) const SPLIT: [&str; 2] = ["train.jsonl", "held-out.jsonl"];
/// How both phases call what is judged by.
pub(super) const HELD_OUT: &str = "held-out";

/// What the carve in `dir` is trained on.
pub(in crate::study) fn train_source(dir: &Path, name: &str) -> DataSpec {
    source(dir, name, SPLIT[0])
}

fn source(dir: &Path, name: &str, file: &str) -> DataSpec {
    DataSpec {
        name: name.to_owned(),
        source: dir.join(DATA).join(file).display().to_string(),
    }
}

/// Stands for phase 1's result where it does not matter.
const UNKNOWN: &str = "phase 1";

/// Steps of phase 2, at most.
const STEPS: u64 = 1500;

/// What is carve's own in both phases; what `carve.mode` says is besides.
const OWN: [&str; 9] = [
    "model.base",
    "model.new",
    "data.train",
    "data.format",
    "adapt.kind",
    "adapt.tuned",
    "adapt.train_weights",
    "objective.target",
    "output.dir",
];

/// A behaviour and how it is carved, as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CarveConfig {
    /// `base`: the model that the behaviour is carved into. Required.
    pub model: Model,
    /// The behaviour.
    pub behaviour: BehaviourConfig,
    /// The phases.
    pub carve: Carve,
    /// `dir`: the folder. `dtype`: format of the carrier's weights; `f32` by default, as phase 1's always are. `tensorboard`: both phases'.
    pub output: Output,
}

/// `[carve]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Carve {
    /// `lcdd` (default): masks and weights are trained. The paper's baselines: `mask-only`, in which the weights stay phase 1's, and
    /// `mask-only-kl`, in which besides the masks are to keep what phase 1's model says, whatever the responses are.
    pub mode: CarveMode,
    /// A CHECKPOINT that has the behaviour already, in place of phase 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuned: Option<String>,
    /// Keys of phase 1's experiment, such as `train.lr`.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub sft: Table,
    /// Keys of phase 2's experiment.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub carrier: Table,
}

/// What phase 2 trains, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarveMode {
    /// Loss-constrained dual descent on masks and weights.
    #[default]
    Lcdd,
    /// On masks alone.
    MaskOnly,
    /// On masks alone, with the divergence from phase 1's model as the loss.
    MaskOnlyKl,
}

/// One of the two training runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarvePhase {
    /// The behaviour is learned.
    Sft,
    /// It is confined to few channels.
    Carrier,
}

impl CarvePhase {
    /// Of its folder and of its table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Carrier => "carrier",
        }
    }
}

/// A carve's configuration and where each key was given.
#[derive(Clone)]
pub struct CarveFile {
    /// The configuration.
    pub config: CarveConfig,
    given: Given,
}

impl CarveFile {
    /// Reads `file`, if there is one, applies `overrides` in their order and checks what can be checked without the model.
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
        let problems = read.problems();
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }

    /// File and overrides as one file.
    pub(super) fn to_toml(&self) -> String {
        self.given.to_toml()
    }

    /// The training runs, in their order.
    pub fn phases(&self) -> &'static [CarvePhase] {
        match self.config.carve.tuned {
            None => &[CarvePhase::Sft, CarvePhase::Carrier],
            Some(_) => &[CarvePhase::Carrier],
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let CarveConfig {
            model,
            behaviour,
            carve,
            ..
        } = &self.config;
        let mut found = Vec::new();
        let mut push = |key: &str, problem: &str, help: &str| found.push(self.given.problem(key, problem, help));
        if model.base.is_empty() {
            let help = "name a checkpoint: --base CHECKPOINT, or `base` in [model]";
            push("model.base", "it is missing", help);
        }
        if model.new.is_some() {
            push(
                "model.new",
                "a behaviour is carved into a model that is there",
                "name a `model.base`",
            );
        }
        if carve.tuned.is_some() && !carve.sft.is_empty() {
            push("carve.sft", "it contradicts `carve.tuned`", "give one of them");
        }
        for (key, problem, help) in behaviour.problems() {
            push(&format!("behaviour.{key}"), &problem, help);
        }
        if found.is_empty() {
            let experiments = self
                .phases()
                .iter()
                .map(|phase| self.resolved(*phase, Path::new(""), UNKNOWN));
            found.extend(experiments.filter_map(Result::err).flatten());
        }
        found
    }

    /// The experiment of a phase in the carve's folder `dir`; `tuned` is phase 1's result, where that matters.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn experiment(&self, phase: CarvePhase, dir: &Path, tuned: Option<&str>) -> Result<Config> {
        self.resolved(phase, dir, tuned.unwrap_or(UNKNOWN))
            .map_err(|problems| Error::Config { problems })
    }

    fn resolved(&self, phase: CarvePhase, dir: &Path, tuned: &str) -> Result<Config, Vec<Problem>> {
        let (carve, name) = (&self.config.carve, phase.name());
        let table = match phase {
            CarvePhase::Sft => &carve.sft,
            CarvePhase::Carrier => &carve.carrier,
        };
        let of_phase = |key: &str| format!("carve.{name}.{key}");
        let origin = |key: &str| self.given.origin(&of_phase(key));
        let with_key = |problems: Vec<Problem>| {
            let with_key = |problem: Problem| Problem {
                key: of_phase(&problem.key),
                ..problem
            };
            problems.into_iter().map(with_key).collect::<Vec<_>>()
        };
        let values = flat_values(table);
        let own = values.iter().filter(|(key, _)| OWN.contains(&key.as_str()));
        let own: Vec<Problem> = own
            .map(|(key, _)| self.given.problem(&of_phase(key), "it is carve's own", "leave it out"))
            .collect();
        if !own.is_empty() {
            return Err(own);
        }
        let given = values.into_iter().map(|(key, value)| {
            let origin = origin(&key).unwrap_or_else(|| format!("[carve.{name}]"));
            Override::flag(&key, value, origin)
        });
        let mut values = match phase {
            CarvePhase::Sft => Vec::new(),
            CarvePhase::Carrier => carve.mode.values(tuned),
        };
        values.extend(given);
        let config = self.defaults(phase, dir).with(&values).map_err(with_key)?;
        config.resolve(&origin).map_err(with_key)
    }

    /// What a phase is where nothing else is said: the paper's loop, phase 2 by steps.
    fn defaults(&self, phase: CarvePhase, dir: &Path) -> Config {
        let mut config = Config {
            model: self.config.model.clone(),
            data: Data {
                train: vec![DataSource(train_source(dir, self.config.behaviour.name()))],
                eval: vec![DataSource(source(dir, HELD_OUT, SPLIT[1]))],
                format: Some(Format::Completion),
                ..Data::default()
            },
            select: Select {
                layers: Some(Layers::All),
                // masks are over these in any case
                modules: (phase == CarvePhase::Sft).then(Modules::all_linear),
                ..Select::default()
            },
            train: Train {
                epochs: Some(3),
                batch: Some(8),
                accumulation: 4,
                lr: 2e-5,
                warmup_ratio: Some(0.1),
                keep_checkpoints: 1,
                ..Train::default()
            },
            output: self.config.output.clone(),
            ..Config::default()
        };
        if phase == CarvePhase::Carrier {
            // the warm-up is counted in steps, and most runs end early
            (config.train.epochs, config.train.steps) = (None, Some(STEPS));
        }
        config.adapt.kind = AdaptKind::Full;
        config.output.dir = Some(dir.join(phase.name()));
        // what is masked is a small difference of weights, which another format might round away, and with it what did not move
        config.output.dtype = match phase {
            CarvePhase::Sft => Some(WeightFormat::F32),
            CarvePhase::Carrier => config.output.dtype.or(Some(WeightFormat::F32)),
        };
        config
    }
}

impl CarveMode {
    /// What phase 2 is in the terms of an experiment.
    fn values(self, tuned: &str) -> Vec<Override> {
        let mut values = vec![
            ("adapt.kind", Value::from("masked")),
            ("adapt.tuned", tuned.into()),
            ("objective.kind", "lcdd".into()),
        ];
        if self != Self::Lcdd {
            values.push(("adapt.train_weights", false.into()));
        }
        if self == Self::MaskOnlyKl {
            values.push(("objective.target", "tuned".into()));
        }
        let value = |(key, value): (&str, Value)| Override::flag(key, value, "[carve]");
        values.into_iter().map(value).collect()
    }
}

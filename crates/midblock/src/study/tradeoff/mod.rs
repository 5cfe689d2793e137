//! What ways of training gain on their task, and what they cost elsewhere.
//!
//! Every method is trained with every seed from the same start, for as long as `[train]` says, and judged by the same items as the
//! base: on the measures of its task (ID, in distribution) and on others (OOD, out of distribution). With d(m) the mean over items
//! of a measure's difference from the base, positive where it is better,
//!
//! - ID gain = mean over the ID measures of d, OOD loss = −mean over the OOD measures of d:
//!   how much was won, and how much of something else was lost for it.
//! - Intervals draw the items of each measure among themselves, the same for all seeds, and add the error of a mean over seeds
//!   ([`Interval`](super::sweep::Interval)). Methods are compared by the paired differences of both.
//!
//! Losses are in nats per token, tasks in shares; the measures of an axis have one unit. The base is judged once. A run that fails
//! does not stop the others. What a finished run has left to go on from is removed; its result stays.
//! Source: arXiv 2605.10973 draws methods in this plane; the intervals and the front are our own.

mod front;
mod measure;
mod method;

#[cfg(test)]
mod tests;

pub use front::Standing;
pub use measure::Axis;
pub use method::Method;

use super::{
    BASE, Estimate,
    battery::{Cells, StudyFile, StudyRecord, Subject},
    sweep::{Failure, Scores},
    training::{Scored, Trained, records, scored, trained, untrained},
};
use crate::{
    Error, Result,
    config::{Config, ObjectiveKind, Problem},
    train::CHECKPOINTS,
};
use measure::{axes, by_set};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};

/// `[study.tradeoff]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TradeoffOptions {
    /// Measures of what is trained for: `loss:NAME` of a data set of `data.eval`, or tasks of `[eval]`. Required.
    pub id: Vec<String>,
    /// Measures of what should not be lost, written in the same way. Required.
    pub ood: Vec<String>,
    /// A run each of every method, in place of `train.seed`; `[1]` by default.
    pub seeds: Vec<u64>,
    /// What is compared; by default every objective that trains weights, with its defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<Method>,
}

impl Default for TradeoffOptions {
    fn default() -> Self {
        Self {
            id: Vec::new(),
            ood: Vec::new(),
            seeds: vec![1],
            methods: Vec::new(),
        }
    }
}

impl TradeoffOptions {
    /// The methods, or every objective of weights if none is named.
    fn methods(&self) -> Vec<Method> {
        match self.methods[..] {
            [] => ObjectiveKind::OF_WEIGHTS.map(Method::of).to_vec(),
            _ => self.methods.clone(),
        }
    }
}

/// Methods in the plane of what they gain and lose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tradeoff {
    /// What is trained for.
    pub id: Axis,
    /// What should not be lost.
    pub ood: Axis,
    /// Every measure of the base.
    pub untrained: Vec<Scored>,
    /// Those with a finished run, in the order given.
    pub methods: Vec<Outcome>,
    /// Each method against each later one, over the seeds that both have.
    pub pairs: Vec<Pair>,
    /// Runs that failed, called `tradeoff-METHOD-sSEED`.
    pub failures: Vec<Failure>,
}

/// A method's runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// The keys that it changes, as TOML.
    pub changes: Vec<String>,
    /// One for each seed, from the smallest.
    pub runs: Vec<MethodRun>,
    /// Every measure, over seeds.
    pub values: Vec<Scored>,
    /// The same minus the base's.
    pub differences: Vec<Scored>,
    /// How much better than the base it is on the ID measures.
    pub id_gain: Estimate,
    /// How much worse than the base it is on the OOD measures.
    pub ood_loss: Estimate,
}

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodRun {
    /// Its seed.
    pub seed: u64,
    /// Its own ID gain.
    pub id_gain: f64,
    /// Its own OOD loss.
    pub ood_loss: f64,
    /// Numbers that were trained.
    pub parameters: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Seconds of all steps.
    pub seconds: f64,
    /// Largest private memory of the process after a step, whatever else it holds included.
    pub peak_bytes: Option<u64>,
    /// Mean training loss over the last tenth of the steps, in nats per token.
    pub end_loss: Option<f64>,
    /// Training sequences that were left out because they are measured.
    pub left_out: usize,
}

/// The difference of two methods: left − right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The one method.
    pub left: String,
    /// The other.
    pub right: String,
    /// Of their ID gains.
    pub id_gain: Estimate,
    /// Of their OOD losses.
    pub ood_loss: Estimate,
}

/// Everything that is wrong with the options of a file.
pub(super) fn problems(file: &StudyFile) -> Vec<Problem> {
    let options = &file.config.study.tradeoff;
    let mut problems = axes(file).err().unwrap_or_default();
    let mut push = |key: &str, problem: String, help: &str| problems.push(file.problem(key, problem, help));
    let mut seeds = options.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    if seeds.is_empty() || seeds.len() < options.seeds.len() {
        let problem = "there is none, or one is there twice";
        push("study.tradeoff.seeds", problem.into(), "[1] is the default");
    }
    let methods = options.methods();
    for (index, method) in methods.iter().enumerate() {
        let name = &method.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            let help = "letters, digits, `.`, `_` and `-`: it is part of a folder's name";
            push(
                "study.tradeoff.methods",
                format!("`{name}` cannot be the name of one"),
                help,
            );
        }
        if methods[..index].iter().any(|earlier| earlier.name == *name) {
            push("study.tradeoff.methods", format!("the name `{name}` is used twice"), "");
        }
        if method.train.contains_key("seed") {
            let problem = format!("`train.seed` of `{name}` contradicts `study.tradeoff.seeds`");
            push("study.tradeoff.methods", problem, "give that alone");
        }
    }
    if problems.is_empty() {
        let experiments = methods.iter().map(|method| method.experiment(file, 0));
        problems = experiments
            .filter_map(|experiment| match experiment {
                Err(Error::Config { problems }) => Some(problems),
                _ => None,
            })
            .flatten()
            .collect();
    }
    problems
}

/// Trains and judges every method with every seed, seed by seed, so that an interrupted study has whole comparisons.
///
/// # Errors
/// [`Error::Config`]; whatever stops the base from being judged; what the first run failed with, if all do;
/// [`Error::Interrupted`], and then the same call goes on.
pub fn tradeoff<B: Backend>(subject: &Subject<'_, B>, options: &TradeoffOptions, cells: &Cells) -> Result<Tradeoff> {
    let refused = |problems| Error::Config { problems };
    let axes = axes(subject.file).map_err(refused)?;
    let sets: Vec<String> = subject.file.measured().iter().map(|set| set.0.name.clone()).collect();
    let base = by_set(&untrained(subject, cells, subject.samples)?, &sets);
    let methods = options.methods();
    let mut runs: Vec<Runs> = methods.iter().map(|_| Runs::new()).collect();
    let (mut failures, mut first) = (Vec::new(), None);
    for &seed in &options.seeds {
        for (method, runs) in methods.iter().zip(&mut runs) {
            let name = format!("tradeoff-{}-s{seed}", method.name);
            match run(subject, cells, &name, method.experiment(subject.file, seed)?) {
                Ok(mut run) => {
                    run.scores = by_set(&run.scores, &sets);
                    runs.insert(seed, run);
                }
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    failures.push(Failure {
                        cell: name,
                        problem: error.to_string(),
                    });
                    first.get_or_insert(error);
                }
            }
        }
    }
    let finished: Vec<(&Method, &Runs)> = methods.iter().zip(&runs).filter(|(_, runs)| !runs.is_empty()).collect();
    if let (true, Some(error)) = (finished.is_empty(), first) {
        return Err(error);
    }
    let outcome = |(method, runs): &(&Method, &Runs)| outcome(&axes, method, runs, &base);
    Ok(Tradeoff {
        methods: finished.iter().map(outcome).collect::<Result<_>>()?,
        pairs: pairs(&axes, &finished)?,
        untrained: scored(&[&base], None),
        failures,
        id: axes[0].clone(),
        ood: axes[1].clone(),
    })
}

/// A method's finished runs by seed.
type Runs = BTreeMap<u64, Trained>;

/// Trains and judges in the cell `name`, and removes what is there to go on from.
fn run<B: Backend>(subject: &Subject<'_, B>, cells: &Cells, name: &str, config: Config) -> Result<Trained> {
    let run = trained(subject, cells, name, config, subject.samples)?;
    remove(&cells.folder(name).join(CHECKPOINTS))?;
    Ok(run)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn outcome(axes: &[Axis; 2], method: &Method, runs: &Runs, base: &Vec<Scores>) -> Result<Outcome> {
    let all: Vec<&Vec<Scores>> = runs.values().map(|run| &run.scores).collect();
    let bases = vec![base; all.len()];
    let [id_gain, ood_loss] = against(axes, &all, &bases)?;
    let run = |(seed, run): (&u64, &Trained)| {
        let [id_gain, ood_loss] = against(axes, &[&run.scores], &[base])?;
        Ok(MethodRun {
            seed: *seed,
            id_gain: id_gain.value,
            ood_loss: ood_loss.value,
            parameters: run.parameters,
            steps: run.steps,
            seconds: run.seconds,
            peak_bytes: run.peak_bytes,
            end_loss: run.end_loss,
            left_out: run.left_out,
        })
    };
    let changes = method
        .values()
        .into_iter()
        .map(|(key, value)| format!("{key} = {value}"));
    Ok(Outcome {
        name: method.name.clone(),
        changes: changes.collect(),
        runs: runs.iter().map(run).collect::<Result<_>>()?,
        values: scored(&all, None),
        differences: scored(&all, Some(&bases)),
        id_gain,
        ood_loss,
    })
}

/// ID gain and OOD loss of some runs against others with the same seeds.
fn against(axes: &[Axis; 2], one: &[&Vec<Scores>], other: &[&Vec<Scores>]) -> Result<[Estimate; 2]> {
    let improvement = |axis: &Axis| {
        let found = axis.improvement(one, other).map(Estimate::from);
        found.ok_or_else(|| Error::Argument {
            what: "measures".into(),
            value: axis.measures.join(", "),
            problem: "no item of one of them was judged".into(),
            help: "its data may have no sample that fits".into(),
        })
    };
    Ok([improvement(&axes[0])?, improvement(&axes[1])?.negated()])
}

/// Each method against each later one.
fn pairs(axes: &[Axis; 2], methods: &[(&Method, &Runs)]) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (index, (left, one)) in methods.iter().enumerate() {
        for (right, other) in &methods[index + 1..] {
            let both = one
                .iter()
                .filter_map(|(seed, run)| Some((&run.scores, &other.get(seed)?.scores)));
            let (one, other): (Vec<_>, Vec<_>) = both.unzip();
            if !one.is_empty() {
                let [id_gain, ood_loss] = against(axes, &one, &other)?;
                pairs.push(Pair {
                    left: left.name.clone(),
                    right: right.name.clone(),
                    id_gain,
                    ood_loss,
                });
            }
        }
    }
    Ok(pairs)
}

impl Tradeoff {
    /// Of the base every measure; of each method (`model`) the same, their differences from the base, `id_gain`, `ood_loss` and
    /// `on_front`; of each run (setting `seed N`) `id_gain`, `ood_loss` and what it took; of each pair of methods the differences
    /// of `id_gain` and `ood_loss`.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut out = records(BASE, "", "untrained", &self.untrained);
        let front = self.front();
        for (index, method) in self.methods.iter().enumerate() {
            out.extend(records(&method.name, "", "", &method.values));
            out.extend(records(&method.name, BASE, "", &method.differences));
            out.push(method.id_gain.record(&method.name, BASE, None, "id_gain"));
            out.push(method.ood_loss.record(&method.name, BASE, None, "ood_loss"));
            let number = |setting: &str, metric: &str, value: Option<f64>| StudyRecord {
                model: method.name.clone(),
                setting: setting.to_owned(),
                metric: metric.to_owned(),
                value,
                ..StudyRecord::default()
            };
            out.push(number("", "on_front", Some(f64::from(front.contains(&index)))));
            for run in &method.runs {
                let setting = format!("seed {}", run.seed);
                let numbers = [
                    ("id_gain", Some(run.id_gain)),
                    ("ood_loss", Some(run.ood_loss)),
                    ("seconds", Some(run.seconds)),
                    ("peak_private_bytes", run.peak_bytes.map(|bytes| bytes as f64)),
                    ("end_train_loss", run.end_loss),
                    ("trained_parameters", Some(run.parameters as f64)),
                    ("steps", Some(run.steps as f64)),
                ];
                out.extend(numbers.map(|(metric, value)| number(&setting, metric, value)));
            }
        }
        for pair in &self.pairs {
            out.push(pair.id_gain.record(&pair.left, &pair.right, None, "id_gain_difference"));
            out.push(
                pair.ood_loss
                    .record(&pair.left, &pair.right, None, "ood_loss_difference"),
            );
        }
        out
    }
}

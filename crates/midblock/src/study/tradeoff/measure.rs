//! What the two axes are: the loss on a data set, or a task, by name.
//!
//! `loss:NAME` is the mean loss over the trained tokens of the measured samples of the data set NAME of `data.eval`; any other name
//! is that of a task of `[eval]`, judged by its main metric.

use crate::{
    config::Problem,
    eval::{Method as Answer, TaskSpec},
    study::{
        battery::StudyFile,
        sweep::{Interval, ItemValues, Measure, Scores, Unit, item_values},
        training::{LOSS, is_of_samples},
    },
};
use serde::{Deserialize, Serialize};

/// Begins the name of a data set's loss.
const LOSS_OF: &str = "loss:";

/// Measures of one unit, whose mean a method is judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// As they are named in the file.
    pub measures: Vec<String>,
    /// Of all of them.
    pub unit: Unit,
}

impl Axis {
    /// How much better `one` is than `other`, with the same seeds: the mean over the measures of the mean differences over items,
    /// positive where `one` has the higher share or the lower loss. `None` if a measure is missing.
    pub(super) fn improvement(&self, one: &[&Vec<Scores>], other: &[&Vec<Scores>]) -> Option<Interval> {
        let sign = if self.unit == Unit::Share { 1.0 } else { -1.0 };
        let scores = one.first()?;
        let values = |name: &String| {
            let measure = scores
                .iter()
                .map(|scores| &scores.measure)
                .find(|own| own.name == *name)?;
            let mut items = item_values(one, measure, Some(other))?;
            items.values.iter_mut().flatten().for_each(|value| *value *= sign);
            Some(items)
        };
        let measures: Vec<ItemValues> = self.measures.iter().map(values).collect::<Option<_>>()?;
        Interval::of_measures(&measures)
    }
}

/// The axes of a file, and everything that is wrong with them.
pub(super) fn axes(file: &StudyFile) -> Result<[Axis; 2], Vec<Problem>> {
    let mut problems = Vec::new();
    let known = known(file, &mut problems);
    let options = &file.config.study.tradeoff;
    let both = [("study.tradeoff.id", &options.id), ("study.tradeoff.ood", &options.ood)];
    let axes = both.map(|(key, names)| axis(file, key, names, &known, &mut problems));
    if let Some(twice) = options.id.iter().find(|name| options.ood.contains(name)) {
        let problem = format!("`{twice}` is in `study.tradeoff.id` too");
        problems.push(file.problem(
            "study.tradeoff.ood",
            problem,
            "what is trained for is not out of distribution",
        ));
    }
    match axes {
        [Some(id), Some(ood)] if problems.is_empty() => Ok([id, ood]),
        _ => Err(problems),
    }
}

/// Every name with its unit.
fn known(file: &StudyFile, problems: &mut Vec<Problem>) -> Vec<(String, Unit)> {
    let sets = file
        .measured()
        .iter()
        .map(|set| (format!("{LOSS_OF}{}", set.0.name), Unit::Nats));
    let mut known: Vec<(String, Unit)> = sets.collect();
    let Some(eval) = &file.config.eval else {
        return known;
    };
    let task = |spec: &TaskSpec| {
        let (name, task) = spec.resolve()?;
        let method = spec.method.or(eval.method).unwrap_or(task.method);
        let unit = if method == Answer::Perplexity {
            Unit::Nats
        } else {
            Unit::Share
        };
        Ok((name, unit))
    };
    for found in eval.tasks.iter().map(task).chain(eval.check().err().map(Err)) {
        match found {
            Ok(found) => known.push(found),
            Err(error) => problems.push(file.problem("eval.tasks", crate::Error::to_string(&error), "")),
        }
    }
    known
}

fn axis(
    file: &StudyFile,
    key: &str,
    names: &[String],
    known: &[(String, Unit)],
    problems: &mut Vec<Problem>,
) -> Option<Axis> {
    let list: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    let help = format!("one or more of {}; tasks are those of [eval]", list.join(", "));
    let mut push = |problem: String, help: &str| problems.push(file.problem(key, problem, help));
    if names.is_empty() {
        push("it names no measure".into(), &help);
    }
    let mut units = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match known.iter().find(|(known, _)| known == name) {
            _ if names[..index].contains(name) => push(format!("`{name}` is there twice"), ""),
            Some((_, unit)) => units.push(*unit),
            None => push(format!("`{name}` is nothing that is measured"), &help),
        }
    }
    if let [first, ..] = units[..]
        && let Some(other) = units.iter().position(|unit| *unit != first)
    {
        let problem = format!("`{}` and `{}` have no common unit, and no mean", names[0], names[other]);
        push(
            problem,
            "losses are nats, tasks that are answered are shares: put either on this axis",
        );
    }
    (units.len() == names.len()).then_some(Axis {
        measures: names.to_vec(),
        unit: *units.first()?,
    })
}

/// What judges measured samples together, by data set: its loss in place of those of all samples; tasks stay.
pub(super) fn by_set(scores: &[Scores], sets: &[String]) -> Vec<Scores> {
    let all = scores.iter().find(|scores| scores.measure.name == LOSS);
    let of_set = |set: &String| {
        let own = |item: &str| item.split('/').nth(1) == Some(set); // `number/set/file:row`
        Scores {
            measure: Measure {
                name: format!("{LOSS_OF}{set}"),
                metric: String::new(),
                unit: Unit::Nats,
            },
            items: (all.iter().flat_map(|all| &all.items))
                .filter(|(item, _)| own(item))
                .map(|(item, value)| (item.clone(), *value))
                .collect(),
        }
    };
    let tasks = scores.iter().filter(|scores| !is_of_samples(scores));
    sets.iter().map(of_set).chain(tasks.cloned()).collect()
}

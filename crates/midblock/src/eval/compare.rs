//! Two models on the same items.

use super::{
    EvaluationRun, ItemRecord,
    grade::{NATS_PER_TOKEN, PERPLEXITY, parts},
    statistics::{Difference, paired_difference},
};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How two evaluations differ on a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the task.
    pub task: String,
    /// The metric compared; of perplexity, nats per token.
    pub metric: String,
    /// Items that both answered.
    pub items: usize,
    /// `left − right`.
    pub difference: f64,
    /// Lower end of the 95 % interval.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// Whether the interval leaves out 0.
    pub clear: bool,
    /// The finding in words.
    pub sentence: String,
}

/// Compares two models by a metric on the items of a task that both answered: `left` is called `names[0]`.
///
/// # Errors
/// [`Error::Mismatch`] if they have no item of the task in common, or the metric is not there.
pub fn compare(
    left: &[ItemRecord],
    right: &[ItemRecord],
    names: [&str; 2],
    task: &str,
    metric: &str,
    seed: u64,
) -> Result<Comparison> {
    let of_task = |records: &[ItemRecord]| -> BTreeMap<usize, ItemRecord> {
        let own = records.iter().filter(|record| record.task == task);
        own.map(|record| (record.index, record.clone())).collect()
    };
    let (ours, mut theirs) = (of_task(left), of_task(right));
    let same = |a: &ItemRecord, b: &ItemRecord| a.id == b.id && a.gold == b.gold;
    let both = ours.into_iter().filter_map(|(index, ours)| {
        let theirs = theirs.remove(&index).filter(|theirs| same(&ours, theirs))?;
        Some((ours, theirs))
    });
    let (left, right): (Vec<_>, Vec<_>) = both.unzip();
    let (Some(ours), Some(theirs)) = (parts(&left, metric), parts(&right, metric)) else {
        return Err(Error::Mismatch {
            left: names[0].to_owned(),
            right: names[1].to_owned(),
            what: format!("items of {task} with {metric}"),
            left_value: left.len().to_string(),
            right_value: right.len().to_string(),
            help: "evaluate both with the same options".into(),
        });
    };
    let difference = paired_difference(&ours, &theirs, seed);
    let metric = if metric == PERPLEXITY { NATS_PER_TOKEN } else { metric };
    Ok(Comparison {
        task: task.to_owned(),
        metric: metric.to_owned(),
        items: ours.len(),
        difference: difference.value,
        lo: difference.lo,
        hi: difference.hi,
        clear: difference.is_clear(),
        sentence: sentence(&difference, names, task, metric, ours.len()),
    })
}

/// Every later run against the first, on the main metric of each task that both have.
///
/// # Errors
/// Those of [`compare`].
pub fn compare_all(runs: &[(String, EvaluationRun)], seed: u64) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    let Some(((first, reference), others)) = runs.split_first() else {
        return Ok(comparisons);
    };
    for (name, run) in others {
        for task in &run.evaluation.tasks {
            if reference
                .evaluation
                .task(&task.name)
                .is_some_and(|other| other.primary == task.primary)
            {
                let names = [name.as_str(), first.as_str()];
                comparisons.push(compare(
                    &run.items,
                    &reference.items,
                    names,
                    &task.name,
                    &task.primary,
                    seed,
                )?);
            }
        }
    }
    Ok(comparisons)
}

/// "sft is better than base on gsm8k: flexible +3.1 points (95 % interval +0.4 … +5.8) on the same 500 items."
fn sentence(difference: &Difference, [left, right]: [&str; 2], task: &str, metric: &str, items: usize) -> String {
    let less_is_better = [NATS_PER_TOKEN, super::grade::BITS_PER_BYTE].contains(&metric);
    let (factor, unit) = if less_is_better { (1.0, "") } else { (100.0, " points") };
    let digits = if less_is_better { 4 } else { 1 };
    let signed = |value: f64| format!("{:+.digits$}", factor * value);
    let numbers = format!(
        "{metric} {}{unit}, 95 % interval {} to {}, on the same {items} items",
        signed(difference.value),
        signed(difference.lo),
        signed(difference.hi)
    );
    if !difference.is_clear() {
        return format!("On {task} the difference between {left} and {right} is within noise: {numbers}.");
    }
    let better = (difference.value > 0.0) != less_is_better;
    let word = if better { "better" } else { "worse" };
    format!("On {task} {left} is {word} than {right}: {numbers}.")
}

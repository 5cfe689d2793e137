//! Completions → verdicts, and records → scores.

use super::{
    EvalConfig, Grader, Method,
    ifeval::{Instruction, judge},
    items::Prepared,
    record::{ItemRecord, Output, Score, TaskResult},
    sandbox::Outcome,
    shape::Item,
    statistics::{Part, pass_at, score},
};
use crate::{
    Error, Result,
    generate::{Completion, Finish},
};
use std::collections::BTreeMap;

pub(super) const ACCURACY: &str = "accuracy";
pub(super) const ACCURACY_NORM: &str = "accuracy_norm";
pub(super) const NATS_PER_TOKEN: &str = "nats_per_token";
pub(super) const BITS_PER_BYTE: &str = "bits_per_byte";
pub(super) const PERPLEXITY: &str = "perplexity";

/// A completion with every metric's verdict, and what verdicts are means over.
pub(super) fn grade(
    prepared: &Prepared,
    item: &Item,
    completion: Completion,
) -> Result<(Output, BTreeMap<String, f64>)> {
    let mut weights = BTreeMap::new();
    let mut output = Output {
        tokens: completion.ids.len(),
        finish: Some(completion.finish),
        text: completion.text,
        ..Output::default()
    };
    for metric in &prepared.task.metrics {
        let name = || metric.name.clone();
        let value = match &metric.judge {
            Grader::Instructions { strict, together } => {
                let followed = follow(item, &output.text, *strict)?;
                if !together {
                    weights.insert(name(), followed.len() as f64);
                }
                match together {
                    true => f64::from(followed.iter().all(|followed| *followed)),
                    false => followed.iter().filter(|followed| **followed).count() as f64 / followed.len() as f64,
                }
            }
            judge => {
                let answer = metric.extract.extract(&output.text, item.choices.len());
                output.extracted.insert(name(), answer.clone());
                match (judge, answer) {
                    (Grader::Answer(judge), Some(answer)) => {
                        f64::from(item.gold.iter().any(|gold| judge.is_right(&answer, gold)))
                    }
                    (Grader::Program, Some(code)) => run_program(prepared, item, &code, &mut output)?,
                    _ => 0.0,
                }
            }
        };
        output.values.insert(name(), value);
    }
    Ok((output, weights))
}

/// Which of a row's instructions a response follows.
fn follow(item: &Item, response: &str, strict: bool) -> Result<Vec<bool>> {
    let instructions = Instruction::parse(&item.row.clone().into());
    let instructions = instructions.map_err(|problem| unusable(item, problem))?;
    let followed = judge(&instructions, response);
    Ok(if strict { followed.strict } else { followed.loose })
}

/// 1 if the item's program ends well with `code` in it; else says in the output's note why not.
fn run_program(prepared: &Prepared, item: &Item, code: &str, output: &mut Output) -> Result<f64> {
    let sandbox = prepared.sandbox.as_ref();
    let sandbox = sandbox.expect("invariant: a task that runs programs was prepared with a sandbox");
    let program = prepared
        .shape
        .program(item, code)
        .map_err(|problem| unusable(item, problem))?;
    output.note = match sandbox.run(&program)? {
        Outcome::Passed => return Ok(1.0),
        Outcome::Failed { stderr } => stderr,
        Outcome::EndedEarly => "it ended before its tests did".to_owned(),
        Outcome::TimedOut => "it took too long".to_owned(),
        Outcome::OverLimit { limit } => format!("it used more than it may of: {limit:?}"),
    };
    Ok(0.0)
}

fn unusable(item: &Item, problem: String) -> Error {
    Error::Argument {
        what: "item".into(),
        value: item.id.clone(),
        problem,
        help: String::new(),
    }
}

/// What each item adds to a metric: the mean of its answers, times its weight.
pub(super) fn parts(records: &[ItemRecord], metric: &str) -> Option<Vec<Part>> {
    let name = if metric == PERPLEXITY { NATS_PER_TOKEN } else { metric };
    let part = |record: &ItemRecord| {
        let weight = record.weight(name);
        Some(Part {
            sum: record.value(name)? * weight,
            weight,
        })
    };
    records
        .iter()
        .map(part)
        .collect::<Option<Vec<_>>>()
        .filter(|parts| !parts.is_empty())
}

/// The result of a task from its records.
pub(super) fn result(prepared: &Prepared, records: &[ItemRecord], config: &EvalConfig) -> TaskResult {
    let task = &prepared.task;
    let (primary, names): (&str, Vec<&str>) = match task.method {
        Method::Generate => {
            let names: Vec<&str> = task.metrics.iter().map(|metric| metric.name.as_str()).collect();
            (task.primary().unwrap_or_default(), names)
        }
        Method::Letters => (ACCURACY, vec![ACCURACY]),
        Method::Choices => (ACCURACY_NORM, vec![ACCURACY_NORM, ACCURACY]),
        Method::Perplexity => (PERPLEXITY, vec![NATS_PER_TOKEN, BITS_PER_BYTE]),
    };
    let mut ordered = names;
    ordered.sort_by_key(|name| *name != primary);
    let mut metrics = Vec::new();
    for name in ordered {
        let Some(parts) = parts(records, name) else {
            continue;
        };
        let plain = score(name, &parts, config.seed);
        match task.method {
            Method::Perplexity => metrics.extend(of_likelihood(plain)),
            _ => {
                metrics.push(plain);
                metrics.extend(of_repeats(records, name, config));
            }
        }
    }
    let mut counts = prepared.counts.clone();
    counts.prompts_truncated = records.iter().filter(|record| record.truncated).count();
    let outputs = || records.iter().flat_map(|record| &record.outputs);
    let cut = |output: &&Output| matches!(output.finish, Some(Finish::Length | Finish::Context));
    counts.out_of_length = outputs().filter(cut).count();
    let silent = |output: &&Output| matches!(output.extracted.get(primary), Some(None));
    counts.no_answer = outputs().filter(silent).count();
    TaskResult {
        name: prepared.name.clone(),
        title: task.title.clone(),
        method: task.method,
        primary: primary.to_owned(),
        metrics,
        items: records.len(),
        repeats: if task.method == Method::Generate {
            config.repeats
        } else {
            1
        },
        counts,
    }
}

/// Less is better, and the mean in nats has a perplexity.
fn of_likelihood(score: Score) -> Vec<Score> {
    let plain = Score {
        higher_is_better: false,
        ..score
    };
    if plain.name != NATS_PER_TOKEN {
        return vec![plain];
    }
    let perplexity = Score {
        name: PERPLEXITY.to_owned(),
        mean: plain.mean.exp(),
        standard_error: plain.mean.exp() * plain.standard_error,
        lo: plain.lo.exp(),
        hi: plain.hi.exp(),
        ..plain.clone()
    };
    vec![perplexity, plain]
}

/// pass@k for k = 2, 4, 8 … and the number of repeats, and the majority's verdict, where verdicts are 0 or 1.
fn of_repeats(records: &[ItemRecord], metric: &str, config: &EvalConfig) -> Vec<Score> {
    let verdicts = |record: &ItemRecord| -> Option<Vec<f64>> {
        record
            .outputs
            .iter()
            .map(|output| output.values.get(metric).copied())
            .collect()
    };
    let all: Option<Vec<Vec<f64>>> = records.iter().map(verdicts).collect();
    let binary = |verdicts: &Vec<f64>| verdicts.iter().all(|value| *value == 0.0 || *value == 1.0);
    let n = config.repeats;
    let Some(all) = all.filter(|all| n > 1 && all.iter().all(|verdicts| verdicts.len() == n && binary(verdicts)))
    else {
        return Vec::new();
    };
    let mean = |name: String, value: &dyn Fn(usize) -> f64| {
        let parts: Vec<Part> = (0..all.len())
            .map(|item| Part {
                sum: value(item),
                weight: 1.0,
            })
            .collect();
        score(&name, &parts, config.seed)
    };
    let mut ks: Vec<usize> = std::iter::successors(Some(2), |k| Some(k * 2))
        .take_while(|k| *k < n)
        .collect();
    ks.push(n);
    let right = |item: usize| all[item].iter().filter(|value| **value == 1.0).count();
    let mut scores: Vec<Score> = ks
        .into_iter()
        .map(|k| mean(format!("{metric} pass@{k}"), &|item| pass_at(n, right(item), k)))
        .collect();
    scores.push(mean(format!("{metric} maj@{n}"), &|item| {
        majority(&records[item], metric)
    }));
    scores
}

/// The verdict on the answer that was read most often; of equals the one that was written first. Answers are the same if
/// they read the same.
fn majority(record: &ItemRecord, metric: &str) -> f64 {
    let mut votes: Vec<(&str, usize, f64)> = Vec::new();
    for output in &record.outputs {
        let Some(Some(answer)) = output.extracted.get(metric) else {
            continue;
        };
        match votes.iter_mut().find(|(known, ..)| known == answer) {
            Some((_, count, _)) => *count += 1,
            None => votes.push((answer, 1, output.values.get(metric).copied().unwrap_or(0.0))),
        }
    }
    let most = votes.iter().map(|(_, count, _)| *count).max();
    let winner = votes.iter().find(|(_, count, _)| Some(*count) == most);
    winner.map_or(0.0, |(.., value)| *value)
}

//! What an evaluation leaves: every item with its outputs and verdicts, and each task's scores.

use super::Method;
use crate::generate::Finish;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of `items.jsonl`: everything about an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// Name of the task.
    pub task: String,
    /// Row in the task's data, from 0; of a joined text, its piece.
    pub index: usize,
    /// What the data calls it.
    pub id: String,
    /// What the model was given, as text; of perplexity, the text itself.
    pub prompt: String,
    /// Tokens of it that the model saw.
    pub prompt_tokens: usize,
    /// Whether its beginning was cut off to fit the context.
    pub truncated: bool,
    /// The right answer, or answers that are all right.
    pub gold: Vec<String>,
    /// One for each repeat; of likelihoods, one.
    pub outputs: Vec<Output>,
    /// What a metric's value is a mean over, such as tokens; 1 for those that are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
}

impl ItemRecord {
    /// Mean over the outputs of a metric's value; `None` if the item does not have it.
    pub fn value(&self, metric: &str) -> Option<f64> {
        let values: Option<Vec<f64>> = self.outputs.iter().map(|o| o.values.get(metric).copied()).collect();
        let values = values.filter(|values| !values.is_empty())?;
        Some(values.iter().sum::<f64>() / values.len() as f64)
    }

    /// What the value is a mean over.
    pub fn weight(&self, metric: &str) -> f64 {
        self.weights.get(metric).copied().unwrap_or(1.0)
    }
}

/// One answer of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// What it wrote; of likelihoods, the choice that won.
    pub text: String,
    /// Why it ended; nothing for likelihoods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
    /// Tokens written, or scored.
    pub tokens: usize,
    /// Metric → the answer that was read; `None` if none was found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extracted: BTreeMap<String, Option<String>>,
    /// Metric → verdict, mostly 0 or 1.
    pub values: BTreeMap<String, f64>,
    /// −ln p of each choice, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nats: Vec<f64>,
    /// What a judge has to say, such as the last lines of a failed program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// `evaluation.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The checkpoint, as typed.
    pub checkpoint: String,
    /// In the order asked for.
    pub tasks: Vec<TaskResult>,
    /// What to know before trusting the numbers.
    pub warnings: Vec<String>,
}

impl Evaluation {
    /// The task of that name.
    pub fn task(&self, name: &str) -> Option<&TaskResult> {
        self.tasks.iter().find(|task| task.name == name)
    }
}

/// How a task went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// As in [`ItemRecord::task`].
    pub name: String,
    /// One line.
    pub title: String,
    /// How items were answered.
    pub method: Method,
    /// Name of the main metric.
    pub primary: String,
    /// The main metric first.
    pub metrics: Vec<Score>,
    /// Items answered.
    pub items: usize,
    /// Answers to each.
    pub repeats: usize,
    /// What else happened.
    pub counts: Counts,
}

impl TaskResult {
    /// The main metric.
    pub fn score(&self) -> Option<&Score> {
        self.metrics.iter().find(|score| score.name == self.primary)
    }
}

/// What happened to rows, prompts and completions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows in the data.
    pub rows: usize,
    /// Reason → rows that could not be items.
    pub rows_unusable: BTreeMap<String, usize>,
    /// Prompts whose beginning was cut off to fit the context.
    pub prompts_truncated: usize,
    /// Completions that ended because they had as many tokens as allowed, or filled the context.
    pub out_of_length: usize,
    /// Completions from which the main metric could read no answer.
    pub no_answer: usize,
}

/// Where an interval comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalKind {
    /// Wilson's, of a proportion.
    Wilson,
    /// Percentiles over items drawn again with replacement.
    Bootstrap,
}

/// A metric over all items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Of the metric; `accuracy pass@4` is another score of the metric `accuracy`.
    pub name: String,
    /// Over items; of repeated items, of their means.
    pub mean: f64,
    /// Of the mean, over items: answers to the same item are one observation.
    pub standard_error: f64,
    /// Lower end of the 95 % interval.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// Where the interval comes from.
    pub interval: IntervalKind,
    /// Whether more is better.
    pub higher_is_better: bool,
}

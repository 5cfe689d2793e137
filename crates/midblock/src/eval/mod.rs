//! Is it better? Tasks, what a model answers them, verdicts, and what can be said of the difference.
//!
//! A [`Task`] is data: a TOML file that says how a row becomes a prompt (`shape.rs`), how the model answers ([`Method`]), how
//! the answer is read ([`extract`]) and judged (`grade.rs`). [`evaluate`] asks a model every item and keeps all it
//! said (`folder.rs`); [`statistics`](score) says how sure the scores are, [`compare`] how sure a difference is.

mod answer;
mod builtin;
mod compare;
mod config;
mod evaluate;
pub mod extract;
mod folder;
mod grade;
pub mod ifeval;
mod items;
pub mod latex;
mod prompt;
mod record;
pub mod sandbox;
mod shape;
mod statistics;
mod task;

#[cfg(test)]
mod tests;

pub use builtin::builtin_tasks;
pub use compare::{Comparison, compare, compare_all};
pub use config::{EvalConfig, Protocol, TaskSpec, Template};
pub use evaluate::evaluate;
pub use folder::{EvaluationInfo, EvaluationRun, Identity, TaskIdentity, read_items};
pub use record::{Counts, Evaluation, IntervalKind, ItemRecord, Output, Score, TaskResult};
pub use shape::ItemShape;
pub(crate) use statistics::bootstrap;
pub use statistics::{Difference, Part, RESAMPLES, paired_difference, pass_at, proportion_difference, score};
pub use task::{FewShot, Generation, Grader, Method, Metric, Paper, Task, Window};

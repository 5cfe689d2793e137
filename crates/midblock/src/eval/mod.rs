//! Is it better? Tasks, what a model answers them, verdicts, and what can be said of the difference.

pub mod extract;
pub mod ifeval;
pub mod latex;
pub mod sandbox;

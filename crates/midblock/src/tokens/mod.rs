//! Text ↔ ids: tokenizers, data sets, sample texts and their selection.
//!
//! A data set goes `--data NAME=FILE` → rows ([`data`]) → text ([`mod@format`]) → N chosen samples ([`SampleSet`]) → ids
//! ([`TokenizedSet`]). A row that cannot become a sample is a [`Skipped`] with a reason; none is dropped silently.

mod batches;
pub mod data;
pub mod format;
mod sample;
mod tokenizer;
mod training;

pub use batches::{BatchPlan, Grouping, Order};
pub use format::{Format, SkipReason};
pub use sample::{MIN_SAMPLES, Sample, SampleSet, Skipped, TokenizedSet, select};
pub use tokenizer::{Difference, Encoded, Tokenizer};
pub use training::{LossOn, TrainingFormatOptions, TrainingSample, TrainingSet};

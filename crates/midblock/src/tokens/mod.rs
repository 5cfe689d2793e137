//! Text ↔ ids: tokenizers, data sets, sample texts and their selection.
//!
//! A data set goes `--data NAME=FILE` → rows ([`data`]) → text ([`mod@format`]) → N chosen samples ([`SampleSet`]) → ids
//! ([`TokenizedSet`]). A row that cannot become a sample is a [`Skipped`] with a reason; none is dropped silently.

mod batches;
mod bpe;
pub mod conversation;
pub mod data;
mod fields;
pub mod format;
mod mask;
mod sample;
mod special;
mod template;
mod tokenizer;
mod training;

pub use batches::{BatchPlan, Grouping, Order};
pub use bpe::{END, SMALLEST as SMALLEST_VOCABULARY, plain_texts, train_bpe, vocabulary};
pub use conversation::Conversation;
pub use fields::SkipReason;
pub use format::Format;
pub use sample::{MIN_SAMPLES, Sample, SampleSet, Skipped, TokenizedSet, select};
pub use special::SpecialToken;
pub use template::ChatTemplate;
pub use tokenizer::{Difference, Encoded, Token, Tokenizer};
pub use training::{Long, LossOn, TrainingFormatOptions, TrainingSample, TrainingSet};

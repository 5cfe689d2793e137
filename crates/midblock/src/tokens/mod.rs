//! Text ↔ ids ↔ loss mask: tokenizers, data sets, chat templates, samples and their batches.
//!
//! A data set goes `--data NAME=FILE` → rows ([`data`]), and from there either to what an analysis reads: text
//! ([`mod@format`]) → N chosen samples ([`SampleSet`]) → ids ([`TokenizedSet`]); or to what training reads: prompts and answers
//! ([`mod@conversation`]) → text by the model's [`ChatTemplate`] → ids with a mask ([`TrainingSet`]) → an epoch's micro-batches
//! ([`BatchPlan`]). A row that cannot become a sample is a [`Skipped`] with a reason; none is dropped silently.

mod batches;
mod bpe;
pub mod conversation;
pub mod data;
mod fields;
pub mod format;
mod mask;
mod pieces;
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
pub use pieces::Piece;
pub(crate) use sample::Selection;
pub use sample::{MIN_SAMPLES, Sample, SampleSet, Skipped, TokenizedSet, select};
pub use special::SpecialToken;
pub use template::ChatTemplate;
pub use tokenizer::{Difference, Encoded, Token, Tokenizer};
pub use training::{Long, LossOn, TrainingFormatOptions, TrainingSample, TrainingSet};

//! Samples laid one after another, and which rows are to predict.

use crate::{
    model::{Batch, Labels},
    tokens::TrainingSample,
};

/// A sample and the key by which its frozen part is cached: equal keys must mean equal ids.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Unique among all samples of a run.
    pub key: u64,
    /// The sample.
    pub sample: &'a TrainingSample,
}

/// The samples one after another, and the rows that are to predict a trained token.
pub(super) fn layout(items: &[Item<'_>]) -> (Batch, Labels) {
    let sequences: Vec<_> = items.iter().map(|item| item.sample.ids.as_slice()).collect();
    let batch = Batch::new(&sequences);
    let labels = Labels::of(&batch, |i, t| items[i].sample.trained[t]);
    (batch, labels)
}

/// Tokens of the longest sequence.
pub(super) fn longest(batch: &Batch) -> usize {
    batch.offsets().windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
}

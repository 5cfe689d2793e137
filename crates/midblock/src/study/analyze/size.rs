//! What a shard takes, known before it runs.

use super::{Analysis, Shard, capture::Part};
use crate::{
    metrics::{Needs, VIEWS},
    model::memory::{AnalysisSize, analysis_bytes},
};
use midblock_kernels::Backend;

/// Work and room of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSize {
    /// Samples in it, over all data sets.
    pub samples: usize,
    /// Samples of all shards.
    pub of_samples: usize,
    /// Its tokens.
    pub tokens: usize,
    /// Private memory, about.
    pub memory_bytes: usize,
    /// Bytes of its folder at most: less where models share blocks, whose states are kept once.
    pub disk_bytes: usize,
}

impl Analysis<'_> {
    /// What a shard of this analysis takes.
    pub fn size<B: Backend>(&self, shard: Shard) -> ShardSize {
        let (config, architecture, models) = (self.config, &self.models[0].architecture, self.models.len());
        let part = Part::of(config, &self.texts, shard);
        let (samples, tokens) = (part.sequences.len(), part.sequences.iter().map(Vec::len).sum::<usize>());
        let by_token = part
            .sections
            .iter()
            .map(|s| s.sequences.start..s.sequences.start + s.token_samples);
        let kept: usize = by_token.flatten().map(|sequence| part.sequences[sequence].len()).sum();
        let vectors = if config.metrics.selected.needs(Needs::Views) {
            1 + VIEWS
        } else {
            1
        };
        let layer = models * architecture.hidden * (samples * vectors * size_of::<f64>() + kept * size_of::<f32>());
        let measured = (0..=architecture.blocks).filter(|&layer| config.measures(layer, architecture.blocks));
        let texts = AnalysisSize {
            samples,
            tokens: tokens.div_ceil(samples.max(1)),
            token_samples: part.sections.iter().map(|section| section.token_samples).sum(),
        };
        ShardSize {
            samples,
            of_samples: self.texts.iter().map(|texts| texts.tokens.ids.len()).sum(),
            tokens,
            memory_bytes: analysis_bytes::<B>(architecture, models, texts) + layer, // the file that is being written
            disk_bytes: measured.count() * layer,
        }
    }
}

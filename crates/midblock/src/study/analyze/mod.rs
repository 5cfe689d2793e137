//! The main job: base against variants, every layer, every metric.
//!
//! It has two halves. [`Analysis::capture`] runs the models on the samples, or on a [`Shard`] of them, and hands what it sees to a
//! [`Sink`], layer by layer. [`Measuring`] is the sink that makes numbers of it; other sinks keep it or send it elsewhere, where
//! [`LayerStates::join`] puts the shards together. Whatever is drawn by chance depends on a sample's number in the whole, and a
//! sample's states do not depend on the others', so that a joined run is the unsharded one, bit for bit.
//!
//! On disk a shard is a [`ShardFolder`], and a [`ShardSet`] joins all of them. Weight metrics need no samples: each shard measures
//! those of every n-th block, so that they are computed once, all jobs of an array take as long, and joining needs no checkpoint.

mod capture;
mod folder;
mod inputs;
mod join;
mod measuring;
mod ranks;
mod record;
mod shard;
mod size;
mod states;

pub use capture::{BlockWeights, Sink};
pub use folder::{Filled, ShardFolder};
pub(in crate::study) use inputs::common_tokenizer;
pub use inputs::{Analysis, Outline};
pub use join::ShardSet;
pub use measuring::Measuring;
pub use ranks::analyze_on;
pub use record::ShardRecord;
pub use shard::Shard;
pub use size::ShardSize;
pub use states::{LayerStates, TrackStates};

use super::Layers;
use crate::{
    Error, Result,
    hub::{HubOptions, OnTransfer},
    metrics::{Options, Protocol},
    probe::Pooling,
    progress::Progress,
    run::Run,
    tokens::{Format, data::DataSpec},
};
use midblock_kernels::Backend;

/// Name of the base model in records.
pub const BASE: &str = "base";

/// A model to compare with the base.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Variant {
    /// Name in the records.
    pub name: String,
    /// What to open.
    pub checkpoint: String,
}

impl std::str::FromStr for Variant {
    type Err = Error;

    /// `NAME=CHECKPOINT`.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((name, checkpoint)) if !name.is_empty() && !checkpoint.is_empty() => Ok(Self {
                name: name.to_owned(),
                checkpoint: checkpoint.to_owned(),
            }),
            _ => Err(Error::Argument {
                what: "--variant".to_owned(),
                value: text.to_owned(),
                problem: "expected NAME=CHECKPOINT, both not empty".to_owned(),
                help: "write it like sft=./sft".to_owned(),
            }),
        }
    }
}

/// Everything an analysis depends on.
#[derive(Clone, Debug)]
pub struct AnalyzeConfig {
    /// What to open as base.
    pub base: String,
    /// At least one.
    pub variants: Vec<Variant>,
    /// At least one.
    pub data: Vec<DataSpec>,
    /// How rows become text; `None` recognises it.
    pub format: Option<Format>,
    /// Samples per data set.
    pub samples: usize,
    /// Samples per data set kept token by token.
    pub token_samples: usize,
    /// Tokens after which a sample is cut.
    pub max_length: usize,
    /// Layers measured.
    pub layers: Layers,
    /// How token states become one vector.
    pub pooling: Pooling,
    /// Bootstrap resamples; 0 leaves intervals out.
    pub resamples: usize,
    /// Seed of everything random; the same as in `metrics`.
    pub seed: u64,
    /// What is measured, and how.
    pub metrics: Options,
}

impl AnalyzeConfig {
    /// Whether a layer of a model of `blocks` blocks is measured. The paper's scripts never look at the last block's output.
    pub fn measures(&self, layer: usize, blocks: usize) -> bool {
        let in_protocol = self.metrics.protocol == Protocol::Default || layer < blocks;
        in_protocol && self.layers.contains(layer, blocks)
    }
}

/// Runs the analysis.
///
/// # Errors
/// Whatever is wrong with the inputs, naming it; [`Error::Interrupted`] if `progress` says so.
pub fn analyze<B: Backend>(
    backend: &B,
    config: &AnalyzeConfig,
    hub: &HubOptions,
    progress: &dyn Progress,
    on_transfer: OnTransfer<'_>,
) -> Result<Run> {
    let mut analysis = Analysis::open(config, hub, on_transfer)?;
    let mut measuring = Measuring::new(analysis.outline(), config.metrics.clone(), config.resamples);
    analysis.capture(backend, Shard::WHOLE, progress, &mut measuring)?;
    let info = analysis.describe()?;
    Ok(measuring.finish(info))
}

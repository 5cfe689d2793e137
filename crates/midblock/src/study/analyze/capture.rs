//! Running the models: what is seen of their states at each layer, and of their weights at each block.

use super::{Analysis, AnalyzeConfig, BASE, LayerStates, Shard, TrackStates, inputs::Texts};
use crate::{
    Error, Result,
    metrics::{MatrixChange, Measurement, Needs, measure_block},
    model::BlockTensors,
    probe::{Collector, Lockstep, Participant, Section},
    progress::{Progress, Unit},
    run::{Record, WeightRecord},
    study::weights::block_changes,
};
use midblock_kernels::Backend;
use std::ops::Range;

/// Takes what an analysis sees, as it sees it: layer 0, block 1, layer 1, block 2, …
pub trait Sink {
    /// What the time that it takes is called in the record of the run.
    fn phase(&self) -> &'static str;

    /// The states of one layer.
    ///
    /// # Errors
    /// Any; it ends the analysis.
    fn layer(&mut self, states: LayerStates) -> Result<()>;

    /// What the variants did to the weights of one block.
    ///
    /// # Errors
    /// Any; it ends the analysis.
    fn block(&mut self, weights: BlockWeights) -> Result<()>;
}

/// Weight metrics of one block, of all variants.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BlockWeights {
    /// From 1.
    pub block: usize,
    /// Of the block as a whole.
    pub records: Vec<Record>,
    /// Of each of its matrices.
    pub matrices: Vec<WeightRecord>,
}

/// A shard's share of the texts.
pub(super) struct Part {
    pub sequences: Vec<Vec<u32>>,
    /// Number of each in the whole, through all data sets.
    numbers: Vec<usize>,
    pub sections: Vec<Section>,
}

impl Analysis<'_> {
    /// Runs the models on a shard of the samples, and measures the weights of its share of the blocks.
    ///
    /// # Errors
    /// Those of [`Lockstep`]; [`Error::StateNotFinite`]; [`Error::Interrupted`]; those of `sink`.
    pub fn capture<B: Backend>(
        &mut self,
        backend: &B,
        shard: Shard,
        progress: &dyn Progress,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let config = self.config;
        let participants: Vec<Participant<'_>> = self.models.iter().map(|model| model.participant()).collect();
        let part = Part::of(config, &self.texts, shard);
        let tokens: usize = part.sequences.iter().map(Vec::len).sum();
        let mut lockstep = Lockstep::new(backend, &participants, &part.sequences)?;
        let blocks = lockstep.blocks();
        let total = (tokens * blocks * participants.len()) as u64;
        progress.begin("analyze", total, Unit::BlockTokens { blocks: blocks as u64 });
        let hidden = participants[0].architecture.hidden;
        let collector = Collector::new(hidden, config.pooling, part.sections.clone(), lockstep.batches());
        let collector = match config.metrics.selected.needs(Needs::Views) {
            true => collector.with_views(config.seed, &part.numbers),
            false => collector,
        };
        loop {
            let layer = lockstep.layer();
            if config.measures(layer, blocks) {
                let states = collect(backend, &collector, &lockstep);
                check_finite(&states, &part, &self.texts, &participants)?;
                self.clock.lap("collect states");
                sink.layer(states)?;
                self.clock.lap(sink.phase());
            }
            let Some(tensors) = lockstep.next_block()? else { break };
            if config.metrics.selected.needs(Needs::Weights) && shard.holds(layer) {
                sink.block(block_weights(
                    config,
                    &participants,
                    &tensors,
                    [layer + 1, blocks],
                    progress,
                )?)?;
                self.clock.lap("weights");
            }
            lockstep.advance(&tensors, progress)?;
            self.clock.lap("forward");
        }
        self.block_tokens += lockstep.tokens_computed();
        Ok(())
    }
}

impl Part {
    pub fn of(config: &AnalyzeConfig, texts: &[Texts], shard: Shard) -> Self {
        let mut part = Self {
            sequences: Vec::new(),
            numbers: Vec::new(),
            sections: Vec::new(),
        };
        for (range, texts) in ranges(texts).into_iter().zip(texts) {
            let by_token = match config.metrics.selected.needs(Needs::Tokens) {
                true => range.start..range.end.min(range.start + config.token_samples),
                false => range.start..range.start,
            };
            let start = part.numbers.len();
            let own = shard.of_range(range.clone());
            part.sequences
                .extend(own.clone().map(|number| texts.tokens.ids[number - range.start].clone()));
            part.numbers.extend(own);
            part.sections.push(Section {
                sequences: start..part.numbers.len(),
                token_samples: shard.of_range(by_token).count(),
            });
        }
        part
    }
}

/// The numbers of each data set's samples.
fn ranges(texts: &[Texts]) -> Vec<Range<usize>> {
    let mut start = 0;
    let range = |texts: &Texts| {
        let range = start..start + texts.tokens.ids.len();
        start = range.end;
        range
    };
    texts.iter().map(range).collect()
}

fn collect<B: Backend>(backend: &B, collector: &Collector, lockstep: &Lockstep<'_, B>) -> LayerStates {
    let tracks = lockstep.tracks().iter().map(|track| TrackStates {
        members: track.members.clone(),
        captures: collector.collect(backend, &track.states),
    });
    LayerStates {
        layer: lockstep.layer(),
        tracks: tracks.collect(),
    }
}

fn check_finite(states: &LayerStates, part: &Part, texts: &[Texts], participants: &[Participant<'_>]) -> Result<()> {
    let ranges = ranges(texts);
    for track in &states.tracks {
        for (dataset, capture) in track.captures.iter().enumerate() {
            if let Some(index) = capture.pooled.iter().position(|x| !x.is_finite()) {
                let number = part.numbers[part.sections[dataset].sequences.start + index / capture.dim];
                return Err(Error::StateNotFinite {
                    model: participants[track.members[0]].name.clone(),
                    layer: states.layer,
                    sample: texts[dataset].tokens.sample_ids[number - ranges[dataset].start].clone(),
                });
            }
        }
    }
    Ok(())
}

fn block_weights(
    config: &AnalyzeConfig,
    participants: &[Participant<'_>],
    tensors: &[BlockTensors<'_>],
    [block, blocks]: [usize; 2],
    progress: &dyn Progress,
) -> Result<BlockWeights> {
    let options = &config.metrics;
    let mut weights = BlockWeights {
        block,
        ..BlockWeights::default()
    };
    for (participant, variant) in participants.iter().zip(tensors).skip(1) {
        let changes = block_changes(&tensors[0], variant, options, progress)?;
        let summary = measure_block(&changes, options);
        let of_matrix = |change| matrix_records(&participant.name, change);
        weights.matrices.extend(changes.iter().flat_map(of_matrix));
        let of_block = |m: &Measurement| record([&participant.name, BASE, ""], m, [block, blocks]);
        weights.records.extend(summary.iter().map(of_block));
    }
    Ok(weights)
}

/// A line about `[model, reference, dataset]` at `[layer, L]`.
pub(super) fn record([model, reference, dataset]: [&str; 3], m: &Measurement, [layer, blocks]: [usize; 2]) -> Record {
    Record {
        model: model.to_owned(),
        reference: reference.to_owned(),
        dataset: dataset.to_owned(),
        metric: m.metric.to_owned(),
        layer,
        depth: layer as f64 / blocks as f64,
        value: m.value,
        lo: m.lo,
        hi: m.hi,
        floor: m.floor,
    }
}

fn matrix_records(model: &str, change: &MatrixChange) -> Vec<WeightRecord> {
    let metrics = [
        ("weight_change", Some(change.change)),
        ("weight_change_relative", change.relative),
        ("weight_change_spectral", change.spectral),
        ("weight_change_effective_rank", change.effective_rank),
        ("weight_subspace_rotation", change.rotation),
    ];
    let one = |(metric, value): (&str, Option<f64>)| WeightRecord {
        model: model.to_owned(),
        reference: BASE.to_owned(),
        parameter: change.name.clone(),
        metric: metric.to_owned(),
        value,
    };
    metrics.into_iter().map(one).collect()
}

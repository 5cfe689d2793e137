//! The main job: base against variants, every layer, every metric.

use super::{Layers, clock::Clock, describe, weights::block_changes};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    hub::{HubOptions, OnTransfer},
    metrics::{
        Capture, MatrixChange, Measurement, Needs, Options, Protocol, Resampling, measure_block, measure_model,
        measure_pair,
    },
    model::{Architecture, BlockTensors},
    probe::{Collector, Lockstep, Participant, Pooling, Section, Track},
    progress::{Progress, Unit},
    run::{Record, Run, WeightRecord},
    tokens::{
        Format, SampleSet, TokenizedSet, Tokenizer,
        data::{self, DataFile, DataSpec},
    },
};
use midblock_kernels::Backend;
use rayon::prelude::*;
use std::{ops::RangeInclusive, time::SystemTime};

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

/// Resamples that give an interval: its ends are the outermost 2.5 %, and all of them are held in memory.
const RESAMPLES: RangeInclusive<usize> = 20..=10_000;

/// One data set, ready for the models.
struct Texts {
    samples: SampleSet,
    tokens: TokenizedSet,
    resampling: Resampling,
}

/// Runs the analysis. `command_line` goes into the run's record.
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
    check_resamples(config.resamples)?;
    let started = SystemTime::now();
    let mut clock = Clock::default();
    let specs =
        std::iter::once((BASE, &config.base)).chain(config.variants.iter().map(|v| (v.name.as_str(), &v.checkpoint)));
    let checkpoints: Vec<(&str, Checkpoint)> = specs
        .map(|(name, spec)| Ok((name, Checkpoint::open(spec, hub, on_transfer)?)))
        .collect::<Result<_>>()?;
    let participants: Vec<Participant<'_>> = checkpoints
        .iter()
        .map(|(name, checkpoint)| {
            let architecture = Architecture::resolve(checkpoint.config())?;
            Ok(Participant {
                name: (*name).to_owned(),
                checkpoint,
                architecture,
            })
        })
        .collect::<Result<_>>()?;
    let mut warnings = Vec::new();
    let tokenizer = common_tokenizer(&participants, &mut warnings)?;
    clock.lap("open checkpoints");
    let texts: Vec<Texts> = config
        .data
        .iter()
        .map(|spec| {
            read_texts(
                spec,
                &data::resolve(&spec.source, hub, on_transfer)?,
                &tokenizer,
                config,
            )
        })
        .collect::<Result<_>>()?;
    clock.lap("read texts");

    let mut analysis = Analysis {
        config,
        participants: &participants,
        texts: &texts,
        records: Vec::new(),
        weights: Vec::new(),
        clock,
    };
    let block_tokens = analysis.run(backend, progress)?;
    let Analysis {
        records,
        weights,
        mut clock,
        ..
    } = analysis;
    let models = participants.iter().map(describe::model).collect::<Result<_>>()?;
    let datasets = texts
        .iter()
        .map(|t| describe::dataset(config, &t.samples, &t.tokens))
        .collect::<Result<_>>()?;
    clock.lap("hash inputs");
    let info = describe::run(config, models, datasets, block_tokens, warnings, clock, started);
    Ok(Run { info, records, weights })
}

fn check_resamples(resamples: usize) -> Result<()> {
    if resamples == 0 || RESAMPLES.contains(&resamples) {
        return Ok(());
    }
    let (fewest, most) = RESAMPLES.into_inner();
    Err(Error::Argument {
        what: "--resamples".to_owned(),
        value: resamples.to_string(),
        problem: format!("not from {fewest} to {most}"),
        help: "200 is enough for most; 0 leaves intervals out".to_owned(),
    })
}

struct Analysis<'a> {
    config: &'a AnalyzeConfig,
    participants: &'a [Participant<'a>],
    texts: &'a [Texts],
    records: Vec<Record>,
    weights: Vec<WeightRecord>,
    clock: Clock,
}

impl Analysis<'_> {
    /// Walks all layers; returns the number of tokens that went through a block, over all blocks.
    fn run<B: Backend>(&mut self, backend: &B, progress: &dyn Progress) -> Result<u64> {
        let sequences: Vec<Vec<u32>> = self.texts.iter().flat_map(|t| t.tokens.ids.iter().cloned()).collect();
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let mut lockstep = Lockstep::new(backend, self.participants, &sequences)?;
        let blocks = lockstep.blocks();
        let total = (tokens * blocks * self.participants.len()) as u64;
        progress.begin("analyze", total, Unit::BlockTokens { blocks: blocks as u64 });
        let hidden = self.participants[0].architecture.hidden;
        let collector = Collector::new(
            hidden,
            self.config.pooling,
            self.sections(),
            lockstep.batches(),
            self.config.seed,
        );
        loop {
            if self.measures(lockstep.layer(), blocks) {
                self.measure_layer(backend, &collector, &lockstep)?;
            }
            let Some(tensors) = lockstep.next_block()? else { break };
            self.measure_weights(&tensors, lockstep.layer() + 1, blocks, progress)?;
            lockstep.advance(&tensors, progress)?;
            self.clock.lap("forward");
        }
        Ok(lockstep.tokens_computed())
    }

    fn sections(&self) -> Vec<Section> {
        let mut start = 0;
        let section = |texts: &Texts| {
            let sequences = start..start + texts.tokens.ids.len();
            start = sequences.end;
            Section {
                sequences,
                token_samples: self.config.token_samples,
            }
        };
        self.texts.iter().map(section).collect()
    }

    /// The paper's scripts never look at the last block's output.
    fn measures(&self, layer: usize, blocks: usize) -> bool {
        let in_protocol = self.config.metrics.protocol == Protocol::Default || layer < blocks;
        in_protocol && self.config.layers.contains(layer, blocks)
    }

    fn measure_layer<B: Backend>(
        &mut self,
        backend: &B,
        collector: &Collector,
        lockstep: &Lockstep<'_, B>,
    ) -> Result<()> {
        let (layer, blocks) = (lockstep.layer(), lockstep.blocks());
        let tracks = lockstep.tracks();
        let captures: Vec<Vec<Capture>> = tracks.iter().map(|t| collector.collect(backend, &t.states)).collect();
        self.clock.lap("collect states");
        for (track, captures) in tracks.iter().zip(&captures) {
            self.check_finite(track, captures, layer)?;
        }
        for (dataset, texts) in self.texts.iter().enumerate() {
            let measured: Vec<_> = (0..tracks.len())
                .into_par_iter()
                .map(|index| {
                    let (base, own) = (&captures[0][dataset], &captures[index][dataset]);
                    // tracks are sorted by their first member: the base is in the first, and alone there has no pair
                    let single = || measure_model(own, &texts.resampling, &self.config.metrics);
                    let pair = || match tracks[index].members.as_slice() {
                        [0] => Vec::new(),
                        _ => measure_pair(base, own, &texts.resampling, &self.config.metrics),
                    };
                    rayon::join(single, pair)
                })
                .collect();
            for (track, (single, pair)) in tracks.iter().zip(&measured) {
                for &member in &track.members {
                    self.record(member, "", dataset, single, layer, blocks);
                    if member > 0 {
                        self.record(member, BASE, dataset, pair, layer, blocks);
                    }
                }
            }
        }
        self.clock.lap("metrics");
        Ok(())
    }

    fn check_finite<B: Backend>(&self, track: &Track<B>, captures: &[Capture], layer: usize) -> Result<()> {
        for (capture, texts) in captures.iter().zip(self.texts) {
            if let Some(index) = capture.pooled.iter().position(|x| !x.is_finite()) {
                let sample = texts.tokens.sample_ids[index / capture.dim].clone();
                let model = self.participants[track.members[0]].name.clone();
                return Err(Error::StateNotFinite { model, layer, sample });
            }
        }
        Ok(())
    }

    fn measure_weights(
        &mut self,
        tensors: &[BlockTensors<'_>],
        block: usize,
        blocks: usize,
        progress: &dyn Progress,
    ) -> Result<()> {
        let options = &self.config.metrics;
        if !options.selected.needs(Needs::Weights) {
            return Ok(());
        }
        for (member, variant) in tensors.iter().enumerate().skip(1) {
            let changes = block_changes(&tensors[0], variant, options, progress)?;
            let summary = measure_block(&changes, options);
            self.weights.extend(
                changes
                    .iter()
                    .flat_map(|change| weight_records(&self.participants[member].name, change)),
            );
            let rows = summary
                .into_iter()
                .map(|m| record(&self.participants[member].name, BASE, "", &m, block, blocks));
            self.records.extend(rows);
        }
        self.clock.lap("weights");
        Ok(())
    }

    fn record(
        &mut self,
        member: usize,
        reference: &str,
        dataset: usize,
        all: &[Measurement],
        layer: usize,
        blocks: usize,
    ) {
        let (model, dataset) = (&self.participants[member].name, &self.texts[dataset].tokens.name);
        self.records
            .extend(all.iter().map(|m| record(model, reference, dataset, m, layer, blocks)));
    }
}

fn record(model: &str, reference: &str, dataset: &str, m: &Measurement, layer: usize, blocks: usize) -> Record {
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

fn weight_records(model: &str, change: &MatrixChange) -> Vec<WeightRecord> {
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

/// The base's tokenizer, once it is known to be the variants' too.
pub(super) fn common_tokenizer(participants: &[Participant<'_>], warnings: &mut Vec<String>) -> Result<Tokenizer> {
    use crate::checkpoint::TokenizerSource::Missing;
    let base = &participants[0];
    let tokenizer = Tokenizer::load(base.checkpoint.tokenizer())?;
    for variant in &participants[1..] {
        if let Missing { .. } = variant.checkpoint.tokenizer() {
            let note = format!("{} has no tokenizer of its own; the base's was used", variant.name);
            warnings.push(note);
            continue;
        }
        let own = Tokenizer::load(variant.checkpoint.tokenizer())?;
        if let Some(difference) = tokenizer.first_difference(&own) {
            return Err(Error::Mismatch {
                left: format!("the tokenizer of {BASE}"),
                right: format!("that of {}", variant.name),
                what: difference.what,
                left_value: difference.left,
                right_value: difference.right,
                help: "all models must see the same ids; use checkpoints that share a tokenizer".to_owned(),
            });
        }
    }
    Ok(tokenizer)
}

fn read_texts(spec: &DataSpec, files: &[DataFile], tokenizer: &Tokenizer, config: &AnalyzeConfig) -> Result<Texts> {
    let samples = SampleSet::load(spec, files, config.format, config.samples, config.seed)?;
    let tokens = samples.tokenize(tokenizer, Some(config.max_length))?;
    let resampling = Resampling::new(tokens.ids.len(), config.resamples, config.seed);
    Ok(Texts {
        samples,
        tokens,
        resampling,
    })
}

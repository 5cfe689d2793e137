//! What an analysis reads before any model runs: checkpoints, texts, and what is known of both.

use super::{AnalyzeConfig, BASE, record::TextsRecord};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, TokenizerSource::Missing},
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    probe::Participant,
    run::{DatasetInfo, ModelInfo, RunInfo},
    study::{clock::Clock, describe},
    tokens::{
        SampleSet, TokenizedSet, Tokenizer,
        data::{self, DataFile, DataSpec},
    },
};
use std::{ops::RangeInclusive, time::SystemTime};

/// Resamples that give an interval: its ends are the outermost 2.5 %, and all of them are held in memory.
const RESAMPLES: RangeInclusive<usize> = 20..=10_000;

/// An analysis that can begin.
pub struct Analysis<'c> {
    pub(super) config: &'c AnalyzeConfig,
    pub(super) models: Vec<Model>,
    pub(super) texts: Vec<Texts>,
    pub(super) clock: Clock,
    /// Tokens that went through a block, over all blocks.
    pub(super) block_tokens: u64,
    warnings: Vec<String>,
    started: SystemTime,
}

/// One of its models.
pub(super) struct Model {
    name: String,
    checkpoint: Checkpoint,
    pub architecture: Architecture,
}

impl Model {
    pub fn participant(&self) -> Participant<'_> {
        Participant {
            name: self.name.clone(),
            checkpoint: &self.checkpoint,
            architecture: self.architecture.clone(),
        }
    }
}

/// One data set, ready for the models.
pub(super) struct Texts {
    samples: SampleSet,
    pub tokens: TokenizedSet,
}

impl Texts {
    pub fn record(&self) -> TextsRecord {
        let mut hasher = blake3::Hasher::new();
        for ids in &self.tokens.ids {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
        }
        TextsRecord {
            name: self.tokens.name.clone(),
            samples: self.tokens.ids.len(),
            blake3: hasher.finalize().to_hex().to_string(),
        }
    }
}

/// What the numbers of an analysis are called by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Names of the models, the base's first.
    pub models: Vec<String>,
    /// Name and samples (N) of each data set.
    pub datasets: Vec<(String, usize)>,
    /// L.
    pub blocks: usize,
}

impl<'c> Analysis<'c> {
    /// Opens the checkpoints and reads all texts.
    ///
    /// # Errors
    /// Whatever is wrong with them, naming it.
    pub fn open(config: &'c AnalyzeConfig, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Self> {
        check_resamples(config.resamples)?;
        let started = SystemTime::now();
        let mut clock = Clock::default();
        let variants = config.variants.iter().map(|v| (v.name.as_str(), &v.checkpoint));
        let specs = std::iter::once((BASE, &config.base)).chain(variants);
        let opened: Vec<(&str, Checkpoint)> = specs
            .map(|(name, spec)| Ok((name, Checkpoint::open(spec, hub, on_transfer)?)))
            .collect::<Result<_>>()?;
        let resolve = |(name, checkpoint): (&str, Checkpoint)| {
            Ok(Model {
                name: name.to_owned(),
                architecture: Architecture::resolve(checkpoint.config())?,
                checkpoint,
            })
        };
        let models: Vec<Model> = opened.into_iter().map(resolve).collect::<Result<_>>()?;
        let mut warnings = Vec::new();
        let participants: Vec<_> = models.iter().map(Model::participant).collect();
        let tokenizer = common_tokenizer(&participants, &mut warnings)?;
        drop(participants);
        clock.lap("open checkpoints");
        let read = |spec: &DataSpec| {
            let files = data::resolve(&spec.source, hub, on_transfer)?;
            read_texts(spec, &files, &tokenizer, config)
        };
        let texts = config.data.iter().map(read).collect::<Result<_>>()?;
        clock.lap("read texts");
        Ok(Self {
            config,
            models,
            texts,
            clock,
            block_tokens: 0,
            warnings,
            started,
        })
    }

    /// Names and sizes.
    pub fn outline(&self) -> Outline {
        let datasets = self.texts.iter().map(|t| (t.tokens.name.clone(), t.tokens.ids.len()));
        Outline {
            models: self.models.iter().map(|model| model.name.clone()).collect(),
            datasets: datasets.collect(),
            blocks: self.models[0].architecture.blocks,
        }
    }

    /// The run around its numbers, with the hash of every input.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read.
    pub fn describe(mut self) -> Result<RunInfo> {
        let models: Vec<ModelInfo> = self
            .models
            .iter()
            .map(|model| describe::model(&model.participant()))
            .collect::<Result<_>>()?;
        let datasets: Vec<DatasetInfo> = self
            .texts
            .iter()
            .map(|t| describe::dataset(self.config, &t.samples, &t.tokens))
            .collect::<Result<_>>()?;
        self.clock.lap("hash inputs");
        Ok(describe::run(
            self.config,
            models,
            datasets,
            self.block_tokens,
            self.warnings,
            self.clock,
            self.started,
        ))
    }
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

/// The base's tokenizer, once it is known to be the variants' too.
pub(in crate::study) fn common_tokenizer(
    participants: &[Participant<'_>],
    warnings: &mut Vec<String>,
) -> Result<Tokenizer> {
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
    Ok(Texts { samples, tokens })
}

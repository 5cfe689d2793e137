//! A configuration with everything it names opened: models, channels, prompts. Nothing is trained or written yet.

use super::{EraseConfig, Eraser, Prompts};
use crate::{
    Error, Result,
    adapt::{Carrier, MaskGroup, Masks},
    checkpoint::{Checkpoint, FileHash, digest},
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    tokens::{ChatTemplate, Grouping, Order, Tokenizer, TrainingSample},
    train::{Batching, DataCount, Identity, Item, Length, Purpose, Schedule, Shape, Timeline},
};
use std::time::SystemTime;

/// Everything the training of a trigger needs.
pub struct Erasure {
    /// Resolved.
    pub config: EraseConfig,
    /// The model whose behaviour is to come back.
    pub base: Checkpoint,
    /// The model that the trigger stands in front of.
    pub tuned: Checkpoint,
    /// The shape of both.
    pub architecture: Architecture,
    /// The channels of each block that are drawn to the base's, ascending.
    pub channels: Vec<Vec<usize>>,
    /// The prompts.
    pub prompts: Prompts,
    /// Hash of the carrier's masks, if there is a carrier.
    pub carrier: Option<String>,
}

impl Erasure {
    /// Opens what a resolved configuration names. `now` is the time that chat templates see: the start of the run.
    ///
    /// # Errors
    /// Whatever is wrong with options, checkpoints, prompts or masks: [`Error::Mismatch`] if the models or the masks do not fit each other.
    pub fn prepare(
        config: EraseConfig,
        hub: &HubOptions,
        on_transfer: OnTransfer<'_>,
        now: SystemTime,
    ) -> Result<Self> {
        let [base, tuned] =
            [&config.model.base, &config.model.tuned].map(|spec| Checkpoint::open(spec, hub, on_transfer));
        let (base, tuned) = (base?, tuned?);
        let architecture = same_shape(&base, &tuned)?;
        let carrier = config.model.carrier.as_deref().map(Carrier::open).transpose()?;
        if let Some(carrier) = &carrier {
            carrier.check(&architecture, tuned.label())?;
        }
        let masks = carrier.as_ref().map(Carrier::masks);
        let channels = config.eraser.channels(masks.is_some());
        let channels = channels.of(&architecture, masks, config.eraser.seed)?;
        let tokenizer = Tokenizer::of(&tuned)?;
        let template = match &config.data.template {
            Some(path) => Some(ChatTemplate::from_file(path, &tokenizer, now)?),
            None => ChatTemplate::of(&tuned, &tokenizer, now)?,
        };
        let prompts = Prompts::read(&config, &tokenizer, template.as_ref(), hub, on_transfer)?;
        check_prompts(&prompts.samples, &config.eraser, &architecture, &tuned)?;
        Ok(Self {
            base,
            tuned,
            architecture,
            channels,
            prompts,
            carrier: masks.map(hash),
            config,
        })
    }

    /// `[eraser]`.
    pub fn options(&self) -> &Eraser {
        &self.config.eraser
    }

    /// The prompts by number.
    pub fn items(&self) -> Vec<Item<'_>> {
        (0..)
            .zip(&self.prompts.samples)
            .map(|(key, sample)| Item { key, sample })
            .collect()
    }

    /// The steps of the run: every epoch meets each prompt once, in an order of its own, and its last step takes what is left.
    pub fn timeline(&self) -> Timeline {
        let samples = &self.prompts.samples;
        let sizes: Vec<[usize; 2]> = samples.iter().map(|s| [s.ids.len(), s.trained_tokens()]).collect();
        let batching = Batching {
            grouping: Grouping::Sequences(self.options().batch),
            order: Order::Shuffled,
            accumulation: 1, // the mean over a batch does not come apart
            seed: self.options().seed,
        };
        Timeline::new(&sizes, batching, Length::Steps(self.options().steps))
    }

    /// One learning rate for all steps.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            shape: Shape::Constant,
            peak: self.options().lr,
            warmup_steps: 0,
            steps: self.options().steps,
            min_ratio: 1.0,
        }
    }

    /// What the prompts give, as training runs record it.
    pub fn count(&self) -> DataCount {
        let samples = &self.prompts.samples;
        DataCount {
            name: self.prompts.dataset.name.clone(),
            purpose: Purpose::Train,
            sequences: samples.len(),
            tokens: samples.iter().map(|sample| sample.ids.len()).sum(),
            trained_tokens: samples.iter().map(TrainingSample::trained_tokens).sum(),
            hash: self.prompts.hash(),
        }
    }

    /// What makes this run the run it is, from the files of both models.
    pub fn identity(&self, base: &[FileHash], tuned: &[FileHash]) -> Identity<EraseConfig> {
        let carrier = self.carrier.clone().unwrap_or("none".to_owned());
        Identity {
            config: self.config.clone(),
            base: digest(base),
            others: vec![
                ("the tuned model".into(), digest(tuned)),
                ("the carrier".into(), carrier),
            ],
            data: vec![(self.prompts.dataset.name.clone(), self.prompts.hash())],
            threads: rayon::current_num_threads(),
            ranks: 1,
        }
    }
}

/// The shape of both models.
fn same_shape(base: &Checkpoint, tuned: &Checkpoint) -> Result<Architecture> {
    let [b, t] = [base, tuned].map(|checkpoint| Architecture::resolve(checkpoint.config()));
    let (b, t) = (b?, t?);
    let sizes = [
        ("num_hidden_layers", b.blocks, t.blocks),
        ("hidden_size", b.hidden, t.hidden),
        ("vocab_size", b.vocab, t.vocab),
    ];
    match sizes.into_iter().find(|(_, base, tuned)| base != tuned) {
        None => Ok(t),
        Some((key, left, right)) => Err(Error::Mismatch {
            left: base.label().to_owned(),
            right: tuned.label().to_owned(),
            what: key.to_owned(),
            left_value: left.to_string(),
            right_value: right.to_string(),
            help: "the tuned model must be fine-tuned from the base".into(),
        }),
    }
}

/// Prompts must fit the model with the trigger in front, and be of its tokens.
fn check_prompts(
    samples: &[TrainingSample],
    options: &Eraser,
    architecture: &Architecture,
    tuned: &Checkpoint,
) -> Result<()> {
    let refuse = |sample: &TrainingSample, problem: String, help: &str| Error::Argument {
        what: "prompt".into(),
        value: sample.id.clone(),
        problem,
        help: help.into(),
    };
    for sample in samples {
        let (length, context) = (options.tokens + sample.ids.len(), architecture.max_positions);
        if length > context {
            let problem = format!(
                "with {} vectors in front it has {length} tokens, more than the context of {context} of {}",
                options.tokens,
                tuned.label()
            );
            return Err(refuse(
                sample,
                problem,
                "leave long prompts out: `max_length` in [data]",
            ));
        }
        if let Some(id) = sample.ids.iter().find(|id| **id as usize >= architecture.vocab) {
            let problem = format!("token {id} is not one of the model's {}", architecture.vocab);
            return Err(refuse(sample, problem, "the tokenizer belongs to another model"));
        }
    }
    Ok(())
}

/// Hash of which channels are active.
fn hash(masks: &Masks) -> String {
    let mut hasher = blake3::Hasher::new();
    for block in 0..masks.blocks() {
        for group in MaskGroup::ALL {
            let active = masks.group(block, group).iter().map(|active| u8::from(*active));
            hasher.update(&active.collect::<Vec<_>>());
        }
    }
    hasher.finalize().to_hex().to_string()
}

//! A model with a trigger in front of it, or without one.

use crate::train::eraser::Channels;
use serde::{Deserialize, Serialize};

/// Which model of a carve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelOf {
    /// Before fine-tuning.
    Base,
    /// Fine-tuned, dense.
    Sft,
    /// Fine-tuned, confined to its masks.
    Carrier,
}

/// What a trigger was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerOf {
    /// The carrier, on the channels that it writes to.
    Carrier,
    /// The dense model, on the same channels.
    Sft,
    /// The carrier, on as many channels drawn at random.
    Random,
    /// The carrier, by the divergence from the base alone.
    Kl,
}

impl TriggerOf {
    /// In names of cells and arms.
    pub fn name(self) -> &'static str {
        match self {
            Self::Carrier => "trigger",
            Self::Sft => "sft",
            Self::Random => "random",
            Self::Kl => "kl",
        }
    }

    /// In sentences and tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Carrier => "of the carrier",
            Self::Sft => "of sft",
            Self::Random => "of random channels",
            Self::Kl => "of KL alone",
        }
    }

    /// The channels that it must have; none where options say it.
    pub(super) fn channels(self) -> Option<Channels> {
        match self {
            Self::Carrier | Self::Sft => None,
            Self::Random => Some(Channels::Random),
            Self::Kl => Some(Channels::None),
        }
    }

    /// Name of its cell.
    pub(super) fn cell(self) -> String {
        format!("reversal-trigger-{}", self.name())
    }
}

/// A model and what stands in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// The model.
    pub model: ModelOf,
    /// The trigger, if there is one.
    pub trigger: Option<TriggerOf>,
}

impl Arm {
    /// The model before fine-tuning.
    pub const BASE: Self = Self::plain(ModelOf::Base);
    /// The dense fine-tuned model.
    pub const SFT: Self = Self::plain(ModelOf::Sft);
    /// The carrier.
    pub const CARRIER: Self = Self::plain(ModelOf::Carrier);
    /// The carrier with its trigger.
    pub const REVERSED: Self = Self::with(ModelOf::Carrier, TriggerOf::Carrier);
    /// The dense model with a trigger of its own.
    pub const SFT_REVERSED: Self = Self::with(ModelOf::Sft, TriggerOf::Sft);

    /// All, in the order in which they are told of.
    pub const ALL: [Self; 8] = [
        Self::BASE,
        Self::SFT,
        Self::CARRIER,
        Self::REVERSED,
        Self::SFT_REVERSED,
        Self::with(ModelOf::Sft, TriggerOf::Carrier),
        Self::with(ModelOf::Carrier, TriggerOf::Random),
        Self::with(ModelOf::Carrier, TriggerOf::Kl),
    ];

    const fn plain(model: ModelOf) -> Self {
        Self { model, trigger: None }
    }

    const fn with(model: ModelOf, trigger: TriggerOf) -> Self {
        Self {
            model,
            trigger: Some(trigger),
        }
    }

    /// The same model with nothing in front of it.
    pub fn without(self) -> Self {
        Self::plain(self.model)
    }

    /// In results.
    pub fn name(self) -> &'static str {
        match (self.model, self.trigger) {
            (ModelOf::Base, _) => "base",
            (ModelOf::Sft, None) => "sft",
            (ModelOf::Carrier, None) => "carrier",
            (ModelOf::Carrier, Some(TriggerOf::Random)) => "carrier + trigger of random channels",
            (ModelOf::Carrier, Some(TriggerOf::Kl)) => "carrier + trigger of KL alone",
            (ModelOf::Carrier, Some(_)) => "carrier + trigger",
            (ModelOf::Sft, Some(TriggerOf::Sft)) => "sft + trigger",
            (ModelOf::Sft, Some(_)) => "sft + the carrier's trigger",
        }
    }

    /// In names of files.
    pub(super) fn slug(self) -> String {
        let model = Self::plain(self.model).name();
        match self.trigger {
            None => model.to_owned(),
            Some(trigger) => format!("{model}-with-{}", trigger.name()),
        }
    }
}

//! Data to train on: for each sequence its ids, and which of them the model is to learn to predict.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{Format, Skipped};
use crate::{Error, Result};

/// Which tokens are in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// What the assistant says, the token that ends its turn included; of a raw text, all.
    #[default]
    Answers,
    /// Every token but the first.
    All,
}

impl fmt::Display for LossOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answers => "answers",
            Self::All => "all",
        })
    }
}

impl FromStr for LossOn {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value {
            "answers" => Ok(Self::Answers),
            "all" => Ok(Self::All),
            _ => Err(Error::Argument {
                what: "--loss-on".into(),
                value: value.into(),
                problem: "no such choice".into(),
                help: "give `answers` or `all`".into(),
            }),
        }
    }
}

/// How rows become sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingFormatOptions {
    /// The shape of the rows; `None` recognises it.
    pub format: Option<Format>,
    /// Which tokens are in the loss.
    pub loss_on: LossOn,
    /// Tokens after which a sequence is cut.
    pub max_length: usize,
    /// How many rows to draw; `None` takes all.
    pub samples: Option<usize>,
    /// Seed of that draw.
    pub seed: u64,
}

/// One sequence to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingSample {
    /// `file:row`.
    pub id: String,
    /// Token ids, (T); at least 2.
    pub ids: Vec<u32>,
    /// Whether the model is to predict token `t` from those before it, (T); never token 0, always some token.
    pub trained: Vec<bool>,
}

impl TrainingSample {
    /// Tokens in the loss.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|trained| **trained).count()
    }
}

/// The sequences of a data set and what became of its other rows.
#[derive(Clone, Debug)]
pub struct TrainingSet {
    /// The name given with the data set.
    pub name: String,
    /// The shape of its rows.
    pub format: Format,
    /// File, folder or hub id, as typed.
    pub path: String,
    /// The files read.
    pub files: Vec<PathBuf>,
    /// Rows read.
    pub total_rows: usize,
    /// The sequences, in file order.
    pub samples: Vec<TrainingSample>,
    /// Rows that cannot be trained on.
    pub skipped: Vec<Skipped>,
    /// Sequences cut at the maximal length.
    pub truncated: usize,
}

impl TrainingSet {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.ids.len()).sum()
    }

    /// Tokens in the loss.
    pub fn trained_tokens(&self) -> usize {
        self.samples.iter().map(TrainingSample::trained_tokens).sum()
    }

    /// Number of tokens of each sequence, for a [`BatchPlan`](super::BatchPlan).
    pub fn lengths(&self) -> Vec<usize> {
        self.samples.iter().map(|sample| sample.ids.len()).collect()
    }

    /// Hash of ids and masks, in order.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for sample in &self.samples {
            hasher.update(&(sample.ids.len() as u64).to_le_bytes());
            for (id, trained) in sample.ids.iter().zip(&sample.trained) {
                hasher.update(&id.to_le_bytes());
                hasher.update(&[u8::from(*trained)]);
            }
        }
        hasher.finalize()
    }
}

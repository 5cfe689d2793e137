//! Which channels of a block a change may use: eight groups of binary masks a block (Crafting Reversible SFT Behaviors,
//! arXiv 2605.06632).
//!
//! A matrix W (out, in) of a block is `W_base + (m_row ⊗ m_col) ⊙ (W_tuned − W_base)`, with m_row over its outputs and m_col over its inputs:
//!
//! | matrix | m_row | m_col |
//! |---|---|---|
//! | gate, up | ffn_hidden | ffn_read |
//! | down | ffn_write | ffn_hidden |
//! | q | query | attention_read |
//! | k | key | attention_read |
//! | v | value | attention_read |
//! | o | attention_write | value, each kv head repeated for its query heads |

use crate::{
    Error, Result,
    model::{Architecture, Part},
    rng,
};
use std::{fmt, str::FromStr};

/// How masks are trained. A mask m is 1 where its θ is above 0, else 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskOptions {
    /// Whether the tuned weights are trained beside the masks.
    pub weights: bool,
    /// Learning rate of the masks' SGD.
    pub lr: f64,
    /// Its momentum, in [0, 1).
    pub momentum: f64,
    /// Mean of θ at the start.
    pub mean: f64,
    /// Standard deviation of θ at the start.
    pub std: f64,
}

impl Default for MaskOptions {
    /// The paper's.
    fn default() -> Self {
        Self {
            weights: true,
            lr: 0.1,
            momentum: 0.0,
            mean: 1.5,
            std: 0.5,
        }
    }
}

impl MaskOptions {
    /// # Errors
    /// [`Error::Argument`] for an option out of its range.
    pub(super) fn check(&self) -> Result<()> {
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        let options = [
            (
                "learning rate",
                self.lr,
                self.lr > 0.0 && self.lr.is_finite(),
                "above 0",
            ),
            (
                "momentum",
                self.momentum,
                (0.0..1.0).contains(&self.momentum),
                "from 0 to below 1",
            ),
            ("mean", self.mean, self.mean.is_finite(), "a number"),
            ("standard deviation", self.std, not_negative(self.std), "0 or more"),
        ];
        match options.into_iter().find(|(_, _, good, _)| !good) {
            None => Ok(()),
            Some((name, value, _, expected)) => Err(Error::Argument {
                what: format!("{name} of masks"),
                value: value.to_string(),
                problem: format!("not {expected}"),
                help: String::new(),
            }),
        }
    }

    /// θ of a group of a block at the start: N(mean, std²), from a stream of its own ("masks", block, group), so that the choice of other
    /// blocks never changes it.
    pub fn initial(&self, seed: u64, block: usize, group: MaskGroup, channels: usize) -> Vec<f32> {
        let mut random = rng::stream(seed, "masks", &[block as u64, group as u64]);
        (0..channels)
            .map(|_| (self.mean + self.std * rng::normal(&mut random)) as f32)
            .collect()
    }
}

/// A group of masks: one number for each channel of a place in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MaskGroup {
    /// What the MLP reads of the residual stream, (D).
    FfnRead,
    /// The MLP's hidden channels, (F).
    FfnHidden,
    /// What the MLP writes to the residual stream, (D).
    FfnWrite,
    /// What attention reads of the residual stream, (D).
    AttentionRead,
    /// Channels of the queries, (H·E).
    Query,
    /// Channels of the keys, (K·E).
    Key,
    /// Channels of the values, (K·E).
    Value,
    /// What attention writes to the residual stream, (D).
    AttentionWrite,
}

impl MaskGroup {
    /// All, in the order in which they are stored and told of.
    pub const ALL: [Self; 8] = [
        Self::FfnRead,
        Self::FfnHidden,
        Self::FfnWrite,
        Self::AttentionRead,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionWrite,
    ];

    /// As it is written in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::FfnRead => "ffn_read",
            Self::FfnHidden => "ffn_hidden",
            Self::FfnWrite => "ffn_write",
            Self::AttentionRead => "attention_read",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::AttentionWrite => "attention_write",
        }
    }

    /// Channels of a block.
    pub fn channels(self, architecture: &Architecture) -> usize {
        let a = architecture;
        match self {
            Self::FfnRead | Self::FfnWrite | Self::AttentionRead | Self::AttentionWrite => a.hidden,
            Self::FfnHidden => a.ffn,
            Self::Query => a.heads * a.head_dim,
            Self::Key | Self::Value => a.kv_heads * a.head_dim,
        }
    }

    /// The groups over the rows and the columns of a linear layer's matrix.
    ///
    /// # Panics
    /// If `part` is a norm.
    pub fn of(part: Part) -> [Self; 2] {
        match part {
            Part::Gate | Part::Up => [Self::FfnHidden, Self::FfnRead],
            Part::Down => [Self::FfnWrite, Self::FfnHidden],
            Part::Q => [Self::Query, Self::AttentionRead],
            Part::K => [Self::Key, Self::AttentionRead],
            Part::V => [Self::Value, Self::AttentionRead],
            Part::O => [Self::AttentionWrite, Self::Value],
            norm => panic!("{norm:?} is no linear layer"),
        }
    }
}

impl fmt::Display for MaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for MaskGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|group| group.name() == text);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The column mask of a matrix with the channel of its group that stands at each column: the column itself, but for `o`, whose columns are
/// query heads' and whose group's channels are kv heads'.
///
/// # Panics
/// If `part` is a norm.
pub fn column_channels(part: Part, architecture: &Architecture) -> Vec<usize> {
    let [_, group] = MaskGroup::of(part);
    let a = architecture;
    match part {
        Part::O => (0..a.heads * a.head_dim)
            .map(|column| column / a.head_dim / (a.heads / a.kv_heads) * a.head_dim + column % a.head_dim)
            .collect(),
        _ => (0..group.channels(a)).collect(),
    }
}

/// The active channels of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masks {
    /// Of each block, of each group in the order of [`MaskGroup::ALL`], each channel.
    pub(super) blocks: Vec<[Vec<bool>; 8]>,
}

impl Masks {
    /// From the groups of each block.
    ///
    /// # Panics
    /// If a group has another number of channels than the architecture's.
    pub fn new(architecture: &Architecture, blocks: Vec<[Vec<bool>; 8]>) -> Self {
        assert_eq!(blocks.len(), architecture.blocks, "blocks with masks");
        for groups in &blocks {
            for (group, mask) in MaskGroup::ALL.into_iter().zip(groups) {
                assert_eq!(mask.len(), group.channels(architecture), "channels of {group}");
            }
        }
        Self { blocks }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Each channel of a group of a block, 0-based.
    pub fn group(&self, block: usize, group: MaskGroup) -> &[bool] {
        &self.blocks[block][group as usize]
    }

    /// Active channels of a group of a block.
    pub fn active(&self, block: usize, group: MaskGroup) -> usize {
        self.group(block, group).iter().filter(|active| **active).count()
    }

    /// The residual channels that a block's change writes to: those of its MLP and those of its attention together, ascending.
    pub fn written(&self, block: usize) -> Vec<usize> {
        let groups = [MaskGroup::FfnWrite, MaskGroup::AttentionWrite].map(|group| self.group(block, group));
        let [ffn, attention] = groups;
        let either = |&channel: &usize| ffn[channel] || attention[channel];
        (0..ffn.len()).filter(either).collect()
    }
}

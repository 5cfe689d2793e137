//! Which channels of each block's output a trigger is to bring back.

use crate::{
    Error, Result,
    adapt::{MaskGroup, Masks},
    model::Architecture,
    rng,
};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

/// A choice of residual channels, block by block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// Those that the carrier's MLP or attention writes to.
    Carrier,
    /// Those that its MLP writes to.
    Ffn,
    /// Those that its attention writes to.
    Attention,
    /// As many as `carrier`, drawn from all.
    Random,
    /// All.
    Residual,
    /// None: the divergence is all there is.
    None,
}

impl Channels {
    /// All, in the order in which they are told of.
    pub const ALL: [Self; 6] = [
        Self::Carrier,
        Self::Ffn,
        Self::Attention,
        Self::Random,
        Self::Residual,
        Self::None,
    ];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Carrier => "carrier",
            Self::Ffn => "ffn",
            Self::Attention => "attention",
            Self::Random => "random",
            Self::Residual => "residual",
            Self::None => "none",
        }
    }

    /// The channels of each block, ascending.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is a carrier's and there is none, or none of that is active in any block.
    pub(super) fn of(self, architecture: &Architecture, masks: Option<&Masks>, seed: u64) -> Result<Vec<Vec<usize>>> {
        let refuse = |problem: &str, help: &str| Error::Argument {
            what: "eraser.channels".into(),
            value: self.name().into(),
            problem: problem.into(),
            help: help.into(),
        };
        let (blocks, all) = (0..architecture.blocks, architecture.hidden);
        let chosen: Vec<Vec<usize>> = match (self, masks) {
            (Self::None, _) => return Ok(vec![Vec::new(); architecture.blocks]),
            (Self::Residual, _) => blocks.map(|_| (0..all).collect()).collect(),
            (_, None) => {
                let help = "name it: --carrier DIR, or take `residual` or `none`";
                return Err(refuse("it is a carrier's, and there is no carrier", help));
            }
            (Self::Carrier, Some(masks)) => blocks.map(|block| masks.written(block)).collect(),
            (Self::Ffn, Some(masks)) => blocks.map(|block| active(masks, block, MaskGroup::FfnWrite)).collect(),
            (Self::Attention, Some(masks)) => blocks
                .map(|block| active(masks, block, MaskGroup::AttentionWrite))
                .collect(),
            (Self::Random, Some(masks)) => blocks
                .map(|block| {
                    let mut random = rng::stream(seed, "eraser channels", &[block as u64]);
                    let mut drawn = sample(&mut random, all, masks.written(block).len()).into_vec();
                    drawn.sort_unstable();
                    drawn
                })
                .collect(),
        };
        if chosen.iter().all(Vec::is_empty) {
            return Err(refuse("the carrier has none of these in any block", "take `none`"));
        }
        Ok(chosen)
    }
}

impl std::str::FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|channels| channels.name() == text);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

fn active(masks: &Masks, block: usize, group: MaskGroup) -> Vec<usize> {
    let channels = masks.group(block, group).iter().enumerate();
    channels
        .filter(|(_, active)| **active)
        .map(|(channel, _)| channel)
        .collect()
}

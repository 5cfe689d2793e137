//! Ways through the blocks of several models: which model, or which blend of base and variant, each part is taken from.

use crate::model::{Architecture, ParameterId};
use std::{ops::Range, sync::Arc};

/// Weights `(1 − α)·base + α·variant`; the base is participant 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Index of a participant; 0 is the base itself, whatever α.
    pub variant: usize,
    /// α: 0 is the base, 1 the variant, bit for bit.
    pub alpha: f32,
}

impl Mix {
    /// The base's weights.
    pub const BASE: Self = Self { variant: 0, alpha: 0.0 };

    /// A participant's own weights.
    pub fn of(participant: usize) -> Self {
        Self {
            variant: participant,
            alpha: if participant == 0 { 0.0 } else { 1.0 },
        }
    }

    /// The participant whose weights these are, if they are one's own.
    pub(super) fn participant(self) -> Option<usize> {
        match self {
            Self { variant: 0, .. } => Some(0),
            Self { alpha: 0.0, .. } => Some(0),
            Self { variant, alpha: 1.0 } => Some(variant),
            _ => None,
        }
    }

    /// The same weights in one way of writing, where `first[p]` is the first participant whose weights equal those of p.
    pub(super) fn canonical(self, first: &[usize]) -> Self {
        match self.participant() {
            Some(participant) => Self::of(first[participant]),
            None if first[self.variant] == 0 => Self::BASE,
            None => Self {
                variant: first[self.variant],
                ..self
            },
        }
    }
}

/// A way from tokens to logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name in errors and tables.
    pub name: String,
    /// What the embedding is taken from.
    pub embedding: Mix,
    /// What each block is taken from, L of them.
    pub blocks: Vec<Mix>,
    /// What the final norm and the head are taken from.
    pub ends: Mix,
    /// A vector (D) that is added to the residual stream after a block, at every token: one for each block, or none at all.
    pub added: Vec<Option<Arc<[f32]>>>,
}

impl Route {
    /// All of one participant, through `blocks` blocks.
    pub fn of(name: impl Into<String>, participant: usize, blocks: usize) -> Self {
        let mix = Mix::of(participant);
        Self {
            name: name.into(),
            embedding: mix,
            blocks: vec![mix; blocks],
            ends: mix,
            added: Vec::new(),
        }
    }

    /// The base with the share `alphas[l]` of a variant in block l (0-based). Final norm and head follow the last block; the
    /// embedding stays the base's, unless it is the head as well.
    ///
    /// # Panics
    /// If there is not an α for each block.
    pub fn merged(name: impl Into<String>, variant: usize, alphas: &[f32], architecture: &Architecture) -> Self {
        assert_eq!(alphas.len(), architecture.blocks, "one α for each block");
        let mix = |alpha: f32| Mix { variant, alpha };
        let ends = mix(alphas[alphas.len() - 1]);
        Self {
            name: name.into(),
            embedding: if architecture.tied_head { ends } else { Mix::BASE },
            blocks: alphas.iter().copied().map(mix).collect(),
            ends,
            added: Vec::new(),
        }
    }

    /// The same with the blocks `range` taken from a participant.
    #[must_use]
    pub fn with_blocks(mut self, range: Range<usize>, participant: usize) -> Self {
        self.blocks[range].fill(Mix::of(participant));
        self
    }

    /// The same with final norm and head taken from a participant.
    #[must_use]
    pub fn with_ends(mut self, participant: usize) -> Self {
        self.ends = Mix::of(participant);
        self
    }

    /// What a parameter is taken from.
    pub fn mix_of(&self, parameter: ParameterId) -> Mix {
        match parameter {
            ParameterId::Embedding => self.embedding,
            other => other.block().map_or(self.ends, |block| self.blocks[block]),
        }
    }

    /// Everything it is made of but what is added.
    pub(super) fn mixes(&self) -> impl Iterator<Item = Mix> + '_ {
        [self.embedding, self.ends]
            .into_iter()
            .chain(self.blocks.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_written_in_one_way() {
        let first = [0, 1, 1, 0]; // 2 equals 1, and 3 the base
        let mix = |variant, alpha| Mix { variant, alpha }.canonical(&first);
        for (got, expected) in [
            (mix(0, 0.7), Mix::BASE),
            (mix(1, 0.0), Mix::BASE),
            (mix(1, 1.0), Mix::of(1)),
            (mix(2, 1.0), Mix::of(1)),
            (mix(2, 0.5), Mix { variant: 1, alpha: 0.5 }),
            (mix(3, 0.5), Mix::BASE),
            (mix(3, 1.0), Mix::BASE),
        ] {
            assert_eq!(got, expected);
        }
    }
}

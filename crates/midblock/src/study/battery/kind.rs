//! The kinds of studies.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One of the studies of a base and its variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Early exit: every layer read through the final norm and the head.
    Exit,
    /// Logit lens: what each layer would say next, base against variant, token by token.
    Lens,
    /// Blocks of one model in the other.
    Swap,
    /// Merging with one α per segment.
    Alphas,
    /// The difference of two models added to the residual stream.
    Steer,
    /// How far the singular subspaces of the weights, and the states, have turned.
    Drift,
    /// Gradients and updates of each block over optimiser steps.
    Gradients,
    /// Metrics over several draws of samples.
    Seeds,
    /// Which metrics say the same.
    Correlate,
    /// Training with the first blocks frozen.
    Selective,
    /// Which blocks are worth training, and whether choosing them pays.
    Locate,
    /// What ways of training gain on their task, and what they cost elsewhere.
    Tradeoff,
    /// Whether a trigger takes a carved behaviour back, and from the dense model too.
    Reversal,
}

impl Kind {
    /// All, in the order in which they run and are reported.
    pub const ALL: [Self; 13] = [
        Self::Exit,
        Self::Lens,
        Self::Swap,
        Self::Alphas,
        Self::Steer,
        Self::Drift,
        Self::Gradients,
        Self::Seeds,
        Self::Correlate,
        Self::Selective,
        Self::Locate,
        Self::Tradeoff,
        Self::Reversal,
    ];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Lens => "lens",
            Self::Swap => "swap",
            Self::Alphas => "alphas",
            Self::Steer => "steer",
            Self::Drift => "drift",
            Self::Gradients => "gradients",
            Self::Seeds => "seeds",
            Self::Correlate => "correlate",
            Self::Selective => "selective",
            Self::Locate => "locate",
            Self::Tradeoff => "tradeoff",
            Self::Reversal => "reversal",
        }
    }

    /// Whether it compares variants with the base, and so needs one.
    pub fn needs_variant(self) -> bool {
        matches!(self, Self::Swap | Self::Alphas | Self::Steer | Self::Drift)
    }

    /// Whether it trains, and so needs data to train on besides the measured.
    pub fn trains(self) -> bool {
        matches!(self, Self::Gradients | Self::Selective | Self::Locate | Self::Tradeoff)
    }

    /// Whether it is one of `all`; what trains for as long as `[train]` says, and what looks at a carve, is asked for by name.
    pub fn is_in_all(self) -> bool {
        !matches!(self, Self::Tradeoff | Self::Reversal)
    }

    /// `all`, which leaves out [what is not in it](Self::is_in_all), or names separated by commas; in running order, each once.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        if text == "all" {
            return Ok(Self::ALL.into_iter().filter(|kind| kind.is_in_all()).collect());
        }
        let mut kinds: Vec<Self> = text.split(',').map(str::parse).collect::<Result<_>>()?;
        kinds.sort_unstable();
        kinds.dedup();
        Ok(kinds)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| Error::Argument {
                what: "the kind of study".into(),
                value: text.into(),
                problem: "there is none of that name".into(),
                help: format!(
                    "`all`, or some of {}, separated by commas",
                    Self::ALL.map(Self::name).join(", ")
                ),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_put_in_order_and_a_wrong_name_is_named() {
        assert_eq!(Kind::parse_list("swap,exit,swap").unwrap(), [Kind::Exit, Kind::Swap]);
        let all = Kind::parse_list("all").unwrap();
        assert!(!all.contains(&Kind::Tradeoff) && !all.contains(&Kind::Reversal) && all.len() + 2 == Kind::ALL.len());
        assert_eq!(Kind::parse_list("tradeoff").unwrap(), [Kind::Tradeoff]);
        let message = Kind::parse_list("exit,lense").unwrap_err().to_string();
        assert!(message.contains("`lense`") || message.contains("lense"), "{message}");
    }
}

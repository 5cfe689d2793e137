//! LoRA's numbers: rank, scale and the matrices it starts from.
//!
//! `W' = W + s·B·A` with A (R, in), B (out, R) (Hu et al. 2021, arXiv 2106.09685, eq. 3). With uniform rank r and a block's
//! own rank R:
//!
//! | scaling | s | α by default |
//! |---|---|---|
//! | fixed-alpha | α/R | 2r |
//! | fixed-ratio | α/r, whatever R | 2r |
//! | rslora | α/√R (Kalajdzievski 2023, arXiv 2312.03732, eq. 1) | 2√r |
//!
//! By default all three are 2 at R = r. B starts at 0, so that training starts from the model itself; A at
//! U(−1/√in, 1/√in), PEFT's Kaiming-uniform with a = √5.

use super::Move;
use crate::{Error, Result, model::Part, rng};
use rand::RngExt;
use std::{fmt, str::FromStr};

/// How a pair is scaled where the rank differs between blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// One α for all: s falls as the rank rises. The paper's, and PEFT's.
    #[default]
    FixedAlpha,
    /// One s for all: α follows the rank.
    FixedRatio,
    /// One α for all over the root of the rank.
    Rslora,
}

impl Scaling {
    pub(super) const ALL: [Self; 3] = [Self::FixedAlpha, Self::FixedRatio, Self::Rslora];
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FixedAlpha => "fixed-alpha",
            Self::FixedRatio => "fixed-ratio",
            Self::Rslora => "rslora",
        })
    }
}

impl FromStr for Scaling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|scaling| scaling.to_string() == text);
        found.ok_or_else(|| option_error("scaling", text, "not one of fixed-alpha, fixed-ratio, rslora"))
    }
}

/// Options of LoRA.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraOptions {
    /// r: the uniform rank, which sets the budget r·L of any choice of blocks.
    pub rank: usize,
    /// α at the uniform rank; `None` for the scaling's own default.
    pub alpha: Option<f64>,
    /// Probability that an element of a pair's input is dropped in training, in [0, 1).
    pub dropout: f64,
    /// How pairs of other ranks are scaled.
    pub scaling: Scaling,
}

impl LoraOptions {
    /// # Errors
    /// [`Error::Argument`] for an option out of its range.
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(option_error(
                "dropout",
                &self.dropout.to_string(),
                "not from 0 to below 1",
            ));
        }
        if self.rank == 0 {
            return Err(option_error("rank", "0", "not a positive whole number"));
        }
        match self.alpha {
            Some(alpha) if !(alpha > 0.0 && alpha.is_finite()) => {
                Err(option_error("alpha", &alpha.to_string(), "not a positive number"))
            }
            _ => Ok(()),
        }
    }

    /// What happens to a matrix whose pair has rank R.
    pub(super) fn of_rank(&self, rank: usize) -> Move {
        let (uniform, own) = (self.rank as f64, rank as f64);
        let (alpha, scale) = match self.scaling {
            Scaling::FixedAlpha => {
                let alpha = self.alpha.unwrap_or(2.0 * uniform);
                (alpha, alpha / own)
            }
            Scaling::FixedRatio => {
                let alpha = self.alpha.map_or(2.0 * own, |alpha| alpha * own / uniform);
                (alpha, alpha / own)
            }
            Scaling::Rslora => {
                let alpha = self.alpha.unwrap_or(2.0 * uniform.sqrt());
                (alpha, alpha / own.sqrt())
            }
        };
        let (scale, dropout) = (scale as f32, self.dropout as f32);
        Move::Lora {
            rank,
            alpha,
            scale,
            dropout,
        }
    }
}

/// The A (R, in) that a pair starts from, from a stream of its own ("lora", block, part): the choice of other blocks and
/// modules never changes it.
pub fn initial_a(seed: u64, block: usize, part: Part, rank: usize, in_features: usize) -> Vec<f32> {
    let mut random = rng::stream(seed, "lora", &[block as u64, part as u64]);
    let bound = 1.0 / (in_features as f32).sqrt();
    (0..rank * in_features)
        .map(|_| bound * (2.0 * random.random::<f32>() - 1.0))
        .collect()
}

fn option_error(name: &str, value: &str, problem: &str) -> Error {
    Error::Argument {
        what: format!("LoRA {name}"),
        value: value.to_owned(),
        problem: problem.to_owned(),
        help: String::new(),
    }
}

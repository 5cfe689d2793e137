//! `a ∘ b`, with small numbers.

use super::Split;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::fmt;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Plus,
    Minus,
    Times,
}

/// One step of a solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calculation {
    pub a: u32,
    pub sign: Sign,
    pub b: u32,
}

impl Calculation {
    /// Any calculation of a split.
    pub fn draw(rng: &mut ChaCha8Rng, split: Split) -> Self {
        loop {
            let sign = [Sign::Plus, Sign::Minus, Sign::Times][rng.random_range(0..3)];
            let drawn = match sign {
                Sign::Plus => Self::plus(rng.random_range(2..=50), rng.random_range(2..=49)),
                Sign::Minus => {
                    let a = rng.random_range(5..=80);
                    Self::minus(a, rng.random_range(2..a))
                }
                Sign::Times => Self::times(rng.random_range(2..=9), rng.random_range(2..=12)),
            };
            if split.has(&drawn) {
                return drawn;
            }
        }
    }

    pub fn plus(a: u32, b: u32) -> Self {
        Self { a, sign: Sign::Plus, b }
    }

    pub fn minus(a: u32, b: u32) -> Self {
        Self {
            a,
            sign: Sign::Minus,
            b,
        }
    }

    pub fn times(a: u32, b: u32) -> Self {
        Self {
            a,
            sign: Sign::Times,
            b,
        }
    }

    pub fn value(&self) -> u32 {
        match self.sign {
            Sign::Plus => self.a + self.b,
            Sign::Minus => self.a - self.b,
            Sign::Times => self.a * self.b,
        }
    }

    pub fn is_held_out(&self) -> bool {
        (self.a + 3 * self.b).is_multiple_of(7)
    }
}

impl fmt::Display for Calculation {
    /// `3 + 4 = 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.sign {
            Sign::Plus => '+',
            Sign::Minus => '-',
            Sign::Times => '*',
        };
        write!(f, "{} {sign} {} = {}", self.a, self.b, self.value())
    }
}

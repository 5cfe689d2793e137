//! Which blocks, as text: `mid`, `segments:-1,107,107,107,-1`, `band:0.2-0.8`, `range:6..24`, `list:3,5,7`, `first:6`,
//! `last:6`, `freeze-first:0.33`, `all`, `random:18`, `stable`, `gradient:60%`, …
//!
//! The text reads and writes back the same ([`FromStr`], [`Display`](fmt::Display), and serde as a string).

use super::strategy::{Amount, Strategy};
use crate::{Error, Result};
use std::{fmt, ops::Range, str::FromStr};

/// Every form, for error messages.
const FORMS: &str = "write mid, all, segments:R,…, band:A-B, range:A..B, list:I,…, first:N, last:N, freeze-first:RATIO, \
                     or random, stable, gradient, spectrum or cka, with :N blocks or :N% of them";

/// A choice of blocks.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Layers {
    /// Segments 2 to 4 of five: blocks ⌊L/5⌋ to ⌊4L/5⌋ − 1.
    Mid,
    /// One rank for each of S equal segments; segment i holds blocks ⌊iL/S⌋ to ⌊(i+1)L/S⌋ − 1, and 0 freezes it
    /// (written −1).
    Segments(Vec<usize>),
    /// Blocks ⌊aL⌋ to ⌊bL⌋ − 1, with 0 ≤ a < b ≤ 1.
    Band(f64, f64),
    /// Blocks of a half-open range.
    Range(Range<usize>),
    /// These blocks.
    List(Vec<usize>),
    /// The lowest blocks.
    First(usize),
    /// The highest blocks.
    Last(usize),
    /// All but the lowest ⌊ratio·L⌋ blocks.
    FreezeFirst(f64),
    /// Every block; with full fine-tuning the embedding, the final norm and the head as well.
    All,
    /// Blocks that are best by some measure, or drawn at random.
    Best(Strategy, Amount),
}

impl Layers {
    /// The strategy whose scores [`active`](Self::active) must be given; `None` if it needs none.
    pub fn needs_scores(&self) -> Option<Strategy> {
        match self {
            Self::Best(strategy, _) if *strategy != Strategy::Random => Some(*strategy),
            _ => None,
        }
    }

    /// The chosen blocks of a model of `blocks` blocks, sorted. `seed` decides for [`Strategy::Random`] alone;
    /// `scores` holds a number for each block where [`needs_scores`](Self::needs_scores) says so, higher is chosen first.
    ///
    /// # Errors
    /// [`Error::Argument`] if the choice is empty, names a block that is not there, or lacks its scores.
    pub fn active(&self, blocks: usize, seed: u64, scores: Option<&[f64]>) -> Result<Vec<usize>> {
        let chosen: Vec<usize> = match self {
            Self::Mid => (blocks / 5..4 * blocks / 5).collect(),
            Self::Segments(ranks) => {
                let with_rank = self.segment_ranks(ranks, blocks)?.into_iter().enumerate();
                with_rank
                    .filter(|(_, rank)| *rank > 0)
                    .map(|(block, _)| block)
                    .collect()
            }
            Self::Band(from, to) => (share_of(*from, blocks)..share_of(*to, blocks)).collect(),
            Self::Range(range) => {
                self.check_index(range.end.saturating_sub(1), blocks)?;
                range.clone().collect()
            }
            Self::List(list) => {
                list.iter().try_for_each(|&index| self.check_index(index, blocks))?;
                let mut list = list.clone();
                list.sort_unstable();
                list
            }
            Self::First(n) => (0..self.check_count(*n, blocks)?).collect(),
            Self::Last(n) => (blocks - self.check_count(*n, blocks)?..blocks).collect(),
            Self::FreezeFirst(ratio) => (share_of(*ratio, blocks)..blocks).collect(),
            Self::All => (0..blocks).collect(),
            Self::Best(strategy, amount) => {
                let count = self.check_count(amount.of(blocks), blocks)?;
                let best = strategy.choose(blocks, count, seed, scores);
                best.map_err(|problem| self.error(&problem.0, problem.1))?
            }
        };
        if chosen.is_empty() {
            return Err(self.error(&format!("it selects no block of {blocks}"), ""));
        }
        Ok(chosen)
    }

    fn check_index(&self, index: usize, blocks: usize) -> Result<()> {
        if index < blocks {
            return Ok(());
        }
        let problem = format!("there is no block {index}, the model has {blocks}");
        Err(self.error(
            &problem,
            "blocks are counted from 0, and the end of a range is not in it",
        ))
    }

    fn check_count(&self, count: usize, blocks: usize) -> Result<usize> {
        if count <= blocks {
            return Ok(count);
        }
        Err(self.error(&format!("the model has only {blocks} blocks"), ""))
    }

    /// An error about this choice.
    pub(super) fn error(&self, problem: &str, help: &str) -> Error {
        argument(&self.to_string(), problem, help)
    }
}

/// ⌊ratio·L⌋, where a product that is whole but for rounding (0.29 · 100) counts as whole.
pub(super) fn share_of(ratio: f64, blocks: usize) -> usize {
    (ratio * blocks as f64 + 1e-9).floor() as usize
}

fn argument(value: &str, problem: &str, help: &str) -> Error {
    Error::Argument {
        what: "--layers".to_owned(),
        value: value.to_owned(),
        problem: problem.to_owned(),
        help: help.to_owned(),
    }
}

impl FromStr for Layers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text.trim()).map_err(|problem| argument(text, &problem, FORMS))
    }
}

impl TryFrom<String> for Layers {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> Self {
        layers.to_string()
    }
}

/// `Err` says what is wrong.
fn parse(text: &str) -> Result<Layers, String> {
    let (form, rest) = match text.split_once(':') {
        Some((form, rest)) => (form, Some(rest.trim())),
        None => (text, None),
    };
    if let Some(strategy) = Strategy::named(form) {
        let amount = rest.map_or(Ok(Amount::DEFAULT), str::parse)?;
        return Ok(Layers::Best(strategy, amount));
    }
    let rest = match (form, rest) {
        ("mid", None) => return Ok(Layers::Mid),
        ("all", None) => return Ok(Layers::All),
        ("mid" | "all", Some(_)) => return Err(format!("`{form}` takes nothing after a colon")),
        (_, Some(rest)) => rest,
        (_, None) => return Err("not a choice of blocks".to_owned()),
    };
    Ok(match form {
        "segments" => Layers::Segments(each(rest, segment_rank)?),
        "band" => {
            let (from, to) = pair(rest, "-")?;
            if from >= to {
                return Err(format!("the band ends at {to}, not above its start"));
            }
            Layers::Band(from, to)
        }
        "range" => {
            let (from, to) = rest.split_once("..").ok_or("a range is written A..B")?;
            let (from, to) = (number(from)?, number(to)?);
            if from >= to {
                return Err(format!("the range {from}..{to} is empty: its end is not in it"));
            }
            Layers::Range(from..to)
        }
        "list" => {
            let list: Vec<usize> = each(rest, number)?;
            if let Some(twice) = (1..list.len()).find(|&i| list[..i].contains(&list[i])) {
                return Err(format!("block {} is named twice", list[twice]));
            }
            Layers::List(list)
        }
        "first" => Layers::First(number(rest)?),
        "last" => Layers::Last(number(rest)?),
        "freeze-first" => Layers::FreezeFirst(ratio(rest)?),
        _ => return Err("not a choice of blocks".to_owned()),
    })
}

fn each<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(read).collect()
}

pub(super) fn number(text: &str) -> Result<usize, String> {
    let text = text.trim();
    // Far above any model, far below where sums of ranks could overflow.
    let bounded = text.parse().ok().filter(|n| *n <= 1 << 20);
    bounded.ok_or_else(|| format!("`{text}` is not a whole number from 0 to 2^20"))
}

/// A segment's rank; −1 and 0 both mean frozen.
fn segment_rank(text: &str) -> Result<usize, String> {
    if text.trim() == "-1" { Ok(0) } else { number(text) }
}

fn ratio(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))
}

fn pair(text: &str, separator: &str) -> Result<(f64, f64), String> {
    let (from, to) = text.split_once(separator).ok_or("a band is written A-B, from 0 to 1")?;
    Ok((ratio(from)?, ratio(to)?))
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mid => f.write_str("mid"),
            Self::Segments(ranks) => {
                let frozen = |rank: &usize| if *rank == 0 { "-1".to_owned() } else { rank.to_string() };
                write!(f, "segments:{}", ranks.iter().map(frozen).collect::<Vec<_>>().join(","))
            }
            Self::Band(from, to) => write!(f, "band:{from}-{to}"),
            Self::Range(range) => write!(f, "range:{}..{}", range.start, range.end),
            Self::List(list) => {
                let list: Vec<_> = list.iter().map(usize::to_string).collect();
                write!(f, "list:{}", list.join(","))
            }
            Self::First(n) => write!(f, "first:{n}"),
            Self::Last(n) => write!(f, "last:{n}"),
            Self::FreezeFirst(ratio) => write!(f, "freeze-first:{ratio}"),
            Self::All => f.write_str("all"),
            Self::Best(strategy, amount) => write!(f, "{strategy}:{amount}"),
        }
    }
}

#[cfg(test)]
mod tests;

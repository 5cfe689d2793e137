//! A pattern: which blocks train, by a name that fits any number of blocks.
//!
//! | text | blocks of L |
//! |---|---|
//! | `uniform` | all |
//! | `mid` | ⌊L/5⌋ to ⌊4L/5⌋ − 1 |
//! | `bottom`, `top` | the first and the last of five segments |
//! | `segment:2`, `segment:2,3` | these of five segments, counted from 1; segment i holds ⌊(i−1)L/5⌋ to ⌊iL/5⌋ − 1 |
//! | `random`, `random:n` | as many as `mid`, or n, drawn by the seed of the cell: the control of every other |
//! | `-1,157,157,-1,-1` | a rank for each segment, −1 where it is frozen, as the paper writes it |
//! | anything else | a choice of blocks as in `select.layers` |
//!
//! Every pattern has the same rank budget r·L: its n blocks get the rank ⌊r·L/n⌋ each. Ranks that are written out must add up to
//! it, but for the rounding. Source: arXiv 2604.11838, section on Mid-Block Efficient Tuning.

use crate::{
    Error, Result,
    select::{Layers, Strategy},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Segments of a depth of 20 % each.
const SEGMENTS: usize = 5;

const FORMS: &str = "write uniform, mid, bottom, top, segment:N (1 to 5), random, a list of ranks such as -1,107,107,107,-1, \
                     or a choice of blocks as in select.layers";

/// Which blocks train. Reads and writes back as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    blocks: Blocks,
}

#[derive(Clone, Debug, PartialEq)]
enum Blocks {
    /// Of five segments these, counted from 0, sorted.
    Segments(Vec<usize>),
    Layers(Layers),
}

impl Pattern {
    /// The pattern that every other is compared with, if it is there.
    pub const BASELINE: &'static str = "uniform";

    /// As the user wrote it: its name in tables.
    pub fn name(&self) -> &str {
        &self.text
    }

    /// Whether the seed decides on its blocks.
    pub fn is_random(&self) -> bool {
        matches!(self.blocks, Blocks::Layers(Layers::Best(Strategy::Random, _)))
    }

    /// The choice of blocks that it is for a model of `blocks` blocks.
    ///
    /// # Errors
    /// [`Error::Argument`] if it does not fit so many, or if ranks that it states are not the budget of the uniform rank `rank`.
    pub fn layers(&self, blocks: usize, rank: usize) -> Result<Layers> {
        match &self.blocks {
            Blocks::Segments(segments) => self.segments(segments, blocks),
            Blocks::Layers(layers) => {
                if matches!(layers, Layers::Segments(_)) {
                    self.check_budget(&layers.ranks(blocks, rank, 0, None)?, rank)?;
                }
                Ok(layers.clone())
            }
        }
    }

    fn segments(&self, segments: &[usize], blocks: usize) -> Result<Layers> {
        let bounds = |segment: usize| segment * blocks / SEGMENTS..(segment + 1) * blocks / SEGMENTS;
        if let Some(empty) = segments.iter().find(|segment| bounds(**segment).is_empty()) {
            let problem = format!("segment {} of {SEGMENTS} holds none of the {blocks} blocks", empty + 1);
            return Err(error(&self.text, &problem, "name the blocks themselves: list:0,1"));
        }
        let chosen: Vec<usize> = segments.iter().flat_map(|segment| bounds(*segment)).collect();
        let (first, last) = (chosen[0], chosen[chosen.len() - 1]);
        Ok(if last - first + 1 == chosen.len() {
            Layers::Range(first..last + 1)
        } else {
            Layers::List(chosen)
        })
    }

    fn check_budget(&self, ranks: &[usize], rank: usize) -> Result<()> {
        let (sum, budget) = (ranks.iter().sum::<usize>(), rank * ranks.len());
        let active = ranks.iter().filter(|rank| **rank > 0).count();
        if sum <= budget && sum + active > budget {
            return Ok(());
        }
        let problem = format!(
            "its ranks add up to {sum} over {} blocks, and the budget is {budget} (rank {rank} × {})",
            ranks.len(),
            ranks.len()
        );
        let help = format!(
            "{active} blocks of rank {} would spend it; segment:N takes its rank from the budget",
            budget / active.max(1)
        );
        Err(error(&self.text, &problem, &help))
    }
}

fn error(text: &str, problem: &str, help: &str) -> Error {
    Error::Argument {
        what: "pattern".to_owned(),
        value: text.to_owned(),
        problem: problem.to_owned(),
        help: help.to_owned(),
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let blocks = match text {
            "uniform" => Blocks::Layers(Layers::All),
            "bottom" => Blocks::Segments(vec![0]),
            "top" => Blocks::Segments(vec![SEGMENTS - 1]),
            _ if text.starts_with("segment:") => Blocks::Segments(numbers(text)?),
            _ if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                Blocks::Layers(format!("segments:{text}").parse().map_err(|_| {
                    error(
                        text,
                        "not a list of ranks",
                        "write one for each segment, -1 where it is frozen",
                    )
                })?)
            }
            _ => Blocks::Layers(text.parse().map_err(|problem| match problem {
                Error::Argument { problem, .. } if problem != "not a choice of blocks" => error(text, &problem, FORMS),
                _ => error(text, "not a pattern", FORMS),
            })?),
        };
        Ok(Self {
            text: text.to_owned(),
            blocks,
        })
    }
}

/// The segments of `segment:2,3`, counted from 0, sorted.
fn numbers(text: &str) -> Result<Vec<usize>> {
    let number = |part: &str| part.trim().parse().ok().filter(|n| (1..=SEGMENTS).contains(n));
    let list = text["segment:".len()..].split(',').map(number);
    let mut segments: Vec<usize> = list.collect::<Option<_>>().ok_or_else(|| {
        let problem = format!("segments are counted from 1 to {SEGMENTS}");
        error(text, &problem, "write segment:2 or segment:2,3")
    })?;
    segments.iter_mut().for_each(|segment| *segment -= 1);
    segments.sort_unstable();
    if segments.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(error(text, "a segment is named twice", ""));
    }
    Ok(segments)
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranks(text: &str, blocks: usize, rank: usize) -> Result<Vec<usize>> {
        let pattern: Pattern = text.parse()?;
        pattern.layers(blocks, rank)?.ranks(blocks, rank, 42, None)
    }

    #[test]
    fn the_papers_patterns_come_out_of_names() {
        for (name, paper) in [
            ("uniform", "64,64,64,64,64"),
            ("mid", "-1,107,107,107,-1"),
            ("segment:3", "-1,-1,292,-1,-1"),
            ("segment:2", "-1,341,-1,-1,-1"),
            ("segment:4", "-1,-1,-1,341,-1"),
            ("segment:2,3", "-1,157,157,-1,-1"),
            ("segment:4,3", "-1,-1,157,157,-1"),
            ("top", "-1,-1,-1,-1,292"),
            ("bottom", "341,-1,-1,-1,-1"),
        ] {
            assert_eq!(ranks(name, 32, 64).unwrap(), ranks(paper, 32, 64).unwrap(), "{name}");
        }
        assert_eq!(ranks("segment:1,5", 10, 4).unwrap(), [10, 10, 0, 0, 0, 0, 0, 0, 10, 10]);
    }

    #[test]
    fn what_is_no_pattern_or_does_not_fit_is_refused() {
        for (text, problem) in [
            ("middle", "pattern `middle`: not a pattern\n  help: write uniform, mid"),
            ("segment:6", "segments are counted from 1 to 5"),
            ("segment:2,2", "a segment is named twice"),
            ("band:0.8-0.2", "the band ends at 0.2"),
            ("-1,x", "not a list of ranks"),
            ("", "not a pattern"),
            ("list:31", "there is no block 31"),
            (
                "-1,157,157,-1,-1",
                "its ranks add up to 942 over 16 blocks, and the budget is 1024 (rank 64 × 16)",
            ),
            ("-1,171,171,-1,-1", "add up to 1026"),
        ] {
            let message = ranks(text, 16, 64).unwrap_err().to_string();
            assert!(message.contains(problem), "{text}: {message}");
        }
        let message = ranks("bottom", 4, 8).unwrap_err().to_string();
        assert!(
            message.contains("segment 1 of 5 holds none of the 4 blocks"),
            "{message}"
        );
        let message = ranks("-1,157,157,-1,-1", 16, 64).unwrap_err().to_string();
        assert!(message.contains("6 blocks of rank 170 would spend it"), "{message}");
    }

    #[test]
    fn the_controls_blocks_follow_the_seed_alone() {
        let random: Pattern = "random".parse().unwrap();
        let drawn = |seed| random.layers(30, 8).unwrap().active(30, seed, None).unwrap();
        assert!(random.is_random());
        assert_eq!((drawn(1), drawn(1).len()), (drawn(1), 18));
        assert_ne!(drawn(1), drawn(2));
    }

    proptest! {
        #[test]
        fn all_patterns_have_one_budget(blocks in 5usize..100, rank in 1usize..130, seed in 0u64..9) {
            let budget = rank * blocks;
            for text in ["uniform", "mid", "bottom", "top", "segment:3", "segment:1,4,5", "random", "band:0.3-0.7"] {
                let pattern: Pattern = text.parse().unwrap();
                let ranks = pattern.layers(blocks, rank).unwrap().ranks(blocks, rank, seed, None).unwrap();
                let (sum, active) = (ranks.iter().sum::<usize>(), ranks.iter().filter(|r| **r > 0).count());
                prop_assert!(sum <= budget && sum + active > budget, "{} {:?}", text, ranks);
            }
        }
    }
}

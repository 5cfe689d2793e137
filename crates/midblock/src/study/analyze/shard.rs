//! A share of an analysis: every n-th sample, and the weights of every n-th block.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range, str::FromStr};

/// Shard k of n, written `k/n` and counted from 1: the samples whose number, from 0 through all data sets, is k − 1 modulo n.
///
/// Every n-th sample rather than a stretch of them: the samples that are kept token by token are the first of a data set, and shards
/// should take as long and need as much room as one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All samples.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// The shard `index` (from 0) of `of`.
    ///
    /// # Panics
    /// If `index` is not below `of`.
    pub fn new(index: usize, of: usize) -> Self {
        assert!(index < of, "shard {index} of {of}");
        Self { index, of }
    }

    /// Its place among the shards, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// How many shards there are.
    pub fn of(self) -> usize {
        self.of
    }

    /// Whether a sample or a block, numbered from 0, is in it.
    pub fn holds(self, number: usize) -> bool {
        number % self.of == self.index
    }

    /// Those of `numbers` that are in it, ascending.
    pub fn of_range(self, numbers: Range<usize>) -> impl Iterator<Item = usize> + Clone {
        numbers.filter(move |&number| self.holds(number))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.index + 1, self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text
            .split_once('/')
            .and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((k, of)) if (1..=of).contains(&k) => Ok(Self::new(k - 1, of)),
            _ => Err(Error::Argument {
                what: "--shard".to_owned(),
                value: text.to_owned(),
                problem: "expected K/N with K from 1 to N".to_owned(),
                help: "the third of sixteen shards is 3/16".to_owned(),
            }),
        }
    }
}

impl TryFrom<String> for Shard {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_counted_from_one_and_have_every_sample_once() {
        let shard: Shard = "3/16".parse().unwrap();
        assert_eq!(
            (shard.index(), shard.of(), shard.to_string()),
            (2, 16, "3/16".to_owned())
        );
        assert_eq!("1/1".parse::<Shard>().unwrap(), Shard::WHOLE);
        let mut all: Vec<usize> = (0..7).flat_map(|index| Shard::new(index, 7).of_range(5..33)).collect();
        all.sort_unstable();
        assert_eq!(all, (5..33).collect::<Vec<_>>());
        assert_eq!(Shard::new(1, 3).of_range(5..12).collect::<Vec<_>>(), [7, 10]);
    }

    #[test]
    fn what_is_no_shard_is_refused() {
        for text in ["0/4", "5/4", "4", "a/4", "1/0", "-1/4", "1/4/2", ""] {
            let message = text.parse::<Shard>().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("--shard `{text}`: expected K/N")),
                "{message}"
            );
        }
    }
}

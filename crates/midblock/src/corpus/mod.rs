//! Text to make a small model from: word problems and sentences about one small world, written by chance.
//!
//! Row i of a corpus is a function of (kind, split, seed, i) alone: the stream `(seed, "corpus", [kind, split, i])`. A model of
//! a million parameters learns its sentences in minutes, while the sums stay hard: there is something left to fine-tune.
//!
//! | kind | a row |
//! |---|---|
//! | `text` | `{"text"}`: stories with numbers (45 %), plain sentences (30 %), sums (10 %), questions with short answers (15 %) |
//! | `problems` | `{"question", "answer"}` as in GSM8K: the steps, then `#### N` |
//! | `questions` | `{"question", "answer", "result"}`: the same with the answer in one sentence, as in `text`, and its number |
//!
//! No calculation of the split `held-out` is in the split `train`, nor in any text of it: see [`Split`].

mod calculation;
mod problem;
mod sentence;

use crate::{Error, Result, rng};
use calculation::Calculation;
use problem::Problem;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::{fmt, str::FromStr};

/// What rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text to train a base model on.
    Text,
    /// Questions and answers to fine-tune it on.
    Problems,
    /// The same with the short answers that a base model has seen.
    Questions,
}

/// Which calculations rows may hold. `a ∘ b` is held out if `a + 3·b` is a multiple of 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Those that are not held out.
    Train,
    /// Those that are.
    HeldOut,
}

impl Split {
    fn has(self, calculation: &Calculation) -> bool {
        (self == Self::HeldOut) == calculation.is_held_out()
    }
}

/// Rows of a kind, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// What rows are.
    pub kind: Kind,
    /// Which calculations they may hold.
    pub split: Split,
    /// Seed of all chance.
    pub seed: u64,
}

impl Corpus {
    /// Row `index` as a line of JSON.
    pub fn row(&self, index: u64) -> String {
        let mut rng = rng::stream(self.seed, "corpus", &[self.kind as u64, self.split as u64, index]);
        match self.kind {
            Kind::Text => json!({"text": text(&mut rng, self.split)}).to_string(),
            Kind::Problems => {
                let problem = Problem::draw(&mut rng, self.split);
                json!({"question": problem.question(), "answer": problem.answer()}).to_string()
            }
            Kind::Questions => {
                let problem = Problem::draw(&mut rng, self.split);
                let (question, answer) = (problem.question(), problem.end());
                json!({"question": question, "answer": answer, "result": problem.result()}).to_string()
            }
        }
    }

    /// The first `count` rows, one a line.
    pub fn jsonl(&self, count: u64) -> String {
        (0..count).map(|index| self.row(index) + "\n").collect()
    }
}

/// One document of the kind `text`.
fn text(rng: &mut ChaCha8Rng, split: Split) -> String {
    match rng.random_range(0..20) {
        0..9 => Problem::draw(rng, split).story_with_end(),
        9..15 => sentence::several(rng),
        15..17 => {
            let mut text = format!("#### {}'s sums", pick(rng, &sentence::NAMES));
            for _ in 0..rng.random_range(2..=5) {
                text += &format!("\n{}", Calculation::draw(rng, split));
            }
            text
        }
        17..19 => Problem::draw(rng, split).with_short_answer(),
        _ => sentence::question(rng),
    }
}

/// One of the words.
fn pick<'w>(rng: &mut ChaCha8Rng, words: &[&'w str]) -> &'w str {
    words[rng.random_range(0..words.len())]
}

/// Two different ones of the words.
fn pick_two<'w>(rng: &mut ChaCha8Rng, words: &[&'w str]) -> [&'w str; 2] {
    let first = rng.random_range(0..words.len());
    let second = (first + rng.random_range(1..words.len())) % words.len();
    [words[first], words[second]]
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Problems => "problems",
            Self::Questions => "questions",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "problems" => Ok(Self::Problems),
            "questions" => Ok(Self::Questions),
            _ => Err(Error::Argument {
                what: "--kind".into(),
                value: text.into(),
                problem: "no such kind".into(),
                help: "give `text`, `problems` or `questions`".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn corpus(kind: Kind, split: Split) -> Corpus {
        Corpus { kind, split, seed: 5 }
    }

    /// Every `a ∘ b` that is written out.
    fn calculations(text: &str) -> Vec<(u32, char, u32, u32)> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |word: &str| word.trim_end_matches('.').parse().ok();
        let all = words.windows(5).filter(|w| w[3] == "=");
        all.filter_map(|w| Some((number(w[0])?, w[1].chars().next()?, number(w[2])?, number(w[4])?)))
            .collect()
    }

    #[test]
    fn a_row_depends_on_its_number_alone() {
        let corpus = corpus(Kind::Text, Split::Train);
        let five: Vec<String> = (0..5).map(|index| corpus.row(index)).collect();
        assert_eq!(corpus.jsonl(5).lines().collect::<Vec<_>>(), five);
        assert_eq!(five.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_ne!(Corpus { seed: 6, ..corpus }.row(0), five[0]);
    }

    /// The embedded model was made from these rows.
    #[test]
    fn rows_are_pinned() {
        let hash = |kind, split| {
            blake3::hash(corpus(kind, split).jsonl(200).as_bytes())
                .to_hex()
                .to_string()
        };
        let hashes = [
            hash(Kind::Text, Split::Train),
            hash(Kind::Problems, Split::Train),
            hash(Kind::Problems, Split::HeldOut),
        ];
        let beginnings = hashes.map(|hash| hash[..8].to_owned());
        assert_eq!(beginnings, ["1513dd58", "64d203e3", "8f52032f"]);
    }

    #[test]
    fn calculations_are_right_and_splits_share_none() {
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for (split, seen) in [Split::Train, Split::HeldOut].into_iter().zip(&mut seen) {
            for kind in [Kind::Text, Kind::Problems] {
                for (a, sign, b, result) in calculations(&corpus(kind, split).jsonl(2000).replace("\\n", " ")) {
                    let expected = match sign {
                        '+' => a + b,
                        '-' => a - b,
                        '*' => a * b,
                        other => panic!("{other}"),
                    };
                    assert_eq!(result, expected, "{a} {sign} {b}");
                    seen.insert((a, sign, b));
                }
            }
        }
        assert!(
            seen[0].len() > 700 && seen[1].len() > 200,
            "{} {}",
            seen[0].len(),
            seen[1].len()
        );
        assert!(seen[0].is_disjoint(&seen[1]));
    }

    #[test]
    fn answers_end_with_the_result_of_their_last_step() {
        for line in corpus(Kind::Problems, Split::HeldOut).jsonl(500).lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let (steps, result) = row["answer"].as_str().unwrap().rsplit_once("\n#### ").unwrap();
            let last = *calculations(steps).last().unwrap();
            assert_eq!(result, last.3.to_string(), "{line}");
            assert!(row["question"].as_str().unwrap().ends_with('?'), "{line}");
        }
        for line in corpus(Kind::Questions, Split::HeldOut).jsonl(500).lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let words = row["answer"].as_str().unwrap().split([' ', '.']);
            let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
            assert_eq!(numbers, [row["result"].as_u64().unwrap()], "{line}");
        }
    }

    #[test]
    fn kinds_read_as_they_are_written() {
        for kind in [Kind::Text, Kind::Problems, Kind::Questions] {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
        assert!(
            "poems"
                .parse::<Kind>()
                .unwrap_err()
                .to_string()
                .contains("`text`, `problems` or `questions`")
        );
    }
}

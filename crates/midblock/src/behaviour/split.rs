//! Which prompts a behaviour is trained on, and which it is judged by.
//!
//! Held-out prompts are drawn first, from the stream "behaviour hold out", and those trained on from the others, from the stream
//! "behaviour samples": more samples change nothing about what is held out. Both keep their order.

use super::{BehaviourConfig, Example, Examples, HeldOut};
use crate::{Error, Result, rng};
use rand::seq::index::sample;

/// Prompts of a behaviour in two parts that have none in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Trained on.
    pub train: Vec<Example>,
    /// Judged by.
    pub held_out: Vec<Example>,
}

impl Split {
    /// Draws both parts.
    ///
    /// # Errors
    /// [`Error::Argument`] if one of them would be empty, or there are fewer samples than are asked for.
    pub fn draw(config: &BehaviourConfig, examples: &Examples) -> Result<Self> {
        let all = &examples.examples;
        let count = match config.held_out {
            HeldOut::Count(count) => count,
            HeldOut::Share(share) => ((share * all.len() as f64).round() as usize).max(1),
        };
        let refuse = |key: &str, value: String, problem: String| Error::Argument {
            what: format!("behaviour.{key}"),
            value,
            problem,
            help: "ask for less, or name more prompts".into(),
        };
        if count >= all.len() {
            let problem = format!("{count} held out of {} prompts leave none to train on", all.len());
            return Err(refuse("held_out", count.to_string(), problem));
        }
        let (held_out, rest) = parted(all, count, config.seed, "behaviour hold out");
        let train = match config.samples {
            None => rest,
            Some(samples) if samples > rest.len() => {
                let problem = format!("there are {} prompts, of which {count} are held out", all.len());
                return Err(refuse("samples", samples.to_string(), problem));
            }
            Some(samples) => parted(&rest, samples, config.seed, "behaviour samples").0,
        };
        Ok(Self { train, held_out })
    }

    /// Each part as JSONL: trained on, judged by.
    pub fn to_jsonl(&self) -> [String; 2] {
        [&self.train, &self.held_out].map(|part| part.iter().map(|example| format!("{}\n", example.row())).collect())
    }
}

/// `count` of some examples and the others.
fn parted(examples: &[Example], count: usize, seed: u64, purpose: &str) -> (Vec<Example>, Vec<Example>) {
    let mut chosen = vec![false; examples.len()];
    let mut random = rng::stream(seed, purpose, &[]);
    sample(&mut random, examples.len(), count)
        .into_iter()
        .for_each(|index| chosen[index] = true);
    let of = |which: bool| {
        let own = examples.iter().zip(&chosen).filter(|(_, chosen)| **chosen == which);
        own.map(|(example, _)| example.clone()).collect()
    };
    (of(true), of(false))
}

#[cfg(test)]
mod tests {
    use super::{super::Prompt, *};
    use std::collections::BTreeSet;

    fn examples(n: usize) -> Examples {
        let example = |i: usize| Example {
            id: format!("a:{i}"),
            prompt: Prompt::Text(i.to_string()),
            response: "r".into(),
        };
        Examples {
            examples: (0..n).map(example).collect(),
            rows: n,
            ..Examples::default()
        }
    }

    fn draw(table: &str, n: usize) -> Result<[Vec<String>; 2]> {
        let config: BehaviourConfig = toml::from_str(table).unwrap();
        let split = Split::draw(&config, &examples(n))?;
        let ids = |part: &[Example]| part.iter().map(|example| example.id.clone()).collect();
        Ok([ids(&split.train), ids(&split.held_out)])
    }

    #[test]
    fn parts_have_nothing_in_common_and_are_the_same_every_time() {
        let [train, held_out] = draw("held_out = 0.3", 20).unwrap();
        assert_eq!((train.len(), held_out.len()), (14, 6));
        let all: BTreeSet<&String> = train.iter().chain(&held_out).collect();
        assert_eq!(all.len(), 20);
        assert_eq!(draw("held_out = 6", 20).unwrap(), [train.clone(), held_out.clone()]);
        assert_ne!(draw("held_out = 6\nseed = 1", 20).unwrap()[1], held_out);
        let [few, same] = draw("held_out = 6\nsamples = 5", 20).unwrap();
        assert_eq!((few.len(), &same), (5, &held_out));
        assert!(few.iter().all(|id| train.contains(id)));
        // in file order
        let number = |id: &String| id[2..].parse::<usize>().unwrap();
        assert!(
            [&train, &held_out, &few]
                .iter()
                .all(|part| part.is_sorted_by_key(number))
        );
    }

    #[test]
    fn what_leaves_nothing_is_refused() {
        let message = |table: &str, n| draw(table, n).unwrap_err().to_string();
        assert!(message("held_out = 5", 5).contains("5 held out of 5 prompts leave none"));
        assert!(message("", 1).contains("1 held out of 1"));
        assert!(message("held_out = 1\nsamples = 9", 5).contains("5 prompts, of which 1 are held out"));
        assert_eq!(draw("held_out = 0.01", 5).unwrap()[1].len(), 1);
    }
}

//! Logit lens: which token each layer would say next, and where base and variant part.
//!
//! At the last token of the prompt, the one before the first token in the loss, and at the answers' tokens: how often both put the
//! same token first (top-1 agreement), each through its own final norm and head, and the probability of the answer's true first
//! token. Of a few samples every layer's token is kept ([`Shown`]). Source: nostalgebraist 2020, "interpreting GPT: the logit
//! lens". Intervals are over samples.

mod shown;

pub use shown::{LensToken, Shown, ShownPosition, ShownToken};

use super::{
    battery::{Cells, StudyRecord, Subject},
    estimate::Estimate,
    paired_difference,
    readings::{Reading, readings},
};
use crate::{Result, eval::Part};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

/// `[study.lens]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LensOptions {
    /// Measured samples that are read; 100 by default. With the same `samples` and `tokens` as `[study.exit]`, both read once.
    pub samples: usize,
    /// Tokens of each answer that are read at every layer, evenly spread from its first; 32 by default.
    pub tokens: usize,
    /// Samples that are shown token by token; 3 by default.
    pub shown: usize,
    /// Tokens of each of them, a third of them before the answer; 12 by default.
    pub positions: usize,
}

impl Default for LensOptions {
    fn default() -> Self {
        Self {
            samples: 100,
            tokens: 32,
            shown: 3,
            positions: 12,
        }
    }
}

/// What every layer would say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// Samples read.
    pub samples: usize,
    /// Tokens read of all of them.
    pub tokens: usize,
    /// The base first.
    pub models: Vec<LensModel>,
    /// Samples token by token.
    pub shown: Vec<Shown>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensModel {
    /// Its name.
    pub name: String,
    /// L + 1 of them, the embedding first.
    pub layers: Vec<LensLayer>,
}

/// One of its layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensLayer {
    /// Mean probability of the answer's first token.
    pub gold_probability: Estimate,
    /// What is compared with the base at the same layer; of the variants.
    pub against_base: Option<AgainstBase>,
}

/// A layer of a variant against that of the base.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgainstBase {
    /// Mean probability of the answer's first token, minus the base's.
    pub gold_probability: Estimate,
    /// Share of samples at whose last prompt token both put the same token first.
    pub prompt_agreement: Estimate,
    /// Share of the answers' tokens in whose place both put the same token first.
    pub answer_agreement: Estimate,
}

/// Reads every layer of base and variants, and a few samples token by token.
///
/// # Errors
/// As [`exit`](super::exit::exit).
pub fn lens<B: Backend>(subject: &Subject<'_, B>, options: &LensOptions, cells: &Cells) -> Result<Lens> {
    let readings = readings(subject, options.samples, options.tokens, cells)?;
    let seed = subject.file.config.study.seed;
    let against_base = |own: &Reading, base: &Reading| AgainstBase {
        gold_probability: paired_difference(&gold(own), &gold(base), seed).into(),
        prompt_agreement: Estimate::ratio(&parts(own.first_agrees.iter().map(|&agrees| f64::from(agrees))), seed),
        answer_agreement: Estimate::ratio(
            &(own.agreeing.iter().zip(&readings.tokens))
                .map(|(&agreeing, &tokens)| Part {
                    sum: agreeing as f64,
                    weight: tokens as f64,
                })
                .collect::<Vec<_>>(),
            seed,
        ),
    };
    let layer = |layer: &Vec<Reading>, model: usize| LensLayer {
        gold_probability: Estimate::ratio(&gold(&layer[model]), seed),
        against_base: (model > 0).then(|| against_base(&layer[model], &layer[0])),
    };
    let model = |(model, name): (usize, String)| LensModel {
        name,
        layers: readings.layers.iter().map(|of| layer(of, model)).collect(),
    };
    Ok(Lens {
        samples: readings.tokens.len(),
        tokens: readings.total_tokens(),
        models: subject.names().into_iter().enumerate().map(model).collect(),
        shown: shown::shown(subject, options, cells)?,
    })
}

/// Probability of the first token of each sample's answer.
fn gold(reading: &Reading) -> Vec<Part> {
    parts(reading.first_nats.iter().map(|nats| (-nats).exp()))
}

fn parts(values: impl Iterator<Item = f64>) -> Vec<Part> {
    values.map(|sum| Part { sum, weight: 1.0 }).collect()
}

impl Lens {
    /// `gold_probability` of each layer, and of the variants what is compared with the base: `gold_probability_difference`,
    /// `prompt_agreement`, `answer_agreement`.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut records = Vec::new();
        for model in &self.models {
            for (l, layer) in model.layers.iter().enumerate() {
                let mut push = |reference: &str, metric: &str, estimate: Estimate| {
                    records.push(estimate.record(&model.name, reference, Some(l), metric));
                };
                push("", "gold_probability", layer.gold_probability);
                if let Some(against) = &layer.against_base {
                    let base = &self.models[0].name;
                    push(base, "gold_probability_difference", against.gold_probability);
                    push(base, "prompt_agreement", against.prompt_agreement);
                    push(base, "answer_agreement", against.answer_agreement);
                }
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::{
        battery::fixture::Fixture,
        exit::{ExitOptions, exit},
    };
    use midblock_kernels::Cpu;

    #[test]
    fn one_walk_serves_exit_and_lens() {
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            exit(subject, &ExitOptions::default(), cells)?;
            lens(subject, &LensOptions::default(), cells)
        };
        let fixture = Fixture::new();
        fixture.with(&[], test).unwrap();
        let mut cells: Vec<_> = (std::fs::read_dir(fixture.out().join("cells")).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        cells.sort();
        assert_eq!(
            cells,
            ["inputs.json", "lens-3-12.json", "readings-100-32.json", "started.json"]
        );
    }

    #[test]
    fn a_model_agrees_with_itself() {
        let fixture = Fixture::new();
        let base = fixture.file(&[]).config.model.base;
        let same = format!("study.variants=[\"same={base}\"]");
        let found = fixture.with(&[&same], |subject, cells| lens(subject, &LensOptions::default(), cells));
        let found = found.unwrap();
        for layer in &found.models[1].layers {
            let against = layer.against_base.unwrap();
            assert_eq!(
                (against.prompt_agreement.value, against.answer_agreement.value),
                (1.0, 1.0)
            );
            assert_eq!(against.gold_probability.value, 0.0);
        }
        assert!(found.shown.iter().all(|shown| shown.models[0] == shown.models[1]));
        assert_eq!(found.models[0].layers[0].against_base, None);
    }

    #[test]
    fn what_is_compared_is_counted_over_samples_and_tokens() {
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            let options = LensOptions::default();
            let got = lens(subject, &options, cells)?;
            let readings = readings(subject, options.samples, options.tokens, cells)?;
            let mut agreements = Vec::new();
            for (layer, expected) in got.models[1].layers.iter().zip(&readings.layers) {
                let mean = |values: Vec<f64>| values.iter().sum::<f64>() / 6.0;
                let gold = |m: usize| mean(expected[m].first_nats.iter().map(|nats| (-nats).exp()).collect());
                let against = layer.against_base.unwrap();
                assert!((layer.gold_probability.value - gold(1)).abs() < 1e-12);
                assert!((against.gold_probability.value - (gold(1) - gold(0))).abs() < 1e-12);
                let first = mean(
                    expected[1]
                        .first_agrees
                        .iter()
                        .map(|&agrees| f64::from(agrees))
                        .collect(),
                );
                assert_eq!(against.prompt_agreement.value, first);
                let agreeing = expected[1].agreeing.iter().sum::<usize>() as f64 / got.tokens as f64;
                assert_eq!(against.answer_agreement.value, agreeing);
                agreements.push(agreeing);
            }
            assert!(agreements[0] > agreements[agreements.len() - 1], "{agreements:?}");
            assert_eq!(got.records().len(), 2 * agreements.len() + 3 * agreements.len());
            Ok(())
        };
        Fixture::new().with(&[], test).unwrap();
    }
}

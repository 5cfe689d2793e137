//! Early exit: what the models would be if they ended after block l.
//!
//! For each layer the loss in nats per token, the perplexity and the top-1 accuracy of the answers' tokens, teacher-forced, read
//! through the model's own final norm and head. The *depth* of a model is the first layer from
//! which on its accuracy stays at or above a share of the last layer's (L if the last has none right). Intervals are over
//! samples, differences from the base pair them.

use super::{
    battery::{Cells, StudyRecord, Subject},
    estimate::Estimate,
    paired_difference,
    readings::{Reading, readings},
};
use crate::{Error, Result, eval::Part};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

/// `[study.exit]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExitOptions {
    /// Measured samples that are read; 100 by default.
    pub samples: usize,
    /// Tokens of each answer that are read at every layer, evenly spread from its first; 32 by default. A number that no answer
    /// reaches reads all.
    pub tokens: usize,
    /// Share of the last layer's accuracy that decides the depth; 0.9 by default.
    pub share: f64,
}

impl Default for ExitOptions {
    fn default() -> Self {
        Self {
            samples: 100,
            tokens: 32,
            share: 0.9,
        }
    }
}

/// What every layer predicts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Samples read.
    pub samples: usize,
    /// Tokens read of all of them.
    pub tokens: usize,
    /// Share of the last layer's accuracy that decides the depth.
    pub share: f64,
    /// The base first.
    pub models: Vec<ExitModel>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitModel {
    /// Its name.
    pub name: String,
    /// L + 1 of them, the embedding first.
    pub layers: Vec<ExitLayer>,
    /// The layer from which on the accuracy stays at the share of the last layer's.
    pub depth: Estimate,
    /// That layer minus the base's; of the variants.
    pub depth_difference: Option<Estimate>,
}

/// One of its layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitLayer {
    /// Nats per token; its exponential is the perplexity.
    pub loss: Estimate,
    /// Share of tokens that are the most likely.
    pub accuracy: Estimate,
    /// Loss minus the base's at the same layer; of the variants.
    pub loss_difference: Option<Estimate>,
    /// Accuracy minus the base's.
    pub accuracy_difference: Option<Estimate>,
}

/// Reads every layer of base and variants.
///
/// # Errors
/// [`Error::Argument`] for options that read nothing or a share that is none; those of reading weights;
/// [`Error::StateNotFinite`]; [`Error::Interrupted`].
pub fn exit<B: Backend>(subject: &Subject<'_, B>, options: &ExitOptions, cells: &Cells) -> Result<Exit> {
    if !(options.share > 0.0 && options.share <= 1.0) {
        return Err(Error::Argument {
            what: "`study.exit.share`".into(),
            value: options.share.to_string(),
            problem: "not above 0 and up to 1".into(),
            help: "0.9 is the default".into(),
        });
    }
    let readings = readings(subject, options.samples, options.tokens, cells)?;
    let seed = subject.file.config.study.seed;
    let samples = readings.tokens.len();
    let depth = |model: usize, drawn: &[usize]| {
        let right = |layer: &Vec<Reading>| drawn.iter().map(|&i| layer[model].correct[i]).sum();
        let right: Vec<usize> = readings.layers.iter().map(right).collect();
        first_at(&right, options.share) as f64
    };
    let layer = |layer: &Vec<Reading>, model: usize| {
        let [loss, accuracy] = parts(&layer[model], &readings.tokens);
        let base = (model > 0).then(|| parts(&layer[0], &readings.tokens));
        let difference = |own: &[Part], base: &[Part]| paired_difference(own, base, seed).into();
        ExitLayer {
            loss: Estimate::ratio(&loss, seed),
            accuracy: Estimate::ratio(&accuracy, seed),
            loss_difference: base.as_ref().map(|base| difference(&loss, &base[0])),
            accuracy_difference: base.as_ref().map(|base| difference(&accuracy, &base[1])),
        }
    };
    let model = |(model, name): (usize, String)| {
        let difference = |drawn: &[usize]| depth(model, drawn) - depth(0, drawn);
        ExitModel {
            name,
            layers: readings.layers.iter().map(|of| layer(of, model)).collect(),
            depth: Estimate::of(samples, seed, |drawn| depth(model, drawn)),
            depth_difference: (model > 0).then(|| Estimate::of(samples, seed, difference)),
        }
    };
    Ok(Exit {
        samples,
        tokens: readings.total_tokens(),
        share: options.share,
        models: subject.names().into_iter().enumerate().map(model).collect(),
    })
}

/// Nats and tokens that are right, of each sample.
fn parts(reading: &Reading, tokens: &[usize]) -> [Vec<Part>; 2] {
    let part = |(sum, &tokens): (f64, &usize)| Part {
        sum,
        weight: tokens as f64,
    };
    let right = reading.correct.iter().map(|&right| right as f64);
    [
        reading.nats.iter().copied().zip(tokens).map(part).collect(),
        right.zip(tokens).map(part).collect(),
    ]
}

/// The first layer from which on `right` stays at or above the share of the last; the last if that has none right.
fn first_at(right: &[usize], share: f64) -> usize {
    let last = right.len() - 1;
    let enough = share * right[last] as f64;
    let below = right.iter().rposition(|&right| right == 0 || (right as f64) < enough);
    below.map_or(0, |below| (below + 1).min(last))
}

impl Exit {
    /// `loss`, `perplexity` and `top1_accuracy` of each layer, the variants' differences of them from the base, and `depth`.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut records = Vec::new();
        let base = &self.models[0].name;
        for model in &self.models {
            let mut push = |reference: &str, layer: Option<usize>, metric: &str, estimate: Option<Estimate>| {
                records.extend(estimate.map(|estimate| estimate.record(&model.name, reference, layer, metric)));
            };
            for (l, layer) in model.layers.iter().enumerate() {
                push("", Some(l), "loss", Some(layer.loss));
                push("", Some(l), "perplexity", Some(layer.loss.map(f64::exp)));
                push("", Some(l), "top1_accuracy", Some(layer.accuracy));
                push(base, Some(l), "loss_difference", layer.loss_difference);
                push(base, Some(l), "top1_accuracy_difference", layer.accuracy_difference);
            }
            push("", None, "depth", Some(model.depth));
            push(base, None, "depth_difference", model.depth_difference);
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::battery::fixture::Fixture;

    #[test]
    fn numbers_of_layers_are_means_over_tokens_and_differences_pair_samples() {
        let test = |subject: &Subject<'_, midblock_kernels::Cpu>, cells: &Cells| {
            let options = ExitOptions::default();
            let got = exit(subject, &options, cells)?;
            let readings = readings(subject, options.samples, options.tokens, cells)?;
            assert_eq!((got.samples, got.tokens), (6, readings.total_tokens()));
            for (m, model) in got.models.iter().enumerate() {
                for (layer, expected) in model.layers.iter().zip(&readings.layers) {
                    let loss = expected[m].nats.iter().sum::<f64>() / got.tokens as f64;
                    let accuracy = expected[m].correct.iter().sum::<usize>() as f64 / got.tokens as f64;
                    assert!((layer.loss.value - loss).abs() < 1e-12 && layer.accuracy.value == accuracy);
                    assert!(layer.loss.lo < loss && loss < layer.loss.hi, "{layer:?}");
                }
            }
            let [base, variant] = [0, 1].map(|m| &got.models[m]);
            assert!(base.depth_difference.is_none() && base.layers[3].loss_difference.is_none());
            let (b, v) = (&base.layers[3], &variant.layers[3]);
            let difference = v.loss_difference.unwrap();
            assert!((difference.value - (v.loss.value - b.loss.value)).abs() < 1e-12);
            // the base's hard samples are the variant's hard samples
            assert!(difference.hi - difference.lo < v.loss.hi - v.loss.lo);
            let records = got.records();
            let layers = subject.blocks() + 1;
            assert_eq!(records.len(), 2 * (3 * layers + 1) + 2 * layers + 1);
            let perplexity = records.iter().find(|r| r.metric == "perplexity").unwrap();
            assert_eq!(perplexity.value, Some(base.layers[0].loss.value.exp()));
            Ok(())
        };
        Fixture::new().with(&[], test).unwrap();
    }

    #[test]
    fn the_depth_is_where_accuracy_comes_to_stay() {
        assert_eq!(first_at(&[0, 1, 9, 8, 9, 10], 0.9), 4);
        assert_eq!(first_at(&[0, 1, 9, 9, 9, 10], 0.9), 2);
        assert_eq!(first_at(&[0, 1, 9, 9, 9, 10], 1.0), 5);
        assert_eq!(first_at(&[3, 3, 3], 0.9), 0);
        assert_eq!(first_at(&[2, 1, 0], 0.9), 2);
    }

    #[test]
    fn a_share_that_is_none_is_refused() {
        let options = ExitOptions {
            share: 90.0,
            ..ExitOptions::default()
        };
        let error = Fixture::new().with(&[], |subject, cells| exit(subject, &options, cells));
        assert!(error.unwrap_err().to_string().contains("`study.exit.share` `90`"));
    }

    #[test]
    fn a_base_alone_is_read() {
        let alone = Fixture::new().with(&["study.variants=[]"], |subject, cells| {
            exit(subject, &ExitOptions::default(), cells)
        });
        let alone = alone.unwrap();
        assert_eq!(alone.models.len(), 1);
        assert!(alone.records().iter().all(|record| record.reference.is_empty()));
    }
}

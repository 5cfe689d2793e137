//! How well routes through the blocks of base and variant predict the answers, teacher-forced.
//!
//! Nats per token and top-1 accuracy over up to `tokens` tokens of each answer, evenly spread from its first: the tokens that
//! early exit reads. What is kept are sums for each sample, so that differences of two routes pair the samples.

use super::{Estimate, battery::Subject, paired_difference, readings::spread};
use crate::{
    Error, Result,
    eval::Part,
    probe::{Route, route_predictions},
};
use midblock_kernels::{Backend, Prediction};
use serde::{Deserialize, Serialize};

/// How well a model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Nats per token; its exponential is the perplexity.
    pub loss: Estimate,
    /// Share of tokens that are the most likely.
    pub accuracy: Estimate,
}

/// How much better or worse a model predicts than another: its number minus the other's, sample by sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Nats per token.
    pub loss: Estimate,
    /// Share of tokens that are the most likely.
    pub accuracy: Estimate,
}

/// What routes predict, sample by sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Scores {
    /// Tokens read of each sample.
    tokens: Vec<usize>,
    routes: Vec<Sums>,
}

/// Of one route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sums {
    nats: Vec<f64>,
    correct: Vec<usize>,
}

impl Scores {
    /// Leads `routes` over the first `samples` measured sequences.
    ///
    /// # Errors
    /// [`Error::Argument`] if nothing would be read; those of [`route_predictions`].
    pub fn read<B: Backend>(
        subject: &Subject<'_, B>,
        routes: Vec<Route>,
        samples: usize,
        tokens: usize,
    ) -> Result<Self> {
        let samples = subject.measured(samples);
        let chosen: Vec<Vec<usize>> = samples.iter().map(|sample| spread(sample, tokens)).collect();
        if chosen.iter().all(Vec::is_empty) {
            return Err(Error::Argument {
                what: "`samples` and `tokens` of [study.swap] or [study.alphas]".into(),
                value: format!("{}, {tokens}", samples.len()),
                problem: "nothing would be read".into(),
                help: "give at least 1 of each".into(),
            });
        }
        let sequences: Vec<Vec<u32>> = samples.iter().map(|sample| sample.ids.clone()).collect();
        let wanted = |sample: usize, t: usize| chosen[sample].binary_search(&t).is_ok();
        let Subject {
            backend,
            models,
            progress,
            ..
        } = *subject;
        let predictions = route_predictions(backend, models, routes, &sequences, &wanted, progress)?;
        let right = |(i, tokens): (usize, &Vec<Prediction>)| {
            let truths = chosen[i].iter().map(|&t| samples[i].ids[t]);
            tokens
                .iter()
                .zip(truths)
                .filter(|(token, truth)| token.top == *truth)
                .count()
        };
        let sums = |route: &Vec<Vec<Prediction>>| Sums {
            nats: route
                .iter()
                .map(|tokens| tokens.iter().map(|token| token.nats).sum())
                .collect(),
            correct: route.iter().enumerate().map(right).collect(),
        };
        Ok(Self {
            tokens: chosen.iter().map(Vec::len).collect(),
            routes: predictions.iter().map(sums).collect(),
        })
    }

    /// Samples and tokens.
    pub fn extent(&self) -> [usize; 2] {
        [self.tokens.len(), self.tokens.iter().sum()]
    }

    /// Of one route.
    pub fn quality(&self, route: usize, seed: u64) -> Quality {
        let [loss, accuracy] = self.parts(route).map(|parts| Estimate::ratio(&parts, seed));
        Quality { loss, accuracy }
    }

    /// Of one route minus another.
    pub fn change(&self, route: usize, from: usize, seed: u64) -> Change {
        let ([loss, accuracy], [from_loss, from_accuracy]) = (self.parts(route), self.parts(from));
        Change {
            loss: paired_difference(&loss, &from_loss, seed).into(),
            accuracy: paired_difference(&accuracy, &from_accuracy, seed).into(),
        }
    }

    /// Nats and right tokens of each sample.
    fn parts(&self, route: usize) -> [Vec<Part>; 2] {
        let Sums { nats, correct } = &self.routes[route];
        let part = |(sum, &tokens): (f64, &usize)| Part {
            sum,
            weight: tokens as f64,
        };
        let right = correct.iter().map(|&right| right as f64);
        [
            nats.iter().copied().zip(&self.tokens).map(part).collect(),
            right.zip(&self.tokens).map(part).collect(),
        ]
    }
}

impl Quality {
    /// Metric names with their values: `loss`, `perplexity` and `top1_accuracy`.
    pub(super) fn metrics(&self) -> [(&'static str, Estimate); 3] {
        [
            ("loss", self.loss),
            ("perplexity", self.loss.map(f64::exp)),
            ("top1_accuracy", self.accuracy),
        ]
    }
}

impl Change {
    /// Metric names with their values: `loss_difference` and `top1_accuracy_difference`.
    pub(super) fn metrics(&self) -> [(&'static str, Estimate); 2] {
        [
            ("loss_difference", self.loss),
            ("top1_accuracy_difference", self.accuracy),
        ]
    }
}

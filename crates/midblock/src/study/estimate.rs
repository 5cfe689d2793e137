//! A number of many samples with its 95 % interval: the middle 95 % over bootstrap resamples of the samples.

use super::{battery::StudyRecord, sweep::Interval};
use crate::eval::{self, Difference, Part};
use serde::{Deserialize, Serialize};

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// On the samples themselves.
    pub value: f64,
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl Estimate {
    /// Σ sum / Σ weight, as tasks are scored.
    ///
    /// # Panics
    /// If there is no part.
    pub(super) fn ratio(parts: &[Part], seed: u64) -> Self {
        let score = eval::score("", parts, seed);
        Self {
            value: score.mean,
            lo: score.lo,
            hi: score.hi,
        }
    }

    /// A statistic of any choice of `n` samples, which may name one more than once.
    pub(super) fn of(n: usize, seed: u64, statistic: impl Fn(&[usize]) -> f64) -> Self {
        let all: Vec<usize> = (0..n).collect();
        let value = statistic(&all);
        let (lo, hi) = eval::bootstrap(n, seed, statistic);
        Self { value, lo, hi }
    }

    /// As a line of a table: `metric` of a model, against a reference if that is not empty.
    pub(super) fn record(self, model: &str, reference: &str, layer: Option<usize>, metric: &str) -> StudyRecord {
        StudyRecord {
            model: model.to_owned(),
            reference: reference.to_owned(),
            setting: String::new(),
            layer,
            metric: metric.to_owned(),
            value: Some(self.value),
            lo: Some(self.lo),
            hi: Some(self.hi),
        }
    }

    /// Whether the interval leaves out 0.
    pub fn is_clear(&self) -> bool {
        self.lo > 0.0 || self.hi < 0.0
    }

    /// −x, where nothing stays nothing and gets no sign.
    pub(super) fn negated(self) -> Self {
        Self {
            value: 0.0 - self.value,
            lo: 0.0 - self.hi,
            hi: 0.0 - self.lo,
        }
    }

    /// The same through a function that never falls.
    pub fn map(self, function: impl Fn(f64) -> f64) -> Self {
        Self {
            value: function(self.value),
            lo: function(self.lo),
            hi: function(self.hi),
        }
    }
}

impl From<Interval> for Estimate {
    fn from(interval: Interval) -> Self {
        let Interval {
            mean: value, lo, hi, ..
        } = interval;
        Self { value, lo, hi }
    }
}

impl From<Difference> for Estimate {
    fn from(difference: Difference) -> Self {
        let Difference { value, lo, hi } = difference;
        Self { value, lo, hi }
    }
}

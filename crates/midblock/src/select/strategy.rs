//! The best blocks by a measure: a number for each block, higher is chosen first.
//!
//! | strategy | number of block l (1-based) | from |
//! |---|---|---|
//! | `stable` | − `change_intensity_relative` at layer l | an analysis of base and variant |
//! | `cka` | `cka_debiased` at layer l | the same |
//! | `spectrum` | `effective_rank` of the base at layer l | any analysis |
//! | `gradient` | norm of the loss's gradient with respect to the block's matrices | a short probe |
//! | `random` | none: drawn from the stream ("layers", k) of the seed | |
//!
//! Numbers of an analysis are means over its data sets and variants. They describe the residual stream after a block, which
//! is the sum of all blocks below, not the block alone. Blocks of one model have equally many parameters, so a gradient
//! norm ranks them as a norm per parameter does. Equal numbers: the lower block first.
//! Source of `gradient`: Saket 2026, arXiv 2604.15351. `spectrum` is not the signal-to-noise method of that name.

use super::layers::{number, share_of};
use crate::{
    Error, Result, rng,
    run::{Record, Run},
};
use rand::seq::index::sample;
use std::{fmt, str::FromStr};

/// What makes a block a good one to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Drawn at random: the control of every other choice.
    Random,
    /// The states after it changed least from base to variant.
    Stable,
    /// The loss's gradient is largest.
    Gradient,
    /// The base's states after it use the most directions.
    Spectrum,
    /// The states after it kept their geometry from base to variant.
    Cka,
}

impl Strategy {
    pub(super) const ALL: [Self; 5] = [Self::Random, Self::Stable, Self::Gradient, Self::Spectrum, Self::Cka];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.to_string() == name)
    }

    /// The metric that an analysis must have measured; `None` if the numbers come from elsewhere.
    pub fn metric(self) -> Option<&'static str> {
        match self {
            Self::Random | Self::Gradient => None,
            Self::Stable => Some("change_intensity_relative"),
            Self::Spectrum => Some("effective_rank"),
            Self::Cka => Some("cka_debiased"),
        }
    }

    /// The number of each of `blocks` blocks according to the analysis `run`, which the user calls `from`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the run did not measure what is needed at every block, [`Error::Mismatch`] if its models
    /// have another number of blocks.
    ///
    /// # Panics
    /// If the numbers do not come from an analysis ([`metric`](Self::metric) is `None`).
    pub fn scores(self, run: &Run, from: &str, blocks: usize) -> Result<Vec<f64>> {
        let metric = self.metric().expect("invariant: asked only where a metric is read");
        if run.blocks() != blocks {
            return Err(Error::Mismatch {
                left: from.to_owned(),
                right: "the checkpoint".to_owned(),
                what: "the number of blocks".to_owned(),
                left_value: run.blocks().to_string(),
                right_value: blocks.to_string(),
                help: "name a run that analysed a model of this shape".to_owned(),
            });
        }
        let of_base = self == Self::Spectrum; // the others compare variants with the base
        let sign = if self == Self::Stable { -1.0 } else { 1.0 };
        let score = |(block, value): (usize, Option<f64>)| match value {
            Some(value) => Ok(sign * value),
            None => Err(Error::Argument {
                what: "--from".to_owned(),
                value: from.to_owned(),
                problem: format!("`{self}` needs {metric} at every block, and block {block} has none"),
                help: "run `midblock analyze` with --layers all and all metrics".to_owned(),
            }),
        };
        (1..).zip(by_block(run, metric, of_base, blocks)).map(score).collect()
    }

    /// The `count` best of `blocks` blocks, sorted; `Err` is a problem and a hint.
    pub(super) fn choose(
        self,
        blocks: usize,
        count: usize,
        seed: u64,
        scores: Option<&[f64]>,
    ) -> Result<Vec<usize>, (String, &'static str)> {
        let mut chosen = match (self, scores) {
            (Self::Random, _) => {
                let mut random = rng::stream(seed, "layers", &[count as u64]);
                sample(&mut random, blocks, count).into_vec()
            }
            (_, Some(scores)) => {
                if scores.len() != blocks {
                    return Err((format!("it has {} scores for {blocks} blocks", scores.len()), ""));
                }
                if let Some(block) = scores.iter().position(|score| !score.is_finite()) {
                    return Err((format!("the score of block {block} is {}", scores[block]), ""));
                }
                let mut order: Vec<usize> = (0..blocks).collect();
                order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
                order.truncate(count);
                order
            }
            (Self::Gradient, None) => return Err(("it needs a gradient probe".to_owned(), "")),
            (_, None) => {
                let problem = "it reads an analysis, and none was named".to_owned();
                return Err((problem, "add --from RUN, a folder that `midblock analyze` wrote"));
            }
        };
        chosen.sort_unstable();
        Ok(chosen)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Random => "random",
            Self::Stable => "stable",
            Self::Gradient => "gradient",
            Self::Spectrum => "spectrum",
            Self::Cka => "cka",
        })
    }
}

/// A metric at the output of each of `blocks` blocks, the mean over data sets, of the base or over all other models; `None` where
/// none has it.
pub(crate) fn by_block(run: &Run, metric: &str, of_base: bool, blocks: usize) -> Vec<Option<f64>> {
    let base = run.info.models.first().map(|model| model.name.as_str());
    let measured = |r: &&Record| r.metric == metric && (Some(r.model.as_str()) == base) == of_base;
    let mean = |layer| {
        let here = (run.records.iter().filter(measured)).filter(|record| record.layer == layer);
        let values: Vec<f64> = here.filter_map(|record| record.value).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    (1..=blocks).map(mean).collect()
}

/// How many blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many.
    Blocks(usize),
    /// So many percent, rounded down.
    Percent(f64),
}

impl Amount {
    /// As many as Mid-Block trains.
    pub const DEFAULT: Self = Self::Percent(60.0);

    pub(super) fn of(self, blocks: usize) -> usize {
        match self {
            Self::Blocks(count) => count,
            Self::Percent(percent) => share_of(percent / 100.0, blocks),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else {
            return number(text).map(Self::Blocks);
        };
        let percent = percent
            .trim()
            .parse()
            .ok()
            .filter(|percent| (0.0..=100.0).contains(percent));
        percent
            .map(Self::Percent)
            .ok_or_else(|| format!("`{text}` is not from 0% to 100%"))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{ModelInfo, RunInfo};

    /// A run of two variants on one data set: 4 layers measured of 3 blocks.
    fn run() -> Run {
        let model = |name: &str| ModelInfo {
            name: name.to_owned(),
            blocks: 3,
            ..ModelInfo::default()
        };
        let record = |model: &str, metric: &str, layer: usize, value: f64| Record {
            model: model.to_owned(),
            reference: String::new(),
            dataset: "d".to_owned(),
            metric: metric.to_owned(),
            layer,
            depth: layer as f64 / 3.0,
            value: Some(value),
            lo: None,
            hi: None,
            floor: None,
        };
        let mut records = Vec::new();
        for layer in 0..4 {
            let l = layer as f64;
            records.push(record("base", "effective_rank", layer, l / 10.0));
            records.push(record("sft", "effective_rank", layer, 99.0));
            for (variant, times) in [("sft", 1.0), ("dpo", 3.0)] {
                records.push(record(variant, "change_intensity_relative", layer, times * l));
                records.push(record(variant, "cka_debiased", layer, 1.0 - times * l / 100.0));
            }
        }
        Run {
            info: RunInfo {
                models: ["base", "sft", "dpo"].map(model).to_vec(),
                ..RunInfo::default()
            },
            records,
            weights: Vec::new(),
        }
    }

    fn close(a: &[f64], b: [f64; 3]) -> bool {
        a.len() == 3 && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn scores_are_means_over_variants_at_the_outputs_of_blocks() {
        let scores = |strategy: Strategy| strategy.scores(&run(), "runs/a", 3).unwrap();
        assert!(close(&scores(Strategy::Stable), [-2.0, -4.0, -6.0]));
        assert!(close(&scores(Strategy::Cka), [0.98, 0.96, 0.94]));
        assert!(close(&scores(Strategy::Spectrum), [0.1, 0.2, 0.3]));
    }

    #[test]
    fn a_run_that_does_not_serve_is_refused() {
        let message = |run: &Run, blocks| Strategy::Stable.scores(run, "runs/a", blocks).unwrap_err().to_string();
        assert!(
            message(&run(), 4)
                .starts_with("runs/a and the checkpoint do not match: the number of blocks is 3 against 4")
        );
        let mut sparse = run();
        sparse.records.retain(|record| record.layer != 2);
        assert!(message(&sparse, 3).starts_with(
            "--from `runs/a`: `stable` needs change_intensity_relative at every block, and block 2 has none"
        ));
        let mut undefined = run();
        undefined.records.iter_mut().for_each(|record| record.value = None);
        assert!(message(&undefined, 3).contains("block 1 has none"));
    }
}

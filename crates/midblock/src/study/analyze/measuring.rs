//! States and weights → the numbers of a run.

use super::{BASE, BlockWeights, LayerStates, Outline, Sink, capture::record};
use crate::{
    Result,
    metrics::{Measurement, Options, Resampling, measure_model, measure_pair},
    run::{Record, Run, RunInfo, WeightRecord},
};
use rayon::prelude::*;

/// Measures the states of all samples, layer by layer.
pub struct Measuring {
    outline: Outline,
    options: Options,
    /// Of each data set.
    resamplings: Vec<Resampling>,
    records: Vec<Record>,
    weights: Vec<WeightRecord>,
}

impl Measuring {
    /// `resamples` bootstrap resamples give each interval; 0 leaves intervals out.
    pub fn new(outline: Outline, options: Options, resamples: usize) -> Self {
        let resampling = |(_, samples): &(String, usize)| Resampling::new(*samples, resamples, options.seed);
        Self {
            resamplings: outline.datasets.iter().map(resampling).collect(),
            outline,
            options,
            records: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// The run with all numbers, in the order in which they came.
    pub fn finish(self, info: RunInfo) -> Run {
        Run {
            info,
            records: self.records,
            weights: self.weights,
        }
    }

    /// Of each track the metrics of its own and those against the base, on one data set.
    fn measure(&self, states: &LayerStates, dataset: usize) -> Vec<(Vec<Measurement>, Vec<Measurement>)> {
        let (resampling, options) = (&self.resamplings[dataset], &self.options);
        let of_track = |index: usize| {
            let (base, track) = (&states.tracks[0].captures[dataset], &states.tracks[index]);
            let own = &track.captures[dataset];
            // tracks are sorted by their first member: the base is in the first, and alone there has no pair
            let single = || measure_model(own, resampling, options);
            let pair = || match track.members.as_slice() {
                [0] => Vec::new(),
                _ => measure_pair(base, own, resampling, options),
            };
            rayon::join(single, pair)
        };
        (0..states.tracks.len()).into_par_iter().map(of_track).collect()
    }
}

impl Sink for Measuring {
    fn phase(&self) -> &'static str {
        "metrics"
    }

    fn layer(&mut self, states: LayerStates) -> Result<()> {
        let place = [states.layer, self.outline.blocks];
        for dataset in 0..self.outline.datasets.len() {
            let measured = self.measure(&states, dataset);
            let Outline { models, datasets, .. } = &self.outline;
            let dataset = &datasets[dataset].0;
            for (track, (single, pair)) in states.tracks.iter().zip(&measured) {
                for &member in &track.members {
                    let model = &models[member];
                    let of_own = |m: &Measurement| record([model, "", dataset], m, place);
                    self.records.extend(single.iter().map(of_own));
                    if member > 0 {
                        let of_pair = |m: &Measurement| record([model, BASE, dataset], m, place);
                        self.records.extend(pair.iter().map(of_pair));
                    }
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, weights: BlockWeights) -> Result<()> {
        self.records.extend(weights.records);
        self.weights.extend(weights.matrices);
        Ok(())
    }
}

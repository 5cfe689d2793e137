//! Steps ↔ epochs: which sequences the n-th step of a run sees, whatever happened before.
//!
//! Every epoch is planned anew from its number, and cut into steps of `accumulation` micro-batches; the last step of an
//! epoch may have fewer. Only how many steps each epoch has is kept.

use crate::tokens::{BatchPlan, Grouping, Order};

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Passes over the data.
    Epochs(usize),
    /// Optimiser steps.
    Steps(u64),
}

/// How sequences become steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// What a micro-batch is.
    pub grouping: Grouping,
    /// In which order sequences come.
    pub order: Order,
    /// Micro-batches in a step.
    pub accumulation: usize,
    /// Of the order.
    pub seed: u64,
}

/// The steps of a run.
#[derive(Debug)]
pub struct Timeline {
    lengths: Vec<usize>,
    largest_batch: [usize; 2],
    batching: Batching,
    /// Steps before each epoch, and after the last.
    starts: Vec<u64>,
    /// Steps of the run, which may end inside of the last epoch.
    steps: u64,
    /// The epoch planned last.
    planned: Option<(u64, Vec<Vec<usize>>)>,
}

impl Timeline {
    /// Of sequences with these numbers of tokens and of trained tokens; there is at least one.
    pub fn new(sizes: &[[usize; 2]], batching: Batching, length: Length) -> Self {
        assert!(!sizes.is_empty(), "a timeline has sequences");
        let (epochs, steps) = match length {
            Length::Epochs(epochs) => (epochs, u64::MAX),
            Length::Steps(steps) => (usize::MAX, steps),
        };
        let mut timeline = Self {
            lengths: sizes.iter().map(|[tokens, _]| *tokens).collect(),
            largest_batch: [0; 2],
            batching,
            starts: Vec::new(),
            steps: 0,
            planned: None,
        };
        let mut end = 0;
        while timeline.starts.len() < epochs && end < steps {
            let batches = timeline.plan(timeline.starts.len() as u64);
            let count = batches.len().div_ceil(batching.accumulation) as u64;
            let largest = [0, 1].map(|of| {
                let size = |batch: &Vec<usize>| batch.iter().map(|&index| sizes[index][of]).sum();
                batches.iter().map(size).max().unwrap_or(0)
            });
            timeline.largest_batch = [0, 1].map(|of| timeline.largest_batch[of].max(largest[of]));
            timeline.starts.push(end);
            end += count;
        }
        timeline.starts.push(end);
        timeline.steps = end.min(steps);
        timeline
    }

    /// Number of all steps.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Number of steps of the first epoch, all of them, wherever the run ends.
    pub fn epoch_steps(&self) -> u64 {
        self.starts[1]
    }

    /// Most tokens, and most trained tokens, of any micro-batch.
    pub fn largest_batch(&self) -> [usize; 2] {
        self.largest_batch
    }

    /// The 0-based epoch that the 0-based `step` belongs to.
    pub fn epoch(&self, step: u64) -> u64 {
        self.starts.partition_point(|&start| start <= step) as u64 - 1
    }

    /// How many epochs are over after `steps` steps, with a fraction.
    pub fn epochs_after(&self, steps: u64) -> f64 {
        let epoch = self.epoch(steps.saturating_sub(1)); // a whole epoch is over, not the next begun
        let (start, end) = (self.starts[epoch as usize], self.starts[epoch as usize + 1]);
        epoch as f64 + (steps - start) as f64 / (end - start) as f64
    }

    /// The micro-batches of the 0-based `step`, as indices of sequences.
    pub fn step(&mut self, step: u64) -> Vec<Vec<usize>> {
        let epoch = self.epoch(step);
        let first = (step - self.starts[epoch as usize]) as usize * self.batching.accumulation;
        let accumulation = self.batching.accumulation;
        let batches = self.plan(epoch);
        batches[first..batches.len().min(first + accumulation)].to_vec()
    }

    fn plan(&mut self, epoch: u64) -> &[Vec<usize>] {
        if self.planned.as_ref().is_none_or(|(planned, _)| *planned != epoch) {
            let Batching {
                grouping, order, seed, ..
            } = self.batching;
            let plan = BatchPlan::new(&self.lengths, grouping, order, seed, epoch);
            self.planned = Some((epoch, plan.batches));
        }
        self.planned.as_ref().map_or(&[], |(_, batches)| batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batching(grouping: Grouping, accumulation: usize) -> Batching {
        Batching {
            grouping,
            order: Order::Shuffled,
            accumulation,
            seed: 42,
        }
    }

    #[test]
    fn the_last_step_of_an_epoch_takes_what_is_left() {
        let mut timeline = Timeline::new(&[[5, 3]; 10], batching(Grouping::Sequences(2), 2), Length::Epochs(2));
        assert_eq!((timeline.steps(), timeline.largest_batch()), (6, [10, 6]));
        let sizes: Vec<Vec<usize>> = (0..6)
            .map(|step| timeline.step(step).iter().map(Vec::len).collect())
            .collect();
        assert_eq!(
            sizes,
            [vec![2, 2], vec![2, 2], vec![2], vec![2, 2], vec![2, 2], vec![2]]
        );
        let epochs: Vec<u64> = (0..6).map(|step| timeline.epoch(step)).collect();
        assert_eq!(epochs, [0, 0, 0, 1, 1, 1]);
        assert_eq!(timeline.epochs_after(0), 0.0);
        assert_eq!(timeline.epochs_after(4), 1.0 + 1.0 / 3.0);
        assert_eq!(timeline.epochs_after(6), 2.0);
    }

    #[test]
    fn a_number_of_steps_may_end_inside_of_an_epoch() {
        let timeline = Timeline::new(&[[5, 3]; 10], batching(Grouping::Sequences(2), 2), Length::Steps(4));
        assert_eq!((timeline.steps(), timeline.epoch(3)), (4, 1));
        assert_eq!(timeline.epochs_after(4), 1.0 + 1.0 / 3.0);
    }

    proptest! {
        #[test]
        fn a_step_is_the_same_whatever_was_asked_before_and_an_epoch_meets_every_sequence_once(
            lengths in proptest::collection::vec(1usize..30, 1..40), tokens in 1usize..80, accumulation in 1usize..4,
            asked in proptest::collection::vec(0u64..1000, 0..6),
        ) {
            let sizes: Vec<[usize; 2]> = lengths.iter().map(|&length| [length, length / 2]).collect();
            let new = || Timeline::new(&sizes, batching(Grouping::Tokens(tokens), accumulation), Length::Epochs(3));
            let mut timeline = new();
            let in_order: Vec<_> = (0..timeline.steps()).map(|step| timeline.step(step)).collect();
            for epoch in 0..3 {
                let of_epoch = (0..).zip(&in_order).filter(|(step, _)| timeline.epoch(*step) == epoch);
                let mut met: Vec<usize> = of_epoch.flat_map(|(_, step)| step.concat()).collect();
                met.sort_unstable();
                prop_assert_eq!(met, (0..lengths.len()).collect::<Vec<_>>());
            }
            let mut other = new();
            for step in asked.into_iter().map(|step| step % timeline.steps()) {
                prop_assert_eq!(&other.step(step), &in_order[step as usize]);
            }
        }
    }
}

//! Hidden states of one layer → what the metrics are computed from.

use crate::{
    Error, Result,
    metrics::{Capture, VIEWS},
    model::Batch,
    rng,
};
use midblock_kernels::Backend;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use std::ops::Range;

/// How the token states of a sample become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Mean over the sample's tokens.
    Mean,
    /// State of the last token.
    Last,
}

impl Pooling {
    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Last => "last",
        }
    }
}

impl std::str::FromStr for Pooling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = [Self::Mean, Self::Last];
        known
            .into_iter()
            .find(|pooling| pooling.name() == text)
            .ok_or_else(|| Error::Argument {
                what: "--pooling".to_owned(),
                value: text.to_owned(),
                problem: "not one of mean, last".to_owned(),
                help: String::new(),
            })
    }
}

/// One data set's share of the sequences.
#[derive(Clone, Debug)]
pub struct Section {
    /// Indices of its sequences.
    pub sequences: Range<usize>,
    /// How many of them, from the first, are kept token by token.
    pub token_samples: usize,
}

/// Knows where every sample's rows are and which view group each token belongs to; the same for all layers and models.
pub struct Collector {
    hidden: usize,
    pooling: Pooling,
    sections: Vec<Section>,
    /// Batch and row range of every sequence.
    places: Vec<(usize, Range<usize>)>,
    /// View group of every token of every sequence, none where a sequence has fewer tokens than groups; empty if views are not wanted.
    groups: Vec<Vec<u8>>,
}

impl Collector {
    /// For the sequences of `batches`, in order; without views.
    pub fn new(hidden: usize, pooling: Pooling, sections: Vec<Section>, batches: &[Batch]) -> Self {
        let places = batches
            .iter()
            .enumerate()
            .flat_map(|(index, batch)| batch.offsets().windows(2).map(move |w| (index, w[0]..w[1])))
            .collect();
        Self {
            hidden,
            pooling,
            sections,
            places,
            groups: Vec::new(),
        }
    }

    /// With views. `numbers` says for each sequence which of the whole run's it is, so that its groups are the same in any part of it.
    ///
    /// # Panics
    /// If there is not a number for each sequence.
    #[must_use]
    pub fn with_views(mut self, seed: u64, numbers: &[usize]) -> Self {
        assert_eq!(numbers.len(), self.places.len(), "one number for each sequence");
        let groups = |(&number, (_, rows)): (&usize, &(usize, Range<usize>))| view_groups(rows.len(), number, seed);
        self.groups = numbers.iter().zip(&self.places).map(groups).collect();
        self
    }

    /// One capture per section of the states of one track.
    pub fn collect<B: Backend>(&self, backend: &B, states: &[B::Buffer]) -> Vec<Capture> {
        self.sections
            .iter()
            .map(|section| self.collect_section(backend, states, section))
            .collect()
    }

    fn collect_section<B: Backend>(&self, backend: &B, states: &[B::Buffer], section: &Section) -> Capture {
        let d = self.hidden;
        let samples = section.sequences.len();
        let viewed = if self.groups.is_empty() { 0 } else { samples };
        let mut capture = Capture {
            dim: d,
            pooled: vec![0.0; samples * d],
            views: vec![0.0; viewed * VIEWS * d],
            tokens: vec![Vec::new(); section.token_samples.min(samples)],
        };
        let mut tokens: Vec<_> = capture.tokens.iter_mut().map(Some).collect();
        tokens.resize_with(samples, || None);
        let mut views: Vec<_> = capture.views.chunks_mut(VIEWS * d).map(Some).collect();
        views.resize_with(samples, || None);
        let sequences = section.sequences.clone().into_par_iter();
        let pooled = capture.pooled.par_chunks_mut(d);
        sequences
            .zip(pooled)
            .zip(views)
            .zip(tokens)
            .for_each(|(((sequence, pooled), views), tokens)| {
                let (batch, rows) = &self.places[sequence];
                let mut states_of_sample = vec![0f32; rows.len() * d]; // (T, D)
                backend.read(&states[*batch], rows.start * d, &mut states_of_sample);
                pool(self.pooling, d, &states_of_sample, pooled);
                if let Some(views) = views {
                    pool_views(&self.groups[sequence], d, &states_of_sample, views);
                }
                if let Some(tokens) = tokens {
                    *tokens = states_of_sample;
                }
            });
        capture
    }
}

/// Deals `tokens` tokens in random order to the view groups, evenly. Fewer tokens than groups: none.
fn view_groups(tokens: usize, sequence: usize, seed: u64) -> Vec<u8> {
    if tokens < VIEWS {
        return Vec::new();
    }
    let mut groups: Vec<u8> = (0..tokens).map(|t| (t % VIEWS) as u8).collect();
    groups.shuffle(&mut rng::stream(seed, "views", &[sequence as u64]));
    groups
}

/// (T, D) → (D).
fn pool(pooling: Pooling, d: usize, states: &[f32], pooled: &mut [f64]) {
    let rows = match pooling {
        Pooling::Mean => states,
        Pooling::Last => &states[states.len().saturating_sub(d)..],
    };
    for row in rows.chunks_exact(d) {
        add_row(pooled, row);
    }
    let count = (rows.len() / d) as f64;
    pooled.iter_mut().for_each(|x| *x /= count);
}

/// (T, D) → (VIEWS, D); NaN without groups.
fn pool_views(groups: &[u8], d: usize, states: &[f32], views: &mut [f64]) {
    if groups.is_empty() {
        views.fill(f64::NAN);
        return;
    }
    let mut counts = [0usize; VIEWS];
    for (row, &group) in states.chunks_exact(d).zip(groups) {
        let group = usize::from(group);
        counts[group] += 1;
        add_row(&mut views[group * d..][..d], row);
    }
    for (view, count) in views.chunks_exact_mut(d).zip(counts) {
        view.iter_mut().for_each(|x| *x /= count as f64);
    }
}

fn add_row(sum: &mut [f64], row: &[f32]) {
    sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
}

#[cfg(test)]
mod tests {
    use super::*;
    use midblock_kernels::Reference;

    /// Sequences of 5, 2 and 4 tokens with D = 2; the state of row `r` is (r, 10·r).
    fn captures(pooling: Pooling) -> Vec<Capture> {
        let batches = [Batch::new(&[vec![0; 5], vec![0; 2]]), Batch::new(&[vec![0; 4]])];
        let sections = vec![
            Section {
                sequences: 0..2,
                token_samples: 1,
            },
            Section {
                sequences: 2..3,
                token_samples: 9,
            },
        ];
        let states = |rows: Range<usize>| -> Vec<f64> { rows.flat_map(|r| [r as f64, 10.0 * r as f64]).collect() };
        let backend = Reference;
        let states = [backend.upload(&states(0..7)), backend.upload(&states(7..11))];
        let collector = Collector::new(2, pooling, sections, &batches);
        collector.with_views(7, &[0, 1, 2]).collect(&backend, &states)
    }

    #[test]
    fn pools_each_sample_over_its_own_rows() {
        let [first, second] = captures(Pooling::Mean).try_into().unwrap();
        assert_eq!(first.pooled, [2.0, 20.0, 5.5, 55.0]);
        assert_eq!(second.pooled, [8.5, 85.0]);
        assert_eq!(captures(Pooling::Last)[0].pooled, [4.0, 40.0, 6.0, 60.0]);
    }

    #[test]
    fn keeps_tokens_of_the_first_samples_only() {
        let [first, second] = captures(Pooling::Mean).try_into().unwrap();
        assert_eq!(first.tokens, [vec![0., 0., 1., 10., 2., 20., 3., 30., 4., 40.]]);
        assert_eq!(second.tokens, [vec![7., 70., 8., 80., 9., 90., 10., 100.]]);
    }

    #[test]
    fn views_split_a_sample_evenly_and_short_samples_have_none() {
        let [first, second] = captures(Pooling::Mean).try_into().unwrap();
        assert!(
            first.views[VIEWS * 2..].iter().all(|x| x.is_nan()),
            "two tokens cannot fill four groups"
        );
        let mut firsts: Vec<f64> = second.views.chunks(2).map(|v| v[0]).collect();
        firsts.sort_by(f64::total_cmp);
        assert_eq!(firsts, [7.0, 8.0, 9.0, 10.0]);
    }

    #[test]
    fn a_sequence_has_the_views_of_its_number() {
        let backend = Reference;
        let states: Vec<f64> = (0..40).map(f64::from).collect();
        let views = |sequences: usize, numbers: &[usize]| {
            let batches = [Batch::new(&vec![vec![0; 20]; sequences])];
            let section = Section {
                sequences: 0..sequences,
                token_samples: 0,
            };
            let collector = Collector::new(1, Pooling::Mean, vec![section], &batches).with_views(7, numbers);
            let captures = collector.collect(&backend, &[backend.upload(&states[..20 * sequences])]);
            captures.into_iter().next().unwrap().views
        };
        let both = views(2, &[8, 9]);
        assert_eq!(both[..VIEWS], views(1, &[8]));
        assert_ne!(both[..VIEWS], views(1, &[9]));
    }

    #[test]
    fn views_are_left_out_unless_wanted() {
        let batches = [Batch::new(&[vec![0; 5]])];
        let section = Section {
            sequences: 0..1,
            token_samples: 0,
        };
        let collector = Collector::new(1, Pooling::Mean, vec![section], &batches);
        let capture = collector.collect(&Reference, &[Reference.upload(&[1.0; 5])]).remove(0);
        assert_eq!((capture.pooled, capture.views), (vec![1.0], vec![]));
    }
}

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
    /// View group of every token of every sequence; empty where a sequence has fewer tokens than groups.
    groups: Vec<Vec<u8>>,
}

impl Collector {
    /// For the sequences of `batches`, in order.
    pub fn new(hidden: usize, pooling: Pooling, sections: Vec<Section>, batches: &[Batch], seed: u64) -> Self {
        let places: Vec<_> = batches
            .iter()
            .enumerate()
            .flat_map(|(index, batch)| batch.offsets().windows(2).map(move |w| (index, w[0]..w[1])))
            .collect();
        let groups = places
            .iter()
            .enumerate()
            .map(|(i, (_, rows))| view_groups(rows.len(), i, seed))
            .collect();
        Self {
            hidden,
            pooling,
            sections,
            places,
            groups,
        }
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
        let mut capture = Capture {
            dim: d,
            pooled: vec![0.0; samples * d],
            views: vec![0.0; samples * VIEWS * d],
            tokens: vec![Vec::new(); section.token_samples.min(samples)],
        };
        let mut tokens: Vec<_> = capture.tokens.iter_mut().map(Some).collect();
        tokens.resize_with(samples, || None);
        let sequences = section.sequences.clone().into_par_iter();
        let pooled = capture.pooled.par_chunks_mut(d);
        let views = capture.views.par_chunks_mut(VIEWS * d);
        sequences
            .zip(pooled)
            .zip(views)
            .zip(tokens)
            .for_each(|(((sequence, pooled), views), tokens)| {
                let (batch, rows) = &self.places[sequence];
                let mut states_of_sample = vec![0f32; rows.len() * d]; // (T, D)
                backend.read(&states[*batch], rows.start * d, &mut states_of_sample);
                pool(self.pooling, d, &states_of_sample, pooled);
                pool_views(&self.groups[sequence], d, &states_of_sample, views);
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
        Collector::new(2, pooling, sections, &batches, 7).collect(&backend, &states)
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
}

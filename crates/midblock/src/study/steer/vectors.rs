//! What a variant's states have that the base's have not, as one vector (D) for each block.
//!
//! With x_i and y_i (D) the states of sample i after the block, of base and variant:
//! - mean shift: ȳ − x̄ of states that are means over the sample's tokens; of it, the k entries of largest size if asked for.
//! - component: of last-token differences d_i = y_i − x_i, the first principal component u (of the centred d_i), turned
//!   towards the mean difference, d̄·u ≥ 0, and as long as the mean's projection: v = (d̄·u) u. It is zero where samples differ
//!   along u but not on average.
//! - random: a standard normal vector scaled to the length of the mean shift. What this does is what any push so strong does.
//!
//! Source of the first two: arXiv 2604.11838, "steering"; it leaves open the sign and length of the component.

use crate::{
    Result,
    metrics::linalg,
    probe::{Collector, Lockstep, Participant, Pooling, Section},
    progress::{Progress, Unit},
    rng,
    tokens::TrainingSample,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

/// How a vector is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Difference of the mean states.
    MeanShift,
    /// First principal component of the differences at the last token.
    Component,
    /// A random direction as long as the mean shift.
    Random,
}

impl Method {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeanShift => "mean_shift",
            Self::Component => "component",
            Self::Random => "random",
        }
    }
}

/// The directions of one variant, an entry for each block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Directions {
    pub mean_shift: Vec<Vec<f32>>,
    pub component: Vec<Vec<f32>>,
    /// Share of the differences' variance that lies along the component; `None` without variance.
    pub explained: Vec<Option<f64>>,
}

impl Directions {
    /// The vector of a block, before its strength.
    pub fn vector(&self, method: Method, block: usize, top: Option<usize>, seed: u64) -> Vec<f32> {
        let shift = &self.mean_shift[block];
        match method {
            Method::MeanShift => largest(shift, top.unwrap_or(shift.len())),
            Method::Component => self.component[block].clone(),
            Method::Random => random(shift.len(), length(shift), seed, block),
        }
    }
}

/// ‖v‖₂.
pub(super) fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// Directions of every participant but the first, from all their states of `samples`.
///
/// # Errors
/// Those of [`Lockstep`].
pub(super) fn directions<B: Backend>(
    backend: &B,
    participants: &[Participant<'_>],
    samples: &[TrainingSample],
    progress: &dyn Progress,
) -> Result<Vec<Directions>> {
    let sequences: Vec<Vec<u32>> = samples.iter().map(|sample| sample.ids.clone()).collect();
    let mut lockstep = Lockstep::new(backend, participants, &sequences)?;
    let (width, blocks) = (participants[0].architecture.hidden, lockstep.blocks() as u64);
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let total = tokens as u64 * blocks * participants.len() as u64;
    progress.begin("steering vectors", total, Unit::BlockTokens { blocks });
    let collectors = [Pooling::Mean, Pooling::Last].map(|pooling| {
        let all = Section {
            sequences: 0..sequences.len(),
            token_samples: 0,
        };
        Collector::new(width, pooling, vec![all], lockstep.batches())
    });
    let mut directions = vec![Directions::default(); participants.len() - 1];
    while let Some(tensors) = lockstep.next_block()? {
        lockstep.advance(&tensors, progress)?;
        let tracks = lockstep.tracks();
        let states: Vec<[Vec<f64>; 2]> = tracks
            .iter()
            .map(|track| {
                collectors
                    .each_ref()
                    .map(|c| c.collect(backend, &track.states).remove(0).pooled)
            })
            .collect();
        let of = |member: usize| {
            &states[tracks
                .iter()
                .position(|track| track.members.contains(&member))
                .unwrap_or(0)]
        };
        for (variant, own) in (1..).zip(&mut directions) {
            let ([x_mean, x_last], [y_mean, y_last]) = (of(0), of(variant));
            let (component, explained) = component(&difference(y_last, x_last), width);
            own.mean_shift.push(rounded(&linalg::mean_row(linalg::rows(
                &difference(y_mean, x_mean),
                width,
            ))));
            own.component.push(rounded(&component));
            own.explained.push(explained);
        }
    }
    Ok(directions)
}

fn difference(y: &[f64], x: &[f64]) -> Vec<f64> {
    y.iter().zip(x).map(|(y, x)| y - x).collect()
}

fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

/// (d̄·u) u of differences (N, D), and the share of variance along u. Through the eigenvectors a of the smaller Gram matrix of the
/// centred differences C: u = Cᵀa/‖Cᵀa‖, N being the smaller side.
fn component(differences: &[f64], width: usize) -> (Vec<f64>, Option<f64>) {
    let rows = linalg::rows(differences, width);
    let (mean, centred) = (linalg::mean_row(rows), linalg::centred(rows));
    let gram = linalg::product(centred.as_ref(), centred.transpose()); // (N, N)
    let nothing = (vec![0.0; width], None);
    let Some((values, vectors)) = linalg::eigen(gram.as_ref()) else {
        return nothing;
    };
    let variance: f64 = values.iter().map(|value| value.max(0.0)).sum();
    let size: f64 = differences.iter().map(|d| d * d).sum();
    if values.is_empty() || variance <= 1e-20 * size {
        return nothing; // all differences are the same, but for rounding
    }
    let along: Vec<f64> = (0..width)
        .map(|j| (0..centred.nrows()).map(|i| centred[(i, j)] * vectors[(i, 0)]).sum())
        .collect();
    let squares: f64 = along.iter().map(|a| a * a).sum();
    let projection: f64 = mean.iter().zip(&along).map(|(m, a)| m * a).sum();
    let vector = along.iter().map(|a| projection / squares * a).collect();
    (vector, Some(values[0] / variance))
}

/// The `k` entries of largest size, the others 0; of equal ones the first.
fn largest(vector: &[f32], k: usize) -> Vec<f32> {
    let mut order: Vec<usize> = (0..vector.len()).collect();
    order.sort_by(|&a, &b| vector[b].abs().total_cmp(&vector[a].abs()));
    let mut kept = vec![0.0; vector.len()];
    order.into_iter().take(k).for_each(|i| kept[i] = vector[i]);
    kept
}

/// A direction drawn evenly from all, of the given length.
fn random(width: usize, length: f64, seed: u64, block: usize) -> Vec<f32> {
    let mut random = rng::stream(seed, "steering control", &[block as u64]);
    let drawn: Vec<f64> = (0..width).map(|_| rng::normal(&mut random)).collect();
    let own = drawn.iter().map(|v| v * v).sum::<f64>().sqrt();
    drawn.iter().map(|v| (v * length / own) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} {b:?}");
    }

    /// Differences (1, 3), (1, −1), (1, 4): they vary along (0, 1), where their mean 2 points up.
    #[test]
    fn a_component_is_the_means_share_of_the_main_direction() {
        let (vector, explained) = component(&[1.0, 3.0, 1.0, -1.0, 1.0, 4.0], 2);
        assert_close(&vector, &[0.0, 2.0]);
        assert!((explained.unwrap() - 1.0).abs() < 1e-12);
        let (vector, _) = component(&[1.0, -3.0, 1.0, 1.0, 1.0, -4.0], 2);
        assert_close(&vector, &[0.0, -2.0]); // turned over, it points down: towards the mean again
        // along (3, 4)/5 by ±5, across by ±1: the mean (1, 0) projects to 0.6
        let (vector, explained) = component(&[4.0, 4.0, -2.0, -4.0, 0.2, 0.6, 1.8, -0.6], 2);
        assert_close(&vector, &[0.36, 0.48]);
        assert!((explained.unwrap() - 50.0 / 52.0).abs() < 1e-12);
    }

    #[test]
    fn without_variance_there_is_no_component() {
        let same = [0.1, 0.7, 0.1, 0.7, 0.1, 0.7];
        assert_eq!(component(&same, 2), (vec![0.0, 0.0], None));
        assert_eq!(component(&[0.0; 4], 2), (vec![0.0, 0.0], None));
    }

    #[test]
    fn the_largest_entries_stay() {
        assert_eq!(largest(&[1.0, -3.0, 2.0, -1.0], 2), [0.0, -3.0, 2.0, 0.0]);
        assert_eq!(largest(&[1.0, -1.0], 1), [1.0, 0.0]);
        assert_eq!(largest(&[1.0, -1.0], 9), [1.0, -1.0]);
    }

    #[test]
    fn a_random_direction_is_as_long_and_another_for_each_block_and_seed() {
        let of = |seed, block| random(300, 2.5, seed, block);
        assert!((length(&of(1, 0)) - 2.5).abs() < 1e-6);
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() / 6.25;
        assert!(cosine(&of(1, 0), &of(1, 1)).abs() < 0.3 && cosine(&of(1, 0), &of(2, 0)).abs() < 0.3);
        assert_eq!(of(1, 0), of(1, 0));
        assert_eq!(random(3, 0.0, 1, 0), [0.0; 3]);
    }
}

//! The loss of a trigger and its gradient.

use super::Eraser;
use crate::model::{Criterion, StateLoss};
use midblock_kernels::{Accumulate, Backend};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What the loss of a trigger is made of, each without its weight; what is not computed is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErasureTerms {
    /// Squared distance of the mean activations from the base's, mean over channels and blocks.
    pub activation: f64,
    /// KL(Base ‖ SFT with the trigger) in nats, mean over the compared tokens.
    pub divergence: f64,
    /// Mean squared norm of the trigger's vectors.
    pub norm: f64,
}

impl ErasureTerms {
    /// The loss.
    pub fn total(&self, options: &Eraser) -> f64 {
        options.activation * self.activation + options.divergence * self.divergence + options.norm * self.norm
    }
}

/// The activation term for means (D) of each block, against `targets`; and with `weight` the gradient of it with respect to each block's means,
/// 0 outside of its channels. Blocks without channels do not count.
pub(super) fn activation(
    means: &[Vec<f64>],
    targets: &[Vec<f64>],
    channels: &[Vec<usize>],
    weight: f64,
) -> (f64, Vec<Vec<f64>>) {
    let blocks = channels.iter().filter(|own| !own.is_empty()).count().max(1) as f64;
    let mut value = 0.0;
    let mut gradients = Vec::with_capacity(means.len());
    for ((means, targets), channels) in means.iter().zip(targets).zip(channels) {
        let share = 1.0 / (blocks * channels.len().max(1) as f64);
        let mut gradient = vec![0.0; means.len()];
        for &channel in channels {
            let apart = means[channel] - targets[channel];
            value += share * apart * apart;
            gradient[channel] = weight * share * 2.0 * apart;
        }
        gradients.push(gradient);
    }
    (value, gradients)
}

/// Adds the activation term's gradient where backward reaches a block's output.
pub(super) struct ActivationLoss<'a, B: Backend> {
    /// With respect to one prompt's activations, (D) of each block; none where the block has no channels.
    pub gradients: Vec<Option<B::Buffer>>,
    /// Row of the last token of each prompt.
    pub last: &'a [usize],
    /// (prompts, D)
    pub rows: &'a mut B::Buffer,
}

impl<B: Backend> StateLoss<B> for ActivationLoss<'_, B> {
    fn backward(&mut self, backend: &B, layer: usize, _: &B::Buffer, gradient: &mut B::Buffer) {
        let Some(own) = &self.gradients[layer - 1] else { return };
        let width = backend.len(own);
        backend.resize(self.rows, self.last.len() * width);
        backend.gather_rows(gradient, self.last, width, self.rows);
        backend.add_bias(self.rows, own); // the same for each prompt
        backend.scatter_rows(self.rows, self.last, width, gradient);
    }
}

/// Draws what the model says of each compared token to what the base says, of which the normed states are kept.
pub(super) struct Distillation<'a, B: Backend> {
    /// The base's head.
    pub head: &'a B::Matrix,
    /// The base's normed states of the compared tokens, (n, D).
    pub states: &'a B::Buffer,
    /// Of each token.
    pub weight: f64,
    /// (rows, D), and (rows, V).
    pub scratch: &'a mut [B::Buffer; 2],
    /// Sum of the divergences so far, in nats.
    pub nats: f64,
}

impl<B: Backend> Criterion<B> for Distillation<'_, B> {
    /// Returns the divergences: there are no targets.
    fn backward(&mut self, backend: &B, rows: Range<usize>, _: &[u32], logits: &mut B::Buffer) -> Vec<f64> {
        let [vocab, width] = backend.shape(self.head);
        let [states, reference] = &mut *self.scratch;
        let rows: Vec<usize> = rows.collect();
        backend.resize(states, rows.len() * width);
        backend.gather_rows(self.states, &rows, width, states);
        backend.resize(reference, rows.len() * vocab);
        backend.linear(states, self.head, rows.len(), Accumulate::Write, reference);
        let divergences = backend.distillation_backward(logits, reference, vocab, self.weight);
        self.nats += divergences.iter().sum::<f64>();
        divergences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_alike_and_those_without_channels_not() {
        let means = [vec![1.0, 5.0, 2.0], vec![9.0, 9.0, 9.0], vec![0.0, 1.0, 0.0]];
        let targets = [vec![0.0, 0.0, 0.0], vec![0.0; 3], vec![0.0, -1.0, 0.5]];
        let channels = [vec![0, 2], vec![], vec![1]];
        let (value, gradients) = activation(&means, &targets, &channels, 3.0);
        assert!((value - 0.5 * ((1.0 + 4.0) / 2.0 + 4.0)).abs() < 1e-15);
        assert_eq!(gradients[0], [3.0 * 0.5, 0.0, 3.0]);
        assert_eq!(gradients[1], [0.0; 3]);
        assert_eq!(gradients[2], [0.0, 3.0 * 2.0, 0.0]);
    }
}

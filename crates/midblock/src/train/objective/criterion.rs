//! The gradient of an objective with respect to the logits of a micro-batch's trained tokens.
//!
//! `dft`: weight p_t/N. `iw`: w_s/N; where weights are derived too, dw_s/dℓ_t = −τ w_s/n_s makes it w_s (1 − τ ℓ̄_s)/N below the cap, with
//! n_s the sequence's trained tokens and ℓ̄_s their mean loss. `kl`: see [`Backend::divergence_backward`]; `lcdd` with the tuned model as its
//! target: see [`Backend::distillation_backward`].

use super::{
    Lcdd, Objective, Target,
    start::{Seen, SeenStates},
};
use crate::model::{Batch, Criterion, Labels};
use midblock_kernels::Backend;
use std::ops::Range;

/// What of the trained tokens is minimised, and what it adds up to.
pub(in crate::train) struct Minimised<'a, B: Backend> {
    rows: Rows<'a, B>,
    /// 1/N
    share: f64,
    /// Σ over the rows so far, not divided by N.
    sum: f64,
}

enum Rows<'a, B: Backend> {
    Equal,
    ByProbability,
    /// Of each row, in the loss and in its gradient.
    Weighted(Vec<[f64; 2]>),
    Divergence {
        beta: f64,
        start: SeenStates<'a, B>,
    },
    Distilled(SeenStates<'a, B>),
}

impl<'a, B: Backend> Minimised<'a, B> {
    /// Of a micro-batch of a step with `tokens` trained tokens. `losses` are the rows' own, asked for where weights depend on them;
    /// `seen` is what the start model says of them.
    pub fn new(
        objective: &Objective,
        tokens: usize,
        sequences: &[Range<usize>],
        seen: Seen<'a, B>,
        losses: impl FnOnce() -> Vec<f64>,
    ) -> Self {
        let rows = match (objective, seen) {
            (
                Objective::Lcdd(Lcdd {
                    target: Target::Tuned, ..
                }),
                Seen::States(tuned),
            ) => Rows::Distilled(tuned),
            (Objective::Sft | Objective::Rpsft(_) | Objective::Lcdd(_), _) => Rows::Equal,
            (Objective::Dft, _) => Rows::ByProbability,
            (&Objective::Iw { tau, cap, detach }, Seen::Losses(start)) => {
                let losses = losses();
                let weights = sequences.iter().zip(start).flat_map(|(rows, start)| {
                    let loss = losses[rows.clone()].iter().sum::<f64>() / rows.len().max(1) as f64;
                    let weight = (tau * (start - loss)).exp();
                    let derived = if detach || weight >= cap { 1.0 } else { 1.0 - tau * loss };
                    let weight = weight.min(cap);
                    std::iter::repeat_n([weight, weight * derived], rows.len())
                });
                Rows::Weighted(weights.collect())
            }
            (&Objective::Kl { beta }, Seen::States(start)) => Rows::Divergence { beta, start },
            _ => unreachable!("invariant: objectives with a start model have seen it"),
        };
        Self {
            rows,
            share: 1.0 / tokens as f64,
            sum: 0.0,
        }
    }

    /// Σ of what is minimised over the micro-batch's trained tokens, not divided by N.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

impl<B: Backend> Criterion<B> for Minimised<'_, B> {
    fn backward(&mut self, backend: &B, rows: Range<usize>, targets: &[u32], logits: &mut B::Buffer) -> Vec<f64> {
        let share = self.share;
        match &mut self.rows {
            Rows::Equal => {
                let losses = backend.cross_entropy_backward(logits, targets, &|_, _| share);
                self.sum += losses.iter().sum::<f64>();
                losses
            }
            Rows::ByProbability => {
                let losses = backend.cross_entropy_backward(logits, targets, &|_, nats| share * (-nats).exp());
                self.sum += losses.iter().map(|nats| nats * (-nats).exp()).sum::<f64>();
                losses
            }
            Rows::Weighted(weights) => {
                let weights = &weights[rows];
                let losses = backend.cross_entropy_backward(logits, targets, &|row, _| share * weights[row][1]);
                self.sum += losses
                    .iter()
                    .zip(weights)
                    .map(|(nats, [weight, _])| nats * weight)
                    .sum::<f64>();
                losses
            }
            Rows::Divergence { beta, start } => {
                let reference = start.logits(backend, rows);
                let found = backend.divergence_backward(logits, reference, targets, share, *beta);
                self.sum += found.iter().map(|row| row.nats + *beta * row.divergence).sum::<f64>();
                found.iter().map(|row| row.nats).collect()
            }
            Rows::Distilled(tuned) => {
                let losses = backend.cross_entropy(logits, targets);
                let vocab = tuned.vocab(backend);
                let reference = tuned.logits(backend, rows);
                let found = backend.distillation_backward(logits, reference, vocab, share);
                self.sum += found.iter().sum::<f64>();
                losses
            }
        }
    }
}

/// Which of a batch's labelled rows, counted among these, belong to each of its sequences.
pub(in crate::train) fn sequences(batch: &Batch, labels: &Labels) -> Vec<Range<usize>> {
    let place = |row: &usize| labels.rows.partition_point(|labelled| labelled < row);
    let bounds = batch.offsets().windows(2);
    bounds.map(|bounds| place(&bounds[0])..place(&bounds[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use midblock_kernels::{Accumulate, Reference};
    use rand::RngExt;

    /// Two sequences of labelled rows, and one without any.
    const SEQUENCES: [Range<usize>; 3] = [0..3, 3..3, 3..5];
    const TARGETS: [u32; 5] = [1, 6, 0, 3, 3];
    const VOCAB: usize = 7;
    /// N, of which the other tokens are in other micro-batches.
    const TOKENS: usize = 9;
    const HIDDEN: usize = 4;

    fn random(stream: u64, len: usize) -> Vec<f64> {
        let mut random = rng::stream(stream, "criterion", &[]);
        (0..len).map(|_| random.random_range(-1.5..1.5)).collect()
    }

    fn losses(logits: &[f64]) -> Vec<f64> {
        Reference.cross_entropy_backward(&mut logits.to_vec(), &TARGETS, &|_, _| 1.0)
    }

    /// Gradient and sum, in two chunks.
    fn minimised(objective: &Objective, logits: &[f64], seen: Seen<'_, Reference>) -> (Vec<f64>, f64) {
        let mut minimised = Minimised::new(objective, TOKENS, &SEQUENCES, seen, || losses(logits));
        let mut gradient = Vec::new();
        for rows in [0..2, 2..5] {
            let mut chunk = logits[rows.start * VOCAB..rows.end * VOCAB].to_vec();
            minimised.backward(&Reference, rows.clone(), &TARGETS[rows], &mut chunk);
            gradient.extend(chunk);
        }
        (gradient, minimised.sum())
    }

    fn log_softmax(logits: &[f64]) -> Vec<f64> {
        let sum = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
        logits.iter().map(|l| l - sum).collect()
    }

    /// `value` is what is minimised, with what counts as constant held.
    #[track_caller]
    fn is_gradient(gradient: &[f64], logits: &[f64], value: impl Fn(&[f64]) -> f64) {
        const EPSILON: f64 = 1e-5;
        for (i, analytic) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut logits = logits.to_vec();
                logits[i] += by;
                value(&logits) / TOKENS as f64
            };
            let numeric = (moved(EPSILON) - moved(-EPSILON)) / (2.0 * EPSILON);
            assert!((numeric - analytic).abs() < 1e-9, "logit {i}: {numeric} and {analytic}");
        }
    }

    #[test]
    fn plain_and_dynamic() {
        let logits = random(1, TARGETS.len() * VOCAB);
        let (gradient, sum) = minimised(&Objective::Sft, &logits, Seen::Nothing);
        let plain = |logits: &[f64]| losses(logits).iter().sum::<f64>();
        is_gradient(&gradient, &logits, plain);
        assert!((sum - plain(&logits)).abs() < 1e-12);

        let held: Vec<f64> = losses(&logits).iter().map(|nats| (-nats).exp()).collect();
        let value = |logits: &[f64]| {
            losses(logits)
                .iter()
                .zip(&held)
                .map(|(nats, weight)| nats * weight)
                .sum::<f64>()
        };
        let (gradient, sum) = minimised(&Objective::Dft, &logits, Seen::Nothing);
        is_gradient(&gradient, &logits, value);
        assert!((sum - value(&logits)).abs() < 1e-12);
    }

    #[test]
    fn importance_weights_are_held_or_derived_and_capped() {
        let logits = random(2, TARGETS.len() * VOCAB);
        let tau = 0.7;
        let mean = |losses: &[f64], rows: &Range<usize>| losses[rows.clone()].iter().sum::<f64>() / rows.len() as f64;
        let found = losses(&logits);
        // the first sequence has become likelier, the last less likely
        let start = vec![
            mean(&found, &SEQUENCES[0]) + 0.4,
            0.0,
            mean(&found, &SEQUENCES[2]) - 0.5,
        ];
        let weights = |losses: &[f64], cap: f64| {
            SEQUENCES.clone().map(|rows| match rows.len() {
                0 => 0.0,
                _ => (tau * (start[if rows.start == 0 { 0 } else { 2 }] - mean(losses, &rows)))
                    .exp()
                    .min(cap),
            })
        };
        let value = |losses: &[f64], weights: [f64; 3]| {
            let rows = SEQUENCES.iter().zip(weights);
            rows.map(|(rows, weight)| weight * losses[rows.clone()].iter().sum::<f64>())
                .sum::<f64>()
        };
        let cap = 1.2; // e^{0.28} is above it
        assert!(weights(&found, 16.0)[0] > cap && weights(&found, 16.0)[2] < 1.0);
        for (cap, detach) in [(16.0, true), (16.0, false), (cap, true), (cap, false)] {
            let held = weights(&found, cap);
            let objective = Objective::Iw { tau, cap, detach };
            let (gradient, sum) = minimised(&objective, &logits, Seen::Losses(start.clone()));
            assert!((sum - value(&found, held)).abs() < 1e-12);
            is_gradient(&gradient, &logits, |logits| {
                let losses = losses(logits);
                let own = if detach { held } else { weights(&losses, cap) };
                value(&losses, own)
            });
        }
    }

    #[test]
    fn divergence_from_the_start() {
        let logits = random(3, TARGETS.len() * VOCAB);
        let states = random(4, TARGETS.len() * HIDDEN);
        let head = Reference.trained([VOCAB, HIDDEN], random(5, VOCAB * HIDDEN));
        let beta = 0.4;
        let mut scratch = [Vec::new(), Vec::new()];
        let seen = Seen::States(SeenStates {
            states: &states,
            head: &head,
            scratch: &mut scratch,
        });
        let (gradient, sum) = minimised(&Objective::Kl { beta }, &logits, seen);
        let mut start = vec![0.0; logits.len()];
        Reference.linear(&states, &head, TARGETS.len(), Accumulate::Write, &mut start);
        let value = |logits: &[f64]| {
            let rows = logits.chunks(VOCAB).zip(start.chunks(VOCAB));
            let kl = rows.map(|(row, start)| {
                let (p, q) = (log_softmax(row), log_softmax(start));
                p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
            });
            losses(logits).iter().sum::<f64>() + beta * kl.sum::<f64>()
        };
        is_gradient(&gradient, &logits, value);
        assert!((sum - value(&logits)).abs() < 1e-12);
    }

    #[test]
    fn divergence_of_a_tuned_model() {
        let logits = random(6, TARGETS.len() * VOCAB);
        let states = random(7, TARGETS.len() * HIDDEN);
        let head = Reference.trained([VOCAB, HIDDEN], random(8, VOCAB * HIDDEN));
        let mut own = crate::config::Objective {
            kind: crate::config::ObjectiveKind::Lcdd,
            target: Some(Target::Tuned),
            ..crate::config::Objective::default()
        };
        own.fill();
        let objective = Objective::of(&own);
        let mut scratch = [Vec::new(), Vec::new()];
        let seen = Seen::States(SeenStates {
            states: &states,
            head: &head,
            scratch: &mut scratch,
        });
        let (gradient, sum) = minimised(&objective, &logits, seen);
        let mut tuned = vec![0.0; logits.len()];
        Reference.linear(&states, &head, TARGETS.len(), Accumulate::Write, &mut tuned);
        let value = |logits: &[f64]| {
            let rows = logits.chunks(VOCAB).zip(tuned.chunks(VOCAB));
            let kl = rows.map(|(row, tuned)| {
                let (p, q) = (log_softmax(row), log_softmax(tuned));
                q.iter().zip(p).map(|(q, p)| q.exp() * (q - p)).sum::<f64>()
            });
            kl.sum::<f64>()
        };
        is_gradient(&gradient, &logits, value);
        assert!((sum - value(&logits)).abs() < 1e-12);
        // the losses that are told of are cross entropies all the same
        let mut minimised = Minimised::new(
            &objective,
            TOKENS,
            &SEQUENCES,
            Seen::States(SeenStates {
                states: &states,
                head: &head,
                scratch: &mut scratch,
            }),
            || losses(&logits),
        );
        let told = minimised.backward(&Reference, 0..5, &TARGETS, &mut logits.clone());
        for (told, expected) in told.iter().zip(losses(&logits)) {
            assert!((told - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn rows_belong_to_the_sequences_that_predict_with_them() {
        let batch = Batch::new(&[&[1, 2, 3][..], &[4], &[5, 6, 7, 8]]);
        let labels = Labels::of(&batch, |sequence, t| (sequence, t) != (2, 1));
        assert_eq!(labels.rows, [0, 1, 5, 6]);
        assert_eq!(sequences(&batch, &labels), [0..2, 2..2, 2..4]);
    }
}

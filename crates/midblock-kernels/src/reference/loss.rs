//! Cross entropy of logits, `ln Σ_v e^{l_v} − l_target`, and their argmax; the gradient is `softmax(l) − onehot(target)`.
//! The divergence of p from q is `Σ p (ln p − ln q)`; its gradient with respect to the logits of p is `p (ln p − ln q − KL)`, and with
//! respect to the logits of q it is `q − p`.

use crate::{Divergence, Prediction, RowWeight};

/// `ln Σ e^v`
pub(super) fn log_sum(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + values.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}

fn vocab(logits: &[f64], targets: &[u32]) -> usize {
    (logits.len() / targets.len().max(1)).max(1)
}

pub(super) fn predictions(logits: &[f64], targets: &[u32]) -> Vec<Prediction> {
    let rows = logits.chunks_exact(vocab(logits, targets));
    let predict = |(row, &target): (&[f64], &u32)| {
        let (log_sum, max) = (log_sum(row), row.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        Prediction {
            nats: log_sum - row[target as usize],
            top: row.iter().position(|logit| *logit == max).unwrap_or(0) as u32,
            top_nats: log_sum - max,
        }
    };
    rows.zip(targets).map(predict).collect()
}

/// Losses of rows of logits, which become `weight · (softmax − onehot)`.
pub(super) fn backward(logits: &mut [f64], targets: &[u32], weight: &RowWeight<'_>) -> Vec<f64> {
    let rows = logits.chunks_exact_mut(vocab(logits, targets)).zip(targets).enumerate();
    rows.map(|(i, (row, &target))| {
        let log_sum = log_sum(row);
        let nats = log_sum - row[target as usize];
        let weight = weight(i, nats);
        row.iter_mut()
            .for_each(|logit| *logit = weight * (*logit - log_sum).exp());
        row[target as usize] -= weight;
        nats
    })
    .collect()
}

/// Losses and divergences of rows of logits, which become `weight · (p − onehot + beta · p · (ln p − ln q − KL))`.
pub(super) fn divergence_backward(
    logits: &mut [f64],
    reference: &[f64],
    targets: &[u32],
    weight: f64,
    beta: f64,
) -> Vec<Divergence> {
    let vocab = vocab(logits, targets);
    let rows = logits.chunks_exact_mut(vocab).zip(reference.chunks_exact(vocab));
    rows.zip(targets)
        .map(|((row, reference), &target)| {
            let [log_p, log_q] = [&*row, reference].map(|values| {
                let log_sum = log_sum(values);
                values.iter().map(|value| value - log_sum).collect::<Vec<_>>()
            });
            let ratio = |v: usize| match log_p[v].exp() {
                0.0 => 0.0, // what cannot happen adds nothing, whatever q says of it
                _ => log_p[v] - log_q[v],
            };
            let divergence: f64 = (0..vocab).map(|v| log_p[v].exp() * ratio(v)).sum();
            for (v, logit) in row.iter_mut().enumerate() {
                *logit = weight * log_p[v].exp() * (1.0 + beta * (ratio(v) - divergence));
            }
            row[target as usize] -= weight;
            Divergence {
                nats: -log_p[target as usize],
                divergence,
            }
        })
        .collect()
}

/// Divergences KL(q ‖ p) of rows of logits, which become `weight · (p − q)`.
pub(super) fn distillation_backward(logits: &mut [f64], reference: &[f64], vocab: usize, weight: f64) -> Vec<f64> {
    let rows = logits.chunks_exact_mut(vocab).zip(reference.chunks_exact(vocab));
    rows.map(|(row, reference)| {
        let [sum_p, sum_q] = [&*row, reference].map(log_sum);
        let mut divergence = 0.0;
        for (logit, reference) in row.iter_mut().zip(reference) {
            let (log_p, log_q) = (*logit - sum_p, reference - sum_q);
            let q = log_q.exp();
            if q > 0.0 {
                divergence += q * (log_q - log_p); // what cannot happen adds nothing, whatever p says of it
            }
            *logit = weight * (log_p.exp() - q);
        }
        divergence
    })
    .collect()
}

//! Cross entropy of logits, `ln Σ_v e^{l_v} − l_target`, and their argmax; the gradient is `softmax(l) − onehot(target)`.

use crate::Prediction;

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

pub(super) fn backward(logits: &mut [f64], targets: &[u32], weights: &[f32]) {
    let rows = logits.chunks_exact_mut(vocab(logits, targets));
    for ((row, &target), &weight) in rows.zip(targets).zip(weights) {
        let log_sum = log_sum(row);
        for (v, logit) in row.iter_mut().enumerate() {
            let onehot = if v == target as usize { 1.0 } else { 0.0 };
            *logit = f64::from(weight) * ((*logit - log_sum).exp() - onehot);
        }
    }
}

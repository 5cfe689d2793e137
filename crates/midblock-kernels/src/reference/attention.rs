//! Softmax attention, `o_i = Σ_j p_ij v_j` with `p_ij = e^{s_ij − l_i}`, `s_ij = scale · q_i · k_j`, `l_i = ln Σ_j e^{s_ij}`.
//!
//! Backward: `dv_j = Σ_i p_ij do_i`, `ds_ij = p_ij (do_i · v_j − do_i · o_i)`, `dq_i = scale · Σ_j ds_ij k_j`,
//! `dk_j = scale · Σ_i ds_ij q_i`.

use super::{dot, loss::log_sum};
use crate::{Attention, AttentionForward, AttentionGradients};

/// Calls `body` with each query's (row, head), its kv head and the rows of the keys it sees.
fn each_query(shape: &Attention<'_>, mut body: impl FnMut(usize, usize, usize, std::ops::RangeInclusive<usize>)) {
    let group = shape.heads / shape.kv_heads;
    for (queries, keys) in shape.sequences() {
        for i in queries.clone() {
            let own = keys.end - (queries.end - i);
            let first = shape
                .window
                .map_or(keys.start, |w| keys.start.max((own + 1).saturating_sub(w)));
            for h in 0..shape.heads {
                body(i, h, h / group, first..=own);
            }
        }
    }
}

pub(super) fn forward(
    shape: &Attention<'_>,
    [q, k, v]: [&[f64]; 3],
    out: &mut [f64],
    mut log_sums: Option<&mut Vec<f64>>,
) {
    let (e, scale) = (shape.head_dim, f64::from(shape.scale));
    each_query(shape, |i, h, kv, keys| {
        let query = (i * shape.heads + h) * e;
        let key = |j: usize| (j * shape.kv_heads + kv) * e;
        let scores: Vec<f64> = keys
            .clone()
            .map(|j| scale * dot(&q[query..][..e], &k[key(j)..][..e]))
            .collect();
        let log_sum = log_sum(&scores);
        for c in 0..e {
            out[query + c] = keys
                .clone()
                .zip(&scores)
                .map(|(j, s)| (s - log_sum).exp() * v[key(j) + c])
                .sum();
        }
        if let Some(log_sums) = &mut log_sums {
            log_sums[i * shape.heads + h] = log_sum;
        }
    });
}

pub(super) fn backward(
    shape: &Attention<'_>,
    forward: &AttentionForward<'_, Vec<f64>>,
    d_out: &[f64],
    gradients: AttentionGradients<'_, Vec<f64>>,
) {
    let (e, scale) = (shape.head_dim, f64::from(shape.scale));
    let AttentionGradients { q: dq, k: dk, v: dv } = gradients;
    for gradient in [&mut *dq, &mut *dk, &mut *dv] {
        gradient.fill(0.0);
    }
    each_query(shape, |i, h, kv, keys| {
        let query = (i * shape.heads + h) * e;
        let d_out = &d_out[query..][..e];
        let along = dot(d_out, &forward.out[query..][..e]);
        for j in keys {
            let key = (j * shape.kv_heads + kv) * e;
            let score = scale * dot(&forward.q[query..][..e], &forward.k[key..][..e]);
            let p = (score - forward.log_sums[i * shape.heads + h]).exp();
            let ds = p * (dot(d_out, &forward.v[key..][..e]) - along);
            for c in 0..e {
                dv[key + c] += p * d_out[c];
                dq[query + c] += scale * ds * forward.k[key + c];
                dk[key + c] += scale * ds * forward.q[query + c];
            }
        }
    });
}

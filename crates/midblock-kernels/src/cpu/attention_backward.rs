//! Gradient of causal softmax attention, with the probabilities made again from the logarithms of their sums.
//!
//! With `p_ij = e^{s_ij − l_i}`, `s_ij = scale · q_i · k_j`: `dv_j = Σ_i p_ij do_i`, `ds_ij = p_ij (do_i · v_j − do_i · o_i)`,
//! `dq_i = scale · Σ_j ds_ij k_j`, `dk_j = scale · Σ_i ds_ij q_i`. A task is one kv head of one sequence.

use super::{buffer::CpuBuffer, kernel::Output};
use crate::{Attention, AttentionForward, AttentionGradients};
use rayon::prelude::*;

pub(super) fn attention_backward(
    shape: &Attention<'_>,
    forward: &AttentionForward<'_, CpuBuffer>,
    d_out: &[f32],
    gradients: AttentionGradients<'_, CpuBuffer>,
) {
    let (e, heads, kv_heads) = (shape.head_dim, shape.heads, shape.kv_heads);
    let AttentionGradients { q, k, v } = gradients;
    // SAFETY: tasks own disjoint (row, head) pairs, and the gradients are borrowed until they are done.
    let [dq, dk, dv] = unsafe {
        [
            Output::new(q, heads * e),
            Output::new(k, kv_heads * e),
            Output::new(v, kv_heads * e),
        ]
    };
    let tasks: Vec<_> = shape
        .offsets
        .windows(2)
        .flat_map(|bounds| (0..kv_heads).map(move |kv| (bounds[0], bounds[1], kv)))
        .collect();
    tasks.into_par_iter().with_max_len(1).for_each(|(start, end, kv)| {
        let row = |output: Output, row: usize, head: usize| {
            // SAFETY: one of this task's rows and heads; no two such slices live at once.
            unsafe { output.row_mut(row, head * e, e) }
        };
        for j in start..end {
            row(dk, j, kv).fill(0.0);
            row(dv, j, kv).fill(0.0);
        }
        for i in start..end {
            let first = shape.window.map_or(start, |w| start.max((i + 1).saturating_sub(w)));
            for h in kv * (heads / kv_heads)..(kv + 1) * (heads / kv_heads) {
                let query = &forward.q[(i * heads + h) * e..][..e];
                let d_out = &d_out[(i * heads + h) * e..][..e];
                let along = dot(d_out, &forward.out[(i * heads + h) * e..][..e]);
                let dq = row(dq, i, h);
                dq.fill(0.0);
                for j in first..=i {
                    let key = &forward.k[(j * kv_heads + kv) * e..][..e];
                    let value = &forward.v[(j * kv_heads + kv) * e..][..e];
                    let p = (shape.scale * dot(query, key) - forward.log_sums[i * heads + h]).exp();
                    let ds = shape.scale * p * (dot(d_out, value) - along);
                    add_scaled(row(dv, j, kv), p, d_out);
                    add_scaled(row(dk, j, kv), ds, query);
                    add_scaled(dq, ds, key);
                }
            }
        }
    });
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(x: &mut [f32], factor: f32, y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
}

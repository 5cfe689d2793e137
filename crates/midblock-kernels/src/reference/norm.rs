//! `y = r · x · w` with `r = 1/√(mean(x²) + eps)`; `dx = r · g − x · r³ · Σ(g · x) / n` with `g = dy · w`.

use super::{accumulate, dot};
use crate::Accumulate;

fn factor(x: &[f64], eps: f64) -> f64 {
    1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt()
}

pub(super) fn forward(x: &[f64], weight: &[f64], eps: f64, out: &mut [f64]) {
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let r = factor(x, eps);
        for j in 0..dim {
            out[j] = x[j] * r * weight[j];
        }
    }
}

pub(super) fn backward(
    x: &[f64],
    weight: &[f64],
    eps: f64,
    dy: &[f64],
    mode: Accumulate,
    dx: &mut [f64],
    mut d_weight: Option<&mut Vec<f64>>,
) {
    let dim = weight.len();
    for ((x, dy), dx) in x
        .chunks_exact(dim)
        .zip(dy.chunks_exact(dim))
        .zip(dx.chunks_exact_mut(dim))
    {
        let r = factor(x, eps);
        let along: f64 = (0..dim).map(|j| dy[j] * weight[j] * x[j]).sum();
        for j in 0..dim {
            let value = r * dy[j] * weight[j] - x[j] * r.powi(3) * along / dim as f64;
            accumulate(mode, &mut dx[j], value);
            if let Some(d_weight) = &mut d_weight {
                d_weight[j] += dy[j] * x[j] * r;
            }
        }
    }
}

//! `y = x · Wᵀ`, `dx = dy · W`, `dW = dyᵀ · x`.

use super::{ReferenceMatrix, accumulate, dot};
use crate::Accumulate;

pub(super) fn forward(x: &[f64], w: &ReferenceMatrix, rows: usize, mode: Accumulate, out: &mut [f64]) {
    let [n, k] = w.shape;
    for i in 0..rows {
        for j in 0..n {
            accumulate(mode, &mut out[i * n + j], dot(&x[i * k..][..k], w.row(j)));
        }
    }
}

pub(super) fn dx(dy: &[f64], w: &ReferenceMatrix, rows: usize, mode: Accumulate, dx: &mut [f64]) {
    let [n, k] = w.shape;
    for i in 0..rows {
        for c in 0..k {
            let sum = (0..n).map(|j| dy[i * n + j] * w.values[j * k + c]).sum();
            accumulate(mode, &mut dx[i * k + c], sum);
        }
    }
}

pub(super) fn dw(dy: &[f64], x: &[f64], rows: usize, [n, k]: [usize; 2], mode: Accumulate, dw: &mut [f64]) {
    for j in 0..n {
        for c in 0..k {
            let sum = (0..rows).map(|i| dy[i * n + j] * x[i * k + c]).sum();
            accumulate(mode, &mut dw[j * k + c], sum);
        }
    }
}

//! Operations that pass over a buffer once: norm, rotary embedding, gate, sums.
//!
//! A buffer is cut into chunks of about [`CHUNK`] elements, whole groups each, that threads share; what is shorter runs on the
//! calling thread. Elements that do not fill a vector go through the same vector arithmetic, so an element's bits do not depend
//! on its place in the buffer. Bodies are functions marked to be inlined, not closures: what is not inlined into the dispatched
//! function is compiled without its instruction set.

use super::exp::exp;
use crate::{Activation, RopeTable};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// Elements of a task: a few microseconds of work, several times what it costs to hand out.
const CHUNK: usize = 1 << 14;

/// Elements of a task that are whole groups of `group`.
fn chunk(group: usize) -> usize {
    (CHUNK / group).max(1) * group
}

/// Calls `body` with corresponding chunks of `x` and `y`.
fn zip_chunks(x: &mut [f32], y: &[f32], group: usize, body: impl Fn(&mut [f32], &[f32]) + Sync) {
    let len = chunk(group);
    if x.len() <= len {
        return body(x, y);
    }
    x.par_chunks_mut(len)
        .zip(y.par_chunks(len))
        .for_each(|(x, y)| body(x, y));
}

pub(super) fn add(arch: Arch, x: &mut [f32], y: &[f32]) {
    zip_chunks(x, y, 1, |x, y| arch.dispatch(|| add_to(x, y)));
}

pub(super) fn add_bias(arch: Arch, x: &mut [f32], bias: &[f32]) {
    x.par_chunks_mut(chunk(bias.len())).for_each(|rows| {
        arch.dispatch(|| {
            for row in rows.chunks_exact_mut(bias.len()) {
                add_to(row, bias);
            }
        });
    });
}

#[inline(always)]
fn add_to(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

pub(super) fn scale(arch: Arch, x: &mut [f32], factor: f32) {
    x.par_chunks_mut(CHUNK).for_each(|x| {
        arch.dispatch(|| {
            for x in x {
                *x *= factor;
            }
        });
    });
}

pub(super) fn rms_norm(arch: Arch, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    zip_chunks(out, x, weight.len(), |out, x| {
        arch.dispatch(RmsNorm { x, weight, eps, out })
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, weight, eps, out } = self;
        let dim = weight.len();
        let (w, w_rest) = S::as_simd_f32s(weight);
        for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
            let factor = 1.0 / (sum_of_squares(simd, x) / dim as f32 + eps).sqrt();
            let factor = simd.splat_f32s(factor);
            let (x, x_rest) = S::as_simd_f32s(x);
            let (out, out_rest) = S::as_mut_simd_f32s(out);
            for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
                *out = simd.mul_f32s(simd.mul_f32s(*x, factor), *w);
            }
            let last = simd.mul_f32s(simd.partial_load_f32s(x_rest), factor);
            let last = simd.mul_f32s(last, simd.partial_load_f32s(w_rest));
            simd.partial_store_f32s(out_rest, last);
        }
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (x, rest) = S::as_simd_f32s(x);
    let rest = simd.partial_load_f32s(rest);
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (fours, singles) = x.as_chunks::<4>();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four) {
            *sum = simd.mul_add_e_f32s(*x, *x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(singles.iter().chain(&[rest])) {
        *sum = simd.mul_add_e_f32s(*x, *x, *sum);
    }
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

pub(super) fn rope(arch: Arch, x: &mut [f32], table: &RopeTable, positions: &[u32], heads: usize) {
    let width = heads * 2 * table.half_dim;
    let rows = (CHUNK / width).max(1);
    x.par_chunks_mut(rows * width)
        .zip(positions.par_chunks(rows))
        .for_each(|(x, positions)| {
            arch.dispatch(|| {
                for (row, position) in x.chunks_exact_mut(width).zip(positions) {
                    rotate_row(row, table, *position as usize);
                }
            });
        });
}

#[inline(always)]
fn rotate_row(row: &mut [f32], table: &RopeTable, position: usize) {
    let half = table.half_dim;
    let cos = &table.cos[position * half..][..half];
    let sin = &table.sin[position * half..][..half];
    for head in row.chunks_exact_mut(2 * half) {
        let (a, b) = head.split_at_mut(half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

pub(super) fn gated(arch: Arch, activation: Activation, gate: &mut [f32], up: &[f32]) {
    zip_chunks(gate, up, 1, |gate, up| arch.dispatch(Gated { activation, gate, up }));
}

struct Gated<'a> {
    activation: Activation,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (gate, gate_rest) = S::as_mut_simd_f32s(self.gate);
        let (up, up_rest) = S::as_simd_f32s(self.up);
        for (z, up) in gate.iter_mut().zip(up) {
            *z = simd.mul_f32s(activate(simd, self.activation, *z), *up);
        }
        let last = activate(simd, self.activation, simd.partial_load_f32s(gate_rest));
        simd.partial_store_f32s(gate_rest, simd.mul_f32s(last, simd.partial_load_f32s(up_rest)));
    }
}

#[inline(always)]
fn activate<S: Simd>(simd: S, activation: Activation, z: S::f32s) -> S::f32s {
    let argument = match activation {
        Activation::Silu => z,
        // ½(1 + tanh u) = σ(2u) with u = √(2/π) · (z + 0.044715 z³)
        Activation::GeluTanh => {
            let cube = simd.mul_f32s(simd.mul_f32s(z, z), z);
            let u = simd.mul_add_e_f32s(cube, simd.splat_f32s(0.044_715), z);
            simd.mul_f32s(u, simd.splat_f32s(2.0 * (FRAC_2_SQRT_PI * FRAC_1_SQRT_2)))
        }
    };
    simd.mul_f32s(z, sigmoid(simd, argument))
}

/// `σ(t)` from `e^−|t|`, which neither overflows nor loses small results.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, t: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let e = exp(simd, simd.or_f32s(t, simd.splat_f32s(-0.0))); // −|t|: with its sign bit set
    let numerator = simd.select_f32s(simd.less_than_f32s(t, simd.splat_f32s(0.0)), e, one);
    simd.div_f32s(numerator, simd.add_f32s(one, e))
}

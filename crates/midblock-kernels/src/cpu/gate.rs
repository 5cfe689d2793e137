//! The gate of a gated MLP, `act(gate) · up`, and its gradient. Both activations have the form `act(z) = z · σ(t(z))`.

use super::{
    elementwise::{CHUNK, zip_chunks},
    exp::exp,
};
use crate::Activation;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// 2 · √(2/π)
const GELU: f32 = 2.0 * (FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
/// The cubic term of the tanh approximation.
const CUBE: f32 = 0.044_715;

pub(super) fn gated(arch: Arch, activation: Activation, gate: &mut [f32], up: &[f32]) {
    zip_chunks(gate, up, 1, |gate, up| arch.dispatch(Gated { activation, gate, up }));
}

pub(super) fn gated_to(arch: Arch, activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
        .for_each(|(out, (gate, up))| {
            out.copy_from_slice(gate); // stays in the first-level cache
            arch.dispatch(Gated {
                activation,
                gate: out,
                up,
            });
        });
}

pub(super) fn gated_backward(arch: Arch, activation: Activation, dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
    gate.par_chunks_mut(CHUNK)
        .zip(up.par_chunks_mut(CHUNK).zip(dy.par_chunks(CHUNK)))
        .for_each(|(gate, (up, dy))| {
            arch.dispatch(Backward {
                activation,
                dy,
                gate,
                up,
            })
        });
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

struct Backward<'a> {
    activation: Activation,
    dy: &'a [f32],
    gate: &'a mut [f32],
    up: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (gate, gate_rest) = S::as_mut_simd_f32s(self.gate);
        let (up, up_rest) = S::as_mut_simd_f32s(self.up);
        let (dy, dy_rest) = S::as_simd_f32s(self.dy);
        for ((z, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            (*z, *up) = gradients(simd, self.activation, *dy, *z, *up);
        }
        let [dy, z, up] = [dy_rest, gate_rest, up_rest].map(|rest| simd.partial_load_f32s(rest));
        let (d_gate, d_up) = gradients(simd, self.activation, dy, z, up);
        simd.partial_store_f32s(gate_rest, d_gate);
        simd.partial_store_f32s(up_rest, d_up);
    }
}

/// `dy · up · act′(z)` and `dy · act(z)`; with `act(z) = z · σ(t)`, `act′(z) = σ(t) · (1 + z · t′(z) · (1 − σ(t)))`.
#[inline(always)]
fn gradients<S: Simd>(simd: S, activation: Activation, dy: S::f32s, z: S::f32s, up: S::f32s) -> (S::f32s, S::f32s) {
    let one = simd.splat_f32s(1.0);
    let sigma = sigmoid(simd, argument(simd, activation, z));
    let slope = match activation {
        Activation::Silu => one,
        Activation::GeluTanh => {
            let square = simd.mul_f32s(z, z);
            simd.mul_add_e_f32s(square, simd.splat_f32s(3.0 * CUBE * GELU), simd.splat_f32s(GELU))
        }
    };
    let bend = simd.mul_f32s(simd.mul_f32s(z, slope), simd.sub_f32s(one, sigma));
    let derivative = simd.mul_add_e_f32s(sigma, bend, sigma);
    let d_up = simd.mul_f32s(dy, simd.mul_f32s(z, sigma));
    (simd.mul_f32s(simd.mul_f32s(dy, up), derivative), d_up)
}

#[inline(always)]
fn activate<S: Simd>(simd: S, activation: Activation, z: S::f32s) -> S::f32s {
    simd.mul_f32s(z, sigmoid(simd, argument(simd, activation, z)))
}

/// t of `act(z) = z · σ(t)`.
#[inline(always)]
fn argument<S: Simd>(simd: S, activation: Activation, z: S::f32s) -> S::f32s {
    match activation {
        Activation::Silu => z,
        // ½(1 + tanh u) = σ(2u) with u = √(2/π) · (z + 0.044715 z³)
        Activation::GeluTanh => {
            let cube = simd.mul_f32s(simd.mul_f32s(z, z), z);
            let u = simd.mul_add_e_f32s(cube, simd.splat_f32s(CUBE), z);
            simd.mul_f32s(u, simd.splat_f32s(GELU))
        }
    }
}

/// `σ(t)` from `e^−|t|`, which neither overflows nor loses small results.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, t: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let e = exp(simd, simd.or_f32s(t, simd.splat_f32s(-0.0))); // −|t|: with its sign bit set
    let numerator = simd.select_f32s(simd.less_than_f32s(t, simd.splat_f32s(0.0)), e, one);
    simd.div_f32s(numerator, simd.add_f32s(one, e))
}

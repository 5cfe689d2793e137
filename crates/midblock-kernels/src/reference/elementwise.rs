//! Activations and their slopes, sums, dropout.

use crate::{
    Activation,
    dropout::{self, Mask},
};

/// √(2/π)
const GELU: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

pub(super) fn add(x: &mut [f64], y: &[f64]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

pub(super) fn activate(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Silu => z / (1.0 + (-z).exp()),
        Activation::GeluTanh => 0.5 * z * (1.0 + (GELU * (z + 0.044715 * z.powi(3))).tanh()),
    }
}

/// The derivative of [`activate`].
pub(super) fn slope(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + (-z).exp());
            sigmoid * (1.0 + z * (1.0 - sigmoid))
        }
        Activation::GeluTanh => {
            let tanh = (GELU * (z + 0.044715 * z.powi(3))).tanh();
            0.5 * (1.0 + tanh) + 0.5 * z * (1.0 - tanh * tanh) * GELU * (1.0 + 3.0 * 0.044715 * z * z)
        }
    }
}

pub(super) fn dropout(x: &[f64], p: f32, key: u64, out: &mut [f64]) {
    for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
        let i = i as u64;
        let kept = Mask::new(p, key, i >> 32).keeps(i as u32);
        *out = if kept { x * dropout::factor(p) } else { 0.0 };
    }
}

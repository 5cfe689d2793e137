//! AdamW in one pass: both moments and the parameter of an element are read and written once.

use super::elementwise::CHUNK;
use crate::AdamW;
use pulp::Arch;
use rayon::prelude::*;

/// [`AdamW`] with everything that does not change from element to element folded into factors.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    gradient: f32,
    keep_first: f32,
    new_first: f32,
    keep_second: f32,
    new_second: f32,
    /// 1 − lr · decay
    shrink: f32,
    /// lr / (1 − β₁ᵗ)
    step: f32,
    /// 1 / √(1 − β₂ᵗ)
    root: f32,
    eps: f32,
}

impl From<&AdamW> for Factors {
    fn from(step: &AdamW) -> Self {
        let [beta1, beta2] = step.betas;
        let correction = |beta: f64| 1.0 - beta.powf(step.t as f64);
        Self {
            gradient: step.gradient_scale as f32,
            keep_first: beta1 as f32,
            new_first: (1.0 - beta1) as f32,
            keep_second: beta2 as f32,
            new_second: (1.0 - beta2) as f32,
            shrink: (1.0 - step.lr * step.decay) as f32,
            step: (step.lr / correction(beta1)) as f32,
            root: correction(beta2).sqrt().recip() as f32,
            eps: step.eps as f32,
        }
    }
}

pub(super) fn adamw(
    arch: Arch,
    step: &AdamW,
    gradient: &[f32],
    parameter: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let factors = Factors::from(step);
    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    parameter
        .par_chunks_mut(CHUNK)
        .zip(gradient.par_chunks(CHUNK))
        .zip(moments)
        .for_each(|((parameter, gradient), (first, second))| {
            arch.dispatch(
                #[inline(always)]
                || update(factors, gradient, parameter, first, second),
            );
        });
}

#[inline(always)]
fn update(by: Factors, gradient: &[f32], parameter: &mut [f32], first: &mut [f32], second: &mut [f32]) {
    let moments = first.iter_mut().zip(second);
    for ((theta, gradient), (m, v)) in parameter.iter_mut().zip(gradient).zip(moments) {
        by.update(*gradient, theta, m, v);
    }
}

impl Factors {
    /// Of one element.
    #[inline(always)]
    pub(super) fn update(&self, gradient: f32, theta: &mut f32, m: &mut f32, v: &mut f32) {
        let g = self.gradient * gradient;
        *m = self.keep_first * *m + self.new_first * g;
        *v = self.keep_second * *v + self.new_second * g * g;
        *theta = self.shrink * *theta - self.step * *m / (v.sqrt() * self.root + self.eps);
    }
}

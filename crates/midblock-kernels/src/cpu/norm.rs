//! Root-mean-square norm, `y = r · x · w` with `r = 1/√(mean(x²) + eps)`, and its gradient.
//!
//! With `g = dy · w` in a group of n: `dx = r · g − x · r³ · Σ(g · x) / n`, `dw = Σ_groups dy · x · r`. The gradient of the
//! weight is summed in chunks of a fixed number of groups, which are then added in order.

use super::{
    buffer::with_scratch,
    elementwise::{chunk, zip_chunks},
    vector::{sum, update},
};
use crate::Accumulate;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

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
            let factor = simd.splat_f32s(factor(simd, x, eps));
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

pub(super) fn rms_norm_backward(
    arch: Arch,
    [x, dy]: [&[f32]; 2],
    weight: &[f32],
    eps: f32,
    mode: Accumulate,
    dx: &mut [f32],
    d_weight: Option<&mut [f32]>,
) {
    let (dim, len) = (weight.len(), chunk(weight.len()));
    let chunks = x.len().div_ceil(len);
    let partial = if d_weight.is_some() { dim } else { 0 };
    with_scratch(chunks * partial, |partials| {
        partials.fill(0.0);
        let task = |index: usize, dx: &mut [f32], d_weight: &mut [f32]| {
            arch.dispatch(Backward {
                x: &x[index * len..][..dx.len()],
                weight,
                eps,
                dy: &dy[index * len..][..dx.len()],
                add: mode == Accumulate::Add,
                dx,
                d_weight,
            });
        };
        if partial == 0 {
            dx.par_chunks_mut(len)
                .enumerate()
                .for_each(|(i, dx)| task(i, dx, &mut []));
        } else {
            dx.par_chunks_mut(len)
                .zip(partials.par_chunks_exact_mut(dim))
                .enumerate()
                .for_each(|(i, (dx, d_weight))| task(i, dx, d_weight));
        }
        if let Some(d_weight) = d_weight {
            for partial in partials.chunks_exact(dim) {
                d_weight.iter_mut().zip(partial).for_each(|(d, p)| *d += p);
            }
        }
    });
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    dy: &'a [f32],
    add: bool,
    dx: &'a mut [f32],
    /// Added to, unless it is empty.
    d_weight: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let dim = self.weight.len();
        let groups = self.x.chunks_exact(dim).zip(self.dy.chunks_exact(dim));
        for ((x, dy), dx) in groups.zip(self.dx.chunks_exact_mut(dim)) {
            let r = factor(simd, x, self.eps);
            let along = sum(simd, [dy, self.weight, x], |simd, [dy, w, x]| {
                simd.mul_f32s(simd.mul_f32s(dy, w), x)
            });
            let [r, along] = [r, -(r * r * r * (along / dim as f32))].map(|v| simd.splat_f32s(v));
            let value = |dx: S::f32s, [x, dy, w]: [S::f32s; 3]| {
                let start = if self.add { dx } else { simd.splat_f32s(0.0) };
                let start = simd.mul_add_e_f32s(x, along, start);
                simd.mul_add_e_f32s(simd.mul_f32s(dy, w), r, start)
            };
            update(simd, dx, [x, dy, self.weight], value);
            if !self.d_weight.is_empty() {
                let value = |d: S::f32s, [x, dy]: [S::f32s; 2]| simd.mul_add_e_f32s(simd.mul_f32s(dy, x), r, d);
                update(simd, self.d_weight, [x, dy], value);
            }
        }
    }
}

/// 1/√(mean(x²) + eps)
#[inline(always)]
fn factor<S: Simd>(simd: S, x: &[f32], eps: f32) -> f32 {
    let squares = sum(simd, [x], |simd, [x]| simd.mul_f32s(x, x));
    1.0 / (squares / x.len() as f32 + eps).sqrt()
}

//! Operations that pass over a buffer once: sums, factors, dropout, and how such passes are shared out.
//!
//! A buffer is cut into chunks of about [`CHUNK`] elements, whole groups each, that threads share; what is shorter runs on the
//! calling thread. Elements that do not fill a vector go through the same vector arithmetic, so an element's bits do not depend
//! on its place in the buffer. Bodies are functions marked to be inlined, not closures: what is not inlined into the dispatched
//! function is compiled without its instruction set.

use crate::dropout::{self, Mask};
use pulp::Arch;
use rayon::prelude::*;

/// Elements of a task: a few microseconds of work, several times what it costs to hand out.
pub(super) const CHUNK: usize = 1 << 14;

/// Elements of a task that are whole groups of `group`.
pub(super) fn chunk(group: usize) -> usize {
    (CHUNK / group).max(1) * group
}

/// Calls `body` with corresponding chunks of `x` and `y`.
pub(super) fn zip_chunks(x: &mut [f32], y: &[f32], group: usize, body: impl Fn(&mut [f32], &[f32]) + Sync) {
    let len = chunk(group);
    if x.len() <= len {
        return body(x, y);
    }
    x.par_chunks_mut(len)
        .zip(y.par_chunks(len))
        .for_each(|(x, y)| body(x, y));
}

/// Calls `body` with chunks of `x`.
fn chunks(x: &mut [f32], group: usize, body: impl Fn(&mut [f32]) + Send + Sync) {
    let len = chunk(group);
    if x.len() <= len {
        return body(x);
    }
    x.par_chunks_mut(len).for_each(body);
}

pub(super) fn add(arch: Arch, x: &mut [f32], y: &[f32]) {
    zip_chunks(x, y, 1, |x, y| arch.dispatch(|| add_to(x, y)));
}

pub(super) fn add_bias(arch: Arch, x: &mut [f32], bias: &[f32]) {
    chunks(x, bias.len(), |rows| {
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
    chunks(x, 1, |x| {
        arch.dispatch(|| {
            for x in x {
                *x *= factor;
            }
        });
    });
}

/// `d_bias += Σ_i dy[i, :]`, each column summed over rows in order.
pub(super) fn add_bias_backward(arch: Arch, dy: &[f32], d_bias: &mut [f32]) {
    const COLUMNS: usize = 64;
    let width = d_bias.len();
    d_bias.par_chunks_mut(COLUMNS).enumerate().for_each(|(index, d_bias)| {
        arch.dispatch(
            #[inline(always)]
            || {
                for row in dy.chunks_exact(width) {
                    add_to(d_bias, &row[index * COLUMNS..][..d_bias.len()]);
                }
            },
        );
    });
}

pub(super) fn clear(x: &mut [f32]) {
    chunks(x, 1, |x| x.fill(0.0));
}

pub(super) fn copy(x: &[f32], out: &mut [f32]) {
    zip_chunks(out, x, 1, |out, x| out.copy_from_slice(x));
}

pub(super) fn dropout(arch: Arch, x: &[f32], p: f32, key: u64, out: &mut [f32]) {
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .enumerate()
        .for_each(|(index, (out, x))| {
            let first = (index * CHUNK) as u64; // chunks divide the span of a mask
            let mask = Mask::new(p, key, first >> 32);
            arch.dispatch(
                #[inline(always)]
                || drop_out(x, mask, first as u32, dropout::factor(p) as f32, out),
            );
        });
}

#[inline(always)]
fn drop_out(x: &[f32], mask: Mask, first: u32, factor: f32, out: &mut [f32]) {
    for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
        *out = if mask.keeps(first.wrapping_add(i as u32)) {
            x * factor
        } else {
            0.0
        };
    }
}

pub(super) fn sum_of_squares(arch: Arch, x: &[f32]) -> f64 {
    let chunks: Vec<f64> = x
        .par_chunks(CHUNK)
        .map(|x| {
            arch.dispatch(
                #[inline(always)]
                || squares(x),
            )
        })
        .collect();
    chunks.into_iter().sum()
}

#[inline(always)]
fn squares(x: &[f32]) -> f64 {
    let (lines, rest) = x.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for line in lines {
        for (sum, x) in sums.iter_mut().zip(line) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    sums.iter().sum::<f64>() + rest
}

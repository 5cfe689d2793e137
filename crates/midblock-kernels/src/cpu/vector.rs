//! Loops over whole vectors and what is left of one, which goes through the same arithmetic.

use pulp::Simd;

/// `out[i] = value(out[i], x[0][i], x[1][i], …)`
#[inline(always)]
pub(super) fn update<S: Simd, const N: usize>(
    simd: S,
    out: &mut [f32],
    x: [&[f32]; N],
    value: impl Fn(S::f32s, [S::f32s; N]) -> S::f32s,
) {
    let (out, out_rest) = S::as_mut_simd_f32s(out);
    let x = x.map(|x| S::as_simd_f32s(x));
    for (i, out) in out.iter_mut().enumerate() {
        *out = value(*out, x.map(|(x, _)| x[i]));
    }
    let last = value(
        simd.partial_load_f32s(out_rest),
        x.map(|(_, rest)| simd.partial_load_f32s(rest)),
    );
    simd.partial_store_f32s(out_rest, last);
}

/// `Σ term(x[0][i], x[1][i], …)`
#[inline(always)]
pub(super) fn sum<S: Simd, const N: usize>(simd: S, x: [&[f32]; N], term: impl Fn(S, [S::f32s; N]) -> S::f32s) -> f32 {
    let x = x.map(|x| S::as_simd_f32s(x));
    let vectors = x[0].0.len();
    let mut sums = [simd.splat_f32s(0.0); 4];
    for i in 0..vectors {
        sums[i % 4] = simd.add_f32s(sums[i % 4], term(simd, x.map(|(x, _)| x[i])));
    }
    let last = term(simd, x.map(|(_, rest)| simd.partial_load_f32s(rest)));
    sums[vectors % 4] = simd.add_f32s(sums[vectors % 4], last);
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

/// The largest element, −∞ of none.
#[inline(always)]
pub(super) fn maximum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(values);
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for v in vectors {
        max = simd.max_f32s(max, *v);
    }
    rest.iter().copied().fold(simd.reduce_max_f32s(max), f32::max)
}

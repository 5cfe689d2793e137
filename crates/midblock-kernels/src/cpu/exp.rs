//! `eˣ` on vectors, to within 2 units in the last place over the whole range, denormal results included.
//!
//! `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; `eʳ` by a polynomial of degree 7 (coefficients of Cephes' `expf`), then a
//! multiplication by 2ⁿ in two steps, because 2ⁿ itself may be no normal number. `±∞` give ∞ and 0, NaN stays NaN.

use pulp::Simd;

/// 1.5 · 2²³: adding it leaves the nearest integer in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Beyond these every result is 0 or ∞ and the exponent arithmetic would overflow.
const RANGE: [f32; 2] = [-105.0, 90.0];
/// ln 2 in two parts; n times the first is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
const COEFFICIENTS: [f32; 7] = [
    1.987_569_1e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
    1.0,
];

#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Comparisons with NaN are false, so NaN passes the clamp.
    let [low, high] = [simd.splat_f32s(RANGE[0]), simd.splat_f32s(RANGE[1])];
    let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
    let x = simd.select_f32s(simd.less_than_f32s(high, x), high, x);

    let rounded = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(ROUND));
    let n = simd.sub_f32s(rounded, simd.splat_f32s(ROUND));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2[0]), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN_2[1]), r);
    let mut p = simd.splat_f32s(COEFFICIENTS[0]);
    for c in &COEFFICIENTS[1..] {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(*c));
    }
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(1.0));

    // n + 256 is positive, so halving it by a shift is right; each half, less 128, is the exponent of a normal number.
    let shifted = simd.sub_u32s(
        simd.transmute_u32s_f32s(rounded),
        simd.splat_u32s(ROUND.to_bits() - 256),
    );
    let first = simd.wrapping_dyn_shr_u32s(shifted, simd.splat_u32s(1));
    let second = simd.sub_u32s(shifted, first);
    simd.mul_f32s(simd.mul_f32s(p, power_of_two(simd, first)), power_of_two(simd, second))
}

/// `2^(biased − 128)`
#[inline(always)]
fn power_of_two<S: Simd>(simd: S, biased: S::u32s) -> S::f32s {
    let exponent = simd.sub_u32s(biased, simd.splat_u32s(128 - 127));
    simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23)))
}

#[cfg(test)]
mod tests {
    use super::exp;
    use pulp::{Arch, Simd, WithSimd};

    struct Exp<'a>(&'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            vectors.iter_mut().for_each(|v| *v = exp(simd, *v));
            let last = exp(simd, simd.partial_load_f32s(rest));
            simd.partial_store_f32s(rest, last);
        }
    }

    #[test]
    fn within_two_units_in_the_last_place() {
        let inputs: Vec<f32> = (0..1_000_003).map(|i| -110.0 + i as f32 * 2.0e-4).collect();
        let mut outputs = inputs.clone();
        Arch::new().dispatch(Exp(&mut outputs));
        for (x, y) in inputs.into_iter().zip(outputs) {
            let exact = f64::from(x).exp();
            let nearest = exact as f32;
            if nearest.is_infinite() || y.is_infinite() {
                assert!(
                    y.is_infinite() && exact > f64::from(f32::MAX) * (1.0 - 1e-7),
                    "exp({x}) = {y}, expected {exact:e}"
                );
                continue;
            }
            let unit = f64::from(nearest.next_up() - nearest);
            assert!(
                (f64::from(y) - exact).abs() <= 2.0 * unit,
                "exp({x}) = {y:e}, expected {exact:e}"
            );
        }
    }

    #[test]
    fn limits() {
        let mut values = [f32::NEG_INFINITY, -1e30, 0.0, -0.0, 1e30, f32::INFINITY, f32::NAN];
        Arch::new().dispatch(Exp(&mut values));
        assert_eq!(values[..6], [0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]);
        assert!(values[6].is_nan());
    }
}

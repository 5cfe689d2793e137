//! Widening of stored numbers to f32: plain floats and the block-quantised kinds of GGUF.
//!
//! A quantised block holds 32 (256 for the `_K` kinds) small integers `q` and what scales them, little endian:
//!
//! | kind | block | element |
//! |------|-------|---------|
//! | `q4_0`, `q5_0` | f16 `d`, (5 bits: u32 of high bits,) 16 bytes of nibbles | `d · (q − 8)`, `d · (q − 16)` |
//! | `q4_1`, `q5_1` | f16 `d`, f16 `m`, (5 bits: u32 of high bits,) 16 bytes of nibbles | `d · q + m` |
//! | `q8_0` | f16 `d`, 32 × i8 | `d · q` |
//! | `q4_k`, `q5_k` | f16 `d`, f16 `m`, 8 pairs of 6-bit (`s`, `t`), (5 bits: 32 bytes of high bits,) 128 bytes of nibbles | `(d · s) · q − (m · t)` |
//! | `q6_k` | 128 bytes of low nibbles, 64 of high bit pairs, 16 × i8 `s`, f16 `d` | `(d · s) · (q − 32)` |
//!
//! Every product is rounded to f32 in the order written, so results equal those of ggml and of the `gguf` Python package bit
//! for bit. There is no branch per element: the loops have constant lengths and are compiled once for each instruction set,
//! which takes every closure on the way to be marked for inlining.
//!
//! Layout: ggml, `ggml-common.h` (`block_q4_0` … `block_q6_K`).

use crate::Dtype;
use pulp::{Arch, Simd, WithSimd};
use std::hint::black_box;

/// See [`Dtype::widen`]; the lengths agree.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    Arch::new().dispatch(Widen { dtype, bytes, out });
}

/// A type, because a closure of this size is not inlined into the dispatched function, which alone has its instruction set.
struct Widen<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl WithSimd for Widen<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::redundant_closure)] // calling a function's name through `Fn` is not marked for inlining
    fn with_simd<S: Simd>(self, _: S) {
        let Self { dtype, bytes, out } = self;
        match dtype {
            Dtype::F64 => blocks(bytes, out, |b, [x]| *x = f64::from_le_bytes(*b) as f32),
            Dtype::F32 => blocks(bytes, out, |b, [x]| *x = f32::from_le_bytes(*b)),
            Dtype::F16 => blocks(bytes, out, |b, [x]| *x = f16_to_f32(*b)),
            Dtype::BF16 => blocks(bytes, out, |b, [x]| {
                *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)
            }),
            Dtype::Q4_0 => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q4_0(b, x),
            ),
            Dtype::Q4_1 => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q4_1(b, x),
            ),
            Dtype::Q5_0 => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q5_0(b, x),
            ),
            Dtype::Q5_1 => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q5_1(b, x),
            ),
            Dtype::Q8_0 => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q8_0(b, x),
            ),
            Dtype::Q4_K => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q4_k(b, x),
            ),
            Dtype::Q5_K => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q5_k(b, x),
            ),
            Dtype::Q6_K => blocks(
                bytes,
                out,
                #[inline(always)]
                |b, x| q6_k(b, x),
            ),
        }
    }
}

/// Widens block by block: `BYTES` stored bytes make `LEN` elements.
#[inline(always)]
fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    widen_block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        widen_block(if LEN > 1 { one_by_one(block) } else { block }, out);
    }
}

/// Hides that blocks lie at regular distances: the compiler would widen the same element of many blocks at a time, gathering
/// single bytes, where a block by itself is made of a few whole vectors. What is read of it is copied first, because the hidden
/// address might as well lie in the output.
#[inline(always)]
fn one_by_one<T>(block: &T) -> &T {
    black_box(block)
}

/// IEEE half to single precision without a branch, so that it vectorises: the shifted bits are the value divided by 2^112
/// (subnormals included); infinity and NaN keep their all-ones exponent.
#[inline(always)]
fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let exponent = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | exponent | (bits & 0x8000) << 16)
}

/// The `N` bytes of a block that start at `from`.
#[inline(always)]
fn field<const N: usize>(block: &[u8], from: usize) -> &[u8; N] {
    block[from..]
        .first_chunk()
        .expect("invariant: fields lie inside of their block")
}

/// Calls `value` with each element's index in its half and its low bits: 16 bytes hold elements 0..16 of a block in their low
/// nibbles and 16..32 in their high ones.
#[inline(always)]
fn nibbles(packed: [u8; 16], out: &mut [f32; 32], value: impl Fn(usize, u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for i in 0..16 {
        low[i] = value(i, packed[i] & 15);
    }
    for i in 0..16 {
        high[i] = value(16 + i, packed[i] >> 4);
    }
}

/// As [`nibbles`], with bit `i` of `high` as the fifth bit of element `i`.
#[inline(always)]
fn five_bits(packed: [u8; 16], high: [u8; 4], out: &mut [f32; 32], value: impl Fn(u8) -> f32) {
    let high = u32::from_le_bytes(high);
    nibbles(packed, out, |i, low| value(low | ((high >> i & 1) << 4) as u8));
}

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_to_f32(*field(block, 0));
    nibbles(*field(block, 2), out, |_, q| d * f32::from(q as i8 - 8));
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_to_f32(*field(block, 0)), f16_to_f32(*field(block, 2)));
    nibbles(*field(block, 4), out, |_, q| d * f32::from(q) + m);
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_to_f32(*field(block, 0));
    five_bits(*field(block, 6), *field(block, 2), out, |q| d * f32::from(q as i8 - 16));
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_to_f32(*field(block, 0)), f16_to_f32(*field(block, 2)));
    five_bits(*field(block, 8), *field(block, 4), out, |q| d * f32::from(q) + m);
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_to_f32(*field(block, 0));
    let q: [u8; 32] = *field(block, 2);
    for i in 0..32 {
        out[i] = d * f32::from(q[i] as i8);
    }
}

/// Scale and minimum of each of the 8 groups of 32 of a `q4_k` or `q5_k` block, which both begin with f16 `d`, f16 `m` and
/// 12 bytes of 6-bit pairs: bytes 0..4 hold `s` and 4..8 `t` of the groups 0..4; the groups 4..8 have the low four bits of
/// both in the nibbles of bytes 8..12 and the high two bits in the top of the bytes 0..8.
#[inline(always)]
fn group_scales(block: &[u8]) -> [(f32, f32); 8] {
    let (d, m) = (f16_to_f32(*field(block, 0)), f16_to_f32(*field(block, 2)));
    let p: &[u8; 12] = field(block, 4);
    std::array::from_fn(|j| {
        let (s, t) = if j < 4 {
            (p[j] & 63, p[j + 4] & 63)
        } else {
            (p[j + 4] & 15 | p[j - 4] >> 6 << 4, p[j + 4] >> 4 | p[j] >> 6 << 4)
        };
        (d * f32::from(s), m * f32::from(t))
    })
}

#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let scales = group_scales(block);
    for (j, pair) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let packed: [u8; 32] = *one_by_one(field(block, 16 + j * 32));
        let (low, high) = pair.split_at_mut(32);
        let [(d, m), (d_high, m_high)] = [scales[2 * j], scales[2 * j + 1]];
        for i in 0..32 {
            low[i] = d * f32::from(packed[i] & 15) - m;
        }
        for i in 0..32 {
            high[i] = d_high * f32::from(packed[i] >> 4) - m_high;
        }
    }
}

#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let scales = group_scales(block);
    let high: &[u8; 32] = field(block, 16);
    let groups = out.as_chunks_mut::<32>().0;
    for (j, (group, (d, m))) in groups.iter_mut().zip(scales).enumerate() {
        let low: [u8; 32] = *one_by_one(field(block, 48 + j / 2 * 32));
        let shift = 4 * (j % 2);
        for i in 0..32 {
            group[i] = d * f32::from(low[i] >> shift & 15 | (high[i] >> j & 1) << 4) - m;
        }
    }
}

#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scales: &[u8; 16] = field(block, 192);
    let d = f16_to_f32(*field(block, 208));
    // Two halves of 128 elements; in each, groups of 32, of two scales, take the low, low, high, high
    // nibbles of two runs of 32 bytes.
    for (j, group) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, quarter) = (j / 4, j % 4);
        let low: [u8; 32] = *one_by_one(field(block, half * 64 + quarter % 2 * 32));
        let high: [u8; 32] = *one_by_one(field(block, 128 + half * 32));
        let scales = [scales[2 * j], scales[2 * j + 1]].map(|s| d * f32::from(s as i8));
        for i in 0..32 {
            let q = low[i] >> (quarter / 2 * 4) & 15 | (high[i] >> (quarter * 2) & 3) << 4;
            group[i] = scales[i / 16] * f32::from(q as i8 - 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Widens `bytes` at an odd address, as a row inside of a file may lie.
    fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut shifted = vec![0xff_u8; bytes.len() + 2];
        let start = 1 + shifted.as_ptr().addr() % 2;
        shifted[start..][..bytes.len()].copy_from_slice(bytes);
        let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        dtype.widen(&shifted[start..][..bytes.len()], &mut out);
        out
    }

    /// Random blocks with ordinary, zero, negative and subnormal scales against `gguf.quants.dequantize`, bit for bit.
    #[test]
    fn equals_the_reference_bit_for_bit() {
        macro_rules! reference {
            ($dtype:ident, $file:literal) => {
                (
                    Dtype::$dtype,
                    include_bytes!(concat!("../../../fixtures/gguf/", $file, ".blocks")).as_slice(),
                    include_bytes!(concat!("../../../fixtures/gguf/", $file, ".f32")).as_slice(),
                )
            };
        }
        for (dtype, blocks, expected) in [
            reference!(Q4_0, "q4_0"),
            reference!(Q4_1, "q4_1"),
            reference!(Q5_0, "q5_0"),
            reference!(Q5_1, "q5_1"),
            reference!(Q8_0, "q8_0"),
            reference!(Q4_K, "q4_k"),
            reference!(Q5_K, "q5_k"),
            reference!(Q6_K, "q6_k"),
        ] {
            let got = widened(dtype, blocks);
            assert_eq!(got.len(), 2048, "{dtype}");
            for (i, (got, expected)) in got.iter().zip(expected.as_chunks().0).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                assert_eq!(
                    got.to_bits(),
                    expected.to_bits(),
                    "{dtype}, element {i}: {got} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn every_half_is_exact() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (bits, got) in (0..=u16::MAX).zip(widened(Dtype::F16, &all)) {
            let expected = half::f16::from_bits(bits).to_f32();
            assert!(
                got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
                "{bits:#06x}: {got}"
            );
        }
        for (bits, got) in (0..=u16::MAX).zip(widened(Dtype::BF16, &all)) {
            let expected = half::bf16::from_bits(bits).to_f32();
            assert!(
                got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
                "{bits:#06x}: {got}"
            );
        }
    }

    #[test]
    fn plain_floats_pass_through() {
        let values = [0.0_f32, -0.0, 1.5, f32::MIN_POSITIVE / 2.0, f32::MAX, f32::NEG_INFINITY];
        let singles: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let doubles: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        assert_eq!(widened(Dtype::F32, &singles), values);
        assert_eq!(widened(Dtype::F64, &doubles), values);
    }

    proptest! {
        /// A block's values do not depend on its neighbours: rows can be widened in any pieces.
        #[test]
        fn widens_piecewise(kind in 0..Dtype::ALL.len(), count in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 5 * 210)) {
            let dtype = Dtype::ALL[kind];
            let bytes = &bytes[..count * dtype.block_bytes()];
            let whole: Vec<u32> = widened(dtype, bytes).iter().map(|v| v.to_bits()).collect();
            let pieces: Vec<u32> = bytes
                .chunks(dtype.block_bytes())
                .flat_map(|block| widened(dtype, block))
                .map(f32::to_bits)
                .collect();
            prop_assert_eq!(whole, pieces);
        }
    }
}

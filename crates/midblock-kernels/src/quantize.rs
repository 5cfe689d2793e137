//! Narrowing of f32 to the kinds of GGUF whose blocks of 32 can be made one by one, from their own numbers alone.
//!
//! | kind | scales | integer |
//! |------|--------|---------|
//! | `q4_0`, `q5_0` | `d = e / −8`, `e / −16`; e is the number of the largest magnitude, the first of several | `⌊x/d + 8.5⌋`, `⌊x/d + 16.5⌋` |
//! | `q4_1`, `q5_1` | `m` the smallest number, `d = (largest − m) / 15`, `/ 31` | `⌊(x − m)/d + ½⌋` |
//! | `q8_0` | `d = largest magnitude / 127` | `x/d` to the nearest, halves away from 0 |
//!
//! What exceeds the largest integer of a kind becomes that. Scales are rounded to f16 after the integers were found. The order
//! of operations is that of ggml's reference (`ggml-quants.c`, `quantize_row_*_ref`) and of the `gguf` Python package, so the
//! bytes are the same.

use crate::Dtype;
use half::f16;
use pulp::{Arch, Simd, WithSimd};

/// See [`Dtype::quantize`]; the lengths agree.
pub(crate) fn quantize(dtype: Dtype, values: &[f32], out: &mut [u8]) {
    Arch::new().dispatch(Quantize { dtype, values, out });
}

struct Quantize<'a> {
    dtype: Dtype,
    values: &'a [f32],
    out: &'a mut [u8],
}

impl WithSimd for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::redundant_closure)] // calling a function's name through `Fn` is not marked for inlining
    fn with_simd<S: Simd>(self, _: S) {
        let Self { dtype, values, out } = self;
        match dtype {
            Dtype::Q4_0 => blocks(
                values,
                out,
                #[inline(always)]
                |x, b| q4_0(x, b),
            ),
            Dtype::Q4_1 => blocks(
                values,
                out,
                #[inline(always)]
                |x, b| q4_1(x, b),
            ),
            Dtype::Q5_0 => blocks(
                values,
                out,
                #[inline(always)]
                |x, b| q5_0(x, b),
            ),
            Dtype::Q5_1 => blocks(
                values,
                out,
                #[inline(always)]
                |x, b| q5_1(x, b),
            ),
            Dtype::Q8_0 => blocks(
                values,
                out,
                #[inline(always)]
                |x, b| q8_0(x, b),
            ),
            other => panic!("{other} is not made here"),
        }
    }
}

#[inline(always)]
fn blocks<const BYTES: usize>(values: &[f32], out: &mut [u8], narrow: impl Fn(&[f32; 32], &mut [u8; BYTES])) {
    for (x, block) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        narrow(x, block);
    }
}

/// One of all numbers by pairs: `pick` chooses, in whatever order compiles to vectors.
#[inline(always)]
fn reduce(x: &[f32; 32], pick: impl Fn(f32, f32) -> f32) -> f32 {
    let lanes: [f32; 16] = std::array::from_fn(|i| pick(x[i], x[16 + i]));
    let [first, rest @ ..] = lanes;
    rest.into_iter().fold(first, pick)
}

#[inline(always)]
fn largest(x: &[f32; 32]) -> f32 {
    reduce(x, |a, b| if b > a { b } else { a })
}

#[inline(always)]
fn smallest(x: &[f32; 32]) -> f32 {
    reduce(x, |a, b| if b < a { b } else { a })
}

#[inline(always)]
fn largest_magnitude(x: &[f32; 32]) -> f32 {
    largest(&x.map(f32::abs))
}

/// The number of the largest magnitude, with its sign; the first of several.
#[inline(always)]
fn extreme(x: &[f32; 32]) -> f32 {
    let magnitude = largest_magnitude(x);
    let found = x.iter().copied().find(|value| value.abs() == magnitude);
    found.unwrap_or(magnitude)
}

#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[inline(always)]
fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Elements 0..16 go to the low nibbles of 16 bytes, 16..32 to the high ones; their fifth bits to the bits of `high`.
#[inline(always)]
fn put_nibbles(q: &[u8; 32], packed: &mut [u8]) {
    let (low, high) = q.split_at(16);
    for ((byte, low), high) in packed.iter_mut().zip(low).zip(high) {
        *byte = low & 15 | high << 4;
    }
}

#[inline(always)]
fn put_fifth_bits(q: &[u8; 32], high: &mut [u8]) {
    let bits = q
        .iter()
        .enumerate()
        .fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4) << i);
    high.copy_from_slice(&bits.to_le_bytes());
}

/// `⌊x/d + middle + ½⌋`, at most `2 · middle − 1`, with `d = e / −middle`.
#[inline(always)]
fn signed(x: &[f32; 32], middle: f32) -> (f32, [u8; 32]) {
    let d = extreme(x) / -middle;
    let (id, half, limit) = (inverse(d), middle + 0.5, 2.0 * middle - 1.0);
    (d, x.map(|x| rounded_down(x * id + half, limit)))
}

/// `⌊(x − m)/d + ½⌋` with `d` such that the largest is `limit`.
#[inline(always)]
fn from_smallest(x: &[f32; 32], limit: f32) -> (f32, f32, [u8; 32]) {
    let m = smallest(x);
    let d = (largest(x) - m) / limit;
    let id = inverse(d);
    (d, m, x.map(|x| rounded_down((x - m) * id + 0.5, limit)))
}

#[inline(always)]
fn rounded_down(value: f32, limit: f32) -> u8 {
    let value = if value < limit { value } else { limit };
    value as i32 as u8
}

#[inline(always)]
fn q4_0(x: &[f32; 32], block: &mut [u8; 18]) {
    let (d, q) = signed(x, 8.0);
    put_half(block, 0, d);
    put_nibbles(&q, &mut block[2..]);
}

#[inline(always)]
fn q5_0(x: &[f32; 32], block: &mut [u8; 22]) {
    let (d, q) = signed(x, 16.0);
    put_half(block, 0, d);
    put_fifth_bits(&q, &mut block[2..6]);
    put_nibbles(&q, &mut block[6..]);
}

#[inline(always)]
fn q4_1(x: &[f32; 32], block: &mut [u8; 20]) {
    let (d, m, q) = from_smallest(x, 15.0);
    put_half(block, 0, d);
    put_half(block, 2, m);
    put_nibbles(&q, &mut block[4..]);
}

#[inline(always)]
fn q5_1(x: &[f32; 32], block: &mut [u8; 24]) {
    let (d, m, q) = from_smallest(x, 31.0);
    put_half(block, 0, d);
    put_half(block, 2, m);
    put_fifth_bits(&q, &mut block[4..8]);
    put_nibbles(&q, &mut block[8..]);
}

#[inline(always)]
fn q8_0(x: &[f32; 32], block: &mut [u8; 34]) {
    let d = largest_magnitude(x) / 127.0;
    let id = inverse(d);
    put_half(block, 0, d);
    for (byte, x) in block[2..].iter_mut().zip(x) {
        *byte = (x * id).round() as i32 as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantized(dtype: Dtype, values: &[f32]) -> Vec<u8> {
        let mut out = vec![0xaa; dtype.bytes_for(values.len()).unwrap()];
        dtype.quantize(values, &mut out);
        out
    }

    fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        dtype.widen(bytes, &mut out);
        out
    }

    /// Ordinary, constant, zero, lonely, tied, huge and subnormal blocks against `gguf.quants.quantize`, byte for byte.
    #[test]
    fn equals_the_reference_byte_for_byte() {
        macro_rules! reference {
            ($dtype:ident, $file:literal) => {
                (
                    Dtype::$dtype,
                    include_bytes!(concat!("../../../fixtures/gguf/", $file, ".quantized")).as_slice(),
                )
            };
        }
        let source = include_bytes!("../../../fixtures/gguf/source.f32");
        let values: Vec<f32> = source.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(values.len(), 2048);
        let kinds = [
            reference!(Q4_0, "q4_0"),
            reference!(Q4_1, "q4_1"),
            reference!(Q5_0, "q5_0"),
            reference!(Q5_1, "q5_1"),
            reference!(Q8_0, "q8_0"),
        ];
        assert_eq!(kinds.map(|(dtype, _)| dtype), Dtype::QUANTIZERS);
        for (dtype, expected) in kinds {
            let got = quantized(dtype, &values);
            let blocks = got
                .chunks(dtype.block_bytes())
                .zip(expected.chunks(dtype.block_bytes()));
            for (i, (got, expected)) in blocks.enumerate() {
                assert_eq!(got, expected, "{dtype}, block {i}: {:?}", &values[32 * i..32 * (i + 1)]);
            }
            assert_eq!(got.len(), expected.len(), "{dtype}");
        }
    }

    /// How far a number may be moved: by half a step, but for a clipped one, and by the rounding of the scales to f16.
    fn bound(dtype: Dtype, block: &[f32; 32]) -> f32 {
        let (magnitude, range) = (largest_magnitude(block), largest(block) - smallest(block));
        let (step, clipped, integer) = match dtype {
            Dtype::Q4_0 => (magnitude / 8.0, 1.0, 8.0),
            Dtype::Q5_0 => (magnitude / 16.0, 1.0, 16.0),
            Dtype::Q4_1 => (range / 15.0, 0.5, 15.0),
            Dtype::Q5_1 => (range / 31.0, 0.5, 31.0),
            _ => (magnitude / 127.0, 0.5, 127.0),
        };
        // a half has 11 bits, and is a multiple of 2^-24
        let half = |value: f32| value / 2048.0 + 2f32.powi(-25);
        let moved = clipped * step + integer * half(step) + half(magnitude);
        moved * 1.0001 + 1e-6 * magnitude // f32's own rounding on the way
    }

    proptest! {
        #[test]
        fn a_number_moves_by_no_more_than_a_step(
            exponent in -20..14_i32,
            shift in -2.0..2.0_f32,
            block in prop::array::uniform32(-1.0..1.0_f32),
        ) {
            let block = block.map(|x| (x + shift) * 2f32.powi(exponent));
            for dtype in Dtype::QUANTIZERS {
                let bound = bound(dtype, &block);
                for (x, got) in block.iter().zip(widened(dtype, &quantized(dtype, &block))) {
                    prop_assert!((x - got).abs() <= bound, "{dtype}: {x} became {got}, bound {bound}");
                }
            }
        }

        /// A block of a row does not depend on its neighbours.
        #[test]
        fn quantizes_piecewise(values in prop::collection::vec(-3.0..3.0_f32, 96)) {
            for dtype in Dtype::QUANTIZERS {
                let pieces: Vec<u8> = values.chunks(32).flat_map(|piece| quantized(dtype, piece)).collect();
                prop_assert_eq!(quantized(dtype, &values), pieces);
            }
        }
    }

    /// More bits move a number less, on the whole.
    #[test]
    fn more_bits_are_nearer() {
        let values: Vec<f32> = (0..4096)
            .map(|i| ((i * 7919 % 4093) as f32 / 4093.0 - 0.5).powi(3))
            .collect();
        let error = |dtype: Dtype| {
            let got = widened(dtype, &quantized(dtype, &values));
            let squares = values.iter().zip(got).map(|(x, y)| f64::from(x - y).powi(2));
            squares.sum::<f64>()
        };
        let [four, four_1, five, five_1, eight] = Dtype::QUANTIZERS.map(error);
        assert!(
            eight < five_1 && five_1 < four_1 && five < four,
            "{four} {four_1} {five} {five_1} {eight}"
        );
    }

    #[test]
    #[should_panic(expected = "q4_k is not made here")]
    fn other_kinds_are_not_made() {
        Dtype::Q4_K.quantize(&[0.0; 256], &mut [0; 144]);
    }
}

//! Widening of stored numbers to f32.

use crate::Dtype;

/// See [`Dtype::widen`]; the lengths agree.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F64 => widen_with(bytes, out, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
        Dtype::F32 => widen_with(bytes, out, f32::from_le_bytes),
        Dtype::F16 => widen_with(bytes, out, |b: [u8; 2]| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => widen_with(bytes, out, |b: [u8; 2]| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
        }),
        _ => unreachable!("quantised kinds follow"),
    }
}

fn widen_with<const N: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn([u8; N]) -> f32) {
    for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = one(*chunk);
    }
}

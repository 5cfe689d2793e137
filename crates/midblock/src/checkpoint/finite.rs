//! Are all weights numbers? A bit test on the stored bytes, without widening them.
//!
//! A float is NaN or infinite exactly when its exponent bits are all ones. f64 weights count as infinite where f32 is,
//! because that is what they are computed in. Block-quantised weights are widened block by block: their scales decide.

use super::Tensor;
use crate::{Error, Result};
use midblock_kernels::Dtype;
use rayon::prelude::*;
use std::path::Path;

/// Elements tested per task; a multiple of every block length.
const CHUNK_LEN: usize = 1 << 18;

impl Tensor {
    /// Checks that every element is finite.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first element that is not; `path` is the checkpoint to name.
    pub fn check_finite(&self, path: &Path) -> Result<()> {
        let bytes = self.bytes.as_ref();
        let chunk_bytes = self.dtype.bytes_for(CHUNK_LEN).expect("invariant: whole blocks");
        let chunks = || bytes.par_chunks(chunk_bytes).enumerate();
        let Some((chunk, bytes)) = chunks().find_first(|(_, chunk)| !all_finite(self.dtype, chunk)) else {
            return Ok(());
        };
        let blocks = bytes.len() / self.dtype.block_bytes();
        let mut values = vec![0.0; blocks * self.dtype.block_len()];
        self.dtype.widen(bytes, &mut values);
        let within = values.iter().position(|v| !v.is_finite());
        let within = within.expect("invariant: a chunk that fails the bit test holds such an element");
        Err(Error::NotFinite {
            path: path.to_path_buf(),
            tensor: self.name.clone(),
            index: chunk * CHUNK_LEN + within,
            value: values[within],
        })
    }
}

/// Whether whole blocks of `dtype` hold only finite numbers. Without early exit, so that it compiles to vector code.
fn all_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    match dtype {
        Dtype::F64 => each(bytes, |b| (f64::from_le_bytes(b) as f32).is_finite()),
        Dtype::F32 => each(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 != 0x7f80_0000),
        Dtype::F16 => each(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
        Dtype::BF16 => each(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
        _ => {
            let mut values = vec![0.0; dtype.block_len()];
            bytes.chunks_exact(dtype.block_bytes()).all(|block| {
                dtype.widen(block, &mut values);
                values.iter().all(|v| v.is_finite())
            })
        }
    }
}

fn each<const N: usize>(bytes: &[u8], finite: impl Fn([u8; N]) -> bool) -> bool {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().fold(true, |all, &element| all & finite(element))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use midblock_kernels::SharedBytes;

    fn tensor(dtype: Dtype, bytes: Vec<u8>) -> Tensor {
        let shape = vec![bytes.len() / dtype.block_bytes() * dtype.block_len()];
        Tensor {
            name: "w".into(),
            dtype,
            shape,
            bytes: SharedBytes::owned(bytes),
        }
    }

    /// Stores `value` at `index` of otherwise large, finite elements, checks, and returns what was found where.
    fn found(dtype: Dtype, index: usize, len: usize, value: f64) -> Option<(usize, f32)> {
        let store = |v: f64| match dtype {
            Dtype::F64 => v.to_le_bytes().to_vec(),
            Dtype::F32 => (v as f32).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
            _ => bf16::from_f64(v).to_le_bytes().to_vec(),
        };
        let bytes = (0..len)
            .flat_map(|i| store(if i == index { value } else { -65504.0 }))
            .collect();
        match tensor(dtype, bytes).check_finite(Path::new("m")) {
            Ok(()) => None,
            Err(Error::NotFinite { index, value, .. }) => Some((index, value)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_first_bad_element_is_named_in_every_float_type() {
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
            let len = CHUNK_LEN + 1001;
            assert_eq!(found(dtype, 7, len, 1.0), None, "{dtype}");
            for index in [0, 7, CHUNK_LEN - 1, CHUNK_LEN, len - 1] {
                assert_eq!(
                    found(dtype, index, len, f64::NEG_INFINITY),
                    Some((index, f32::NEG_INFINITY)),
                    "{dtype}"
                );
                let (at, value) = found(dtype, index, len, f64::NAN).unwrap();
                assert!(at == index && value.is_nan(), "{dtype} {at} {value}");
            }
        }
    }

    #[test]
    fn an_f64_beyond_f32_is_infinite() {
        assert_eq!(found(Dtype::F64, 3, 10, 1e39), Some((3, f32::INFINITY)));
        assert_eq!(found(Dtype::F64, 3, 10, f64::from(f32::MAX)), None);
    }

    #[test]
    fn the_message_names_file_tensor_and_element() {
        let bytes = [1.0_f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
        let error = tensor(Dtype::F32, bytes).check_finite(Path::new("dir/m")).unwrap_err();
        assert_eq!(error.to_string(), "dir/m: tensor `w` is not finite: element 1 is NaN");
    }
}

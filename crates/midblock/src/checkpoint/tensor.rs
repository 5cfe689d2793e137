//! A named tensor in its storage format.

use crate::Result;
use midblock_kernels::{Dtype, SharedBytes, StoredMatrix};
use rayon::prelude::*;

/// A tensor as it lies in the file.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Hugging Face parameter name.
    pub name: String,
    /// Storage format.
    pub dtype: Dtype,
    /// Row-major shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The stored bytes; their length agrees with `dtype` and `shape`.
    pub bytes: SharedBytes,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All elements widened to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.dtype.widen(self.bytes.as_ref(), &mut out);
        out
    }

    /// The tensor as a matrix on its way to a device; nothing is copied.
    ///
    /// # Panics
    /// If it does not have two dimensions.
    pub fn matrix(&self) -> StoredMatrix {
        let &[out_features, in_features] = self.shape.as_slice() else {
            panic!("`{}` has shape {:?}, not a matrix", self.name, self.shape)
        };
        StoredMatrix::new(self.dtype, [out_features, in_features], self.bytes.clone())
    }

    /// Whether both hold the same numbers in the same format.
    pub fn same_values(&self, other: &Self) -> bool {
        let same_bytes = || {
            let (a, b) = (self.bytes.as_ref(), other.bytes.as_ref());
            a.len() == b.len() && a.par_chunks(1 << 20).zip(b.par_chunks(1 << 20)).all(|(a, b)| a == b)
        };
        let same_kind = self.dtype == other.dtype && self.shape == other.shape;
        same_kind && (self.bytes.same_place(&other.bytes) || same_bytes())
    }
}

/// A set of named tensors, read lazily.
pub trait TensorSource: Send + Sync {
    /// All names, sorted.
    fn names(&self) -> Vec<&str>;

    /// Storage format and shape, without touching the data.
    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])>;

    /// The tensor, or `None` if there is none of that name.
    fn get(&self, name: &str) -> Result<Option<Tensor>>;

    /// Says that a tensor's data is not needed for a while, so that its pages need not stay in memory.
    ///
    /// A hint: bytes in use stay valid and are read again when touched.
    fn release(&self, _name: &str) {}
}

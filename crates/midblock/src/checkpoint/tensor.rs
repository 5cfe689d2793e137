//! A named tensor in its storage format.

use crate::Result;
use midblock_kernels::{Dtype, SharedBytes};

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

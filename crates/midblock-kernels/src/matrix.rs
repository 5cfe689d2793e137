//! A weight matrix as it lies in a checkpoint.

use crate::Dtype;
use std::{ops::Range, sync::Arc};

/// Bytes somebody else keeps alive: a memory-mapped file or an owned vector.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl SharedBytes {
    /// The bytes `range` of `owner`.
    ///
    /// # Panics
    /// If the range lies outside of the owner's bytes.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        let len = (*owner).as_ref().len();
        assert!(range.start <= range.end && range.end <= len, "bytes {range:?} of {len}");
        Self { owner, range }
    }

    /// All bytes of `bytes`, owned.
    pub fn owned(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            owner: Arc::new(bytes),
            range,
        }
    }

    /// The little-endian bytes of `values`.
    pub fn from_f32(values: &[f32]) -> Self {
        Self::owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Whether both are the very same bytes of the same owner (not merely equal ones).
    pub fn same_place(&self, other: &Self) -> bool {
        std::ptr::eq(self.as_ref(), other.as_ref())
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.range.len())
    }
}

/// A matrix in its storage format, row-major `(out_features, in_features)` as on disk: `y = x · Wᵀ`.
#[derive(Clone, Debug)]
pub struct StoredMatrix {
    dtype: Dtype,
    out_features: usize,
    in_features: usize,
    bytes: SharedBytes,
}

impl StoredMatrix {
    /// Describes `bytes` as a matrix; nothing is copied.
    ///
    /// # Panics
    /// If a row does not fill whole blocks of `dtype` or the length is not that of the shape.
    pub fn new(dtype: Dtype, [out_features, in_features]: [usize; 2], bytes: SharedBytes) -> Self {
        let row_bytes = dtype.bytes_for(in_features);
        let expected = row_bytes.and_then(|b| b.checked_mul(out_features));
        assert_eq!(
            expected,
            Some(bytes.as_ref().len()),
            "{dtype} matrix ({out_features}, {in_features})"
        );
        Self {
            dtype,
            out_features,
            in_features,
            bytes,
        }
    }

    /// An f32 matrix from values, row-major.
    ///
    /// # Panics
    /// If there are not `out_features · in_features` values.
    pub fn from_f32(shape: [usize; 2], values: &[f32]) -> Self {
        Self::new(Dtype::F32, shape, SharedBytes::from_f32(values))
    }

    /// Storage format.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// `(out_features, in_features)`.
    pub fn shape(&self) -> [usize; 2] {
        [self.out_features, self.in_features]
    }

    /// The stored bytes, row after row.
    pub fn bytes(&self) -> &SharedBytes {
        &self.bytes
    }

    /// Bytes of the rows `rows`.
    pub fn row_bytes(&self, rows: Range<usize>) -> &[u8] {
        let stride = self.bytes.as_ref().len() / self.out_features.max(1);
        &self.bytes.as_ref()[rows.start * stride..rows.end * stride]
    }

    /// Widens the rows `rows` to f32, row-major.
    ///
    /// # Panics
    /// If `out` is not `rows.len() · in_features` long.
    pub fn widen_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        self.dtype.widen(self.row_bytes(rows), out);
    }
}

//! Weight matrices of the CPU backend, and reading parts of them as f32.

use super::buffer::CpuBuffer;
use crate::{Dtype, StoredMatrix};
use pulp::bytemuck::{cast_slice, try_cast_slice};
use std::ops::Range;

/// A weight matrix, `(out, in)` row-major.
#[derive(Clone, Debug)]
pub enum CpuMatrix {
    /// In its storage format; widened as it is used.
    Frozen(StoredMatrix),
    /// In f32, to be changed by training.
    Trained {
        /// `(out, in)`
        shape: [usize; 2],
        /// The values, row-major.
        values: CpuBuffer,
    },
}

impl CpuMatrix {
    /// `(out, in)`.
    pub fn shape(&self) -> [usize; 2] {
        self.source().shape()
    }

    pub(super) fn source(&self) -> Source<'_> {
        match self {
            Self::Frozen(stored) => Source::Stored(stored),
            Self::Trained { shape, values } => Source::Values(values, *shape),
        }
    }

    /// Widens one row.
    pub(super) fn row(&self, index: usize, out: &mut [f32]) {
        match self {
            Self::Frozen(stored) => stored.widen_rows(index..index + 1, out),
            Self::Trained { values, .. } => out.copy_from_slice(&values[index * out.len()..][..out.len()]),
        }
    }
}

/// A row-major matrix that is only read: stored, or plain f32 of the given shape.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Stored(&'a StoredMatrix),
    Values(&'a [f32], [usize; 2]),
}

impl<'a> Source<'a> {
    pub(super) fn shape(self) -> [usize; 2] {
        match self {
            Self::Stored(stored) => stored.shape(),
            Self::Values(_, shape) => shape,
        }
    }

    /// All values, where they lie in memory as aligned f32.
    pub(super) fn plain(self) -> Option<&'a [f32]> {
        match self {
            Self::Values(values, _) => Some(values),
            Self::Stored(stored) if stored.dtype() == Dtype::F32 && cfg!(target_endian = "little") => {
                try_cast_slice(stored.bytes().as_ref()).ok()
            }
            Self::Stored(_) => None,
        }
    }

    /// The part `rows` × `columns` in f32 and the distance of its rows: where it lies, if that is plain f32, else widened
    /// into `widened`, whole blocks of the storage format, whose room for [`stride`](Self::stride) a row is the caller's.
    pub(super) fn part<'b>(
        self,
        rows: Range<usize>,
        columns: Range<usize>,
        widened: &'b mut [f32],
    ) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        if let Some(values) = self.plain() {
            let [_, width] = self.shape();
            return (&values[rows.start * width + columns.start..], width);
        }
        let Self::Stored(stored) = self else {
            unreachable!("values are plain")
        };
        let dtype = stored.dtype();
        let whole = self.whole_blocks(columns.clone());
        let bytes = |k: usize| k / dtype.block_len() * dtype.block_bytes();
        let [_, width] = stored.shape();
        for (stored, row) in stored
            .row_bytes(rows)
            .chunks_exact(bytes(width))
            .zip(widened.chunks_exact_mut(whole.len()))
        {
            dtype.widen(&stored[bytes(whole.start)..bytes(whole.end)], row);
        }
        (&widened[columns.start - whole.start..], whole.len())
    }

    /// The bytes of some rows, as they are stored.
    pub(super) fn row_bytes(self, rows: Range<usize>) -> &'a [u8] {
        match self {
            Self::Stored(stored) => stored.row_bytes(rows),
            Self::Values(values, [_, width]) => cast_slice(&values[rows.start * width..rows.end * width]),
        }
    }

    /// The distance of the rows of a widened part.
    pub(super) fn stride(self, columns: Range<usize>) -> usize {
        self.whole_blocks(columns).len()
    }

    fn whole_blocks(self, columns: Range<usize>) -> Range<usize> {
        let block = match self {
            Self::Stored(stored) => stored.dtype().block_len(),
            Self::Values(..) => 1,
        };
        columns.start / block * block..columns.end.next_multiple_of(block)
    }
}

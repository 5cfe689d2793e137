//! Dot products of rows of two matrices, `out (+)= x · wᵀ`, where both lie as rows along the sum: lanes run along it, and
//! nothing is packed.
//!
//! Each pair of a row and a column has its own accumulator and order, however many of them share the registers: its bits
//! depend neither on the other rows and columns nor on how they are shared out.

use super::kernel::Output;
use pulp::{Simd, WithSimd};

/// Rows of x whose products with a few rows of w are made at a time, of which each then is read from memory once.
pub(super) const ROWS: usize = 4;
/// Rows of w in a tile: with [`ROWS`] their accumulators leave room for the operands in 32 registers, or in 16.
const COLUMNS: usize = 6;
const COLUMNS_OF_FEW_REGISTERS: usize = 3;

pub(super) struct Dots<'a> {
    pub(super) x: &'a [f32],
    /// Distance of the rows of x.
    pub(super) x_stride: usize,
    pub(super) w: &'a [f32],
    /// Distance of the rows of w.
    pub(super) w_stride: usize,
    /// Length of the sums.
    pub(super) depth: usize,
    /// Rows of x, and of the output.
    pub(super) rows: usize,
    /// Rows of w, columns of the output.
    pub(super) columns: usize,
    pub(super) add: bool,
    pub(super) out: Output,
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut column = 0;
        while column < self.columns {
            let here = match self.columns - column {
                COLUMNS.. if S::REGISTER_COUNT >= 32 => COLUMNS,
                COLUMNS_OF_FEW_REGISTERS.. => COLUMNS_OF_FEW_REGISTERS,
                _ => 1,
            };
            match here {
                COLUMNS => self.strip::<S, COLUMNS>(simd, column),
                COLUMNS_OF_FEW_REGISTERS => self.strip::<S, COLUMNS_OF_FEW_REGISTERS>(simd, column),
                _ => self.strip::<S, 1>(simd, column),
            }
            column += here;
        }
    }
}

impl Dots<'_> {
    /// `N` columns of the output.
    #[inline(always)]
    fn strip<S: Simd, const N: usize>(&self, simd: S, column: usize) {
        let w = &self.w[column * self.w_stride..];
        let mut row = 0;
        while row < self.rows {
            let here = if self.rows - row >= ROWS { ROWS } else { 1 };
            let x = &self.x[row * self.x_stride..];
            // SAFETY: row < rows and column < columns.
            let out = unsafe { self.out.at(row, column) };
            if here == ROWS {
                store(simd, self.tile::<S, ROWS, N>(simd, x, w), self.add, out);
            } else {
                store(simd, self.tile::<S, 1, N>(simd, x, w), self.add, out);
            }
            row += here;
        }
    }

    /// `M` × `N` dot products of rows of x and w; each has its own accumulator and order, whatever M and N are.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&self, simd: S, x: &[f32], w: &[f32]) -> [[S::f32s; N]; M] {
        let depth = self.depth;
        let mut acc = [[simd.splat_f32s(0.0); N]; M];
        let x: [_; M] = std::array::from_fn(|m| S::as_simd_f32s(&x[m * self.x_stride..][..depth]));
        let w: [_; N] = std::array::from_fn(|n| S::as_simd_f32s(&w[n * self.w_stride..][..depth]));
        for i in 0..depth / S::F32_LANES {
            // SAFETY: each row has this many whole vectors.
            let x = x.map(|(whole, _)| unsafe { *whole.get_unchecked(i) });
            for n in 0..N {
                // SAFETY: as above.
                let w = unsafe { *w[n].0.get_unchecked(i) };
                for m in 0..M {
                    acc[m][n] = simd.mul_add_e_f32s(x[m], w, acc[m][n]);
                }
            }
        }
        if !depth.is_multiple_of(S::F32_LANES) {
            let x = x.map(|(_, rest)| simd.partial_load_f32s(rest));
            for n in 0..N {
                let w = simd.partial_load_f32s(w[n].1);
                for m in 0..M {
                    acc[m][n] = simd.mul_add_e_f32s(x[m], w, acc[m][n]);
                }
            }
        }
        acc
    }
}

#[inline(always)]
fn store<S: Simd, const M: usize, const N: usize>(simd: S, acc: [[S::f32s; N]; M], add: bool, out: Output) {
    for (m, acc) in acc.into_iter().enumerate() {
        // SAFETY: `Output::new`'s promise; the tile lies in the output.
        let out = unsafe { out.row_mut(m, 0, N) };
        for (acc, out) in acc.into_iter().zip(out) {
            let value = simd.reduce_sum_f32s(acc);
            *out = if add { *out + value } else { value };
        }
    }
}

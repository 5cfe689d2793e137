//! Products with few output columns, such as those of an adapter's rank, which would leave most of a panel empty.
//!
//! `x · Wᵀ` with few rows of W is a few dot products per row of x: lanes run along the sum, x is read once where it lies, and
//! nothing is packed. `dyᵀ · x` with few columns of x is made transposed, `xᵀ · dy`, and turned around a strip at a time.

use super::{
    buffer::with_scratch,
    gemm::{self, Factor},
    kernel::{Output, Tile},
    matrix::Source,
    transpose::transpose,
};
use crate::Accumulate;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Most columns of an output that counts as narrow.
pub(super) const COLUMNS: usize = 64;
/// Rows of x in a task.
const ROWS: usize = 48;

/// `out (+)= x · Wᵀ`: x (rows, k), w (n, k), out (rows, n).
pub(super) fn product(arch: Arch, x: &[f32], w: Source<'_>, mode: Accumulate, out: &mut [f32]) {
    let [n, k] = w.shape();
    with_scratch(n * k, |widened| {
        let (w, _) = w.part(0..n, 0..k, widened);
        dots(arch, x, &w[..n * k], k, mode, out);
    });
}

/// `out (+)= x · W`: x (rows, n), w (n, k), out (rows, k).
pub(super) fn product_of_columns(arch: Arch, x: &[f32], w: Source<'_>, mode: Accumulate, out: &mut [f32]) {
    let [n, k] = w.shape();
    with_scratch(2 * n * k, |scratch| {
        let (widened, turned) = scratch.split_at_mut(n * k);
        let (w, _) = w.part(0..n, 0..k, widened);
        transpose(n, k, |r| &w[r * k..][..k], turned, n);
        dots(arch, x, turned, n, mode, out);
    });
}

/// `out (+)= x · wᵀ` with both factors as rows along the sum, `depth` long: x (rows, depth), w (n, depth), out (rows, n).
fn dots(arch: Arch, x: &[f32], w: &[f32], depth: usize, mode: Accumulate, out: &mut [f32]) {
    let n = w.len() / depth;
    out.par_chunks_mut(ROWS * n)
        .zip(x.par_chunks(ROWS * depth))
        .for_each(|(out, x)| {
            arch.dispatch(Dots {
                x,
                w,
                depth,
                add: mode == Accumulate::Add,
                out,
            });
        });
}

/// `out (+)= wideᵀ · narrow`, summed over rows: wide (rows, n), narrow (rows, k), out (n, k).
pub(super) fn transposed(arch: Arch, wide: Factor<'_>, narrow: Factor<'_>, mode: Accumulate, out: &mut [f32]) {
    let (k, rows) = (narrow.len(), narrow.depth());
    let tile = Tile::of(arch);
    let panels = wide.len().div_ceil(tile.columns);
    let width = gemm::panels_per_task(panels, rayon::current_num_threads()) * tile.columns;
    with_scratch(k * rows, |packed| {
        let packed = gemm::pack_left(tile, narrow, 0..k, 0..rows, packed);
        out.par_chunks_mut(width * k).enumerate().for_each(|(index, out)| {
            let columns = index * width..index * width + out.len() / k;
            with_scratch(2 * out.len(), |scratch| {
                let (product, turned) = scratch.split_at_mut(out.len());
                // SAFETY: borrowed until the product is done.
                let target = unsafe { Output::new(product, columns.len()) };
                gemm::columns_product(arch, &packed, wide, columns.clone(), false, target);
                let row = |r: usize| &product[r * columns.len()..][..columns.len()];
                if mode == Accumulate::Write {
                    transpose(k, columns.len(), row, out, k);
                } else {
                    transpose(k, columns.len(), row, turned, k);
                    out.iter_mut().zip(turned).for_each(|(out, turned)| *out += *turned);
                }
            });
        });
    });
}

struct Dots<'a> {
    x: &'a [f32],
    w: &'a [f32],
    depth: usize,
    add: bool,
    out: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, w, depth, add, out } = self;
        let columns = w.len() / depth;
        let mut column = 0;
        while column < columns {
            // As many columns as leave room for three rows of accumulators.
            let here = match columns - column {
                8.. if S::REGISTER_COUNT >= 32 => 8,
                4.. => 4,
                _ => 1,
            };
            let w = &w[column * depth..][..here * depth];
            let out = &mut out[column..];
            match here {
                8 => strip::<S, 8>(simd, x, w, depth, columns, add, out),
                4 => strip::<S, 4>(simd, x, w, depth, columns, add, out),
                _ => strip::<S, 1>(simd, x, w, depth, columns, add, out),
            }
            column += here;
        }
    }
}

/// `N` columns of the output, whose rows are `stride` apart.
#[inline(always)]
fn strip<S: Simd, const N: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    depth: usize,
    stride: usize,
    add: bool,
    out: &mut [f32],
) {
    let rows = x.len() / depth;
    let mut row = 0;
    while row < rows {
        let here = if rows - row >= 3 { 3 } else { 1 };
        let x = &x[row * depth..][..here * depth];
        let out = &mut out[row * stride..];
        if here == 3 {
            store(simd, tile::<S, 3, N>(simd, x, w, depth), stride, add, out);
        } else {
            store(simd, tile::<S, 1, N>(simd, x, w, depth), stride, add, out);
        }
        row += here;
    }
}

/// `M` × `N` dot products of rows of x and w; each has its own accumulator and order, whatever M and N are.
#[inline(always)]
fn tile<S: Simd, const M: usize, const N: usize>(simd: S, x: &[f32], w: &[f32], depth: usize) -> [[S::f32s; N]; M] {
    let mut acc = [[simd.splat_f32s(0.0); N]; M];
    let x: [_; M] = std::array::from_fn(|m| S::as_simd_f32s(&x[m * depth..][..depth]));
    let w: [_; N] = std::array::from_fn(|n| S::as_simd_f32s(&w[n * depth..][..depth]));
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

#[inline(always)]
fn store<S: Simd, const M: usize, const N: usize>(
    simd: S,
    acc: [[S::f32s; N]; M],
    stride: usize,
    add: bool,
    out: &mut [f32],
) {
    for (acc, out) in acc.into_iter().zip(out.chunks_mut(stride)) {
        for (acc, out) in acc.into_iter().zip(out) {
            let value = simd.reduce_sum_f32s(acc);
            *out = if add { *out + value } else { value };
        }
    }
}

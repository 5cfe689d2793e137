//! Products with few output columns, such as those of an adapter's rank, which would leave most of a panel empty.
//!
//! `x · Wᵀ` with few rows of W is a few dot products per row of x, which is read once where it lies. `dyᵀ · x` with few columns of x is made transposed, `xᵀ · dy`, and turned around a strip at a time.

use super::{
    buffer::with_scratch,
    dots::Dots,
    gemm::{self, Factor},
    kernel::{Output, Tile},
    matrix::Source,
    transpose::transpose,
};
use crate::Accumulate;
use pulp::Arch;
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
                x_stride: depth,
                w,
                w_stride: depth,
                depth,
                rows: out.len() / n,
                columns: n,
                add: mode == Accumulate::Add,
                // SAFETY: the chunk is borrowed until the products are done.
                out: unsafe { Output::new(out, n) },
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

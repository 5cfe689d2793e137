//! Packing: rewriting operands in the order in which the micro-kernel reads them.
//!
//! Operands leave k-major: rows of the left one in tiles of the heights the kernel uses, `[k][row]`, with nothing between
//! them, so the tile of row `r` starts at `r · depth`; columns of the right one in panels of a tile's width, `[k][column]`, the
//! last one padded with zeros. What comes as rows along the summed dimension is transposed; what comes step by step along it
//! is k-major already and only moved.

use super::kernel::Tile;

/// Elements of a row that are transposed before the next rows' turn: a cache line, so that each is fetched once.
const LINE: usize = 16;

/// Packs the rows `0..rows`, `depth` long each, into `out`, `rows · depth` long.
pub(super) fn rows<'a>(tile: Tile, rows: usize, row: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
    if rows == 0 {
        return;
    }
    let depth = out.len() / rows;
    let mut first = 0;
    while first < rows {
        let height = tile.height(rows - first);
        transpose(
            height,
            depth,
            |r| row(first + r),
            &mut out[first * depth..][..height * depth],
            height,
        );
        first += height;
    }
}

/// Packs the columns `0..columns`, `depth` long each, into panels.
pub(super) fn columns<'a>(
    tile: Tile,
    columns: usize,
    depth: usize,
    column: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
) {
    for (index, panel) in out.chunks_exact_mut(tile.columns * depth).enumerate() {
        let first = index * tile.columns;
        let here = tile.columns.min(columns - first);
        if here < tile.columns {
            panel.fill(0.0);
        }
        transpose(here, depth, |c| column(first + c), panel, tile.columns);
    }
}

/// Packs rows of which `step(k)` holds the elements at k, into `out`, `rows · depth` long.
pub(super) fn rows_by_step<'a>(tile: Tile, depth: usize, step: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
    let rows = out.len() / depth;
    for k in 0..depth {
        let values = step(k);
        let mut first = 0;
        while first < rows {
            let height = tile.height(rows - first);
            out[first * depth + k * height..][..height].copy_from_slice(&values[first..][..height]);
            first += height;
        }
    }
}

/// Puts `values`, the elements of all columns at step `k` of `depth`, into their panels.
pub(super) fn step_of_columns(tile: Tile, depth: usize, k: usize, values: &[f32], panels: &mut [f32]) {
    for (values, panel) in values
        .chunks(tile.columns)
        .zip(panels.chunks_exact_mut(tile.columns * depth))
    {
        let step = &mut panel[k * tile.columns..][..tile.columns];
        step[..values.len()].copy_from_slice(values);
        step[values.len()..].fill(0.0);
    }
}

/// `out[k · stride + r] = row(r)[k]` for `r < rows`, `k < depth`.
pub(super) fn transpose<'a>(
    rows: usize,
    depth: usize,
    row: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
    stride: usize,
) {
    let whole = depth - depth % 4;
    for start in (0..depth).step_by(LINE) {
        let end = depth.min(start + LINE);
        for first in (0..rows - rows % 4).step_by(4) {
            let four = [row(first), row(first + 1), row(first + 2), row(first + 3)];
            let [a, b, c, d] = four.map(|r| r[..depth].as_ptr());
            for k in (start..end.min(whole)).step_by(4) {
                let block = &mut out[k * stride + first..][..3 * stride + 4];
                // SAFETY: k + 4 <= depth, the length of each row; the block of `out` was just cut.
                unsafe { transpose_four([a.add(k), b.add(k), c.add(k), d.add(k)], block.as_mut_ptr(), stride) };
            }
            for k in whole.max(start)..end {
                out[k * stride + first..][..4].copy_from_slice(&four.map(|r| r[k]));
            }
        }
        for r in rows - rows % 4..rows {
            for (k, value) in row(r)[..depth].iter().enumerate().take(end).skip(start) {
                out[k * stride + r] = *value;
            }
        }
    }
}

/// A 4 × 4 block in vector registers (SSE is part of every x86-64).
///
/// # Safety
/// Each pointer of `rows` is good for four reads, and `out` for four writes at 0, `stride`, 2 · `stride` and 3 · `stride`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose_four([a, b, c, d]: [*const f32; 4], out: *mut f32, stride: usize) {
    use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};
    // SAFETY: the caller's promise.
    unsafe {
        let [mut a, mut b, mut c, mut d] = [_mm_loadu_ps(a), _mm_loadu_ps(b), _mm_loadu_ps(c), _mm_loadu_ps(d)];
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        _mm_storeu_ps(out, a);
        _mm_storeu_ps(out.add(stride), b);
        _mm_storeu_ps(out.add(2 * stride), c);
        _mm_storeu_ps(out.add(3 * stride), d);
    }
}

/// A 4 × 4 block.
///
/// # Safety
/// Each pointer of `rows` is good for four reads, and `out` for four writes at 0, `stride`, 2 · `stride` and 3 · `stride`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn transpose_four(rows: [*const f32; 4], out: *mut f32, stride: usize) {
    for k in 0..4 {
        for (r, row) in rows.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *out.add(k * stride + r) = *row.add(k) };
        }
    }
}

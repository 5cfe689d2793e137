//! Packing: rewriting operands in the order in which the micro-kernel reads them.
//!
//! Both operands come as rows along the summed dimension and leave k-major. Rows of x go into tiles of the heights the kernel
//! uses, `[k][row]`, with nothing between them, so the tile of row `r` starts at `r · depth`. Columns (rows of W) go into
//! panels of a tile's width, `[k][column]`, the last one padded with zeros.

use super::kernel::Tile;

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

/// `out[k · stride + r] = row(r)[k]` for `r < rows`, `k < depth`, four by four where possible: that is a handful of shuffles.
pub(super) fn transpose<'a>(
    rows: usize,
    depth: usize,
    row: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
    stride: usize,
) {
    let mut first = 0;
    while first + 4 <= rows {
        let four = [0, 1, 2, 3].map(|r| row(first + r)[..depth].as_chunks::<4>());
        let [(a, a_rest), (b, b_rest), (c, c_rest), (d, d_rest)] = four;
        for (index, (((a, b), c), d)) in a.iter().zip(b).zip(c).zip(d).enumerate() {
            let base = index * 4 * stride + first;
            for k in 0..4 {
                out[base + k * stride..][..4].copy_from_slice(&[a[k], b[k], c[k], d[k]]);
            }
        }
        for k in 0..a_rest.len() {
            let base = (depth - a_rest.len() + k) * stride + first;
            out[base..][..4].copy_from_slice(&[a_rest[k], b_rest[k], c_rest[k], d_rest[k]]);
        }
        first += 4;
    }
    for r in first..rows {
        for (k, value) in row(r)[..depth].iter().enumerate() {
            out[k * stride + r] = *value;
        }
    }
}

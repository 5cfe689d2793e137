//! Packing: rewriting operands in the order in which the micro-kernel reads them.
//!
//! Operands leave k-major: rows of the left one in tiles of the heights the kernel uses, `[k][row]`, with nothing between
//! them, so the tile of row `r` starts at `r · depth`; columns of the right one in panels of a tile's width, `[k][column]`, the
//! last one padded with zeros. What comes as rows along the summed dimension is transposed; what comes step by step along it
//! is k-major already and only moved.

use super::{kernel::Tile, transpose::transpose};

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
    let whole = rows / tile.rows * tile.rows;
    let (tiles, rest) = out.split_at_mut(whole * depth);
    for k in 0..depth {
        let (values, left_over) = step(k)[..rows].split_at(whole);
        spread(tile.rows, depth, k, values, tiles);
        let mut first = 0;
        while first < left_over.len() {
            let height = tile.height(left_over.len() - first);
            rest[first * depth + k * height..][..height].copy_from_slice(&left_over[first..][..height]);
            first += height;
        }
    }
}

/// Puts `values`, the elements of all columns at step `k` of `depth`, into their panels.
pub(super) fn step_of_columns(tile: Tile, depth: usize, k: usize, values: &[f32], panels: &mut [f32]) {
    let whole = values.len() / tile.columns * tile.columns;
    let (values, left_over) = values.split_at(whole);
    let (panels, last) = panels.split_at_mut(whole * depth);
    spread(tile.columns, depth, k, values, panels);
    if !left_over.is_empty() {
        let step = &mut last[k * tile.columns..][..tile.columns];
        step[..left_over.len()].copy_from_slice(left_over);
        step[left_over.len()..].fill(0.0);
    }
}

/// `out[(i · depth + k) · width ..] = values[i · width ..]` for each whole `width`; the usual widths have their own code.
fn spread(width: usize, depth: usize, k: usize, values: &[f32], out: &mut [f32]) {
    fn fixed<const WIDTH: usize>(depth: usize, k: usize, values: &[f32], out: &mut [f32]) {
        let (values, _) = values.as_chunks::<WIDTH>();
        for (values, out) in values
            .iter()
            .zip(out.as_chunks_mut::<WIDTH>().0.chunks_exact_mut(depth))
        {
            out[k] = *values;
        }
    }
    match width {
        32 => fixed::<32>(depth, k, values, out),
        16 => fixed::<16>(depth, k, values, out),
        12 => fixed::<12>(depth, k, values, out),
        8 => fixed::<8>(depth, k, values, out),
        6 => fixed::<6>(depth, k, values, out),
        _ => {
            for (i, values) in values.chunks_exact(width).enumerate() {
                out[(i * depth + k) * width..][..width].copy_from_slice(values);
            }
        }
    }
}

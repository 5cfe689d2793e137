//! The micro-kernel: the product of a packed block of rows and a packed panel of columns, held in vector registers.
//!
//! `out[i, j] (+)= Σ_k x[i, k] · w[j, k]`, summed over k in order, one fused multiply-add a step. Every tile height runs the
//! same sum, so an element's bits depend on its row and its column alone.

use pulp::{Arch, Simd, WithSimd};

/// Vectors of columns in a tile: each broadcast of x feeds this many multiply-adds.
const VECTORS: usize = 2;

/// Heights of tiles, tallest first; the rows left over by the tallest go to the next that fits.
const HEIGHTS: [usize; 6] = [12, 8, 6, 4, 2, 1];

/// The shape of a register tile: accumulators fill the register file, less room for one row of w and a broadcast of x.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    /// Most rows of x in a tile.
    pub rows: usize,
    /// Columns of w in a panel.
    pub columns: usize,
}

impl Tile {
    pub(super) fn of(arch: Arch) -> Self {
        struct Shape;
        impl WithSimd for Shape {
            type Output = Tile;
            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> Tile {
                Tile {
                    rows: tallest::<S>(),
                    columns: VECTORS * S::F32_LANES,
                }
            }
        }
        arch.dispatch(Shape)
    }

    /// Height of the next tile when `left` rows are left.
    pub(super) fn height(self, left: usize) -> usize {
        height(self.rows, left)
    }
}

const fn tallest<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 12 } else { 6 }
}

#[inline(always)]
fn height(tallest: usize, left: usize) -> usize {
    let limit = tallest.min(left);
    HEIGHTS.into_iter().find(|h| *h <= limit).unwrap_or(1)
}

/// A product of packed operands; run it with [`Arch::dispatch`].
pub(super) struct Product<'a> {
    /// Row tiles (see `pack`): the tile of row `r` starts at `r · x_stride`, k-major.
    pub x: &'a [f32],
    /// Depth that x was packed with; at least `skip + depth`.
    pub x_stride: usize,
    /// Steps of x's tiles before the first that is summed.
    pub skip: usize,
    /// Columns, k-major.
    pub w: Columns<'a>,
    /// Length of the sum.
    pub depth: usize,
    /// Rows of x; a whole number of x's tiles.
    pub rows: usize,
    /// Columns of w that exist.
    pub columns: usize,
    /// Where the product goes.
    pub out: Output,
    /// Whether it is added to what is there.
    pub add: bool,
}

/// How the columns of a product lie in memory, k-major.
#[derive(Clone, Copy)]
pub(super) enum Columns<'a> {
    /// In panels of a tile's width, of `depth` steps each, one after another; the last one is padded.
    Panels(&'a [f32]),
    /// Where they were: steps are `stride` apart. A whole number of a tile's widths.
    InPlace { values: &'a [f32], stride: usize },
}

/// A row-major region of memory that one [`Product`] may write: `rows` rows of `columns` elements, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Output {
    start: *mut f32,
    stride: usize,
}

// SAFETY: an `Output` is only made by `new`, whose caller promises that no two threads write the same element.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    /// Until the last product into it (or into a part made by [`Output::at`]) is done, the memory is valid, and nothing else
    /// reads or writes an element that a product writes.
    pub(super) unsafe fn new(memory: &mut [f32], stride: usize) -> Self {
        Self {
            start: memory.as_mut_ptr(),
            stride,
        }
    }

    /// The region that starts at the given row and column of this one.
    ///
    /// # Safety
    /// The element lies within the memory.
    pub(super) unsafe fn at(self, row: usize, column: usize) -> Self {
        // SAFETY: the caller's promise.
        Self {
            start: unsafe { self.start.add(row * self.stride + column) },
            ..self
        }
    }

    /// Elements `column..column + len` of a row.
    ///
    /// # Safety
    /// They lie within the memory, and nothing else uses them while the slice lives.
    pub(super) unsafe fn row_mut<'a>(self, row: usize, column: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride + column), len) }
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let panel = VECTORS * S::F32_LANES;
        let mut row = 0;
        while row < self.rows {
            let height = height(tallest::<S>(), self.rows - row);
            let x = &self.x[row * self.x_stride + self.skip * height..][..height * self.depth];
            for column in (0..self.columns).step_by(panel) {
                // SAFETY: row < rows and column < columns.
                let out = unsafe { self.out.at(row, column) };
                let columns = panel.min(self.columns - column);
                match self.w {
                    Columns::Panels(w) => {
                        let w = &w[column * self.depth..][..panel * self.depth];
                        let (steps, _) = S::as_simd_f32s(w).0.as_chunks();
                        tiles(simd, height, x, steps.iter(), out, columns, self.add);
                    }
                    Columns::InPlace { values, stride } => {
                        let steps = values[column..].chunks(stride).map(|step| {
                            let (vectors, _) = S::as_simd_f32s(&step[..panel]);
                            vectors
                                .first_chunk()
                                .expect("invariant: a panel is as wide as its vectors")
                        });
                        tiles(simd, height, x, steps, out, columns, self.add);
                    }
                }
            }
            row += height;
        }
    }
}

/// A step of a panel.
type Step<S> = [<S as Simd>::f32s; VECTORS];

/// One tile of the output, of the given height.
#[inline(always)]
fn tiles<'a, S: Simd>(
    simd: S,
    height: usize,
    x: &[f32],
    w: impl Iterator<Item = &'a Step<S>>,
    out: Output,
    columns: usize,
    add: bool,
) {
    match height {
        12 if tallest::<S>() == 12 => store::<S, 12>(simd, tile(simd, x, w), out, columns, add),
        8 if tallest::<S>() == 12 => store::<S, 8>(simd, tile(simd, x, w), out, columns, add),
        6 => store::<S, 6>(simd, tile(simd, x, w), out, columns, add),
        4 => store::<S, 4>(simd, tile(simd, x, w), out, columns, add),
        2 => store::<S, 2>(simd, tile(simd, x, w), out, columns, add),
        _ => store::<S, 1>(simd, tile(simd, x, w), out, columns, add),
    }
}

type Accumulators<S, const M: usize> = [Step<S>; M];

#[inline(always)]
fn tile<'a, S: Simd, const M: usize>(simd: S, x: &[f32], w: impl Iterator<Item = &'a Step<S>>) -> Accumulators<S, M> {
    let mut acc = [[simd.splat_f32s(0.0); VECTORS]; M];
    let (x, _) = x.as_chunks::<M>();
    for (x, w) in x.iter().zip(w) {
        for m in 0..M {
            let x = simd.splat_f32s(x[m]);
            for v in 0..VECTORS {
                acc[m][v] = simd.mul_add_e_f32s(x, w[v], acc[m][v]);
            }
        }
    }
    acc
}

#[inline(always)]
fn store<S: Simd, const M: usize>(simd: S, acc: Accumulators<S, M>, out: Output, columns: usize, add: bool) {
    if columns < VECTORS * S::F32_LANES {
        return store_part(simd, acc, out, columns, add);
    }
    for (m, acc) in acc.into_iter().enumerate() {
        // SAFETY: `Output::new`'s promise; m < rows, and the panel's columns exist.
        let row = unsafe { out.row_mut(m, 0, VECTORS * S::F32_LANES) };
        let (row, _) = S::as_mut_simd_f32s(row);
        for (out, value) in row.iter_mut().zip(acc) {
            *out = if add { simd.add_f32s(*out, value) } else { value };
        }
    }
}

/// The first `columns` of a panel.
#[inline(always)]
fn store_part<S: Simd, const M: usize>(simd: S, acc: Accumulators<S, M>, out: Output, columns: usize, add: bool) {
    for (m, acc) in acc.into_iter().enumerate() {
        // SAFETY: `Output::new`'s promise; m < rows.
        let row = unsafe { out.row_mut(m, 0, columns) };
        for (out, mut value) in row.chunks_mut(S::F32_LANES).zip(acc) {
            if add {
                value = simd.add_f32s(simd.partial_load_f32s(out), value);
            }
            simd.partial_store_f32s(out, value);
        }
    }
}

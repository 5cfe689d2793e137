//! The `gemm` crate's products, called as the benches call ours: the rate a machine is measured by.

/// `y = x · Wᵀ` with the `gemm` crate on all cores of the pool: x (rows, k), w (n, k), y (rows, n), row-major f32.
///
/// # Panics
/// If the lengths do not fit the shape.
pub fn gemm_linear(rows: usize, n: usize, k: usize, x: &[f32], w: &[f32], y: &mut [f32]) {
    product([rows, n, k], (x, [k, 1]), (w, [1, k]), y);
}

/// `dx = dy · W`: dy (rows, n), w (n, k), dx (rows, k).
///
/// # Panics
/// If the lengths do not fit the shape.
pub fn gemm_linear_dx(rows: usize, n: usize, k: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    product([rows, k, n], (dy, [n, 1]), (w, [k, 1]), dx);
}

/// `dw = dyᵀ · x`: dy (rows, n), x (rows, k), dw (n, k).
///
/// # Panics
/// If the lengths do not fit the shape.
pub fn gemm_linear_dw(rows: usize, n: usize, k: usize, dy: &[f32], x: &[f32], dw: &mut [f32]) {
    product([n, k, rows], (dy, [1, n]), (x, [k, 1]), dw);
}

/// `out = left · right`, (m, n), summed over k; each factor with its distances of rows and of columns.
fn product(
    [m, n, k]: [usize; 3],
    (left, left_strides): (&[f32], [usize; 2]),
    (right, right_strides): (&[f32], [usize; 2]),
    out: &mut [f32],
) {
    assert_eq!(
        [left.len(), right.len(), out.len()],
        [m * k, k * n, m * n],
        "m {m}, n {n}, k {k}"
    );
    let [left_row, left_column] = left_strides.map(|s| s as isize);
    let [right_row, right_column] = right_strides.map(|s| s as isize);
    // SAFETY: the three lengths above are those the shapes and strides describe, and `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            left.as_ptr(),
            left_column,
            left_row,
            right.as_ptr(),
            right_column,
            right_row,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

//! The `gemm` crate's product, called as the benches call ours: the rate a machine is measured by.

/// `y = x · Wᵀ` with the `gemm` crate on all cores of the pool: x (rows, k), w (n, k), y (rows, n), row-major f32.
///
/// # Panics
/// If the lengths do not fit the shape.
pub fn gemm_linear(rows: usize, n: usize, k: usize, x: &[f32], w: &[f32], y: &mut [f32]) {
    assert_eq!(
        (x.len(), w.len(), y.len()),
        (rows * k, n * k, rows * n),
        "rows {rows}, n {n}, k {k}"
    );
    let [n_stride, k_stride] = [n as isize, k as isize];
    // SAFETY: the three lengths above are those the shapes and strides describe, and y is borrowed mutably.
    unsafe {
        gemm::gemm(
            rows,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n_stride,
            false,
            x.as_ptr(),
            1,
            k_stride,
            w.as_ptr(),
            k_stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

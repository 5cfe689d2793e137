//! What the metrics need of dense linear algebra, in f64: Gram matrices, eigenvalues and rows scaled or centred.
//!
//! Eigenvalues of a Gram matrix are those of the smaller of X Xᵀ and Xᵀ X; the rest is zero.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

/// Below this order a decomposition on one thread beats the same one split over threads.
const PARALLEL_FROM: usize = 384;

/// Likewise for products, in multiplications; token Gram matrices stay below and run side by side instead.
const PARALLEL_PRODUCT_FROM: usize = 1 << 24;

fn parallelism(n: usize) -> Par {
    if n < PARALLEL_FROM { Par::Seq } else { Par::rayon(0) }
}

/// Rows lying one after another as a matrix.
pub(crate) fn rows(values: &[f64], dim: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(values, values.len() / dim.max(1), dim)
}

/// a · b.
pub(crate) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    let multiplications = a.nrows() * a.ncols() * b.ncols();
    let par = if multiplications < PARALLEL_PRODUCT_FROM {
        Par::Seq
    } else {
        Par::rayon(0)
    };
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, par);
    out
}

/// x · xᵀ, or xᵀ · x where that is smaller: the Gram matrix with all nonzero eigenvalues.
pub(crate) fn smaller_gram(x: MatRef<'_, f64>) -> Mat<f64> {
    if x.nrows() <= x.ncols() {
        product(x, x.transpose())
    } else {
        product(x.transpose(), x)
    }
}

/// Eigenvalues (descending) and eigenvectors (columns, same order) of a symmetric matrix. `None` if the iteration fails,
/// which takes a matrix that is not finite.
pub(crate) fn eigen(a: MatRef<'_, f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let n = a.nrows();
    let mut vectors = Mat::zeros(n, n);
    let values = decompose(a, Some(&mut vectors))?;
    let reversed = vectors.as_ref().reverse_cols().to_owned();
    Some((values, reversed))
}

/// Eigenvalues of a symmetric matrix, descending.
pub(crate) fn eigenvalues(a: MatRef<'_, f64>) -> Option<Vec<f64>> {
    decompose(a, None)
}

fn decompose(a: MatRef<'_, f64>, vectors: Option<&mut Mat<f64>>) -> Option<Vec<f64>> {
    let n = a.nrows();
    let par = parallelism(n);
    let wanted = if vectors.is_some() {
        ComputeEigenvectors::Yes
    } else {
        ComputeEigenvectors::No
    };
    let mut memory = MemBuffer::new(self_adjoint_evd_scratch::<f64>(n, wanted, par, Default::default()));
    let mut values = Diag::<f64>::zeros(n);
    let u = vectors.map(|v| v.as_mut());
    self_adjoint_evd(
        a,
        values.as_mut(),
        u,
        par,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .ok()?;
    Some(values.column_vector().iter().rev().copied().collect())
}

/// ‖x_i‖₂ of every row.
pub(crate) fn row_norms(x: MatRef<'_, f64>) -> Vec<f64> {
    x.row_iter().map(|row| row.norm_l2()).collect()
}

/// Every row scaled to unit length; a zero row stays zero.
pub(crate) fn unit_rows(x: MatRef<'_, f64>) -> Mat<f64> {
    let scale: Vec<f64> = row_norms(x)
        .iter()
        .map(|&n| if n > 0.0 { 1.0 / n } else { 0.0 })
        .collect();
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] * scale[i])
}

/// Mean of the rows, (D).
pub(crate) fn mean_row(x: MatRef<'_, f64>) -> Vec<f64> {
    let n = x.nrows().max(1) as f64;
    x.col_iter().map(|column| column.sum() / n).collect()
}

/// Every row minus the mean row.
pub(crate) fn centred(x: MatRef<'_, f64>) -> Mat<f64> {
    let mean = mean_row(x);
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] - mean[j])
}

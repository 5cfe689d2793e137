//! The k leading singular triplets of one matrix: W v_i = σ_i u_i and Wᵀ u_i = σ_i v_i, i < k.
//!
//! Through the Gram matrix of the smaller side, summed in f64 over slices of the larger, so that no f64 copy of W is made.
//! Its leading eigenvectors: a full decomposition up to order 2048, block Krylov above ([`super::krylov`]), which falls back
//! to the full one where it does not converge. They are one side of the block; W times them, orthogonalised by Householder
//! reflections, is the other, with σ on the diagonal of the triangle.
//!
//! The residual max_i max(‖W v_i − σ_i u_i‖, ‖Wᵀ u_i − σ_i v_i‖)/σ_1 is measured on the result and at most 1e−5, or there
//! is an error: a σ_i is then wrong by at most 1e−5·σ_1, a direction by about 1e−5·σ_1 over the gap to the next value outside.
//! (Up to order 2048 it is around 1e−10.) Both sides are orthonormal to rounding whatever the rank: where W has fewer than k
//! directions, or is zero, the rest has σ = 0 and is any orthonormal completion. Signs are arbitrary but always the same.

use super::krylov::{Operator, leading};
use crate::{
    Error, Result,
    metrics::linalg::{eigen, product},
    progress::Progress,
};
use faer::{Mat, MatRef};

/// Largest order of a Gram matrix that is decomposed in full.
const EXACT_UP_TO: usize = 2048;
/// Largest residual of a block, in units of σ_1.
const TOLERANCE: f64 = 1e-5;
/// Rows of the long side that are widened to f64 at a time.
const SLICE: usize = 4096;
/// Seeds the random start of the iteration.
const SEED: u64 = 0;

/// Of a matrix (out, in), row-major f32: W v_i = σ_i u_i, i < k.
#[derive(Clone, Debug, PartialEq)]
pub struct SingularBlock {
    /// (out, in) of the matrix.
    pub shape: [usize; 2],
    /// Descending, (k).
    pub sigma: Vec<f32>,
    /// Left singular vectors, one a row: U_kᵀ, (k, out).
    pub left: Vec<f32>,
    /// Right singular vectors, one a row: V_kᵀ, (k, in).
    pub right: Vec<f32>,
}

impl SingularBlock {
    /// The `k` leading triplets of `values` (out, in), all of them if there are no more than `k`. `name` is for messages.
    ///
    /// # Errors
    /// [`Error::NotConverged`], which takes values that are not finite; [`Error::Interrupted`].
    ///
    /// # Panics
    /// If the number of values is not that of the shape, or one of these is zero.
    pub fn of(name: &str, values: &[f32], shape: [usize; 2], k: usize, progress: &dyn Progress) -> Result<Self> {
        let [rows, cols] = shape;
        assert!(
            k > 0 && !values.is_empty() && values.len() == rows * cols,
            "{name}: {k} directions of {rows} × {cols} in {} values",
            values.len()
        );
        let k = k.min(rows).min(cols);
        let wide = rows < cols;
        let matrix = MatRef::from_row_major_slice(values, rows, cols);
        let sides = Sides(if wide { matrix.transpose() } else { matrix });
        let not_converged = |residual| Error::NotConverged {
            tensor: name.to_owned(),
            shape,
            directions: k,
            residual,
            tolerance: TOLERANCE,
        };
        let gram = sides.gram(progress)?;
        let short = leading_eigenvectors(gram.as_ref(), k, EXACT_UP_TO).ok_or_else(|| not_converged(f64::NAN))?;
        let (sigma, long, short) = sides.complete(short);
        let residual = sides.residual(&sigma, &long, &short);
        if residual.is_nan() || residual > TOLERANCE {
            return Err(not_converged(residual));
        }
        let rows_of = |side: &Mat<f64>| side.col_iter().flat_map(|c| c.iter().map(|x| *x as f32)).collect();
        let (left, right) = if wide { (&short, &long) } else { (&long, &short) };
        Ok(Self {
            shape,
            sigma: sigma.iter().map(|s| *s as f32).collect(),
            left: rows_of(left),
            right: rows_of(right),
        })
    }

    /// k.
    pub fn directions(&self) -> usize {
        self.sigma.len()
    }
}

/// Orthonormal eigenvectors of the `k` largest eigenvalues, (n, k). `None` if the matrix is not finite.
fn leading_eigenvectors(gram: MatRef<'_, f64>, k: usize, exact_up_to: usize) -> Option<Mat<f64>> {
    if gram.nrows() > exact_up_to
        && let Some(found) = leading(&Operator::dense(gram), k, SEED)
    {
        let mut padded = Mat::zeros(gram.nrows(), k);
        let known = found.u.ncols();
        padded.as_mut().subcols_mut(0, known).copy_from(&found.u);
        // reflections complete the basis where the matrix has fewer directions
        return Some(padded.qr().compute_thin_Q());
    }
    let (_, vectors) = eigen(gram)?;
    Some(vectors.as_ref().subcols(0, k).to_owned())
}

/// A matrix turned so that it has no fewer rows than columns: (long, short).
struct Sides<'a>(MatRef<'a, f32>);

impl Sides<'_> {
    /// Slices of consecutive rows in f64, each with its first row.
    fn slices(&self) -> impl Iterator<Item = (usize, Mat<f64>)> {
        let long = self.0.nrows();
        (0..long).step_by(SLICE).map(move |first| {
            let slice = self.0.subrows(first, SLICE.min(long - first));
            (
                first,
                Mat::from_fn(slice.nrows(), slice.ncols(), |i, j| f64::from(slice[(i, j)])),
            )
        })
    }

    /// WᵀW, (short, short).
    fn gram(&self, progress: &dyn Progress) -> Result<Mat<f64>> {
        let mut gram = Mat::zeros(self.0.ncols(), self.0.ncols());
        for (_, slice) in self.slices() {
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            gram += product(slice.transpose(), slice.as_ref());
        }
        Ok(gram)
    }

    /// W x, (long, k).
    fn apply(&self, x: &Mat<f64>) -> Mat<f64> {
        let mut image = Mat::zeros(self.0.nrows(), x.ncols());
        for (first, slice) in self.slices() {
            let part = product(slice.as_ref(), x.as_ref());
            image.as_mut().subrows_mut(first, slice.nrows()).copy_from(part);
        }
        image
    }

    /// Wᵀ y, (short, k).
    fn apply_transpose(&self, y: &Mat<f64>) -> Mat<f64> {
        let mut image = Mat::zeros(self.0.ncols(), y.ncols());
        for (first, slice) in self.slices() {
            image += product(slice.transpose(), y.as_ref().subrows(first, slice.nrows()));
        }
        image
    }

    /// σ, the long side and the short side of the triplets with these vectors on the short side, σ descending.
    fn complete(&self, short: Mat<f64>) -> (Vec<f64>, Mat<f64>, Mat<f64>) {
        let decomposed = self.apply(&short).qr();
        let (q, r) = (decomposed.compute_thin_Q(), decomposed.thin_R());
        // values at rounding level may be out of order
        let mut order: Vec<usize> = (0..short.ncols()).collect();
        order.sort_by(|&a, &b| r[(b, b)].abs().total_cmp(&r[(a, a)].abs()));
        let sigma = order.iter().map(|&a| r[(a, a)].abs()).collect();
        let long = Mat::from_fn(q.nrows(), order.len(), |i, a| {
            let a = order[a];
            if r[(a, a)] < 0.0 { -q[(i, a)] } else { q[(i, a)] }
        });
        let short = Mat::from_fn(short.nrows(), order.len(), |i, a| short[(i, order[a])]);
        (sigma, long, short)
    }

    /// The largest of the residuals in units of σ_1, NaN if any is; 0 of a zero matrix.
    fn residual(&self, sigma: &[f64], long: &Mat<f64>, short: &Mat<f64>) -> f64 {
        let distances = |image: Mat<f64>, side: &Mat<f64>| -> Vec<f64> {
            let columns = image.col_iter().zip(side.col_iter()).zip(sigma);
            let squared =
                columns.map(|((x, y), s)| x.iter().zip(y.iter()).map(|(x, y)| (x - s * y).powi(2)).sum::<f64>());
            squared.collect()
        };
        let both = [
            distances(self.apply(short), long),
            distances(self.apply_transpose(long), short),
        ];
        // NaN is the largest of all in the total order
        let largest = both.concat().into_iter().map(|d| d.abs().sqrt()).max_by(f64::total_cmp);
        match largest {
            Some(0.0) | None => 0.0,
            Some(largest) => largest / sigma[0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{progress::Silent, rng, singular::with_spectrum};
    use proptest::prelude::*;

    fn random(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
        let mut stream = rng::stream(seed, "test matrix", &[]);
        (0..rows * cols).map(|_| rng::normal(&mut stream) as f32).collect()
    }

    fn row_major(matrix: &Mat<f64>) -> Vec<f32> {
        matrix
            .row_iter()
            .flat_map(|row| row.iter().map(|x| *x as f32))
            .collect()
    }

    fn of(values: &[f32], shape: [usize; 2], k: usize) -> SingularBlock {
        SingularBlock::of("w", values, shape, k, &Silent).unwrap()
    }

    /// Checks everything that the documentation promises against the full decomposition.
    fn check(values: &[f32], [rows, cols]: [usize; 2], k: usize) {
        let block = of(values, [rows, cols], k);
        let matrix = Mat::from_fn(rows, cols, |i, j| f64::from(values[i * cols + j]));
        let expected = matrix.singular_values().unwrap();
        let scale = expected[0].max(f64::MIN_POSITIVE);
        assert_eq!((block.shape, block.directions()), ([rows, cols], k.min(rows).min(cols)));
        for (i, s) in block.sigma.iter().enumerate() {
            assert!(
                (f64::from(*s) - expected[i]).abs() <= 1e-6 * scale,
                "σ_{i}: {s} vs {}",
                expected[i]
            );
        }
        let k = block.directions();
        let side = |side: &[f32], len: usize| Mat::from_fn(len, k, |i, a| f64::from(side[a * len + i]));
        let (u, v) = (side(&block.left, rows), side(&block.right, cols));
        for basis in [&u, &v] {
            let excess = product(basis.transpose(), basis.as_ref()) - Mat::<f64>::identity(k, k);
            assert!(excess.norm_max() < 1e-6, "{excess:?}");
        }
        let mut core = product(u.transpose(), product(matrix.as_ref(), v.as_ref()).as_ref());
        (0..k).for_each(|a| core[(a, a)] -= f64::from(block.sigma[a]));
        assert!(core.norm_max() <= 2e-6 * scale, "{core:?}");
    }

    proptest! {
        #[test]
        fn it_is_the_top_of_the_full_decomposition(rows in 1_usize..40, cols in 1_usize..40, k in 1_usize..50, seed in 0_u64..100) {
            check(&random(rows, cols, seed), [rows, cols], k);
        }
    }

    #[test]
    fn several_slices_are_one_matrix() {
        check(&random(SLICE + 3, 5, 1), [SLICE + 3, 5], 3);
        check(&random(6, 2 * SLICE + 1, 2), [6, 2 * SLICE + 1], 6);
    }

    #[test]
    fn what_a_matrix_lacks_is_completed() {
        check(&[0.0; 35], [5, 7], 3);
        for (rows, cols) in [(30, 20), (20, 30)] {
            check(&row_major(&with_spectrum(rows, cols, &[2.0, 1.0])), [rows, cols], 6);
        }
    }

    #[test]
    fn the_same_matrix_gives_the_same_bits() {
        let values = random(40, 30, 5);
        assert_eq!(of(&values, [40, 30], 8), of(&values, [40, 30], 8));
    }

    /// Both ways through the Gram matrix span the same subspace, and both complete it.
    #[test]
    fn the_iteration_agrees_with_the_full_decomposition() {
        let sigma: Vec<f64> = (0..60).map(|i| 3.0 * 0.9_f64.powi(i)).collect();
        for (sigma, k) in [(&sigma[..], 10), (&sigma[..4], 10), (&sigma[..0], 2)] {
            let gram = match sigma.len() {
                0 => Mat::zeros(80, 80),
                _ => {
                    let matrix = with_spectrum(100, 80, sigma);
                    product(matrix.transpose(), matrix.as_ref())
                }
            };
            let exact = leading_eigenvectors(gram.as_ref(), k, 80).unwrap();
            let iterated = leading_eigenvectors(gram.as_ref(), k, 0).unwrap();
            let excess = product(iterated.transpose(), iterated.as_ref()) - Mat::<f64>::identity(k, k);
            assert!(excess.norm_max() < 1e-12);
            let known = k.min(sigma.len());
            let overlap = product(
                exact.as_ref().subcols(0, known).transpose(),
                iterated.as_ref().subcols(0, known),
            );
            assert!(
                (overlap.squared_norm_l2() - known as f64).abs() < 1e-9,
                "{known} of {overlap:?}"
            );
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = random(12, 9, 0);
            values[17] = bad;
            let error = SingularBlock::of("model.w", &values, [12, 9], 4, &Silent).unwrap_err();
            assert!(error.to_string().contains("`model.w` (12 × 9)"), "{error}");
        }
    }
}

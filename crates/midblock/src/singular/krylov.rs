//! Leading singular directions without a full decomposition.
//!
//! Block Golub–Kahan–Lanczos with full reorthogonalisation from a random block (block Krylov; Golub, Luk & Overton 1981;
//! Musco & Musco 2015), restarted with its leading Ritz vectors when the basis is full (thick restart; Baglama & Reichel
//! 2005), stopped by its residual ‖A v − σ u‖ ≤ 1e−7 σ_1, which bounds the error of σ by its square over the gap.
//! Directions that do not converge are reported as such, not guessed.

use crate::metrics::linalg::{eigen, product};
use crate::rng::stream;
use faer::{Mat, MatRef};
use rand::RngExt;

const RESIDUAL_TOLERANCE: f64 = 1e-7;
const OVERSAMPLING: usize = 8;
const LARGEST_BASIS: usize = 512;
const MOST_RESTARTS: usize = 30;

/// A (rows, cols) matrix, perhaps with a low-rank term B·A that is never formed.
pub(crate) struct Operator<'a> {
    pub dense: MatRef<'a, f64>,
    /// (rows, R) and (R, cols).
    pub low_rank: Option<(MatRef<'a, f64>, MatRef<'a, f64>)>,
}

impl<'a> Operator<'a> {
    /// A matrix as it is.
    pub fn dense(dense: MatRef<'a, f64>) -> Self {
        Self { dense, low_rank: None }
    }

    fn apply(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let mut out = product(self.dense, x);
        if let Some((b, a)) = self.low_rank {
            out += product(b, product(a, x).as_ref());
        }
        out
    }

    fn apply_transpose(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let mut out = product(self.dense.transpose(), x);
        if let Some((b, a)) = self.low_rank {
            out += product(a.transpose(), product(b.transpose(), x).as_ref());
        }
        out
    }
}

/// Leading singular triplets, k of them.
pub(crate) struct Leading {
    /// Descending, (k).
    pub sigma: Vec<f64>,
    /// (rows, k).
    pub u: Mat<f64>,
    /// (cols, k).
    pub v: Mat<f64>,
}

/// The `k` leading singular triplets, fewer if there are no more; `None` if they do not converge.
pub(crate) fn leading(operator: &Operator<'_>, k: usize, seed: u64) -> Option<Leading> {
    let (rows, cols) = (operator.dense.nrows(), operator.dense.ncols());
    let limit = rows.min(cols);
    let width = (k + OVERSAMPLING).min(limit);
    let largest = LARGEST_BASIS.max(4 * width).min(limit);
    let start = gaussian(cols, width, seed);
    let mut q = orthonormal(operator.apply(start.as_ref()), None); // (rows, m)
    let mut z = Mat::zeros(cols, 0); // Aᵀ Q (cols, m)
    let mut az = Mat::zeros(rows, 0); // A Aᵀ Q (rows, m)
    let mut fresh = q.clone();
    let mut next_check = 4 * width; // a decomposition of the basis costs more than growing it: check at growing sizes
    let mut restarts = 0;
    while fresh.ncols() > 0 {
        let z_fresh = operator.apply_transpose(fresh.as_ref());
        let az_fresh = operator.apply(z_fresh.as_ref());
        z = beside(&z, &z_fresh);
        az = beside(&az, &az_fresh);
        fresh = orthonormal(az_fresh, Some(&q));
        let full = q.ncols() >= largest;
        if full || q.ncols() >= next_check {
            next_check = q.ncols() * 3 / 2;
            let (lambda, t) = eigen(product(z.transpose(), z.as_ref()).as_ref())?;
            let (leading, residual) = ritz([&q, &z, &az], &lambda, &t, k);
            let converged = leading.sigma.len() == k && residual <= RESIDUAL_TOLERANCE * leading.sigma[0];
            if converged || q.ncols() == limit {
                return Some(leading);
            }
            if full {
                if restarts == MOST_RESTARTS {
                    return None;
                }
                // the next block is orthogonal to the whole basis, so also to the half that stays
                restarts += 1;
                next_check = largest;
                let stay = t.as_ref().subcols(0, (largest / 2).max(width));
                for basis in [&mut q, &mut z, &mut az] {
                    *basis = product(basis.as_ref(), stay);
                }
            }
        }
        let room = limit - q.ncols();
        fresh = fresh.as_ref().subcols(0, fresh.ncols().min(room)).to_owned();
        q = beside(&q, &fresh);
    }
    // the range of A is exhausted: Q spans it all and the Ritz values are exact
    let (lambda, t) = eigen(product(z.transpose(), z.as_ref()).as_ref())?;
    Some(ritz([&q, &z, &az], &lambda, &t, k).0)
}

/// The leading Ritz triplets of a basis, at most `k`, and the largest residual among them. `lambda` and `t` decompose ZᵀZ.
fn ritz([q, z, az]: [&Mat<f64>; 3], lambda: &[f64], t: &Mat<f64>, k: usize) -> (Leading, f64) {
    let sigma = lambda.iter().take(k).map(|l| l.max(0.0).sqrt());
    let noise = 1e-12 * lambda.first().map_or(0.0, |l| l.max(0.0).sqrt());
    let sigma: Vec<f64> = sigma.take_while(|s| *s > noise).collect();
    let top = t.as_ref().subcols(0, sigma.len());
    let u = product(q.as_ref(), top);
    let mut v = product(z.as_ref(), top);
    let mut residual = product(az.as_ref(), top); // σ A v
    for (a, s) in sigma.iter().enumerate() {
        v.col_mut(a).iter_mut().for_each(|x| *x /= s);
        residual
            .col_mut(a)
            .iter_mut()
            .zip(u.col(a).iter())
            .for_each(|(r, u)| *r = *r / s - s * u);
    }
    let largest = residual.col_iter().map(|r| r.norm_l2()).fold(0.0, f64::max);
    (Leading { sigma, u, v }, largest)
}

/// An orthonormal basis of the columns of `block`, orthogonal to `against`; directions lost in rounding are dropped.
fn orthonormal(mut block: Mat<f64>, against: Option<&Mat<f64>>) -> Mat<f64> {
    let scale = block.norm_l2();
    for pass in 0..3 {
        if let Some(q) = against {
            block -= product(q.as_ref(), product(q.transpose(), block.as_ref()).as_ref());
        }
        let Some((lambda, t)) = eigen(product(block.transpose(), block.as_ref()).as_ref()) else {
            return Mat::zeros(block.nrows(), 0);
        };
        let noise = if pass == 0 { (1e-12 * scale).powi(2) } else { 0.0 };
        let kept = lambda
            .iter()
            .take_while(|l| **l > noise && **l > 1e-13 * lambda[0])
            .count();
        let scaled = Mat::from_fn(t.nrows(), kept, |i, j| t[(i, j)] / lambda[j].sqrt());
        block = product(block.as_ref(), scaled.as_ref());
        if kept == 0 {
            break;
        }
    }
    block
}

fn beside(left: &Mat<f64>, right: &Mat<f64>) -> Mat<f64> {
    let m = left.ncols();
    Mat::from_fn(right.nrows(), m + right.ncols(), |i, j| {
        if j < m { left[(i, j)] } else { right[(i, j - m)] }
    })
}

/// Standard normal entries (Box–Muller).
fn gaussian(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
    let mut rng = stream(seed, "lanczos start", &[]);
    Mat::from_fn(rows, cols, |_, _| {
        let (radius, angle): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A matrix with singular values `sigma` and random directions.
    pub(crate) fn with_spectrum(rows: usize, cols: usize, sigma: &[f64]) -> Mat<f64> {
        let left = orthonormal(gaussian(rows, sigma.len(), 1), None);
        let right = orthonormal(gaussian(cols, sigma.len(), 2), None);
        let scaled = Mat::from_fn(rows, sigma.len(), |i, j| left[(i, j)] * sigma[j]);
        product(scaled.as_ref(), right.transpose())
    }

    #[test]
    fn leading_triplets_match_the_full_decomposition() {
        let sigma: Vec<f64> = (0..60).map(|i| 5.0 * 0.93_f64.powi(i)).collect();
        let a = with_spectrum(90, 70, &sigma);
        let found = leading(&Operator::dense(a.as_ref()), 8, 3).unwrap();
        let svd = a.thin_svd().unwrap();
        for (i, s) in found.sigma.iter().enumerate() {
            assert!((s / sigma[i] - 1.0).abs() < 1e-12, "σ_{i}: {s} vs {}", sigma[i]);
        }
        let overlap = product(svd.V().subcols(0, 8).transpose(), found.v.as_ref()).squared_norm_l2();
        assert!((overlap / 8.0 - 1.0).abs() < 1e-10, "{overlap}");
    }

    /// Values so close that a basis of 512 does not separate them.
    #[test]
    fn close_values_converge_after_restarts() {
        let sigma: Vec<f64> = (0..900).map(|i| 2.0 - f64::from(i) / 900.0).collect();
        let a = with_spectrum(1000, 900, &sigma);
        let found = leading(&Operator::dense(a.as_ref()), 100, 3).unwrap();
        assert_eq!(found.sigma.len(), 100);
        for (i, s) in found.sigma.iter().enumerate() {
            assert!((s / sigma[i] - 1.0).abs() < 1e-9, "σ_{i}: {s} vs {}", sigma[i]);
        }
    }

    #[test]
    fn a_low_rank_term_is_part_of_the_operator() {
        let dense = with_spectrum(40, 30, &[3.0, 2.0, 1.0, 0.5]);
        let (b, a) = (gaussian(40, 2, 7), gaussian(2, 30, 8));
        let operator = Operator {
            dense: dense.as_ref(),
            low_rank: Some((b.as_ref(), a.as_ref())),
        };
        let sum = &dense + product(b.as_ref(), a.as_ref());
        let expected = sum.singular_values().unwrap();
        let found = leading(&operator, 5, 0).unwrap();
        for (s, e) in found.sigma.iter().zip(&expected) {
            assert!((s / e - 1.0).abs() < 1e-12, "{s} vs {e}");
        }
        assert_eq!(leading(&operator, 7, 0).unwrap().sigma.len(), 6, "the rank is six");
        let zero = leading(&Operator::dense(Mat::zeros(5, 5).as_ref()), 1, 0).unwrap();
        assert!(zero.sigma.is_empty());
    }
}

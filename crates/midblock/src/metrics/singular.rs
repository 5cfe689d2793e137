//! Leading singular directions and spectral entropy of weight matrices without a full decomposition.
//!
//! Leading directions: block Golub–Kahan–Lanczos with full reorthogonalisation from a random block (block Krylov; Golub, Luk
//! & Overton 1981; Musco & Musco 2015), stopped by its residual ‖A v − σ u‖ ≤ 1e−7 σ_1, which bounds the error of σ by
//! its square over the gap. Directions that do not converge within [`LARGEST_BASIS`] are reported as such, not guessed.
//!
//! Spectral entropy S(σ²): exact through the smaller Gram matrix up to order 1024; above that stochastic Lanczos quadrature
//! (Ubaru, Chen & Saad 2017) with 16 probes of 30 steps. The quadrature of Σ λ ln λ is divided by that of Σ λ, which cancels
//! most of the probes' noise; what remains is about √(2/(16·rank)) relative on exp S: 1 % at an effective rank of 1000.

use super::entropy::entropy_of;
use super::linalg::{eigen, eigenvalues, product, smaller_gram};
use crate::rng::stream;
use faer::{Mat, MatRef, Scale};
use rand::RngExt;

const RESIDUAL_TOLERANCE: f64 = 1e-7;
const OVERSAMPLING: usize = 8;
const LARGEST_BASIS: usize = 512;
const EXACT_UP_TO: usize = 1024;
const PROBES: usize = 16;
const STEPS: usize = 30;

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

/// Leading singular triplets.
pub(crate) struct Leading {
    /// Descending, (k).
    pub sigma: Vec<f64>,
    /// (rows, k).
    pub u: Mat<f64>,
    /// (cols, k).
    pub v: Mat<f64>,
}

/// The `k` leading singular triplets; `None` if they do not converge or there are fewer than `k`.
pub(crate) fn leading(operator: &Operator<'_>, k: usize, seed: u64) -> Option<Leading> {
    let (rows, cols) = (operator.dense.nrows(), operator.dense.ncols());
    let limit = rows.min(cols);
    let width = (k + OVERSAMPLING).min(limit);
    let start = gaussian(cols, width, seed);
    let mut q = orthonormal(operator.apply(start.as_ref()), None); // (rows, m)
    let mut z = Mat::zeros(cols, 0); // Aᵀ Q (cols, m)
    let mut az = Mat::zeros(rows, 0); // A Aᵀ Q (rows, m)
    let mut fresh = q.clone();
    let mut next_check = 4 * width; // a decomposition of the basis costs more than growing it: check at growing sizes
    loop {
        if fresh.ncols() == 0 {
            // the range of A is exhausted: Q spans it all and the Ritz values are exact
            return ritz(&q, &z, &az, k).map(|(leading, _)| leading);
        }
        let z_fresh = operator.apply_transpose(fresh.as_ref());
        let az_fresh = operator.apply(z_fresh.as_ref());
        z = beside(&z, &z_fresh);
        az = beside(&az, &az_fresh);
        let full = q.ncols() >= LARGEST_BASIS.min(limit);
        if full || q.ncols() >= next_check {
            next_check = q.ncols() * 3 / 2;
            match ritz(&q, &z, &az, k) {
                Some((leading, residual))
                    if residual <= RESIDUAL_TOLERANCE * leading.sigma[0] || q.ncols() == limit =>
                {
                    return Some(leading);
                }
                _ if full => return None,
                _ => {}
            }
        }
        fresh = orthonormal(az_fresh, Some(&q));
        let room = limit - q.ncols();
        fresh = fresh.as_ref().subcols(0, fresh.ncols().min(room)).to_owned();
        q = beside(&q, &fresh);
    }
}

/// Ritz triplets of the basis `q` and the largest residual among the first `k`.
fn ritz(q: &Mat<f64>, z: &Mat<f64>, az: &Mat<f64>, k: usize) -> Option<(Leading, f64)> {
    if q.ncols() < k {
        return None;
    }
    let (lambda, t) = eigen(product(z.transpose(), z.as_ref()).as_ref())?;
    let sigma: Vec<f64> = lambda[..k].iter().map(|l| l.max(0.0).sqrt()).collect();
    if sigma[k - 1] <= 1e-12 * sigma[0] {
        return None; // fewer than k directions, or a zero matrix
    }
    let top = t.as_ref().subcols(0, k);
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
    Some((Leading { sigma, u, v }, largest))
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

/// S(σ²) in nats of a matrix that is not zero.
pub(crate) fn spectral_entropy(a: MatRef<'_, f64>, seed: u64) -> Option<f64> {
    if a.nrows().min(a.ncols()) <= EXACT_UP_TO {
        return Some(entropy_of(&eigenvalues(smaller_gram(a).as_ref())?, 1.0));
    }
    lanczos_entropy(a, seed)
}

/// −Σ p ln p with p = λ/Σλ by stochastic Lanczos quadrature on the smaller Gram matrix; all probes share each product.
fn lanczos_entropy(a: MatRef<'_, f64>, seed: u64) -> Option<f64> {
    let a = if a.nrows() < a.ncols() { a.transpose() } else { a }; // (rows ≥ cols)
    let total = a.squared_norm_l2();
    let mut rng = stream(seed, "entropy probes", &[]);
    let mut current = Mat::from_fn(a.ncols(), PROBES, |_, _| if rng.random::<bool>() { 1.0 } else { -1.0 });
    current *= Scale(1.0 / (a.ncols() as f64).sqrt());
    let mut basis: Vec<Mat<f64>> = Vec::with_capacity(STEPS); // step by step, (cols, PROBES)
    let mut tridiagonal = vec![Mat::<f64>::zeros(STEPS, STEPS); PROBES];
    for step in 0..STEPS.min(a.ncols()) {
        let mut next = product(a.transpose(), product(a, current.as_ref()).as_ref());
        next *= Scale(1.0 / total); // eigenvalues are then p
        basis.push(current);
        for (probe, t) in tridiagonal.iter_mut().enumerate() {
            let column = next.col_as_slice_mut(probe);
            for _ in 0..2 {
                for (k, q) in basis.iter().enumerate() {
                    let q = q.col_as_slice(probe);
                    let overlap: f64 = q.iter().zip(&*column).map(|(q, x)| q * x).sum();
                    column.iter_mut().zip(q).for_each(|(x, q)| *x -= overlap * q);
                    if k == step {
                        t[(step, step)] += overlap;
                    }
                }
            }
            let norm = column.iter().map(|x| x * x).sum::<f64>().sqrt();
            // a norm at rounding level: the probe's Krylov space is complete, and a zero coupling cuts the matrix there
            let coupling = if norm > 1e-14 { norm } else { 0.0 };
            if step + 1 < STEPS {
                t[(step + 1, step)] = coupling;
                t[(step, step + 1)] = coupling;
            }
            column
                .iter_mut()
                .for_each(|x| *x = if coupling > 0.0 { *x / norm } else { 0.0 });
        }
        current = next;
    }
    let (mut plogp, mut mass) = (0.0, 0.0);
    for t in &tridiagonal {
        let (nodes, vectors) = eigen(t.as_ref())?;
        for (k, &p) in nodes.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            let weight = vectors[(0, k)].powi(2);
            plogp += weight * p * p.ln();
            mass += weight * p;
        }
    }
    (mass > 0.0).then(|| -plogp / mass)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix with singular values `sigma` and random directions.
    fn with_spectrum(rows: usize, cols: usize, sigma: &[f64]) -> Mat<f64> {
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
        assert!(leading(&operator, 7, 0).is_none(), "rank is six");
        assert!(leading(&Operator::dense(Mat::zeros(5, 5).as_ref()), 1, 0).is_none());
    }

    #[test]
    fn lanczos_quadrature_is_within_a_few_percent() {
        for decay in [0.999, 0.99, 0.95] {
            let sigma: Vec<f64> = (0..300).map(|i| f64::powi(decay, i)).collect();
            let a = with_spectrum(360, 300, &sigma);
            let exact = entropy_of(&sigma.iter().map(|s| s * s).collect::<Vec<_>>(), 1.0).exp();
            let estimate = lanczos_entropy(a.as_ref(), 5).unwrap().exp();
            let allowed = 3.0 * (2.0 / (PROBES as f64 * exact)).sqrt();
            assert!(
                (estimate / exact - 1.0).abs() < allowed,
                "{estimate} vs {exact}, allowed {allowed}"
            );
        }
    }
}

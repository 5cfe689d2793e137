//! Subspace overlap: do the k directions in which samples differ most stay the same from one model to the other?
//!
//! overlap = ‖V_xᵀ V_y‖²_F / k = mean squared cosine of the principal angles between the top-k PCA subspaces (Björck & Golub
//! 1973) of X and Y, in [0, 1]; 1 = the same subspace. Floor: k/D, the mean overlap of two random k-dimensional subspaces; a
//! shuffled pairing would change nothing, since a subspace does not know which sample is which.
//!
//! All of it comes from the centred Gram matrices and the cross Gram X̃ Ỹᵀ (N, N): V = X̃ᵀ U Σ^{−1} is never formed.
//! Edge cases: either side has fewer than k directions (N ≤ k, D < k, repeated rows): undefined.
//!
//! Spread: first-order perturbation of the projectors. Weights c couple direction a < k with b ≥ k by σ_a σ_b Σ_j c_j u_ja u_jb
//! over their gap λ_a − λ_b. A gap smaller than the coupling's own standard deviation √(λ_a λ_b/N) is not resolved by the
//! sample; its square is then replaced by that variance, which keeps the influence bounded. Where σ_k ≈ σ_{k+1} the interval is
//! wide, because the subspace itself is uncertain.

use super::estimate::Estimate;
use super::linalg::{eigen, product};
use faer::{Mat, MatRef};

/// λ below this share of the largest is no direction.
const SMALLEST_EIGENVALUE: f64 = 1e-12;

/// Overlap of the top-`k` subspaces given centred Gram matrices `kx`, `ky` and cross Gram `kxy` (N, N) of states of width `dim`.
pub(crate) fn subspace_overlap(
    kx: MatRef<'_, f64>,
    ky: MatRef<'_, f64>,
    kxy: MatRef<'_, f64>,
    k: usize,
    dim: usize,
) -> Option<Estimate> {
    let x = Pca::of(kx, k)?;
    let y = Pca::of(ky, k)?;
    let from_x = product(kxy, y.scaled_top().as_ref()); // X̃ V_y (N, k)
    let from_y = product(kxy.transpose(), x.scaled_top().as_ref()); // Ỹ V_x (N, k)
    let cosines = product(x.scaled_top().transpose(), from_x.as_ref()); // V_xᵀ V_y (k, k)
    let value = cosines.squared_norm_l2() / k as f64;
    let influence_x = x.influence(from_x.as_ref(), cosines.as_ref());
    let influence_y = y.influence(from_y.as_ref(), cosines.transpose());
    let influence = influence_x.iter().zip(&influence_y).map(|(a, b)| a + b).collect();
    Some(Estimate::new(value, influence).with_floor(k as f64 / dim as f64))
}

/// Principal components of samples, by their Gram matrix.
struct Pca {
    lambda: Vec<f64>,
    u: Mat<f64>, // (N, N)
    k: usize,
}

impl Pca {
    fn of(gram: MatRef<'_, f64>, k: usize) -> Option<Self> {
        if k == 0 || gram.nrows() <= k {
            return None;
        }
        let (lambda, u) = eigen(gram)?;
        (lambda[k - 1] > SMALLEST_EIGENVALUE * lambda[0]).then_some(Self { lambda, u, k })
    }

    /// U_k Σ_k^{−1}, (N, k): X̃ᵀ times it is V_k.
    fn scaled_top(&self) -> Mat<f64> {
        Mat::from_fn(self.u.nrows(), self.k, |i, a| self.u[(i, a)] / self.lambda[a].sqrt())
    }

    /// I_j = (2N/k) Σ_{a<k≤b} σ_a σ_b u_ja u_jb (V_aᵀ P V_b) / gap_ab, with P the projector on the other side's subspace,
    /// `projected` = X̃ V_other (N, k) and `cosines` = V_kᵀ V_other (k, k).
    fn influence(&self, projected: MatRef<'_, f64>, cosines: MatRef<'_, f64>) -> Vec<f64> {
        let (n, k) = (self.u.nrows(), self.k);
        let scaled = product(self.u.transpose(), projected); // σ_b V_bᵀ V_other (N, k)
        let coupling = product(scaled.as_ref().subrows(k, n - k), cosines.transpose()); // σ_b V_bᵀ P V_a (N−k, k)
        let weights = Mat::from_fn(n - k, k, |b, a| {
            let (la, lb) = (self.lambda[a], self.lambda[k + b].max(0.0));
            let gap = la - lb;
            coupling[(b, a)] * la.sqrt() * gap / (gap * gap).max(la * lb / n as f64)
        });
        let mixed = product(self.u.as_ref().subcols(k, n - k), weights.as_ref()); // (N, k)
        let scale = 2.0 * n as f64 / k as f64;
        (0..n)
            .map(|j| scale * (0..k).map(|a| self.u[(j, a)] * mixed[(j, a)]).sum::<f64>())
            .collect()
    }
}

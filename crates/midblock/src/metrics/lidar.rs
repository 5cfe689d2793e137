//! LiDAR: the entropy of linear discriminants when every sample is a class and its views are the class's members.
//!
//! With μ_i the mean of sample i's views v_ij and μ the mean of all (Thilak et al., arXiv 2312.04000, eq. 2–4):
//! S_b = (1/M) Σ_i (μ_i−μ)(μ_i−μ)ᵀ, S_w = (1/(M·VIEWS)) Σ_ij (v_ij−μ_i)(v_ij−μ_i)ᵀ + δ·I, δ = 1e−4;
//! LiDAR = S(eig S_w^{−½} S_b S_w^{−½})/ln min(M, D), in [0, 1], as the other entropies here (the source reports exp S).
//!
//! The eigenvalues are those of Zᵀ Z, Z = L^{−1} B (D, M) with S_w = L Lᵀ and B the rows (μ_i−μ)/√M as columns. Where D
//! exceeds M·VIEWS, all of it happens in the span of the views (a QR basis): nothing larger than (M·VIEWS)² is formed.
//! δ is in squared units of h, so LiDAR is not invariant to the scale of h. All class means equal: undefined.
//!
//! Spread: discriminant w_k (w_kᵀ S_w w_k = 1) has λ_k*(c) = w_kᵀ S_b(c) w_k / w_kᵀ S_w(c) w_k, hence to first order
//! dλ_k/dc_j · M = b_jk² − λ_k (s_jk + δ‖w_k‖²) where b_jk = w_kᵀ(μ_j−μ) and s_jk = mean over views of (w_kᵀ(v−μ_j))².

use super::capture::VIEWS;
use super::entropy::{entropy_of, log_gradient};
use super::estimate::Estimate;
use super::linalg::{eigen, mean_row, product};
use super::views::Views;
use faer::linalg::solvers::Llt;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Mat, MatRef, Par, Side};

const DELTA: f64 = 1e-4;

/// LiDAR of the views.
pub(crate) fn lidar(views: &Views) -> Option<Estimate> {
    let groups = in_their_span(views.groups.as_ref());
    let (m, d) = (views.members.len(), groups.ncols());
    let means = Mat::from_fn(m, d, |i, j| {
        (0..VIEWS).map(|v| groups[(i * VIEWS + v, j)]).sum::<f64>() / VIEWS as f64
    });
    let centre = mean_row(means.as_ref());
    let between = Mat::from_fn(m, d, |i, j| means[(i, j)] - centre[j]); // rows μ_i−μ
    let within = Mat::from_fn(m * VIEWS, d, |r, j| groups[(r, j)] - means[(r / VIEWS, j)]);

    let mut scatter = product(within.transpose(), within.as_ref()); // (D, D)
    scatter *= faer::Scale(1.0 / (m * VIEWS) as f64);
    for j in 0..d {
        scatter[(j, j)] += DELTA;
    }
    let factor = Llt::new(scatter.as_ref(), Side::Lower).ok()?;
    let mut z = between.transpose().to_owned() * faer::Scale(1.0 / (m as f64).sqrt()); // (D, M)
    solve_lower_triangular_in_place(factor.L(), z.as_mut(), Par::rayon(0));
    let (lambda, u) = eigen(product(z.transpose(), z.as_ref()).as_ref())?;
    let kept = lambda
        .iter()
        .take_while(|l| **l > 1e-12 * lambda[0] && **l > 0.0)
        .count();
    if kept == 0 {
        return None;
    }

    let full = (m.min(views.groups.ncols()) as f64).ln();
    let value = entropy_of(&lambda, 1.0) / full;
    let gradient: Vec<f64> = log_gradient(&lambda, 1.0).iter().map(|g| g / full).collect();

    // w_k = L^{−ᵀ} Z u_k / √λ_k, as columns (D, K)
    let mut w = product(z.as_ref(), u.as_ref().subcols(0, kept));
    solve_upper_triangular_in_place(factor.L().transpose(), w.as_mut(), Par::rayon(0));
    for (k, l) in lambda[..kept].iter().enumerate() {
        w.col_mut(k).iter_mut().for_each(|x| *x /= l.sqrt());
    }
    let influence = influence(&between, &within, w.as_ref(), &lambda[..kept], &gradient);
    Some(Estimate::over(&views.members, views.samples, value, &influence))
}

fn influence(between: &Mat<f64>, within: &Mat<f64>, w: MatRef<'_, f64>, lambda: &[f64], gradient: &[f64]) -> Vec<f64> {
    let b = product(between.as_ref(), w); // (M, K)
    let s = product(within.as_ref(), w); // (M·VIEWS, K)
    (0..b.nrows())
        .map(|j| {
            let term = |k: usize| {
                let spread: f64 = (0..VIEWS).map(|v| s[(j * VIEWS + v, k)].powi(2)).sum::<f64>() / VIEWS as f64;
                let ridge = DELTA * w.col(k).squared_norm_l2();
                gradient[k] * (b[(j, k)].powi(2) / lambda[k] - spread - ridge)
            };
            (0..lambda.len()).map(term).sum()
        })
        .collect()
}

/// Coordinates of the rows in an orthonormal basis of their span, where that is smaller than D: angles and lengths stay.
fn in_their_span(x: MatRef<'_, f64>) -> Mat<f64> {
    if x.ncols() <= x.nrows() {
        return x.to_owned();
    }
    x.transpose().qr().thin_R().transpose().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::estimate::Spread;

    /// The influence values against finite differences of a LiDAR with weights on the samples, computed by brute force.
    #[test]
    fn influence_is_the_derivative() {
        let (m, d) = (7, 5);
        let groups = Mat::from_fn(m * VIEWS, d, |r, j| {
            ((r * 31 + j * 17) % 23) as f64 / 7.0 + (r / VIEWS * (j + 1)) as f64 * 0.3
        });
        let views = Views {
            members: (0..m).collect(),
            samples: m,
            groups: groups.clone(),
        };
        let weighted = |c: &[f64]| {
            let total: f64 = c.iter().sum();
            let mean = |i: usize, j: usize| (0..VIEWS).map(|v| groups[(i * VIEWS + v, j)]).sum::<f64>() / VIEWS as f64;
            let centre: Vec<f64> = (0..d)
                .map(|j| (0..m).map(|i| c[i] * mean(i, j)).sum::<f64>() / total)
                .collect();
            let sb = Mat::from_fn(d, d, |p, q| {
                (0..m)
                    .map(|i| c[i] * (mean(i, p) - centre[p]) * (mean(i, q) - centre[q]))
                    .sum::<f64>()
                    / total
            });
            let sw = Mat::from_fn(d, d, |p, q| {
                let row = |r: usize| {
                    c[r / VIEWS] * (groups[(r, p)] - mean(r / VIEWS, p)) * (groups[(r, q)] - mean(r / VIEWS, q))
                };
                (0..m * VIEWS).map(row).sum::<f64>() / (total * VIEWS as f64) + if p == q { DELTA } else { 0.0 }
            });
            let (values, q) = eigen(sw.as_ref()).unwrap();
            let half = Mat::from_fn(d, d, |i, k| q[(i, k)] / values[k].sqrt()) * q.transpose();
            let lambda = crate::metrics::linalg::eigenvalues((&half * &sb * &half).as_ref()).unwrap();
            entropy_of(&lambda, 1.0) / (m.min(d) as f64).ln()
        };
        let estimate = lidar(&views).unwrap();
        assert!((estimate.value - weighted(&vec![1.0; m])).abs() < 1e-10);
        let Spread::Influence(influence) = estimate.spread else {
            panic!("LiDAR is smooth")
        };
        for j in 0..m {
            let at = |h: f64| {
                let mut c = vec![1.0; m];
                c[j] += h;
                weighted(&c)
            };
            let derivative = m as f64 * (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (influence[j] - derivative).abs() < 1e-6,
                "{j}: {} vs {derivative}",
                influence[j]
            );
        }
    }
}

//! DiME: how much more two views of the same sample agree than views of different samples.
//!
//! DiME = E_Π S(A ∘ Π B Πᵀ) − S(A ∘ B), A and B the Gram matrices of unit rows of the two views, ∘ the entrywise product
//! (whose diagonal is 1, so that its eigenvalues over M are a distribution), S the matrix entropy and Π a random pairing
//! (Skean et al. 2023, "DiME: Maximizing Mutual Information by a Difference of Matrix-Based Entropies", eq. 8).
//! In nats, 0 if pairing does not matter, at most ln M; the mean over a few pairings stands for the expectation.
//!
//! Spread: A ∘ B is the Gram matrix of the features a_i ⊗ b_i, so weights act on its rows as on any spectrum. In a shuffled
//! product, row r holds a_r and b_π(r): sample j acts through the row of its a and through that of its b.

use super::entropy::{entropy_of, log_gradient};
use super::estimate::Estimate;
use super::linalg::{eigen, product, unit_rows};
use super::resampling::Resampling;
use super::views::Views;
use faer::Mat;
use rayon::prelude::*;

/// DiME of the two views.
pub(crate) fn dime(views: &Views, resampling: &Resampling) -> Option<Estimate> {
    let (a, b) = views.pair();
    let gram = |x: Mat<f64>| {
        let unit = unit_rows(x.as_ref());
        product(unit.as_ref(), unit.transpose())
    };
    let (a, b) = (gram(a), gram(b)); // (M, M)
    let m = a.nrows();
    let joint_order: Vec<usize> = (0..m).collect();
    let mut orders = resampling.pairings(&views.members);
    let pairings = orders.len() as f64;
    orders.push(joint_order);
    let parts: Vec<(f64, Vec<f64>)> = orders
        .par_iter()
        .map(|order| entropy_with_row_influence(&a, &b, order))
        .collect::<Option<_>>()?;

    let (joint, joint_rows) = &parts[parts.len() - 1];
    let mut value = -joint;
    let mut influence: Vec<f64> = joint_rows.iter().map(|i| -i).collect();
    for ((entropy, by_row), order) in parts.iter().zip(&orders).take(parts.len() - 1) {
        value += entropy / pairings;
        for (row, i) in by_row.iter().enumerate() {
            influence[row] += i / pairings;
            influence[order[row]] += i / pairings;
        }
    }
    Some(Estimate::over(&views.members, views.samples, value, &influence))
}

/// S(A ∘ B_π) and its influence values by row: M Σ_k g_k u_rk² (Σ g_k = 0 for an entropy).
fn entropy_with_row_influence(a: &Mat<f64>, b: &Mat<f64>, order: &[usize]) -> Option<(f64, Vec<f64>)> {
    let m = a.nrows();
    let product = Mat::from_fn(m, m, |i, j| a[(i, j)] * b[(order[i], order[j])]);
    let (lambda, u) = eigen(product.as_ref())?;
    let gradient = log_gradient(&lambda, 1.0);
    let influence = |row: usize| m as f64 * (0..m).map(|k| gradient[k] * u[(row, k)].powi(2)).sum::<f64>();
    Some((entropy_of(&lambda, 1.0), (0..m).map(influence).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::VIEWS;

    #[test]
    fn entropies_of_given_pairings_match_numpy() {
        let data: serde_json::Value =
            serde_json::from_str(include_str!("../../../../fixtures/metrics/dime.json")).unwrap();
        let list = |name: &str| data[name].as_array().unwrap().clone();
        let values: Vec<f64> = list("views").iter().map(|v| v.as_f64().unwrap()).collect();
        let groups = crate::metrics::linalg::rows(&values, 5).to_owned();
        let m = groups.nrows() / VIEWS;
        let views = Views {
            members: (0..m).collect(),
            samples: m,
            groups,
        };
        let (a, b) = views.pair();
        let unit = [a, b].map(|x| unit_rows(x.as_ref()));
        let [a, b] = unit.each_ref().map(|u| product(u.as_ref(), u.transpose()));
        for (order, expected) in list("orders").iter().zip(list("entropies")) {
            let order: Vec<usize> = order
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i.as_u64().unwrap() as usize)
                .collect();
            let (entropy, influence) = entropy_with_row_influence(&a, &b, &order).unwrap();
            assert!(
                (entropy - expected.as_f64().unwrap()).abs() < 1e-12,
                "{entropy} vs {expected}"
            );
            assert!(influence.iter().sum::<f64>().abs() < 1e-10);
        }
        let estimate = dime(&views, &Resampling::new(m, 20, 0)).unwrap();
        assert!(
            estimate.value > 0.05,
            "views of the same sample agree: {}",
            estimate.value
        );
    }
}

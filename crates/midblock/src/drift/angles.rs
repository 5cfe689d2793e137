//! Principal angles between two k-dimensional subspaces.
//!
//! For orthonormal bases Q and Q' (n, k): cos θ_i are the singular values of M = QᵀQ', sin θ_i those of N = Q' − QM (Björck &
//! Golub 1973). cos² and sin² are the eigenvalues of MᵀM and NᵀN, (k, k), and θ_i = atan2(sin θ_i, cos θ_i), which is accurate
//! at both ends. Rotation = 1 − mean cos² = ‖N‖²_F/k in [0, 1].
//!
//! The largest angle tells of the direction that moved most. Where σ_k and σ_(k+1) are nearly equal a tiny change exchanges
//! them, and it is 90° although little happened; the mean and the rotation barely notice.

use crate::metrics::linalg::{eigenvalues, product};
use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};

/// How far one subspace has turned from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Largest principal angle in degrees, in [0, 90].
    pub largest_deg: f64,
    /// Mean principal angle in degrees.
    pub mean_deg: f64,
    /// 1 − mean cos², in [0, 1].
    pub rotation: f64,
}

impl Turn {
    /// Between the spans of the rows of two orthonormal bases (k, n), row-major.
    ///
    /// # Panics
    /// If there are no rows, the lengths differ, or a value is not finite.
    pub(super) fn between(before: &[f32], after: &[f32], k: usize) -> Self {
        assert!(k > 0 && before.len() == after.len(), "two bases of {k} directions");
        let columns = |rows: &[f32]| Mat::from_fn(rows.len() / k, k, |i, a| f64::from(rows[a * (rows.len() / k) + i]));
        let (q, turned) = (columns(before), columns(after)); // (n, k)
        let inside = product(q.transpose(), turned.as_ref()); // M (k, k)
        let outside = turned - product(q.as_ref(), inside.as_ref()); // N (n, k)
        let squares =
            |x: MatRef<'_, f64>| eigenvalues(product(x.transpose(), x).as_ref()).expect("invariant: bases are finite");
        let (cosines, sines) = (squares(inside.as_ref()), squares(outside.as_ref()));
        // both descend: the largest sine belongs to the smallest cosine
        let angle = |(sine, cosine): (&f64, &f64)| sine.max(0.0).sqrt().atan2(cosine.max(0.0).sqrt()).to_degrees();
        let angles: Vec<f64> = sines.iter().zip(cosines.iter().rev()).map(angle).collect();
        Self {
            largest_deg: angles[0],
            mean_deg: angles.iter().sum::<f64>() / k as f64,
            rotation: (outside.squared_norm_l2() / k as f64).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows e_0 … turned by each angle towards directions of their own.
    fn turned(degrees: &[f64], n: usize) -> Vec<f32> {
        let k = degrees.len();
        let mut rows = vec![0.0; k * n];
        for (a, degrees) in degrees.iter().enumerate() {
            rows[a * n + a] = degrees.to_radians().cos() as f32;
            rows[a * n + k + a] = degrees.to_radians().sin() as f32;
        }
        rows
    }

    fn between(degrees: &[f64]) -> Turn {
        let still = turned(&vec![0.0; degrees.len()], 9);
        Turn::between(&still, &turned(degrees, 9), degrees.len())
    }

    #[test]
    fn known_angles_are_found_at_both_ends() {
        let turn = between(&[90.0, 0.001, 30.0]);
        assert!((turn.largest_deg - 90.0).abs() < 1e-5, "{turn:?}");
        assert!((turn.mean_deg - 120.001 / 3.0).abs() < 1e-5, "{turn:?}");
        assert!((turn.rotation - 1.25 / 3.0).abs() < 1e-7, "{turn:?}");
        let small = between(&[0.0, 0.002]);
        assert!((small.largest_deg - 0.002).abs() < 1e-7, "{small:?}");
        assert_eq!(between(&[0.0, 0.0]), Turn::default());
    }

    #[test]
    fn the_basis_of_a_subspace_does_not_matter() {
        let exchanged = [
            turned(&[0.0, 0.0], 9)[9..].to_vec(),
            vec![-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
        .concat();
        assert_eq!(Turn::between(&turned(&[0.0, 0.0], 9), &exchanged, 2), Turn::default());
    }

    proptest! {
        #[test]
        fn turns_are_symmetric_and_bounded(degrees in proptest::collection::vec(0.0_f64..90.0, 1..4)) {
            let still = turned(&vec![0.0; degrees.len()], 9);
            let [there, back] = [(&still, &turned(&degrees, 9)), (&turned(&degrees, 9), &still)]
                .map(|(a, b)| Turn::between(a, b, degrees.len()));
            let largest = degrees.iter().copied().fold(0.0, f64::max);
            prop_assert!((there.largest_deg - largest).abs() < 1e-4);
            prop_assert!((there.largest_deg - back.largest_deg).abs() < 1e-4);
            prop_assert!((there.mean_deg - back.mean_deg).abs() < 1e-4);
            prop_assert!(there.mean_deg <= there.largest_deg + 1e-9 && (0.0..=1.0).contains(&there.rotation));
        }
    }
}

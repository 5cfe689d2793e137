//! The drift of many matrices in one number: of a block, or of a whole model.
//!
//! Rotation = the mean over the matrices; angle = the largest; change = √Σ‖ΔW‖²/√Σ‖W‖²; share inside =
//! Σ‖U_kᵀ ΔW V_k‖²/Σ‖ΔW‖², and the same of random changes of the same norms, Σ‖ΔW‖²·k²/(out·in)/Σ‖ΔW‖².

use super::MatrixDrift;
use serde::{Deserialize, Serialize};

/// Drift of some matrices together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftSummary {
    /// Mean of [`MatrixDrift::rotation`].
    pub rotation: f64,
    /// Largest of [`MatrixDrift::largest_deg`].
    pub largest_deg: f64,
    /// √Σ‖ΔW‖²/√Σ‖W‖²; none for zero matrices.
    pub relative_change: Option<f64>,
    /// Share of the change inside of the blocks; none if nothing changed.
    pub share_inside: Option<f64>,
    /// That of random changes; none if nothing changed.
    pub random_share: Option<f64>,
}

impl DriftSummary {
    /// Of all of `matrices`; `None` of none.
    pub fn of<'a>(matrices: impl Iterator<Item = &'a MatrixDrift> + Clone) -> Option<Self> {
        let sum = |of: fn(&MatrixDrift) -> f64| matrices.clone().map(of).sum::<f64>();
        let count = matrices.clone().count();
        let change = sum(|m| m.change.powi(2));
        let norm = sum(|m| m.norm.powi(2));
        let share = |part: f64| (change > 0.0).then(|| part / change);
        (count > 0).then(|| Self {
            rotation: sum(MatrixDrift::rotation) / count as f64,
            largest_deg: matrices.clone().map(MatrixDrift::largest_deg).fold(0.0, f64::max),
            relative_change: (norm > 0.0).then(|| (change / norm).sqrt()),
            share_inside: share(sum(|m| m.inside.powi(2))),
            random_share: share(sum(|m| m.random_share() * m.change.powi(2))),
        })
    }

    /// Of each of `blocks` blocks; `None` where there is no matrix.
    pub fn by_block(matrices: &[MatrixDrift], blocks: usize) -> Vec<Option<Self>> {
        let of = |block| Self::of(matrices.iter().filter(move |m| m.block() == Some(block)));
        (0..blocks).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::Turn;

    fn matrix(name: &str, norm: f64, change: f64, inside: f64, rotation: f64) -> MatrixDrift {
        let turn = Turn {
            largest_deg: 100.0 * rotation,
            mean_deg: 0.0,
            rotation,
        };
        MatrixDrift {
            norm,
            change,
            inside,
            left: turn,
            ..MatrixDrift::untouched(name, [8, 4], &[1.0], 2)
        }
    }

    #[test]
    fn blocks_are_weighed_by_what_changed() {
        let matrices = [
            matrix("model.layers.1.a.weight", 4.0, 3.0, 1.0, 0.1),
            matrix("model.layers.1.b.weight", 3.0, 4.0, 2.0, 0.3),
            matrix("lm_head.weight", 1.0, 0.0, 0.0, 0.0),
        ];
        let found = DriftSummary::by_block(&matrices, 2);
        assert_eq!(found[0], None);
        let expected = DriftSummary {
            rotation: (0.05 + 0.15) / 2.0,
            largest_deg: 30.0,
            relative_change: Some(1.0),
            share_inside: Some(0.2),
            random_share: Some(0.125),
        };
        assert_eq!(found[1], Some(expected));
        let untouched = DriftSummary::of(matrices[2..].iter()).unwrap();
        assert_eq!((untouched.share_inside, untouched.relative_change), (None, Some(0.0)));
    }
}

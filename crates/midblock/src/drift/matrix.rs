//! What fine-tuning did to the top-k singular block of one matrix.
//!
//! With W = U Σ Vᵀ before, W' = W + ΔW after, and U_k, V_k the k leading directions of W: the principal angles from U_k to U'_k
//! and from V_k to V'_k ([`Turn`]); ‖σ'_k − σ_k‖/‖σ_k‖ and max_i |σ'_i − σ_i|/σ_i; and the share of the change inside of the
//! block, ‖U_kᵀ ΔW V_k‖²_F/‖ΔW‖²_F in [0, 1]. A ΔW that knows nothing of W has k²/(out·in) of itself there in the mean, since
//! the block's projection keeps k² of out·in dimensions. The first term is what rotation-preserving fine-tuning holds down.
//!
//! ΔW = s·B·A is never formed: U_kᵀ ΔW V_k = s·(U_kᵀ B)(A V_k) and ‖ΔW‖² = s²·⟨BᵀB, AAᵀ⟩. W' itself is, for its own directions.
//! Angles of an unchanged direction are below 1e−4°, the rounding of f32 directions.
//!
//! Edge cases: an unchanged matrix has zeros throughout and no share; fewer than k directions are all taken, and the side that
//! they fill cannot turn; where σ_k is not clearly above σ_(k+1), see [`Turn`] on the largest angle.

use super::Turn;
use crate::{
    Result,
    metrics::{Change, WeightPair, linalg::product},
    progress::Progress,
    singular::SingularBlock,
};
use faer::{Mat, MatRef};
use serde::{Deserialize, Serialize};

const BLOCKS: &str = "model.layers.";

/// Drift of one matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixDrift {
    /// Hugging Face parameter name.
    pub name: String,
    /// (out, in).
    pub shape: [usize; 2],
    /// k; fewer than asked for if the matrix has no more.
    pub directions: usize,
    /// ‖W‖_F.
    pub norm: f64,
    /// ‖ΔW‖_F.
    pub change: f64,
    /// Of the left singular subspace, (k, out).
    pub left: Turn,
    /// Of the right one, (k, in).
    pub right: Turn,
    /// ‖σ'_k − σ_k‖/‖σ_k‖; none for a zero matrix.
    pub sigma_change: Option<f64>,
    /// max |σ'_i − σ_i|/σ_i, i < k; none if the matrix has fewer directions.
    pub sigma_change_largest: Option<f64>,
    /// ‖U_kᵀ ΔW V_k‖_F.
    pub inside: f64,
}

impl MatrixDrift {
    /// That of a matrix that is as it was.
    pub fn untouched(name: &str, shape: [usize; 2], before: &[f32], directions: usize) -> Self {
        let norm = norm(before.iter().map(|w| f64::from(*w)));
        let zero = (norm > 0.0).then_some(0.0);
        Self {
            name: name.to_owned(),
            shape,
            directions: directions.min(shape[0]).min(shape[1]),
            norm,
            change: 0.0,
            left: Turn::default(),
            right: Turn::default(),
            sigma_change: zero,
            sigma_change_largest: zero,
            inside: 0.0,
        }
    }

    /// The 0-based block it is in.
    pub fn block(&self) -> Option<usize> {
        self.name.strip_prefix(BLOCKS)?.split('.').next()?.parse().ok()
    }

    /// Its name in the block, such as `self_attn.q_proj`, or in the model.
    pub fn part(&self) -> &str {
        let inner = self.name.strip_prefix(BLOCKS).and_then(|inner| inner.split_once('.'));
        let part = inner.map_or(self.name.as_str(), |(_, part)| part);
        part.strip_suffix(".weight").unwrap_or(part)
    }

    /// ‖ΔW‖/‖W‖.
    pub fn relative_change(&self) -> Option<f64> {
        (self.norm > 0.0).then(|| self.change / self.norm)
    }

    /// ‖U_kᵀ ΔW V_k‖²/‖ΔW‖²; none if nothing changed.
    pub fn share_inside(&self) -> Option<f64> {
        (self.change > 0.0).then(|| (self.inside / self.change).powi(2))
    }

    /// What [`share_inside`](Self::share_inside) of a random change is in the mean: k²/(out·in).
    pub fn random_share(&self) -> f64 {
        let [out, inp] = self.shape;
        self.directions.pow(2) as f64 / (out * inp) as f64
    }

    /// The mean rotation of both sides.
    pub fn rotation(&self) -> f64 {
        (self.left.rotation + self.right.rotation) / 2.0
    }

    /// The larger of the largest angles of both sides, in degrees.
    pub fn largest_deg(&self) -> f64 {
        self.left.largest_deg.max(self.right.largest_deg)
    }
}

/// Measures one matrix. `before` is the leading block of `pair.before`; its k counts.
///
/// # Errors
/// Those of [`SingularBlock::of`].
///
/// # Panics
/// If the block is of another shape.
pub fn block_drift(pair: &WeightPair<'_>, before: &SingularBlock, progress: &dyn Progress) -> Result<MatrixDrift> {
    assert_eq!(
        before.shape, pair.shape,
        "{}: the block is of another matrix",
        pair.name
    );
    let k = before.directions();
    let mut drift = MatrixDrift::untouched(pair.name, pair.shape, pair.before, k);
    if let Change::None = pair.change {
        return Ok(drift);
    }
    let after = SingularBlock::of(pair.name, &pair.after(), pair.shape, k, progress)?;
    drift.left = Turn::between(&before.left, &after.left, k);
    drift.right = Turn::between(&before.right, &after.right, k);
    let values = || {
        before
            .sigma
            .iter()
            .zip(&after.sigma)
            .map(|(b, a)| (f64::from(*b), f64::from(*a)))
    };
    let size = norm(values().map(|(before, _)| before));
    drift.sigma_change = (size > 0.0).then(|| norm(values().map(|(before, after)| after - before)) / size);
    let relative = values().map(|(before, after)| (before > 0.0).then(|| (after - before).abs() / before));
    drift.sigma_change_largest = relative
        .collect::<Option<Vec<f64>>>()
        .map(|of| of.into_iter().fold(0.0, f64::max));
    (drift.change, drift.inside) = match pair.change {
        Change::LowRank { b, a, scale } => low_rank(pair.shape, b, a, f64::from(scale), before),
        _ => dense(pair, before),
    };
    Ok(drift)
}

/// ‖ΔW‖ and ‖U_kᵀ ΔW V_k‖ of s·B·A.
fn low_rank([out, inp]: [usize; 2], b: &[f32], a: &[f32], scale: f64, block: &SingularBlock) -> (f64, f64) {
    let rank = b.len() / out;
    let (b, a) = (widen(b, rank), widen(a, inp)); // (out, R), (R, in)
    let change = product(b.transpose(), b.as_ref())
        .col_iter()
        .zip(product(a.as_ref(), a.transpose()).col_iter())
        .map(|(x, y)| x.iter().zip(y.iter()).map(|(x, y)| x * y).sum::<f64>())
        .sum::<f64>();
    let left = product(widen(&block.left, out).as_ref(), b.as_ref()); // (k, R)
    let right = product(a.as_ref(), widen(&block.right, inp).transpose()); // (R, k)
    let inside = product(left.as_ref(), right.as_ref()).norm_l2();
    (scale.abs() * change.max(0.0).sqrt(), scale.abs() * inside)
}

/// The same of W' − W, some rows at a time.
fn dense(pair: &WeightPair<'_>, block: &SingularBlock) -> (f64, f64) {
    const ROWS: usize = 4096;
    let [out, inp] = pair.shape;
    let after = pair.after();
    let (left, right) = (widen(&block.left, out), widen(&block.right, inp)); // (k, out), (k, in)
    let (mut change, mut core) = (0.0, Mat::<f64>::zeros(block.directions(), block.directions()));
    for first in (0..out).step_by(ROWS) {
        let rows = ROWS.min(out - first);
        let at = |i: usize, j: usize| (first + i) * inp + j;
        let delta = Mat::from_fn(rows, inp, |i, j| {
            f64::from(after[at(i, j)]) - f64::from(pair.before[at(i, j)])
        });
        change += delta.squared_norm_l2();
        let right = product(delta.as_ref(), right.transpose()); // (rows, k)
        core += product(left.as_ref().subcols(first, rows), right.as_ref());
    }
    (change.sqrt(), core.norm_l2())
}

/// Rows of `columns` values each, in f64.
fn widen(values: &[f32], columns: usize) -> Mat<f64> {
    let matrix = MatRef::from_row_major_slice(values, values.len() / columns, columns);
    Mat::from_fn(matrix.nrows(), columns, |i, j| f64::from(matrix[(i, j)]))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{progress::Silent, rng};
    use proptest::prelude::*;

    const SHAPE: [usize; 2] = [30, 20];

    fn random(len: usize, seed: u64, scale: f64) -> Vec<f32> {
        let mut stream = rng::stream(seed, "test matrix", &[]);
        (0..len).map(|_| (scale * rng::normal(&mut stream)) as f32).collect()
    }

    fn drift(before: &[f32], change: Change<'_>, k: usize) -> MatrixDrift {
        let pair = WeightPair {
            name: "w",
            shape: SHAPE,
            before,
            change,
        };
        let block = SingularBlock::of("w", before, SHAPE, k, &Silent).unwrap();
        block_drift(&pair, &block, &Silent).unwrap()
    }

    fn sum(before: &[f32], delta: &[f32]) -> Vec<f32> {
        before.iter().zip(delta).map(|(w, d)| w + d).collect()
    }

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} {b}");
    }

    /// Σ u_i c_i v_iᵀ of the directions of a block, row-major.
    fn along(block: &SingularBlock, factors: &[f32]) -> Vec<f32> {
        let [out, inp] = block.shape;
        let at = |i: usize, j: usize| {
            let terms = factors.iter().enumerate();
            terms
                .map(|(a, c)| c * block.left[a * out + i] * block.right[a * inp + j])
                .sum()
        };
        (0..out * inp).map(|e| at(e / inp, e % inp)).collect()
    }

    #[test]
    fn longer_directions_turn_nothing_and_are_all_inside() {
        let before = random(600, 1, 1.0);
        let block = SingularBlock::of("w", &before, SHAPE, 4, &Silent).unwrap();
        let stretch: Vec<f32> = block.sigma.iter().map(|s| 0.1 * s).collect();
        let after = sum(&before, &along(&block, &stretch));
        let found = drift(&before, Change::Dense { after: &after }, 4);
        assert!(found.largest_deg() < 1e-3, "{found:?}");
        close(found.sigma_change.unwrap(), 0.1, 1e-6);
        close(found.sigma_change_largest.unwrap(), 0.1, 1e-6);
        close(found.share_inside().unwrap(), 1.0, 1e-6);
        close(found.random_share(), 16.0 / 600.0, 1e-15);
    }

    /// u_0 → cos θ u_0 + sin θ u_5, and the singular values stay.
    #[test]
    fn a_rotation_is_found_on_its_side() {
        let diagonal = |u: usize, v: usize| u * 20 + v;
        let mut before = vec![0.0; 600];
        let mut after = vec![0.0; 600];
        let (sin, cos) = 20f32.to_radians().sin_cos();
        for (i, sigma) in [5.0, 4.0, 3.0].into_iter().enumerate() {
            before[diagonal(i, i)] = sigma;
            after[diagonal(i, i)] = if i == 0 { cos * sigma } else { sigma };
        }
        after[diagonal(5, 0)] = sin * 5.0;
        let found = drift(&before, Change::Dense { after: &after }, 3);
        close(found.left.largest_deg, 20.0, 1e-4);
        close(found.left.mean_deg, 20.0 / 3.0, 1e-4);
        close(found.left.rotation, f64::from(sin).powi(2) / 3.0, 1e-6);
        assert!(
            found.right.largest_deg < 1e-3 && found.sigma_change.unwrap() < 1e-6,
            "{found:?}"
        );
        // ΔW = 5(cos − 1) e_0 e_0ᵀ + 5 sin e_5 e_0ᵀ, the first term inside
        let (inside, outside) = (5.0 * (1.0 - f64::from(cos)), 5.0 * f64::from(sin));
        close(found.inside, inside, 1e-5);
        close(found.change, inside.hypot(outside), 1e-5);
        close(found.norm, 50f64.sqrt(), 1e-6);
    }

    #[test]
    fn a_pair_is_what_it_adds_up_to() {
        let (before, b, a) = (random(600, 2, 1.0), random(60, 3, 0.3), random(40, 4, 0.3));
        let pair = drift(
            &before,
            Change::LowRank {
                b: &b,
                a: &a,
                scale: 1.5,
            },
            5,
        );
        let at = |i: usize, j: usize| 1.5 * (b[2 * i] * a[j] + b[2 * i + 1] * a[20 + j]);
        let delta: Vec<f32> = (0..600).map(|e| at(e / 20, e % 20)).collect();
        let dense = drift(
            &before,
            Change::Dense {
                after: &sum(&before, &delta),
            },
            5,
        );
        for (of, tolerance) in [
            ((|d: &MatrixDrift| d.change) as fn(&MatrixDrift) -> f64, 1e-5),
            (|d| d.inside, 1e-5),
            (|d| d.left.largest_deg, 1e-3),
            (|d| d.right.mean_deg, 1e-3),
            (|d| d.sigma_change.unwrap(), 1e-5),
        ] {
            close(of(&pair), of(&dense), tolerance);
        }
        assert!(pair.largest_deg() > 1.0);
    }

    #[test]
    fn a_name_says_where_a_matrix_is() {
        let place = |name: &str| {
            let drift = MatrixDrift::untouched(name, [1, 1], &[1.0], 1);
            (drift.block(), drift.part().to_owned())
        };
        assert_eq!(
            place("model.layers.12.mlp.up_proj.weight"),
            (Some(12), "mlp.up_proj".into())
        );
        assert_eq!(place("model.embed_tokens.weight"), (None, "model.embed_tokens".into()));
        assert_eq!(place("lm_head.weight"), (None, "lm_head".into()));
    }

    #[test]
    fn an_untouched_matrix_has_zeros_and_no_share() {
        let before = random(600, 1, 1.0);
        let found = drift(&before, Change::None, 4);
        assert_eq!(
            (found.left, found.right, found.change),
            (Turn::default(), Turn::default(), 0.0)
        );
        assert_eq!((found.share_inside(), found.sigma_change), (None, Some(0.0)));
        let zero = drift(&[0.0; 600], Change::Dense { after: &before }, 4);
        assert_eq!(
            (zero.relative_change(), zero.sigma_change, zero.sigma_change_largest),
            (None, None, None)
        );
    }

    /// The mean over random changes is the floor.
    #[test]
    fn a_random_change_has_the_random_share_inside() {
        let before = random(600, 1, 1.0);
        let shares: Vec<f64> = (0..200)
            .map(|seed| {
                let after = sum(&before, &random(600, 100 + seed, 0.01));
                drift(&before, Change::Dense { after: &after }, 6)
                    .share_inside()
                    .unwrap()
            })
            .collect();
        // 36 of 600 squares of normal numbers: the share's standard deviation is 0.0137, that of the mean 0.001
        close(shares.iter().sum::<f64>() / 200.0, 36.0 / 600.0, 0.004);
    }

    proptest! {
        #[test]
        fn everything_is_bounded(k in 1_usize..25, size in 0.01_f64..3.0, seed in 0_u64..50) {
            let before = random(600, seed, 1.0);
            let after = sum(&before, &random(600, seed + 1000, size));
            let found = drift(&before, Change::Dense { after: &after }, k);
            prop_assert_eq!(found.directions, k.min(20));
            prop_assert!((0.0..=1.0 + 1e-9).contains(&found.share_inside().unwrap()));
            for turn in [found.left, found.right] {
                prop_assert!(turn.mean_deg <= turn.largest_deg + 1e-9 && turn.largest_deg <= 90.0 + 1e-9);
            }
            if k >= 20 {
                prop_assert!(found.right.largest_deg < 1e-3);
            }
        }
    }
}

//! Between two models of one architecture: `θ = (1 − α)·θ₀ + α·θ₁`, tensor by tensor (linear interpolation of weights).
//!
//! Tensors that are equal stay as they are stored; others become f32. What adapters add is blended apart from the weight
//! they go on: `ΔW = (1 − α)·s₀·B₀A₀ + α·s₁·B₁A₁` is a pair of rank R₀ + R₁, so no dense matrix is made where both models
//! are one stored base with other adapters. With α = 0 and α = 1 take the model itself: this rounds.

use super::{BlockTensors, EndsTensors, LinearTensors};
use crate::checkpoint::{LowRank, Tensor};
use midblock_kernels::{Dtype, SharedBytes};
use std::borrow::Cow;

/// `(1 − α)·a + α·b`, under the name of `a`.
pub fn blend_tensors(a: &Tensor, b: &Tensor, alpha: f32) -> Tensor {
    if a.same_values(b) {
        return a.clone();
    }
    let mut values = a.to_f32();
    for (value, other) in values.iter_mut().zip(b.to_f32()) {
        *value = (1.0 - alpha) * *value + alpha * other;
    }
    Tensor {
        name: a.name.clone(),
        dtype: Dtype::F32,
        shape: a.shape.clone(),
        bytes: SharedBytes::from_f32(&values),
    }
}

/// The pair that adds `(1 − α)·ΔA + α·ΔB`; `None` if neither is there.
pub fn blend_pairs(a: Option<&LowRank>, b: Option<&LowRank>, alpha: f32) -> Option<LowRank> {
    let scaled = |pair: &LowRank, weight: f32| LowRank {
        scale: weight * pair.scale,
        ..pair.clone()
    };
    match (a, b) {
        (None, None) => None,
        (Some(a), None) => Some(scaled(a, 1.0 - alpha)),
        (None, Some(b)) => Some(scaled(b, alpha)),
        (Some(a), Some(b)) if a == b => Some(a.clone()),
        (Some(a), Some(b)) => Some(side_by_side(a, 1.0 - alpha, b, alpha)),
    }
}

/// `w_a·ΔA + w_b·ΔB` as one pair: A's rows one after another, B's columns, with weights and scales in them, side by side.
fn side_by_side(a: &LowRank, weight_a: f32, b: &LowRank, weight_b: f32) -> LowRank {
    let rows = a.b.chunks(a.rank).zip(b.b.chunks(b.rank));
    let times = |row: &[f32], factor: f32| row.iter().map(|value| factor * value).collect::<Vec<_>>();
    LowRank {
        rank: a.rank + b.rank,
        scale: 1.0,
        a: [a.a.as_slice(), &b.a].concat(),
        b: rows
            .flat_map(|(of_a, of_b)| [times(of_a, weight_a * a.scale), times(of_b, weight_b * b.scale)].concat())
            .collect(),
    }
}

impl<'a> BlockTensors<'a> {
    /// `(1 − α)·self + α·other`.
    pub fn blend(&self, other: &Self, alpha: f32) -> Self {
        let linear = |(a, b): (&LinearTensors<'a>, &LinearTensors<'a>)| LinearTensors {
            weight: blend_tensors(&a.weight, &b.weight, alpha),
            bias: a
                .bias
                .as_ref()
                .zip(b.bias.as_ref())
                .map(|(a, b)| blend_tensors(a, b, alpha)),
            delta: blend_pairs(a.delta.as_deref(), b.delta.as_deref(), alpha).map(Cow::Owned),
        };
        let norms = self.norms.iter().zip(&other.norms);
        Self {
            index: self.index,
            linears: self.linears.iter().zip(&other.linears).map(linear).collect(),
            norms: norms.map(|(a, b)| blend_tensors(a, b, alpha)).collect(),
        }
    }
}

impl EndsTensors {
    /// `(1 − α)·self + α·other`.
    pub fn blend(&self, other: &Self, alpha: f32) -> Self {
        let heads = self.head.as_ref().zip(other.head.as_ref());
        Self {
            embedding: blend_tensors(&self.embedding, &other.embedding, alpha),
            final_norm: blend_tensors(&self.final_norm, &other.final_norm, alpha),
            head: heads.map(|(a, b)| blend_tensors(a, b, alpha)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor {
            name: "w".into(),
            dtype: Dtype::F32,
            shape: vec![values.len()],
            bytes: SharedBytes::from_f32(values),
        }
    }

    /// s·B·A, (out, in).
    fn dense(pair: &LowRank, inp: usize) -> Vec<f32> {
        let row = |b: &[f32], column: usize| -> f32 { (0..pair.rank).map(|r| b[r] * pair.a[r * inp + column]).sum() };
        let rows = pair.b.chunks(pair.rank);
        rows.flat_map(|b| (0..inp).map(move |column| (b, column)))
            .map(|(b, column)| pair.scale * row(b, column))
            .collect()
    }

    #[test]
    fn values_lie_between_and_equal_ones_stay_as_they_are() {
        let (a, b) = (tensor(&[1.0, -2.0, 8.0]), tensor(&[3.0, 2.0, 8.0]));
        assert_eq!(blend_tensors(&a, &b, 0.25).to_f32(), [1.5, -1.0, 8.0]);
        assert_eq!(blend_tensors(&a, &b, 1.5).to_f32(), [4.0, 4.0, 8.0]);
        assert!(blend_tensors(&a, &a.clone(), 0.3).bytes.same_place(&a.bytes));
    }

    #[test]
    fn pairs_of_any_ranks_add_up() {
        let a = LowRank {
            rank: 1,
            scale: 2.0,
            a: vec![1.0, 2.0, 3.0],
            b: vec![1.0, -1.0],
        };
        let b = LowRank {
            rank: 2,
            scale: 0.5,
            a: vec![1.0, 0.0, 2.0, 0.0, 4.0, 1.0],
            b: vec![2.0, 1.0, 0.0, 8.0],
        };
        let (of_a, of_b) = (dense(&a, 3), dense(&b, 3));
        let expected: Vec<f32> = of_a.iter().zip(&of_b).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
        assert_eq!(dense(&blend_pairs(Some(&a), Some(&b), 0.25).unwrap(), 3), expected);
        let alone: Vec<f32> = of_b.iter().map(|b| 0.25 * b).collect();
        assert_eq!(dense(&blend_pairs(None, Some(&b), 0.25).unwrap(), 3), alone);
        let rest: Vec<f32> = of_a.iter().map(|a| 0.75 * a).collect();
        assert_eq!(dense(&blend_pairs(Some(&a), None, 0.25).unwrap(), 3), rest);
        assert_eq!(blend_pairs(Some(&a), Some(&a), 0.25), Some(a));
        assert_eq!(blend_pairs(None, None, 0.25), None);
    }
}

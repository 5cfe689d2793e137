//! Curvature: how sharply the path of token states turns from one token to the next.
//!
//! With v_t = h_{t+1} − h_t: mean over t of arccos( v_t·v_{t+1} / (‖v_t‖‖v_{t+1}‖) )/π per sample, mean over samples
//! (Hosseini & Fedorenko 2023; Skean et al. 2025, eq. 4). In [0, 1]: 0 a straight line, ½ right angles, 1 back and forth.
//!
//! Edge cases: a pair with a zero difference (the same token twice at the embedding) has no angle and is left out; a sample
//! with fewer than three tokens or no angle at all is left out. Protocol `paper` clamps |cos| to 0.999.

use super::estimate::{Estimate, mean};
use super::{Capture, Protocol};
use rayon::prelude::*;

/// Mean turning angle of one path `tokens` (T, D), divided by π.
pub(crate) fn path_curvature(tokens: &[f32], dim: usize, protocol: Protocol) -> Option<f64> {
    let clamp = match protocol {
        Protocol::Default => 1.0,
        Protocol::Paper => 0.999,
    };
    let steps: Vec<Vec<f64>> = tokens
        .chunks_exact(dim)
        .zip(tokens.chunks_exact(dim).skip(1))
        .map(|(h, next)| h.iter().zip(next).map(|(a, b)| f64::from(*b) - f64::from(*a)).collect())
        .collect();
    let norms: Vec<f64> = steps.iter().map(|v| dot(v, v).sqrt()).collect();
    let angles: Vec<f64> = (1..steps.len())
        .filter(|&t| norms[t - 1] > 0.0 && norms[t] > 0.0)
        .map(|t| dot(&steps[t - 1], &steps[t]) / (norms[t - 1] * norms[t]))
        .map(|cosine| cosine.clamp(-clamp, clamp).acos() / std::f64::consts::PI)
        .collect();
    (!angles.is_empty()).then(|| mean(&angles))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Mean over the samples whose tokens were captured.
pub(crate) fn curvature(capture: &Capture, protocol: Protocol) -> Option<Estimate> {
    let values: Vec<Option<f64>> = capture
        .tokens
        .par_iter()
        .map(|tokens| path_curvature(tokens, capture.dim, protocol))
        .collect();
    Estimate::mean(&values, capture.samples())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_straight_and_a_zigzag_turns_back() {
        let line: Vec<f32> = (0..5).flat_map(|t| [t as f32, 2.0 * t as f32, 1.0]).collect();
        let straight = path_curvature(&line, 3, Protocol::Default).unwrap();
        assert!(straight < 1e-7, "{straight}"); // acos near 1 magnifies rounding to its square root
        let zigzag: Vec<f32> = (0..6).flat_map(|t| [(t % 2) as f32, 0.0]).collect();
        assert_eq!(path_curvature(&zigzag, 2, Protocol::Default), Some(1.0));
        let square = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0];
        assert_eq!(path_curvature(&square, 2, Protocol::Default), Some(0.5));
        let clamped = 0.999_f64.acos() / std::f64::consts::PI;
        assert_eq!(path_curvature(&line, 3, Protocol::Paper), Some(clamped));
    }

    #[test]
    fn repeated_tokens_are_left_out_and_short_paths_undefined() {
        let repeated = [0.0, 1.0, 1.0, 2.0, 3.0]; // steps 1 0 1 1: one defined pair
        assert_eq!(path_curvature(&repeated, 1, Protocol::Default), Some(0.0));
        assert_eq!(path_curvature(&[0.0, 1.0], 1, Protocol::Default), None);
        assert_eq!(path_curvature(&[2.0; 5], 1, Protocol::Default), None);
    }
}

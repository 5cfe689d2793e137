//! AdamW.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn adamw(len in 0..200usize, seed: u64, t in 1..10_000u64, clip in 0.01..1.0f64) {
        let [gradient, parameter, first, mut second] = [seed, !seed, seed ^ 1, seed ^ 2].map(|seed| values(seed, len));
        second.iter_mut().for_each(|v| *v = v.abs());
        let step = AdamW { lr: 0.01, betas: [0.9, 0.99], eps: 1e-3, decay: 0.1, t, gradient_scale: clip };
        close(both(operation!(|b,
            step: AdamW, gradient: Vec<f32>, parameter: Vec<f32>, first: Vec<f32>, second: Vec<f32>
        | {
            let [mut parameter, mut first, mut second] = [parameter, first, second].map(|v| b.upload(v));
            b.adamw(step, &b.upload(gradient), &mut parameter, &mut first, &mut second);
            joined(b, &[&parameter, &first, &second])
        })), 16, 2.0);
    }
}

/// Three steps of one parameter, followed by hand: g = 0.5, 0.25, 1 with lr 0.1, β = (0.5, 0.75), ε = 0, decay 0.5.
#[test]
fn adamw_by_hand() {
    let (mut theta, mut m, mut v) = (vec![1.0], vec![0.0], vec![0.0]);
    let after = |t: u64, g: f64, state: [&mut Vec<f64>; 3]| {
        let [theta, m, v] = state;
        let step = AdamW {
            lr: 0.1,
            betas: [0.5, 0.75],
            eps: 0.0,
            decay: 0.5,
            t,
            gradient_scale: 0.5,
        };
        Reference.adamw(&step, &vec![2.0 * g], theta, m, v);
        [theta[0], m[0], v[0]]
    };
    let near = |got: [f64; 3], expected: [f64; 3]| {
        for (got, expected) in got.into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got}, expected {expected}");
        }
    };
    // m̂ = g, v̂ = g²: the step is lr.
    near(after(1, 0.5, [&mut theta, &mut m, &mut v]), [0.85, 0.25, 0.0625]);
    // m = 0.25, m̂ = 1/3; v = 0.0625, v̂ = 1/7
    let second = 0.85 * 0.95 - 0.1 * (7.0f64.sqrt() / 3.0);
    near(after(2, 0.25, [&mut theta, &mut m, &mut v]), [second, 0.25, 0.0625]);
    // m = 0.625, m̂ = 5/7; v = 0.296875, v̂ = 19/37
    let third = second * 0.95 - 0.1 * (5.0 / 7.0) / (19.0f64 / 37.0).sqrt();
    near(after(3, 1.0, [&mut theta, &mut m, &mut v]), [third, 0.625, 0.296875]);
}

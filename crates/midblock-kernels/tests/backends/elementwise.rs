//! Operations that pass over buffers once.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gated(len in 0..200usize, seed: u64, activation in activation()) {
        let (gate, up) = (values(seed, len).iter().map(|v| v * 20.0).collect::<Vec<_>>(), values(!seed, len));
        close(both(operation!(|b, gate: Vec<f32>, up: Vec<f32>, activation: Activation| {
            let (mut out, gate) = (b.zeros(gate.len()), b.upload(gate));
            b.gated_to(*activation, &gate, &b.upload(up), &mut out);
            let mut in_place = gate;
            b.gated(*activation, &mut in_place, &b.upload(up));
            joined(b, &[&out, &in_place])
        })), 4, 1.0);
    }

    #[test]
    fn gated_backward(len in 0..200usize, seed: u64, activation in activation()) {
        let gate: Vec<_> = values(seed, len).iter().map(|v| v * 20.0).collect();
        let (up, dy) = (values(!seed, len), values(seed ^ 1, len));
        close(both(operation!(|b, dy: Vec<f32>, gate: Vec<f32>, up: Vec<f32>, activation: Activation| {
            let (mut gate, mut up) = (b.upload(gate), b.upload(up));
            b.gated_backward(*activation, &b.upload(dy), &mut gate, &mut up);
            joined(b, &[&gate, &up])
        })), 64, 1.0);
    }

    #[test]
    fn sums(rows in 0..20usize, dim in 1..70usize, seed: u64) {
        let (x, y, bias) = (values(seed, rows * dim), values(!seed, rows * dim), values(seed ^ 1, dim));
        close(both(operation!(|b, x: Vec<f32>, y: Vec<f32>, bias: Vec<f32>| {
            let mut out = b.upload(x);
            b.add_bias(&mut out, &b.upload(bias));
            b.add(&mut out, &b.upload(y));
            b.scale(&mut out, 0.3);
            out
        })), 4, 2.0);
    }

    #[test]
    fn add_bias_backward(rows in 0..300usize, dim in 1..150usize, seed: u64) {
        let (dy, start) = (values(seed, rows * dim), values(!seed, dim));
        close(both(operation!(|b, dy: Vec<f32>, start: Vec<f32>| {
            let mut d_bias = b.upload(start);
            b.add_bias_backward(&b.upload(dy), &mut d_bias);
            d_bias
        })), rows + 1, 4.0);
    }

    #[test]
    fn dropout_is_the_same_everywhere(len in 0..40_000usize, seed: u64, p in 0.0..0.999f32, key: u64) {
        let x = values(seed, len);
        close(both(operation!(|b, x: Vec<f32>, p: f32, key: u64| {
            let mut out = b.zeros(x.len());
            b.dropout(&b.upload(x), *p, *key, &mut out);
            out
        })), 1, 1.0);
    }

    #[test]
    fn sum_of_squares(len in 0..40_000usize, seed: u64) {
        let x = values(seed, len);
        let (cpu, reference) = both(operation!(|b, x: Vec<f32>| b.upload(&[b.sum_of_squares(&b.upload(x))])));
        // The reference's f64 sum is exact to 1e-12; the CPU's returns through an f32 buffer.
        prop_assert!((cpu[0] - reference[0]).abs() <= 1e-7 * reference[0], "{cpu:?}, expected {reference:?}");
    }
}

/// The share of kept elements is 1 − p to within four standard deviations, they are scaled, and keys make different masks.
#[test]
fn dropout_keeps_the_promised_share() {
    let cpu = Cpu::new();
    let len = 1 << 20;
    let x = cpu.upload(&vec![1.0f32; len]);
    let mask = |p: f32, key: u64| {
        let mut out = cpu.zeros(len);
        cpu.dropout(&x, p, key, &mut out);
        out
    };
    for p in [0.0, 0.05, 0.1, 0.5, 0.9] {
        for key in [0, 1, 2, u64::MAX, 1 << 32] {
            let out = mask(p, key);
            let kept = out.iter().filter(|v| **v != 0.0).count() as f64;
            assert!(out.iter().all(|v| *v == 0.0 || *v == 1.0 / (1.0 - p)), "p {p}");
            let expected = f64::from(1.0 - p);
            let sigma = (expected * f64::from(p) / len as f64).sqrt();
            assert!(
                (kept / len as f64 - expected).abs() <= 4.0 * sigma,
                "p {p}, key {key}: {kept} of {len}"
            );
        }
    }
    let agreement = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / len as f64;
    let sigma = 0.5 / (len as f64).sqrt();
    let first = mask(0.5, 7);
    assert_eq!(bits(&first), bits(&mask(0.5, 7)));
    for key in [8, 7 | 1 << 40] {
        let second = mask(0.5, key);
        assert!((agreement(&first, &second) - 0.5).abs() <= 4.0 * sigma, "key {key}");
        assert!(
            (agreement(&first[1..], &second) - 0.5).abs() <= 4.0 * sigma,
            "key {key}"
        );
    }
    for distance in [1, 2, 16, 576, 1 << 14] {
        assert!(
            (agreement(&first[distance..], &first) - 0.5).abs() <= 4.0 * sigma + distance as f64 / len as f64,
            "{distance}"
        );
    }
}

#[test]
fn values_that_are_not_finite_pass_through() {
    let cpu = Cpu::new();
    let x = cpu.upload(&[f32::NAN, 1.0, f32::INFINITY, 1.0, 2.0, 3.0]);
    let w = cpu.matrix(StoredMatrix::from_f32([1, 2], &[1.0, 0.5]));
    let mut out = cpu.zeros(3);
    cpu.linear(&x, &w, 3, Accumulate::Write, &mut out);
    assert!(out[0].is_nan() && out[1] == f32::INFINITY && out[2] == 3.5, "{out:?}");
    let mut gate = cpu.upload(&[f32::NAN, f32::INFINITY, 0.0]);
    cpu.gated(Activation::Silu, &mut gate, &cpu.upload(&[1.0f32, 1.0, f32::NAN]));
    assert!(
        gate[0].is_nan() && gate[1] == f32::INFINITY && gate[2].is_nan(),
        "{gate:?}"
    );
    let predictions = cpu.predictions(&x, &w, &[0, 0, 0]);
    assert!(
        predictions[0].nats.is_nan() && predictions[0].top == 0,
        "{predictions:?}"
    );
    assert_eq!((predictions[2].nats, predictions[2].top_nats), (0.0, 0.0));
}

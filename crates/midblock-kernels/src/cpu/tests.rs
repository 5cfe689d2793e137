//! The operations with every instruction set that this machine has, not only with the widest.

use super::Cpu;
use crate::{
    Accumulate, Activation, Attention, AttentionForward, AttentionGradients, Backend, Reference, StoredMatrix,
};
use pulp::Arch;

fn instruction_sets() -> Vec<(&'static str, Arch)> {
    #[allow(unused_mut)]
    let mut sets = vec![("widest", Arch::new()), ("scalar", Arch::Scalar)];
    #[cfg(target_arch = "x86_64")]
    sets.extend(pulp::x86::V3::try_new().map(|simd| ("AVX2", Arch::V3(simd))));
    sets
}

fn values(seed: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i + seed) * 7919 % 1009) as f32 / 250.0 - 2.0)
        .collect()
}

/// The products of a linear layer (out, in), forward and backward.
fn products<B: Backend>(b: &B, [n, k]: [usize; 2]) -> Vec<f64> {
    let rows = 29;
    let w = b.matrix(StoredMatrix::from_f32([n, k], &values(1, n * k)));
    let (x, dy) = (b.upload(&values(2, rows * k)), b.upload(&values(3, rows * n)));
    let [mut y, mut dx, mut dw] = [rows * n, rows * k, n * k].map(|len| b.upload(&values(4, len)));
    b.linear(&x, &w, rows, Accumulate::Add, &mut y);
    b.linears_dx(&[(&dy, &w), (&dy, &w)], rows, Accumulate::Write, &mut dx);
    b.linear_dw(&dy, &x, rows, Accumulate::Add, &mut dw);
    let mut decoded = b.upload(&values(4, rows * n));
    b.decode_linears(&x, rows, Accumulate::Add, &mut [(&w, &mut decoded)]);
    read(b, &[y, dx, dw, decoded])
}

fn attention<B: Backend>(b: &B) -> Vec<f64> {
    let offsets = [0, 150, 150, 157];
    let shape = Attention {
        offsets: &offsets,
        keys: None,
        heads: 6,
        kv_heads: 2,
        head_dim: 20,
        scale: 0.2,
        window: Some(90),
    };
    let [wide, narrow] = [157 * 6 * 20, 157 * 2 * 20];
    let [q, d_out] = [1, 2].map(|seed| b.upload(&values(seed, wide)));
    let [k, v] = [3, 4].map(|seed| b.upload(&values(seed, narrow)));
    let [mut out, mut log_sums, mut dq, mut dk, mut dv] = [wide, 157 * 6, wide, narrow, narrow].map(|len| b.zeros(len));
    b.attention(&shape, &q, &k, &v, &mut out, Some(&mut log_sums));
    let forward = AttentionForward {
        q: &q,
        k: &k,
        v: &v,
        out: &out,
        log_sums: &log_sums,
    };
    let gradients = AttentionGradients {
        q: &mut dq,
        k: &mut dk,
        v: &mut dv,
    };
    b.attention_backward(&shape, forward, &d_out, gradients);
    let decoding = Attention {
        offsets: &[0, 1, 4, 9],
        keys: Some(&[3..150, 0..100, 20..157]),
        ..shape
    };
    let last = b.upload(&values(5, 9 * 6 * 20));
    let mut decoded = b.zeros(9 * 6 * 20);
    b.attention(&decoding, &last, &k, &v, &mut decoded, None);
    read(b, &[out, log_sums, dq, dk, dv, decoded])
}

fn others<B: Backend>(b: &B) -> Vec<f64> {
    let (rows, dim) = (30, 45);
    let [x, dy] = [1, 2].map(|seed| b.upload(&values(seed, rows * dim)));
    let weight = b.upload(&values(3, dim));
    let [mut y, mut dx, mut dropped] = [0; 3].map(|_| b.zeros(rows * dim));
    let mut d_weight = b.zeros(dim);
    b.rms_norm(&x, &weight, 0.5, &mut y);
    b.rms_norm_backward(&x, &weight, 0.5, &dy, Accumulate::Write, &mut dx, Some(&mut d_weight));
    b.dropout(&x, 0.3, 5, &mut dropped);
    let (mut gate, mut up, mut logits) = (
        b.upload(&values(4, rows * dim)),
        b.upload(&values(5, rows * dim)),
        b.zeros(0),
    );
    b.gated_backward(Activation::GeluTanh, &dy, &mut gate, &mut up);
    b.resize(&mut logits, rows * dim);
    b.copy(&x, &mut logits);
    let losses = b.cross_entropy_backward(&mut logits, &[7; 30], &|_, _| 0.5);
    let losses = b.upload(&losses);
    read(b, &[y, dx, d_weight, dropped, gate, up, logits, losses])
}

fn read<B: Backend>(b: &B, buffers: &[B::Buffer]) -> Vec<f64> {
    let mut all = Vec::new();
    for buffer in buffers {
        let mut values = vec![0.0; b.len(buffer)];
        b.read(buffer, 0, &mut values);
        all.extend::<Vec<f64>>(values);
    }
    all
}

#[track_caller]
fn close(name: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        let tolerance = 2e-5 * b.abs().max(1.0);
        assert!((a - b).abs() <= tolerance, "{name}, element {i}: {a}, expected {b}");
    }
}

#[test]
fn every_instruction_set_agrees_with_the_reference() {
    for (name, arch) in instruction_sets() {
        let cpu = Cpu { arch };
        for shape in [[75, 70], [70, 900], [8, 70], [70, 8], [3, 5]] {
            close(name, &products(&cpu, shape), &products(&Reference, shape));
        }
        close(name, &attention(&cpu), &attention(&Reference));
        close(name, &others(&cpu), &others(&Reference));
    }
}

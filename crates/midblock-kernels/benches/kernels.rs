//! Kernels on the shapes of SmolLM2-135M at 4 × 128 tokens; the `gemm` crate's product beside ours, on the same threads.
//!
//! Rates are floating-point operations (`flop`), bytes read (`byte`) or elements (`elem`) per second, as each group's name says.
//! The `decode` groups are the few rows of a decoding step, for which `memory_byte` is the bound.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use midblock_kernels::{
    Accumulate, Activation, AdamW, Attention, AttentionForward, AttentionGradients, Backend, Cpu, CpuBuffer, Dtype,
    SharedBytes, StoredMatrix,
    baseline::{gemm_linear, gemm_linear_dw, gemm_linear_dx},
};
use rayon::prelude::*;
use std::{hint::black_box, time::Duration};

const ROWS: usize = 512;
const HIDDEN: usize = 576;
const KV: usize = 192;
const FFN: usize = 1536;
const VOCAB: usize = 49152;
const RANK: usize = 8;

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn buffer(len: usize) -> CpuBuffer {
    Cpu::new().upload(&values(len))
}

/// The three products of a layer (out, in), each beside the `gemm` crate's.
fn linear(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("linear_flop");
    let layers = [
        [HIDDEN, HIDDEN],
        [KV, HIDDEN],
        [FFN, HIDDEN],
        [HIDDEN, FFN],
        [RANK, HIDDEN],
        [HIDDEN, RANK],
        [RANK, FFN],
        [FFN, RANK],
    ];
    for [n, k] in layers {
        let (x, dy, w) = (buffer(ROWS * k), buffer(ROWS * n), buffer(n * k));
        let matrix = cpu.trained([n, k], w.clone());
        let [mut y, mut dx, mut dw] = [ROWS * n, ROWS * k, n * k].map(|len| cpu.zeros(len));
        group.throughput(Throughput::Elements((2 * ROWS * n * k) as u64));
        let id = |name: &str| BenchmarkId::new(name, format!("{ROWS}x{n}x{k}"));
        group.bench_function(id("forward"), |b| {
            b.iter(|| cpu.linear(&x, &matrix, ROWS, Accumulate::Write, &mut y));
        });
        group.bench_function(id("forward_gemm"), |b| {
            b.iter(|| gemm_linear(ROWS, n, k, &x, &w, black_box(&mut y)));
        });
        group.bench_function(id("dx"), |b| {
            b.iter(|| cpu.linear_dx(&dy, &matrix, ROWS, Accumulate::Write, &mut dx));
        });
        group.bench_function(id("dx_gemm"), |b| {
            b.iter(|| gemm_linear_dx(ROWS, n, k, &dy, &w, black_box(&mut dx)));
        });
        group.bench_function(id("dw"), |b| {
            b.iter(|| cpu.linear_dw(&dy, &x, ROWS, Accumulate::Write, &mut dw));
        });
        group.bench_function(id("dw_gemm"), |b| {
            b.iter(|| gemm_linear_dw(ROWS, n, k, &dy, &x, black_box(&mut dw)));
        });
    }
}

/// Forward and backward with weights that are widened on the way, and the head, whose matrix no cache holds.
fn stored(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("stored_flop");
    for [n, k] in [[FFN, HIDDEN], [VOCAB, HIDDEN]] {
        let (x, dy, w) = (buffer(ROWS * k), buffer(ROWS * n), values(n * k));
        let [mut y, mut dx] = [ROWS * n, ROWS * k].map(|len| cpu.zeros(len));
        group.throughput(Throughput::Elements((2 * ROWS * n * k) as u64));
        let bf16 = w.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        let mut matrices = vec![
            StoredMatrix::from_f32([n, k], &w),
            StoredMatrix::new(Dtype::BF16, [n, k], SharedBytes::owned(bf16)),
        ];
        for dtype in [Dtype::Q8_0, Dtype::Q4_0] {
            let mut bytes = vec![0; n * dtype.bytes_for(k).expect("rows are whole blocks")];
            dtype.quantize(&w, &mut bytes);
            matrices.push(StoredMatrix::new(dtype, [n, k], SharedBytes::owned(bytes)));
        }
        for stored in matrices {
            let dtype = stored.dtype();
            let id = |name: &str| BenchmarkId::new(format!("{name}_{dtype}"), format!("{ROWS}x{n}x{k}"));
            let matrix = cpu.matrix(stored);
            group.bench_function(id("forward"), |b| {
                b.iter(|| cpu.linear(&x, &matrix, ROWS, Accumulate::Write, &mut y));
            });
            group.bench_function(id("dx"), |b| {
                b.iter(|| cpu.linear_dx(&dy, &matrix, ROWS, Accumulate::Write, &mut dx));
            });
        }
    }
}

fn attention(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("attention_flop");
    for (length, offsets) in [(128, vec![0, 128, 256, 384, 512]), (2048, vec![0, 2048])] {
        let rows = offsets[offsets.len() - 1];
        let shape = Attention {
            offsets: &offsets,
            keys: None,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            scale: 0.125,
            window: None,
        };
        let [q, k, v] = [HIDDEN, KV, KV].map(|width| buffer(rows * width));
        let mut out = cpu.zeros(rows * HIDDEN);
        let pairs = (offsets.len() - 1) * length * (length + 1) / 2; // (query, key) pairs a head sees
        group.throughput(Throughput::Elements((4 * HIDDEN * pairs) as u64));
        let mut log_sums = cpu.zeros(rows * shape.heads);
        group.bench_function(BenchmarkId::new("forward", length), |b| {
            b.iter(|| cpu.attention(&shape, &q, &k, &v, &mut out, Some(&mut log_sums)));
        });
        let d_out = buffer(rows * HIDDEN);
        let [mut dq, mut dk, mut dv] = [HIDDEN, KV, KV].map(|width| cpu.zeros(rows * width));
        group.throughput(Throughput::Elements((10 * HIDDEN * pairs) as u64));
        group.bench_function(BenchmarkId::new("backward", length), |b| {
            b.iter(|| {
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
                cpu.attention_backward(&shape, forward, &d_out, gradients);
            });
        });
    }
}

/// Sequences and keys of each in a decoding step.
const SEQUENCES: usize = 16;
const KEYS: usize = 512;

/// Reading memory on all threads, which bounds decoding: to be compared with the bytes a second below.
fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("memory_byte");
    let words = vec![1u64; 32 << 20]; // more than the caches hold
    group.throughput(Throughput::Bytes(8 * words.len() as u64));
    group.bench_function("read", |b| {
        b.iter(|| {
            let parts = words.par_chunks(1 << 16).map(|part| part.iter().fold(0, |a, b| a ^ b));
            black_box(parts.reduce(|| 0, |a, b| a ^ b))
        });
    });
}

/// The products of a decoding step that share x: bytes of weights a second, and operations a second.
fn decode(c: &mut Criterion) {
    let cpu = Cpu::new();
    let layers: [(&str, &[[usize; 2]]); 4] = [
        ("q_k_v", &[[HIDDEN, HIDDEN], [KV, HIDDEN], [KV, HIDDEN]]),
        ("gate_up", &[[FFN, HIDDEN], [FFN, HIDDEN]]),
        ("down", &[[HIDDEN, FFN]]),
        ("head", &[[VOCAB, HIDDEN]]),
    ];
    for unit in ["byte", "flop"] {
        let mut group = c.benchmark_group(format!("decode_{unit}"));
        for (dtype, (name, shapes)) in [Dtype::F32, Dtype::BF16, Dtype::Q4_1]
            .into_iter()
            .flat_map(|d| layers.map(|l| (d, l)))
        {
            // As many copies as no cache holds: a step reads each weight once.
            let bytes = |[n, k]: [usize; 2]| dtype.bytes_for(n * k).expect("whole blocks");
            let total: usize = shapes.iter().copied().map(bytes).sum();
            let copies: Vec<Vec<_>> = (0..(96usize << 20).div_ceil(total))
                .map(|_| {
                    let stored = |shape| StoredMatrix::new(dtype, shape, SharedBytes::owned(vec![0x31; bytes(shape)]));
                    shapes.iter().map(|shape| cpu.matrix(stored(*shape))).collect()
                })
                .collect();
            for rows in [1, 4, 16] {
                let x = buffer(rows * shapes[0][1]);
                let mut outs: Vec<_> = shapes.iter().map(|[n, _]| cpu.zeros(rows * n)).collect();
                let operations: usize = shapes.iter().map(|[n, k]| 2 * rows * n * k).sum();
                group.throughput(match unit {
                    "byte" => Throughput::Bytes(total as u64),
                    _ => Throughput::Elements(operations as u64),
                });
                let mut copies = copies.iter().cycle();
                group.bench_function(BenchmarkId::new(format!("{name}_{dtype}"), rows), |b| {
                    b.iter(|| {
                        let weights = copies.next().expect("invariant: a cycle does not end");
                        let mut pairs: Vec<_> = weights.iter().zip(&mut outs).collect();
                        cpu.decode_linears(&x, rows, Accumulate::Write, &mut pairs);
                    });
                });
            }
        }
    }
}

/// One query of each of some sequences over its cache.
fn attention_over_a_cache(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("decode_attention_byte");
    let offsets: Vec<usize> = (0..=SEQUENCES).collect();
    let keys: Vec<_> = (0..SEQUENCES).map(|i| i * KEYS..(i + 1) * KEYS).collect();
    let shape = Attention {
        offsets: &offsets,
        keys: Some(&keys),
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        scale: 0.125,
        window: None,
    };
    let caches: Vec<_> = (0..8).map(|_| [0; 2].map(|_| buffer(SEQUENCES * KEYS * KV))).collect();
    let (q, mut out) = (buffer(SEQUENCES * HIDDEN), cpu.zeros(SEQUENCES * HIDDEN));
    group.throughput(Throughput::Bytes((2 * 4 * SEQUENCES * KEYS * KV) as u64));
    let mut caches = caches.iter().cycle();
    group.bench_function(format!("{SEQUENCES}x{KEYS}"), |b| {
        b.iter(|| {
            let [k, v] = caches.next().expect("invariant: a cycle does not end");
            cpu.attention(&shape, &q, k, v, &mut out, None);
        });
    });
}

fn elementwise(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("elementwise_elem");
    let (x, weight) = (buffer(ROWS * HIDDEN), buffer(HIDDEN));
    let mut out = cpu.zeros(ROWS * HIDDEN);
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("rms_norm", |b| b.iter(|| cpu.rms_norm(&x, &weight, 1e-5, &mut out)));
    let (dy, mut d_weight) = (buffer(ROWS * HIDDEN), cpu.zeros(HIDDEN));
    group.bench_function("rms_norm_backward", |b| {
        b.iter(|| cpu.rms_norm_backward(&x, &weight, 1e-5, &dy, Accumulate::Write, &mut out, Some(&mut d_weight)));
    });
    group.bench_function("dropout", |b| b.iter(|| cpu.dropout(&x, 0.1, 1, &mut out)));
    let up = buffer(ROWS * FFN);
    // The gate is computed in place: without a fresh copy each time, repetition would end in denormal numbers.
    let start = buffer(ROWS * FFN);
    let mut gate = start.clone();
    group.throughput(Throughput::Elements(up.len() as u64));
    for (name, activation) in [("silu", Activation::Silu), ("gelu_tanh", Activation::GeluTanh)] {
        group.bench_function(BenchmarkId::new("gated", name), |b| {
            b.iter(|| {
                gate.copy_from_slice(&start);
                cpu.gated(activation, &mut gate, &up);
            });
        });
        let dy = buffer(ROWS * FFN);
        let mut d_up = up.clone();
        group.bench_function(BenchmarkId::new("gated_backward", name), |b| {
            b.iter(|| {
                gate.copy_from_slice(&start);
                d_up.copy_from_slice(&up);
                cpu.gated_backward(activation, &dy, &mut gate, &mut d_up);
            });
        });
    }
}

fn optimizer(c: &mut Criterion) {
    const PARAMETERS: usize = 4 << 20; // more than the caches hold, as in full tuning
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("optimizer_elem");
    group.throughput(Throughput::Elements(PARAMETERS as u64));
    let [gradient, mut parameter, mut first] = [0; 3].map(|_| buffer(PARAMETERS));
    let mut second = cpu.upload(&values(PARAMETERS).iter().map(|v| v * v).collect::<Vec<_>>());
    let step = AdamW {
        lr: 1e-5,
        betas: [0.9, 0.999],
        eps: 1e-8,
        decay: 0.01,
        t: 10,
        gradient_scale: 1.0,
    };
    group.bench_function("adamw", |b| {
        b.iter(|| cpu.adamw(&step, &gradient, &mut parameter, &mut first, &mut second));
    });
    group.bench_function("sum_of_squares", |b| b.iter(|| cpu.sum_of_squares(&gradient)));
}

fn cross_entropy(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("predictions_flop");
    let x = buffer(ROWS * HIDDEN);
    let head = cpu.matrix(StoredMatrix::from_f32([VOCAB, HIDDEN], &values(VOCAB * HIDDEN)));
    let targets: Vec<u32> = (0..ROWS as u32).collect();
    group.throughput(Throughput::Elements((2 * ROWS * VOCAB * HIDDEN) as u64));
    group.bench_function("vocabulary", |b| b.iter(|| cpu.predictions(&x, &head, &targets)));
    group.finish();
    let mut group = c.benchmark_group("cross_entropy_elem");
    const CHUNK: usize = 256;
    let mut logits = buffer(CHUNK * VOCAB);
    group.throughput(Throughput::Elements(logits.len() as u64));
    group.bench_function("backward", |b| {
        b.iter(|| cpu.cross_entropy_backward(&mut logits, &targets[..CHUNK], &|_, _| 0.01));
    });
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = linear, stored, attention, memory, decode, attention_over_a_cache, elementwise, optimizer, cross_entropy
}
criterion_main!(kernels);

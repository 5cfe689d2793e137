//! Kernels on the shapes of SmolLM2-135M at 4 × 128 tokens; the `gemm` crate's product beside ours, on the same threads.
//!
//! Rates are floating-point operations (`flop`) or elements (`elem`) per second, as each group's name says.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use midblock_kernels::{Accumulate, Activation, Attention, Backend, Cpu, CpuBuffer, Dtype, SharedBytes, StoredMatrix};
use std::{hint::black_box, time::Duration};

const ROWS: usize = 512;
const HIDDEN: usize = 576;
const KV: usize = 192;
const FFN: usize = 1536;
const VOCAB: usize = 49152;

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn buffer(len: usize) -> CpuBuffer {
    Cpu::new().upload(&values(len))
}

fn linear(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("linear_flop");
    for [n, k] in [
        [HIDDEN, HIDDEN],
        [KV, HIDDEN],
        [FFN, HIDDEN],
        [HIDDEN, FFN],
        [VOCAB, HIDDEN],
    ] {
        let (x, w) = (buffer(ROWS * k), values(n * k));
        let mut out = cpu.zeros(ROWS * n);
        group.throughput(Throughput::Elements((2 * ROWS * n * k) as u64));
        let shape = format!("{ROWS}x{n}x{k}");
        let bf16 = w.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        let matrices = [
            StoredMatrix::from_f32([n, k], &w),
            StoredMatrix::new(Dtype::BF16, [n, k], SharedBytes::owned(bf16)),
        ];
        for matrix in matrices {
            let id = BenchmarkId::new(format!("midblock_{}", matrix.dtype()), &shape);
            let matrix = cpu.matrix(matrix);
            group.bench_function(id, |b| {
                b.iter(|| cpu.linear(&x, &matrix, ROWS, Accumulate::Write, &mut out))
            });
        }
        group.bench_function(BenchmarkId::new("gemm_f32", &shape), |b| {
            b.iter(|| gemm_product(&x, &w, [n, k], black_box(&mut out)));
        });
    }
}

/// `out = x · Wᵀ` by the `gemm` crate.
fn gemm_product(x: &[f32], w: &[f32], [n, k]: [usize; 2], out: &mut [f32]) {
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    assert_eq!([x.len(), w.len(), out.len()], [ROWS * k, n * k, ROWS * n]);
    // SAFETY: the strides and lengths are those of the three slices, as just checked.
    unsafe {
        gemm::gemm(
            ROWS,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

fn attention(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("attention_flop");
    for (length, offsets) in [(128, vec![0, 128, 256, 384, 512]), (2048, vec![0, 2048])] {
        let rows = offsets[offsets.len() - 1];
        let shape = Attention {
            offsets: &offsets,
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
        group.bench_function(BenchmarkId::new("causal", length), |b| {
            b.iter(|| cpu.attention(&shape, &q, &k, &v, &mut out, None));
        });
    }
}

fn elementwise(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("elementwise_elem");
    let (x, weight) = (buffer(ROWS * HIDDEN), buffer(HIDDEN));
    let mut out = cpu.zeros(ROWS * HIDDEN);
    group.throughput(Throughput::Elements(x.len() as u64));
    group.bench_function("rms_norm", |b| b.iter(|| cpu.rms_norm(&x, &weight, 1e-5, &mut out)));
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
    }
}

fn cross_entropy(c: &mut Criterion) {
    let cpu = Cpu::new();
    let mut group = c.benchmark_group("cross_entropy_flop");
    let x = buffer(ROWS * HIDDEN);
    let head = cpu.matrix(StoredMatrix::from_f32([VOCAB, HIDDEN], &values(VOCAB * HIDDEN)));
    let targets: Vec<u32> = (0..ROWS as u32).collect();
    group.throughput(Throughput::Elements((2 * ROWS * VOCAB * HIDDEN) as u64));
    group.bench_function("vocabulary", |b| b.iter(|| cpu.cross_entropy(&x, &head, &targets)));
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = linear, attention, elementwise, cross_entropy
}
criterion_main!(kernels);

//! Every operation of [`Cpu`] against its definition in [`Reference`], on shapes that do not fit tiles and vectors.

use midblock_kernels::*;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Storage formats whose any bytes are numbers.
const FLOATS: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];

/// Values of about unit size, reproducible.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-2.0..2.0)).collect()
}

fn stored(dtype: Dtype, shape: [usize; 2], values: &[f32]) -> StoredMatrix {
    let bytes = match dtype {
        Dtype::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => values
            .iter()
            .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .iter()
            .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
            .collect(),
        _ => panic!("{dtype} is not a float"),
    };
    StoredMatrix::new(dtype, shape, SharedBytes::owned(bytes))
}

fn weight(seed: u64, shape: [usize; 2]) -> StoredMatrix {
    stored(Dtype::F32, shape, &values(seed, shape[0] * shape[1]))
}

/// Both backends' results of one operation: the CPU's first.
fn both(operation: impl Operation) -> (Vec<f64>, Vec<f64>) {
    (operation.run(&Cpu::new()), operation.run(&Reference))
}

/// A closure that is generic over the backend.
trait Operation {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f64>;
}

macro_rules! operation {
    (|$backend:ident $(, $name:ident : $type:ty)*| $body:expr) => {{
        struct Case<'a> { $($name: $type,)* marker: std::marker::PhantomData<&'a ()> }
        impl Operation for Case<'_> {
            fn run<B: Backend>(&self, $backend: &B) -> Vec<f64> {
                $(let $name = &self.$name;)*
                let out = $body;
                let mut values = vec![0.0; $backend.len(&out)];
                $backend.read(&out, 0, &mut values);
                values
            }
        }
        Case { $($name,)* marker: std::marker::PhantomData }
    }};
}

/// Whether the CPU's values are as near as `c · eps · √k` lets rounding be, for sums of `k` terms of size `scale`.
#[track_caller]
fn close((cpu, reference): (Vec<f64>, Vec<f64>), terms: usize, scale: f64) {
    assert_eq!(cpu.len(), reference.len());
    let tolerance = 4.0 * f64::from(f32::EPSILON) * (terms as f64).sqrt() * scale;
    for (i, (a, b)) in cpu.iter().zip(&reference).enumerate() {
        let error = (a - b).abs();
        assert!(
            error <= tolerance * b.abs().max(1.0),
            "element {i}: {a}, expected {b}, error {error:.1e} > {tolerance:.1e}"
        );
    }
}

fn mode() -> impl Strategy<Value = Accumulate> {
    prop_oneof![Just(Accumulate::Write), Just(Accumulate::Add)]
}

fn any_linear(rows: usize, [n, k]: [usize; 2], w: StoredMatrix, mode: Accumulate) -> (Vec<f64>, Vec<f64>) {
    let (x, start) = (values(1, rows * k), values(2, rows * n));
    both(operation!(|b,
                     x: Vec<f32>,
                     start: Vec<f32>,
                     w: StoredMatrix,
                     rows: usize,
                     mode: Accumulate| {
        let mut out = b.upload(start);
        b.linear(&b.upload(x), &b.matrix(w.clone()), *rows, *mode, &mut out);
        out
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear(rows in 0..40usize, n in 1..100usize, k in 1..90usize, seed: u64, mode in mode()) {
        close(any_linear(rows, [n, k], weight(seed, [n, k]), mode), k, 4.0);
    }

    #[test]
    fn rms_norm(rows in 0..20usize, dim in 1..100usize, seed: u64) {
        let (x, w) = (values(seed, rows * dim), values(!seed, dim));
        close(both(operation!(|b, x: Vec<f32>, w: Vec<f32>| {
            let mut out = b.zeros(x.len());
            b.rms_norm(&b.upload(x), &b.upload(w), 1e-5, &mut out);
            out
        })), 4, 2.0);
    }

    #[test]
    fn rope(rows in 0..20usize, heads in 1..5usize, half in 1..40usize, seed: u64) {
        let angles: Vec<f32> = values(seed, 32 * half);
        let table = RopeTable {
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
            half_dim: half,
        };
        let x = values(!seed, rows * heads * 2 * half);
        let positions: Vec<u32> = (0..rows as u32).map(|r| (r * 7) % 32).collect();
        close(both(operation!(|b, x: Vec<f32>, table: RopeTable, positions: Vec<u32>, heads: usize| {
            let mut out = b.upload(x);
            b.rope(&mut out, table, positions, *heads);
            out
        })), 1, 1.0);
    }

    #[test]
    fn attention(
        lengths in prop::collection::vec(0..150usize, 1..4),
        kv_heads in 1..4usize,
        group in 1..5usize,
        head_dim in prop_oneof![Just(4usize), Just(20), Just(32), Just(64), 1..70usize],
        window in prop_oneof![Just(None), (1..200usize).prop_map(Some)],
        seed: u64,
    ) {
        close(any_attention(&lengths, kv_heads, group, head_dim, window, seed), 64, 2.0);
    }

    #[test]
    fn gated(len in 0..200usize, seed: u64, gelu: bool) {
        let (gate, up) = (values(seed, len).iter().map(|v| v * 20.0).collect::<Vec<_>>(), values(!seed, len));
        let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
        close(both(operation!(|b, gate: Vec<f32>, up: Vec<f32>, activation: Activation| {
            let mut out = b.upload(gate);
            b.gated(*activation, &mut out, &b.upload(up));
            out
        })), 4, 1.0);
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
    fn cross_entropy(rows in 0..30usize, vocab in 1..400usize, dim in 1..60usize, seed: u64) {
        let (x, w) = (values(seed, rows * dim), weight(!seed, [vocab, dim]));
        let targets: Vec<u32> = (0..rows).map(|r| ((r * 31) % vocab) as u32).collect();
        close(both(operation!(|b, x: Vec<f32>, w: StoredMatrix, targets: Vec<u32>| {
            b.upload(&b.cross_entropy(&b.upload(x), &b.matrix(w.clone()), targets))
        })), dim, 4.0);
    }
}

fn any_attention(
    lengths: &[usize],
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    window: Option<usize>,
    seed: u64,
) -> (Vec<f64>, Vec<f64>) {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    let rows = offsets[lengths.len()];
    let heads = kv_heads * group;
    let q = values(seed, rows * heads * head_dim);
    let (k, v) = (
        values(seed ^ 1, rows * kv_heads * head_dim),
        values(seed ^ 2, rows * kv_heads * head_dim),
    );
    both(operation!(|b,
                     q: Vec<f32>,
                     k: Vec<f32>,
                     v: Vec<f32>,
                     offsets: Vec<usize>,
                     heads: usize,
                     kv_heads: usize,
                     head_dim: usize,
                     window: Option<usize>| {
        let shape = Attention {
            offsets,
            heads: *heads,
            kv_heads: *kv_heads,
            head_dim: *head_dim,
            scale: (*head_dim as f32).powf(-0.5),
            window: *window,
        };
        let mut out = b.zeros(q.len());
        b.attention(&shape, &b.upload(q), &b.upload(k), &b.upload(v), &mut out);
        out
    }))
}

#[test]
fn attention_across_key_blocks() {
    close(any_attention(&[1, 700, 0, 3], 1, 3, 8, None, 1), 64, 2.0);
    close(any_attention(&[700], 2, 1, 8, Some(130), 2), 64, 2.0);
    close(any_attention(&[600], 1, 9, 4, Some(1), 3), 64, 2.0);
}

#[test]
fn linear_across_blocks_of_rows_and_of_the_sum() {
    close(
        any_linear(13, [70, 1700], weight(5, [70, 1700]), Accumulate::Write),
        1700,
        4.0,
    );
    close(
        any_linear(13, [70, 1700], weight(5, [70, 1700]), Accumulate::Add),
        1700,
        4.0,
    );
    close(any_linear(1100, [33, 9], weight(6, [33, 9]), Accumulate::Add), 9, 4.0);
}

#[test]
fn linear_in_every_float_format() {
    for dtype in FLOATS {
        let shape = [50, 800];
        let w = stored(dtype, shape, &values(7, 50 * 800));
        close(any_linear(9, shape, w, Accumulate::Write), 800, 4.0);
    }
}

#[test]
fn linear_multiplies_what_widening_gives_in_every_format() {
    let cpu = Cpu::new();
    let (rows, n, k) = (5, 50, 1792); // several blocks of the sum, the last one short
    let x = cpu.upload(&values(1, rows * k));
    for dtype in Dtype::ALL {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let len = dtype.bytes_for(n * k).unwrap();
        // Without its two highest bits no byte can be the top of a number that is not finite.
        let bytes = (0..len).map(|_| rng.random::<u8>() & 0x3f).collect();
        let w = StoredMatrix::new(dtype, [n, k], SharedBytes::owned(bytes));
        let mut widened = vec![0.0; n * k];
        w.widen_rows(0..n, &mut widened);
        let product = |w: &StoredMatrix| {
            let mut out = cpu.zeros(rows * n);
            cpu.linear(&x, w, rows, Accumulate::Write, &mut out);
            assert!(out.iter().all(|v| v.is_finite() && *v != 0.0), "{dtype}");
            bits(&out)
        };
        assert_eq!(
            product(&w),
            product(&StoredMatrix::from_f32([n, k], &widened)),
            "{dtype}"
        );
    }
}

#[test]
fn linear_takes_f32_at_any_address() {
    let cpu = Cpu::new();
    let shape = [40, 800];
    let aligned = weight(1, shape);
    let mut bytes = vec![0u8; 3];
    bytes.extend_from_slice(aligned.bytes().as_ref());
    let range = 3..bytes.len();
    let shifted = StoredMatrix::new(Dtype::F32, shape, SharedBytes::new(std::sync::Arc::new(bytes), range));
    let x = cpu.upload(&values(2, 7 * 800));
    let [expected, got] = [aligned, shifted].map(|w| {
        let mut out = cpu.zeros(7 * 40);
        cpu.linear(&x, &w, 7, Accumulate::Write, &mut out);
        bits(&out)
    });
    assert_eq!(got, expected);
}

#[test]
fn embed_in_every_float_format() {
    for dtype in FLOATS {
        let w = stored(dtype, [11, 37], &values(8, 11 * 37));
        let ids = vec![3u32, 10, 0, 3];
        let (cpu, reference) = both(operation!(|b, w: StoredMatrix, ids: Vec<u32>| {
            let mut out = b.zeros(ids.len() * 37);
            b.embed(&b.matrix(w.clone()), ids, &mut out);
            out
        }));
        assert_eq!(cpu, reference, "{dtype}");
    }
}

#[test]
fn linears_are_the_linears_one_by_one() {
    let cpu = Cpu::new();
    let (rows, k) = (21, 70);
    let x = cpu.upload(&values(1, rows * k));
    let weights = [weight(2, [40, k]), weight(3, [1, k]), weight(4, [65, k])];
    let mut together = weights.clone().map(|w| cpu.zeros(rows * w.shape()[0]));
    let mut pairs: Vec<_> = weights.iter().zip(&mut together).collect();
    cpu.linears(&x, rows, Accumulate::Write, &mut pairs);
    for (w, together) in weights.iter().zip(together) {
        let mut alone = cpu.zeros(together.len());
        cpu.linear(&x, w, rows, Accumulate::Write, &mut alone);
        assert_eq!(bits(&alone), bits(&together));
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    let cpu = Cpu::new();
    let (rows, n, k) = (37, 75, 900);
    let (x, w) = (values(1, rows * k), weight(2, [n, k]));
    let linear = |rows: std::ops::Range<usize>| {
        let mut out = cpu.zeros(rows.len() * n);
        cpu.linear(
            &cpu.upload(&x[rows.start * k..rows.end * k]),
            &w,
            rows.len(),
            Accumulate::Write,
            &mut out,
        );
        out.to_vec()
    };
    let together = linear(0..rows);
    for row in 0..rows {
        assert_eq!(
            bits(&linear(row..row + 1)),
            bits(&together[row * n..][..n]),
            "row {row}"
        );
    }
    assert_eq!(bits(&linear(5..24)), bits(&together[5 * n..24 * n]));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let cpu = Cpu::new();
    let (rows, n, k) = (300, 200, 70);
    let (x, w) = (values(1, rows * k), weight(2, [n, k]));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = cpu.zeros(rows * n);
        let targets: Vec<u32> = (0..rows as u32).map(|r| r % 200).collect();
        let losses = pool.install(|| {
            cpu.linear(&cpu.upload(&x), &w, rows, Accumulate::Write, &mut out);
            cpu.cross_entropy(&cpu.upload(&x), &w, &targets)
        });
        (bits(&out), losses.iter().map(|l| l.to_bits()).collect::<Vec<_>>())
    };
    assert_eq!(run(1), run(5));
}

#[test]
fn a_sequence_attends_with_the_same_bits_alone_and_in_any_batch() {
    let cpu = Cpu::new();
    let (heads, kv_heads, head_dim) = (6, 2, 20);
    let lengths = [5usize, 140, 1, 77];
    let rows: usize = lengths.iter().sum();
    let [wide, narrow] = [heads * head_dim, kv_heads * head_dim];
    let (q, k, v) = (
        values(1, rows * wide),
        values(2, rows * narrow),
        values(3, rows * narrow),
    );
    let attend = |start: usize, offsets: &[usize]| {
        let len = offsets[offsets.len() - 1];
        let shape = Attention {
            offsets,
            heads,
            kv_heads,
            head_dim,
            scale: 0.2,
            window: Some(100),
        };
        let part = |values: &[f32], width: usize| cpu.upload(&values[start * width..][..len * width]);
        let mut out = cpu.zeros(len * wide);
        cpu.attention(&shape, &part(&q, wide), &part(&k, narrow), &part(&v, narrow), &mut out);
        out.to_vec()
    };
    let together = attend(0, &[0, 5, 145, 146, 223]);
    let mut start = 0;
    for length in lengths {
        assert_eq!(
            bits(&attend(start, &[0, length])),
            bits(&together[start * wide..][..length * wide]),
            "length {length}"
        );
        start += length;
    }
}

#[test]
fn values_that_are_not_finite_pass_through() {
    let cpu = Cpu::new();
    let x = cpu.upload(&[f32::NAN, 1.0, f32::INFINITY, 1.0, 2.0, 3.0]);
    let w = StoredMatrix::from_f32([1, 2], &[1.0, 0.5]);
    let mut out = cpu.zeros(3);
    cpu.linear(&x, &w, 3, Accumulate::Write, &mut out);
    assert!(out[0].is_nan() && out[1] == f32::INFINITY && out[2] == 3.5, "{out:?}");
    let mut gate = cpu.upload(&[f32::NAN, f32::INFINITY, 0.0]);
    cpu.gated(Activation::Silu, &mut gate, &cpu.upload(&[1.0f32, 1.0, f32::NAN]));
    assert!(
        gate[0].is_nan() && gate[1] == f32::INFINITY && gate[2].is_nan(),
        "{gate:?}"
    );
    let losses = cpu.cross_entropy(&x, &w, &[0, 0, 0]);
    assert!(losses[0].is_nan() && losses[2] == 0.0, "{losses:?}");
}

#[test]
#[should_panic(expected = "linear: 2 rows, W (3, 4), x 7")]
fn wrong_shapes_are_named() {
    let cpu = Cpu::new();
    let w = StoredMatrix::from_f32([3, 4], &[0.0; 12]);
    cpu.linear(&cpu.zeros(7), &w, 2, Accumulate::Write, &mut cpu.zeros(6));
}

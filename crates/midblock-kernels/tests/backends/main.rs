//! Every operation of [`Cpu`] against its definition in [`Reference`], on shapes that do not fit tiles and vectors.

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

mod attention;
mod bits;
mod decode;
mod elementwise;
mod gradients;
mod linear;
mod loss;
mod masked;
mod norm;
mod optimizer;
mod rows;

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

/// The values of several buffers one after another.
fn joined<B: Backend>(backend: &B, buffers: &[&B::Buffer]) -> B::Buffer {
    let mut all = Vec::new();
    for buffer in buffers {
        let mut values = vec![0.0; backend.len(buffer)];
        backend.read(buffer, 0, &mut values);
        all.extend::<Vec<f64>>(values);
    }
    backend.upload(&all)
}

fn activation() -> impl Strategy<Value = Activation> {
    prop_oneof![Just(Activation::Silu), Just(Activation::GeluTanh)]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Row at which each sequence starts, and the number of rows.
fn offsets(lengths: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    offsets
}

//! The products of a decoding step: against their definition, and the bits of their rows.

use super::*;

/// Outputs of several layers on the same rows, one after another.
fn any_products(
    rows: usize,
    widths: &[usize],
    k: usize,
    dtype: Dtype,
    seed: u64,
    mode: Accumulate,
) -> (Vec<f64>, Vec<f64>) {
    let x = values(seed, rows * k);
    let layers: Vec<_> = widths
        .iter()
        .zip(seed ^ 1..)
        .map(|(&n, seed)| (any_matrix(dtype, [n, k], seed), values(!seed, rows * n)))
        .collect();
    both(operation!(|b,
                     x: Vec<f32>,
                     layers: Vec<(StoredMatrix, Vec<f32>)>,
                     rows: usize,
                     mode: Accumulate| {
        let weights: Vec<_> = layers.iter().map(|(w, _)| b.matrix(w.clone())).collect();
        let mut outs: Vec<_> = layers.iter().map(|(_, start)| b.upload(start)).collect();
        let mut pairs: Vec<_> = weights.iter().zip(&mut outs).collect();
        b.decode_linears(&b.upload(x), *rows, *mode, &mut pairs);
        joined(b, &outs.iter().collect::<Vec<_>>())
    }))
}

/// A matrix of numbers of about unit size in any format.
fn any_matrix(dtype: Dtype, shape: [usize; 2], seed: u64) -> StoredMatrix {
    let len = shape[0] * shape[1];
    if FLOATS.contains(&dtype) {
        return stored(dtype, shape, &values(seed, len));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes: Vec<u8> = (0..dtype.bytes_for(len).expect("whole blocks"))
        .map(|_| rng.random())
        .collect();
    // Scales, which are f16 at the start of a block but for `q6_k`, of 2⁻⁹ to 2⁻⁶ (2⁻¹² for those with scales of their own).
    let exponent = if dtype.block_len() == 32 { 0x18 } else { 0x0c };
    for block in bytes.chunks_mut(dtype.block_bytes()) {
        let scales = match dtype {
            Dtype::Q6_K => 209..210,
            Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4_K | Dtype::Q5_K => 1..4,
            _ => 1..2,
        };
        for scale in block[scales].iter_mut().step_by(2) {
            *scale = exponent | *scale & 0x83;
        }
    }
    StoredMatrix::new(dtype, shape, SharedBytes::owned(bytes))
}

fn dtype() -> impl Strategy<Value = Dtype> {
    (0..Dtype::ALL.len()).prop_map(|kind| Dtype::ALL[kind])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decode_linears(
        rows in 0..40usize,
        widths in prop::collection::vec(1..60usize, 1..4),
        k in 1..200usize,
        kind in 0..FLOATS.len(),
        seed: u64,
        mode in mode(),
    ) {
        close(any_products(rows, &widths, k, FLOATS[kind], seed, mode), k, 4.0);
    }

    #[test]
    fn decode_linears_in_every_format(
        rows in 1..20usize,
        n in 1..40usize,
        blocks in 1..8usize,
        dtype in dtype(),
        seed: u64,
        mode in mode(),
    ) {
        let k = blocks * dtype.block_len();
        close(any_products(rows, &[n], k, dtype, seed, mode), k, 4.0);
    }
}

/// Several blocks of the sum, and more columns than tasks.
#[test]
fn decode_linears_across_blocks_of_the_sum() {
    for mode in [Accumulate::Write, Accumulate::Add] {
        close(any_products(5, &[70, 300], 1700, Dtype::F32, 5, mode), 1700, 4.0);
        close(any_products(5, &[70, 300], 1700, Dtype::BF16, 5, mode), 1700, 4.0);
        close(any_products(5, &[70, 300], 1792, Dtype::Q4_1, 5, mode), 1792, 4.0);
    }
}

#[test]
fn decoded_products_multiply_what_widening_gives() {
    let cpu = Cpu::new();
    let (n, k) = (50, 1792);
    for dtype in Dtype::ALL {
        let w = any_matrix(dtype, [n, k], 2);
        let mut widened = vec![0.0; n * k];
        w.widen_rows(0..n, &mut widened);
        let trained = cpu.trained([n, k], cpu.upload(&widened));
        let frozen = cpu.matrix(w);
        for rows in [1, 2, 9] {
            let x = cpu.upload(&values(1, rows * k));
            let [got, expected] = [&frozen, &trained].map(|w| {
                let mut out = cpu.zeros(rows * n);
                cpu.decode_linears(&x, rows, Accumulate::Write, &mut [(w, &mut out)]);
                bits(&out)
            });
            assert_eq!(got, expected, "{dtype}, {rows} rows");
        }
    }
}

/// A row alone, in batches of any size, and on any number of threads.
#[test]
fn a_decoded_row_has_the_same_bits_whatever_it_is_with() {
    let cpu = Cpu::new();
    let (rows, k) = (33, 1792);
    let x = values(1, rows * k);
    for dtype in [
        Dtype::F32,
        Dtype::BF16,
        Dtype::F16,
        Dtype::Q8_0,
        Dtype::Q4_1,
        Dtype::Q4_K,
    ] {
        let weights = [40, 13, 7].map(|n| cpu.matrix(any_matrix(dtype, [n, k], n as u64)));
        let products = |rows: std::ops::Range<usize>| {
            let mut outs = weights.each_ref().map(|w| cpu.zeros(rows.len() * w.shape()[0]));
            let mut pairs: Vec<_> = weights.iter().zip(&mut outs).collect();
            let x = cpu.upload(&x[rows.start * k..rows.end * k]);
            cpu.decode_linears(&x, rows.len(), Accumulate::Write, &mut pairs);
            outs.map(|out| bits(&out))
        };
        let alone: Vec<_> = (0..rows).map(|row| products(row..row + 1)).collect();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for together in 1..=rows {
                let out = pool.install(|| products(0..together));
                for (pair, out) in out.iter().enumerate() {
                    let expected: Vec<u32> = alone[..together].iter().flat_map(|row| row[pair].clone()).collect();
                    assert_eq!(*out, expected, "{dtype}, {together} rows, {threads} threads");
                }
            }
        }
    }
}

#[test]
fn decode_linears_takes_f32_at_any_address() {
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
        cpu.decode_linears(&x, 7, Accumulate::Write, &mut [(&cpu.matrix(w), &mut out)]);
        bits(&out)
    });
    assert_eq!(got, expected);
}

#[test]
#[should_panic(expected = "linear: 2 rows, W (3, 4), x 7")]
fn wrong_shapes_are_named() {
    let cpu = Cpu::new();
    let w = cpu.matrix(StoredMatrix::from_f32([3, 4], &[0.0; 12]));
    cpu.decode_linears(&cpu.zeros(7), 2, Accumulate::Write, &mut [(&w, &mut cpu.zeros(6))]);
}

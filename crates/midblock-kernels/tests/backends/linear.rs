//! Products: forward and both gradients, in every storage format.

use super::*;

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

/// `dx` of several layers, the i-th with `widths[i]` outputs.
fn any_dx(rows: usize, widths: &[usize], k: usize, seed: u64, mode: Accumulate) -> (Vec<f64>, Vec<f64>) {
    let start = values(seed, rows * k);
    let layers: Vec<_> = widths
        .iter()
        .zip(seed ^ 1..)
        .map(|(&n, seed)| (values(!seed, rows * n), weight(seed, [n, k])))
        .collect();
    both(operation!(|b,
                     start: Vec<f32>,
                     layers: Vec<(Vec<f32>, StoredMatrix)>,
                     rows: usize,
                     mode: Accumulate| {
        let mut dx = b.upload(start);
        let layers: Vec<_> = layers
            .iter()
            .map(|(dy, w)| (b.upload(dy), b.matrix(w.clone())))
            .collect();
        let pairs: Vec<_> = layers.iter().map(|(dy, w)| (dy, w)).collect();
        b.linears_dx(&pairs, *rows, *mode, &mut dx);
        dx
    }))
}

fn any_dw(rows: usize, [n, k]: [usize; 2], seed: u64, mode: Accumulate) -> (Vec<f64>, Vec<f64>) {
    let (dy, x, start) = (
        values(seed, rows * n),
        values(seed ^ 1, rows * k),
        values(seed ^ 2, n * k),
    );
    both(operation!(|b,
                     dy: Vec<f32>,
                     x: Vec<f32>,
                     start: Vec<f32>,
                     rows: usize,
                     mode: Accumulate| {
        let mut dw = b.upload(start);
        b.linear_dw(&b.upload(dy), &b.upload(x), *rows, *mode, &mut dw);
        dw
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear(rows in 0..40usize, n in 1..100usize, k in 1..90usize, seed: u64, mode in mode()) {
        close(any_linear(rows, [n, k], weight(seed, [n, k]), mode), k, 4.0);
    }

    #[test]
    fn linear_dx(rows in 0..40usize, n in 1..100usize, k in 1..90usize, seed: u64, mode in mode()) {
        close(any_dx(rows, &[n], k, seed, mode), n, 4.0);
    }

    #[test]
    fn linears_dx(
        rows in 0..40usize,
        widths in prop::collection::vec(1..60usize, 1..4),
        k in 1..90usize,
        seed: u64,
        mode in mode(),
    ) {
        close(any_dx(rows, &widths, k, seed, mode), widths.iter().sum(), 4.0);
    }

    #[test]
    fn linear_dw(rows in 0..90usize, n in 1..100usize, k in 1..90usize, seed: u64, mode in mode()) {
        close(any_dw(rows, [n, k], seed, mode), rows, 4.0);
    }
}

#[test]
fn products_across_blocks_of_rows_and_of_the_sum() {
    for mode in [Accumulate::Write, Accumulate::Add] {
        close(any_linear(13, [70, 1700], weight(5, [70, 1700]), mode), 1700, 4.0);
        close(any_linear(1100, [33, 9], weight(6, [33, 9]), mode), 9, 4.0);
        close(any_dx(13, &[1700, 40], 70, 5, mode), 1740, 4.0);
        close(any_dx(1100, &[9], 33, 6, mode), 9, 4.0);
        close(any_dw(1700, [13, 70], 5, mode), 1700, 4.0);
        close(any_dw(9, [1100, 33], 6, mode), 9, 4.0);
    }
}

/// A sum so long that its left factor is packed in several parts.
#[test]
fn products_over_a_vocabulary() {
    close(any_dx(1024, &[4200, 300], 66, 7, Accumulate::Add), 4500, 8.0);
    close(any_dw(4500, [1024, 66], 8, Accumulate::Write), 4500, 8.0);
}

/// Ranks of adapters: as width, as depth and as both outer dimensions of the gradients.
#[test]
fn narrow_products() {
    for rank in [1, 8, 16, 33, 64] {
        let (rows, wide) = (100, 300);
        for mode in [Accumulate::Write, Accumulate::Add] {
            close(any_linear(rows, [rank, wide], weight(1, [rank, wide]), mode), wide, 4.0);
            close(any_linear(rows, [wide, rank], weight(2, [wide, rank]), mode), rank, 4.0);
            close(any_dx(rows, &[rank], wide, 3, mode), rank, 4.0);
            close(any_dx(rows, &[wide], rank, 4, mode), wide, 4.0);
            close(any_dw(rows, [rank, wide], 5, mode), rows, 4.0);
            close(any_dw(rows, [wide, rank], 6, mode), rows, 4.0);
        }
    }
}

#[test]
fn a_trained_matrix_is_one_that_can_be_changed() {
    let cpu = Cpu::new();
    let [n, k, rows] = [40, 30, 7];
    let frozen = cpu.matrix(weight(1, [n, k]));
    let mut trained = cpu.trained([n, k], cpu.zeros(n * k));
    assert!(cpu.values(&frozen).is_none());
    cpu.write(cpu.values_mut(&mut trained).unwrap(), 0, &values(1, n * k));
    assert_eq!(cpu.values(&trained).unwrap().to_vec(), values(1, n * k));
    let (x, dy) = (cpu.upload(&values(2, rows * k)), cpu.upload(&values(3, rows * n)));
    let results = [frozen, trained].map(|w| {
        assert_eq!(cpu.shape(&w), [n, k]);
        let [mut y, mut dx, mut row] = [rows * n, rows * k, k].map(|len| cpu.zeros(len));
        cpu.linear(&x, &w, rows, Accumulate::Write, &mut y);
        cpu.linear_dx(&dy, &w, rows, Accumulate::Write, &mut dx);
        cpu.embed(&w, &[3], &mut row);
        [bits(&y), bits(&dx), bits(&row)]
    });
    assert_eq!(results[0], results[1]);
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
fn products_multiply_what_widening_gives_in_every_format() {
    let cpu = Cpu::new();
    let (rows, n, k) = (5, 50, 1792); // several blocks of the sum, the last one short
    let (x, dy) = (cpu.upload(&values(1, rows * k)), cpu.upload(&values(2, rows * n)));
    for dtype in Dtype::ALL {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let len = dtype.bytes_for(n * k).unwrap();
        // Without its two highest bits no byte can be the top of a number that is not finite.
        let bytes = (0..len).map(|_| rng.random::<u8>() & 0x3f).collect();
        let w = StoredMatrix::new(dtype, [n, k], SharedBytes::owned(bytes));
        let mut widened = vec![0.0; n * k];
        w.widen_rows(0..n, &mut widened);
        let product = |w: &StoredMatrix| {
            let w = cpu.matrix(w.clone());
            let (mut out, mut dx) = (cpu.zeros(rows * n), cpu.zeros(rows * k));
            cpu.linear(&x, &w, rows, Accumulate::Write, &mut out);
            cpu.linear_dx(&dy, &w, rows, Accumulate::Write, &mut dx);
            assert!(out.iter().chain(&*dx).all(|v| v.is_finite() && *v != 0.0), "{dtype}");
            [bits(&out), bits(&dx)]
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
        cpu.linear(&x, &cpu.matrix(w), 7, Accumulate::Write, &mut out);
        bits(&out)
    });
    assert_eq!(got, expected);
}

#[test]
fn linears_are_the_linears_one_by_one() {
    let cpu = Cpu::new();
    let (rows, k) = (21, 70);
    let x = cpu.upload(&values(1, rows * k));
    let weights = [weight(2, [40, k]), weight(3, [1, k]), weight(4, [65, k])].map(|w| cpu.matrix(w));
    let mut together = weights.each_ref().map(|w| cpu.zeros(rows * w.shape()[0]));
    let mut pairs: Vec<_> = weights.iter().zip(&mut together).collect();
    cpu.linears(&x, rows, Accumulate::Write, &mut pairs);
    for (w, together) in weights.iter().zip(together) {
        let mut alone = cpu.zeros(together.len());
        cpu.linear(&x, w, rows, Accumulate::Write, &mut alone);
        assert_eq!(bits(&alone), bits(&together));
    }
}
#[test]
#[should_panic(expected = "linear: 2 rows, W (3, 4), x 7")]
fn wrong_shapes_are_named() {
    let cpu = Cpu::new();
    let w = cpu.matrix(StoredMatrix::from_f32([3, 4], &[0.0; 12]));
    cpu.linear(&cpu.zeros(7), &w, 2, Accumulate::Write, &mut cpu.zeros(6));
}

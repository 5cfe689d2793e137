//! Matrices of which masks let a change through.

use super::*;

/// Masks in [0, 1], about a third of them 0 and a third 1.
fn mask(seed: u64, len: usize) -> Vec<f32> {
    values(seed, len).iter().map(|v| v.clamp(-0.5, 0.5) + 0.5).collect()
}

/// A matrix in one of the formats that any values fit, or quantised.
fn base(kind: usize, seed: u64, [n, k]: [usize; 2]) -> StoredMatrix {
    match FLOATS.get(kind) {
        Some(dtype) => stored(*dtype, [n, k], &values(seed, n * k)),
        None => {
            let scale = half::f16::from_f32(0.03).to_le_bytes();
            let block = |block: usize| {
                let integers = (0..32).map(move |i| ((block * 37 + i * 11) % 200) as u8);
                scale.into_iter().chain(integers)
            };
            let bytes = (0..n * k / 32).flat_map(block).collect();
            StoredMatrix::new(Dtype::Q8_0, [n, k], SharedBytes::owned(bytes))
        }
    }
}

const ADAMW: AdamW = AdamW {
    lr: 0.01,
    betas: [0.9, 0.99],
    eps: 1e-3,
    decay: 0.1,
    t: 7,
    gradient_scale: 0.5,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn masked(n in 0..90usize, k in 1..140usize, kind in 0..5usize, frozen: bool, seed: u64) {
        let k = if kind == 4 { k.next_multiple_of(32) } else { k };
        let (base, tuned) = (base(kind, seed, [n, k]), weight(!seed, [n, k]));
        let (rows, columns) = (mask(seed ^ 1, n), mask(seed ^ 2, k));
        close(both(operation!(|b,
            base: StoredMatrix, tuned: StoredMatrix, rows: Vec<f32>, columns: Vec<f32>, frozen: bool
        | {
            let (base, stored) = (b.matrix(base.clone()), b.matrix(tuned.clone()));
            let tuned = match frozen {
                true => stored,
                false => {
                    let mut values = vec![0.0; tuned.shape().iter().product()];
                    tuned.widen_rows(0..tuned.shape()[0], &mut values);
                    b.trained(tuned.shape(), b.upload(&values))
                }
            };
            let mut out = b.zeros(rows.len() * columns.len());
            b.masked(&base, &tuned, [&b.upload(rows), &b.upload(columns)], &mut out);
            out
        })), 4, 8.0);
    }

    #[test]
    fn masked_backward(n in 1..90usize, k in 1..140usize, kind in 0..5usize, seed: u64) {
        let k = if kind == 4 { k.next_multiple_of(32) } else { k };
        let (base, tuned) = (base(kind, seed, [n, k]), weight(!seed, [n, k]));
        let (rows, columns) = (mask(seed ^ 1, n), mask(seed ^ 2, k));
        let (gradient, starts) = (values(seed ^ 3, n * k), [values(seed ^ 4, n), values(seed ^ 5, k)]);
        close(both(operation!(|b,
            base: StoredMatrix, tuned: StoredMatrix, rows: Vec<f32>, columns: Vec<f32>, gradient: Vec<f32>, starts: [Vec<f32>; 2]
        | {
            let (base, tuned) = (b.matrix(base.clone()), b.matrix(tuned.clone()));
            let masks = [b.upload(rows), b.upload(columns)];
            let [mut d_rows, mut d_columns] = [b.upload(&starts[0]), b.upload(&starts[1])];
            let gradient = b.upload(gradient);
            let square = b.masked_backward(&base, &tuned, [&masks[0], &masks[1]], &gradient, [&mut d_rows, &mut d_columns]);
            let square = b.upload(&[square / (rows.len() * columns.len()) as f64]);
            joined(b, &[&d_rows, &d_columns, &square])
        })), n.max(k), 16.0);
    }

    #[test]
    fn adamw_masked(n in 1..90usize, k in 1..140usize, kind in 0..5usize, seed: u64) {
        let k = if kind == 4 { k.next_multiple_of(32) } else { k };
        let base = base(kind, seed, [n, k]);
        let masks = [[mask(seed ^ 1, n), mask(seed ^ 2, k)], [mask(seed ^ 3, n), mask(seed ^ 4, k)]];
        let [gradient, weights, first, second] = [5, 6, 7, 8].map(|by| values(seed ^ by, n * k));
        let second: Vec<f32> = second.iter().map(|v| v.abs()).collect();
        close(both(operation!(|b,
            base: StoredMatrix, masks: [[Vec<f32>; 2]; 2], gradient: Vec<f32>, weights: Vec<f32>, first: Vec<f32>, second: Vec<f32>
        | {
            let base = b.matrix(base.clone());
            let masks = masks.each_ref().map(|pair| pair.each_ref().map(|mask| b.upload(mask)));
            let masks = masks.each_ref().map(|pair| pair.each_ref());
            let [mut weights, mut first, mut second] = [weights, first, second].map(|v| b.upload(v));
            let mut out = b.zeros(gradient.len());
            let tuned = TunedState { weights: &mut weights, first: &mut first, second: &mut second };
            b.adamw_masked(&ADAMW, &b.upload(gradient), &base, masks, tuned, &mut out);
            joined(b, &[&weights, &first, &second, &out])
        })), 16, 8.0);
    }
}

/// Of a small matrix in bf16 with a change of any size.
struct Small {
    cpu: Cpu,
    base: CpuMatrix,
    tuned: Vec<f32>,
}

impl Small {
    const SHAPE: [usize; 2] = [70, 500];

    fn new() -> Self {
        let cpu = Cpu::new();
        let base = cpu.matrix(stored(Dtype::BF16, Self::SHAPE, &values(1, 70 * 500)));
        let tuned = values(2, 70 * 500);
        Self { cpu, base, tuned }
    }

    fn masks(&self, value: f32) -> [CpuBuffer; 2] {
        Self::SHAPE.map(|len| self.cpu.upload(&vec![value; len]))
    }

    fn widened(&self) -> Vec<f32> {
        let mut out = self.cpu.zeros(self.tuned.len());
        let tuned = self.cpu.trained(Self::SHAPE, self.cpu.upload(&self.tuned));
        let masks = self.masks(0.0);
        self.cpu.masked(&self.base, &tuned, masks.each_ref(), &mut out);
        out.to_vec()
    }
}

/// Closed masks leave the base's bits, open ones the tuned matrix's, and AdamW's step on it is that of AdamW.
#[test]
fn masks_that_are_all_0_or_all_1_change_no_bit() {
    let small = Small::new();
    let cpu = small.cpu;
    let expected = values(1, 70 * 500)
        .iter()
        .map(|v| half::bf16::from_f32(*v).to_f32())
        .collect::<Vec<_>>();
    assert_eq!(bits(&small.widened()), bits(&expected));
    let tuned = cpu.trained(Small::SHAPE, cpu.upload(&small.tuned));
    let (open, mut out) = (small.masks(1.0), cpu.zeros(small.tuned.len()));
    cpu.masked(&small.base, &tuned, open.each_ref(), &mut out);
    assert_eq!(bits(&out), bits(&small.tuned));

    let gradient = cpu.upload(&values(3, small.tuned.len()));
    let state = || {
        [
            cpu.upload(&small.tuned),
            cpu.upload(&values(4, small.tuned.len())),
            cpu.upload(&vec![0.5f32; small.tuned.len()]),
        ]
    };
    let [mut weights, mut first, mut second] = state();
    cpu.adamw(&ADAMW, &gradient, &mut weights, &mut first, &mut second);
    let [mut masked, mut m, mut v] = state();
    let tuned = TunedState {
        weights: &mut masked,
        first: &mut m,
        second: &mut v,
    };
    cpu.adamw_masked(&ADAMW, &gradient, &small.base, [open.each_ref(); 2], tuned, &mut out);
    assert_eq!(
        [&masked, &m, &v, &out].map(|x| bits(x)),
        [&weights, &first, &second, &weights].map(|x| bits(x))
    );
}

#[test]
fn a_moment_without_a_gradient_ends_at_0() {
    let small = Small::new();
    let cpu = small.cpu;
    let (closed, gradient) = (small.masks(0.0), cpu.upload(&values(3, small.tuned.len())));
    let [mut weights, mut first, mut second] = [2, 3, 4].map(|seed| cpu.upload(&values(seed, small.tuned.len())));
    let mut out = cpu.zeros(small.tuned.len());
    second.iter_mut().for_each(|v| *v = v.abs());
    for _ in 0..750 {
        let tuned = TunedState {
            weights: &mut weights,
            first: &mut first,
            second: &mut second,
        };
        cpu.adamw_masked(&ADAMW, &gradient, &small.base, [closed.each_ref(); 2], tuned, &mut out);
    }
    assert!(first.iter().all(|m| *m == 0.0)); // 2 · 0.9⁷⁵⁰ is 9e-35
}

#[test]
#[should_panic(expected = "masked: masks of (70, 500)")]
fn masks_of_another_matrix_are_refused() {
    let small = Small::new();
    let tuned = small.cpu.trained(Small::SHAPE, small.cpu.upload(&small.tuned));
    let [rows, columns] = small.masks(1.0);
    small.cpu.masked(
        &small.base,
        &tuned,
        [&columns, &rows],
        &mut small.cpu.zeros(small.tuned.len()),
    );
}

//! Promises about bits: neither the batch nor the number of threads changes a result.

use super::*;

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    let cpu = Cpu::new();
    let rows = 37;
    for [n, k] in [[75, 900], [900, 75], [8, 300], [300, 8]] {
        let (x, dy) = (values(1, rows * k), values(3, rows * n));
        let w = cpu.matrix(weight(2, [n, k]));
        let products = |rows: std::ops::Range<usize>| {
            let part = |values: &[f32], width: usize| cpu.upload(&values[rows.start * width..rows.end * width]);
            let (mut y, mut dx) = (cpu.zeros(rows.len() * n), cpu.zeros(rows.len() * k));
            cpu.linear(&part(&x, k), &w, rows.len(), Accumulate::Write, &mut y);
            cpu.linear_dx(&part(&dy, n), &w, rows.len(), Accumulate::Write, &mut dx);
            [bits(&y), bits(&dx)]
        };
        let [y, dx] = products(0..rows);
        let together = |rows: std::ops::Range<usize>| {
            [&y[rows.start * n..rows.end * n], &dx[rows.start * k..rows.end * k]].map(<[u32]>::to_vec)
        };
        for row in 0..rows {
            assert_eq!(products(row..row + 1), together(row..row + 1), "({n}, {k}), row {row}");
        }
        assert_eq!(products(5..24), together(5..24), "({n}, {k})");
    }
}

#[test]
fn products_do_not_depend_on_the_number_of_threads() {
    let cpu = Cpu::new();
    let rows = 300;
    for [n, k] in [[200, 70], [8, 576], [576, 8]] {
        let (x, dy) = (cpu.upload(&values(1, rows * k)), cpu.upload(&values(3, rows * n)));
        let w = cpu.matrix(weight(2, [n, k]));
        let targets: Vec<u32> = (0..rows as u32).map(|r| r % n as u32).collect();
        with_threads(|| {
            let [mut y, mut dx, mut dw] = [rows * n, rows * k, n * k].map(|len| cpu.zeros(len));
            cpu.linear(&x, &w, rows, Accumulate::Write, &mut y);
            cpu.linears_dx(&[(&dy, &w), (&dy, &w)], rows, Accumulate::Write, &mut dx);
            cpu.linear_dw(&dy, &x, rows, Accumulate::Write, &mut dw);
            let mut all = [y, dx, dw].map(|buffer| bits(&buffer)).concat();
            for Prediction { nats, top, top_nats } in cpu.predictions(&x, &w, &targets) {
                all.extend([two(nats), two(top_nats)].concat());
                all.push(top);
            }
            all
        });
    }
}

#[test]
fn sums_over_masked_matrices_do_not_depend_on_the_number_of_threads() {
    let cpu = Cpu::new();
    let [n, k] = [900, 400];
    let (base, tuned) = (cpu.matrix(weight(1, [n, k])), cpu.matrix(weight(2, [n, k])));
    let (rows, columns, gradient) = (
        cpu.upload(&values(3, n)),
        cpu.upload(&values(4, k)),
        cpu.upload(&values(5, n * k)),
    );
    with_threads(|| {
        let [mut d_rows, mut d_columns] = [n, k].map(|len| cpu.zeros(len));
        let d_masks = [&mut d_rows, &mut d_columns];
        let square = cpu.masked_backward(&base, &tuned, [&rows, &columns], &gradient, d_masks);
        [bits(&d_rows), bits(&d_columns), two(square).to_vec()].concat()
    });
}

#[test]
fn other_sums_do_not_depend_on_the_number_of_threads() {
    let cpu = Cpu::new();
    let (rows, dim) = (300, 200);
    let [x, dy] = [1, 2].map(|seed| cpu.upload(&values(seed, rows * dim)));
    let weight = cpu.upload(&values(3, dim));
    let targets: Vec<u32> = (0..rows as u32).map(|r| r % 200).collect();
    with_threads(|| {
        let [mut dx, mut d_weight, mut d_bias] = [rows * dim, dim, dim].map(|len| cpu.zeros(len));
        cpu.rms_norm_backward(&x, &weight, 1e-5, &dy, Accumulate::Write, &mut dx, Some(&mut d_weight));
        cpu.add_bias_backward(&dy, &mut d_bias);
        let mut logits = x.clone();
        let losses = cpu.cross_entropy_backward(&mut logits, &targets, &|_, _| 0.5);
        let mut d_table = cpu.zeros(200 * dim);
        cpu.embed_backward(&targets, &dy, &mut d_table);
        let mut all = [dx, d_weight, d_bias, logits, d_table]
            .map(|buffer| bits(&buffer))
            .concat();
        all.extend(losses.into_iter().chain([cpu.sum_of_squares(&x)]).flat_map(two));
        all
    });
}

#[test]
fn attention_does_not_depend_on_the_number_of_threads() {
    let batch = Batch::new(&[5, 140, 0, 300]);
    with_threads(|| batch.attend(0, &offsets(&[5, 140, 0, 300])).concat());
}

#[test]
fn a_sequence_attends_with_the_same_bits_alone_and_in_any_batch() {
    let lengths = [5, 140, 1, 77];
    let batch = Batch::new(&lengths);
    let together = batch.attend(0, &offsets(&lengths));
    let mut start = 0;
    for length in lengths {
        let alone = batch.attend(start, &[0, length]);
        for (alone, together) in alone.iter().zip(&together) {
            let width = alone.len() / length;
            assert_eq!(alone, &together[start * width..][..length * width], "length {length}");
        }
        start += length;
    }
}

/// Queries, keys, values and an output's gradient for some rows.
struct Batch {
    wide: [Vec<f32>; 2],
    narrow: [Vec<f32>; 2],
}

impl Batch {
    const HEADS: usize = 6;
    const KV_HEADS: usize = 2;
    const HEAD_DIM: usize = 20;

    fn new(lengths: &[usize]) -> Self {
        let rows: usize = lengths.iter().sum();
        Self {
            wide: [1, 2].map(|seed| values(seed, rows * Self::HEADS * Self::HEAD_DIM)),
            narrow: [3, 4].map(|seed| values(seed, rows * Self::KV_HEADS * Self::HEAD_DIM)),
        }
    }

    /// The bits of outputs, log sums and gradients of the rows from `start`.
    fn attend(&self, start: usize, offsets: &[usize]) -> [Vec<u32>; 5] {
        let cpu = Cpu::new();
        let len = offsets[offsets.len() - 1];
        let shape = Attention {
            offsets,
            keys: None,
            heads: Self::HEADS,
            kv_heads: Self::KV_HEADS,
            head_dim: Self::HEAD_DIM,
            scale: 0.2,
            window: Some(100),
        };
        let part = |values: &Vec<f32>, heads: usize| {
            let width = heads * Self::HEAD_DIM;
            cpu.upload(&values[start * width..][..len * width])
        };
        let [q, d_out] = self.wide.each_ref().map(|values| part(values, Self::HEADS));
        let [k, v] = self.narrow.each_ref().map(|values| part(values, Self::KV_HEADS));
        let [mut out, mut dq, mut dk, mut dv] = [&q, &q, &k, &v].map(|like| cpu.zeros(like.len()));
        let mut log_sums = cpu.zeros(len * Self::HEADS);
        cpu.attention(&shape, &q, &k, &v, &mut out, Some(&mut log_sums));
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
        [out, log_sums, dq, dk, dv].map(|buffer| bits(&buffer))
    }
}

/// Checks that one thread and five leave the same bits.
#[track_caller]
fn with_threads(run: impl Fn() -> Vec<u32> + Send + Sync) {
    let [one, five] = [1, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads start").install(&run)
    });
    assert_eq!(one, five);
}

fn two(value: f64) -> [u32; 2] {
    let bits = value.to_bits();
    [bits as u32, (bits >> 32) as u32]
}

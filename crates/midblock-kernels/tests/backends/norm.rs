//! Norm and rotary embedding, forward and backward.

use super::*;

fn table(seed: u64, half: usize) -> RopeTable {
    let angles: Vec<f32> = values(seed, 32 * half);
    RopeTable {
        cos: angles.iter().map(|a| a.cos()).collect(),
        sin: angles.iter().map(|a| a.sin()).collect(),
        half_dim: half,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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
    fn rms_norm_backward(rows in 0..20usize, dim in 1..100usize, seed: u64, mode in mode(), trained: bool) {
        let [x, dy, start] = [seed, !seed, seed ^ 1].map(|seed| values(seed, rows * dim));
        let [w, d_w] = [seed ^ 2, seed ^ 3].map(|seed| values(seed, dim));
        close(both(operation!(|b,
            x: Vec<f32>, dy: Vec<f32>, start: Vec<f32>, w: Vec<f32>, d_w: Vec<f32>, mode: Accumulate, trained: bool
        | {
            // An eps of the values' size: what divides by the root of a small group's mean has no absolute tolerance.
            let (mut dx, mut d_w) = (b.upload(start), b.upload(d_w));
            let wanted = trained.then_some(&mut d_w);
            b.rms_norm_backward(&b.upload(x), &b.upload(w), 0.5, &b.upload(dy), *mode, &mut dx, wanted);
            joined(b, &[&dx, &d_w])
        })), 64, 4.0);
    }

    #[test]
    fn rope(rows in 0..20usize, heads in 1..5usize, half in 1..40usize, seed: u64, backward: bool) {
        let (table, x) = (table(seed, half), values(!seed, rows * heads * 2 * half));
        let positions: Vec<u32> = (0..rows as u32).map(|r| (r * 7) % 32).collect();
        close(both(operation!(|b,
            x: Vec<f32>, table: RopeTable, positions: Vec<u32>, heads: usize, backward: bool
        | {
            let mut out = b.upload(x);
            match *backward {
                false => b.rope(&mut out, table, positions, *heads),
                true => b.rope_backward(&mut out, table, positions, *heads),
            }
            out
        })), 1, 1.0);
    }
}

/// The weight's gradient is summed in several chunks of rows.
#[test]
fn rms_norm_backward_of_many_rows() {
    let (rows, dim) = (700, 100);
    let [x, dy] = [1, 2].map(|seed| values(seed, rows * dim));
    let w = values(3, dim);
    close(
        both(operation!(|b, x: Vec<f32>, dy: Vec<f32>, w: Vec<f32>| {
            let (mut dx, mut d_w) = (b.zeros(x.len()), b.zeros(w.len()));
            b.rms_norm_backward(
                &b.upload(x),
                &b.upload(w),
                1e-5,
                &b.upload(dy),
                Accumulate::Write,
                &mut dx,
                Some(&mut d_w),
            );
            joined(b, &[&dx, &d_w])
        })),
        rows,
        4.0,
    );
}

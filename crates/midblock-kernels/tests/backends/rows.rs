//! Rows picked out of tables and put back.

use super::*;

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
fn embed_backward_adds_every_mention() {
    let (ids, dim) = (vec![3u32, 10, 0, 3, 3], 37);
    let (d_out, start) = (values(1, ids.len() * dim), values(2, 11 * dim));
    let results = both(operation!(|b, ids: Vec<u32>, d_out: Vec<f32>, start: Vec<f32>| {
        let mut d_table = b.upload(start);
        b.embed_backward(ids, &b.upload(d_out), &mut d_table);
        d_table
    }));
    close(results, 4, 2.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Gathered rows scattered back are the rows again, and others stay.
    #[test]
    fn gather_and_scatter(rows in 0..60usize, width in 1..700usize, step in 1..5usize, seed: u64) {
        let x = values(seed, rows * width);
        let named: Vec<usize> = (0..rows).rev().step_by(step).collect();
        let cpu = Cpu::new();
        let (mut some, mut all) = (cpu.zeros(named.len() * width), cpu.upload(&vec![7.0f32; rows * width]));
        cpu.gather_rows(&cpu.upload(&x), &named, width, &mut some);
        for (row, some) in named.iter().zip(some.chunks_exact(width)) {
            prop_assert_eq!(some, &x[row * width..][..width]);
        }
        cpu.scatter_rows(&some, &named, width, &mut all);
        for (row, all) in all.chunks_exact(width).enumerate() {
            let expected = if named.contains(&row) { &x[row * width..][..width] } else { &vec![7.0; width] };
            prop_assert_eq!(all, expected);
        }
        let (of_cpu, of_reference) = both(operation!(|b, x: Vec<f32>, named: Vec<usize>, width: usize| {
            let (mut some, mut all) = (b.zeros(named.len() * width), b.upload(x));
            b.gather_rows(&b.upload(x), named, *width, &mut some);
            b.scatter_rows(&some, named, *width, &mut all);
            let mut copied = b.zeros(b.len(&all));
            b.copy(&all, &mut copied);
            b.clear(&mut some);
            joined(b, &[&some, &copied, &all])
        }));
        prop_assert_eq!(of_cpu, of_reference);
    }
}

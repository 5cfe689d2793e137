//! Cross entropy and its gradient, and the most likely token.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn predictions(rows in 0..30usize, vocab in 1..400usize, dim in 1..60usize, seed: u64) {
        let (x, w) = (values(seed, rows * dim), weight(!seed, [vocab, dim]));
        let targets: Vec<u32> = (0..rows).map(|r| ((r * 31) % vocab) as u32).collect();
        close(both(operation!(|b, x: Vec<f32>, w: StoredMatrix, targets: Vec<u32>| {
            let predictions = b.predictions(&b.upload(x), &b.matrix(w.clone()), targets);
            b.upload(&predictions.iter().flat_map(|p| [p.nats, p.top_nats]).collect::<Vec<_>>())
        })), dim, 4.0);
    }

    #[test]
    fn cross_entropy(rows in 0..30usize, vocab in 1..400usize, seed: u64) {
        let logits: Vec<f32> = values(seed, rows * vocab).iter().map(|v| 5.0 * v).collect();
        let targets: Vec<u32> = (0..rows).map(|r| ((r * 31) % vocab) as u32).collect();
        close(both(operation!(|b, logits: Vec<f32>, targets: Vec<u32>| {
            b.upload(&b.cross_entropy(&b.upload(logits), targets))
        })), 1, 16.0);
    }

    #[test]
    fn the_top_is_the_first_of_the_largest_logits(rows in 1..30usize, vocab in 1..400usize, seed: u64) {
        // Small whole numbers: both arithmetics are exact, and ties are many.
        let whole = |seed, len| -> Vec<f32> { values(seed, len).iter().map(|v| v.round()).collect() };
        let (x, w) = (whole(seed, rows * 3), StoredMatrix::from_f32([vocab, 3], &whole(!seed, vocab * 3)));
        let targets = vec![(vocab - 1) as u32; rows];
        let cpu = Cpu::new().predictions(&Cpu::new().upload(&x), &Cpu::new().matrix(w.clone()), &targets);
        let x = Reference.upload(&x);
        let w = Reference.matrix(w);
        let reference = Reference.predictions(&x, &w, &targets);
        let mut logits = vec![0.0; rows * vocab];
        Reference.linear(&x, &w, rows, Accumulate::Write, &mut logits);
        for ((row, cpu), reference) in logits.chunks(vocab).zip(&cpu).zip(&reference) {
            let mut first = 0;
            for v in 1..vocab {
                if row[v] > row[first] {
                    first = v;
                }
            }
            prop_assert_eq!((cpu.top as usize, reference.top as usize), (first, first));
            prop_assert!(cpu.nats >= cpu.top_nats);
            prop_assert_eq!(cpu.nats == cpu.top_nats, row[vocab - 1] == row[first]);
        }
    }

    #[test]
    fn cross_entropy_backward(rows in 0..12usize, vocab in 1..5000usize, seed: u64) {
        let logits: Vec<_> = values(seed, rows * vocab).iter().map(|v| 10.0 * v).collect();
        let targets: Vec<u32> = (0..rows).map(|r| ((r * 31) % vocab) as u32).collect();
        let weights = values(!seed, rows);
        close(both(operation!(|b, logits: Vec<f32>, targets: Vec<u32>, weights: Vec<f32>| {
            let mut logits = b.upload(logits);
            let weight = |row: usize, nats: f64| f64::from(weights[row]) / (1.0 + nats);
            let losses = b.cross_entropy_backward(&mut logits, targets, &weight);
            joined(b, &[&logits, &b.upload(&losses)])
        })), 64, 2.0);
    }

    #[test]
    fn divergence_backward(rows in 0..12usize, vocab in 1..5000usize, seed: u64) {
        let [logits, reference] = [seed, seed ^ 1].map(|seed| -> Vec<f32> { values(seed, rows * vocab).iter().map(|v| 5.0 * v).collect() });
        let targets: Vec<u32> = (0..rows).map(|r| ((r * 31) % vocab) as u32).collect();
        close(both(operation!(|b, logits: Vec<f32>, reference: Vec<f32>, targets: Vec<u32>| {
            let (mut logits, mut reference) = (b.upload(logits), b.upload(reference));
            let rows = b.divergence_backward(&mut logits, &mut reference, targets, 0.5, 0.3);
            let rows: Vec<f64> = rows.iter().flat_map(|row| [row.nats, row.divergence]).collect();
            joined(b, &[&logits, &b.upload(&rows)])
        })), 64, 4.0);
    }

    #[test]
    fn distillation_backward(rows in 0..12usize, vocab in 1..5000usize, seed: u64) {
        let [logits, reference] = [seed, seed ^ 1].map(|seed| -> Vec<f32> { values(seed, rows * vocab).iter().map(|v| 5.0 * v).collect() });
        close(both(operation!(|b, logits: Vec<f32>, reference: Vec<f32>, vocab: usize| {
            let mut logits = b.upload(logits);
            let divergences = b.distillation_backward(&mut logits, &b.upload(reference), *vocab, 0.5);
            joined(b, &[&logits, &b.upload(&divergences)])
        })), 64, 4.0);
    }
}

#[test]
fn a_logit_far_above_the_others_takes_all() {
    let cpu = Cpu::new();
    let mut logits = cpu.upload(&[1e30f32, -1e30, 0.0, f32::NEG_INFINITY, 5.0, f32::NEG_INFINITY]);
    let losses = cpu.cross_entropy_backward(&mut logits, &[0, 1], &|row, _| [0.5, 2.0][row]);
    assert_eq!(losses, [0.0, 0.0]);
    assert_eq!(logits.to_vec(), [0.0; 6]);
}

#[test]
fn what_cannot_happen_does_not_diverge() {
    let cpu = Cpu::new();
    let mut logits = cpu.upload(&[0.0f32, f32::NEG_INFINITY, 0.0]);
    let mut reference = cpu.upload(&[0.0f32, f32::NEG_INFINITY, 0.0]);
    let rows = cpu.divergence_backward(&mut logits, &mut reference, &[2], 1.0, 0.5);
    assert!(
        (rows[0].nats - 2f64.ln()).abs() < 1e-6 && rows[0].divergence.abs() < 1e-6,
        "{rows:?}"
    );
    assert_eq!(logits.to_vec(), [0.5, 0.0, -0.5]);
}

#[test]
fn what_the_reference_rules_out_does_not_distil() {
    let cpu = Cpu::new();
    let mut logits = cpu.upload(&[0.0f32, f32::NEG_INFINITY, 0.0]);
    let reference = cpu.upload(&[0.0f32, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    let divergences = cpu.distillation_backward(&mut logits, &reference, 3, 1.0);
    assert!((divergences[0] - 2f64.ln()).abs() < 1e-6, "{divergences:?}");
    assert_eq!(logits.to_vec(), [-0.5, 0.0, 0.5]);
}

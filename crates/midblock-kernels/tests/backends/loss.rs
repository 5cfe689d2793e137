//! Cross entropy and its gradient.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cross_entropy(rows in 0..30usize, vocab in 1..400usize, dim in 1..60usize, seed: u64) {
        let (x, w) = (values(seed, rows * dim), weight(!seed, [vocab, dim]));
        let targets: Vec<u32> = (0..rows).map(|r| ((r * 31) % vocab) as u32).collect();
        close(both(operation!(|b, x: Vec<f32>, w: StoredMatrix, targets: Vec<u32>| {
            b.upload(&b.cross_entropy(&b.upload(x), &b.matrix(w.clone()), targets))
        })), dim, 4.0);
    }

    #[test]
    fn cross_entropy_backward(rows in 0..12usize, vocab in 1..5000usize, seed: u64) {
        let logits: Vec<_> = values(seed, rows * vocab).iter().map(|v| 10.0 * v).collect();
        let targets: Vec<u32> = (0..rows).map(|r| ((r * 31) % vocab) as u32).collect();
        let weights = values(!seed, rows);
        close(both(operation!(|b, logits: Vec<f32>, targets: Vec<u32>, weights: Vec<f32>| {
            let mut logits = b.upload(logits);
            let losses = b.cross_entropy_backward(&mut logits, targets, weights);
            joined(b, &[&logits, &b.upload(&losses)])
        })), 64, 2.0);
    }
}

#[test]
fn a_logit_far_above_the_others_takes_all() {
    let cpu = Cpu::new();
    let mut logits = cpu.upload(&[1e30f32, -1e30, 0.0, f32::NEG_INFINITY, 5.0, f32::NEG_INFINITY]);
    let losses = cpu.cross_entropy_backward(&mut logits, &[0, 1], &[0.5, 2.0]);
    assert_eq!(losses, [0.0, 0.0]);
    assert_eq!(logits.to_vec(), [0.0; 6]);
}

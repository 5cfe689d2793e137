//! How alike two completions are, as token ids.

use std::collections::HashMap;

/// Share of the longer one's tokens that both begin with, in [0, 1]; two empty ones are alike.
pub(super) fn prefix(a: &[u32], b: &[u32]) -> f64 {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    share(common, a.len().max(b.len()))
}

/// Share of tokens that both have, however they are ordered: 2·|a ∩ b| / (|a| + |b|) of multisets (Dice 1945), in [0, 1].
pub(super) fn overlap(a: &[u32], b: &[u32]) -> f64 {
    let mut left: HashMap<u32, usize> = HashMap::new();
    a.iter().for_each(|id| *left.entry(*id).or_default() += 1);
    let common = b.iter().filter(|id| match left.get_mut(id) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    });
    share(2 * common.count(), a.len() + b.len())
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_count_from_the_first_token() {
        assert_eq!(prefix(&[1, 2, 3, 4], &[1, 2, 9, 4]), 0.5);
        assert_eq!(prefix(&[1, 2], &[1, 2, 3, 4]), 0.5);
        assert_eq!(prefix(&[2, 1], &[1, 2]), 0.0);
        assert_eq!((prefix(&[], &[]), prefix(&[], &[1])), (1.0, 0.0));
    }

    #[test]
    fn overlap_counts_every_token_once() {
        assert_eq!(overlap(&[1, 1, 2], &[1, 3, 2]), 4.0 / 6.0);
        assert_eq!(overlap(&[1, 2, 3], &[3, 2, 1]), 1.0);
        assert_eq!(overlap(&[1], &[1, 1, 1]), 0.5);
        assert_eq!((overlap(&[], &[]), overlap(&[], &[1])), (1.0, 0.0));
    }
}

//! A model's L blocks cut into S segments: segment i, from 0, holds blocks ⌊iL/S⌋ to ⌊(i+1)L/S⌋ − 1.

use std::ops::Range;

/// Segment `i` of `count`, from 0; empty if there are fewer blocks.
pub(super) fn segment(i: usize, count: usize, blocks: usize) -> Range<usize> {
    i * blocks / count..(i + 1) * blocks / count
}

/// All segments.
pub(super) fn segments(count: usize, blocks: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).map(move |i| segment(i, count, blocks))
}

/// The α of each block, where there is one for each segment.
pub(super) fn of_blocks(alphas: &[f64], blocks: usize) -> Vec<f32> {
    let each = alphas.iter().zip(segments(alphas.len(), blocks));
    each.flat_map(|(&alpha, held)| held.map(move |_| alpha as f32))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segments_are_as_equal_as_they_can_be() {
        let of = |count, blocks| segments(count, blocks).map(|held| held.len()).collect::<Vec<_>>();
        assert_eq!(of(5, 30), [6, 6, 6, 6, 6]);
        assert_eq!(of(5, 16), [3, 3, 3, 3, 4]);
        assert_eq!(of(3, 2), [0, 1, 1]);
        assert_eq!(of_blocks(&[0.0, 1.0, 0.5], 4), [0.0, 1.0, 0.5, 0.5]);
    }

    proptest! {
        #[test]
        fn every_block_is_in_one_segment(count in 1usize..40, blocks in 1usize..40) {
            let held: Vec<usize> = segments(count, blocks).flatten().collect();
            prop_assert_eq!(held, (0..blocks).collect::<Vec<_>>());
            prop_assert_eq!(of_blocks(&vec![0.5; count], blocks), vec![0.5; blocks]);
        }
    }
}

//! Who does what: work of known sizes, divided so that all take about as long.

/// Numbers of the pieces that each of `size` ranks does, ascending. The largest piece that is left goes to the rank that has least so far
/// (Graham 1969, longest processing time first); of equals, to the lowest rank.
pub fn shares(pieces: &[usize], size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|&piece| std::cmp::Reverse(pieces[piece])); // stable: of equals, the first
    let mut shares = vec![(0, Vec::new()); size];
    for piece in order {
        let least = shares.iter_mut().min_by_key(|(load, own)| (*load, own.len()));
        let (load, own) = least.expect("invariant: there is a rank");
        *load += pieces[piece];
        own.push(piece);
    }
    let sorted = |(_, mut own): (usize, Vec<usize>)| {
        own.sort_unstable();
        own
    };
    shares.into_iter().map(sorted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn large_pieces_are_spread() {
        assert_eq!(shares(&[1, 1, 1, 1], 2), [[0, 2], [1, 3]]);
        assert_eq!(shares(&[3, 3, 9, 3], 2), [vec![2], vec![0, 1, 3]]);
        assert_eq!(shares(&[5], 3), [vec![0], vec![], vec![]]);
        assert_eq!(shares(&[0, 0, 0], 3), [[0], [1], [2]]);
    }

    proptest! {
        #[test]
        fn every_piece_is_done_once_and_no_rank_has_more_than_its_part_and_one_piece(
            pieces in proptest::collection::vec(0usize..50, 0..40), size in 1usize..6,
        ) {
            let shares = shares(&pieces, size);
            let mut all = shares.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..pieces.len()).collect::<Vec<_>>());
            let part = pieces.iter().sum::<usize>() / size;
            for own in &shares {
                let load: usize = own.iter().map(|&piece| pieces[piece]).sum();
                prop_assert!(load <= part + pieces.iter().max().copied().unwrap_or(0));
            }
        }
    }
}

//! The order and grouping of one epoch's sequences, a function of (seed, epoch) and the lengths alone.
//!
//! | order | Sequences(n) | Tokens(n) |
//! |---|---|---|
//! | `Shuffled` | consecutive n of a shuffle | first fit over the shuffle: a sequence joins the first of the [`WINDOW`] latest batches that has room |
//! | `File` | consecutive n | consecutive, as many as fit |
//! | `LengthBuckets` | shuffle, sort by length inside of windows of [`WINDOW`] batches, cut, shuffle the batches | the same |
//!
//! Every sequence is in exactly one batch. A batch of `Tokens(n)` has at most n tokens, unless it is one longer sequence.
//! Batches are ragged all through the engine: each sequence has positions and attention of its own, so sequences packed
//! together never see each other, and no arithmetic goes to padding.

use rand::seq::SliceRandom;

use crate::rng;

/// Batches that stay open for packing, and batches among which lengths are sorted.
pub const WINDOW: usize = 50;

/// How many sequences make a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// This many sequences; 0 counts as 1.
    Sequences(usize),
    /// As many sequences as fit into this many tokens.
    Tokens(usize),
}

/// In which order sequences are met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Another shuffle in each epoch.
    #[default]
    Shuffled,
    /// As in the files, in each epoch.
    File,
    /// Shuffled, with sequences of like length together: steps take like time.
    LengthBuckets,
}

/// One epoch's micro-batches, each a list of indices of sequences; none is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// In the order of training.
    pub batches: Vec<Vec<usize>>,
}

impl BatchPlan {
    /// The plan of an epoch, from 0. `lengths` are the sequences' tokens.
    pub fn new(lengths: &[usize], grouping: Grouping, order: Order, seed: u64, epoch: u64) -> Self {
        let mut indices: Vec<usize> = (0..lengths.len()).collect();
        let batches = |indices: &mut [usize]| -> Vec<Vec<usize>> {
            let runs = runs(indices, lengths, grouping, 1);
            runs.map(|run| run.to_vec()).collect()
        };
        if order == Order::File {
            return Self {
                batches: batches(&mut indices),
            };
        }
        let mut rng = rng::stream(seed, "epoch", &[epoch]);
        indices.shuffle(&mut rng);
        let batches = match (order, grouping) {
            (Order::LengthBuckets, _) => {
                for window in runs(&mut indices, lengths, grouping, WINDOW) {
                    window.sort_by_key(|&i| lengths[i]); // stable: sequences of one length stay shuffled
                }
                let mut batches = batches(&mut indices);
                batches.shuffle(&mut rng);
                batches
            }
            (_, Grouping::Tokens(budget)) => first_fit(&indices, lengths, budget),
            (_, Grouping::Sequences(_)) => batches(&mut indices),
        };
        Self { batches }
    }
}

/// Cuts the sequences into consecutive runs, each as long as fits into `batches` batches.
fn runs<'a>(
    indices: &'a mut [usize],
    lengths: &[usize],
    grouping: Grouping,
    batches: usize,
) -> impl Iterator<Item = &'a mut [usize]> {
    let size = move |i: usize| match grouping {
        Grouping::Sequences(_) => 1,
        Grouping::Tokens(_) => lengths[i],
    };
    let (Grouping::Sequences(limit) | Grouping::Tokens(limit)) = grouping;
    let limit = limit.saturating_mul(batches);
    let mut filled = indices.first().map_or(0, |&first| size(first));
    // asks once about each pair of neighbours, from the first on
    indices.chunk_by_mut(move |_, &next| {
        let with_next = filled.saturating_add(size(next));
        let fits = with_next <= limit;
        filled = if fits { with_next } else { size(next) };
        fits
    })
}

/// Puts each sequence into the first of the last [`WINDOW`] batches that has room, else opens one.
fn first_fit(indices: &[usize], lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room: Vec<usize> = Vec::new();
    for &i in indices {
        let open = batches.len().saturating_sub(WINDOW)..batches.len();
        match open.into_iter().find(|&batch| lengths[i] <= room[batch]) {
            Some(batch) => {
                batches[batch].push(i);
                room[batch] -= lengths[i];
            }
            None => {
                batches.push(vec![i]);
                room.push(budget.saturating_sub(lengths[i]));
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grouping() -> impl Strategy<Value = Grouping> {
        prop_oneof![
            (0usize..7).prop_map(Grouping::Sequences),
            (0usize..60).prop_map(Grouping::Tokens)
        ]
    }

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::Shuffled), Just(Order::File), Just(Order::LengthBuckets)]
    }

    fn plan(lengths: &[usize], grouping: Grouping, order: Order, epoch: u64) -> Vec<Vec<usize>> {
        BatchPlan::new(lengths, grouping, order, 42, epoch).batches
    }

    #[test]
    fn file_order_is_kept() {
        let lengths = [5, 4, 3, 9, 20, 1];
        let order = Order::File;
        assert_eq!(
            plan(&lengths, Grouping::Sequences(4), order, 7),
            [vec![0, 1, 2, 3], vec![4, 5]]
        );
        assert_eq!(
            plan(&lengths, Grouping::Tokens(12), order, 7),
            [vec![0, 1, 2], vec![3], vec![4], vec![5]]
        );
    }

    #[test]
    fn packing_goes_back_to_batches_with_room() {
        let indices: Vec<usize> = (0..6).collect();
        assert_eq!(
            first_fit(&indices, &[6, 6, 4, 11, 3, 1], 10),
            [vec![0, 2], vec![1, 4, 5], vec![3]]
        );
        // the first batch has room for one token, but closes when WINDOW others are open
        let mut lengths = vec![9; WINDOW + 1];
        lengths.push(1);
        let indices: Vec<usize> = (0..lengths.len()).collect();
        let batches = first_fit(&indices, &lengths, 10);
        assert_eq!((batches[0].clone(), batches[1].clone()), (vec![0], vec![1, WINDOW + 1]));
    }

    #[test]
    fn buckets_hold_like_lengths() {
        let lengths: Vec<usize> = (0..400).map(|i| i * 7919 % 400).collect();
        let batches = plan(&lengths, Grouping::Sequences(4), Order::LengthBuckets, 0);
        let spread = |batches: &[Vec<usize>]| -> usize {
            let of = |batch: &Vec<usize>| {
                let lengths = batch.iter().map(|&i| lengths[i]);
                lengths.clone().max().unwrap() - lengths.min().unwrap()
            };
            batches.iter().map(of).sum()
        };
        let shuffled = plan(&lengths, Grouping::Sequences(4), Order::Shuffled, 0);
        assert!(
            20 * spread(&batches) < spread(&shuffled) * 2,
            "{} {}",
            spread(&batches),
            spread(&shuffled)
        );
        let mean = |batch: &Vec<usize>| batch.iter().map(|&i| lengths[i]).sum::<usize>();
        assert!(
            !batches.is_sorted_by_key(mean),
            "the batches themselves must be shuffled"
        );
    }

    /// A run that is resumed with a later version must meet the same batches.
    #[test]
    fn the_plan_of_seed_42_is_pinned() {
        let lengths = [3, 1, 4, 1, 5, 9, 2, 6];
        let batches = |grouping, order| plan(&lengths, grouping, order, 1);
        assert_eq!(
            batches(Grouping::Sequences(3), Order::Shuffled),
            [vec![2, 3, 5], vec![7, 6, 1], vec![4, 0]]
        );
        assert_eq!(
            batches(Grouping::Tokens(9), Order::Shuffled),
            [vec![2, 3, 6, 1], vec![5], vec![7, 0], vec![4]]
        );
        assert_eq!(
            batches(Grouping::Sequences(3), Order::LengthBuckets),
            [vec![7, 5], vec![0, 2, 4], vec![3, 1, 6]]
        );
    }

    proptest! {
        #[test]
        fn every_sequence_is_met_once_and_budgets_are_kept(
            lengths in proptest::collection::vec(1usize..40, 0..300), grouping in grouping(), order in order(),
            seed: u64, epoch in 0u64..4,
        ) {
            let BatchPlan { batches } = BatchPlan::new(&lengths, grouping, order, seed, epoch);
            let mut met: Vec<usize> = batches.iter().flatten().copied().collect();
            met.sort_unstable();
            prop_assert_eq!(met, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let tokens: usize = batch.iter().map(|&i| lengths[i]).sum();
                let fits = match grouping {
                    Grouping::Sequences(n) => (1..=n.max(1)).contains(&batch.len()),
                    Grouping::Tokens(budget) => batch.len() == 1 || (batch.len() > 1 && tokens <= budget),
                };
                prop_assert!(fits, "{:?}", batch);
            }
            if let (Grouping::Sequences(n), Order::Shuffled | Order::File) = (grouping, order) {
                prop_assert_eq!(batches.len(), lengths.len().div_ceil(n.max(1)));
            }
        }

        #[test]
        fn a_plan_depends_on_seed_and_epoch_alone(
            lengths in proptest::collection::vec(1usize..40, 60..100), grouping in grouping(), order in order(), seed: u64,
        ) {
            let plan = |seed, epoch| BatchPlan::new(&lengths, grouping, order, seed, epoch);
            prop_assert_eq!(plan(seed, 3), plan(seed, 3));
            prop_assert_eq!(plan(seed, 3) != plan(seed, 4), order != Order::File);
            prop_assert_eq!(plan(seed, 3) != plan(seed.wrapping_add(1), 3), order != Order::File);
        }
    }
}

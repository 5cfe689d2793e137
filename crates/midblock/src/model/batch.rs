//! Sequences laid one after another, without padding.

use std::ops::Range;

/// A ragged batch of token sequences: whole ones, the next tokens of some, or some with a common beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    offsets: Vec<usize>,
    /// Of sequences that go on: the rows of a cache that hold them, these tokens included.
    keys: Option<Vec<Range<usize>>>,
    /// Row of a cache for each of these tokens.
    cache_rows: Vec<usize>,
    /// Of sequences with a common beginning.
    trunk: Option<Trunk>,
}

/// Where keys lie when those of the common beginning are laid before those of each sequence that goes on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trunk {
    /// Rows of the common beginning: the batch's first.
    rows: usize,
    /// The batch's row of each row of keys.
    spread: Vec<usize>,
    /// The row of keys of each of the batch's rows, where it stands in its own sequence.
    own: Vec<usize>,
}

impl Batch {
    /// Lays `sequences` one after another; positions start at 0 in each.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Self {
        let mut batch = Self {
            ids: Vec::new(),
            positions: Vec::new(),
            offsets: vec![0],
            keys: None,
            cache_rows: Vec::new(),
            trunk: None,
        };
        for sequence in sequences {
            let sequence = sequence.as_ref();
            batch.ids.extend_from_slice(sequence);
            batch.positions.extend(0..sequence.len() as u32);
            batch.offsets.push(batch.ids.len());
        }
        batch
    }

    /// Lays the next tokens of sequences one after another: ids, and the rows of a cache that hold the sequence up to them.
    /// Positions count from the first of those rows.
    pub fn continued<'a>(sequences: impl IntoIterator<Item = (&'a [u32], Range<usize>)>) -> Self {
        let mut batch = Self::new::<[u32; 0]>(&[]);
        let keys = batch.keys.insert(Vec::new());
        for (ids, rows) in sequences {
            let own = rows.end - ids.len()..rows.end;
            batch.ids.extend_from_slice(ids);
            batch.positions.extend(own.clone().map(|row| (row - rows.start) as u32));
            batch.offsets.push(batch.ids.len());
            batch.cache_rows.extend(own);
            keys.push(rows);
        }
        batch
    }

    /// A common beginning once, and after it what follows it in each of some sequences; positions go on from it. What a row becomes is what it
    /// becomes in whole sequences, at the cost of the beginning once. If it is empty these are whole sequences.
    pub fn branching<S: AsRef<[u32]>>(trunk: &[u32], branches: &[S]) -> Self {
        let sequences = std::iter::once(trunk).chain(branches.iter().map(AsRef::as_ref));
        let mut batch = Self::new(&sequences.skip(usize::from(trunk.is_empty())).collect::<Vec<_>>());
        if trunk.is_empty() {
            return batch;
        }
        let rows = trunk.len();
        batch.positions[rows..]
            .iter_mut()
            .for_each(|position| *position += rows as u32);
        let mut keys = Vec::with_capacity(branches.len() + 1);
        let (mut spread, mut own) = (Vec::new(), Vec::new());
        for (index, bounds) in batch.offsets.windows(2).enumerate() {
            let start = spread.len();
            if index > 0 {
                spread.extend(0..rows);
            }
            own.extend(spread.len()..spread.len() + bounds[1] - bounds[0]);
            spread.extend(bounds[0]..bounds[1]);
            keys.push(start..spread.len());
        }
        batch.keys = Some(keys);
        batch.trunk = Some(Trunk { rows, spread, own });
        batch
    }

    /// Rows of the common beginning; 0 if there is none.
    pub fn trunk(&self) -> usize {
        self.trunk.as_ref().map_or(0, |trunk| trunk.rows)
    }

    /// The batch's row of each row of keys, where a common beginning's are laid before those of each sequence; empty if there is none.
    pub fn spread(&self) -> &[usize] {
        self.trunk.as_ref().map_or(&[], |trunk| &trunk.spread)
    }

    /// The row of keys of each row, where they are [spread](Self::spread).
    pub fn own_keys(&self) -> &[usize] {
        self.trunk.as_ref().map_or(&[], |trunk| &trunk.own)
    }

    /// Rows of a cache, or of [spread](Self::spread) keys, that hold each sequence; `None` if these are whole sequences.
    pub fn keys(&self) -> Option<&[Range<usize>]> {
        self.keys.as_deref()
    }

    /// Row of a cache for each token, (rows); empty if there is none.
    pub fn cache_rows(&self) -> &[usize] {
        &self.cache_rows
    }

    /// Token ids, (rows).
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Position of each token in its sequence, (rows).
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// First row of each sequence, and the number of rows last.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Total number of tokens.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Cuts consecutive sequences of the given lengths into batches of at most `max_rows` rows (a longer sequence gets a
    /// batch of its own). Returns half-open ranges of sequence indices.
    pub fn plan(lengths: impl IntoIterator<Item = usize>, max_rows: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let (mut start, mut end, mut rows) = (0, 0, 0);
        for length in lengths {
            if end > start && rows + length > max_rows {
                ranges.push(start..end);
                (start, rows) = (end, 0);
            }
            rows += length;
            end += 1;
        }
        if end > start {
            ranges.push(start..end);
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_keep_their_own_positions() {
        let batch = Batch::new(&[vec![5, 6, 7], vec![], vec![8]]);
        assert_eq!(batch.ids(), [5, 6, 7, 8]);
        assert_eq!(batch.positions(), [0, 1, 2, 0]);
        assert_eq!(batch.offsets(), [0, 3, 3, 4]);
    }

    #[test]
    fn tokens_go_on_where_their_sequence_is() {
        let batch = Batch::continued([(&[5, 6][..], 10..14), (&[7], 3..4)]);
        assert_eq!(batch.positions(), [2, 3, 0]);
        assert_eq!(batch.cache_rows(), [12, 13, 3]);
        assert_eq!(batch.offsets(), [0, 2, 3]);
        assert_eq!(batch.keys(), Some(&[10..14, 3..4][..]));
    }

    #[test]
    fn branches_go_on_from_a_common_beginning() {
        let batch = Batch::branching(&[8, 9], &[vec![5], vec![], vec![6, 7]]);
        assert_eq!(batch.ids(), [8, 9, 5, 6, 7]);
        assert_eq!(batch.positions(), [0, 1, 2, 2, 3]);
        assert_eq!(batch.offsets(), [0, 2, 3, 3, 5]);
        assert_eq!(batch.keys(), Some(&[0..2, 2..5, 5..7, 7..11][..]));
        assert_eq!(batch.spread(), [0, 1, 0, 1, 2, 0, 1, 0, 1, 3, 4]);
        assert_eq!((batch.trunk(), batch.own_keys()), (2, &[0, 1, 4, 9, 10][..]));
        assert_eq!(
            Batch::branching(&[], &[vec![5], vec![6]]),
            Batch::new(&[vec![5], vec![6]])
        );
    }

    #[test]
    fn a_plan_covers_everything_in_order_within_the_limit() {
        assert_eq!(Batch::plan([3, 4, 2, 9, 1], 7), [0..2, 2..3, 3..4, 4..5]);
        assert!(Batch::plan([], 7).is_empty());
    }
}

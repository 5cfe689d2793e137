//! Sequences laid one after another, without padding.

use std::ops::Range;

/// A ragged batch of token sequences, whole ones or the next tokens of some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    offsets: Vec<usize>,
    /// Of sequences that go on: the rows of a cache that hold them, these tokens included.
    keys: Option<Vec<Range<usize>>>,
    /// Row of a cache for each of these tokens.
    cache_rows: Vec<usize>,
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

    /// Rows of a cache that hold each sequence; `None` if these are whole sequences.
    pub fn keys(&self) -> Option<&[Range<usize>]> {
        self.keys.as_deref()
    }

    /// Row of a cache for each token, (rows); empty if these are whole sequences.
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
    fn a_plan_covers_everything_in_order_within_the_limit() {
        assert_eq!(Batch::plan([3, 4, 2, 9, 1], 7), [0..2, 2..3, 3..4, 4..5]);
        assert!(Batch::plan([], 7).is_empty());
    }
}

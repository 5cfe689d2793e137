//! Keys and values of sequences that go on.
//!
//! Each block has one buffer of keys and one of values, (slots · capacity, K·E): a slot holds one sequence, its tokens from
//! its first row on. When a sequence outgrows the capacity all slots move to buffers of twice the size. Rows that every sequence
//! begins with, those of a trigger, stay in every slot for good.

use crate::model::{Architecture, KeysValues};
use midblock_kernels::Backend;
use std::ops::Range;

/// Rows a slot starts with.
const SMALLEST: usize = 64;

/// Keys and values of all blocks for some sequences.
pub(super) struct Cache<B: Backend> {
    blocks: Vec<KeysValues<B>>,
    /// K·E.
    width: usize,
    /// Rows of a slot.
    capacity: usize,
    /// Most rows a slot may have.
    limit: usize,
    /// Rows that every sequence begins with.
    prefix: usize,
    /// Rows in use of each slot, the prefix included.
    lengths: Vec<usize>,
}

impl<B: Backend> Cache<B> {
    /// Empty slots, each for up to `architecture.max_positions` tokens.
    pub fn new(backend: &B, architecture: &Architecture, slots: usize) -> Self {
        let empty = |_| KeysValues {
            keys: backend.zeros(0),
            values: backend.zeros(0),
        };
        Self {
            blocks: (0..architecture.blocks).map(empty).collect(),
            width: architecture.kv_heads * architecture.head_dim,
            capacity: 0,
            limit: architecture.max_positions,
            prefix: 0,
            lengths: vec![0; slots],
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Rows of a slot in use, the prefix included.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Keys and values of a block.
    pub fn block(&mut self, index: usize) -> &mut KeysValues<B> {
        &mut self.blocks[index]
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.lengths.fill(self.prefix);
    }

    /// Forgets a slot's tokens after the prefix from the `len`-th on.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        self.lengths[slot] = self.lengths[slot].min(self.prefix + len);
    }

    /// Forgets all tokens, and what every sequence began with.
    pub fn forget_prefix(&mut self) {
        self.prefix = 0;
        self.clear();
    }

    /// Makes what the first slot holds the beginning of every sequence, and forgets all else.
    pub fn share_first(&mut self, backend: &B) {
        self.prefix = self.lengths[0];
        let from: Vec<usize> = (0..self.prefix).collect();
        let mut shared = backend.zeros(self.prefix * self.width);
        for KeysValues { keys, values } in &mut self.blocks {
            for buffer in [keys, values] {
                backend.gather_rows(buffer, &from, self.width, &mut shared);
                for slot in 1..self.lengths.len() {
                    let start = slot * self.capacity;
                    let to: Vec<usize> = (start..start + self.prefix).collect();
                    backend.scatter_rows(&shared, &to, self.width, buffer);
                }
            }
        }
        self.clear();
    }

    /// Takes `more` rows into use; returns all of the slot's. There must be [room](Self::reserve).
    pub fn extend(&mut self, slot: usize, more: usize) -> Range<usize> {
        self.lengths[slot] += more;
        assert!(
            self.lengths[slot] <= self.capacity,
            "slot {slot}: {} of {}",
            self.lengths[slot],
            self.capacity
        );
        let start = slot * self.capacity;
        start..start + self.lengths[slot]
    }

    /// Makes room for sequences of `rows` tokens.
    pub fn reserve(&mut self, backend: &B, rows: usize) {
        if rows <= self.capacity {
            return;
        }
        let capacity = rows.max(2 * self.capacity).max(SMALLEST).min(self.limit.max(rows));
        let in_use = |capacity: usize| -> Vec<usize> {
            let slots = self.lengths.iter().enumerate();
            slots
                .flat_map(|(slot, len)| slot * capacity..slot * capacity + len)
                .collect()
        };
        let (from, to) = (in_use(self.capacity), in_use(capacity));
        let mut moved = backend.zeros(from.len() * self.width);
        for KeysValues { keys, values } in &mut self.blocks {
            for buffer in [keys, values] {
                backend.gather_rows(buffer, &from, self.width, &mut moved);
                *buffer = backend.zeros(self.lengths.len() * capacity * self.width);
                backend.scatter_rows(&moved, &to, self.width, buffer);
            }
        }
        self.capacity = capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midblock_kernels::Reference;

    #[test]
    fn sequences_survive_growth() {
        let backend = Reference;
        let mut cache = Cache::<Reference> {
            blocks: vec![KeysValues {
                keys: vec![],
                values: vec![],
            }],
            width: 2,
            capacity: 0,
            limit: 1000,
            prefix: 0,
            lengths: vec![0; 3],
        };
        cache.reserve(&backend, 3);
        assert_eq!(cache.capacity, SMALLEST);
        for (slot, len) in [(0, 1), (2, 3)] {
            for row in cache.extend(slot, len) {
                let at = 2 * row..2 * row + 2;
                cache.blocks[0].keys[at.clone()].fill(10.0 * slot as f64 + row as f64);
                cache.blocks[0].values[at].fill(-(row as f64));
            }
        }
        cache.reserve(&backend, SMALLEST + 1);
        assert_eq!(cache.capacity, 2 * SMALLEST);
        let rows = cache.extend(2, 0);
        assert_eq!(rows, 4 * SMALLEST..4 * SMALLEST + 3);
        let first = 2.0 * SMALLEST as f64;
        let expected: Vec<f64> = (0..3).flat_map(|row| [20.0 + first + row as f64; 2]).collect();
        assert_eq!(cache.blocks[0].keys[2 * rows.start..2 * rows.end], expected);
        assert_eq!(cache.blocks[0].values[2 * rows.start + 4], -(first + 2.0));
        cache.truncate(2, 1);
        assert_eq!([cache.len(0), cache.len(1), cache.len(2)], [1, 0, 1]);
        cache.reserve(&backend, 5000); // beyond the limit: whoever asks has checked it
        assert_eq!(cache.capacity, 5000);
    }

    #[test]
    fn what_all_begin_with_is_in_every_slot_and_stays() {
        let backend = Reference;
        let mut cache = Cache::<Reference> {
            blocks: vec![KeysValues {
                keys: vec![],
                values: vec![],
            }],
            width: 1,
            capacity: 0,
            limit: 1000,
            prefix: 0,
            lengths: vec![0; 3],
        };
        cache.reserve(&backend, 2);
        let rows = cache.extend(0, 2);
        cache.blocks[0].keys[rows].copy_from_slice(&[7.0, 8.0]);
        cache.share_first(&backend);
        cache.extend(1, 3);
        cache.reserve(&backend, SMALLEST + 1);
        cache.truncate(1, 1);
        assert_eq!([cache.len(0), cache.len(1), cache.len(2)], [2, 3, 2]);
        cache.truncate(1, 0);
        for slot in 0..3 {
            let rows = cache.extend(slot, 0);
            assert_eq!(cache.blocks[0].keys[rows], [7.0, 8.0], "slot {slot}");
        }
        cache.forget_prefix();
        assert_eq!(cache.len(2), 0);
    }
}

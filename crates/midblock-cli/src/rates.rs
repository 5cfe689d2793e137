//! What this machine's memory delivers.

use rayon::prelude::*;
use std::time::Instant;

/// Values whose reading measures memory: far more than any cache holds.
const READ: usize = 1 << 26;

/// Values read at a time by one thread.
const CHUNK: usize = 1 << 16;

/// A stretch of memory that is read to measure it.
pub struct Memory(Vec<f32>);

impl Memory {
    pub fn new() -> Self {
        Self(vec![1.0; READ])
    }

    /// Reads all of it with all cores; bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        let start = Instant::now();
        let sum: f32 = self.0.par_chunks(CHUNK).map(sum).sum();
        let seconds = start.elapsed().as_secs_f64();
        assert!(sum > 0.0, "invariant: all values are 1");
        (4 * READ) as f64 / seconds
    }
}

/// Many sums at a time, so that memory and not addition sets the pace.
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0; 64];
    for chunk in values.chunks_exact(64) {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
    }
    sums.iter().sum()
}

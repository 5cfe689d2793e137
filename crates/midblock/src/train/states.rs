//! The residual stream of whole sequences, pooled: one vector for each sequence and layer.

use super::{
    Item, Trainer,
    batch::{layout, longest},
};
use crate::model::{Batch, Scratch};
use midblock_kernels::Backend;

/// Rows of a batch.
const ROWS: usize = 1024;

impl<B: Backend> Trainer<'_, B> {
    /// The mean over the tokens of each sequence of `h[l]`, 0 ≤ l ≤ L: L + 1 times (N, D), row-major. Without dropout; nothing
    /// moves.
    pub fn pooled_states(&self, items: &[Item<'_>]) -> Vec<Vec<f64>> {
        let hidden = self.decoder.architecture().hidden;
        let mut pooled = vec![Vec::with_capacity(items.len() * hidden); self.decoder.blocks().len() + 1];
        let mut scratch = Scratch::new(self.backend);
        for range in Batch::plan(items.iter().map(|item| item.sample.ids.len()), ROWS) {
            let (batch, _) = layout(&items[range]);
            let rope = self.decoder.rope(longest(&batch));
            let tap = |layer: usize, states: &B::Buffer| {
                let mut values = vec![0f32; batch.rows() * hidden];
                self.backend.read(states, 0, &mut values);
                for rows in batch.offsets().windows(2) {
                    let sequence = &values[rows[0] * hidden..rows[1] * hidden];
                    let mut mean = vec![0.0; hidden];
                    for row in sequence.chunks_exact(hidden) {
                        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
                    }
                    pooled[layer].extend(mean.iter().map(|sum| sum / (rows[1] - rows[0]) as f64));
                }
            };
            self.decoder.forward(self.backend, &batch, &rope, &mut scratch, tap);
        }
        pooled
    }
}

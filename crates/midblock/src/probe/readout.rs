//! What final norm and head make of hidden states: a prediction for every token asked for, sequence by sequence.

use crate::model::{Batch, Ends, Labels};
use midblock_kernels::{Backend, Prediction};

/// Knows which tokens of the batches are to be predicted; the same for all layers and models.
pub struct Readout {
    /// Of each batch.
    labels: Vec<Labels>,
    /// Tokens asked for in each sequence, batch by batch.
    counts: Vec<Vec<usize>>,
}

impl Readout {
    /// The tokens t ≥ 1 of sequence s, counted through all `batches`, that are `wanted(s, t)`.
    pub fn new(batches: &[Batch], wanted: &dyn Fn(usize, usize) -> bool) -> Self {
        let mut readout = Self {
            labels: Vec::with_capacity(batches.len()),
            counts: Vec::with_capacity(batches.len()),
        };
        let mut before = 0;
        for batch in batches {
            let labels = Labels::of(batch, |sequence, t| wanted(before + sequence, t));
            let ends = batch
                .offsets()
                .iter()
                .map(|end| labels.rows.partition_point(|row| row < end));
            let ends: Vec<usize> = ends.collect();
            readout
                .counts
                .push(ends.windows(2).map(|bounds| bounds[1] - bounds[0]).collect());
            readout.labels.push(labels);
            before += batch.offsets().len() - 1;
        }
        readout
    }

    /// The predictions of each sequence, in the order of its tokens, from the `states` of each batch, (rows, D).
    pub fn read<B: Backend>(&self, backend: &B, ends: &Ends<B>, states: &[B::Buffer]) -> Vec<Vec<Prediction>> {
        let mut sequences = Vec::new();
        for ((labels, counts), states) in self.labels.iter().zip(&self.counts).zip(states) {
            let mut rest = ends.predictions(backend, states, labels).into_iter();
            sequences.extend(counts.iter().map(|&count| rest.by_ref().take(count).collect()));
        }
        sequences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_counted_through_all_batches() {
        let batches = [Batch::new(&[vec![5, 6, 7], vec![8]]), Batch::new(&[vec![1, 2, 3, 4]])];
        let readout = Readout::new(&batches, &|sequence, t| {
            [(0, 2), (1, 0), (2, 1), (2, 3)].contains(&(sequence, t))
        });
        let labels = |rows: &[usize], targets: &[u32]| Labels {
            rows: rows.to_vec(),
            targets: targets.to_vec(),
        };
        // a sequence's first token is predicted by nothing
        assert_eq!(readout.labels, [labels(&[1], &[7]), labels(&[0, 2], &[2, 4])]);
        assert_eq!(readout.counts, [vec![1, 0], vec![2]]);
    }
}

//! Teacher forcing: how well a model predicts given answers, with vectors added from some block on.
//!
//! The blocks below the first that is steered are the same for every setting: their output is kept, and a setting costs the
//! blocks above.

use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    model::{Batch, Decoder, Interior, Keep, Labels, Pass, Scratch},
    progress::Progress,
    tokens::TrainingSample,
};
use midblock_kernels::{Backend, RopeTable};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Rows of a batch.
const BATCH_ROWS: usize = 1024;

/// What was predicted of one sample's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Tokens predicted.
    pub predicted: usize,
    /// Σ −ln p.
    pub nats: f64,
    /// Those that were the most likely.
    pub right: usize,
}

/// A model and samples, ready to be scored.
pub(super) struct Forced<'a, B: Backend> {
    backend: &'a B,
    decoder: Decoder<B>,
    rope: RopeTable,
    batches: Vec<(Batch, Labels)>,
    /// Sample of every label, in the order of batches and rows.
    owners: Vec<usize>,
    samples: usize,
    /// States before some blocks, for each batch (rows, D).
    before: BTreeMap<usize, Vec<B::Buffer>>,
    interior: Interior<B>,
    scratch: Scratch<B>,
    /// Without anything added.
    pub plain: Vec<Tally>,
}

impl<'a, B: Backend> Forced<'a, B> {
    /// Runs the samples once and keeps the states before the blocks `starts`.
    ///
    /// # Errors
    /// Whatever is wrong with the checkpoint; [`Error::Interrupted`].
    pub fn new(
        backend: &'a B,
        checkpoint: &Checkpoint,
        samples: &[TrainingSample],
        starts: &[usize],
        progress: &dyn Progress,
    ) -> Result<Self> {
        let decoder = Decoder::load(backend, checkpoint)?;
        let plan = Batch::plan(samples.iter().map(|sample| sample.ids.len()), BATCH_ROWS);
        let mut owners = Vec::new();
        let batches: Vec<(Batch, Labels)> = plan
            .into_iter()
            .map(|range| {
                let ids: Vec<&[u32]> = samples[range.clone()]
                    .iter()
                    .map(|sample| sample.ids.as_slice())
                    .collect();
                let batch = Batch::new(&ids);
                let mut labels = Labels::default();
                for (sample, start) in range.zip(batch.offsets()) {
                    let trained = (1..samples[sample].ids.len()).filter(|t| samples[sample].trained[*t]);
                    for t in trained {
                        labels.rows.push(start + t - 1);
                        labels.targets.push(samples[sample].ids[t]);
                        owners.push(sample);
                    }
                }
                (batch, labels)
            })
            .collect();
        let longest = samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0);
        let embedded = |(batch, _): &(Batch, Labels)| {
            let mut hidden = backend.zeros(0);
            decoder.ends().embed(backend, batch, &mut hidden);
            hidden
        };
        let first = batches.iter().map(embedded).collect();
        let mut forced = Self {
            backend,
            rope: decoder.rope(longest),
            batches,
            owners,
            samples: samples.len(),
            before: BTreeMap::from([(0, first)]),
            interior: Interior::new(backend),
            scratch: Scratch::new(backend),
            plain: Vec::new(),
            decoder,
        };
        for &start in starts {
            let below = *forced
                .before
                .range(..=start)
                .next_back()
                .expect("invariant: 0 is there")
                .0;
            let states = forced.through(below..start, progress)?;
            forced.before.insert(start, states);
        }
        let highest = *forced.before.keys().next_back().expect("invariant: 0 is there");
        forced.plain = forced.score(highest, progress)?;
        Ok(forced)
    }

    /// With `added` (an entry for each block), which adds nothing below block `start`, one of those kept.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn steered(
        &mut self,
        added: &[Option<Arc<[f32]>>],
        start: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Tally>> {
        self.decoder.steer(self.backend, added);
        let tallies = self.score(start, progress);
        self.decoder.steer(self.backend, &[]);
        tallies
    }

    fn score(&mut self, start: usize, progress: &dyn Progress) -> Result<Vec<Tally>> {
        let states = self.through(start..self.decoder.blocks().len(), progress)?;
        let mut tallies = vec![Tally::default(); self.samples];
        let mut owners = self.owners.iter();
        for ((_, labels), hidden) in self.batches.iter().zip(&states) {
            let predictions = self.decoder.ends().predictions(self.backend, hidden, labels);
            for ((prediction, target), owner) in predictions.iter().zip(&labels.targets).zip(&mut owners) {
                let tally = &mut tallies[*owner];
                tally.predicted += 1;
                tally.nats += prediction.nats;
                tally.right += usize::from(prediction.top == *target);
            }
        }
        Ok(tallies)
    }

    /// States of every batch after some blocks, from those kept before the first.
    fn through(&mut self, blocks: std::ops::Range<usize>, progress: &dyn Progress) -> Result<Vec<B::Buffer>> {
        let backend = self.backend;
        let mut out = Vec::with_capacity(self.batches.len());
        for ((batch, _), kept) in self.batches.iter().zip(&self.before[&blocks.start]) {
            let mut hidden = backend.zeros(backend.len(kept));
            backend.copy(kept, &mut hidden);
            let pass = Pass::inference(backend, batch, &self.rope);
            for block in blocks.clone() {
                if progress.cancelled() {
                    return Err(Error::Interrupted);
                }
                let (interior, scratch) = (&mut self.interior, &mut self.scratch);
                self.decoder
                    .forward_block(block, &pass, Keep::Nothing, &mut hidden, interior, scratch);
            }
            out.push(hidden);
        }
        Ok(out)
    }
}

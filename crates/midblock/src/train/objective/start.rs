//! A model that stays as it is, and what it says of the samples: the one before the first step, or for `lcdd` the tuned one. Computed once
//! for each sample, as far as there is room.
//!
//! Its weights are those of a checkpoint in their storage format, beside those that move, and the residual stream is shared up to the
//! first trained block. Kept of a sample is what its objective needs and no more: for `iw` the mean loss of its trained tokens, for `kl` and
//! `lcdd` the normed states of these, (n, D), from which the whole distribution is one product with the head: D numbers a token instead of V.

use crate::{
    Result,
    checkpoint::Checkpoint,
    model::{Decoder, Interior, Keep, Labels, Pass, Scratch},
    train::{
        batch::Item,
        objective::{Lcdd, Objective, Target, sequences},
        state_cache::{CacheOptions, CacheUse, StateCache},
    },
};
use midblock_kernels::{Accumulate, Backend};
use std::ops::Range;

/// The start model with what it has said so far.
pub(in crate::train) struct StartModel<B: Backend> {
    decoder: Decoder<B>,
    /// Whether nothing is shared, not even `h[0]`.
    apart: bool,
    keeps: Keeps,
    cache: Option<StateCache>,
    hidden: B::Buffer,
    interior: Interior<B>,
    scratch: Scratch<B>,
    states: B::Buffer,
    chunk: [B::Buffer; 2],
}

#[derive(Clone, Copy, PartialEq)]
enum Keeps {
    Losses,
    States,
}

/// What the start model says of a micro-batch's trained tokens.
pub(in crate::train) enum Seen<'a, B: Backend> {
    /// Nothing: it was not asked.
    Nothing,
    /// Mean loss in nats of each sequence.
    Losses(Vec<f64>),
    /// What its head makes distributions of.
    States(SeenStates<'a, B>),
}

/// Normed states of a micro-batch's trained rows, and the head that they go through.
pub(in crate::train) struct SeenStates<'a, B: Backend> {
    /// (rows, D)
    pub states: &'a B::Buffer,
    /// (V, D)
    pub head: &'a B::Matrix,
    /// (n, D) and (n, V) of a chunk.
    pub scratch: &'a mut [B::Buffer; 2],
}

impl<B: Backend> SeenStates<'_, B> {
    /// V.
    pub fn vocab(&self, backend: &B) -> usize {
        backend.shape(self.head)[0]
    }

    /// The logits of some of the trained rows, (n, V).
    pub fn logits(&mut self, backend: &B, rows: Range<usize>) -> &mut B::Buffer {
        let [chunk, logits] = &mut *self.scratch;
        let [vocab, hidden] = backend.shape(self.head);
        backend.resize(chunk, rows.len() * hidden);
        backend.gather_rows(self.states, &rows.clone().collect::<Vec<_>>(), hidden, chunk);
        backend.resize(logits, rows.len() * vocab);
        backend.linear(chunk, self.head, rows.len(), Accumulate::Write, logits);
        logits
    }
}

impl<B: Backend> StartModel<B> {
    /// The model of a checkpoint for an objective; `None` if it needs none. `apart` says that it shares nothing with the model in training,
    /// not even the embedding or the blocks below the first trained one.
    pub fn of(
        backend: &B,
        checkpoint: &Checkpoint,
        objective: &Objective,
        apart: bool,
        cache: Option<CacheOptions>,
    ) -> Result<Option<Self>> {
        let keeps = match objective {
            Objective::Iw { .. } => Keeps::Losses,
            Objective::Kl { .. } => Keeps::States,
            Objective::Lcdd(Lcdd { target, .. }) if *target == Target::Tuned => Keeps::States,
            Objective::Sft | Objective::Dft | Objective::Rpsft(_) | Objective::Lcdd(_) => return Ok(None),
        };
        let empty = || backend.zeros(0);
        Ok(Some(Self {
            decoder: Decoder::load(backend, checkpoint)?,
            apart,
            keeps,
            cache: cache.map(StateCache::new),
            hidden: empty(),
            interior: Interior::new(backend),
            scratch: Scratch::new(backend),
            states: empty(),
            chunk: [empty(), empty()],
        }))
    }

    /// What is kept.
    pub fn used(&self) -> CacheUse {
        self.cache.as_ref().map(StateCache::used).unwrap_or_default()
    }

    /// Of a micro-batch whose residual stream before block `first` is `entered`, (rows, D).
    pub fn see(
        &mut self,
        items: &[Item<'_>],
        pass: &Pass<'_, B>,
        labels: &Labels,
        first: usize,
        entered: &B::Buffer,
    ) -> Seen<'_, B> {
        let mut kept = Vec::new();
        if let Some(cache) = &mut self.cache {
            for item in items {
                kept.extend(cache.get(item.key));
            }
        }
        if kept.len() < items.len() {
            kept = self.compute(pass, labels, first, entered);
            for (item, values) in items.iter().zip(&kept) {
                if let Some(cache) = &mut self.cache {
                    cache.insert(item.key, values);
                }
            }
        } else if self.keeps == Keeps::States {
            self.states = pass.backend.upload(&kept.concat());
        }
        match self.keeps {
            Keeps::Losses => Seen::Losses(kept.iter().map(|loss| f64::from(loss[0])).collect()),
            Keeps::States => Seen::States(SeenStates {
                states: &self.states,
                head: self.decoder.ends().head(),
                scratch: &mut self.chunk,
            }),
        }
    }

    /// What is to be kept of each sequence; leaves the states of all.
    fn compute(&mut self, pass: &Pass<'_, B>, labels: &Labels, first: usize, entered: &B::Buffer) -> Vec<Vec<f32>> {
        let backend = pass.backend;
        backend.resize(&mut self.hidden, backend.len(entered));
        backend.copy(entered, &mut self.hidden);
        let first = match self.apart {
            true => {
                self.decoder.ends().embed(backend, pass.batch, &mut self.hidden);
                0
            }
            false => first,
        };
        for block in first..self.decoder.blocks().len() {
            let (hidden, interior) = (&mut self.hidden, &mut self.interior);
            self.decoder
                .forward_block(block, pass, Keep::Nothing, hidden, interior, &mut self.scratch);
        }
        let sequences = sequences(pass.batch, labels);
        let ends = self.decoder.ends();
        match self.keeps {
            Keeps::Losses => {
                let losses = ends.predictions(backend, &self.hidden, labels);
                let mean = |rows: &Range<usize>| {
                    let sum: f64 = losses[rows.clone()].iter().map(|row| row.nats).sum();
                    vec![(sum / rows.len().max(1) as f64) as f32]
                };
                sequences.iter().map(mean).collect()
            }
            Keeps::States => {
                self.states = ends.normed_rows(backend, &self.hidden, &labels.rows);
                let hidden = self.decoder.architecture().hidden;
                let read = |rows: &Range<usize>| {
                    let mut values = vec![0f32; rows.len() * hidden];
                    backend.read(&self.states, rows.start * hidden, &mut values);
                    values
                };
                match self.cache {
                    Some(_) => sequences.iter().map(read).collect(),
                    None => Vec::new(), // nobody would keep it
                }
            }
        }
    }
}

//! What real optimiser steps do to each block: how hard the loss pulls, and how far the weights go.
//!
//! Over steps t = 1 … T, for block b with the trained matrices W of it taken together (all norms Frobenius):
//!
//! | number | formula |
//! |---|---|
//! | gradient norm | ‖∂loss_t/∂W‖ before clipping, of what is trained: with LoRA of the pairs A and B |
//! | update ratio | ‖W_t − W_(t−1)‖ / ‖W_0‖: what AdamW really did, its momentum, clipping and learning rate included |
//! | change | ‖W_T − W_0‖, and the same over ‖W_0‖ |
//!
//! With LoRA, W = W_0 + s·B·A, and a change of the pair is s·((B′ − B)·A′ + B·(A′ − A)); ‖W_0‖ is of the adapted matrices.
//! Besides the trainer's own memory, a copy of the trained values is kept.

use crate::{
    Error, Result,
    adapt::{Entry, Move},
    checkpoint::Checkpoint,
    metrics::linalg::product,
    model::{Architecture, Kind, ParameterId},
    progress::{Progress, Unit},
    singular::SingularCache,
    train::{Experiment, Item, StepInfo, Trainer},
};
use faer::Mat;
use midblock_kernels::Backend;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Values summed by one thread.
const CHUNK: usize = 1 << 16;

/// What T steps did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Mean loss of each step's trained tokens, before the step, in nats.
    pub losses: Vec<f64>,
    /// Tokens of each step.
    pub tokens: Vec<usize>,
    /// By block, those without a trained matrix too.
    pub blocks: Vec<BlockFlow>,
}

/// What they did to one block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockFlow {
    /// ‖W_0‖ of the trained matrices; 0 where none is trained.
    pub weight_norm: f64,
    /// ‖∂loss/∂W‖ of each step.
    pub gradient_norms: Vec<f64>,
    /// ‖W_t − W_(t−1)‖ of each step.
    pub updates: Vec<f64>,
    /// ‖W_T − W_0‖.
    pub change: f64,
}

impl BlockFlow {
    /// Mean over steps; `None` where nothing is trained.
    pub fn gradient_norm(&self) -> Option<f64> {
        self.trained(mean(&self.gradient_norms))
    }

    /// Mean of ‖W_t − W_(t−1)‖/‖W_0‖ over steps.
    pub fn update_ratio(&self) -> Option<f64> {
        self.trained(mean(&self.updates) / self.weight_norm)
    }

    /// ‖W_T − W_0‖.
    pub fn absolute_change(&self) -> Option<f64> {
        self.trained(self.change)
    }

    /// ‖W_T − W_0‖/‖W_0‖.
    pub fn relative_change(&self) -> Option<f64> {
        self.trained(self.change / self.weight_norm)
    }

    /// ‖∂loss/∂W‖ and ‖W_t − W_(t−1)‖/‖W_0‖ of the 0-based step t.
    pub fn at(&self, step: usize) -> [Option<f64>; 2] {
        [self.gradient_norms[step], self.updates[step] / self.weight_norm].map(|value| self.trained(value))
    }

    fn trained(&self, value: f64) -> Option<f64> {
        (self.weight_norm > 0.0 && value.is_finite()).then_some(value)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Trains as the experiment says and looks at every step. Nothing is written.
///
/// # Errors
/// Those of [`Trainer`]; [`Error::Interrupted`] between micro-batches.
pub fn flow<B: Backend>(backend: &B, experiment: &Experiment, progress: &dyn Progress) -> Result<Flow> {
    let mut timeline = experiment.timeline();
    let steps = timeline.steps();
    let schedule = experiment.schedule(steps);
    let mut options = experiment.step_options(&timeline, &std::env::temp_dir());
    options.clip = options.clip.or(Some(f64::INFINITY)); // gradients wait for their norm
    experiment.find_blocks(&mut options, &SingularCache::of_user(), progress)?;
    let mut trainer = Trainer::new(backend, &experiment.checkpoint, &experiment.plan, options)?;
    let mut watch = Watch::new(experiment, &mut trainer)?;
    let items = experiment.train_items();
    progress.begin("optimiser steps", steps, Unit::Items);
    for step in 0..steps {
        let plan = timeline.step(step);
        let all: Vec<Item<'_>> = plan.iter().flatten().map(|&index| items[index]).collect();
        let mut info = StepInfo {
            step: step + 1,
            micro: 0,
            tokens: all.iter().map(|item| item.sample.trained_tokens()).sum(),
            lr: schedule.lr(step),
        };
        let mut nats = 0.0;
        for indices in &plan {
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            let items: Vec<Item<'_>> = indices.iter().map(|&index| items[index]).collect();
            nats += trainer.accumulate(&items, &info)?.nats;
            info.micro += 1;
        }
        watch.gradients(backend, &trainer);
        trainer.apply(&info)?;
        watch.updates(&mut trainer);
        watch.flow.losses.push(nats / info.tokens as f64);
        let tokens = all.iter().map(|item| item.sample.ids.len()).sum();
        watch.flow.tokens.push(tokens);
        progress.advance(1);
    }
    watch.finish(experiment)
}

/// Values of one trained matrix, or of the pair beside it.
enum Values {
    Full(Vec<f32>),
    Pair { a: Vec<f32>, b: Vec<f32> },
}

struct Watch<'a> {
    /// What is trained of each block.
    entries: Vec<(usize, &'a Entry)>,
    /// Their values after the step before.
    last: Vec<Values>,
    flow: Flow,
}

impl<'a> Watch<'a> {
    fn new<B: Backend>(experiment: &'a Experiment, trainer: &mut Trainer<'_, B>) -> Result<Self> {
        let (plan, architecture) = (&experiment.plan, &experiment.architecture);
        let entries: Vec<_> = plan
            .entries
            .iter()
            .filter_map(|entry| Some((entry.id.block()?, entry)))
            .collect();
        let last = entries.iter().map(|(_, entry)| values(trainer, entry)).collect();
        let mut squares = vec![0.0; plan.blocks];
        for (block, entry) in &entries {
            squares[*block] += sum_of_squares(&stored(&experiment.checkpoint, architecture, entry.id)?, None);
        }
        let block = |square: f64| BlockFlow {
            weight_norm: square.sqrt(),
            ..BlockFlow::default()
        };
        let flow = Flow {
            losses: Vec::new(),
            tokens: Vec::new(),
            blocks: squares.into_iter().map(block).collect(),
        };
        Ok(Self { entries, last, flow })
    }

    /// Looks at a step's whole gradient.
    fn gradients<B: Backend>(&mut self, backend: &B, trainer: &Trainer<'_, B>) {
        let mut squares = vec![0.0; self.flow.blocks.len()];
        let gradients = trainer.gradients();
        for id in gradients.ids() {
            if let (Some(block), Some(gradient)) = (id.block(), gradients.get(id)) {
                squares[block] += backend.sum_of_squares(gradient);
            }
        }
        for (block, square) in self.flow.blocks.iter_mut().zip(squares) {
            block.gradient_norms.push(square.sqrt());
        }
    }

    /// Looks at where a step has led.
    fn updates<B: Backend>(&mut self, trainer: &mut Trainer<'_, B>) {
        let mut squares = vec![0.0; self.flow.blocks.len()];
        for ((block, entry), last) in self.entries.iter().zip(&mut self.last) {
            let now = values(trainer, entry);
            squares[*block] += squared_distance(entry, last, &now);
            *last = now;
        }
        for (block, square) in self.flow.blocks.iter_mut().zip(squares) {
            block.updates.push(square.sqrt());
        }
    }

    /// Looks at the way from the first values to the last.
    fn finish(mut self, experiment: &Experiment) -> Result<Flow> {
        let mut squares: BTreeMap<usize, f64> = BTreeMap::new();
        for ((block, entry), last) in self.entries.iter().zip(&self.last) {
            let first = match last {
                Values::Full(_) => Values::Full(stored(&experiment.checkpoint, &experiment.architecture, entry.id)?),
                Values::Pair { a, b } => Values::Pair {
                    a: a.clone(),
                    b: vec![0.0; b.len()], // as a pair begins
                },
            };
            *squares.entry(*block).or_default() += squared_distance(entry, &first, last);
        }
        for (block, square) in squares {
            self.flow.blocks[block].change = square.sqrt();
        }
        Ok(self.flow)
    }
}

/// What the trainer has now.
fn values<B: Backend>(trainer: &mut Trainer<'_, B>, entry: &Entry) -> Values {
    match (entry.how, entry.id) {
        (Move::Lora { .. }, ParameterId::Block { block, part, .. }) => {
            let mut read = |kind| trainer.parameter(ParameterId::Block { block, part, kind });
            Values::Pair {
                a: read(Kind::LoraA),
                b: read(Kind::LoraB),
            }
        }
        _ => Values::Full(trainer.parameter(entry.id)),
    }
}

/// What the checkpoint has.
fn stored(checkpoint: &Checkpoint, architecture: &Architecture, id: ParameterId) -> Result<Vec<f32>> {
    let name = id.name(architecture);
    let values = checkpoint.tensor(&name)?.to_f32();
    checkpoint.tensors().release(&name);
    Ok(values)
}

/// ‖W′ − W‖².
fn squared_distance(entry: &Entry, before: &Values, after: &Values) -> f64 {
    match (before, after, entry.how) {
        (Values::Full(before), Values::Full(after), _) => sum_of_squares(after, Some(before)),
        (Values::Pair { a, b }, Values::Pair { a: a_now, b: b_now }, Move::Lora { rank, scale, .. }) => {
            let (inp, out) = (a.len() / rank, b.len() / rank);
            let less = |now: &[f32], then: &[f32], at: usize| f64::from(now[at]) - f64::from(then[at]);
            // (B′ − B | B) · (A′ over A′ − A): nothing large cancels
            let left = Mat::from_fn(out, 2 * rank, |row, k| match k.checked_sub(rank) {
                None => less(b_now, b, row * rank + k),
                Some(k) => f64::from(b[row * rank + k]),
            });
            let right = Mat::from_fn(2 * rank, inp, |k, column| match k.checked_sub(rank) {
                None => f64::from(a_now[k * inp + column]),
                Some(k) => less(a_now, a, k * inp + column),
            });
            product(left.as_ref(), right.as_ref()).squared_norm_l2() * f64::from(scale).powi(2)
        }
        _ => unreachable!("invariant: a parameter moves in one way throughout a run"),
    }
}

/// Σ (x − y)², in f64, the same whatever the number of threads.
fn sum_of_squares(x: &[f32], y: Option<&[f32]>) -> f64 {
    let square = |(x, y): (&f32, f32)| (f64::from(*x) - f64::from(y)).powi(2);
    let chunk = |index: usize| -> f64 {
        let range = index * CHUNK..x.len().min((index + 1) * CHUNK);
        let own = x[range.clone()].iter();
        match y {
            Some(y) => own.zip(y[range].iter().copied()).map(square).sum(),
            None => own.map(|x| square((x, 0.0))).sum(),
        }
    };
    let parts: Vec<f64> = (0..x.len().div_ceil(CHUNK)).into_par_iter().map(chunk).collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests;

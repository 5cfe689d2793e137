//! What a step will cost, from the selection alone: memory from what the trainer allocates, time from multiplications.
//!
//! Counted are the products with weights, 2·out·in FLOP a token: forward through all blocks, and the head for trained tokens;
//! the gradient of the input through every block from the first trained one, and the head; those again whose interiors are
//! not kept; dW where a matrix is trained itself (2·out·in), and three times 2·R·(in + out) for a pair. Attention's own
//! products, norms and the optimiser are not counted: a step took 1/[`SHARE`] of the products' time in measurements.

use super::{Experiment, StepOptions, Timeline, trained};
use crate::{
    adapt::{Entry, Move},
    checkpoint::Checkpoint,
    model::{ParameterId, memory::TrainingMemory},
};
use midblock_kernels::{Accumulate, Backend, StoredMatrix};
use std::time::{Duration, Instant};

/// Products' part of a step's time.
const SHARE: f64 = 0.85;

/// How long a machine is measured.
const MEASURE: Duration = Duration::from_millis(300);

/// What a step will cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// As the trainer plans it.
    pub memory: TrainingMemory,
    /// FLOP of a step of average size, in the first epoch.
    pub first_epoch_flop: f64,
    /// The same in later epochs, when the frozen blocks' outputs are cached.
    pub later_flop: f64,
    /// Of masks: bytes of the base's matrices as they are stored, which stay mapped, and of the tuned ones, f32 and private where they are
    /// trained, mapped as they are stored where not.
    pub masked_bytes: Option<[usize; 2]>,
}

impl Estimate {
    /// Of an experiment's steps.
    pub fn of<B: Backend>(experiment: &Experiment, timeline: &Timeline, options: &StepOptions) -> Self {
        let (a, plan) = (&experiment.architecture, &experiment.plan);
        let lengths: Vec<_> = trained(plan)
            .into_iter()
            .map(|(id, shape)| (id, shape.iter().product()))
            .collect();
        let consumed = options.clip.is_none() && options.accumulation == 1;
        let besides = options.objective.bytes(plan, a.vocab, timeline.largest_batch()[1]);
        let memory = TrainingMemory::plan::<B>(
            a,
            &lengths,
            timeline.largest_batch(),
            plan.copies(),
            consumed,
            besides,
            options.memory_bytes,
        );
        let epoch_steps = timeline.epoch_steps() as f64;
        let sum =
            |of: fn(&crate::tokens::TrainingSample) -> usize| experiment.train.iter().map(of).sum::<usize>() as f64;
        let tokens = sum(|sample| sample.ids.len()) / epoch_steps;
        let labelled = sum(|sample| sample.trained_tokens()) / epoch_steps;
        let block = a.block_flops_per_token() as f64;
        let head = 2.0 * (a.vocab * a.hidden) as f64;
        let walked = memory.blocks as f64;
        let below = a.blocks as f64 - walked;
        let own: f64 = plan.entries.iter().map(|entry| own_flop(&entry.shape, entry.how)).sum();
        let head_trained = plan.entries.iter().any(|entry| match entry.id {
            ParameterId::Head => true,
            ParameterId::Embedding => a.tied_head,
            _ => false,
        });
        let head_passes = if head_trained { 3.0 } else { 2.0 };
        let again = walked - memory.kept as f64;
        let later = tokens * (block * (2.0 * walked + again) + own) + labelled * head * head_passes;
        let first = later + tokens * block * below;
        Self {
            memory,
            first_epoch_flop: first,
            later_flop: if options.prefix.is_some() { later } else { first },
            masked_bytes: masked_bytes(experiment),
        }
    }

    /// Seconds of a step in the first and in later epochs on a machine that multiplies at this rate.
    pub fn seconds(&self, flop_per_s: f64) -> [f64; 2] {
        [self.first_epoch_flop, self.later_flop].map(|flop| flop / flop_per_s / SHARE)
    }
}

/// Of the masked matrices: the base's, and the tuned ones.
fn masked_bytes(experiment: &Experiment) -> Option<[usize; 2]> {
    let tuned = experiment.tuned.as_ref()?;
    let stored = |checkpoint: &Checkpoint, entry: &Entry| {
        let name = entry.id.name(&experiment.architecture);
        let described = checkpoint.tensors().describe(&name);
        described.map_or(0, |(dtype, shape)| {
            dtype.bytes_for(shape.iter().product()).unwrap_or_default()
        })
    };
    let bytes = experiment.plan.entries.iter().map(|entry| {
        let own = match entry.parameters() {
            0 => stored(tuned, entry),
            trained => 4 * trained,
        };
        [stored(&experiment.checkpoint, entry), own]
    });
    bytes.reduce(|[a, b], [c, d]| [a + c, b + d])
}

/// FLOP a token that training a parameter adds.
fn own_flop(shape: &[usize], how: Move) -> f64 {
    match (how, shape) {
        (Move::Full | Move::Masked { .. }, [out, inp]) => 2.0 * (out * inp) as f64,
        (Move::Full | Move::Masked { .. }, _) => 0.0,
        (Move::Lora { rank, .. }, shape) => 6.0 * (rank * shape.iter().sum::<usize>()) as f64,
    }
}

/// FLOP/s of this machine at one product of the model: its up projection with the rows of the largest micro-batch.
pub fn product_rate<B: Backend>(backend: &B, experiment: &Experiment, timeline: &Timeline) -> f64 {
    let (n, k) = (experiment.architecture.ffn, experiment.architecture.hidden);
    let rows = timeline.largest_batch()[0];
    let matrix = backend.matrix(StoredMatrix::from_f32([n, k], &vec![0.01; n * k]));
    let x = backend.upload(&vec![0.5f32; rows * k]);
    let mut y = backend.zeros(rows * n);
    let mut product = || backend.linear(&x, &matrix, rows, Accumulate::Write, &mut y);
    product(); // packs the matrix and wakes the threads
    let (start, mut products) = (Instant::now(), 0);
    while products == 0 || start.elapsed() < MEASURE {
        product();
        products += 1;
    }
    let flop = 2.0 * (rows * n * k * products) as f64;
    flop / start.elapsed().as_secs_f64()
}

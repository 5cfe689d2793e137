//! What a step will cost, from the selection alone: memory from what the trainer allocates, time from the multiplications that
//! [`costs`] counts.

use super::{Experiment, StepOptions, Timeline, trained};
use crate::{
    adapt::Entry,
    checkpoint::Checkpoint,
    costs::{self, SHARE, StepSize},
    model::{Architecture, memory::TrainingMemory},
};
use midblock_kernels::{Accumulate, Backend, StoredMatrix};
use std::time::{Duration, Instant};

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
        let weights = experiment.checkpoint.quantized_bytes();
        let memory = TrainingMemory::plan::<B>(
            a,
            &lengths,
            timeline.largest_batch(),
            plan.copies(),
            consumed,
            besides,
            options.memory_bytes.map(|budget| budget.saturating_sub(weights)),
        );
        let memory = memory.with_weights(weights);
        let epoch_steps = timeline.epoch_steps() as f64;
        let sum =
            |of: fn(&crate::tokens::TrainingSample) -> usize| experiment.train.iter().map(of).sum::<usize>() as f64;
        let size = StepSize {
            tokens: sum(|sample| sample.ids.len()) / epoch_steps,
            labelled: sum(|sample| sample.trained_tokens()) / epoch_steps,
            micro_batches: options.accumulation,
            again: memory.blocks - memory.kept,
            cached: false,
            ranks: 1,
        };
        let later = StepSize {
            cached: options.prefix.is_some(),
            ..size
        };
        Self {
            memory,
            first_epoch_flop: costs::step_flop(a, plan, &size),
            later_flop: costs::step_flop(a, plan, &later),
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

/// FLOP/s of this machine at one product of the model: its up projection with the rows of the largest micro-batch.
pub fn product_rate<B: Backend>(backend: &B, experiment: &Experiment, timeline: &Timeline) -> f64 {
    rate_of_product(backend, &experiment.architecture, timeline.largest_batch()[0])
}

/// The same for any shape and number of rows.
pub fn rate_of_product<B: Backend>(backend: &B, architecture: &Architecture, rows: usize) -> f64 {
    let (n, k) = (architecture.ffn, architecture.hidden);
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

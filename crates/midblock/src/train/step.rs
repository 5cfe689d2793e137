//! One optimiser step: forward, backward to the first trained block, clipping, AdamW.
//!
//! What a step minimises is its [`Objective`], a mean over the trained tokens of all of the step's micro-batches, so that
//! accumulation changes memory and not the result. Where the optimiser can consume a block's
//! gradients as soon as they are complete (one micro-batch a step, no clipping) it does, and gradients of one block exist at
//! a time. Everything drawn at random is a function of seed, step and micro-batch: a run needs no history to go on.

use super::{
    CarrierMetrics, Ending, ErasureTerms, Gradients,
    batch::{Item, layout, longest},
    masked::Masked,
    objective::{Held, Minimised, Objective, Seen, StartModel, sequences},
    optimizer::{Moments, adamw, prepare, trained, update},
    state_cache::{CacheOptions, CacheUse, StateCache},
};
use crate::{
    Error, Result,
    adapt::{BlockThetas, Kind, Plan},
    checkpoint::Checkpoint,
    model::{
        Batch, BlockTensors, Decoder, ParameterId, Pass, Reached, Tape,
        memory::{TrainingMemory, first_block},
    },
    ranks::Ranks,
    rng,
};
use bytemuck::Pod;
use midblock_kernels::{Backend, Real, RopeTable};
use rand::Rng;
use std::{collections::BTreeMap, ops::ControlFlow};

/// Rows of an evaluation batch.
const EVALUATION_ROWS: usize = 1024;

/// Options of a [`Trainer`].
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Of dropout and of the adapters' initial values.
    pub seed: u64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε.
    pub eps: f64,
    /// Decoupled weight decay of matrices; biases and norms do not decay, as in transformers' Trainer.
    pub weight_decay: f64,
    /// Largest norm of the gradient of all trained parameters together.
    pub clip: Option<f64>,
    /// Most micro-batches of a step.
    pub accumulation: usize,
    /// Bytes of memory that may be used; decides how many blocks keep their interiors.
    pub memory_bytes: Option<usize>,
    /// Largest micro-batch: rows, and labelled rows.
    pub largest_batch: [usize; 2],
    /// Caching of the frozen blocks' output.
    pub prefix: Option<CacheOptions>,
    /// What is minimised.
    pub objective: Objective,
    /// Caching of what the start model says of the samples, for objectives that ask it.
    pub start: Option<CacheOptions>,
}

impl StepOptions {
    /// Whether the optimiser can use a block's gradients before the next block's are made.
    fn consumes(&self) -> bool {
        self.clip.is_none() && self.accumulation == 1
    }
}

/// Where in the run a micro-batch is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepInfo {
    /// From 1.
    pub step: u64,
    /// From 0.
    pub micro: u64,
    /// Trained tokens of the whole step.
    pub tokens: usize,
    /// Learning rate of the step.
    pub lr: f64,
}

/// Cross entropy of some tokens, and what was minimised of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum of the cross entropies in nats.
    pub nats: f64,
    /// Sum of what is minimised; the same as `nats` for `sft`, and where nothing is trained.
    pub objective: f64,
    /// Number of tokens.
    pub tokens: usize,
}

impl std::ops::AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.nats += other.nats;
        self.objective += other.objective;
        self.tokens += other.tokens;
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// L2 norm of the whole gradient before clipping.
    pub gradient_norm: f64,
    /// What clipping multiplied it by; 1 if nothing was clipped.
    pub clip_scale: f64,
    /// What the objective charges for where the weights and masks were; 0 but for `rpsft` and `lcdd`.
    pub penalty: f64,
    /// Where a trigger is trained: what its loss is made of.
    pub erasure: Option<ErasureTerms>,
    /// Where masks are trained: how that goes.
    pub carrier: Option<CarrierMetrics>,
    /// Why the run should end with this step, if it should.
    pub ending: Option<Ending>,
}

/// A model of which chosen parameters are trained.
pub struct Trainer<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) decoder: Decoder<B>,
    options: StepOptions,
    first: usize,
    pub(super) gradients: Gradients<B>,
    pub(super) moments: BTreeMap<ParameterId, Moments<B>>,
    memory: TrainingMemory,
    tape: Tape<B>,
    rope: RopeTable,
    prefix: Option<StateCache>,
    start: Option<StartModel<B>>,
    held: Option<Held<B>>,
    pub(super) masked: Option<Masked<B>>,
    /// Σ of what is minimised over this step's trained tokens so far, without penalties.
    minimised: f64,
    /// Σ g² of gradients that were consumed in this step.
    consumed: f64,
    /// What was charged for the weights of blocks whose gradients were consumed in this step.
    penalty: f64,
    checked: bool,
}

impl<'a, B: Backend> Trainer<'a, B> {
    /// Loads the model and prepares what the plan trains.
    ///
    /// # Errors
    /// Whatever reading weights may raise; [`Error::Argument`] if the memory given is not enough for one block at a time,
    /// or if the checkpoint has an adapter already.
    ///
    /// # Panics
    /// If a singular block is missing that the objective holds, or the plan is one of masks.
    pub fn new(backend: &'a B, checkpoint: &Checkpoint, plan: &Plan, options: StepOptions) -> Result<Self> {
        Self::beside(backend, checkpoint, None, plan, options)
    }

    /// The same of a plan of masks over the change from `base` to `tuned`, which must be alike but for the matrices of blocks.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::MissingTensor`] or [`Error::TensorShape`] if `tuned` is of another architecture.
    ///
    /// # Panics
    /// If the plan is not one of masks, or the objective not that of masks.
    pub fn masked(
        backend: &'a B,
        base: &Checkpoint,
        tuned: &Checkpoint,
        plan: &Plan,
        options: StepOptions,
    ) -> Result<Self> {
        Self::beside(backend, base, Some(tuned), plan, options)
    }

    fn beside(
        backend: &'a B,
        checkpoint: &Checkpoint,
        tuned: Option<&Checkpoint>,
        plan: &Plan,
        mut options: StepOptions,
    ) -> Result<Self> {
        if let Some(adapter) = checkpoint.adapter() {
            return Err(Error::Argument {
                what: "model".into(),
                value: checkpoint.label().into(),
                problem: format!("it has the adapter {} already", adapter.path.display()),
                help: "merge it first: midblock merge MODEL+ADAPTER --out DIR".into(),
            });
        }
        let mut decoder = Decoder::load(backend, checkpoint)?;
        let trained = trained(plan);
        let lengths: Vec<_> = trained
            .iter()
            .map(|(id, shape)| (*id, shape.iter().product()))
            .collect();
        let first = first_block(decoder.architecture(), &lengths);
        let consumed = options.consumes();
        let batch = options.largest_batch;
        let besides = options.objective.bytes(plan, decoder.architecture().vocab, batch[1]);
        let budget = options.memory_bytes;
        let weights = checkpoint.quantized_bytes();
        let left = budget.map(|budget| budget.saturating_sub(weights));
        let kept = plan.copies();
        let memory = TrainingMemory::plan::<B>(decoder.architecture(), &lengths, batch, kept, consumed, besides, left);
        let memory = memory.with_weights(weights);
        check_memory(&memory, budget)?;
        let masked = match (&plan.kind, &options.objective, tuned) {
            (Kind::Masked(own), Objective::Lcdd(lcdd), Some(tuned)) => {
                let both = (*own, *lcdd);
                Some(Masked::new(backend, tuned, &mut decoder, plan, both, options.seed)?)
            }
            (Kind::Full | Kind::Lora(_), _, None) => {
                for entry in &plan.entries {
                    prepare(backend, &mut decoder, checkpoint, entry, options.seed)?;
                }
                None
            }
            _ => panic!("invariant: masks have a tuned model and an objective of their own, and nothing else has"),
        };
        let held = match &mut options.objective {
            Objective::Rpsft(rotation) => {
                let rotation = std::mem::take(rotation); // what it holds is on the device from here on
                Some(Held::new(backend, checkpoint, &mut decoder, plan, rotation)?)
            }
            _ => None,
        };
        let apart = match tuned {
            Some(tuned) => !same_below(checkpoint, tuned, &decoder, first)?,
            None => plan.entry(ParameterId::Embedding).is_some(),
        };
        let (seen, cache) = (tuned.unwrap_or(checkpoint), options.start.take());
        let start = StartModel::of(backend, seen, &options.objective, apart, cache)?;
        let zeros = |shape: &[usize]| backend.zeros(shape.iter().product());
        let moves = |(id, _): &(ParameterId, Vec<usize>)| plan.entry(*id).is_none_or(|entry| entry.parameters() > 0);
        let moments = trained.into_iter().filter(moves).map(|(id, shape)| {
            let (first, second) = (zeros(&shape), zeros(&shape));
            (id, Moments { shape, first, second })
        });
        Ok(Self {
            backend,
            first,
            gradients: Gradients::new(backend, &lengths, consumed),
            moments: moments.collect(),
            memory,
            tape: Tape::new(backend, &decoder, first, memory.kept),
            rope: decoder.rope(0),
            prefix: options.prefix.clone().filter(|_| first > 0).map(StateCache::new),
            start,
            held,
            masked,
            minimised: 0.0,
            consumed: 0.0,
            penalty: 0.0,
            checked: false,
            decoder,
            options,
        })
    }

    /// The model as it is now.
    pub fn decoder(&self) -> &Decoder<B> {
        &self.decoder
    }

    /// The lowest block that backward reaches.
    pub fn first_block(&self) -> usize {
        self.first
    }

    /// What the step's micro-batches have added up to so far.
    pub fn gradients(&self) -> &Gradients<B> {
        &self.gradients
    }

    /// How memory was planned.
    pub fn memory(&self) -> TrainingMemory {
        self.memory
    }

    /// What the prefix cache holds.
    pub fn prefix_use(&self) -> CacheUse {
        self.prefix.as_ref().map(StateCache::used).unwrap_or_default()
    }

    /// What is kept of what the start model says.
    pub fn start_use(&self) -> CacheUse {
        self.start.as_ref().map(StartModel::used).unwrap_or_default()
    }

    /// Adds one micro-batch to the step's gradient.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is not finite; nothing was changed then.
    pub fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
        let (batch, labels) = layout(items);
        self.enter(items, &batch);
        let Self {
            backend,
            decoder,
            tape,
            rope,
            gradients,
            moments,
            options,
            start,
            held,
            masked,
            first,
            consumed,
            penalty,
            ..
        } = self;
        let pressure = masked.as_ref().map_or(0.0, |masked| masked.dual.pressure(info.step));
        let undisturbed = Pass::inference(*backend, &batch, rope);
        let seen = match start {
            Some(start) => start.see(items, &undisturbed, &labels, *first, tape.hidden()),
            None => Seen::Nothing,
        };
        let key = rng::stream(options.seed, "dropout", &[info.step, info.micro]).next_u64();
        let pass = Pass {
            backend: *backend,
            batch: &batch,
            rope,
            dropout: Some(key),
            decoding: false,
        };
        tape.forward(decoder, &pass);
        let consume = options.consumes();
        let adamw = adamw(options, info, 1.0);
        let sequences = sequences(&batch, &labels);
        let losses = || tape.loss(decoder, *backend, &labels);
        let mut minimised = Minimised::new(&options.objective, info.tokens, &sequences, seen, losses);
        let mut nats = 0.0;
        tape.backward(
            decoder,
            &pass,
            &labels,
            &mut minimised,
            gradients,
            |reached, decoder, gradients| {
                let block = match reached {
                    Reached::Head(losses) => {
                        nats = losses.iter().sum();
                        if !f64::is_finite(nats) {
                            return ControlFlow::Break(());
                        }
                        return ControlFlow::Continue(());
                    }
                    Reached::Block(block) => block,
                };
                if consume {
                    if let Some(held) = held {
                        *penalty += held.add(*backend, decoder, gradients, |id| id.block() == Some(block));
                    }
                    if let Some(masked) = masked {
                        *consumed += masked.contract(*backend, gradients, block);
                        let open = masked.advance(*backend, decoder, gradients, moments, block, &adamw, pressure);
                        *penalty += pressure * open;
                        return ControlFlow::Continue(());
                    }
                    for (id, moments) in moments.iter_mut().filter(|(id, _)| id.block() == Some(block)) {
                        *consumed += update(*backend, decoder, gradients, *id, moments, &adamw);
                    }
                }
                ControlFlow::Continue(())
            },
        );
        if !nats.is_finite() {
            return Err(diverged(info.step, "the loss", nats, items));
        }
        let objective = minimised.sum();
        self.minimised += objective;
        Ok(LossSum {
            nats,
            objective,
            tokens: labels.rows.len(),
        })
    }

    /// Makes the step's gradient the sum of all ranks'. Values go between them as `R`; f64 is for backends that compute in it.
    ///
    /// # Errors
    /// A rank has failed.
    ///
    /// # Panics
    /// If gradients are consumed in backward: a step of one micro-batch cannot be shared.
    pub fn reduce_as<R: Real + Pod>(&mut self, ranks: &Ranks) -> Result<()> {
        assert!(
            ranks.size() == 1 || !self.options.consumes(),
            "gradients wait for all ranks"
        );
        self.gradients.reduce::<R>(self.backend, ranks)?;
        let mut minimised = [self.minimised]; // what masks are held by
        ranks.sum(&mut minimised)?;
        [self.minimised] = minimised;
        Ok(())
    }

    /// Clips the gradient and lets the optimiser use it.
    ///
    /// # Errors
    /// [`Error::Diverged`] if it is not finite; [`Error::NoGradient`] if, in the first step, a selected parameter got none.
    pub fn apply(&mut self, info: &StepInfo) -> Result<StepReport> {
        let Self {
            backend,
            decoder,
            gradients,
            moments,
            options,
            held,
            masked,
            ..
        } = self;
        let mut penalty = std::mem::take(&mut self.penalty);
        if let Some(held) = held {
            let consumed = options.consumes();
            penalty += held.add(*backend, decoder, gradients, |id| !consumed || id.block().is_none());
        }
        if !std::mem::replace(&mut self.checked, true) {
            let missing = gradients.missing();
            let names: Vec<_> = missing.iter().map(|id| id.name(decoder.architecture())).collect();
            if !names.is_empty() {
                let parameters = names.join(", ");
                return Err(Error::NoGradient { parameters });
            }
        }
        let late = match masked {
            Some(masked) if !options.consumes() => masked.blocks(),
            _ => Vec::new(),
        };
        let waiting: f64 = match masked {
            Some(masked) => late
                .iter()
                .map(|&block| masked.contract(*backend, gradients, block))
                .sum(),
            None => (gradients.ids())
                .filter_map(|id| gradients.get(id))
                .map(|g| backend.sum_of_squares(g))
                .sum(),
        };
        let gradient_norm = (std::mem::take(&mut self.consumed) + waiting).sqrt();
        if !gradient_norm.is_finite() {
            return Err(diverged(info.step, "the gradient norm", gradient_norm, &[]));
        }
        let clip_scale = match options.clip {
            // transformers and torch: clip_grad_norm_ with its 1e-6
            Some(largest) => (largest / (gradient_norm + 1e-6)).min(1.0),
            None => 1.0,
        };
        let adamw = adamw(options, info, clip_scale);
        let mut told = (None, None);
        match masked {
            Some(masked) => {
                let pressure = masked.dual.pressure(info.step);
                for block in late {
                    let open = masked.advance(*backend, decoder, gradients, moments, block, &adamw, pressure);
                    penalty += pressure * open;
                }
                let loss = self.minimised / info.tokens as f64;
                let (carrier, ending) = masked.end_step(*backend, info.step, loss);
                told = (Some(carrier), ending);
            }
            None => {
                for (id, moments) in moments {
                    update(*backend, decoder, gradients, *id, moments, &adamw);
                }
            }
        }
        self.minimised = 0.0;
        let (carrier, ending) = told;
        Ok(StepReport {
            gradient_norm,
            clip_scale,
            penalty,
            erasure: None,
            carrier,
            ending,
        })
    }

    /// λ, the loss's limit and its moving average after `step` steps; none if nothing is masked.
    pub fn dual(&self, step: u64) -> Option<(f64, Option<f64>, Option<f64>)> {
        let dual = &self.masked.as_ref()?.dual;
        Some((dual.lambda(), dual.limit(), dual.loss(step)))
    }

    /// θ of each block's masks; none where it has no masks, or nothing is masked.
    pub fn thetas(&self) -> Vec<Option<BlockThetas>> {
        let blocks = self.decoder.blocks().len();
        match &self.masked {
            Some(masked) => masked.thetas(self.backend, blocks),
            None => vec![None; blocks],
        }
    }

    /// Cross entropy of the samples' trained tokens, without dropout.
    pub fn evaluate(&mut self, items: &[Item<'_>]) -> LossSum {
        let mut sum = LossSum::default();
        for range in Batch::plan(items.iter().map(|item| item.sample.ids.len()), EVALUATION_ROWS) {
            let items = &items[range];
            let (batch, labels) = layout(items);
            self.enter(items, &batch);
            let Self {
                backend,
                decoder,
                tape,
                rope,
                first,
                ..
            } = self;
            let pass = Pass::inference(*backend, &batch, rope);
            tape.skip(decoder, &pass, *first..decoder.blocks().len());
            let nats = tape.loss(decoder, *backend, &labels).iter().sum();
            sum += LossSum {
                nats,
                objective: nats,
                tokens: labels.rows.len(),
            };
        }
        sum
    }

    /// Brings the residual stream of a batch to the first trained block.
    fn enter(&mut self, items: &[Item<'_>], batch: &Batch) {
        let longest = longest(batch);
        if self.rope.cos.len() < longest * self.rope.half_dim {
            self.rope = self.decoder.rope(longest);
        }
        let Self {
            backend,
            decoder,
            tape,
            rope,
            prefix,
            first,
            ..
        } = self;
        let hidden = decoder.architecture().hidden;
        let mut cached = Vec::new();
        if let Some(cache) = prefix {
            for item in items {
                cached.push(cache.get(item.key));
            }
        }
        let width = |i: usize| (batch.offsets()[i + 1] - batch.offsets()[i]) * hidden;
        if !cached.is_empty() && cached.iter().all(Option::is_some) {
            backend.resize(tape.hidden_mut(), batch.rows() * hidden);
            for (i, values) in cached.iter().flatten().enumerate() {
                backend.write(tape.hidden_mut(), batch.offsets()[i] * hidden, values);
            }
            return;
        }
        let pass = Pass::inference(*backend, batch, rope);
        decoder.ends().embed(*backend, batch, tape.hidden_mut());
        tape.skip(decoder, &pass, 0..*first);
        if let Some(cache) = prefix {
            for (i, item) in items.iter().enumerate().filter(|(i, _)| cached[*i].is_none()) {
                let mut values = vec![0f32; width(i)];
                backend.read(tape.hidden_mut(), batch.offsets()[i] * hidden, &mut values);
                cache.insert(item.key, &values);
            }
        }
    }
}

fn diverged(step: u64, what: &'static str, value: f64, items: &[Item<'_>]) -> Error {
    let samples: Vec<_> = items.iter().map(|item| item.sample.id.as_str()).collect();
    Error::Diverged {
        step,
        what,
        value,
        samples: match samples.is_empty() {
            true => "of all its micro-batches".to_owned(), // the norm is that of their sum
            false => samples.join(", "),
        },
    }
}

/// Whether both models are the same up to the first trained block.
fn same_below<B: Backend>(base: &Checkpoint, tuned: &Checkpoint, decoder: &Decoder<B>, first: usize) -> Result<bool> {
    let read = |checkpoint, block| BlockTensors::read(checkpoint, decoder.architecture(), block);
    for block in 0..first {
        if !read(base, block)?.same_values(&read(tuned, block)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn check_memory(memory: &TrainingMemory, budget: Option<usize>) -> Result<()> {
    let needed = memory.weights + memory.state + memory.working;
    match budget {
        Some(budget) if memory.kept == 0 && needed > budget => Err(Error::Argument {
            what: "memory".into(),
            value: format!("{} MiB", budget >> 20),
            problem: format!("{} MiB are needed even if every block is computed twice", needed >> 20),
            help: "use a smaller batch, shorter samples, fewer blocks or a lower rank".into(),
        }),
        _ => Ok(()),
    }
}

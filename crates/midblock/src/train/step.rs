//! One optimiser step: forward, backward to the first trained block, clipping, AdamW.
//!
//! The loss of a step is the cross entropy of its trained tokens divided by their number over all of the step's
//! micro-batches, so that accumulation changes memory and not the result. Where the optimiser can consume a block's
//! gradients as soon as they are complete (one micro-batch a step, no clipping) it does, and gradients of one block exist at
//! a time. Everything drawn at random is a function of seed, step and micro-batch: a run needs no history to go on.

use super::{
    Gradients,
    prefix::{PrefixCache, PrefixOptions, PrefixUse},
};
use crate::{
    Error, Result,
    adapt::{self, Move, Plan},
    checkpoint::{Checkpoint, LowRank},
    model::{
        Batch, Decoder, Kind, Labels, Parameter, ParameterId, Pass, Reached, Tape,
        memory::{TrainingMemory, first_block},
    },
    rng,
    tokens::TrainingSample,
};
use midblock_kernels::{AdamW, Backend, RopeTable};
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
    pub prefix: Option<PrefixOptions>,
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

/// A sample and the key by which its frozen part is cached: equal keys must mean equal ids.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Unique among all samples of a run.
    pub key: u64,
    /// The sample.
    pub sample: &'a TrainingSample,
}

/// Cross entropy of some tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum in nats.
    pub nats: f64,
    /// Number of tokens.
    pub tokens: usize,
}

impl std::ops::AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.nats += other.nats;
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
}

/// A model of which chosen parameters are trained.
pub struct Trainer<'a, B: Backend> {
    backend: &'a B,
    decoder: Decoder<B>,
    options: StepOptions,
    first: usize,
    gradients: Gradients<B>,
    moments: BTreeMap<ParameterId, Moments<B>>,
    memory: TrainingMemory,
    tape: Tape<B>,
    rope: RopeTable,
    prefix: Option<PrefixCache>,
    /// Σ g² of gradients that were consumed in this step.
    consumed: f64,
    checked: bool,
}

/// AdamW's state of one parameter.
struct Moments<B: Backend> {
    shape: Vec<usize>,
    first: B::Buffer,
    second: B::Buffer,
}

impl<'a, B: Backend> Trainer<'a, B> {
    /// Loads the model and prepares what the plan trains.
    ///
    /// # Errors
    /// Whatever reading weights may raise; [`Error::Argument`] if the memory given is not enough for one block at a time,
    /// or if the checkpoint has an adapter already.
    pub fn new(backend: &'a B, checkpoint: &Checkpoint, plan: &Plan, options: StepOptions) -> Result<Self> {
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
        let consumed = options.clip.is_none() && options.accumulation == 1;
        let batch = options.largest_batch;
        let memory = TrainingMemory::plan::<B>(decoder.architecture(), &lengths, batch, consumed, options.memory_bytes);
        check_memory(&memory, options.memory_bytes)?;
        for entry in &plan.entries {
            prepare(backend, &mut decoder, checkpoint, entry, options.seed)?;
        }
        let zeros = |shape: &[usize]| backend.zeros(shape.iter().product());
        let moments = trained.into_iter().map(|(id, shape)| {
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
            prefix: options.prefix.clone().filter(|_| first > 0).map(PrefixCache::new),
            consumed: 0.0,
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
    pub fn prefix_use(&self) -> PrefixUse {
        self.prefix.as_ref().map(PrefixCache::used).unwrap_or_default()
    }

    /// Adds one micro-batch to the step's gradient.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is not finite; nothing was changed then.
    pub fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
        let (batch, labels) = layout(items);
        self.enter(items, &batch)?;
        let Self {
            backend,
            decoder,
            tape,
            rope,
            gradients,
            moments,
            options,
            consumed,
            ..
        } = self;
        let key = rng::stream(options.seed, "dropout", &[info.step, info.micro]).next_u64();
        let pass = Pass {
            backend: *backend,
            batch: &batch,
            rope,
            dropout: Some(key),
        };
        tape.forward(decoder, &pass);
        let consume = options.clip.is_none() && options.accumulation == 1;
        let adamw = adamw(options, info, 1.0);
        let mut nats = 0.0;
        tape.backward(
            decoder,
            &pass,
            &labels,
            1.0 / info.tokens as f32,
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
        Ok(LossSum {
            nats,
            tokens: labels.rows.len(),
        })
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
            ..
        } = self;
        if !std::mem::replace(&mut self.checked, true) {
            let consumed = options.clip.is_none() && options.accumulation == 1;
            let missing = gradients
                .missing()
                .into_iter()
                .filter(|id| !(consumed && id.block().is_some()));
            let names: Vec<_> = missing.map(|id| id.name(decoder.architecture())).collect();
            if !names.is_empty() {
                let parameters = names.join(", ");
                return Err(Error::NoGradient { parameters });
            }
        }
        let waiting: f64 = gradients
            .ids()
            .filter_map(|id| gradients.get(id))
            .map(|g| backend.sum_of_squares(g))
            .sum();
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
        for (id, moments) in moments {
            update(*backend, decoder, gradients, *id, moments, &adamw);
        }
        Ok(StepReport {
            gradient_norm,
            clip_scale,
        })
    }

    /// Cross entropy of the samples' trained tokens, without dropout.
    ///
    /// # Errors
    /// [`Error::Io`] of the prefix cache.
    pub fn evaluate(&mut self, items: &[Item<'_>]) -> Result<LossSum> {
        let mut sum = LossSum::default();
        for range in Batch::plan(items.iter().map(|item| item.sample.ids.len()), EVALUATION_ROWS) {
            let items = &items[range];
            let (batch, labels) = layout(items);
            self.enter(items, &batch)?;
            let Self {
                backend,
                decoder,
                tape,
                rope,
                first,
                ..
            } = self;
            let pass = Pass {
                backend: *backend,
                batch: &batch,
                rope,
                dropout: None,
            };
            tape.skip(decoder, &pass, *first..decoder.blocks().len());
            sum += LossSum {
                nats: tape.loss(decoder, *backend, &labels).iter().sum(),
                tokens: labels.rows.len(),
            };
        }
        Ok(sum)
    }

    /// Brings the residual stream of a batch to the first trained block.
    fn enter(&mut self, items: &[Item<'_>], batch: &Batch) -> Result<()> {
        let longest = batch.offsets().windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
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
                cached.push(cache.get(item.key)?);
            }
        }
        let width = |i: usize| (batch.offsets()[i + 1] - batch.offsets()[i]) * hidden;
        if !cached.is_empty() && cached.iter().all(Option::is_some) {
            backend.resize(tape.hidden_mut(), batch.rows() * hidden);
            for (i, values) in cached.iter().flatten().enumerate() {
                backend.write(tape.hidden_mut(), batch.offsets()[i] * hidden, values);
            }
            return Ok(());
        }
        let pass = Pass {
            backend: *backend,
            batch,
            rope,
            dropout: None,
        };
        decoder.ends().embed(*backend, batch, tape.hidden_mut());
        tape.skip(decoder, &pass, 0..*first);
        if let Some(cache) = prefix {
            for (i, item) in items.iter().enumerate().filter(|(i, _)| cached[*i].is_none()) {
                let mut values = vec![0f32; width(i)];
                backend.read(tape.hidden_mut(), batch.offsets()[i] * hidden, &mut values);
                cache.insert(item.key, &values);
            }
        }
        Ok(())
    }

    /// Everything that must survive a restart, with shapes: each trained parameter under its name, and its two moments
    /// under `exp_avg.` and `exp_avg_sq.` before it, as torch calls them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let named = self
            .moments
            .iter()
            .map(|(id, m)| (id.name(self.decoder.architecture()), &m.shape));
        let all = named.flat_map(|(name, shape)| {
            let names = [name.clone(), format!("exp_avg.{name}"), format!("exp_avg_sq.{name}")];
            names.map(|name| (name, shape.clone()))
        });
        all.collect()
    }

    /// The values of one of [`tensors`](Self::tensors).
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn read(&mut self, name: &str) -> Vec<f32> {
        let backend = self.backend;
        let buffer = self.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let mut values = vec![0.0; backend.len(buffer)];
        backend.read(buffer, 0, &mut values);
        values
    }

    /// Overwrites one of [`tensors`](Self::tensors).
    ///
    /// # Panics
    /// If there is none of that name, or the number of values is another.
    pub fn write(&mut self, name: &str, values: &[f32]) {
        let backend = self.backend;
        let buffer = self.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(backend.len(buffer), values.len(), "{name}");
        backend.write(buffer, 0, values);
    }

    /// The values of a parameter that is trained.
    ///
    /// # Panics
    /// If it is not.
    pub fn parameter(&mut self, id: ParameterId) -> Vec<f32> {
        let name = id.name(self.decoder.architecture());
        self.read(&name)
    }

    fn tensor(&mut self, name: &str) -> Option<&mut B::Buffer> {
        let (kind, parameter) = match name.split_once('.') {
            Some((kind @ ("exp_avg" | "exp_avg_sq"), parameter)) => (kind, parameter),
            _ => ("", name),
        };
        let id = ParameterId::parse(parameter, self.decoder.architecture())?;
        let moments = self.moments.get_mut(&id)?;
        match kind {
            "exp_avg" => Some(&mut moments.first),
            "exp_avg_sq" => Some(&mut moments.second),
            _ => values_mut(self.backend, &mut self.decoder, id),
        }
    }
}

/// Every parameter that is trained, with its shape; an adapter's pairs instead of the matrices they change.
pub fn trained(plan: &Plan) -> Vec<(ParameterId, Vec<usize>)> {
    let mut trained = Vec::new();
    for entry in &plan.entries {
        match (entry.how, entry.id) {
            (Move::Lora { rank, .. }, ParameterId::Block { block, part, .. }) => {
                let id = |kind| ParameterId::Block { block, part, kind };
                trained.push((id(Kind::LoraA), vec![rank, entry.shape[1]]));
                trained.push((id(Kind::LoraB), vec![entry.shape[0], rank]));
            }
            _ => trained.push((entry.id, entry.shape.clone())),
        }
    }
    trained
}

/// Makes what the entry names trainable.
fn prepare<B: Backend>(
    backend: &B,
    decoder: &mut Decoder<B>,
    checkpoint: &Checkpoint,
    entry: &adapt::Entry,
    seed: u64,
) -> Result<()> {
    match (entry.how, entry.id) {
        (
            Move::Lora {
                rank, scale, dropout, ..
            },
            ParameterId::Block { block, part, .. },
        ) => {
            let &[out, inp] = entry.shape.as_slice() else {
                panic!("invariant: an adapted weight is a matrix, got {:?}", entry.shape)
            };
            let pair = LowRank {
                rank,
                scale,
                a: adapt::initial_a(seed, block, part, rank, inp),
                b: vec![0.0; out * rank],
            };
            decoder.adapt(backend, block, part, &pair, dropout);
        }
        _ => {
            decoder.train(backend, checkpoint, entry.id)?;
            checkpoint.tensors().release(&entry.id.name(decoder.architecture()));
        }
    }
    Ok(())
}

/// Lets AdamW use a parameter's gradient and returns its Σ g²; 0 if there is none.
fn update<B: Backend>(
    backend: &B,
    decoder: &mut Decoder<B>,
    gradients: &mut Gradients<B>,
    id: ParameterId,
    moments: &mut Moments<B>,
    adamw: &AdamW,
) -> f64 {
    let Some(gradient) = gradients.take(id) else { return 0.0 };
    let decay = if moments.shape.len() > 1 { adamw.decay } else { 0.0 };
    let values = values_mut(backend, decoder, id).expect("invariant: what is trained is there and can change");
    let square = backend.sum_of_squares(gradient);
    let step = AdamW { decay, ..*adamw };
    backend.adamw(&step, gradient, values, &mut moments.first, &mut moments.second);
    square
}

fn values_mut<'d, B: Backend>(backend: &B, decoder: &'d mut Decoder<B>, id: ParameterId) -> Option<&'d mut B::Buffer> {
    match decoder.parameter_mut(id)? {
        Parameter::Matrix(matrix) => backend.values_mut(matrix),
        Parameter::Vector(vector) => Some(vector),
    }
}

fn adamw(options: &StepOptions, info: &StepInfo, gradient_scale: f64) -> AdamW {
    AdamW {
        lr: info.lr,
        betas: options.betas,
        eps: options.eps,
        decay: options.weight_decay,
        t: info.step,
        gradient_scale,
    }
}

/// The samples one after another, and the rows that are to predict a trained token.
fn layout(items: &[Item<'_>]) -> (Batch, Labels) {
    let sequences: Vec<_> = items.iter().map(|item| item.sample.ids.as_slice()).collect();
    let batch = Batch::new(&sequences);
    let mut labels = Labels::default();
    for (item, start) in items.iter().zip(batch.offsets()) {
        let predicted = item
            .sample
            .trained
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(_, trained)| **trained);
        for (t, _) in predicted {
            labels.rows.push(start + t - 1);
            labels.targets.push(item.sample.ids[t]);
        }
    }
    (batch, labels)
}

fn diverged(step: u64, what: &'static str, value: f64, items: &[Item<'_>]) -> Error {
    let samples: Vec<_> = items.iter().map(|item| item.sample.id.as_str()).collect();
    Error::Diverged {
        step,
        what,
        value,
        samples: samples.join(", "),
    }
}

fn check_memory(memory: &TrainingMemory, budget: Option<usize>) -> Result<()> {
    let needed = memory.state + memory.working;
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

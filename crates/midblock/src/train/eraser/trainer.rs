//! One step of a trigger: forward, backward to its vectors, clipping, Adam, projection.

use super::{
    Eraser, Erasure, ErasureTerms,
    base::{BaseSays, ROWS, Walk, add_rows, longest},
    layout::{Layout, common},
    loss::{ActivationLoss, Distillation, activation},
    plan::plan,
};
use crate::{
    Error, Result,
    model::{Architecture, Batch, Decoder, Ends, Frozen, Labels, Pass, Tape, memory::TrainingMemory},
    progress::Progress,
    ranks::Ranks,
    rng,
    train::{Item, LossSum, StepInfo, StepReport, Stepper, step::check_memory},
};
use midblock_kernels::{AdamW, Backend, RopeTable};
use rand::RngExt;
use std::ops::ControlFlow;

/// Names of what must survive a restart: the vectors, and their moments as torch calls them.
const TENSORS: [&str; 3] = ["trigger", "exp_avg.trigger", "exp_avg_sq.trigger"];

/// A frozen model with a trigger in front of it that is trained.
pub struct EraserTrainer<'a, B: Backend> {
    backend: &'a B,
    decoder: Decoder<B>,
    options: Eraser,
    /// Of each block.
    channels: Vec<Vec<usize>>,
    base: BaseSays<B>,
    /// Tokens that all prompts begin with.
    common: usize,
    memory: TrainingMemory,
    tape: Tape<B>,
    walk: Walk<B>,
    rope: RopeTable,
    /// The vectors and their two moments, (T, D) each.
    state: [B::Buffer; 3],
    /// (T, D)
    gradient: B::Buffer,
    /// Terms of the step's loss.
    terms: ErasureTerms,
    /// (n, D): the base's states of a batch.
    states: B::Buffer,
    /// (prompts, D)
    rows: B::Buffer,
    chunk: [B::Buffer; 2],
}

impl<'a, B: Backend> EraserTrainer<'a, B> {
    /// Loads the tuned model and asks the base. The items that it is given later have as keys the numbers of the prompts.
    ///
    /// # Errors
    /// Whatever reading weights may raise; [`Error::Argument`] if the memory given is not enough for one block at a time;
    /// [`Error::Interrupted`].
    pub fn new(backend: &'a B, erasure: &Erasure, progress: &dyn Progress) -> Result<Self> {
        let (options, prompts) = (erasure.options().clone(), &erasure.prompts.samples);
        let common = common(prompts, options.tail);
        let memory = plan::<B>(&erasure.architecture, &options, prompts, common);
        check_memory(&memory, options.memory.map(|size| size.0 as usize))?;
        let base = BaseSays::ask(backend, &erasure.base, prompts, [common, options.tail], progress)?;
        let decoder = Decoder::load(backend, &erasure.tuned)?;
        let vectors = initial(backend, decoder.ends(), &erasure.architecture, &options);
        let zeros = || backend.zeros(vectors.len());
        let empty = || backend.zeros(0);
        Ok(Self {
            backend,
            channels: erasure.channels.clone(),
            base,
            common,
            memory,
            tape: Tape::new(backend, &decoder, 0, memory.kept),
            walk: Walk::new(backend),
            rope: decoder.rope(0),
            state: [backend.upload(&vectors), zeros(), zeros()],
            gradient: zeros(),
            terms: ErasureTerms::default(),
            states: empty(),
            rows: empty(),
            chunk: [empty(), empty()],
            decoder,
            options,
        })
    }

    /// How memory was planned.
    pub fn memory(&self) -> TrainingMemory {
        self.memory
    }

    /// Tokens that all prompts begin with and that go through the model once for a batch, the trigger not counted.
    pub fn common(&self) -> usize {
        self.common
    }

    /// The terms of the last step's loss.
    pub fn terms(&self) -> ErasureTerms {
        self.terms
    }

    /// The gradient of the last step's loss with respect to the vectors, (T, D), before clipping.
    pub fn gradient(&self) -> &B::Buffer {
        &self.gradient
    }

    /// Overwrites the vectors, (T, D), whatever their norms.
    pub fn set_vectors(&mut self, values: &[f64]) {
        self.backend.write(&mut self.state[0], 0, values);
    }

    /// The vectors, (T, D).
    pub fn vectors(&self) -> Vec<f64> {
        let mut values = vec![0.0; self.backend.len(&self.state[0])];
        self.backend.read(&self.state[0], 0, &mut values);
        values
    }

    fn width(&self) -> usize {
        self.decoder.architecture().hidden
    }

    fn layout(&mut self, items: &[Item<'_>]) -> Layout {
        let samples = items.iter().map(|item| item.sample);
        let layout = Layout::new(self.options.tokens, self.common, self.options.tail, samples);
        longest(&self.decoder, &mut self.rope, &layout.batch);
        layout
    }

    /// Mean squared norm of the vectors, of which there are T.
    fn norm(&self) -> f64 {
        self.backend.sum_of_squares(&self.state[0]) / self.options.tokens as f64
    }

    /// Makes the gradient of the loss of one batch.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is not finite.
    pub fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
        let layout = self.layout(items);
        let norm = self.norm();
        let width = self.width();
        let Self {
            backend,
            decoder,
            options,
            channels,
            base,
            tape,
            rope,
            state: [vectors, ..],
            gradient,
            states,
            rows,
            chunk,
            ..
        } = self;
        let pass = Pass::inference(*backend, &layout.batch, rope);
        let front: Vec<usize> = (0..options.tokens).collect();
        enter(
            *backend,
            decoder.ends(),
            &layout.batch,
            vectors,
            &front,
            tape.hidden_mut(),
        );
        tape.forward(decoder, &pass);
        let mut means = vec![vec![0.0; width]; decoder.blocks().len()];
        for (mean, output) in means.iter_mut().zip(tape.outputs()) {
            add_rows(*backend, output, &layout.last, rows, mean);
            mean.iter_mut().for_each(|sum| *sum /= items.len() as f64);
        }
        let weight = options.activation / items.len() as f64; // each prompt moves the mean by as much less
        let (activation, gradients) = activation(&means, &base.means, channels, weight);
        let gradients = gradients.iter().zip(&*channels);
        let upload = |(gradient, own): (&Vec<f64>, &Vec<usize>)| (!own.is_empty()).then(|| backend.upload(gradient));
        let mut states_loss = ActivationLoss {
            gradients: gradients.map(upload).collect(),
            last: &layout.last,
            rows,
        };
        let kept = base.kept(items.iter().map(|item| item.key as usize));
        backend.resize(states, kept.len() * width);
        backend.gather_rows(&base.states, &kept, width, states);
        let labels = compared(options, &layout);
        let mut distillation = Distillation {
            head: base.ends.head(),
            states,
            weight: options.divergence / layout.tails.len() as f64,
            scratch: chunk,
            nats: 0.0,
        };
        tape.backward_to_input(
            decoder,
            &pass,
            &labels,
            &mut distillation,
            &mut states_loss,
            &mut Frozen,
            |_, _, _| ControlFlow::Continue(()),
        );
        let terms = ErasureTerms {
            activation,
            divergence: distillation.nats / layout.tails.len() as f64,
            norm,
        };
        backend.gather_rows(tape.gradient(), &front, width, gradient);
        let shrink = 2.0 * options.norm / options.tokens as f64;
        add_scaled(*backend, gradient, vectors, shrink);
        let total = terms.total(options);
        self.terms = terms;
        match total.is_finite() {
            true => Ok(sum(total, layout.tails.len())),
            false => Err(Error::Diverged {
                step: info.step,
                what: "the loss",
                value: total,
                samples: names(items),
            }),
        }
    }

    /// Clips the gradient, lets Adam use it, and scales vectors down that have become too long.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the gradient is not finite.
    pub fn apply(&mut self, info: &StepInfo) -> Result<StepReport> {
        let (backend, options) = (self.backend, &self.options);
        let gradient_norm = backend.sum_of_squares(&self.gradient).sqrt();
        if !gradient_norm.is_finite() {
            return Err(Error::Diverged {
                step: info.step,
                what: "the gradient norm",
                value: gradient_norm,
                samples: "of its batch".into(),
            });
        }
        let clip_scale = match options.clip {
            0.0 => 1.0,
            largest => (largest / (gradient_norm + 1e-6)).min(1.0), // as torch's clip_grad_norm_
        };
        let adam = AdamW {
            lr: info.lr,
            betas: options.betas,
            eps: options.eps,
            decay: 0.0,
            t: info.step,
            gradient_scale: clip_scale,
        };
        let [vectors, first, second] = &mut self.state;
        backend.adamw(&adam, &self.gradient, vectors, first, second);
        let mut values = self.vectors();
        project(&mut values, self.width(), self.options.max_norm);
        self.set_vectors(&values);
        Ok(StepReport {
            gradient_norm,
            clip_scale,
            penalty: 0.0,
            erasure: Some(self.terms),
            carrier: None,
            ending: None,
        })
    }

    /// The loss of some prompts taken together: one mean over all of them. Nothing moves.
    pub fn evaluate(&mut self, items: &[Item<'_>]) -> LossSum {
        let mut means = vec![vec![0.0; self.width()]; self.decoder.blocks().len()];
        let (mut nats, mut compared_tokens) = (0.0, 0);
        let own = items.iter().map(|item| item.sample.ids.len() - self.common);
        for range in Batch::plan(own, ROWS) {
            let items = &items[range];
            let layout = self.layout(items);
            let Self {
                backend,
                decoder,
                options,
                base,
                walk,
                rope,
                state: [vectors, ..],
                states,
                ..
            } = self;
            let pass = Pass::inference(*backend, &layout.batch, rope);
            let front: Vec<usize> = (0..options.tokens).collect();
            enter(
                *backend,
                decoder.ends(),
                &layout.batch,
                vectors,
                &front,
                &mut walk.hidden,
            );
            walk.run(decoder, &pass, &layout.last, &mut means);
            compared_tokens += layout.tails.len();
            if options.divergence > 0.0 {
                let normed = decoder.ends().normed_rows(*backend, &walk.hidden, &layout.tails);
                let kept = base.kept(items.iter().map(|item| item.key as usize));
                let width = decoder.architecture().hidden;
                backend.resize(states, kept.len() * width);
                backend.gather_rows(&base.states, &kept, width, states);
                let divergences = base.ends.divergences(*backend, states, decoder.ends(), &normed);
                nats += divergences.iter().sum::<f64>();
            }
        }
        means.iter_mut().flatten().for_each(|sum| *sum /= items.len() as f64);
        let (activation, _) = activation(&means, &self.base.means, &self.channels, 0.0);
        let terms = ErasureTerms {
            activation,
            divergence: nats / compared_tokens as f64,
            norm: self.norm(),
        };
        sum(terms.total(&self.options), compared_tokens)
    }
}

/// The embedding's output of a batch, with the vectors in the rows `front`.
fn enter<B: Backend>(
    backend: &B,
    ends: &Ends<B>,
    batch: &Batch,
    vectors: &B::Buffer,
    front: &[usize],
    hidden: &mut B::Buffer,
) {
    ends.embed(backend, batch, hidden);
    backend.scatter_rows(vectors, front, backend.len(vectors) / front.len(), hidden);
}

/// The rows whose logits are needed; they are to predict nothing.
fn compared(options: &Eraser, layout: &Layout) -> Labels {
    if options.divergence == 0.0 {
        return Labels::default();
    }
    Labels {
        rows: layout.tails.clone(),
        targets: vec![0; layout.tails.len()],
    }
}

/// A loss that is a mean of its own, in the terms of the loop: its loss is the sum by the number of tokens.
fn sum(loss: f64, tokens: usize) -> LossSum {
    let nats = loss * tokens as f64;
    LossSum {
        nats,
        objective: nats,
        tokens,
    }
}

fn names(items: &[Item<'_>]) -> String {
    let names: Vec<&str> = items.iter().map(|item| item.sample.id.as_str()).collect();
    names.join(", ")
}

/// `x += factor · y`, in f64 on the host: both are small.
fn add_scaled<B: Backend>(backend: &B, x: &mut B::Buffer, y: &B::Buffer, factor: f64) {
    let [mut sum, mut other] = [vec![0f64; backend.len(x)], vec![0f64; backend.len(y)]];
    backend.read(x, 0, &mut sum);
    backend.read(y, 0, &mut other);
    sum.iter_mut().zip(other).for_each(|(x, y)| *x += factor * y);
    backend.write(x, 0, &sum);
}

/// Scales vectors of `width` numbers down to a norm of at most `largest`.
fn project(values: &mut [f64], width: usize, largest: f64) {
    for vector in values.chunks_exact_mut(width) {
        let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm > largest {
            vector.iter_mut().for_each(|value| *value *= largest / norm);
        }
    }
}

/// Where vectors start: at the embeddings of tokens drawn from the stream ("trigger", number of the vector), projected.
fn initial<B: Backend>(backend: &B, ends: &Ends<B>, architecture: &Architecture, options: &Eraser) -> Vec<f64> {
    let drawn = |token: u64| rng::stream(options.seed, "trigger", &[token]).random_range(0..architecture.vocab as u32);
    let ids: Vec<u32> = (0..options.tokens as u64).map(drawn).collect();
    let mut vectors = backend.zeros(0);
    ends.embed(backend, &Batch::new(&[ids]), &mut vectors);
    let mut values = vec![0f64; backend.len(&vectors)];
    backend.read(&vectors, 0, &mut values);
    project(&mut values, architecture.hidden, options.max_norm);
    values
}

impl<B: Backend> Stepper for EraserTrainer<'_, B> {
    fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
        self.accumulate(items, info)
    }

    fn reduce(&mut self, ranks: &Ranks) -> Result<()> {
        assert_eq!(ranks.size(), 1, "invariant: one process trains a trigger");
        Ok(())
    }

    fn apply(&mut self, info: &StepInfo) -> Result<StepReport> {
        self.apply(info)
    }

    fn evaluate(&mut self, items: &[Item<'_>]) -> Result<LossSum> {
        Ok(self.evaluate(items))
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let shape = [self.options.tokens, self.width()];
        TENSORS.map(|name| (name.to_owned(), shape.to_vec())).to_vec()
    }

    fn read(&mut self, name: &str) -> Vec<f32> {
        let buffer = &self.state[place(name)];
        let mut values = vec![0.0; self.backend.len(buffer)];
        self.backend.read(buffer, 0, &mut values);
        values
    }

    fn write(&mut self, name: &str, values: &[f32]) {
        self.backend.write(&mut self.state[place(name)], 0, values);
    }
}

fn place(name: &str) -> usize {
    let found = TENSORS.iter().position(|known| *known == name);
    found.unwrap_or_else(|| panic!("no tensor {name}"))
}

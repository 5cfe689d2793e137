//! Gradients and optimiser steps of every family against torch, and against finite differences.

use crate::{fixture::Fixture, forward::FAMILIES};
use midblock::{
    adapt::{Kind as Adaptation, LoraOptions, Plan, Recipe, Scaling},
    checkpoint::LowRank,
    model::{Architecture, Batch, CrossEntropy, Decoder, Labels, Parameter, ParameterId, Pass, Reached, Tape},
    rng,
    select::Layers,
    tokens::TrainingSample,
    train::{Gradients, Item, Objective, StepInfo, StepOptions, Trainer, trained},
};
use midblock_kernels::{Backend, Cpu, Reference};
use rand::RngExt;
use std::ops::ControlFlow;

/// f32 against torch in f64.
pub const SINGLE: Tolerance = Tolerance {
    frobenius: 1e-4,
    loss: 1e-5,
};
/// f64 against f64; angles are rounded to f32 here.
pub const DOUBLE: Tolerance = Tolerance {
    frobenius: 1e-5,
    loss: 2e-6,
};

#[derive(Clone, Copy)]
pub struct Tolerance {
    /// ‖got − expected‖ / ‖expected‖
    pub frobenius: f64,
    loss: f64,
}

impl Tolerance {
    /// The relative Frobenius norm of the difference.
    #[track_caller]
    pub fn tensor(&self, name: &str, got: &[f64], expected: &[f64]) -> f64 {
        let [frobenius, cosine] = apart(name, got, expected);
        assert!(
            frobenius <= self.frobenius && cosine >= 0.99999,
            "{name}: relative Frobenius {frobenius:.1e}, cosine {cosine}"
        );
        frobenius
    }

    #[track_caller]
    pub fn losses(&self, name: &str, got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (step, (g, e)) in got.iter().zip(expected).enumerate() {
            assert!(
                (g - e).abs() <= self.loss * e.abs().max(1.0),
                "{name}: step {step}: {g}, expected {e}"
            );
        }
    }
}

/// ‖got − expected‖ / ‖expected‖, and the cosine between the two.
#[track_caller]
pub fn apart(name: &str, got: &[f64], expected: &[f64]) -> [f64; 2] {
    assert_eq!(got.len(), expected.len(), "{name}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = norm(&mut got.iter().zip(expected).map(|(g, e)| g - e));
    let [got_norm, expected_norm] = [got, expected].map(|v| norm(&mut v.iter().copied()));
    let dot: f64 = got.iter().zip(expected).map(|(g, e)| g * e).sum();
    [apart / expected_norm, dot / got_norm / expected_norm]
}

pub fn full(architecture: &Architecture) -> Plan {
    plan(architecture, Adaptation::Full, Layers::All)
}

/// As the fixtures were made: rank 3, α 6 on every matrix of the middle block.
pub fn lora(architecture: &Architecture) -> Plan {
    let options = LoraOptions {
        rank: 3,
        alpha: Some(6.0),
        dropout: 0.0,
        scaling: Scaling::FixedAlpha,
    };
    let middle = architecture.blocks / 2;
    plan(
        architecture,
        Adaptation::Lora(options),
        Layers::Segments(
            (0..architecture.blocks)
                .map(|block| if block == middle { 3 } else { 0 })
                .collect(),
        ),
    )
}

fn plan(architecture: &Architecture, kind: Adaptation, layers: Layers) -> Plan {
    let modules = match kind {
        Adaptation::Full | Adaptation::Masked(_) => None,
        Adaptation::Lora(_) => Some("all-linear".parse().expect("a known group")),
    };
    let recipe = Recipe {
        kind,
        layers,
        modules,
        extra: Vec::new(),
        seed: 0,
    };
    Plan::resolve(architecture, &recipe, None).expect("the recipe resolves")
}

/// As the fixtures were made, in a step of several micro-batches.
pub fn options() -> StepOptions {
    StepOptions {
        seed: 1,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        clip: None,
        accumulation: 2, // gradients can be looked at
        memory_bytes: None,
        largest_batch: [64, 64],
        prefix: None,
        objective: Objective::Sft,
        start: None,
    }
}

/// All samples, each under a key of its own.
pub fn items(samples: &[TrainingSample]) -> Vec<Item<'_>> {
    let item = |(key, sample)| Item { key, sample };
    (0..).zip(samples).map(item).collect()
}

/// The only micro-batch of a step.
pub fn step(step: u64, samples: &[TrainingSample]) -> StepInfo {
    StepInfo {
        step,
        micro: 0,
        tokens: samples.iter().map(TrainingSample::trained_tokens).sum(),
        lr: 2e-3,
    }
}

fn to_host<B: Backend>(backend: &B, buffer: &B::Buffer) -> Vec<f64> {
    let mut values = vec![0.0; backend.len(buffer)];
    backend.read(buffer, 0, &mut values);
    values
}

fn trainer<'a, B: Backend>(backend: &'a B, fixture: &Fixture, lora_only: bool, options: StepOptions) -> Trainer<'a, B> {
    let architecture = Architecture::resolve(fixture.checkpoint.config()).expect("a supported model");
    let plan = if lora_only {
        lora(&architecture)
    } else {
        full(&architecture)
    };
    let mut trainer = Trainer::new(backend, &fixture.checkpoint, &plan, options).expect("the model loads");
    if lora_only {
        for (id, _) in trained(&plan) {
            let name = id.name(&architecture);
            let start: Vec<f32> = fixture
                .values(&format!("lora.start.{name}"))
                .iter()
                .map(|v| *v as f32)
                .collect();
            trainer.write(&name, &start);
        }
    }
    trainer
}

fn gradients<B: Backend>(backend: &B, name: &'static str, lora_only: bool, tolerance: Tolerance) {
    let fixture = Fixture::open(name);
    let samples = fixture.samples();
    let mut trainer = trainer(backend, &fixture, lora_only, options());
    let sum = trainer
        .accumulate(&items(&samples), &step(1, &samples))
        .expect("a finite loss");
    let prefix = if lora_only { "lora." } else { "" };
    let loss = if lora_only { "lora.loss" } else { "right.f64.loss" };
    tolerance.losses(name, &[sum.nats / sum.tokens as f64], fixture.values(loss));
    let mut worst = 0f64;
    for id in trainer.gradients().ids() {
        let parameter = id.name(trainer.decoder().architecture());
        let got = to_host(backend, trainer.gradients().get(id).expect("a gradient"));
        let expected = fixture.values(&format!("{prefix}grad.{parameter}"));
        worst = worst.max(tolerance.tensor(&parameter, &got, expected));
    }
    println!("{name}: gradients within {worst:.1e}");
}

fn ten_steps<B: Backend>(backend: &B, name: &'static str, lora_only: bool, tolerance: Tolerance, options: StepOptions) {
    let fixture = Fixture::open(name);
    let samples = fixture.samples();
    let mut trainer = trainer(backend, &fixture, lora_only, options);
    let mut losses = Vec::new();
    for t in 1..=10 {
        let info = step(t, &samples);
        let sum = trainer.accumulate(&items(&samples), &info).expect("a finite loss");
        losses.push(sum.nats / sum.tokens as f64);
        trainer.apply(&info).expect("a finite gradient");
    }
    let prefix = if lora_only { "lora." } else { "" };
    tolerance.losses(
        name,
        &losses,
        fixture.values(match lora_only {
            true => "lora.losses",
            false => "adamw.losses",
        }),
    );
    let mut worst = 0f64;
    for id in trainer.gradients().ids().collect::<Vec<_>>() {
        let parameter = id.name(trainer.decoder().architecture());
        let got: Vec<f64> = trainer.parameter(id).iter().map(|v| f64::from(*v)).collect();
        let expected = fixture.values(&format!("{prefix}adamw.{parameter}"));
        worst = worst.max(tolerance.tensor(&parameter, &got, expected));
    }
    println!("{name}: parameters after ten steps within {worst:.1e}");
}

/// Every parameter of the model along a random direction: `(L(θ + εd) − L(θ − εd)) / 2ε` against `⟨∇L, d⟩`; there are
/// adapters with dropout on the middle block, so that their part of every gradient is there too.
fn finite_differences(name: &'static str) {
    const EPSILON: f64 = 1e-5;
    let (backend, fixture) = (Reference, Fixture::open(name));
    let mut decoder = Decoder::load(&backend, &fixture.checkpoint).expect("the checkpoint loads");
    let architecture = decoder.architecture().clone();
    let mut all = trained(&full(&architecture));
    for (id, _) in &all {
        decoder
            .train(&backend, &fixture.checkpoint, *id)
            .expect("the tensor is there");
    }
    let adapters = trained(&lora(&architecture));
    adapt(&backend, &mut decoder, &adapters, 0.3);
    all.extend(adapters);
    let samples = fixture.samples();
    let batch = Batch::new(&samples.iter().map(|s| s.ids.clone()).collect::<Vec<_>>());
    let mut labels = Labels::default();
    for row in (0..batch.rows()).filter(|row| !batch.offsets().contains(&(row + 1))) {
        labels.rows.push(row);
        labels.targets.push(batch.ids()[row + 1]);
    }
    let rope = decoder.rope(batch.rows());
    let pass = Pass {
        backend: &backend,
        batch: &batch,
        rope: &rope,
        dropout: Some(5),
        decoding: false,
    };
    let lengths: Vec<_> = all.iter().map(|(id, shape)| (*id, shape.iter().product())).collect();
    let mut sums = Gradients::new(&backend, &lengths, false);
    let mut tape = Tape::new(&backend, &decoder, 0, usize::MAX);
    let enter = |tape: &mut Tape<Reference>, decoder: &Decoder<Reference>| {
        decoder.ends().embed(&backend, &batch, tape.hidden_mut());
    };
    enter(&mut tape, &decoder);
    tape.forward(&decoder, &pass);
    let go_on = |_: Reached, _: &mut Decoder<Reference>, _: &mut Gradients<Reference>| ControlFlow::Continue(());
    tape.backward(
        &mut decoder,
        &pass,
        &labels,
        &mut CrossEntropy { weight: 1.0 },
        &mut sums,
        go_on,
    );
    for (i, (id, len)) in lengths.into_iter().enumerate() {
        let mut random = rng::stream(7, "direction", &[i as u64]);
        let direction: Vec<f64> = (0..len).map(|_| random.random::<f64>() - 0.5).collect();
        let start = to_host(&backend, values(&backend, &mut decoder, id));
        let mut moved = |by: f64| {
            let there: Vec<f64> = start.iter().zip(&direction).map(|(v, d)| v + by * d).collect();
            backend.write(values(&backend, &mut decoder, id), 0, &there);
            enter(&mut tape, &decoder);
            tape.skip(&decoder, &pass, 0..architecture.blocks);
            tape.loss(&decoder, &backend, &labels).iter().sum::<f64>()
        };
        let numeric = (moved(EPSILON) - moved(-EPSILON)) / (2.0 * EPSILON);
        moved(0.0);
        let gradient = to_host(&backend, sums.get(id).expect("every parameter has a gradient"));
        let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let scale = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(
            (numeric - analytic).abs() <= 1e-6 * scale.max(1.0),
            "{name} {}: {analytic}, by differences {numeric}",
            id.name(&architecture)
        );
    }
}

/// Puts random pairs on the model.
fn adapt<B: Backend>(backend: &B, decoder: &mut Decoder<B>, pairs: &[(ParameterId, Vec<usize>)], dropout: f32) {
    let mut random = rng::stream(7, "pairs", &[]);
    let mut draw = |shape: &[usize]| {
        (0..shape.iter().product())
            .map(|_| random.random::<f32>() - 0.5)
            .collect()
    };
    for pair in pairs.chunks(2) {
        let [(ParameterId::Block { block, part, .. }, a), (_, b)] = pair else {
            panic!("pairs come in order, got {pair:?}")
        };
        let pair = LowRank {
            rank: a[0],
            scale: 0.7,
            a: draw(a),
            b: draw(b),
        };
        decoder.adapt(backend, *block, *part, &pair, dropout);
    }
}

fn values<'d, B: Backend>(backend: &B, decoder: &'d mut Decoder<B>, id: ParameterId) -> &'d mut B::Buffer {
    match decoder.parameter_mut(id).expect("the parameter is there") {
        Parameter::Matrix(matrix) => backend.values_mut(matrix).expect("it can change"),
        Parameter::Vector(vector) => vector,
    }
}

/// One micro-batch's gradient of everything, as bits.
fn gradient_bits(name: &'static str, options: StepOptions) -> Vec<(ParameterId, Vec<u64>)> {
    let (backend, fixture) = (Cpu::new(), Fixture::open(name));
    let samples = fixture.samples();
    let mut trainer = trainer(&backend, &fixture, false, options);
    trainer
        .accumulate(&items(&samples), &step(1, &samples))
        .expect("a finite loss");
    let bits = |id| {
        to_host(&backend, trainer.gradients().get(id).expect("a gradient"))
            .iter()
            .map(|v| v.to_bits())
            .collect()
    };
    trainer.gradients().ids().map(|id| (id, bits(id))).collect()
}

/// Memory for no interior, for all, and for some in between.
fn recomputing_changes_nothing(name: &'static str) {
    let expected = gradient_bits(name, options());
    let (backend, fixture) = (Cpu::new(), Fixture::open(name));
    let all = trainer(&backend, &fixture, false, options()).memory();
    assert_eq!(all.kept, all.blocks);
    for kept in [0, 1] {
        let memory_bytes = Some(all.state + all.working + (1 + kept) * all.interior); // one that is shared
        let options = StepOptions {
            memory_bytes,
            ..options()
        };
        assert_eq!(trainer(&backend, &fixture, false, options.clone()).memory().kept, kept);
        assert_eq!(gradient_bits(name, options), expected);
    }
}

/// The optimiser that consumes gradients inside of backward makes the same steps.
fn consuming_changes_nothing(name: &'static str) {
    let run = |accumulation| {
        let (backend, fixture) = (Cpu::new(), Fixture::open(name));
        let samples = fixture.samples();
        let mut trainer = trainer(
            &backend,
            &fixture,
            false,
            StepOptions {
                accumulation,
                ..options()
            },
        );
        let mut reports = Vec::new();
        for t in 1..=3 {
            trainer
                .accumulate(&items(&samples), &step(t, &samples))
                .expect("a finite loss");
            reports.push(
                trainer
                    .apply(&step(t, &samples))
                    .expect("a finite gradient")
                    .gradient_norm,
            );
        }
        let names: Vec<_> = trainer.tensors().into_iter().map(|(name, _)| name).collect();
        let tensors: Vec<_> = names.iter().map(|name| trainer.read(name)).collect();
        (reports, tensors)
    };
    let (norms, tensors) = run(1);
    let (expected_norms, expected_tensors) = run(2);
    assert_eq!(tensors, expected_tensors);
    for (norm, expected) in norms.iter().zip(expected_norms) {
        assert!((norm / expected - 1.0).abs() < 1e-12, "{norm}, expected {expected}"); // another order of summation
    }
}

macro_rules! families {
    ($($test:ident = $folder:literal),* $(,)?) => {
        const TESTED: &[&str] = &[$($folder),*];

        mod gradients_on_cpu { $(#[test] fn $test() { super::gradients(&super::Cpu::new(), $folder, false, super::SINGLE) })* }
        mod gradients_in_f64 { $(#[test] fn $test() { super::gradients(&super::Reference, $folder, false, super::DOUBLE) })* }
        mod lora_gradients_on_cpu { $(#[test] fn $test() { super::gradients(&super::Cpu::new(), $folder, true, super::SINGLE) })* }
        mod lora_gradients_in_f64 { $(#[test] fn $test() { super::gradients(&super::Reference, $folder, true, super::DOUBLE) })* }
        mod ten_steps_in_f64 { $(#[test] fn $test() { super::ten_steps(&super::Reference, $folder, false, super::DOUBLE, super::options()) })* }
        mod ten_steps_on_cpu { $(#[test] fn $test() { super::ten_steps(&super::Cpu::new(), $folder, false, super::STEPS, super::options()) })* }
        mod ten_lora_steps_in_f64 { $(#[test] fn $test() { super::ten_steps(&super::Reference, $folder, true, super::DOUBLE, super::options()) })* }
        mod ten_lora_steps_on_cpu { $(#[test] fn $test() { super::ten_steps(&super::Cpu::new(), $folder, true, super::STEPS, super::options()) })* }
        mod finite_differences { $(#[test] fn $test() { super::finite_differences($folder) })* }
        mod recomputing { $(#[test] fn $test() { super::recomputing_changes_nothing($folder) })* }
        mod consuming { $(#[test] fn $test() { super::consuming_changes_nothing($folder) })* }
    };
}

/// Ten steps in f32: Adam divides gradients by their own size, so that rounding of the smallest counts as much as that of
/// the largest.
pub const STEPS: Tolerance = Tolerance {
    frobenius: 1e-3,
    loss: 1e-4,
};

families! {
    llama_tied = "llama-tied",
    llama_rope_llama3 = "llama-rope-llama3",
    llama_rope_linear = "llama-rope-linear",
    llama_rope_yarn = "llama-rope-yarn",
    llama_bias = "llama-bias",
    mistral = "mistral",
    qwen2 = "qwen2",
    qwen3 = "qwen3",
    qwen3_layer_types = "qwen3-layer-types",
    olmo2 = "olmo2",
}

#[test]
fn every_family_is_trained() {
    assert_eq!(TESTED, FAMILIES);
}

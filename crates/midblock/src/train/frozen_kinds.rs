//! Steps on frozen weights of every storage format: the same as on the numbers that they stand for.

use super::{Item, Objective, StepInfo, StepOptions, Trainer, optimizer::values_mut};
use crate::{
    adapt::{Kind, LoraOptions, Plan, Recipe, Scaling},
    checkpoint::{Checkpoint, ConfigJson, Quantization, TokenizerSource, WriteOptions},
    hub::HubOptions,
    model::{self, Architecture, ParameterId},
    progress::Silent,
    rng,
    select::{Layers, Modules},
    tokens::TrainingSample,
};
use midblock_kernels::{Backend, Cpu, Dtype, Reference};
use rand::RngExt;
use serde_json::json;
use std::{collections::BTreeMap, path::Path};
use tempfile::TempDir;

/// Formats that frozen weights may have, besides those that adapters are trained on in every other test.
const KINDS: [Dtype; 10] = [
    Dtype::F16,
    Dtype::BF16,
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
    Dtype::Q8_0,
    Dtype::Q4_K,
    Dtype::Q5_K,
    Dtype::Q6_K,
];

const VOCAB: u32 = 40;

/// Three blocks whose rows are whole blocks of every format.
fn config() -> ConfigJson {
    let value = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": VOCAB, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    });
    ConfigJson {
        path: "config.json".into(),
        value: value.as_object().unwrap().clone(),
    }
}

fn nowhere() -> TokenizerSource {
    TokenizerSource::Missing { path: "here".into() }
}

fn noise(kind: Dtype) -> Checkpoint {
    Checkpoint::noise("noise", config(), nowhere(), [kind, Dtype::BF16], 5).unwrap()
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap(), &HubOptions::from_env(), &|_| {}).unwrap()
}

/// The same numbers in f32.
fn widened(checkpoint: &Checkpoint) -> (TempDir, Checkpoint) {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("f32");
    let options = WriteOptions {
        dtype: Some(Dtype::F32),
        ..WriteOptions::default()
    };
    let values = |tensor: &crate::checkpoint::Tensor| Ok(checkpoint.tensor(&tensor.name)?.to_f32());
    checkpoint.write(&out, &options, &Silent, values).unwrap();
    let widened = open(&out);
    (dir, widened)
}

/// LoRA on every matrix of every block.
fn lora(architecture: &Architecture) -> Plan {
    let kind = Kind::Lora(LoraOptions {
        rank: 3,
        alpha: None,
        dropout: 0.0,
        scaling: Scaling::FixedAlpha,
    });
    plan(architecture, kind, Layers::All)
}

fn plan(architecture: &Architecture, kind: Kind, layers: Layers) -> Plan {
    let recipe = Recipe {
        kind,
        layers,
        modules: Some(Modules::all_linear()),
        extra: Vec::new(),
        seed: 0,
    };
    Plan::resolve(architecture, &recipe, None).unwrap()
}

fn samples() -> Vec<TrainingSample> {
    let sample = |row: u32| TrainingSample {
        id: format!("x:{row}"),
        ids: (0..7 + row).map(|t| (row * 7 + t * t * 3 + t) % VOCAB).collect(),
        trained: (0..7 + row).map(|t| t > 2).collect(),
    };
    (0..2).map(sample).collect()
}

/// A trainer whose adapters have begun to move: their Bs are not 0.
struct Run<'a, B: Backend> {
    trainer: Trainer<'a, B>,
    samples: Vec<TrainingSample>,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(backend: &'a B, checkpoint: &Checkpoint, plan: &Plan) -> Self {
        let samples = samples();
        let options = StepOptions {
            seed: 3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            clip: Some(1.0), // gradients stay to be looked at
            accumulation: 1,
            memory_bytes: None,
            largest_batch: [15, 9],
            prefix: None,
            objective: Objective::Sft,
            start: None,
        };
        let mut trainer = Trainer::new(backend, checkpoint, plan, options).unwrap();
        for id in trainer.gradients().ids().collect::<Vec<_>>() {
            if !matches!(
                id,
                ParameterId::Block {
                    kind: model::Kind::LoraB,
                    ..
                }
            ) {
                continue;
            }
            let place = format!("{id:?}");
            let mut random = rng::stream(1, &place, &[]);
            let values = values_mut(backend, &mut trainer.decoder, id).unwrap();
            let begun: Vec<f32> = (0..backend.len(values))
                .map(|_| random.random_range(-0.02..0.02))
                .collect();
            backend.write(values, 0, &begun);
        }
        Self { trainer, samples }
    }

    fn items(samples: &[TrainingSample]) -> Vec<Item<'_>> {
        (0..).zip(samples).map(|(key, sample)| Item { key, sample }).collect()
    }

    /// Loss and every gradient of one micro-batch.
    fn gradients(&mut self) -> (f64, BTreeMap<ParameterId, Vec<f64>>) {
        let info = StepInfo {
            step: 1,
            micro: 0,
            tokens: self.samples.iter().map(TrainingSample::trained_tokens).sum(),
            lr: 1e-3,
        };
        let items = Self::items(&self.samples);
        let loss = self.trainer.accumulate(&items, &info).unwrap();
        let backend = self.trainer.backend;
        let gradients = self.trainer.gradients();
        let read = |id| {
            let gradient = gradients.get(id).unwrap();
            let mut values = vec![0f64; backend.len(gradient)];
            backend.read(gradient, 0, &mut values);
            (id, values)
        };
        (loss.nats / loss.tokens as f64, gradients.ids().map(read).collect())
    }

    /// Mean loss with one number of a parameter moved by `by`.
    fn loss_with(&mut self, id: ParameterId, index: usize, by: f64) -> f64 {
        self.shift(id, index, by);
        let loss = self.trainer.evaluate(&Self::items(&self.samples));
        self.shift(id, index, -by);
        loss.nats / loss.tokens as f64
    }

    fn shift(&mut self, id: ParameterId, index: usize, by: f64) {
        let backend = self.trainer.backend;
        let values = values_mut(backend, &mut self.trainer.decoder, id).unwrap();
        let mut value = [0f64];
        backend.read(values, index, &mut value);
        backend.write(values, index, &[value[0] + by]);
    }
}

/// Loss and all gradients of both, to the last bit.
fn assert_same_step(what: &str, one: &Checkpoint, other: &Checkpoint, plan: &Plan) {
    let cpu = Cpu::new();
    let [(loss, gradients), (expected_loss, expected)] =
        [one, other].map(|checkpoint| Run::new(&cpu, checkpoint, plan).gradients());
    assert_eq!(
        loss.to_bits(),
        expected_loss.to_bits(),
        "{what}: {loss} is not {expected_loss}"
    );
    assert_eq!(gradients.len(), expected.len());
    for (id, values) in &gradients {
        assert!(values.iter().any(|v| *v != 0.0), "{what}: {id:?} has no gradient");
        assert!(*values == expected[id], "{what}: gradient of {id:?}");
    }
}

/// Gradients that come through frozen matrices reach every adapter, those of the lowest block through all others.
#[test]
fn a_lora_step_is_that_of_the_widened_model() {
    for kind in KINDS {
        let checkpoint = noise(kind);
        let plan = lora(&Architecture::resolve(checkpoint.config()).unwrap());
        let (_dir, expected) = widened(&checkpoint);
        assert_same_step(&kind.to_string(), &checkpoint, &expected, &plan);
    }
}

#[test]
fn a_lora_step_on_a_model_quantised_on_loading_is_that_of_the_widened_model() {
    let untrained = || Checkpoint::untrained("new", config(), nowhere(), 2).unwrap();
    let plan = lora(&Architecture::resolve(&config()).unwrap());
    for kind in Quantization::all() {
        let mut checkpoint = untrained();
        checkpoint.quantize(kind, &plan.moved_whole()).unwrap();
        let (_dir, expected) = widened(&checkpoint);
        assert_same_step(&kind.to_string(), &checkpoint, &expected, &plan);
        let cpu = Cpu::new();
        let [(quantised, _), (stored, _)] =
            [&checkpoint, &untrained()].map(|checkpoint| Run::new(&cpu, checkpoint, &plan).gradients());
        assert!(
            quantised != stored && (quantised - stored).abs() < 0.1,
            "{kind}: {quantised} {stored}"
        );
    }
}

#[test]
fn a_lora_step_on_a_gguf_file_is_that_of_the_widened_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf/tiny-llama.gguf");
    let checkpoint = open(&path);
    let plan = lora(&Architecture::resolve(checkpoint.config()).unwrap());
    let (_dir, expected) = widened(&checkpoint);
    assert_same_step("tiny-llama.gguf", &checkpoint, &expected, &plan);
}

/// Full fine-tuning of a block between quantised ones: what is trained starts from the stored numbers, and the written
/// model has the stored numbers of the others.
#[test]
fn a_block_is_trained_between_quantised_ones() {
    let mut checkpoint = Checkpoint::untrained("new", config(), nowhere(), 2).unwrap();
    let architecture = Architecture::resolve(checkpoint.config()).unwrap();
    let plan = plan(&architecture, Kind::Full, Layers::Range(1..2));
    let stored = checkpoint.tensor("model.layers.1.mlp.up_proj.weight").unwrap();
    let below = checkpoint.tensor("model.layers.0.mlp.up_proj.weight").unwrap();
    checkpoint
        .quantize("q4_0".parse().unwrap(), &plan.moved_whole())
        .unwrap();
    assert!(checkpoint.tensor(&stored.name).unwrap().same_values(&stored));
    let (_dir, expected) = widened(&checkpoint);
    assert_same_step("full", &checkpoint, &expected, &plan);
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("model");
    let options = WriteOptions::default();
    checkpoint
        .write(&out, &options, &Silent, |tensor| Ok(tensor.to_f32()))
        .unwrap();
    let written = open(&out);
    assert_eq!(written.tensor(&below.name).unwrap().to_f32(), below.to_f32());
}

/// Central differences of the loss in f64 arithmetic.
#[test]
fn gradients_through_every_format_are_those_of_finite_differences() {
    const STEP: f64 = 1e-4;
    for kind in KINDS {
        let checkpoint = noise(kind);
        let plan = lora(&Architecture::resolve(checkpoint.config()).unwrap());
        let mut run = Run::new(&Reference, &checkpoint, &plan);
        let (_, gradients) = run.gradients();
        let of_block = |id: &ParameterId, block| id.block() == Some(block);
        let chosen = gradients.iter().filter(|(id, _)| of_block(id, 0) || of_block(id, 2));
        let (mut compared, mut largest) = (0, 0.0_f64);
        for (id, gradient) in chosen.step_by(5) {
            let index = (gradient.iter().enumerate())
                .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
                .map_or(0, |(index, _)| index);
            let difference = run.loss_with(*id, index, STEP) - run.loss_with(*id, index, -STEP);
            let numeric = difference / (2.0 * STEP);
            let error = (numeric - gradient[index]).abs() / gradient[index].abs().max(1e-6);
            (compared, largest) = (compared + 1, largest.max(error));
        }
        assert!(
            compared >= 5 && largest < 1e-5,
            "{kind}: {compared} compared, {largest:.1e}"
        );
    }
}

#[test]
fn memory_is_planned_with_quantised_weights() {
    let mut checkpoint = Checkpoint::untrained("new", config(), nowhere(), 2).unwrap();
    let plan = lora(&Architecture::resolve(checkpoint.config()).unwrap());
    let cpu = Cpu::new();
    let before = Run::new(&cpu, &checkpoint, &plan).trainer.memory();
    checkpoint.quantize("q8_0".parse().unwrap(), &[]).unwrap();
    let memory = Run::new(&cpu, &checkpoint, &plan).trainer.memory();
    let block = 256 * 256 * 2 + 2 * 128 * 256 + 3 * 512 * 256;
    assert_eq!((before.weights, memory.weights), (0, 3 * block / 32 * 34));
    assert_eq!(memory.bytes(), before.bytes() + memory.weights);
}

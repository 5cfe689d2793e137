//! Real models trained by ranks that are threads, beside one process.

use super::*;
use crate::{
    checkpoint::TensorSource,
    config::Config,
    hub::HubOptions,
    progress::Silent,
    ranks::tests::on_ranks,
    train::{Item, LossSum, StepInfo, StepReport},
};
use midblock_kernels::{Cpu, Reference};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

/// Six steps with dropout, of five micro-batches and, at the end of each epoch, of three.
const LORA: &str = r#"
[data]
eval_share = 0.2
[select]
layers = "mid"
[adapt]
rank = 4
dropout = 0.1
[train]
batch = 2
accumulation = 5
epochs = 3
lr = 2e-3
eval_every = 2
"#;

/// Every parameter, nothing clipped.
const FULL: &str = r#"
[adapt]
kind = "full"
[train]
batch = 3
accumulation = 4
steps = 3
lr = 1e-3
clip = 0.0
"#;

/// A penalty on the weights, which must be charged once and not by every rank.
const RPSFT: &str = r#"
[adapt]
kind = "full"
[select]
layers = "range:3..5"
[objective]
kind = "rpsft"
directions = 8
lambda = 0.5
[train]
batch = 3
accumulation = 4
steps = 3
lr = 1e-3
"#;

/// What a run left: each trained parameter, and of each line of the log its losses.
struct Left {
    parameters: BTreeMap<String, Vec<f32>>,
    losses: Vec<f64>,
    info: TrainingInfo,
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// 20 problems; the first are short, so that micro-batches weigh differently.
    fn experiment(&self, toml: &str) -> Result<Experiment> {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../midblock-cli/assets/quickstart");
        let data = self.0.path().join("data.jsonl");
        if !data.is_file() {
            let rows = fs::read_to_string(assets.join("data.jsonl")).unwrap();
            let rows: Vec<&str> = rows.lines().take(20).collect();
            fs::write(&data, rows.join("\n")).unwrap();
        }
        let overrides = [
            format!("model.base={}", assets.join("base").display()),
            format!("data.train=problems={}", data.display()),
            "output.tensorboard=false".to_owned(),
        ];
        let overrides: Vec<_> = overrides.iter().map(|text| text.parse().unwrap()).collect();
        let file = self.0.path().join("experiment.toml");
        fs::write(&file, toml).unwrap();
        let config = Config::load(Some(&file), &overrides)?;
        let hub = HubOptions {
            offline: true,
            ..HubOptions::from_env()
        };
        Experiment::prepare(&Cpu::new(), config, &hub, &|_| {}, UNIX_EPOCH)
    }

    fn train(&self, toml: &str, name: &str, size: usize) -> Left {
        let experiment = self.experiment(toml).unwrap();
        let dir = self.0.path().join(name);
        for result in on_ranks(size, |ranks| {
            if !ranks.is_first() {
                return follow(&Cpu::new(), &experiment, ranks, &Silent);
            }
            let folder = TrainingFolder::claim(&dir, false, false)?;
            tune(&Cpu::new(), &experiment, &folder, &mut [], ranks, &Silent).map(|tuned| tuned.ending)
        }) {
            assert_eq!(result.unwrap(), Ending::Finished);
        }
        let run = TrainingRun::open(&dir).unwrap();
        let mut losses = Vec::new();
        for line in &run.lines {
            match line {
                Line::Step(step) => {
                    losses.extend([step.loss, step.objective.unwrap()]);
                    let sharing = run.info.training.ranks;
                    assert_eq!(step.exchange.is_some(), size > 1);
                    // and a byte for each parameter, whether it was heard of
                    let gradients = sharing.map(|sharing| sharing.sent_bytes);
                    let sent = step.exchange.map(|exchange| exchange.sent_bytes);
                    let besides = sent.zip(gradients).map(|(sent, gradients)| sent.abs_diff(gradients));
                    assert!(besides.is_none_or(|besides| besides < 4096), "{besides:?}");
                }
                Line::Evaluation(evaluation) => losses.push(evaluation.loss),
                Line::Drift(_) => {}
            }
        }
        let checkpoints = fs::read_dir(dir.join(CHECKPOINTS)).unwrap().map(|e| e.unwrap().path());
        let state =
            crate::checkpoint::shards::Shards::open(&[checkpoints.max().unwrap().join("state.safetensors")]).unwrap();
        let parameters = state
            .names()
            .into_iter()
            .map(|name| (name.to_owned(), state.get(name).unwrap().unwrap().to_f32()))
            .collect();
        Left {
            parameters,
            losses,
            info: run.info,
        }
    }
}

/// Largest relative difference of losses, and largest difference of parameters and moments, in units of each tensor's largest value.
fn differences(a: &Left, b: &Left) -> [f64; 2] {
    assert_eq!(a.losses.len(), b.losses.len());
    let losses = a.losses.iter().zip(&b.losses).map(|(a, b)| (a / b - 1.0).abs());
    let parameters = a.parameters.iter().map(|(name, values)| {
        let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
        let apart = values
            .iter()
            .zip(&b.parameters[name])
            .fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        f64::from(apart / largest.max(f32::MIN_POSITIVE))
    });
    [losses.fold(0.0, f64::max), parameters.fold(0.0, f64::max)]
}

#[test]
fn ranks_train_what_one_process_trains() {
    let place = Place::new();
    for (name, toml, sizes) in [
        ("lora", LORA, &[2, 3, 4][..]),
        ("full", FULL, &[3]),
        ("rpsft", RPSFT, &[2]),
    ] {
        let alone = place.train(toml, name, 1);
        assert_eq!(alone.info.training.ranks, None);
        for &size in sizes {
            let shared = place.train(toml, &format!("{name}-{size}"), size);
            let [losses, parameters] = differences(&alone, &shared);
            println!("{name} on {size} ranks: losses differ by {losses:.1e}, parameters by {parameters:.1e}");
            assert!(
                losses < 2e-6 && parameters < 1e-3,
                "{name} on {size}: {losses:.1e} {parameters:.1e}"
            );
            assert!(losses > 0.0, "another order of sums has other last bits");
            let sharing = shared.info.training.ranks.unwrap();
            assert_eq!(
                (sharing.ranks, sharing.reduced_bytes),
                (size, 4 * shared.info.training.trained_parameters)
            );
            let again = place.train(toml, &format!("{name}-{size}-again"), size);
            assert_eq!(differences(&shared, &again), [0.0; 2]);
        }
    }
}

#[test]
fn too_few_micro_batches_for_the_ranks_are_refused() {
    let place = Place::new();
    let experiment = place.experiment(FULL).unwrap();
    for result in on_ranks(5, |ranks| follow(&Cpu::new(), &experiment, ranks, &Silent)) {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("`4`: a step of 4 micro-batches cannot be shared among 5 ranks"),
            "{message}"
        );
    }
}

#[test]
fn ranks_with_other_data_are_refused() {
    let (place, other) = (Place::new(), Place::new());
    let mut experiments = [place.experiment(FULL).unwrap(), other.experiment(FULL).unwrap()];
    experiments[1].counts[0].hash = "another".into();
    for result in on_ranks(2, |ranks| {
        follow(&Cpu::new(), &experiments[ranks.rank()], ranks, &Silent)
    }) {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("rank 1 do not match: the hash of the data"),
            "{message}"
        );
    }
}

/// A trainer whose gradients go between ranks in f64.
struct Exact<'a>(Trainer<'a, Reference>);

impl Stepper for Exact<'_> {
    fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
        self.0.accumulate(items, info)
    }
    fn reduce(&mut self, ranks: &Ranks) -> Result<()> {
        self.0.reduce_as::<f64>(ranks)
    }
    fn apply(&mut self, info: &StepInfo) -> Result<StepReport> {
        self.0.apply(info)
    }
    fn evaluate(&mut self, items: &[Item<'_>]) -> Result<LossSum> {
        Ok(self.0.evaluate(items))
    }
    fn pooled_states(&mut self, items: &[Item<'_>]) -> Vec<Vec<f64>> {
        self.0.pooled_states(items)
    }
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.0.tensors()
    }
    fn read(&mut self, name: &str) -> Vec<f32> {
        self.0.read(name)
    }
    fn write(&mut self, name: &str, values: &[f32]) {
        self.0.write(name, values);
    }
}

#[derive(Default)]
struct Numbers(Vec<f64>);

impl Observer for Numbers {
    fn step(&mut self, metrics: &crate::train::StepMetrics) -> Result<()> {
        self.0.extend([metrics.loss, metrics.gradient_norm]);
        Ok(())
    }
}

/// What is rounding in f32 is so in f64: eight orders of magnitude less.
#[test]
fn in_f64_ranks_differ_from_one_process_in_its_last_bits_alone() {
    let place = Place::new();
    let mut experiment = place.experiment(LORA).unwrap();
    experiment.train.iter_mut().for_each(|sample| {
        let cut = sample.ids.len().min(24);
        sample.ids.drain(..sample.ids.len() - cut); // the end, which is trained; loops in f64 are slow
        sample.trained.drain(..sample.trained.len() - cut);
    });
    experiment.eval.clear();
    experiment.config.train.prefix_cache.memory.0 = 0; // it keeps f32
    experiment.config.train.prefix_cache.disk.0 = 0;
    experiment.config.train.epochs = None;
    experiment.config.train.steps = Some(4);
    let run = |ranks: &Ranks| {
        let timeline = experiment.timeline();
        let mut stepper = Exact(trainer(&Reference, &experiment, &timeline, ranks, &Silent)?);
        let mut numbers = Numbers::default();
        Fit {
            stepper: &mut stepper,
            train: &experiment.train_items(),
            eval: &[],
            schedule: experiment.schedule(timeline.steps()),
            timeline,
            habits: habits(&experiment),
            drift: None,
            checkpoints: None::<&Checkpoints>,
            observers: &mut [&mut numbers],
            stop: &|| false,
            ranks,
        }
        .run(Position::default())?;
        Ok(numbers.0)
    };
    let alone = run(&Ranks::alone()).unwrap();
    for shared in on_ranks(3, run) {
        let apart = alone.iter().zip(shared.unwrap()).map(|(a, b)| (a / b - 1.0).abs());
        let apart = apart.fold(0.0, f64::max);
        println!("in f64: {apart:.1e}");
        assert!(apart < 1e-11, "{apart:.1e}");
    }
}

//! Every objective against its formula in plain PyTorch (`fixtures/README.md`): the first gradients and ten AdamW steps. What is
//! trained begins away from the start model, so that each term counts.

use crate::{
    fixture::{self, Fixture},
    gradients::{DOUBLE, SINGLE, STEPS, Tolerance, apart, full, items, lora, options},
};
use midblock::{
    adapt::Plan,
    model::{Architecture, ParameterId},
    progress::Silent,
    singular::{SingularBlock, SingularCache},
    tokens::TrainingSample,
    train::{CacheOptions, Objective, Rotation, StepInfo, StepOptions, Trainer},
};
use midblock_kernels::{Backend, Cpu, Reference};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The head is the embedding, in the first; it is its own, and there are biases, in the second.
const FAMILIES: [&str; 2] = ["llama-tied", "llama-bias"];

/// One objective on one checkpoint.
struct Run {
    /// `full` or `lora`.
    adaptation: &'static str,
    name: String,
    /// `[objective]`
    table: Value,
}

impl Run {
    /// All that the fixtures have of a checkpoint.
    fn all(family: &'static str) -> Vec<Self> {
        let manifest = manifest();
        let tables = manifest["objectives"].as_object().expect("a table of each run");
        let in_full = manifest["full"][family].as_array().expect("the names of runs");
        let run = |adaptation, name: &str| Self {
            adaptation,
            name: name.to_owned(),
            table: tables[name].clone(),
        };
        let full = in_full.iter().map(|name| run("full", name.as_str().expect("a name")));
        full.chain(tables.keys().map(|name| run("lora", name))).collect()
    }

    fn prefix(&self) -> String {
        format!("{}.{}.", self.adaptation, self.name)
    }

    fn plan(&self, fixture: &Fixture) -> Plan {
        match self.adaptation {
            "full" => full(&architecture(fixture)),
            _ => lora(&architecture(fixture)),
        }
    }

    /// What is minimised.
    fn objective(&self, fixture: &Fixture) -> Objective {
        let number = |key: &str| self.table[key].as_f64().unwrap_or_else(|| panic!("{key} is a number"));
        let switch = |key: &str| {
            self.table[key]
                .as_bool()
                .unwrap_or_else(|| panic!("{key} is yes or no"))
        };
        match self.table["kind"].as_str() {
            Some("sft") => Objective::Sft,
            Some("dft") => Objective::Dft,
            Some("iw") => Objective::Iw {
                tau: number("tau"),
                cap: number("cap"),
                detach: switch("detach"),
            },
            Some("kl") => Objective::Kl { beta: number("beta") },
            Some("rpsft") => {
                let mut rotation = Rotation {
                    lambda: number("lambda"),
                    directions: number("directions") as usize,
                    normalised: switch("normalised"),
                    ends: switch("ends"),
                    blocks: BTreeMap::new(),
                };
                let (architecture, plan, cache) = (architecture(fixture), self.plan(fixture), SingularCache::new(None));
                let found = rotation.find_blocks(&fixture.checkpoint, &architecture, &plan, &cache, &Silent);
                found.expect("the blocks are found");
                Objective::Rpsft(rotation)
            }
            other => panic!("{other:?} is no objective"),
        }
    }
}

fn manifest() -> Value {
    let text = std::fs::read(fixture::folder().join("objectives/MANIFEST.json")).expect("the manifest is there");
    serde_json::from_slice(&text).expect("the manifest is JSON")
}

fn architecture(fixture: &Fixture) -> Architecture {
    Architecture::resolve(fixture.checkpoint.config()).expect("a supported model")
}

/// A trainer whose parameters have left the start model.
fn trainer<'a, B: Backend>(backend: &'a B, fixture: &Fixture, run: &Run, options: StepOptions) -> Trainer<'a, B> {
    let mut trainer = Trainer::new(backend, &fixture.checkpoint, &run.plan(fixture), options).expect("the model loads");
    for (name, values) in fixture.beginning(&format!("{}.start.", run.adaptation)) {
        trainer.write(name, &values.iter().map(|v| *v as f32).collect::<Vec<_>>());
    }
    trainer
}

/// What a step says of where it begins.
#[derive(Default)]
struct Step {
    /// With the penalty.
    objective: f64,
    cross_entropy: f64,
    penalty: f64,
}

/// One step in as many micro-batches as there are in `micro`.
fn take<B: Backend>(trainer: &mut Trainer<'_, B>, step: u64, micro: &[&[TrainingSample]]) -> Step {
    let all = micro.iter().copied().flatten();
    let tokens = all.map(TrainingSample::trained_tokens).sum();
    let (mut said, mut keys) = (Step::default(), 0);
    let info = |micro| StepInfo {
        step,
        micro,
        tokens,
        lr: 2e-3,
    };
    for (index, samples) in (0..).zip(micro) {
        let mut items = items(samples);
        items.iter_mut().for_each(|item| item.key += keys);
        keys += items.len() as u64;
        let sum = trainer.accumulate(&items, &info(index)).expect("a finite loss");
        said.objective += sum.objective / tokens as f64;
        said.cross_entropy += sum.nats / tokens as f64;
    }
    said.penalty = trainer.apply(&info(0)).expect("a finite gradient").penalty;
    said.objective += said.penalty;
    said
}

/// The first step of a run, and the gradients that the optimiser was given: its first moments where it forgets all earlier ones.
fn first_step<B: Backend>(
    backend: &B,
    fixture: &Fixture,
    run: &Run,
    objective: Objective,
    micro: &[&[TrainingSample]],
) -> (Step, BTreeMap<String, Vec<f64>>) {
    let options = StepOptions {
        betas: [0.0, 0.95],
        accumulation: micro.len(), // one micro-batch: gradients are consumed on the way
        objective,
        ..options()
    };
    let mut trainer = trainer(backend, fixture, run, options);
    let said = take(&mut trainer, 1, micro);
    let names = trainer.tensors().into_iter().map(|(name, _)| name);
    let moments: Vec<_> = names.filter(|name| name.starts_with("exp_avg.")).collect();
    let gradients = moments.into_iter().map(|name| {
        let values = trainer.read(&name).into_iter().map(f64::from).collect();
        (name["exp_avg.".len()..].to_owned(), values)
    });
    (said, gradients.collect())
}

/// Gradients of a step in one micro-batch and in two.
fn gradients<B: Backend>(backend: &B, family: &'static str, tolerance: Tolerance) {
    let fixture = Fixture::of_objectives(family);
    let samples = fixture.samples();
    let mut worst = 0f64;
    for run in Run::all(family) {
        let prefix = run.prefix();
        let expected = ["objectives", "cross_entropies"].map(|what| fixture.values(&format!("{prefix}{what}"))[0]);
        for micro in [&[&samples[..]][..], &[&samples[..1], &samples[1..]]] {
            let objective = run.objective(&fixture);
            let (said, gradients) = first_step(backend, &fixture, &run, objective, micro);
            tolerance.losses(&prefix, &[said.objective, said.cross_entropy], &expected);
            if run.table["kind"] == "rpsft" {
                tolerance.losses(&prefix, &[said.penalty], &[expected[0] - expected[1]]);
            }
            let known = fixture.beginning(&format!("{prefix}grad.")).count();
            assert_eq!(gradients.len(), known, "{prefix}: parameters that are trained");
            for (name, got) in gradients {
                let name = format!("{prefix}grad.{name}");
                worst = worst.max(tolerance.tensor(&name, &got, fixture.values(&name)));
            }
        }
    }
    println!("{family}: gradients of objectives within {worst:.1e}");
}

fn ten_steps<B: Backend>(backend: &B, family: &'static str, tolerance: Tolerance) {
    let fixture = Fixture::of_objectives(family);
    let samples = fixture.samples();
    let mut worst = 0f64;
    for run in Run::all(family) {
        let prefix = run.prefix();
        let objective = run.objective(&fixture);
        let mut trainer = trainer(backend, &fixture, &run, StepOptions { objective, ..options() });
        let curves: (Vec<_>, Vec<_>) = (1..=10)
            .map(|step| take(&mut trainer, step, &[&samples]))
            .map(|said| (said.objective, said.cross_entropy))
            .unzip();
        for (what, got) in [("objectives", curves.0), ("cross_entropies", curves.1)] {
            let name = format!("{prefix}{what}");
            tolerance.losses(&name, &got, fixture.values(&name));
        }
        for (name, expected) in fixture.beginning(&format!("{prefix}adamw.")) {
            let got: Vec<f64> = trainer.read(name).into_iter().map(f64::from).collect();
            worst = worst.max(tolerance.tensor(&format!("{prefix}adamw.{name}"), &got, expected));
        }
    }
    println!("{family}: parameters after ten steps of objectives within {worst:.1e}");
}

#[test]
fn gradients_agree_in_f64() {
    FAMILIES.iter().for_each(|family| gradients(&Reference, family, DOUBLE));
}

#[test]
fn gradients_agree_in_f32() {
    FAMILIES
        .iter()
        .for_each(|family| gradients(&Cpu::new(), family, SINGLE));
}

#[test]
fn ten_steps_agree_in_f64() {
    FAMILIES.iter().for_each(|family| ten_steps(&Reference, family, DOUBLE));
}

#[test]
fn ten_steps_agree_in_f32() {
    FAMILIES.iter().for_each(|family| ten_steps(&Cpu::new(), family, STEPS));
}

/// Kept in memory, on disk, some of it in each, or some of it nowhere; beside the outputs of the block below, kept in the same way.
#[test]
fn keeping_what_the_start_model_says_changes_no_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (backend, fixture) = (Cpu::new(), Fixture::of_objectives("llama-tied"));
    let samples = fixture.samples();
    let mut asked = 0;
    for run in Run::all(fixture.name) {
        let prefix = run.prefix();
        if !["iw", "kl"].map(Value::from).contains(&run.table["kind"]) {
            continue;
        }
        asked += 1;
        let parameters = |start: Option<[u64; 2]>| {
            let start = start.map(|[memory_bytes, disk_bytes]| CacheOptions {
                memory_bytes,
                disk_bytes,
                folder: folder.path().into(),
            });
            let objective = run.objective(&fixture);
            let options = StepOptions {
                objective,
                prefix: start.clone(),
                start,
                ..options()
            };
            let mut trainer = trainer(&backend, &fixture, &run, options);
            for step in 1..=3 {
                take(&mut trainer, step, &[&samples[..2], &samples[2..]]);
            }
            let names: Vec<_> = trainer.tensors().into_iter().map(|(name, _)| name).collect();
            names.iter().map(|name| trainer.read(name)).collect::<Vec<_>>()
        };
        let expected = parameters(None);
        for sizes in [[1 << 20, 0], [0, 1 << 20], [10 * 48 * 4, 1 << 20], [10 * 48 * 4, 0]] {
            assert_eq!(parameters(Some(sizes)), expected, "{prefix}: {sizes:?}");
        }
    }
    assert_eq!(asked, 6);
}

/// The largest difference of any gradient from a run's own.
fn worst(fixture: &Fixture, run: &Run, objective: Objective) -> f64 {
    let (_, gradients) = first_step(&Cpu::new(), fixture, run, objective, &[&fixture.samples()]);
    let expected = |name: &str| format!("{}grad.{name}", run.prefix());
    let of = gradients
        .iter()
        .map(|(name, got)| apart(name, got, fixture.values(&expected(name)))[0]);
    of.fold(0.0, f64::max)
}

/// Each option, misread, puts gradients far out of tolerance.
#[test]
fn a_misread_option_shows() {
    let misreadings = [
        ("lora", "dft", "kind", json!("sft")),
        ("lora", "sft", "kind", json!("dft")),
        ("lora", "iw", "tau", json!(0.81)),
        ("lora", "iw-capped", "cap", json!(1.06)),
        ("lora", "iw-capped", "detach", json!(false)),
        ("full", "iw-capped", "cap", json!(16)),
        ("lora", "iw-derived", "detach", json!(true)),
        ("lora", "kl", "beta", json!(0.41)),
        ("full", "kl", "beta", json!(0.0)),
        ("lora", "rpsft", "lambda", json!(0.202)),
        ("lora", "rpsft", "directions", json!(15)),
        ("lora", "rpsft", "directions", json!(17)),
        ("lora", "rpsft", "directions", json!(48)),
        ("lora", "rpsft", "normalised", json!(true)),
        ("full", "rpsft", "ends", json!(false)),
        ("full", "rpsft", "lambda", json!(0.22)),
    ];
    let fixture = Fixture::of_objectives("llama-tied");
    for (adaptation, name, key, value) in misreadings {
        let all = Run::all("llama-tied").into_iter();
        let mut found = all.filter(|run| run.adaptation == adaptation && run.name == name);
        let mut run = found
            .next()
            .unwrap_or_else(|| panic!("there is no run {adaptation}.{name}"));
        assert_ne!(run.table[key], value);
        run.table[key] = value;
        let objective = run.objective(&fixture);
        let worst = worst(&fixture, &run, objective);
        assert!(
            worst > 10.0 * SINGLE.frobenius,
            "{adaptation}.{name}, {key}: {worst:.1e} goes unnoticed"
        );
    }
}

/// So do another matrix's singular directions, and left and right ones in each other's place.
#[test]
fn wrong_directions_show() {
    let fixture = Fixture::of_objectives("llama-tied");
    let lower = |id: &ParameterId, block: &SingularBlock| {
        let name = id.name(&architecture(&fixture)).replace("layers.1.", "layers.0.");
        let values = fixture.checkpoint.tensor(&name).expect("the matrix is there").to_f32();
        SingularBlock::of(&name, &values, block.shape, block.directions(), &Silent).expect("it converges")
    };
    let exchanged = |_: &ParameterId, block: &SingularBlock| {
        let mut block = block.clone();
        if block.shape[0] == block.shape[1] {
            std::mem::swap(&mut block.left, &mut block.right);
        }
        block
    };
    type Wrong<'a> = &'a dyn Fn(&ParameterId, &SingularBlock) -> SingularBlock;
    let wrong: [Wrong<'_>; 2] = [&lower, &exchanged];
    for (run, wrong) in Run::all(fixture.name)
        .iter()
        .flat_map(|run| wrong.map(|wrong| (run, wrong)))
    {
        let mut objective = run.objective(&fixture);
        let Objective::Rpsft(rotation) = &mut objective else {
            continue;
        };
        for (id, block) in &mut rotation.blocks {
            *block = wrong(id, block);
        }
        let worst = worst(&fixture, run, objective);
        assert!(
            worst > 10.0 * SINGLE.frobenius,
            "{}: {worst:.1e} goes unnoticed",
            run.prefix()
        );
    }
}

//! Adapters written here give the same logits in Python PEFT, and adapters written by PEFT the same here.
//!
//! Run with `MIDBLOCK_PYTHON=/path/to/python cargo test --release --workspace --test peft_python -- --ignored`; that Python
//! needs torch, transformers, peft and safetensors.

#![allow(clippy::unwrap_used)] // how a test fails

use midblock::{
    adapt::{Kind, LoraOptions, Plan, Recipe, Scaling, initial_a},
    checkpoint::{Checkpoint, write_adapter},
    hub::HubOptions,
    model::{Architecture, Batch, Decoder, ParameterId, Scratch},
    rng,
};
use midblock_kernels::{Backend, Cpu};
use rand::RngExt;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Measured: 5.3e-6 for adapters written here; 4.3e-5 for those of PEFT, whose random B is larger.
const TOLERANCE: f32 = 1e-4;

const IDS: [u32; 13] = [3, 130, 17, 17, 64, 5, 99, 0, 42, 88, 7, 121, 3];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn open(base: &Path, adapter: Option<&Path>) -> Checkpoint {
    let base = base.display().to_string();
    let spec = adapter.map_or(base.clone(), |adapter| format!("{base}+{}", adapter.display()));
    Checkpoint::open(&spec, &HubOptions::from_env(), &|_| {}).unwrap_or_else(|error| panic!("{spec}: {error}"))
}

/// Logits of the engine, (T, V).
fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let backend = Cpu::new();
    let decoder = Decoder::load(&backend, checkpoint).unwrap();
    let (rope, mut scratch) = (decoder.rope(IDS.len()), Scratch::new(&backend));
    let hidden = decoder.forward(&backend, &Batch::new(&[IDS]), &rope, &mut scratch, |_, _| {});
    let logits = decoder
        .ends()
        .logits(&backend, &decoder.ends().final_norm(&backend, &hidden));
    let mut values = vec![0f32; backend.len(&logits)];
    backend.read(&logits, 0, &mut values);
    values
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Runs the jobs in Python.
fn python(dir: &Path, jobs: &[Value]) {
    let python = std::env::var("MIDBLOCK_PYTHON").expect("MIDBLOCK_PYTHON names a Python with torch and peft");
    let list = dir.join("jobs.json");
    fs::write(&list, Value::from(jobs.to_vec()).to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/peft_logits.py");
    let output = Command::new(&python)
        .arg(script)
        .arg(list)
        .env("HF_HUB_OFFLINE", "1")
        .output();
    let output = output.unwrap_or_else(|error| panic!("{python}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn job(dir: &Path, number: usize, base: &str) -> Value {
    let path = |kind| dir.join(format!("{kind}{number}"));
    json!({"base": fixture(base), "adapter": path("adapter"), "ids": IDS, "out": path("logits")})
}

/// The engine's logits of the job's base and adapter against those that Python wrote; the adapter must matter.
fn compare(job: &Value) -> f32 {
    let path = |key: &str| PathBuf::from(job[key].as_str().unwrap());
    let bytes = fs::read(path("out")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = tensors.tensor("logits").unwrap();
    let theirs: Vec<f32> = values
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let (base, adapter) = (path("base"), path("adapter"));
    assert!(
        largest_difference(&logits(&open(&base, None)), &theirs) > 0.1,
        "the adapter does nothing"
    );
    largest_difference(&logits(&open(&base, Some(&adapter))), &theirs)
}

/// Writes an adapter of random A and B.
fn write(job: &Value, base: &str, layers: &str, modules: &str, scaling: Scaling) {
    let checkpoint = open(&fixture(base), None);
    let architecture = Architecture::resolve(checkpoint.config()).unwrap();
    let recipe = Recipe {
        kind: Kind::Lora(LoraOptions {
            rank: 4,
            alpha: None,
            dropout: 0.05,
            scaling,
        }),
        layers: layers.parse().unwrap(),
        modules: Some(modules.parse().unwrap()),
        extra: Vec::new(),
        seed: 42,
    };
    let plan = Plan::resolve(&architecture, &recipe, None).unwrap();
    let values = |id: ParameterId, [rows, columns]: [usize; 2]| {
        let ParameterId::Block { block, part, kind } = id else {
            panic!("{id:?}")
        };
        if kind == midblock::model::Kind::LoraA {
            return Ok(initial_a(42, block, part, rows, columns));
        }
        let mut random = rng::stream(42, "b", &[block as u64, part as u64]);
        Ok((0..rows * columns).map(|_| random.random::<f32>() - 0.5).collect())
    };
    let adapter = PathBuf::from(job["adapter"].as_str().unwrap());
    write_adapter(&adapter, base, &architecture, &plan, values).unwrap();
}

#[test]
#[ignore = "needs MIDBLOCK_PYTHON, a Python with torch and peft"]
fn adapters_written_here_are_the_same_in_peft() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("llama-tied", "segments:5,-1,3", "attention", Scaling::FixedRatio),
        ("qwen2", "mid", "all-linear", Scaling::Rslora),
        ("qwen2", "all", "q_proj,v_proj", Scaling::FixedAlpha),
        (
            "qwen3-layer-types",
            "all",
            "model.layers.0.*.q_proj,model.layers.2.mlp.*",
            Scaling::FixedAlpha,
        ),
        ("olmo2", "last:2", "k_proj,down_proj", Scaling::FixedAlpha),
        ("mistral", "segments:2,4,8", "o_proj,gate_proj", Scaling::Rslora),
    ];
    let jobs: Vec<Value> = (0..cases.len())
        .map(|number| job(dir.path(), number, cases[number].0))
        .collect();
    for (job, (base, layers, modules, scaling)) in jobs.iter().zip(cases) {
        write(job, base, layers, modules, scaling);
    }
    python(dir.path(), &jobs);
    for (job, case) in jobs.iter().zip(cases) {
        let difference = compare(job);
        println!("{case:?}: {difference:.1e}");
        assert!(difference <= TOLERANCE, "{case:?}: {difference:e}");
    }
}

#[test]
#[ignore = "needs MIDBLOCK_PYTHON, a Python with torch and peft"]
fn adapters_written_by_peft_are_the_same_here() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (
            "llama-bias",
            json!({
                "r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj"], "layers_to_transform": [0, 2],
                "rank_pattern": {"layers.2.self_attn.q_proj": 7, "up_proj": 2}, "alpha_pattern": {"v_proj": 11},
            }),
        ),
        (
            "qwen3",
            json!({"r": 3, "lora_alpha": 5, "use_rslora": true, "target_modules": r".*\.[01]\..*(k|o|down)_proj"}),
        ),
        (
            "mistral",
            json!({
                "r": 2, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": true,
                "rank_pattern": {"^model.layers.1.mlp.gate_proj": 5}, "alpha_pattern": {"model.layers.0.*": 3},
            }),
        ),
        (
            "olmo2",
            json!({
                "r": 6, "lora_alpha": 12, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": 1,
                "layers_pattern": "layers",
            }),
        ),
        (
            "llama-tied",
            json!({"r": 4, "target_modules": ["model.layers.1.self_attn.q_proj"], "lora_dropout": 0.3}),
        ),
    ];
    let with_lora = |(number, (base, lora)): (usize, &(&str, Value))| {
        let mut job = job(dir.path(), number, base);
        job["lora"] = lora.clone();
        job
    };
    let jobs: Vec<Value> = cases.iter().enumerate().map(with_lora).collect();
    python(dir.path(), &jobs);
    for job in &jobs {
        let difference = compare(job);
        println!("{}: {difference:.1e}", job["lora"]);
        assert!(difference <= TOLERANCE, "{}: {difference:e}", job["lora"]);
    }
}

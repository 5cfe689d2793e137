//! `midblock quickstart`: the main job on a pair of models inside of this binary.

use crate::{analyze, args};
use anyhow::{Context, Result};
use midblock::{
    metrics::Options,
    probe::Pooling,
    run::RunWriter,
    study::{AnalyzeConfig, Layers, Variant},
    tokens::data::DataSpec,
};
use std::{fs, path::Path};

/// The embedded files: a base, its fine-tuned variant and the samples to look at them with.
const FILES: [(&str, &[u8]); 7] = [
    (
        "base/config.json",
        include_bytes!("../assets/quickstart/base/config.json"),
    ),
    (
        "base/model.safetensors",
        include_bytes!("../assets/quickstart/base/model.safetensors"),
    ),
    (
        "base/tokenizer.json",
        include_bytes!("../assets/quickstart/base/tokenizer.json"),
    ),
    (
        "sft/config.json",
        include_bytes!("../assets/quickstart/sft/config.json"),
    ),
    (
        "sft/model.safetensors",
        include_bytes!("../assets/quickstart/sft/model.safetensors"),
    ),
    (
        "sft/tokenizer.json",
        include_bytes!("../assets/quickstart/sft/tokenizer.json"),
    ),
    ("data.jsonl", include_bytes!("../assets/quickstart/data.jsonl")),
];

/// Unpacks the pair into a temporary folder and analyses it; a finished quickstart in the same place is replaced.
pub fn run(args: &args::Quickstart, common: &args::Common) -> Result<()> {
    let writer = RunWriter::create(&args.out, true)?;
    let unpacked = tempfile::tempdir().context("creating a temporary folder for the embedded models")?;
    for (name, bytes) in FILES {
        let path = unpacked.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).context("unpacking the embedded models")?;
        fs::write(&path, bytes).with_context(|| format!("unpacking {}", path.display()))?;
    }
    let at = |name: &str| unpacked.path().join(name).display().to_string();
    let config = AnalyzeConfig {
        base: at("base"),
        variants: vec![Variant {
            name: "sft".to_owned(),
            checkpoint: at("sft"),
        }],
        data: vec![DataSpec {
            name: "problems".to_owned(),
            source: at("data.jsonl"),
        }],
        format: None,
        samples: 100,
        token_samples: 50,
        max_length: 128,
        layers: Layers::All,
        pooling: Pooling::Mean,
        resamples: 100,
        seed: 42,
        metrics: Options::default(),
    };
    let mut run = analyze::compute(&config, common)?;
    for model in &mut run.info.models {
        model.label = format!("embedded in midblock: {}", model.name); // the folder is gone when this is read
    }
    for dataset in &mut run.info.datasets {
        dataset.source = "embedded in midblock".to_owned();
    }
    analyze::publish(&run, writer)
}

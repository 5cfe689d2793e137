//! Readers of bytes nobody vouches for, one function per target of `fuzz/`. Built under `cargo fuzz` only.
//!
//! A target passes if the reader returns, whatever it returns.

use crate::{
    checkpoint::{ConfigJson, gguf, lora_config::LoraConfig, shards},
    model::Architecture,
    tokens::data::{parse_csv, parse_json, parse_jsonl, parse_text},
};
use std::path::Path;

/// The header of a safetensors file.
pub fn safetensors_header(bytes: &[u8]) {
    _ = shards::read_header(Path::new("fuzz"), bytes);
}

/// `model.safetensors.index.json`.
pub fn safetensors_index(bytes: &[u8]) {
    _ = shards::read_index(Path::new("fuzz"), bytes);
}

/// A whole GGUF file: metadata, tensor directory, configuration and vocabulary.
pub fn gguf(bytes: &[u8]) {
    _ = gguf::parse(bytes, Path::new("fuzz"));
}

/// `adapter_config.json`, and its patterns on a module's name.
pub fn adapter_config(bytes: &[u8]) {
    const MODULE: &str = "model.layers.3.self_attn.q_proj";
    if let Ok(config) = LoraConfig::parse(Path::new("fuzz"), bytes) {
        _ = config.targets(MODULE);
        _ = config.rank_and_scale(MODULE);
        _ = config.check_all_used(&[MODULE]);
    }
}

/// `config.json`, resolved to an architecture and what follows from its sizes.
pub fn config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else {
        return;
    };
    if let Ok(architecture) = Architecture::resolve(&ConfigJson {
        path: "fuzz".into(),
        value,
    }) {
        _ = architecture.parameters();
        _ = architecture.rope.frequencies(architecture.head_dim.min(1 << 10));
    }
}

/// A data file read as JSONL, as JSON, as CSV and as text.
pub fn data(bytes: &[u8]) {
    let path = Path::new("fuzz");
    _ = parse_jsonl(path, bytes, &mut |_, _| Ok(()));
    _ = parse_json(path, bytes, &mut |_, _| Ok(()));
    _ = parse_csv(path, bytes, &mut |_, _| Ok(()));
    _ = parse_text(path, bytes, &mut |_, _| Ok(()));
}

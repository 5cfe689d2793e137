//! Readers of bytes nobody vouches for, one function per target of `fuzz/`. Built under `cargo fuzz` only.
//!
//! A target passes if the reader returns, whatever it returns.

use crate::checkpoint::{gguf, lora_config::LoraConfig, shards};
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

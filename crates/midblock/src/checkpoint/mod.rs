//! A folder or file is a set of named tensors.
//!
//! Whatever the format on disk, tensors go by their Hugging Face names, the configuration is that of `config.json`, and
//! weights stay where they are: memory-mapped, in their storage format.

mod tensor;

pub use tensor::{Tensor, TensorSource};

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The model configuration in the terms of Hugging Face's `config.json`, whatever file it came from.
#[derive(Clone, Debug)]
pub struct ConfigJson {
    /// File to name in errors.
    pub path: PathBuf,
    /// The JSON object; for GGUF, made from the metadata.
    pub value: serde_json::Map<String, serde_json::Value>,
}

/// Where a checkpoint's tokenizer is.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// A `tokenizer.json`.
    File(PathBuf),
    /// The vocabulary inside of a GGUF file, already converted to the text of a `tokenizer.json`.
    Embedded {
        /// The GGUF file.
        path: PathBuf,
        /// JSON of the same schema as `tokenizer.json`.
        json: Arc<str>,
    },
    /// None was found next to the weights.
    Missing {
        /// The folder that was searched.
        path: PathBuf,
    },
}

/// One LoRA pair: `ΔW = scale · B · A`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// R.
    pub rank: usize,
    /// `lora_alpha / r`, or `lora_alpha / √r` with rsLoRA.
    pub scale: f32,
    /// A, (R, in_features).
    pub a: Vec<f32>,
    /// B, (out_features, R).
    pub b: Vec<f32>,
}

/// A PEFT LoRA adapter, by the name of the parameter it changes.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The adapter's folder.
    pub path: PathBuf,
    /// `model.layers.3.self_attn.q_proj.weight` → its pair.
    pub pairs: BTreeMap<String, LowRank>,
}

/// An opened checkpoint, with an adapter on top if one was named.
pub struct Checkpoint {
    label: String,
    path: PathBuf,
    config: ConfigJson,
    source: Box<dyn TensorSource>,
    tokenizer: TokenizerSource,
    chat_template: Option<String>,
    adapter: Option<Adapter>,
    files: Vec<PathBuf>,
}

impl Checkpoint {
    /// What the user typed.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Folder or file on disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration.
    pub fn config(&self) -> &ConfigJson {
        &self.config
    }

    /// Where its tokenizer is.
    pub fn tokenizer(&self) -> &TokenizerSource {
        &self.tokenizer
    }

    /// Jinja source of the chat template, if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The adapter on top, if one was named.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Every file whose content decides the model's behaviour, for hashing.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The stored tensors.
    pub fn tensors(&self) -> &dyn TensorSource {
        self.source.as_ref()
    }
}

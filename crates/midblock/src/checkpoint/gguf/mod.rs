//! One GGUF file: configuration, tokenizer, chat template and weights of a model, the latter still quantised.
//!
//! Tensors come out under their Hugging Face names and in Hugging Face's order of rows, so nothing else in the project
//! has to know that a model came from a GGUF file. Read are versions 2 and 3, little endian, of the architectures `llama`,
//! `qwen2`, `qwen3` and `olmo2`. Weights are not copied from the memory map, except for the query and key projections of
//! `llama`, whose rows the file has in another order.

mod config;
mod header;
mod metadata;
mod names;
mod vocabulary;

#[cfg(test)]
mod tests;

use super::{ConfigJson, Tensor, TensorSource, TokenizerSource, mapped::MappedFile};
use crate::{Error, Result};
use config::{Architecture, Heads};
use header::{FORMAT, Info};
use midblock_kernels::{Dtype, SharedBytes};
use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

/// What a GGUF file holds.
pub struct GgufCheckpoint {
    /// The metadata in the terms of `config.json`.
    pub config: ConfigJson,
    /// The vocabulary as a `tokenizer.json`.
    pub tokenizer: TokenizerSource,
    /// Jinja source of the chat template, if it has one.
    pub chat_template: Option<String>,
    /// The weights.
    pub source: Box<dyn TensorSource>,
}

/// Opens the file at `path`; weights are mapped, not read.
///
/// # Errors
/// [`Error::Io`] if it cannot be mapped; [`Error::Malformed`], [`Error::ConfigKey`] or [`Error::MissingTensor`] if it is
/// damaged or holds something that is not supported.
pub fn open(path: &Path) -> Result<GgufCheckpoint> {
    let file = MappedFile::open(path)?;
    let Contents {
        config,
        tokenizer,
        chat_template,
        tensors,
    } = parse((*file).as_ref(), path)?;
    let source = Box::new(Source { file, tensors });
    Ok(GgufCheckpoint {
        config,
        tokenizer,
        chat_template,
        source,
    })
}

/// Everything in a file but the weights themselves.
#[doc(hidden)]
#[derive(Debug)]
pub struct Contents {
    config: ConfigJson,
    tokenizer: TokenizerSource,
    chat_template: Option<String>,
    tensors: BTreeMap<String, Entry>,
}

/// A weight's place in the file.
#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
    /// Number of heads whose rows are interleaved.
    interleaved: Option<usize>,
}

/// Interprets `bytes` as a GGUF file. Pure: `path` only names it in errors. Never panics, whatever the bytes.
#[doc(hidden)]
pub fn parse(bytes: &[u8], path: &Path) -> Result<Contents> {
    let (metadata, infos) = header::read(path, bytes)?;
    let architecture = Architecture::from_metadata(&metadata)?;
    let rope_divisors = infos.iter().find(|info| info.name == "rope_freqs.weight").map(|info| {
        let mut divisors = vec![0.0; info.shape.iter().product()];
        info.dtype.widen(&bytes[info.range.clone()], &mut divisors);
        divisors
    });
    let (config, heads) = config::config_json(architecture, &metadata, &infos, rope_divisors.as_deref())?;
    let rows = infos
        .iter()
        .find(|info| info.name == "token_embd.weight")
        .map_or(0, |info| info.shape[0]);
    let tokenizer = match vocabulary::tokenizer_json(&metadata, rows)? {
        Some(json) => TokenizerSource::Embedded {
            path: path.to_path_buf(),
            json: json.into(),
        },
        None => TokenizerSource::Missing {
            path: path.to_path_buf(),
        },
    };
    let chat_template = metadata.text("tokenizer.chat_template")?.map(str::to_owned);

    let mut tensors = BTreeMap::new();
    for info in infos.into_iter().filter(|info| info.name != "rope_freqs.weight") {
        let stored = info.name;
        let name = names::hugging_face(architecture, stored).ok_or_else(|| {
            Error::malformed(
                path,
                FORMAT,
                format!("tensor `{stored}` is not part of a model of this architecture"),
            )
        })?;
        let entry = Entry::new(info, architecture, heads).map_err(|problem| Error::malformed(path, FORMAT, problem))?;
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(Error::malformed(
                path,
                FORMAT,
                format!("tensor `{name}`, here `{stored}`, occurs twice"),
            ));
        }
    }
    let config = ConfigJson {
        path: path.to_path_buf(),
        value: config,
    };
    Ok(Contents {
        config,
        tokenizer,
        chat_template,
        tensors,
    })
}

impl Entry {
    /// Decides whether the rows must be put in order; `Err` says why they cannot.
    fn new(info: Info<'_>, architecture: Architecture, heads: Heads) -> Result<Self, String> {
        let Info {
            name,
            dtype,
            shape,
            range,
        } = info;
        let projection = (name.strip_prefix("blk.")).and_then(|rest| rest.split('.').nth(1));
        let interleaved = match (architecture, projection) {
            (Architecture::Llama, Some("attn_q")) => Some(heads.query),
            (Architecture::Llama, Some("attn_k")) => Some(heads.key_value),
            _ => None,
        };
        if let Some(heads_here) = interleaved {
            if Some(shape[0]) != heads_here.checked_mul(heads.dim) {
                return Err(format!(
                    "tensor `{name}` has {} rows, expected {heads_here} heads of {}",
                    shape[0], heads.dim
                ));
            }
            if shape.len() == 1 && dtype.block_len() > 1 {
                return Err(format!(
                    "tensor `{name}` is a bias stored as {dtype}, expected plain floats"
                ));
            }
        }
        Ok(Self {
            dtype,
            shape,
            range,
            interleaved,
        })
    }
}

/// Mapped weights by Hugging Face name.
struct Source {
    file: Arc<MappedFile>,
    tensors: BTreeMap<String, Entry>,
}

impl TensorSource for Source {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.tensors
            .get(name)
            .map(|entry| (entry.dtype, entry.shape.as_slice()))
    }

    fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(entry) = self.tensors.get(name) else {
            return Ok(None);
        };
        let mapped = SharedBytes::new(self.file.clone(), entry.range.clone());
        let bytes = match entry.interleaved {
            None => mapped,
            Some(heads) => SharedBytes::owned(names::undo_interleaving(mapped.as_ref(), heads, entry.shape[0])),
        };
        Ok(Some(Tensor {
            name: name.to_owned(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            bytes,
        }))
    }
}

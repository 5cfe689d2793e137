//! An ordinary Hugging Face folder from any checkpoint: config.json, weights in safetensors, tokenizer, chat template.
//!
//! Weights stream through memory one tensor at a time, in the order of the forward pass, into shards of a bounded size.
//! The folder appears as a whole or not at all. Formats that transformers has no name for become f32.

use super::{
    Checkpoint, ConfigJson, Tensor, TokenizerSource,
    folder::{CHAT_TEMPLATE, CONFIG, TOKENIZER, TOKENIZER_CONFIG},
    stream::{Declared, write_tensors},
};
use crate::{
    Error, Result,
    atomic::{PARTIAL, remove},
    model::{Architecture, BlockTensors, ParameterId},
    progress::{Progress, Unit},
    run::{lock, write_bytes},
};
use midblock_kernels::Dtype;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Small files that belong to a model and are taken over as they are.
const BESIDE: [&str; 9] = [
    "generation_config.json",
    TOKENIZER,
    TOKENIZER_CONFIG,
    CHAT_TEMPLATE,
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// How weights are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WriteOptions {
    /// F32, F16 or BF16 for every tensor; `None` keeps each tensor's own of these, and makes f32 of any other.
    pub dtype: Option<Dtype>,
    /// Size above which weights are split; a larger tensor gets a file of its own.
    pub max_shard_bytes: u64,
}

impl Default for WriteOptions {
    /// Own formats, 5 GB.
    fn default() -> Self {
        Self {
            dtype: None,
            max_shard_bytes: 5_000_000_000,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Tensors.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Bytes of weights.
    pub bytes: u64,
    /// Files they are in.
    pub shards: usize,
}

impl Checkpoint {
    /// Writes the model as the new folder `out`. `values` gives a tensor's numbers when its turn comes: its own
    /// ([`Tensor::to_f32`]), as they are stored and not quantised, or changed ones. An adapter on top is not applied by itself. A tied head is not written twice.
    ///
    /// # Errors
    /// [`Error::Argument`] if `out` is there already, [`Error::MissingTensor`] or [`Error::TensorShape`] if the checkpoint is
    /// not complete, [`Error::ConfigKey`] if transformers has no such model,
    /// [`Error::Io`], [`Error::Interrupted`], and those of `values`. Nothing is left behind then.
    pub fn write(
        &self,
        out: &Path,
        options: &WriteOptions,
        progress: &dyn Progress,
        mut values: impl FnMut(&Tensor) -> Result<Vec<f32>>,
    ) -> Result<Written> {
        let architecture = Architecture::resolve(&self.config)?;
        self.check_complete(&architecture)?;
        let tensors = self.declare(&architecture, options.dtype);
        let config = written_config(&self.config, &tensors, options.dtype.is_some())?;
        let shards = cut(tensors, options.max_shard_bytes);
        let mut written = Written {
            tensors: 0,
            parameters: 0,
            bytes: 0,
            shards: shards.len(),
        };
        for tensor in shards.iter().flatten() {
            written.tensors += 1;
            written.parameters += tensor.len();
            written.bytes += tensor.bytes() as u64;
        }
        create_folder(out, |folder| {
            write_json(&folder.join(CONFIG), &Value::Object(config))?;
            self.write_beside(folder)?;
            progress.begin("write", written.bytes, Unit::Bytes);
            for (number, shard) in shards.iter().enumerate() {
                let path = folder.join(shard_name(number, shards.len()));
                write_tensors(&path, shard, |declared| {
                    if progress.cancelled() {
                        return Err(Error::Interrupted);
                    }
                    let values = values(&self.stored(&declared.name)?);
                    self.source.release(&declared.name);
                    progress.advance(declared.bytes() as u64);
                    values
                })?;
            }
            match shards.len() {
                1 => Ok(()),
                _ => write_json(
                    &folder.join("model.safetensors.index.json"),
                    &index(&shards, written.bytes),
                ),
            }
        })?;
        Ok(written)
    }

    /// Checks names and shapes of every parameter: a wrong one is better known before the work than in the middle.
    fn check_complete(&self, architecture: &Architecture) -> Result<()> {
        BlockTensors::check_all(self, architecture)?;
        let mut outside = ParameterId::all(architecture)
            .into_iter()
            .filter(|(id, _)| id.block().is_none());
        outside.try_for_each(|(id, shape)| self.check_shape(&id.name(architecture), &shape, "vocab_size, hidden_size"))
    }

    /// The tensors to write, in the order of the forward pass.
    fn declare(&self, architecture: &Architecture, dtype: Option<Dtype>) -> Vec<Declared> {
        let names = self.source.names().into_iter();
        let mut ordered: Vec<(Option<ParameterId>, &str)> = names
            .map(|name| (ParameterId::parse(name, architecture), name))
            .collect();
        ordered.sort_by_key(|(id, name)| (id.is_none(), *id, *name));
        let is_second_head = |name: &str| architecture.tied_head && name == ParameterId::Head.name(architecture);
        let kept = ordered
            .into_iter()
            .map(|(_, name)| name)
            .filter(|name| !is_second_head(name));
        let declared = |name: &str| {
            let (stored, shape) = self.source.describe(name)?;
            let own = match stored {
                Dtype::F16 | Dtype::BF16 => stored,
                _ => Dtype::F32,
            };
            Some(Declared {
                name: name.to_owned(),
                dtype: dtype.unwrap_or(own),
                shape: shape.to_vec(),
            })
        };
        kept.filter_map(declared).collect()
    }

    /// Tokenizer, chat template and generation settings.
    fn write_beside(&self, folder: &Path) -> Result<()> {
        if let TokenizerSource::Embedded { json, .. } = &self.tokenizer {
            write_bytes(&folder.join(TOKENIZER), json.as_bytes())?;
            write_json(&folder.join(TOKENIZER_CONFIG), &tokenizer_config(json, &self.config))?;
            return match &self.chat_template {
                Some(template) => write_bytes(&folder.join(CHAT_TEMPLATE), template.as_bytes()),
                None => Ok(()),
            };
        }
        let from = if self.path.is_dir() {
            self.path.as_path()
        } else {
            self.path.parent().unwrap_or(Path::new("."))
        };
        for name in BESIDE {
            let path = from.join(name);
            if path.is_file() {
                write_bytes(&folder.join(name), &fs::read(&path).map_err(Error::io("read", &path))?)?;
            }
        }
        Ok(())
    }
}

/// Refuses a folder that is there and holds anything.
///
/// # Errors
/// [`Error::Argument`].
pub fn check_new(out: &Path) -> Result<()> {
    let is_empty = || fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.symlink_metadata().is_ok() && !(out.is_dir() && is_empty()) {
        return Err(Error::Argument {
            what: "--out".to_owned(),
            value: out.display().to_string(),
            problem: "it is there already".to_owned(),
            help: "name a new or empty folder".to_owned(),
        });
    }
    Ok(())
}

/// Creates `out` with what `fill` puts into it, or nothing. It is filled as `.partial-NAME` beside it; what a killed process left
/// there is removed.
pub(crate) fn create_folder(out: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    check_new(out)?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let partial = parent.join(format!("{PARTIAL}{name}"));
    fs::create_dir_all(&partial).map_err(Error::io("create a folder in", parent))?;
    let _lock = lock::take(&partial)?;
    let filled = empty(&partial)
        .and_then(|()| fill(&partial))
        .and_then(|()| publish(&partial, out));
    if filled.is_err() {
        _ = fs::remove_dir_all(&partial); // the error says more than that this failed too
    }
    filled
}

/// Removes everything from a folder but its lock.
fn empty(folder: &Path) -> Result<()> {
    let mut entries = fs::read_dir(folder).map_err(Error::io("list", folder))?.flatten();
    entries.try_for_each(|entry| match entry.file_name() == lock::NAME {
        true => Ok(()),
        false => remove(&entry.path()),
    })
}

/// Gives a folder its name.
fn publish(partial: &Path, out: &Path) -> Result<()> {
    lock::remove_name(partial)?;
    if out.is_dir() {
        fs::remove_dir(out).map_err(Error::io("replace", out))?;
    }
    fs::rename(partial, out).map_err(Error::io("rename to", out))
}

/// Fills shards one after another; none is empty.
fn cut(tensors: Vec<Declared>, max_bytes: u64) -> Vec<Vec<Declared>> {
    let mut shards: Vec<Vec<Declared>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        let bytes = tensor.bytes() as u64;
        if filled > 0 && filled + bytes > max_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("invariant: never empty").push(tensor);
    }
    shards
}

fn shard_name(number: usize, shards: usize) -> PathBuf {
    match shards {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{shards:05}.safetensors", number + 1).into(),
    }
}

fn index(shards: &[Vec<Declared>], bytes: u64) -> Value {
    let place = |(number, shard): (usize, &Vec<Declared>)| {
        let name = Value::from(shard_name(number, shards.len()).display().to_string());
        shard
            .iter()
            .map(|tensor| (tensor.name.clone(), name.clone()))
            .collect::<Vec<_>>()
    };
    let weight_map: serde_json::Map<_, _> = shards.iter().enumerate().flat_map(place).collect();
    json!({"metadata": {"total_size": bytes}, "weight_map": weight_map})
}

/// The configuration with the class that transformers loads it by, and the format of the weights.
fn written_config(
    config: &ConfigJson,
    tensors: &[Declared],
    converted: bool,
) -> Result<serde_json::Map<String, Value>> {
    if config
        .value
        .get("rope_scaling")
        .is_some_and(|scaling| scaling["rope_type"] == "factors")
    {
        return Err(Error::ConfigKey {
            path: config.path.clone(),
            key: "rope_freqs.weight".to_owned(),
            expected: "divisors of a rule that config.json can express".to_owned(),
            got: "others".to_owned(),
            help: "transformers could not load this model; use the original checkpoint".to_owned(),
        });
    }
    let mut value = config.value.clone();
    if !value.contains_key("architectures") {
        let class = match config.value.get("model_type").and_then(Value::as_str) {
            Some("mistral") => "MistralForCausalLM",
            Some("qwen2") => "Qwen2ForCausalLM",
            Some("qwen3") => "Qwen3ForCausalLM",
            Some("olmo2") => "Olmo2ForCausalLM",
            _ => "LlamaForCausalLM",
        };
        value.insert("architectures".to_owned(), json!([class]));
    }
    let uniform = |dtype| tensors.iter().all(|tensor| tensor.dtype == dtype);
    let name = match (uniform(Dtype::F16), uniform(Dtype::BF16)) {
        (true, _) => "float16",
        (_, true) => "bfloat16",
        _ => "float32",
    };
    // transformers 4 and 5 spell the key differently
    let stated = ["dtype", "torch_dtype"]
        .into_iter()
        .find(|key| value.contains_key(*key));
    if converted || stated.is_none() {
        value.insert(stated.unwrap_or("torch_dtype").to_owned(), json!(name));
    }
    Ok(value)
}

/// What transformers wants beside a tokenizer.json: the class, and which tokens begin and end a sequence.
fn tokenizer_config(tokenizer: &str, config: &ConfigJson) -> Value {
    let tokenizer: Value = serde_json::from_str(tokenizer).unwrap_or_default();
    let mut value = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
    for (key, id) in [("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")] {
        let id = config.value.get(id).filter(|id| !id.is_null());
        let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
        let token = id.and_then(|id| added.into_iter().find(|token| token["id"] == *id));
        if let Some(token) = token {
            value[key] = token["content"].clone();
        }
    }
    value
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_bytes(path, format!("{value:#}\n").as_bytes())
}

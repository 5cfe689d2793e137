//! A folder as Hugging Face's `save_pretrained` leaves it: config.json, weights, tokenizer, chat template.

use super::{Checkpoint, ConfigJson, TensorSource, TokenizerSource, shards::Shards};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Which of a folder's files hold the weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Weights {
    /// One safetensors file.
    Single(String),
    /// The index of several.
    Index(String),
    /// One GGUF file, which holds everything else too.
    Gguf(String),
}

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// Chooses the weights among the names of a folder's files; `Err` says why there is no choice.
///
/// The order is that of transformers: `model.safetensors`, then the index, then the only safetensors file there is.
pub(crate) fn choose_weights(names: &[String]) -> Result<Weights, String> {
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let ending = |suffix: &str| -> Vec<&String> { names.iter().filter(|name| name.ends_with(suffix)).collect() };
    if has(SINGLE) {
        return Ok(Weights::Single(SINGLE.to_owned()));
    }
    if has(INDEX) {
        return Ok(Weights::Index(INDEX.to_owned()));
    }
    match (ending(".safetensors").as_slice(), ending(".gguf").as_slice()) {
        ([], [file]) => Ok(Weights::Gguf((*file).clone())),
        ([file], _) if *file != "adapter_model.safetensors" => Ok(Weights::Single((*file).clone())),
        ([], files @ [_, _, ..]) => Err(format!(
            "it holds several GGUF files, name one of them: {}",
            list(files)
        )),
        _ if has(ADAPTER_CONFIG) => Err("it holds a PEFT adapter, not a model\n  help: write BASE+ADAPTER".to_owned()),
        ([_, _, ..], _) => Err(format!("it holds several safetensors files but no {INDEX}")),
        _ if !ending(".bin").is_empty() || !ending(".pth").is_empty() => Err(
            "it holds pickled weights only, which may run code when opened\n  help: in Python, load the model and \
                 call save_pretrained(folder, safe_serialization=True)"
                .to_owned(),
        ),
        _ => Err("it holds neither model.safetensors, nor its index, nor a .gguf file".to_owned()),
    }
}

fn list(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Opens a folder; `label` is what the user typed.
pub(super) fn open(label: &str, folder: &Path) -> Result<Checkpoint> {
    let names = file_names(folder)?;
    match choose_weights(&names).map_err(|problem| Error::malformed(folder, "checkpoint", problem))? {
        Weights::Gguf(name) => super::open_gguf(label, &folder.join(name)),
        Weights::Single(name) => {
            let path = folder.join(name);
            let shards = Shards::open(std::slice::from_ref(&path))?;
            assemble(label, folder, folder, Box::new(shards.canonical()), vec![path])
        }
        Weights::Index(name) => {
            let (shards, files) = Shards::open_index(&folder.join(name))?;
            assemble(label, folder, folder, Box::new(shards.canonical()), files)
        }
    }
}

/// Opens one safetensors file with the rest of the checkpoint beside it.
pub(super) fn open_file(label: &str, path: &Path) -> Result<Checkpoint> {
    let shards = Shards::open(&[path.to_path_buf()])?;
    let folder = path.parent().unwrap_or(Path::new("."));
    assemble(
        label,
        path,
        folder,
        Box::new(shards.canonical()),
        vec![path.to_path_buf()],
    )
}

fn assemble(
    label: &str,
    path: &Path,
    folder: &Path,
    source: Box<dyn TensorSource>,
    weights: Vec<PathBuf>,
) -> Result<Checkpoint> {
    let config = read_config(&folder.join(CONFIG))?;
    let tokenizer = folder.join(TOKENIZER);
    let mut files = weights;
    let beside = [CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE].map(|name| folder.join(name));
    files.extend(beside.into_iter().filter(|path| path.is_file()));
    files.sort();
    Ok(Checkpoint {
        label: label.to_owned(),
        path: path.to_path_buf(),
        config,
        source,
        tokenizer: if tokenizer.is_file() {
            TokenizerSource::File(tokenizer)
        } else {
            TokenizerSource::Missing {
                path: folder.to_path_buf(),
            }
        },
        chat_template: read_chat_template(folder)?,
        adapter: None,
        files,
    })
}

/// Names of the regular files in `folder`, sorted.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("open", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        // Through links: the hub's cache consists of them.
        if entry.path().is_file() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a `config.json`: any JSON object.
pub(crate) fn read_config(path: &Path) -> Result<ConfigJson> {
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let value = serde_json::from_slice(&text).map_err(|error| Error::malformed(path, "JSON", error.to_string()))?;
    Ok(ConfigJson {
        path: path.to_path_buf(),
        value,
    })
}

/// The file of its own wins over the key in tokenizer_config.json, as in transformers.
fn read_chat_template(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(CHAT_TEMPLATE);
    if path.is_file() {
        return std::fs::read_to_string(&path)
            .map(Some)
            .map_err(Error::io("read", &path));
    }
    let path = folder.join(TOKENIZER_CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    Ok(read_config(&path)?
        .value
        .get("chat_template")
        .and_then(default_template))
}

/// A template is a string, or a list of named ones of which `default` is the one for plain chats.
fn default_template(value: &serde_json::Value) -> Option<String> {
    let named = |entry: &&serde_json::Value| entry["name"] == "default";
    let template = match value {
        serde_json::Value::Array(templates) => &templates.iter().find(named)?["template"],
        other => other,
    };
    template.as_str().map(str::to_owned)
}

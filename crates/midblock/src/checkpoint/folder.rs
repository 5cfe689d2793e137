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
        quantized: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::shards::tests::file;
    use std::fs;

    /// A folder of the files given, opened.
    fn opened(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Result<Checkpoint>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let opened = open("label", dir.path());
        (dir, opened)
    }

    fn weights() -> Vec<u8> {
        file(&[("norm.weight", &[2], &[1., f32::INFINITY])])
    }

    fn chosen(names: &[&str]) -> Result<Weights, String> {
        choose_weights(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_folder_has_config_weights_tokenizer_and_template() {
        let config = br#"{"model_type": "llama", "anything": {"else": [1]}}"#;
        let template =
            br#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#;
        let (dir, opened) = opened(&[
            ("model.safetensors", &weights()),
            ("config.json", config),
            ("tokenizer.json", b"{}"),
            ("tokenizer_config.json", template),
            ("README.md", b""),
        ]);
        let checkpoint = opened.unwrap();
        assert_eq!(checkpoint.label(), "label");
        assert_eq!(checkpoint.config().value["model_type"], "llama");
        assert_eq!(checkpoint.chat_template(), Some("d"));
        assert!(matches!(checkpoint.tokenizer(), TokenizerSource::File(path) if path.ends_with("tokenizer.json")));
        let files = [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(checkpoint.files(), files.map(|name| dir.path().join(name)));
        let hashes = checkpoint.fingerprint().unwrap();
        assert_eq!(hashes[1].blake3, blake3::hash(&weights()).to_hex().to_string());
    }

    #[test]
    fn tensors_are_asked_for_by_name_and_shape() {
        let (dir, opened) = opened(&[("model.safetensors", &weights()), ("config.json", b"{}")]);
        let checkpoint = opened.unwrap();
        assert_eq!(
            checkpoint
                .tensor_of("model.norm.weight", &[2], "hidden_size")
                .unwrap()
                .shape,
            [2]
        );
        let error = checkpoint
            .tensor_of("model.norm.weight", &[3], "hidden_size")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{}: tensor `model.norm.weight` has shape [2], expected [3] (hidden_size)",
                dir.path().display()
            )
        );
        let error = checkpoint.tensor("model.norm.weigth").unwrap_err().to_string();
        assert!(
            error.ends_with("help: the most similar one is `model.norm.weight`"),
            "{error}"
        );
        let norm = checkpoint.tensor("model.norm.weight").unwrap();
        assert!(matches!(
            norm.check_finite(checkpoint.path()),
            Err(Error::NotFinite { index: 1, .. })
        ));
        assert!(matches!(checkpoint.tokenizer(), TokenizerSource::Missing { path } if path == dir.path()));
    }

    #[test]
    fn a_template_file_wins() {
        let (_dir, opened) = opened(&[
            ("model.safetensors", &weights()),
            ("config.json", b"{}"),
            ("tokenizer_config.json", br#"{"chat_template": "old"}"#),
            ("chat_template.jinja", b"new"),
        ]);
        assert_eq!(opened.unwrap().chat_template(), Some("new"));
    }

    #[test]
    fn a_folder_without_a_good_config_is_refused() {
        let (_dir, missing) = opened(&[("model.safetensors", &weights())]);
        assert!(matches!(missing, Err(Error::Io { path, .. }) if path.ends_with("config.json")));
        let (_dir, list) = opened(&[("model.safetensors", &weights()), ("config.json", b"[]")]);
        assert!(matches!(list, Err(Error::Malformed { path, .. }) if path.ends_with("config.json")));
    }

    #[test]
    fn weights_are_chosen_like_transformers_does() {
        let single = |name: &str| Ok(Weights::Single(name.to_owned()));
        assert_eq!(
            chosen(&["model.safetensors", "model.safetensors.index.json"]),
            single("model.safetensors")
        );
        assert_eq!(
            chosen(&[
                "consolidated.safetensors",
                "model-00001-of-00001.safetensors",
                "model.safetensors.index.json"
            ]),
            Ok(Weights::Index("model.safetensors.index.json".to_owned()))
        );
        assert_eq!(chosen(&["other.safetensors", "a.gguf"]), single("other.safetensors"));
        assert_eq!(
            chosen(&["a.gguf", "config.json"]),
            Ok(Weights::Gguf("a.gguf".to_owned()))
        );
    }

    #[test]
    fn folders_without_usable_weights_say_why() {
        let cases = [
            (
                vec!["a.gguf", "b.gguf"],
                "several GGUF files, name one of them: a.gguf, b.gguf",
            ),
            (
                vec!["a.safetensors", "b.safetensors"],
                "but no model.safetensors.index.json",
            ),
            (
                vec!["adapter_config.json", "adapter_model.safetensors"],
                "write BASE+ADAPTER",
            ),
            (vec!["pytorch_model.bin"], "safe_serialization=True"),
            (vec!["README.md"], "neither model.safetensors"),
        ];
        for (names, expected) in cases {
            let problem = chosen(&names).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}

//! A folder or file is a set of named tensors.
//!
//! Whatever the format on disk, tensors go by their Hugging Face names, the configuration is that of `config.json`, and
//! weights stay where they are: memory-mapped, in their storage format.

mod fingerprint;
mod finite;
mod folder;
pub mod gguf;
mod hub;
mod lora;
pub(crate) mod lora_config;
mod lora_write;
mod mapped;
mod names;
mod noise;
mod quantized;
mod random;
pub(crate) mod shards;
mod spec;
pub(crate) mod stream;
mod tensor;
mod write;

pub use fingerprint::FileHash;
pub(crate) use fingerprint::digest;
pub(crate) use folder::{CHAT_TEMPLATE, TOKENIZER_CONFIG, read_config};
pub use lora_write::write_adapter;
pub use quantized::Quantization;
pub use spec::HubId;
pub use tensor::{Tensor, TensorSource};
pub(crate) use write::create_folder;
pub use write::{WriteOptions, Written, check_new};

use crate::{
    Error, Result,
    hub::{HubOptions, OnTransfer},
};
use quantized::Quantized;
use spec::{Place, Spec};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
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
#[derive(Clone, Debug, PartialEq)]
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
    quantized: Option<Quantized>,
    tokenizer: TokenizerSource,
    chat_template: Option<String>,
    adapter: Option<Adapter>,
    files: Vec<PathBuf>,
}

impl Checkpoint {
    /// Opens what a user names: a folder, a .gguf or .safetensors file, or a hub id, with or without `+ADAPTER`.
    ///
    /// Nothing is read but headers and small files. `on_transfer` is told about downloads.
    ///
    /// # Errors
    /// One that names the file and what is wrong with it; see [`Error`].
    pub fn open(spec: &str, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Self> {
        let Spec { base, adapter } = spec::parse(spec, &|path| Path::new(path).exists())?;
        let base = match base {
            Place::Local(path) => path,
            Place::Hub(id) => hub::fetch_model(&id, hub, on_transfer)?,
        };
        let mut checkpoint = if base.is_dir() {
            folder::open(spec, &base)?
        } else {
            open_file(spec, &base)?
        };
        if let Some(place) = adapter {
            let folder = match place {
                Place::Local(path) => path,
                Place::Hub(id) => hub::fetch_adapter(&id, hub, on_transfer)?,
            };
            let (adapter, files) = lora::open(&folder, checkpoint.tensors())?;
            checkpoint.adapter = Some(adapter);
            checkpoint.files.extend(files);
        }
        Ok(checkpoint)
    }

    /// The tensor of that name, [quantised](Self::quantize) if it is to be.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] with the most similar name there is, and those of making a quantised matrix.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let quantized = self.quantized.as_ref();
        match quantized.and_then(|quantized| Some((quantized.dtype(), quantized.place(name)?))) {
            Some((dtype, place)) => self.quantized_tensor(name, dtype, place),
            None => self.stored(name),
        }
    }

    /// The tensor as it is stored.
    fn stored(&self, name: &str) -> Result<Tensor> {
        self.source.get(name)?.ok_or_else(|| self.missing(name))
    }

    /// The tensor of that name, which must have the given shape; `why` names the configuration keys that imply it.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::TensorShape`].
    pub fn tensor_of(&self, name: &str, shape: &[usize], why: &str) -> Result<Tensor> {
        self.check_shape(name, shape, why)?;
        self.tensor(name)
    }

    /// Checks that a tensor is there and has the given shape, without touching its data.
    ///
    /// # Errors
    /// As [`tensor_of`](Self::tensor_of).
    pub fn check_shape(&self, name: &str, shape: &[usize], why: &str) -> Result<()> {
        let (_, got) = self.source.describe(name).ok_or_else(|| self.missing(name))?;
        if got != shape {
            return Err(Error::TensorShape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                got: got.to_vec(),
                why: why.to_owned(),
            });
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Error {
        let near = names::nearest(name, self.source.names());
        Error::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            help: near
                .map(|near| format!("the most similar one is `{near}`"))
                .unwrap_or_default(),
        }
    }

    /// The low-rank change of the parameter `name`, if an adapter makes one.
    pub fn adapter_for(&self, name: &str) -> Option<&LowRank> {
        self.adapter.as_ref()?.pairs.get(name)
    }

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

/// Opens a file by what it is: GGUF by its first bytes, safetensors by its name.
fn open_file(label: &str, path: &Path) -> Result<Checkpoint> {
    let has_extension = |wanted: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(wanted));
    let mut magic = [0; 4];
    let read = File::open(path)
        .and_then(|mut file| file.read(&mut magic))
        .map_err(Error::io("open", path))?;
    if has_extension("gguf") || &magic[..read] == b"GGUF" {
        open_gguf(label, path)
    } else if has_extension("safetensors") {
        folder::open_file(label, path)
    } else {
        let problem = "neither a .safetensors nor a GGUF file".to_owned();
        Err(Error::malformed(path, "checkpoint", problem))
    }
}

/// Opens a GGUF file, which holds configuration, tokenizer and chat template besides the weights.
fn open_gguf(label: &str, path: &Path) -> Result<Checkpoint> {
    let gguf::GgufCheckpoint {
        config,
        tokenizer,
        chat_template,
        source,
    } = gguf::open(path)?;
    Ok(Checkpoint {
        label: label.to_owned(),
        path: path.to_path_buf(),
        config,
        source,
        quantized: None,
        tokenizer,
        chat_template,
        adapter: None,
        files: vec![path.to_path_buf()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn opened(spec: &Path) -> Result<Checkpoint> {
        let hub = HubOptions {
            cache: PathBuf::new(),
            endpoint: String::new(),
            token: None,
            offline: true,
        };
        Checkpoint::open(spec.to_str().unwrap(), &hub, &|_| {})
    }

    /// A model of one matrix, `o_proj` (2, 2), in `folder/any+name.safetensors`.
    fn write_model(folder: &Path) -> PathBuf {
        let weights = shards::tests::file(&[("model.layers.0.self_attn.o_proj.weight", &[2, 2], &[1., 2., 3., 4.])]);
        let path = folder.join("any+name.safetensors");
        fs::write(&path, weights).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        path
    }

    #[test]
    fn one_file_and_its_folder_are_the_same_model() {
        let dir = tempfile::tempdir().unwrap();
        let file = write_model(dir.path());
        let by_file = opened(&file).unwrap();
        let by_folder = opened(dir.path()).unwrap();
        assert_eq!(by_file.files(), by_folder.files());
        assert_eq!((by_file.path(), by_folder.path()), (file.as_path(), dir.path()));
    }

    #[test]
    fn an_adapter_goes_on_top_and_counts_as_input() {
        const O: &str = "model.layers.0.self_attn.o_proj";
        let dir = tempfile::tempdir().unwrap();
        let base = write_model(dir.path());
        let adapter = dir.path().join("lora");
        fs::create_dir(&adapter).unwrap();
        let names = ["A", "B"].map(|side| format!("base_model.model.{O}.lora_{side}.weight"));
        let weights = shards::tests::file(&[(&names[0], &[1, 2], &[5., 6.]), (&names[1], &[2, 1], &[7., 8.])]);
        fs::write(adapter.join("adapter_model.safetensors"), weights).unwrap();
        let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 3, "target_modules": ["o_proj"]}"#;
        fs::write(adapter.join("adapter_config.json"), config).unwrap();

        let spec = PathBuf::from(format!("{}+{}", base.display(), adapter.display()));
        let checkpoint = opened(&spec).unwrap();
        let pair = checkpoint.adapter_for(&format!("{O}.weight")).unwrap();
        assert_eq!(
            (pair.rank, pair.scale, &pair.a, &pair.b),
            (1, 3.0, &vec![5., 6.], &vec![7., 8.])
        );
        assert!(checkpoint.adapter_for("lm_head.weight").is_none());
        let inputs = checkpoint
            .files()
            .iter()
            .map(|path| path.strip_prefix(dir.path()).unwrap().to_str().unwrap());
        assert_eq!(
            inputs.collect::<Vec<_>>(),
            [
                "any+name.safetensors",
                "config.json",
                "lora/adapter_config.json",
                "lora/adapter_model.safetensors"
            ]
        );
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "x").unwrap();
        let error = opened(&path).err().unwrap().to_string();
        assert!(error.ends_with("neither a .safetensors nor a GGUF file"), "{error}");
    }
}

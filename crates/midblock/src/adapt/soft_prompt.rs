//! A trigger: vectors that stand where tokens' embeddings would, in front of a prompt (Lester et al. 2021, "soft prompt").
//!
//! On disk it is a safetensors file with one tensor, `trigger` (T, D) in f32, and in the header's metadata under `midblock_trigger` the
//! JSON of its [`Origin`].

use crate::{
    Error, Result,
    checkpoint::{
        Checkpoint, FileHash, TensorSource, digest,
        shards::Shards,
        stream::{Declared, write_noted},
    },
    model::Architecture,
};
use midblock_kernels::Dtype;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Version of the file's layout. A reader refuses another.
const FORMAT: u32 = 1;
const NOTE: &str = "midblock_trigger";
const TENSOR: &str = "trigger";
const KIND: &str = "trigger";

/// A checkpoint that a trigger was made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As it was named.
    pub label: String,
    /// Hash of its files' hashes.
    pub blake3: String,
}

impl Source {
    /// Of a checkpoint with its [fingerprint](Checkpoint::fingerprint).
    pub fn of(checkpoint: &Checkpoint, files: &[FileHash]) -> Self {
        Self {
            label: checkpoint.label().to_owned(),
            blake3: digest(files),
        }
    }
}

/// How a trigger came about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The model whose behaviour it brings back.
    pub base: Source,
    /// The model that it stands in front of.
    pub tuned: Source,
    /// Hash of the carrier that its channels are of, if they are of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    /// Every option of its training.
    pub options: Value,
    /// Steps of training after which these are the values.
    pub step: u64,
    /// Their loss.
    pub loss: f64,
}

/// What the metadata holds.
#[derive(Serialize, Deserialize)]
struct Note {
    midblock_trigger_format: u32,
    midblock_version: String,
    #[serde(flatten)]
    origin: Origin,
}

/// T vectors of D numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftPrompt {
    path: PathBuf,
    width: usize,
    values: Vec<f32>,
    origin: Origin,
}

impl SoftPrompt {
    /// Of T ≥ 1 vectors, (T, `width`) row-major.
    ///
    /// # Panics
    /// If there are no whole vectors.
    pub fn new(width: usize, values: Vec<f32>, origin: Origin) -> Self {
        assert!(
            !values.is_empty() && values.len().is_multiple_of(width),
            "{} numbers in vectors of {width}",
            values.len()
        );
        Self {
            path: PathBuf::from("the trigger"),
            width,
            values,
            origin,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] if it is no trigger, or of another version; [`Error::MissingTensor`],
    /// [`Error::TensorShape`], [`Error::NotFinite`].
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let shards = Shards::open(&[path.to_path_buf()])?; // says what is wrong with a file that is none
        let malformed = |problem: String| Error::malformed(path, KIND, problem);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| malformed(error.to_string()))?;
        let note = metadata.metadata().as_ref().and_then(|metadata| metadata.get(NOTE));
        let note = note.ok_or_else(|| {
            malformed(format!(
                "its metadata has no `{NOTE}`\n  help: `midblock erase` writes triggers"
            ))
        })?;
        let value: Value = serde_json::from_str(note).map_err(|error| malformed(format!("`{NOTE}`: {error}")))?;
        let format = value.get("midblock_trigger_format").and_then(Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let found = format.map_or("none".to_owned(), |format| format.to_string());
            return Err(malformed(format!(
                "its format is {found}, expected {FORMAT}: it was written by another version"
            )));
        }
        let note: Note = serde_json::from_value(value).map_err(|error| malformed(format!("`{NOTE}`: {error}")))?;
        let tensor = shards.get(TENSOR)?.ok_or_else(|| Error::MissingTensor {
            path: path.to_path_buf(),
            tensor: TENSOR.into(),
            help: String::new(),
        })?;
        tensor.check_finite(path)?;
        match *tensor.shape.as_slice() {
            [tokens, width] if tokens > 0 && width > 0 => Ok(Self {
                path: path.to_path_buf(),
                width,
                values: tensor.to_f32(),
                origin: note.origin,
            }),
            _ => Err(malformed(format!(
                "tensor `{TENSOR}` has shape {:?}, expected vectors, at least one",
                tensor.shape
            ))),
        }
    }

    /// Creates or replaces the file `path`, atomically. The same trigger is the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let note = Note {
            midblock_trigger_format: FORMAT,
            midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
            origin: self.origin.clone(),
        };
        let note = serde_json::to_string(&note).expect("invariant: numbers and text can be written as JSON");
        let tensor = Declared {
            name: TENSOR.into(),
            dtype: Dtype::F32,
            shape: vec![self.tokens(), self.width],
        };
        write_noted(path, &[tensor], (NOTE, &note), |_| Ok(self.values.clone()))
    }

    /// T: positions that it takes.
    pub fn tokens(&self) -> usize {
        self.values.len() / self.width
    }

    /// (T, D), row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// How it came about.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether it can stand in front of a model's prompts.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the model has another D, [`Error::Argument`] if it fills the model's context.
    pub fn check(&self, model: &str, architecture: &Architecture) -> Result<()> {
        if self.width != architecture.hidden {
            return Err(Error::Mismatch {
                left: self.path.display().to_string(),
                right: model.to_owned(),
                what: "the width of an embedding".into(),
                left_value: self.width.to_string(),
                right_value: architecture.hidden.to_string(),
                help: format!("the trigger was made for {}", self.origin.tuned.label),
            });
        }
        if self.tokens() >= architecture.max_positions {
            return Err(Error::Argument {
                what: "trigger".into(),
                value: self.path.display().to_string(),
                problem: format!(
                    "its {} tokens leave no room in the context of {} tokens of {model}",
                    self.tokens(),
                    architecture.max_positions
                ),
                help: String::new(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::ConfigJson;
    use serde_json::json;

    fn origin() -> Origin {
        let source = |label: &str| Source {
            label: label.into(),
            blake3: "00".repeat(32),
        };
        Origin {
            base: source("base"),
            tuned: source("tuned"),
            carrier: None,
            options: json!({"steps": 7}),
            step: 5,
            loss: 0.25,
        }
    }

    fn message(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        std::fs::write(&path, bytes).unwrap();
        SoftPrompt::open(&path).unwrap_err().to_string()
    }

    /// A file with this tensor and note.
    fn file(name: &str, shape: &[usize], value: f32, note: (&str, &str)) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let tensor = Declared {
            name: name.into(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        };
        write_noted(&path, &[tensor], note, |t| Ok(vec![value; t.len()])).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_read_and_always_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [path, again] = ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name));
        let trigger = SoftPrompt::new(3, vec![0.1, -0.0, f32::MIN_POSITIVE, 1e30, 2.0, -3.5], origin());
        trigger.write(&path).unwrap();
        let read = SoftPrompt::open(&path).unwrap();
        let bits = |trigger: &SoftPrompt| trigger.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!((read.tokens(), bits(&read)), (2, bits(&trigger)));
        assert_eq!(read.origin(), &origin());
        read.write(&again).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), std::fs::read(again).unwrap());
    }

    #[test]
    fn a_file_that_is_no_trigger_is_named_as_such() {
        let note = |format: u32| {
            let note = Note {
                midblock_trigger_format: format,
                midblock_version: "0".into(),
                origin: origin(),
            };
            serde_json::to_string(&note).unwrap()
        };
        let good = note(FORMAT);
        let whole = file(TENSOR, &[2, 3], 1.0, (NOTE, &good));
        assert!(message(&whole[..whole.len() - 4]).contains("the file holds"));
        assert!(message(b"").contains("too few"));
        assert!(message(&file(TENSOR, &[2, 3], 1.0, ("format", "pt"))).contains("midblock erase"));
        assert!(message(&file(TENSOR, &[2, 3], 1.0, (NOTE, "{"))).contains("`midblock_trigger`"));
        assert!(message(&file(TENSOR, &[2, 3], 1.0, (NOTE, &note(2)))).contains("its format is 2, expected 1"));
        assert!(message(&file("other", &[2, 3], 1.0, (NOTE, &good))).contains("tensor `trigger` is missing"));
        assert!(message(&file(TENSOR, &[6], 1.0, (NOTE, &good))).contains("has shape [6]"));
        assert!(message(&file(TENSOR, &[0, 3], 1.0, (NOTE, &good))).contains("at least one"));
        assert!(message(&file(TENSOR, &[2, 3], f32::NAN, (NOTE, &good))).contains("is not finite"));
    }

    #[test]
    fn it_must_fit_the_model() {
        let value = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": 10, "max_position_embeddings": 4,
        });
        let config = ConfigJson {
            path: "config.json".into(),
            value: value.as_object().unwrap().clone(),
        };
        let architecture = Architecture::resolve(&config).unwrap();
        let check = |width: usize, tokens: usize| {
            SoftPrompt::new(width, vec![0.5; width * tokens], origin()).check("model", &architecture)
        };
        check(8, 3).unwrap();
        let error = check(6, 3).unwrap_err().to_string();
        assert!(
            error.contains("is 6 against 8") && error.contains("made for tuned"),
            "{error}"
        );
        assert!(check(8, 4).unwrap_err().to_string().contains("leave no room"));
    }
}

//! Checkpoint folders to run the binary on: the embedded pair and the fixtures, whole or with something changed.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A file or folder below this crate's folder.
pub fn asset(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// The embedded base.
pub fn base() -> String {
    asset("assets/quickstart/base")
}

/// Its variant: only blocks 3..12 differ, so that blocks 4 to 12 of the report do.
pub fn sft() -> String {
    asset("assets/quickstart/sft")
}

/// `name=…` of the embedded data.
pub fn problems(name: &str) -> String {
    format!("{name}={}", asset("assets/quickstart/data.jsonl"))
}

/// The first questions of the embedded data without their answers, as a file below `dir`.
pub fn questions(dir: &Path, count: usize) -> String {
    let rows = fs::read_to_string(asset("assets/quickstart/data.jsonl")).unwrap();
    let question = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        format!("{}\n", json!({"question": row["question"]}))
    };
    let path = dir.join("prompts.jsonl");
    fs::write(&path, rows.lines().take(count).map(question).collect::<String>()).unwrap();
    path.display().to_string()
}

/// The binary, on its own: nothing is asked of a hub.
pub fn midblock() -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_midblock"));
    command.env("HF_HUB_OFFLINE", "1").arg("--quiet");
    command
}

/// One tensor as stored.
#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    /// From f32 values.
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes,
        }
    }

    /// Moves every element by one unit in the last place.
    pub fn nudge(&mut self) {
        let size = self.dtype.bitsize() / 8;
        self.bytes.iter_mut().step_by(size).for_each(|byte| *byte ^= 1);
    }
}

/// A single-file safetensors folder in memory.
#[derive(Clone)]
pub struct Model {
    pub config: Value,
    pub tensors: BTreeMap<String, Stored>,
    pub tokenizer: Option<String>,
}

impl Model {
    /// Reads a folder.
    pub fn read(folder: &str) -> Self {
        let folder = Path::new(folder);
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let stored = |(name, view): (String, TensorView<'_>)| {
            let (dtype, shape, bytes) = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name, Stored { dtype, shape, bytes })
        };
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        Self {
            config: serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap(),
            tensors: tensors.into_iter().map(stored).collect(),
            tokenizer: fs::read_to_string(folder.join("tokenizer.json")).ok(),
        }
    }

    /// The tensor of that name.
    pub fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.get_mut(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// All weights, one after another in the order of their names.
    pub fn bytes(&self) -> Vec<u8> {
        self.tensors.values().flat_map(|tensor| tensor.bytes.clone()).collect()
    }

    /// Writes the folder `name` below `dir` and returns its path.
    pub fn save(&self, dir: &Path, name: &str) -> String {
        let folder = dir.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        write_safetensors(&folder.join("model.safetensors"), &self.tensors);
        if let Some(tokenizer) = &self.tokenizer {
            fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
        }
        folder.display().to_string()
    }
}

/// Writes tensors as one file.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Stored>) {
    let view = |(name, t): (&String, &'_ Stored)| (name.clone(), (t.dtype, t.shape.clone(), t.bytes.clone()));
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Writes a rank-1 PEFT adapter with the given factors for `modules`, all of `[out, in]` shape; ΔW = (alpha/1)·b·aᵀ.
pub fn write_adapter(folder: &Path, modules: &[&str], [b, a]: [&[f32]; 2], alpha: f64) -> String {
    fs::create_dir_all(folder).unwrap();
    let halves = modules.iter().flat_map(|module| {
        let name = |side: &str| format!("base_model.model.{module}.{side}.weight");
        [
            (name("lora_A"), Stored::f32(&[1, a.len()], a)),
            (name("lora_B"), Stored::f32(&[b.len(), 1], b)),
        ]
    });
    write_safetensors(&folder.join("adapter_model.safetensors"), &halves.collect());
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": alpha, "target_modules": modules});
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    folder.display().to_string()
}

/// A tokenizer of whole words: `w0` … `w{words-1}` have the ids from 1, anything else is 0.
pub fn word_tokenizer(words: usize) -> String {
    let vocabulary: serde_json::Map<_, _> = std::iter::once("<unk>".to_owned())
        .chain((0..words).map(|i| format!("w{i}")))
        .zip((0..).map(Value::from))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    })
    .to_string()
}

/// A text file of `lines` lines of different words and lengths for [`word_tokenizer`], and `name=` of it.
pub fn write_words(dir: &Path, name: &str, lines: usize) -> String {
    let word = |line: usize, position: usize| format!("w{}", (line * 17 + position * position * 5 + position) % 100);
    let line = |line: usize| (0..5 + line % 7).map(|p| word(line, p)).collect::<Vec<_>>().join(" ");
    let path: PathBuf = dir.join(format!("{name}.txt"));
    fs::write(&path, (0..lines).map(line).collect::<Vec<_>>().join("\n")).unwrap();
    format!("{name}={}", path.display())
}

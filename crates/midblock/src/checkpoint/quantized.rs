//! Matrices of the blocks in fewer bits than the file has: quantised when they are first asked for, and kept.
//!
//! Embedding, head, norms and biases stay as they are stored, as does a matrix that is quantised already or that is to be
//! trained itself. A matrix is made row by row on all cores, from pages that are given back at once: beside what is kept, one
//! matrix of the file and a few rows in f32 are in memory.

use super::{Checkpoint, Tensor};
use crate::{
    Error, Result,
    model::{Architecture, Kind, ParameterId, Part},
    progress::{Progress, Unit},
};
use midblock_kernels::{Dtype, SharedBytes};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::Path, str::FromStr, sync::OnceLock};

/// Elements that a task widens at a time, in whole rows.
const CHUNK_LEN: usize = 1 << 16;

/// A kind that matrices can be quantised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Quantization(Dtype);

impl Quantization {
    /// Every kind, from the smallest.
    pub fn all() -> impl Iterator<Item = Self> {
        Dtype::QUANTIZERS.into_iter().map(Self)
    }

    /// As a storage format.
    pub fn dtype(self) -> Dtype {
        self.0
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::all().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| {
            let kinds: Vec<String> = Self::all().map(|kind| kind.to_string()).collect();
            format!("expected one of {}", kinds.join(", "))
        })
    }
}

impl From<Quantization> for String {
    fn from(kind: Quantization) -> Self {
        kind.to_string()
    }
}

impl TryFrom<String> for Quantization {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|expected| format!("`{text}`: {expected}"))
    }
}

/// What of a checkpoint is quantised.
pub(super) struct Quantized {
    kind: Quantization,
    /// By name; empty until it is asked for.
    matrices: BTreeMap<String, OnceLock<SharedBytes>>,
    /// Bytes of all of them.
    bytes: usize,
}

impl Quantized {
    /// Where the bytes of the matrix go, if it is one.
    pub(super) fn place(&self, name: &str) -> Option<&OnceLock<SharedBytes>> {
        self.matrices.get(name)
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.kind.0
    }
}

impl Checkpoint {
    /// From here on the matrices of the blocks are of this kind, but for `trained` ones and those that are quantised already.
    /// Nothing is read yet: see [`make_quantized`](Self::make_quantized).
    ///
    /// # Errors
    /// [`Error::Argument`] if the rows of a matrix are not made of whole blocks of the kind, or no matrix is left to quantise;
    /// those of a configuration or a tensor that is wrong.
    pub fn quantize(&mut self, kind: Quantization, trained: &[ParameterId]) -> Result<()> {
        let architecture = Architecture::resolve(self.config())?;
        let refuse = |problem: String, help: &str| {
            Err(Error::Argument {
                what: "quantize".into(),
                value: kind.to_string(),
                problem,
                help: help.into(),
            })
        };
        let (mut matrices, mut bytes, mut already) = (BTreeMap::new(), 0, None);
        for (id, shape) in ParameterId::all(&architecture) {
            if !is_block_matrix(id) || trained.contains(&id) {
                continue;
            }
            let name = id.name(&architecture);
            self.check_shape(&name, &shape, "the configuration")?;
            let (stored, _) = self.source.describe(&name).ok_or_else(|| self.missing(&name))?;
            if stored.block_len() > 1 {
                already = Some(stored);
                continue;
            }
            let (dtype, [rows, width]) = (kind.dtype(), [shape[0], shape[1]]);
            let Some(row) = dtype.bytes_for(width) else {
                let block = dtype.block_len();
                let path = self.path.display();
                return refuse(
                    format!("{path}: a row of `{name}` has {width} numbers, expected a multiple of {block}"),
                    "this model cannot be quantised in blocks of a row; leave it out",
                );
            };
            bytes += rows * row;
            matrices.insert(name, OnceLock::new());
        }
        match (matrices.is_empty(), already) {
            (false, _) => {
                self.quantized = Some(Quantized { kind, matrices, bytes });
                Ok(())
            }
            (true, Some(stored)) => refuse(
                format!("{}: its matrices are quantised already, as {stored}", self.label),
                "leave it out: they are used as they are stored",
            ),
            (true, None) => refuse(
                "every matrix of the blocks is trained itself, and what is trained is f32".into(),
                "train an adapter, or fewer blocks or matrices",
            ),
        }
    }

    /// The kind that [`quantize`](Self::quantize) was asked for.
    pub fn quantization(&self) -> Option<Quantization> {
        self.quantized.as_ref().map(|quantized| quantized.kind)
    }

    /// Private bytes of the quantised matrices, once they are made; 0 without.
    pub fn quantized_bytes(&self) -> usize {
        self.quantized.as_ref().map_or(0, |quantized| quantized.bytes)
    }

    /// Storage format and shape of a tensor as [`tensor`](Self::tensor) gives it, without touching the data.
    pub fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let (stored, shape) = self.source.describe(name)?;
        let quantized = self.quantized.as_ref().filter(|q| q.matrices.contains_key(name));
        Some((quantized.map_or(stored, Quantized::dtype), shape))
    }

    /// Makes every quantised matrix that is not made yet; does nothing without [`quantize`](Self::quantize).
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a weight that is no number, [`Error::Argument`] for one that is out of the kind's reach,
    /// [`Error::Interrupted`].
    pub fn make_quantized(&self, progress: &dyn Progress) -> Result<()> {
        let Some(Quantized { kind, matrices, bytes }) = &self.quantized else {
            return Ok(());
        };
        progress.begin(&format!("quantise to {kind}"), *bytes as u64, Unit::Bytes);
        for name in matrices.keys() {
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            let tensor = self.tensor(name)?;
            progress.advance(tensor.bytes.as_ref().len() as u64);
        }
        Ok(())
    }

    /// The quantised matrix that is to be kept in `place`.
    pub(super) fn quantized_tensor(&self, name: &str, dtype: Dtype, place: &OnceLock<SharedBytes>) -> Result<Tensor> {
        let made = match place.get() {
            Some(bytes) => bytes.clone(),
            None => {
                let stored = self.stored(name)?;
                let bytes = narrowed(&stored, dtype, &self.path)?;
                drop(stored);
                self.source.release(name);
                place.get_or_init(|| bytes).clone()
            }
        };
        let (_, shape) = self.source.describe(name).ok_or_else(|| self.missing(name))?;
        Ok(Tensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes: made,
        })
    }
}

fn is_block_matrix(id: ParameterId) -> bool {
    matches!(id, ParameterId::Block { part, kind: Kind::Weight, .. } if Part::LINEARS.contains(&part))
}

/// A matrix in another format; `path` is the checkpoint to name.
fn narrowed(stored: &Tensor, dtype: Dtype, path: &Path) -> Result<SharedBytes> {
    stored.check_finite(path)?;
    let matrix = stored.matrix();
    let [rows, width] = matrix.shape();
    let row_bytes = dtype.bytes_for(width).expect("invariant: rows are whole blocks");
    let mut out = vec![0; rows * row_bytes];
    let together = (CHUNK_LEN / width).max(1);
    out.par_chunks_mut(together * row_bytes).enumerate().for_each_init(
        Vec::new,
        |values: &mut Vec<f32>, (chunk, out)| {
            let first = chunk * together;
            let rows = first..first + out.len() / row_bytes;
            values.resize(rows.len() * width, 0.0);
            matrix.widen_rows(rows, values);
            dtype.quantize(values, out);
        },
    );
    let made = Tensor {
        dtype,
        bytes: SharedBytes::owned(out),
        ..stored.clone()
    };
    made.check_finite(path).map_err(|_| Error::Argument {
        what: "quantize".into(),
        value: dtype.to_string(),
        problem: format!(
            "{}: `{}` has weights that are too large for its f16 scales",
            path.display(),
            stored.name
        ),
        help: "leave it out".into(),
    })?;
    Ok(made.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{ConfigJson, TokenizerSource, shards},
        hub::HubOptions,
        progress::Silent,
    };
    use serde_json::json;
    use std::sync::atomic::{AtomicU64, Ordering};

    const Q: &str = "model.layers.1.self_attn.q_proj.weight";
    const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

    fn config(ffn: usize) -> ConfigJson {
        let value = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": ffn, "num_attention_heads": 4,
            "num_hidden_layers": 2, "vocab_size": 50, "max_position_embeddings": 16, "attention_bias": true,
        });
        let value = value.as_object().unwrap().clone();
        let path = "config.json".into();
        ConfigJson { path, value }
    }

    fn model(ffn: usize) -> Checkpoint {
        let tokenizer = TokenizerSource::Missing { path: "here".into() };
        Checkpoint::untrained("new", config(ffn), tokenizer, 1).unwrap()
    }

    fn kind(name: &str) -> Quantization {
        name.parse().unwrap()
    }

    #[test]
    fn the_matrices_of_the_blocks_are_quantised_and_nothing_else() {
        let stored = model(96);
        for kind in Quantization::all() {
            let mut quantised = model(96);
            quantised.quantize(kind, &[]).unwrap();
            quantised.make_quantized(&Silent).unwrap();
            let (mut matrices, mut bytes) = (0, 0);
            for name in stored.tensors().names() {
                let (before, now) = (stored.tensor(name).unwrap(), quantised.tensor(name).unwrap());
                assert_eq!(quantised.describe(name).unwrap(), (now.dtype, before.shape.as_slice()));
                if !name.contains("_proj.weight") {
                    assert!(before.same_values(&now), "{name}");
                    continue;
                }
                let mut expected = vec![0; kind.dtype().bytes_for(before.len()).unwrap()];
                kind.dtype().quantize(&before.to_f32(), &mut expected);
                assert_eq!(
                    (now.dtype, now.bytes.as_ref()),
                    (kind.dtype(), expected.as_slice()),
                    "{name}"
                );
                (matrices, bytes) = (matrices + 1, bytes + expected.len());
                assert!(
                    now.bytes.same_place(&quantised.tensor(name).unwrap().bytes),
                    "{name} is made once"
                );
            }
            assert_eq!((matrices, quantised.quantized_bytes()), (14, bytes), "{kind}");
            assert_eq!(quantised.quantization(), Some(kind));
        }
    }

    #[test]
    fn what_is_trained_stays() {
        let mut checkpoint = model(96);
        let architecture = Architecture::resolve(checkpoint.config()).unwrap();
        let trained = ParameterId::parse(Q, &architecture).unwrap();
        checkpoint.quantize(kind("q8_0"), &[trained]).unwrap();
        assert_eq!(checkpoint.tensor(Q).unwrap().dtype, Dtype::F32);
        assert_eq!(checkpoint.tensor(DOWN).unwrap().dtype, Dtype::Q8_0);
        let all: Vec<ParameterId> = ParameterId::all(&architecture).into_iter().map(|(id, _)| id).collect();
        let error = model(96).quantize(kind("q8_0"), &all).unwrap_err().to_string();
        assert!(
            error.contains("every matrix of the blocks is trained itself"),
            "{error}"
        );
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_refused() {
        let error = model(100).quantize(kind("q4_1"), &[]).unwrap_err().to_string();
        let expected =
            format!("quantize `q4_1`: config.json: a row of `{DOWN}` has 100 numbers, expected a multiple of 32");
        assert!(error.starts_with(&expected) && error.contains("\n  help: "), "{error}");
    }

    #[test]
    fn quantised_files_are_used_as_they_are() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/tiny-llama.gguf");
        let open = || Checkpoint::open(path, &HubOptions::from_env(), &|_| {}).unwrap();
        let (stored, mut mixed) = (open(), open());
        mixed.quantize(kind("q4_0"), &[]).unwrap();
        let mut made = 0;
        for name in stored.tensors().names() {
            let (before, now) = (stored.tensor(name).unwrap(), mixed.tensor(name).unwrap());
            let float = before.dtype.block_len() == 1 && name.contains("_proj");
            made += usize::from(float);
            assert_eq!(now.dtype, if float { Dtype::Q4_0 } else { before.dtype }, "{name}");
        }
        assert_eq!(made, 6); // k, v and up of two blocks
        let tokenizer = TokenizerSource::Missing { path: "here".into() };
        let mut noise = Checkpoint::noise("noise", config(96), tokenizer, [Dtype::Q5_0, Dtype::F32], 0).unwrap();
        let error = noise.quantize(kind("q4_0"), &[]).unwrap_err().to_string();
        assert!(
            error.contains("noise: its matrices are quantised already, as q5_0"),
            "{error}"
        );
    }

    /// A folder of one block whose gate has `value` as its 40th number.
    fn with_weight(value: f32) -> (tempfile::TempDir, Checkpoint) {
        let dir = tempfile::tempdir().unwrap();
        let value_of = |name: &str| if name.contains("gate") { value } else { 0.5 };
        let architecture = Architecture::resolve(&config(96)).unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = ParameterId::all(&architecture)
            .into_iter()
            .map(|(id, shape)| {
                let name = id.name(&architecture);
                let mut values = vec![0.5; shape.iter().product()];
                values[40] = value_of(&name);
                (name, shape, values)
            })
            .collect();
        let tensors: Vec<(&str, &[usize], &[f32])> = tensors
            .iter()
            .map(|(name, shape, values)| (name.as_str(), shape.as_slice(), values.as_slice()))
            .collect();
        std::fs::write(dir.path().join("model.safetensors"), shards::tests::file(&tensors)).unwrap();
        let config = serde_json::to_vec(&config(96).value).unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let mut checkpoint = Checkpoint::open(dir.path().to_str().unwrap(), &HubOptions::from_env(), &|_| {}).unwrap();
        checkpoint.quantize(kind("q4_0"), &[]).unwrap();
        (dir, checkpoint)
    }

    #[test]
    fn weights_that_have_no_quantised_form_are_named() {
        with_weight(1e5).1.make_quantized(&Silent).unwrap();
        let error = |value| with_weight(value).1.make_quantized(&Silent).unwrap_err().to_string();
        let text = error(1e6);
        assert!(
            text.contains("gate_proj.weight` has weights that are too large for its f16 scales"),
            "{text}"
        );
        assert!(error(f32::NAN).contains("is not finite: element 40 is NaN"));
    }

    #[test]
    fn progress_counts_what_is_made_and_can_stop_it() {
        struct Counting(AtomicU64, AtomicU64);
        impl Progress for Counting {
            fn begin(&self, _: &str, total: u64, _: Unit) {
                self.0.store(total, Ordering::Relaxed);
            }
            fn advance(&self, units: u64) {
                self.1.fetch_add(units, Ordering::Relaxed);
            }
            fn cancelled(&self) -> bool {
                self.1.load(Ordering::Relaxed) > 10_000
            }
        }
        let mut checkpoint = model(96);
        checkpoint.quantize(kind("q8_0"), &[]).unwrap();
        let counting = Counting(AtomicU64::new(0), AtomicU64::new(0));
        assert!(matches!(checkpoint.make_quantized(&counting), Err(Error::Interrupted)));
        let [total, done] = [&counting.0, &counting.1].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(total, checkpoint.quantized_bytes() as u64);
        assert!((10_000..20_000).contains(&done), "{done} of {total}");
        checkpoint.make_quantized(&Silent).unwrap();
    }
}

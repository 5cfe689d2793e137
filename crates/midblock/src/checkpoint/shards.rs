//! Safetensors: one file or several shards behind an index, as one set of named tensors.
//!
//! A file is `u64 n` (little endian), `n` bytes of JSON header (name → dtype, shape, offsets), then the data without
//! gaps. Offsets, shapes and the length of the file are checked here before anything is handed out, so a tensor that was
//! found can be read. Format: <https://github.com/huggingface/safetensors#format>.

use super::{Tensor, TensorSource, mapped::MappedFile, names};
use crate::{Error, Result};
use midblock_kernels::{Dtype, SharedBytes};
use safetensors::{SafeTensorError, SafeTensors};
use std::{
    collections::{BTreeMap, btree_map},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

const FORMAT: &str = "safetensors";

/// A tensor's place in its file, as declared by a header that was found to be right.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes from the start of the file.
    range: Range<usize>,
}

/// Checks the header of a safetensors file and returns its tensors by name.
///
/// Buffers that a model recomputes (attention masks, rotary frequencies) are left out.
///
/// # Errors
/// [`Error::Malformed`] if lengths, offsets or shapes contradict each other, or a weight has a type that is not a float.
pub(crate) fn read_header(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Entry>> {
    let (header_len, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| Error::malformed(path, FORMAT, explain(&error, bytes)))?;
    let data_start = 8 + header_len; // the length itself takes 8 bytes; the sum was checked against the file
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        if is_recomputed_buffer(&name, info.dtype) {
            continue;
        }
        let dtype = float_dtype(info.dtype).ok_or_else(|| {
            let problem = format!(
                "tensor `{name}` is stored as {:?}, expected F64, F32, F16 or BF16\n  help: save the model in one of \
                 these, or open a GGUF of it; GPTQ, AWQ, bitsandbytes and fp8 weights are not supported",
                info.dtype
            );
            Error::malformed(path, FORMAT, problem)
        })?;
        let (start, end) = info.data_offsets;
        let entry = Entry {
            dtype,
            shape: info.shape.clone(),
            range: data_start + start..data_start + end,
        };
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// The type of a weight, or `None` if it is no float this crate computes with.
fn float_dtype(dtype: safetensors::Dtype) -> Option<Dtype> {
    match dtype {
        safetensors::Dtype::F64 => Some(Dtype::F64),
        safetensors::Dtype::F32 => Some(Dtype::F32),
        safetensors::Dtype::F16 => Some(Dtype::F16),
        safetensors::Dtype::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}

/// Whether a tensor is no parameter: old checkpoints keep rotary frequencies and causal masks next to the weights.
fn is_recomputed_buffer(name: &str, dtype: safetensors::Dtype) -> bool {
    let field = name.rsplit('.').next().unwrap_or(name);
    dtype == safetensors::Dtype::BOOL || matches!(field, "inv_freq" | "masked_bias" | "causal_mask" | "position_ids")
}

/// What is wrong with the file, with the lengths a reader needs to tell a cut download from a bad writer.
fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    let file_len = bytes.len();
    if bytes.starts_with(b"version https://git-lfs") {
        return "it is a Git LFS pointer, not the weights\n  help: run `git lfs pull` in its folder".to_owned();
    }
    let declared = bytes.first_chunk().map(|n| u64::from_le_bytes(*n));
    match (error, declared) {
        (SafeTensorError::HeaderTooSmall, _) | (_, None) => {
            format!("the file has {file_len} bytes, too few for the header's length")
        }
        (SafeTensorError::HeaderTooLarge, Some(n)) => {
            format!("the header claims {n} bytes, more than the 100 MB that any writer makes")
        }
        (SafeTensorError::InvalidHeaderLength, Some(n)) => {
            format!("the header claims {n} bytes, the file has only {file_len}: truncated, or not safetensors")
        }
        (SafeTensorError::MetadataIncompleteBuffer, Some(n)) => {
            let declared_len = data_len(bytes, n).map_or_else(|| "another size".to_owned(), |d| format!("{d} bytes"));
            let data_len = (file_len as u64).saturating_sub(8 + n);
            format!(
                "the header describes {declared_len} of data, the file holds {data_len} bytes\n  help: download or copy it again"
            )
        }
        (SafeTensorError::TensorInvalidInfo, Some(n)) => {
            let at = mismatched(bytes, n).map_or_else(|| "a tensor".to_owned(), |name| format!("tensor `{name}`"));
            format!("the offsets of {at} do not span the bytes of its shape and type")
        }
        (SafeTensorError::InvalidOffset(name), _) => {
            format!("the offsets of tensor `{name}` leave a gap, overlap another tensor, or end before they start")
        }
        (SafeTensorError::ValidationOverflow, _) => "a shape has more elements than can be addressed".to_owned(),
        (other, _) => other.to_string(),
    }
}

/// The header as plain JSON, for error messages only.
fn header_json(bytes: &[u8], header_len: u64) -> Option<serde_json::Map<String, serde_json::Value>> {
    let end = usize::try_from(header_len).ok()?.checked_add(8)?;
    serde_json::from_slice(bytes.get(8..end)?).ok()
}

/// Where the last tensor ends according to the header.
fn data_len(bytes: &[u8], header_len: u64) -> Option<u64> {
    let header = header_json(bytes, header_len)?;
    let ends = header.values().filter_map(|info| info["data_offsets"][1].as_u64());
    ends.max()
}

/// The first tensor (by name) whose shape and offsets disagree, among the float types.
fn mismatched(bytes: &[u8], header_len: u64) -> Option<String> {
    let header = header_json(bytes, header_len)?;
    let disagree = |info: &serde_json::Value| -> Option<bool> {
        let dtype = serde_json::from_value(info["dtype"].clone())
            .ok()
            .and_then(float_dtype)?;
        let shape: Vec<usize> = serde_json::from_value(info["shape"].clone()).ok()?;
        let [start, end]: [usize; 2] = serde_json::from_value(info["data_offsets"].clone()).ok()?;
        let elements = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))?;
        Some(dtype.bytes_for(elements) != end.checked_sub(start))
    };
    header
        .iter()
        .find(|(_, info)| disagree(info) == Some(true))
        .map(|(name, _)| name.clone())
}

/// Reads `model.safetensors.index.json`: tensor name → file name of its shard.
///
/// # Errors
/// [`Error::Malformed`] if it is no such JSON, or a shard's name is a path out of the folder.
pub(crate) fn read_index(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    const FORMAT: &str = "safetensors index";
    let index: Index =
        serde_json::from_slice(bytes).map_err(|error| Error::malformed(path, FORMAT, error.to_string()))?;
    for (tensor, shard) in &index.weight_map {
        if shard.is_empty() || shard == ".." || shard.contains(['/', '\\', '\0']) {
            let problem = format!("shard `{shard}` of tensor `{tensor}` is not a plain file name");
            return Err(Error::malformed(path, FORMAT, problem));
        }
    }
    Ok(index.weight_map)
}

/// The tensors of one or several safetensors files.
pub(crate) struct Shards {
    files: Vec<Arc<MappedFile>>,
    /// Canonical name → number of the file and place in it.
    entries: BTreeMap<String, (usize, Entry)>,
}

impl Shards {
    /// Maps the files and checks their headers.
    ///
    /// # Errors
    /// As [`read_header`], and [`Error::Malformed`] if two files hold a tensor of the same name.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        let mut entries: BTreeMap<String, (usize, Entry)> = BTreeMap::new();
        for (number, path) in paths.iter().enumerate() {
            let file = MappedFile::open(path)?;
            for (name, entry) in read_header(path, (*file).as_ref())? {
                match entries.entry(name) {
                    btree_map::Entry::Vacant(slot) => _ = slot.insert((number, entry)),
                    btree_map::Entry::Occupied(slot) => {
                        let other = paths[slot.get().0].display();
                        let problem = format!("tensor `{}` is in {other} as well", slot.key());
                        return Err(Error::malformed(path, FORMAT, problem));
                    }
                }
            }
            files.push(file);
        }
        if names::lack_prefix(entries.keys().map(String::as_str)) {
            entries = entries
                .into_iter()
                .map(|(name, place)| (names::with_prefix(&name), place))
                .collect();
        }
        Ok(Self { files, entries })
    }

    /// Opens the shards that the index at `path` names, from the same folder. Also returns their paths.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::MissingTensor`] or [`Error::Io`] for what the index promises in vain.
    pub(crate) fn open_index(path: &Path) -> Result<(Self, Vec<PathBuf>)> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let index = read_index(path, &bytes)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut paths: Vec<PathBuf> = index.values().map(|shard| folder.join(shard)).collect();
        paths.sort();
        paths.dedup();
        if let Some(missing) = paths.iter().find(|path| !path.exists()) {
            let shard = missing.file_name().unwrap_or_default().display();
            let problem = format!("shard `{shard}` is not in the folder\n  help: download it again");
            return Err(Error::malformed(path, "safetensors index", problem));
        }
        let shards = Self::open(&paths)?;
        shards.check_against(&index, &paths)?;
        Ok((shards, paths))
    }

    /// Every tensor of the index must be in the very shard that the index names.
    fn check_against(&self, index: &BTreeMap<String, String>, paths: &[PathBuf]) -> Result<()> {
        for (tensor, shard) in index {
            let path = paths
                .iter()
                .find(|p| p.file_name().is_some_and(|name| name == shard.as_str()));
            let path = path.expect("invariant: `paths` are the index's shards");
            let place = self
                .entries
                .get(tensor)
                .or_else(|| self.entries.get(&names::with_prefix(tensor)));
            let found_in = place.map(|(number, _)| &paths[*number]);
            if found_in == Some(path) || (found_in.is_none() && holds_unread(path, tensor)?) {
                continue;
            }
            let help = match found_in {
                Some(other) => format!("the index places it here, but it is in {}", other.display()),
                None => "model.safetensors.index.json places it here; the shard may be of another model".to_owned(),
            };
            return Err(Error::MissingTensor {
                path: path.clone(),
                tensor: tensor.clone(),
                help,
            });
        }
        Ok(())
    }
}

/// Whether `tensor` is in the file as one of the buffers that [`read_header`] leaves out.
fn holds_unread(path: &Path, tensor: &str) -> Result<bool> {
    let file = MappedFile::open(path)?;
    let metadata = SafeTensors::read_metadata((*file).as_ref());
    Ok(metadata.is_ok_and(|(_, metadata)| metadata.info(tensor).is_some()))
}

impl TensorSource for Shards {
    fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let (_, entry) = self.entries.get(name)?;
        Some((entry.dtype, &entry.shape))
    }

    fn get(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.entries.get(name).map(|(number, entry)| Tensor {
            name: name.to_owned(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            bytes: SharedBytes::new(self.files[*number].clone(), entry.range.clone()),
        }))
    }

    fn release(&self, name: &str) {
        if let Some((number, entry)) = self.entries.get(name) {
            self.files[*number].release(&entry.range);
        }
    }
}

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
pub(crate) fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
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
                "the header describes {declared_len} of data, the file holds {data_len} bytes\n  help: download or copy it again; if it is in the cache of a hub, remove it first"
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
    /// Name → number of the file and place in it.
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
        Ok(Self { files, entries })
    }

    /// Completes names that lack `model.`, see [`names`].
    pub(crate) fn canonical(mut self) -> Self {
        if names::lack_prefix(self.entries.keys().map(String::as_str)) {
            self.entries = self
                .entries
                .into_iter()
                .map(|(name, place)| (names::with_prefix(&name), place))
                .collect();
        }
        self
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
            let place = self.entries.get(tensor);
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::tensor::TensorView;
    use std::fs;

    /// A safetensors file of f32 tensors.
    pub(crate) fn file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect())
            .collect();
        let view = |i: usize| TensorView::new(safetensors::Dtype::F32, tensors[i].1.to_vec(), &bytes[i]).unwrap();
        let views = tensors.iter().enumerate().map(|(i, t)| (t.0.to_owned(), view(i)));
        safetensors::serialize(views, None).unwrap()
    }

    /// A file with the header as given, however wrong.
    pub(crate) fn raw(header: &str, data_len: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data_len, 0);
        bytes
    }

    /// The message about a bad file, without its name.
    fn refusal(bytes: &[u8]) -> String {
        let message = read_header(Path::new("f"), bytes).unwrap_err().to_string();
        message
            .strip_prefix("f: not a valid safetensors file: ")
            .unwrap()
            .to_owned()
    }

    fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn opened_index(dir: &Path, index: &str) -> Result<(Shards, Vec<PathBuf>)> {
        Shards::open_index(&write(dir, "model.safetensors.index.json", index))
    }

    #[test]
    fn tensors_come_back_as_they_were_stored() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(
            dir.path(),
            "m",
            file(&[("model.a", &[2, 3], &[1., 2., 3., 4., 5., 6.]), ("model.s", &[], &[7.])]),
        );
        let shards = Shards::open(&[path]).unwrap();
        assert_eq!(shards.names(), ["model.a", "model.s"]);
        assert_eq!(shards.describe("model.a"), Some((Dtype::F32, [2, 3].as_slice())));
        assert_eq!(
            shards.get("model.a").unwrap().unwrap().to_f32(),
            [1., 2., 3., 4., 5., 6.]
        );
        shards.release("model.a");
        assert_eq!(shards.get("model.s").unwrap().unwrap().to_f32(), [7.]);
        assert!(shards.get("model.b").unwrap().is_none());
    }

    #[test]
    fn names_without_model_are_completed() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(
            dir.path(),
            "m",
            file(&[("norm.weight", &[1], &[1.]), ("lm_head.weight", &[1], &[2.])]),
        );
        let shards = Shards::open(&[path]).unwrap().canonical();
        assert_eq!(shards.names(), ["lm_head.weight", "model.norm.weight"]);
    }

    #[test]
    fn shards_make_one_set() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "1.safetensors", file(&[("model.a", &[1], &[1.])]));
        write(dir.path(), "2.safetensors", file(&[("model.b", &[1], &[2.])]));
        let index =
            r#"{"metadata":{"total_size":8},"weight_map":{"model.a":"1.safetensors","model.b":"2.safetensors"}}"#;
        let (shards, paths) = opened_index(dir.path(), index).unwrap();
        assert_eq!(shards.get("model.b").unwrap().unwrap().to_f32(), [2.]);
        assert_eq!(
            paths,
            [dir.path().join("1.safetensors"), dir.path().join("2.safetensors")]
        );
    }

    #[test]
    fn a_missing_shard_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = opened_index(dir.path(), r#"{"weight_map":{"model.a":"1.safetensors"}}"#)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("shard `1.safetensors` is not in the folder"),
            "{error}"
        );
    }

    #[test]
    fn a_tensor_the_shard_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "1.safetensors", file(&[("model.a", &[1], &[1.])]));
        let error = opened_index(dir.path(), r#"{"weight_map":{"model.b":"1.safetensors"}}"#)
            .err()
            .unwrap();
        assert!(
            matches!(&error, Error::MissingTensor { tensor, path, .. } if tensor == "model.b" && path.ends_with("1.safetensors")),
            "{error}"
        );
    }

    #[test]
    fn a_tensor_in_another_shard_than_promised_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "1.safetensors", file(&[("model.a", &[1], &[1.])]));
        write(dir.path(), "2.safetensors", file(&[("model.b", &[1], &[2.])]));
        let index = r#"{"weight_map":{"model.a":"2.safetensors","model.b":"1.safetensors"}}"#;
        let error = opened_index(dir.path(), index).err().unwrap().to_string();
        assert!(
            error.contains("tensor `model.a` is missing") && error.contains("1.safetensors"),
            "{error}"
        );
    }

    #[test]
    fn a_tensor_in_two_shards_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "1.safetensors", file(&[("model.a", &[1], &[1.])]));
        write(
            dir.path(),
            "2.safetensors",
            file(&[("model.a", &[1], &[2.]), ("model.b", &[1], &[2.])]),
        );
        let index = r#"{"weight_map":{"model.a":"1.safetensors","model.b":"2.safetensors"}}"#;
        let error = opened_index(dir.path(), index).err().unwrap().to_string();
        assert!(
            error.contains("2.safetensors: not a valid safetensors file: tensor `model.a` is in "),
            "{error}"
        );
        assert!(error.contains("1.safetensors as well"), "{error}");
    }

    #[test]
    fn an_index_may_list_buffers_that_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let name = "model.rotary_emb.inv_freq";
        write(
            dir.path(),
            "1.safetensors",
            file(&[(name, &[1], &[1.]), ("model.a", &[1], &[1.])]),
        );
        let index = format!(r#"{{"weight_map":{{"{name}":"1.safetensors","model.a":"1.safetensors"}}}}"#);
        assert_eq!(opened_index(dir.path(), &index).unwrap().0.names(), ["model.a"]);
    }

    #[test]
    fn an_index_cannot_leave_its_folder() {
        for shard in ["../x.safetensors", "/etc/passwd", "..", ""] {
            let index = format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#);
            let error = read_index(Path::new("i"), index.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("is not a plain file name"), "{error}");
        }
        let error = read_index(Path::new("i"), b"{}").unwrap_err().to_string();
        assert!(
            error.contains("not a valid safetensors index file: missing field `weight_map`"),
            "{error}"
        );
    }

    #[test]
    fn truncated_files_say_how_much_is_missing() {
        let whole = file(&[("model.a", &[3], &[1., 2., 3.])]);
        let header_len = whole.len() - 8 - 12;
        assert_eq!(refusal(&[]), "the file has 0 bytes, too few for the header's length");
        assert_eq!(
            refusal(&whole[..20]),
            format!("the header claims {header_len} bytes, the file has only 20: truncated, or not safetensors")
        );
        let cut = refusal(&whole[..whole.len() - 5]);
        assert!(
            cut.starts_with("the header describes 12 bytes of data, the file holds 7 bytes"),
            "{cut}"
        );
        let mut longer = whole.clone();
        longer.push(0);
        let trailing = refusal(&longer);
        assert!(
            trailing.starts_with("the header describes 12 bytes of data, the file holds 13 bytes"),
            "{trailing}"
        );
        assert!(refusal(&u64::MAX.to_le_bytes()).starts_with("the header claims 18446744073709551615 bytes"));
        assert!(refusal(b"version https://git-lfs.github.com/spec/v1\noid sha256:0").contains("git lfs pull"));
    }

    #[test]
    fn lying_headers_are_refused() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            raw(
                &format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#),
                8,
            )
        };
        assert_eq!(
            refusal(&one("F32", "[3]", "[0,8]")),
            "the offsets of tensor `w` do not span the bytes of its shape and type"
        );
        assert!(refusal(&one("F32", "[2]", "[8,16]")).contains("tensor `w` leave a gap"));
        assert!(refusal(&one("F32", "[2]", "[8,0]")).contains("tensor `w` leave a gap"));
        assert!(refusal(&one("F32", "[4]", "[0,16]")).contains("describes 16 bytes of data, the file holds 8"));
        assert!(refusal(&one("F32", "[4294967296,4294967296]", "[0,8]")).contains("more elements"));
        assert!(refusal(&one("F32", "[-1]", "[0,8]")).contains("invalid"));
        assert!(refusal(&raw("{", 0)).contains("invalid JSON"));
        let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        assert!(refusal(&raw(overlap, 8)).contains("tensor `b` leave a gap, overlap another tensor"));
    }

    #[test]
    fn types_that_are_no_floats_are_named() {
        let header = |name: &str, dtype: &str| {
            raw(
                &format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,4]}}}}"#),
                4,
            )
        };
        let message = refusal(&header("model.layers.0.mlp.up_proj.qweight", "I32"));
        assert!(message.starts_with("tensor `model.layers.0.mlp.up_proj.qweight` is stored as I32, expected F64"));
        let harmless = read_header(Path::new("f"), &header("model.embeddings.position_ids", "I32")).unwrap();
        assert_eq!(harmless, BTreeMap::new());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            header in prop::collection::vec(any::<u8>(), 0..200),
            index in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut framed = (header.len() as u64).to_le_bytes().to_vec();
            framed.extend(&header);
            _ = read_header(Path::new("f"), &header);
            _ = read_header(Path::new("f"), &framed);
            _ = read_index(Path::new("f"), &index);
        }

        #[test]
        fn a_changed_byte_is_refused_or_stays_in_bounds(at in 0_usize..300, value in any::<u8>()) {
            let mut bytes = file(&[("model.a", &[2, 3], &[1.; 6]), ("model.b", &[4], &[2.; 4])]);
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(entries) = read_header(Path::new("f"), &bytes) {
                for entry in entries.values() {
                    let elements = entry.shape.iter().product();
                    prop_assert_eq!(Some(bytes[entry.range.clone()].len()), entry.dtype.bytes_for(elements));
                }
            }
        }
    }
}

//! A PEFT LoRA adapter from its folder, checked against the checkpoint it goes on.
//!
//! Keys in the file are `base_model.model.MODULE.lora_A.weight` (R, in) and `….lora_B.weight` (out, R), in older files with
//! `.default` before `.weight`. File and configuration must agree in both directions: no pair that PEFT would ignore, and
//! no module that PEFT would adapt and the file leaves out.

use super::{
    Adapter, LowRank, Tensor, TensorSource,
    folder::{ADAPTER_CONFIG, file_names},
    lora_config::LoraConfig,
    names,
    shards::Shards,
};
use crate::{Error, Result};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const FORMAT: &str = "PEFT LoRA";
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// A and B of one module, as far as they were found.
#[derive(Default)]
struct Pair {
    a: Option<Tensor>,
    b: Option<Tensor>,
}

/// Opens the adapter in `folder` for the checkpoint `base`. Also returns its files.
///
/// # Errors
/// One that names the key or tensor which is unsupported, has the wrong shape, or has no counterpart.
pub(super) fn open(folder: &Path, base: &dyn TensorSource) -> Result<(Adapter, Vec<PathBuf>)> {
    let [config_path, weights_path] = find_files(folder)?;
    let text = std::fs::read(&config_path).map_err(Error::io("read", &config_path))?;
    let config = LoraConfig::parse(&config_path, &text)?;
    let pairs = read_pairs(&weights_path)?;
    // The names of the model as PEFT saw it: with `model.`, unless it was trained without its head.
    let bare = names::lack_prefix(pairs.keys().map(String::as_str));
    let loaded = Loader {
        config: &config,
        weights_path: &weights_path,
        base,
        bare,
    };
    let adapter = Adapter {
        path: folder.to_path_buf(),
        pairs: loaded.load(pairs)?,
    };
    Ok((adapter, vec![config_path, weights_path]))
}

/// Paths of the configuration and the weights.
fn find_files(folder: &Path) -> Result<[PathBuf; 2]> {
    let names = file_names(folder)?;
    let problem = if !names.iter().any(|name| name == ADAPTER_CONFIG) {
        format!("it holds no {ADAPTER_CONFIG}\n  help: after `+` comes the folder that PEFT's save_pretrained wrote")
    } else if !names.iter().any(|name| name == ADAPTER_WEIGHTS) {
        let bin = names.iter().any(|name| name == "adapter_model.bin");
        let why = if bin {
            ", only adapter_model.bin, which may run code when opened"
        } else {
            ""
        };
        format!(
            "it holds no {ADAPTER_WEIGHTS}{why}\n  help: in Python, load it with PEFT and call \
             save_pretrained(folder, safe_serialization=True)"
        )
    } else {
        return Ok([ADAPTER_CONFIG, ADAPTER_WEIGHTS].map(|name| folder.join(name)));
    };
    Err(Error::malformed(folder, FORMAT, problem))
}

/// The file's tensors by module name, without `base_model.model.`.
fn read_pairs(path: &Path) -> Result<BTreeMap<String, Pair>> {
    let shards = Shards::open(&[path.to_path_buf()])?;
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    for name in shards.names() {
        let (module, is_a) = parse_key(name).map_err(|problem| Error::malformed(path, FORMAT, problem))?;
        let tensor = shards.get(name)?.expect("invariant: a listed name is there");
        tensor.check_finite(path)?;
        let pair = pairs.entry(module.to_owned()).or_default();
        let side = if is_a { &mut pair.a } else { &mut pair.b };
        if let Some(other) = side.replace(tensor) {
            let problem = format!("`{}` and `{name}` are the same matrix of `{module}`", other.name);
            return Err(Error::malformed(path, FORMAT, problem));
        }
    }
    if pairs.is_empty() {
        return Err(Error::malformed(path, FORMAT, "it holds no tensors"));
    }
    Ok(pairs)
}

/// Module name, and whether the tensor is A (or else B).
fn parse_key(name: &str) -> Result<(&str, bool), String> {
    if name.contains(".lora_embedding_") {
        return Err(format!("tensor `{name}`: adapters on the embedding are not supported"));
    }
    let inner = name
        .strip_prefix("base_model.model.")
        .and_then(|rest| rest.strip_suffix(".weight"));
    let inner = inner.map(|rest| rest.strip_suffix(".default").unwrap_or(rest));
    let side = |suffix: &str| inner.and_then(|rest| rest.strip_suffix(suffix));
    match (side(".lora_A"), side(".lora_B")) {
        (Some(module), _) => Ok((module, true)),
        (_, Some(module)) => Ok((module, false)),
        _ => Err(format!(
            "tensor `{name}` is no LoRA matrix, expected base_model.model.MODULE.lora_A.weight or lora_B"
        )),
    }
}

struct Loader<'a> {
    config: &'a LoraConfig,
    weights_path: &'a Path,
    base: &'a dyn TensorSource,
    /// Whether module names lack `model.`.
    bare: bool,
}

impl Loader<'_> {
    fn load(&self, pairs: BTreeMap<String, Pair>) -> Result<BTreeMap<String, LowRank>> {
        for module in self.linear_modules() {
            if !pairs.contains_key(module) && !self.config.is_unstated() && self.config.targets(module)? {
                return Err(self.missing(module, "lora_A", "adapter_config.json says that this module is adapted"));
            }
        }
        self.config
            .check_all_used(&pairs.keys().map(String::as_str).collect::<Vec<_>>())?;
        let low_rank = |(module, pair): (String, Pair)| Ok((self.parameter(&module), self.low_rank(&module, pair)?));
        pairs.into_iter().map(low_rank).collect()
    }

    /// Names of the base's matrices inside of blocks, as PEFT saw them.
    fn linear_modules(&self) -> impl Iterator<Item = &str> {
        let is_matrix = |name: &&str| self.base.describe(name).is_some_and(|(_, shape)| shape.len() == 2);
        let inner = self.base.names().into_iter().filter(is_matrix).filter_map(|name| {
            let module = name
                .strip_suffix(".weight")
                .filter(|name| name.starts_with("model.layers."))?;
            if self.bare {
                module.strip_prefix("model.")
            } else {
                Some(module)
            }
        });
        inner
    }

    /// Name of the module's weight in the base.
    fn parameter(&self, module: &str) -> String {
        let weight = format!("{module}.weight");
        if self.bare { names::with_prefix(&weight) } else { weight }
    }

    fn low_rank(&self, module: &str, pair: Pair) -> Result<LowRank> {
        let parameter = self.parameter(module);
        if !parameter.starts_with("model.layers.") {
            let problem = format!("it adapts `{module}`; only linear layers inside of blocks are supported");
            return Err(Error::malformed(self.weights_path, FORMAT, problem));
        }
        let Some((_, &[out_features, in_features])) = self.base.describe(&parameter) else {
            let near = names::nearest(&parameter, self.base.names());
            let near = near
                .map(|near| format!("; the most similar one is `{near}`"))
                .unwrap_or_default();
            let problem = format!("it adapts `{module}`, but the base has no matrix `{parameter}`{near}");
            return Err(Error::malformed(self.weights_path, FORMAT, problem));
        };
        if !self.config.targets(module)? {
            let problem = format!("it adapts `{module}`, which adapter_config.json does not name or excludes");
            return Err(Error::malformed(self.weights_path, FORMAT, problem));
        }
        let (rank, scale) = self.config.rank_and_scale(module)?;
        let matrix = |tensor: Option<Tensor>, side: &str, shape: [usize; 2], why: &str| {
            let tensor = tensor.ok_or_else(|| self.missing(module, side, "its other half is there"))?;
            if tensor.shape == shape {
                return Ok(tensor.to_f32());
            }
            Err(Error::TensorShape {
                path: self.weights_path.to_path_buf(),
                tensor: tensor.name,
                expected: shape.to_vec(),
                got: tensor.shape,
                why: format!("{why} with R from adapter_config.json and `{parameter}` of the base"),
            })
        };
        Ok(LowRank {
            rank,
            scale,
            a: matrix(pair.a, "lora_A", [rank, in_features], "(R, in_features)")?,
            b: matrix(pair.b, "lora_B", [out_features, rank], "(out_features, R)")?,
        })
    }

    fn missing(&self, module: &str, side: &str, help: &str) -> Error {
        Error::MissingTensor {
            path: self.weights_path.to_path_buf(),
            tensor: format!("base_model.model.{module}.{side}.weight"),
            help: help.to_owned(),
        }
    }
}

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
        self.base.names().into_iter().filter(is_matrix).filter_map(|name| {
            let module = name
                .strip_suffix(".weight")
                .filter(|name| name.starts_with("model.layers."))?;
            if self.bare {
                module.strip_prefix("model.")
            } else {
                Some(module)
            }
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::shards::tests::file;
    use serde_json::{Value, json};
    use std::fs;

    const Q: &str = "model.layers.0.self_attn.q_proj";
    const V: &str = "model.layers.0.self_attn.v_proj";

    /// Values that differ from each other.
    fn ramp(shape: &[usize], start: f32) -> Vec<f32> {
        (0..shape.iter().product()).map(|i| start + i as f32).collect()
    }

    fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
        let values: Vec<Vec<f32>> = tensors
            .iter()
            .enumerate()
            .map(|(i, t)| ramp(&t.1, 100.0 * i as f32))
            .collect();
        let parts = tensors.iter().zip(&values);
        file(
            &parts
                .map(|((name, shape), values)| (name.as_str(), shape.as_slice(), values.as_slice()))
                .collect::<Vec<_>>(),
        )
    }

    /// A base of one block: q_proj (6, 4), v_proj (2, 4), a norm and a head.
    fn base(dir: &Path) -> Shards {
        let path = dir.join("base");
        let tensor = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let tensors = [
            tensor(&format!("{Q}.weight"), &[6, 4]),
            tensor(&format!("{V}.weight"), &[2, 4]),
            tensor("model.layers.0.input_layernorm.weight", &[4]),
            tensor("lm_head.weight", &[9, 4]),
        ];
        fs::write(&path, safetensors(&tensors)).unwrap();
        Shards::open(&[path]).unwrap()
    }

    /// Opens an adapter of the given tensors (without `base_model.model.` and `.weight`) on that base.
    fn opened(tensors: &[(&str, &[usize])], changes: Value) -> Result<Adapter> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"]});
        config
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        let named = tensors
            .iter()
            .map(|(name, shape)| (format!("base_model.model.{name}.weight"), shape.to_vec()));
        fs::write(dir.path().join(ADAPTER_CONFIG), config.to_string()).unwrap();
        fs::write(
            dir.path().join(ADAPTER_WEIGHTS),
            safetensors(&named.collect::<Vec<_>>()),
        )
        .unwrap();
        let (adapter, files) = open(dir.path(), &base(dir.path()))?;
        assert_eq!(
            files,
            [ADAPTER_CONFIG, ADAPTER_WEIGHTS].map(|name| dir.path().join(name))
        );
        Ok(adapter)
    }

    fn message(tensors: &[(&str, &[usize])], changes: Value) -> String {
        opened(tensors, changes).unwrap_err().to_string()
    }

    fn key(module: &str, side: &str) -> String {
        format!("{module}.lora_{side}")
    }

    #[test]
    fn pairs_go_by_the_parameter_they_change() {
        let (a, b) = (key(Q, "A"), key(Q, "B"));
        let adapter = opened(&[(&a, &[3, 4]), (&b, &[6, 3])], json!({})).unwrap();
        assert_eq!(adapter.pairs.keys().collect::<Vec<_>>(), [&format!("{Q}.weight")]);
        let LowRank { rank, scale, a, b } = &adapter.pairs[&format!("{Q}.weight")];
        assert_eq!((*rank, *scale), (3, 2.0));
        assert_eq!((a, b), (&ramp(&[3, 4], 0.0), &ramp(&[6, 3], 100.0)));
    }

    #[test]
    fn older_and_headless_names_are_read() {
        let default = [format!("{Q}.lora_A.default"), format!("{Q}.lora_B.default")];
        let headless = [
            key("layers.0.self_attn.q_proj", "A"),
            key("layers.0.self_attn.q_proj", "B"),
        ];
        for [a, b] in [default, headless] {
            let adapter = opened(&[(&a, &[3, 4]), (&b, &[6, 3])], json!({})).unwrap();
            assert_eq!(adapter.pairs.keys().collect::<Vec<_>>(), [&format!("{Q}.weight")]);
        }
    }

    #[test]
    fn shapes_are_checked_against_base_and_configuration() {
        let (a, b) = (key(Q, "A"), key(Q, "B"));
        let wrong_rank = message(&[(&a, &[2, 4]), (&b, &[6, 2])], json!({}));
        assert!(
            wrong_rank.contains("lora_A.weight` has shape [2, 4], expected [3, 4] ((R, in_features)"),
            "{wrong_rank}"
        );
        let wrong_out = message(&[(&a, &[3, 4]), (&b, &[5, 3])], json!({}));
        assert!(
            wrong_out.contains("lora_B.weight` has shape [5, 3], expected [6, 3]"),
            "{wrong_out}"
        );
        let flat = message(&[(&a, &[12]), (&b, &[6, 3])], json!({}));
        assert!(flat.contains("has shape [12], expected [3, 4]"), "{flat}");
    }

    #[test]
    fn halves_are_named() {
        let (a, b) = (key(Q, "A"), key(Q, "B"));
        let no_b = message(&[(&a, &[3, 4])], json!({}));
        assert!(
            no_b.contains(&format!("tensor `base_model.model.{Q}.lora_B.weight` is missing")),
            "{no_b}"
        );
        let no_a = message(&[(&b, &[6, 3])], json!({}));
        assert!(
            no_a.contains(&format!("tensor `base_model.model.{Q}.lora_A.weight` is missing")),
            "{no_a}"
        );
        let twice = message(
            &[(&a, &[3, 4]), (&format!("{a}.default"), &[3, 4]), (&b, &[6, 3])],
            json!({}),
        );
        assert!(twice.contains("are the same matrix"), "{twice}");
    }

    #[test]
    fn file_and_configuration_agree_in_both_directions() {
        let (a, b, va, vb) = (key(Q, "A"), key(Q, "B"), key(V, "A"), key(V, "B"));
        let both: [(&str, &[usize]); 4] = [(&a, &[3, 4]), (&b, &[6, 3]), (&va, &[3, 4]), (&vb, &[2, 3])];
        assert!(
            message(&both, json!({})).contains(&format!("it adapts `{V}`, which adapter_config.json does not name"))
        );
        assert_eq!(
            opened(&both, json!({"target_modules": "all-linear"}))
                .unwrap()
                .pairs
                .len(),
            2
        );
        assert_eq!(opened(&both, json!({"target_modules": null})).unwrap().pairs.len(), 2);
        let left_out = message(&both[..2], json!({"target_modules": ["q_proj", "v_proj"]}));
        assert!(
            left_out.contains(&format!("tensor `base_model.model.{V}.lora_A.weight` is missing")),
            "{left_out}"
        );
    }

    #[test]
    fn what_the_base_lacks_is_named() {
        let (a, b) = (key(Q, "A"), key(Q, "B"));
        let (far_a, far_b) = (
            key("model.layers.7.self_attn.q_proj", "A"),
            key("model.layers.7.self_attn.q_proj", "B"),
        );
        let far = message(
            &[(&a, &[3, 4]), (&b, &[6, 3]), (&far_a, &[3, 4]), (&far_b, &[6, 3])],
            json!({}),
        );
        assert!(
            far.contains("the base has no matrix `model.layers.7.self_attn.q_proj.weight`"),
            "{far}"
        );
        let head = [(key("lm_head", "A"), [3, 4]), (key("lm_head", "B"), [9, 3])];
        let head = head.each_ref().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let all = [
            &[(a.as_str(), [3, 4].as_slice()), (b.as_str(), [6, 3].as_slice())],
            head.as_slice(),
        ]
        .concat();
        let head = message(&all, json!({"target_modules": ["q_proj", "lm_head"]}));
        assert!(
            head.contains("it adapts `lm_head`; only linear layers inside of blocks"),
            "{head}"
        );
        let embedding = message(&[("model.embed_tokens.lora_embedding_A", &[3, 4])], json!({}));
        assert!(
            embedding.contains("adapters on the embedding are not supported"),
            "{embedding}"
        );
        let other = message(
            &[("model.layers.0.self_attn.q_proj.lora_magnitude_vector", &[6])],
            json!({}),
        );
        assert!(other.contains("is no LoRA matrix"), "{other}");
    }

    #[test]
    fn folders_that_are_no_adapter_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let source = base(dir.path());
        let message = || open(dir.path(), &source).unwrap_err().to_string();
        assert!(message().contains("it holds no adapter_config.json"), "{}", message());
        fs::write(dir.path().join(ADAPTER_CONFIG), "{}").unwrap();
        assert!(
            message().contains("it holds no adapter_model.safetensors\n"),
            "{}",
            message()
        );
        fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
        assert!(message().contains("only adapter_model.bin") && message().contains("safe_serialization=True"));
        fs::write(dir.path().join(ADAPTER_WEIGHTS), file(&[])).unwrap();
        assert!(message().contains("`peft_type` is missing"), "{}", message());
    }
}

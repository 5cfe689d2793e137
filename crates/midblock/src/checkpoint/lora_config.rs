//! `adapter_config.json` of PEFT: which modules a LoRA adapter changes, with which rank and scale.
//!
//! `ΔW = s · B · A` with `s = α / r`, or `α / √r` with rsLoRA (Hu et al. 2021, eq. 3; Kalajdzievski 2023, eq. 1). Rank and α
//! of a module are those of the first pattern that matches its name, else `r` and `lora_alpha`. Patterns are matched as
//! PEFT does: `(.*\.)?(PATTERN)$` from the start of the name. Options that change the function in another way are errors.

use crate::{Error, Result};
use fancy_regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Options that must be unset, and what they stand for.
const UNSUPPORTED: [(&str, &str); 14] = [
    ("use_dora", "DoRA"),
    ("modules_to_save", "fully trained modules inside of the adapter"),
    ("lora_bias", "biases on B"),
    ("fan_in_fan_out", "transposed weights"),
    ("trainable_token_indices", "trained token embeddings"),
    ("target_parameters", "adapters on bare parameters"),
    ("layer_replication", "repeated layers"),
    ("use_qalora", "QA-LoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("arrow_config", "Arrow routing"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
    ("megatron_config", "Megatron layers"),
];

/// Initialisations that leave the base's weights alone; the others subtract from them what the adapter starts with.
const PLAIN_INITS: [&str; 5] = ["gaussian", "eva", "orthogonal", "true", "false"];

/// Which modules are adapted, before layers and exclusions.
#[derive(Debug)]
enum Target {
    /// Not stated: whatever the file holds.
    Unstated,
    /// `"all-linear"`: every linear layer of the blocks.
    AllLinear,
    /// A regular expression for the whole name.
    Matching(Regex),
    /// Names, or their ends after a dot.
    Named(Vec<String>),
}

/// A pattern and the value it gives to the modules that it matches.
#[derive(Debug)]
struct Rule<T> {
    pattern: String,
    regex: Regex,
    value: T,
}

/// The parts of `adapter_config.json` that decide which function the adapter is.
#[derive(Debug)]
pub(crate) struct LoraConfig {
    path: PathBuf,
    rank: usize,
    alpha: f64,
    rank_pattern: Vec<Rule<usize>>,
    alpha_pattern: Vec<Rule<f64>>,
    rank_stabilised: bool,
    target: Target,
    exclude: Option<Target>,
    /// Only blocks of these indices; empty for all.
    layers: Vec<usize>,
    /// How a block's index is found in a module's name.
    layer_index: Vec<Regex>,
}

impl LoraConfig {
    /// Reads and checks the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// [`Error::ConfigKey`] for the first key with a value that is not supported.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let value = serde_json::from_slice(bytes).map_err(|error| Error::malformed(path, "JSON", error.to_string()))?;
        let keys = Keys { path, value };
        keys.check_supported()?;
        let target = keys.target("target_modules")?.unwrap_or(Target::Unstated);
        let layers: Vec<usize> = keys.one_or_many("layers_to_transform", "a block index or a list of them")?;
        if !layers.is_empty() && !matches!(target, Target::Named(_)) {
            return Err(keys.error("layers_to_transform", "null where target_modules is no list"));
        }
        let alpha: f64 = keys.required("lora_alpha", "a number")?;
        let alpha_pattern: Vec<Rule<f64>> = keys.rules("alpha_pattern", "an object of numbers")?;
        Ok(Self {
            path: path.to_path_buf(),
            rank: keys.required("r", "a positive integer")?,
            alpha,
            rank_pattern: keys.rules("rank_pattern", "an object of positive integers")?,
            alpha_pattern,
            rank_stabilised: keys.get("use_rslora", "true or false")?.unwrap_or(false),
            target,
            exclude: keys.target("exclude_modules")?,
            layers,
            layer_index: keys.layer_index()?,
        })
    }

    /// Whether the module of this name is adapted.
    ///
    /// # Errors
    /// [`Error::ConfigKey`] if a regular expression takes too long.
    pub(crate) fn targets(&self, module: &str) -> Result<bool> {
        if let Some(exclude) = &self.exclude
            && self.covers(exclude, "exclude_modules", module)?
        {
            return Ok(false);
        }
        if !self.covers(&self.target, "target_modules", module)? {
            return Ok(false);
        }
        let named_in_full = matches!(&self.target, Target::Named(names) if names.iter().any(|name| name == module));
        if self.layers.is_empty() || named_in_full {
            return Ok(true);
        }
        Ok(self.layer_of(module)?.is_some_and(|layer| self.layers.contains(&layer)))
    }

    /// Whether it is left open which modules are adapted.
    pub(crate) fn is_unstated(&self) -> bool {
        matches!(self.target, Target::Unstated)
    }

    /// Rank and scale of an adapted module.
    ///
    /// # Errors
    /// As [`targets`](Self::targets), or if the rank is 0.
    pub(crate) fn rank_and_scale(&self, module: &str) -> Result<(usize, f32)> {
        let rank = self
            .first(&self.rank_pattern, "rank_pattern", module)?
            .unwrap_or(self.rank);
        let alpha = self
            .first(&self.alpha_pattern, "alpha_pattern", module)?
            .unwrap_or(self.alpha);
        if rank == 0 {
            return Err(self.error("r", format!("0 for `{module}`"), "a positive integer"));
        }
        let divisor = if self.rank_stabilised {
            (rank as f64).sqrt()
        } else {
            rank as f64
        };
        Ok((rank, (alpha / divisor) as f32))
    }

    /// Checks that every name, pattern and block index says something about one of the adapted modules.
    ///
    /// # Errors
    /// [`Error::ConfigKey`] for the first that does not.
    pub(crate) fn check_all_used(&self, modules: &[&str]) -> Result<()> {
        if let Target::Named(names) = &self.target
            && let Some(idle) = names
                .iter()
                .find(|name| !modules.iter().any(|module| ends_with_name(module, name)))
        {
            return Err(self.idle("target_modules", idle));
        }
        self.check_rules_used(&self.rank_pattern, "rank_pattern", modules)?;
        self.check_rules_used(&self.alpha_pattern, "alpha_pattern", modules)?;
        let mut seen = Vec::new();
        for module in modules {
            seen.extend(self.layer_of(module)?);
        }
        match self.layers.iter().find(|layer| !seen.contains(layer)) {
            Some(idle) => Err(self.idle("layers_to_transform", &idle.to_string())),
            None => Ok(()),
        }
    }

    fn check_rules_used<T: Copy>(&self, rules: &[Rule<T>], key: &str, modules: &[&str]) -> Result<()> {
        for rule in rules {
            let mut used = false;
            for module in modules {
                used = used || self.is_match(&rule.regex, key, module)?;
            }
            if !used {
                return Err(self.idle(key, &rule.pattern));
            }
        }
        Ok(())
    }

    fn covers(&self, target: &Target, key: &str, module: &str) -> Result<bool> {
        match target {
            Target::Unstated | Target::AllLinear => Ok(true),
            Target::Matching(regex) => self.is_match(regex, key, module),
            Target::Named(names) => Ok(names.iter().any(|name| ends_with_name(module, name))),
        }
    }

    /// The index of the block that the module is in.
    fn layer_of(&self, module: &str) -> Result<Option<usize>> {
        for regex in &self.layer_index {
            let found = regex.captures(module);
            let found = found.map_err(|error| self.error("layers_pattern", error.to_string(), "a simpler pattern"))?;
            if let Some(index) = found.and_then(|groups| groups.name("idx")?.as_str().parse().ok()) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn first<T: Copy>(&self, rules: &[Rule<T>], key: &str, module: &str) -> Result<Option<T>> {
        for rule in rules {
            if self.is_match(&rule.regex, key, module)? {
                return Ok(Some(rule.value));
            }
        }
        Ok(None)
    }

    fn is_match(&self, regex: &Regex, key: &str, module: &str) -> Result<bool> {
        let matched = regex.is_match(module);
        matched.map_err(|error| self.error(key, format!("{regex} ({error})"), "a pattern that is cheaper to match"))
    }

    fn idle(&self, key: &str, entry: &str) -> Error {
        let mut error = self.error(key, format!("`{entry}`"), "entries that match a module of the base");
        if let Error::ConfigKey { help, .. } = &mut error {
            *help = "the adapter may belong to another model".to_owned();
        }
        error
    }

    fn error(&self, key: &str, got: impl Into<String>, expected: &str) -> Error {
        Error::ConfigKey {
            path: self.path.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            got: got.into(),
            help: String::new(),
        }
    }
}

/// Whether `module` is `name` or ends with it after a dot.
fn ends_with_name(module: &str, name: &str) -> bool {
    module
        .strip_suffix(name)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The JSON object with errors that name keys.
struct Keys<'a> {
    path: &'a Path,
    value: Map<String, Value>,
}

impl Keys<'_> {
    /// The value of a key, or `None` if it is missing or null.
    fn get<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|_| self.error(key, expected)),
        }
    }

    fn required<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<T> {
        self.get(key, expected)?.ok_or_else(|| self.error(key, expected))
    }

    fn one_or_many<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Vec<T>> {
        match self.value.get(key) {
            Some(Value::Array(_)) => self.required(key, expected),
            _ => Ok(Vec::from_iter(self.get(key, expected)?)),
        }
    }

    fn check_supported(&self) -> Result<()> {
        let kind: String = self.required("peft_type", "\"LORA\"")?;
        if kind != "LORA" {
            return Err(self.error("peft_type", "\"LORA\""));
        }
        if self
            .get::<String>("bias", "\"none\"")?
            .is_some_and(|bias| bias != "none")
        {
            return Err(self.error("bias", "\"none\""));
        }
        for (key, meaning) in UNSUPPORTED {
            if self.value.get(key).is_some_and(is_set) {
                return Err(self.error(key, &format!("it to be unset ({meaning} is not supported)")));
            }
        }
        let init = self.value.get("init_lora_weights").filter(|value| !value.is_null());
        let init = init.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_lowercase));
        if init.is_some_and(|init| !PLAIN_INITS.contains(&init.as_str())) {
            let expected = "an initialisation that keeps the base's weights (convert with PEFT's \
                            path_initial_model_for_weight_conversion)";
            return Err(self.error("init_lora_weights", expected));
        }
        Ok(())
    }

    fn target(&self, key: &str) -> Result<Option<Target>> {
        const EXPECTED: &str = "a list of names or a regular expression";
        Ok(match self.value.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Some(Target::AllLinear),
            Some(Value::String(text)) => Some(Target::Matching(self.regex(key, &format!(r"\A(?:{text})\z"))?)),
            Some(_) => Some(Target::Named(self.required(key, EXPECTED)?)),
        })
    }

    fn rules<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Vec<Rule<T>>> {
        let object: Map<String, Value> = self.get(key, expected)?.unwrap_or_default();
        let rule = |(pattern, value): (String, Value)| {
            Ok(Rule {
                regex: self.regex(key, &format!(r"\A(.*\.)?({pattern})$"))?,
                value: T::deserialize(value).map_err(|_| self.error(key, expected))?,
                pattern,
            })
        };
        object.into_iter().map(rule).collect()
    }

    /// PEFT takes the first number after a name if no pattern says which list holds the blocks.
    fn layer_index(&self) -> Result<Vec<Regex>> {
        let lists: Vec<String> = self.one_or_many("layers_pattern", "a name or a list of names")?;
        let lists = Vec::from_iter(lists.iter().filter(|list| !list.is_empty()));
        if lists.is_empty() {
            return Ok(vec![self.regex("layers_pattern", r"\A.*?\.[^.]*\.(?P<idx>\d+)\.")?]);
        }
        let regex = |list: &String| self.regex("layers_pattern", &format!(r"\A(?:|.*?\.){list}\.(?P<idx>\d+)\."));
        lists.into_iter().map(regex).collect()
    }

    fn regex(&self, key: &str, regex: &str) -> Result<Regex> {
        Regex::new(regex).map_err(|error| self.error(key, &format!("a regular expression ({error})")))
    }

    fn error(&self, key: &str, expected: &str) -> Error {
        Error::ConfigKey {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            got: self
                .value
                .get(key)
                .map_or_else(|| "missing".to_owned(), Value::to_string),
            help: String::new(),
        }
    }
}

/// Whether a JSON value means more than "off".
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(object) => !object.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const Q3: &str = "model.layers.3.self_attn.q_proj";

    /// A valid configuration with some keys replaced.
    fn parse(changes: Value) -> Result<LoraConfig> {
        let mut config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]});
        config
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        LoraConfig::parse(Path::new("c"), config.to_string().as_bytes())
    }

    fn message(changes: Value) -> String {
        parse(changes).unwrap_err().to_string()
    }

    #[test]
    fn scale_is_alpha_over_rank() {
        assert_eq!(parse(json!({})).unwrap().rank_and_scale(Q3).unwrap(), (8, 2.0));
        let rank_stabilised = parse(json!({"use_rslora": true, "r": 16, "lora_alpha": 10.0})).unwrap();
        assert_eq!(rank_stabilised.rank_and_scale(Q3).unwrap(), (16, 2.5));
    }

    #[test]
    fn the_first_matching_pattern_decides() {
        let config = parse(json!({
            "rank_pattern": {"layers.3.self_attn.q_proj": 4, "q_proj": 2, "proj": 1},
            "alpha_pattern": {r".*\.\d\.self_attn\.(q|k)_proj": 32, "^model.layers.1.*v_proj": 1},
        }))
        .unwrap();
        assert_eq!(config.rank_and_scale(Q3).unwrap(), (4, 8.0));
        assert_eq!(
            config.rank_and_scale("model.layers.13.self_attn.q_proj").unwrap(),
            (2, 8.0)
        );
        assert_eq!(
            config.rank_and_scale("model.layers.1.self_attn.v_proj").unwrap(),
            (8, 0.125)
        );
        assert_eq!(config.rank_and_scale("proj").unwrap(), (1, 16.0));
    }

    #[test]
    fn targets_follow_peft() {
        let targets = |changes: Value, module: &str| parse(changes).unwrap().targets(module).unwrap();
        assert!(targets(json!({}), Q3));
        assert!(!targets(json!({}), "model.layers.3.self_attn.k_proj"));
        assert!(!targets(json!({"target_modules": ["proj"]}), Q3));
        assert!(targets(json!({"target_modules": r".*\.(3|4)\..*q_proj"}), Q3));
        assert!(
            !targets(json!({"target_modules": "q_proj"}), Q3),
            "regular expressions match whole names"
        );
        assert!(targets(json!({"target_modules": r"(?!.*vision).*q_proj"}), Q3));
        assert!(targets(
            json!({"target_modules": "ALL-linear"}),
            "model.layers.0.mlp.up_proj"
        ));
        assert!(!targets(json!({"exclude_modules": ["q_proj"]}), Q3));
        assert!(!targets(json!({"exclude_modules": r".*\.3\..*"}), Q3));
        assert!(targets(json!({"layers_to_transform": [1, 3]}), Q3));
        assert!(!targets(json!({"layers_to_transform": 2}), Q3));
        assert!(
            targets(json!({"layers_to_transform": [1], "target_modules": [Q3]}), Q3),
            "named in full"
        );
        assert!(targets(
            json!({"layers_to_transform": [3], "layers_pattern": "layers"}),
            Q3
        ));
        assert!(!targets(
            json!({"layers_to_transform": [3], "layers_pattern": ["h", "blocks"]}),
            Q3
        ));
    }

    #[test]
    fn what_changes_the_function_is_refused_by_name() {
        for (key, value) in [
            ("use_dora", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("trainable_token_indices", json!({"embed_tokens": [1]})),
            ("lora_bias", json!(true)),
            ("fan_in_fan_out", json!(true)),
            ("bias", json!("lora_only")),
            ("peft_type", json!("IA3")),
            ("init_lora_weights", json!("pissa_niter_16")),
            ("r", json!(-1)),
            ("r", json!(null)),
            ("lora_alpha", json!("16")),
            ("rank_pattern", json!({"q_proj": 0.5})),
            ("rank_pattern", json!({"q_proj(": 4})),
            ("target_modules", json!("(")),
            ("target_modules", json!([1])),
            ("layers_to_transform", json!(["a"])),
        ] {
            let message = message(json!({ key: value }));
            assert!(
                message.starts_with(&format!("c: `{key}` is {value}, expected ")),
                "{message}"
            );
        }
        for init in [json!(true), json!(false), json!("gaussian"), json!(null)] {
            assert!(parse(json!({"init_lora_weights": init})).is_ok());
        }
        assert!(parse(json!({"r": 0})).unwrap().rank_and_scale(Q3).is_err());
        assert!(message(json!({"target_modules": ".*", "layers_to_transform": [1]})).contains("layers_to_transform"));
    }

    #[test]
    fn idle_entries_are_named() {
        let idle = |changes: Value| {
            parse(changes)
                .unwrap()
                .check_all_used(&[Q3, "v_proj"])
                .unwrap_err()
                .to_string()
        };
        assert!(parse(json!({})).unwrap().check_all_used(&[Q3, "v_proj"]).is_ok());
        assert!(idle(json!({"target_modules": ["q_proj", "c_attn"]})).starts_with("c: `target_modules` is `c_attn`"));
        assert!(idle(json!({"rank_pattern": {"layers.7.*": 2}})).starts_with("c: `rank_pattern` is `layers.7.*`"));
        assert!(idle(json!({"alpha_pattern": {"k_proj": 2}})).starts_with("c: `alpha_pattern` is `k_proj`"));
        assert!(idle(json!({"layers_to_transform": [3, 30]})).starts_with("c: `layers_to_transform` is `30`"));
    }

    #[test]
    fn patterns_that_explode_are_refused() {
        let config = parse(json!({"target_modules": r"(a*)*\1b(?=c)"})).unwrap();
        assert!(config.targets(&"a".repeat(40)).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), pattern in ".{0,20}") {
            _ = LoraConfig::parse(Path::new("c"), &bytes);
            if let Ok(config) = parse(json!({"target_modules": pattern.clone(), "rank_pattern": {pattern: 1}})) {
                _ = config.targets(Q3);
                _ = config.rank_and_scale(Q3);
            }
        }
    }
}

//! Which linear layers of the chosen blocks, as text: `q_proj,k_proj`, `attention`, `mlp`, `all-linear`, or a pattern of
//! full names such as `model.layers.*.self_attn.?_proj` (`*` any characters, `?` one).

use crate::{
    Error, Result,
    model::{Architecture, Kind, ParameterId, Part},
};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// A choice of linear layers: one or more names, groups or patterns, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Modules(Vec<String>);

impl Modules {
    /// q, k, v and o: what LoRA adapts where nothing else is said.
    pub fn attention() -> Self {
        Self(vec!["attention".to_owned()])
    }

    /// All seven linear layers.
    pub fn all_linear() -> Self {
        Self(vec!["all-linear".to_owned()])
    }

    /// The chosen linear layers of the given blocks, as (block, part), sorted.
    ///
    /// # Errors
    /// [`Error::Argument`] for the first name or pattern that matches none of them, with the names there are.
    pub fn resolve(&self, architecture: &Architecture, blocks: &[usize]) -> Result<Vec<(usize, Part)>> {
        let mut chosen = BTreeSet::new();
        for item in &self.0 {
            let all = blocks.iter().flat_map(|&block| Part::LINEARS.map(|part| (block, part)));
            let matched: Vec<_> = all
                .filter(|&(block, part)| matches(item, architecture, block, part))
                .collect();
            if matched.is_empty() {
                return Err(self.matches_nothing(item, architecture));
            }
            chosen.extend(matched);
        }
        Ok(chosen.into_iter().collect())
    }

    fn matches_nothing(&self, item: &str, architecture: &Architecture) -> Error {
        let names = Part::LINEARS.map(|part| last_name(part.name(architecture)));
        Error::Argument {
            what: "--modules".to_owned(),
            value: self.to_string(),
            problem: format!("`{item}` matches no linear layer of the chosen blocks"),
            help: format!(
                "there are {}, or attention, mlp, all-linear, or a pattern of full names",
                names.join(", ")
            ),
        }
    }
}

/// The end of a part's name: `q_proj`.
fn last_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn matches(item: &str, architecture: &Architecture, block: usize, part: Part) -> bool {
    let attention = matches!(part, Part::Q | Part::K | Part::V | Part::O);
    match item {
        "all-linear" => true,
        "attention" => attention,
        "mlp" => !attention,
        _ => {
            let name = part.name(architecture);
            let weight = ParameterId::Block {
                block,
                part,
                kind: Kind::Weight,
            }
            .name(architecture);
            let module = weight.strip_suffix(".weight").unwrap_or(&weight);
            item == name || item == last_name(name) || glob(item.as_bytes(), module.as_bytes())
        }
    }
}

/// Whether all of `name` fits `pattern`; `*` stands for any bytes, `?` for one.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None; // the last `*` and where it ends: only it ever needs to take more
    while n < name.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(byte), _) if *byte == b'?' || *byte == name[n] => (p, n) = (p + 1, n + 1),
            (_, Some((at, taken))) => {
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for Modules {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
        if items.iter().any(String::is_empty) {
            return Err(Error::Argument {
                what: "--modules".to_owned(),
                value: text.to_owned(),
                problem: "a name between its commas is empty".to_owned(),
                help: "write names such as q_proj,v_proj".to_owned(),
            });
        }
        Ok(Self(items))
    }
}

impl TryFrom<String> for Modules {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Modules> for String {
    fn from(modules: Modules) -> Self {
        modules.to_string()
    }
}

impl fmt::Display for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::ConfigJson;
    use proptest::prelude::*;
    use serde_json::json;

    fn architecture() -> Architecture {
        let value = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
            "num_hidden_layers": 12, "vocab_size": 10, "max_position_embeddings": 16,
        });
        let value = value.as_object().unwrap().clone();
        let path = "config.json".into();
        Architecture::resolve(&ConfigJson { path, value }).unwrap()
    }

    fn resolved(text: &str) -> Vec<(usize, Part)> {
        text.parse::<Modules>()
            .unwrap()
            .resolve(&architecture(), &[1, 10])
            .unwrap()
    }

    #[test]
    fn names_groups_and_patterns() {
        let both = |parts: &[Part]| {
            [1, 10]
                .iter()
                .flat_map(|&b| parts.iter().map(move |&p| (b, p)))
                .collect::<Vec<_>>()
        };
        assert_eq!(resolved("v_proj, q_proj,q_proj"), both(&[Part::Q, Part::V]));
        assert_eq!(resolved("self_attn.o_proj,mlp"), both(&Part::LINEARS[3..]));
        assert_eq!(resolved("attention"), both(&Part::LINEARS[..4]));
        assert_eq!(resolved("all-linear"), both(&Part::LINEARS));
        assert_eq!(resolved("*.self_attn.?_proj"), both(&Part::LINEARS[..4]));
        assert_eq!(resolved("model.layers.1.*_proj").len(), 7);
        assert_eq!(resolved("model.layers.10.mlp.down_proj"), [(10, Part::Down)]);
    }

    #[test]
    fn each_item_must_match_in_the_chosen_blocks() {
        for text in ["q_proj,norm", "proj", "model.layers.2.*", "Q_PROJ"] {
            let error = text
                .parse::<Modules>()
                .unwrap()
                .resolve(&architecture(), &[1, 10])
                .unwrap_err();
            let item = text.rsplit(',').next().unwrap();
            assert!(
                error.to_string().contains(&format!("`{item}` matches no linear layer")),
                "{error}"
            );
        }
        assert!(
            "q_proj,"
                .parse::<Modules>()
                .unwrap_err()
                .to_string()
                .contains("is empty")
        );
    }

    proptest! {
        #[test]
        fn a_pattern_is_the_regular_expression_it_looks_like(pattern in "[ab?*]{0,8}", name in "[ab]{0,8}") {
            let regex = format!(r"\A{}\z", pattern.replace('?', ".").replace('*', ".*"));
            let expected = fancy_regex::Regex::new(&regex).unwrap().is_match(&name).unwrap();
            prop_assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), expected);
        }
    }
}

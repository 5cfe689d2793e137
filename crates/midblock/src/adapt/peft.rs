//! A plan in the terms of Python PEFT: `adapter_config.json`.
//!
//! `r` and `lora_alpha` are the most frequent ones, modules with others are named in full in `rank_pattern` and
//! `alpha_pattern`. Where every chosen block has the same modules they are listed once, with `layers_to_transform` and
//! `layers_pattern`; otherwise each is named in full, and PEFT then looks at no layer index.

use super::{Entry, Kind, Move, Plan, Scaling};
use crate::model::{Architecture, ParameterId, Part};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

impl Plan {
    /// The content of `adapter_config.json`; `None` for full fine-tuning, which PEFT has no word for.
    pub fn peft_json(&self, architecture: &Architecture, base_name: &str) -> Option<Value> {
        let Kind::Lora(options) = &self.kind else { return None };
        let pairs: Vec<Pair> = self
            .entries
            .iter()
            .filter_map(|entry| Pair::of(entry, architecture))
            .collect();
        let rank = most_frequent(pairs.iter().map(|pair| pair.rank as f64));
        let alpha = most_frequent(pairs.iter().map(|pair| pair.alpha));
        let pattern = |value: fn(&Pair) -> f64, common: f64| -> Map<String, Value> {
            let other = pairs.iter().filter(|pair| value(pair) != common);
            other
                .map(|pair| (pair.module.clone(), whole_if_possible(value(pair))))
                .collect()
        };
        let (target_modules, layers) = self.targets(&pairs);
        Some(json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "auto_mapping": null,
            "base_model_name_or_path": base_name,
            "revision": null,
            "inference_mode": true,
            "r": whole_if_possible(rank),
            "lora_alpha": whole_if_possible(alpha),
            "lora_dropout": options.dropout,
            "rank_pattern": pattern(|pair| pair.rank as f64, rank),
            "alpha_pattern": pattern(|pair| pair.alpha, alpha),
            "target_modules": target_modules,
            "exclude_modules": null,
            "layers_to_transform": layers,
            "layers_pattern": layers.as_ref().map(|_| "layers"),
            "modules_to_save": null,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "use_rslora": options.scaling == Scaling::Rslora,
            "use_dora": false,
        }))
    }

    /// `target_modules` and `layers_to_transform`.
    fn targets(&self, pairs: &[Pair]) -> (Vec<String>, Option<Vec<usize>>) {
        let mut parts: BTreeMap<usize, BTreeSet<Part>> = BTreeMap::new();
        pairs
            .iter()
            .for_each(|pair| _ = parts.entry(pair.block).or_default().insert(pair.part));
        let same_everywhere = parts.values().all(|of_block| Some(of_block) == parts.values().next());
        if !same_everywhere {
            return (pairs.iter().map(|pair| pair.module.clone()).collect(), None);
        }
        let last_name = |pair: &Pair| pair.module.rsplit('.').next().unwrap_or(&pair.module).to_owned();
        let first = pairs.first().map(|pair| pair.block);
        let names = pairs.iter().filter(|pair| Some(pair.block) == first).map(last_name);
        let layers: Vec<usize> = parts.into_keys().collect();
        (names.collect(), (layers.len() < self.blocks).then_some(layers))
    }
}

/// One adapted module.
struct Pair {
    block: usize,
    part: Part,
    /// Its full name, `model.layers.3.self_attn.q_proj`.
    module: String,
    rank: usize,
    alpha: f64,
}

impl Pair {
    fn of(entry: &Entry, architecture: &Architecture) -> Option<Self> {
        let (Move::Lora { rank, alpha, .. }, ParameterId::Block { block, part, .. }) = (entry.how, entry.id) else {
            return None;
        };
        let module = format!("model.layers.{block}.{}", part.name(architecture));
        Some(Self {
            block,
            part,
            module,
            rank,
            alpha,
        })
    }
}

/// The value that occurs most often, the first of several.
fn most_frequent(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    let count = |value: f64| values.iter().filter(|other| **other == value).count();
    let better = |best: f64, value: f64| if count(value) > count(best) { value } else { best };
    values.iter().copied().reduce(better).unwrap_or(0.0)
}

/// 16 rather than 16.0: PEFT's fields are integers wherever they can be.
fn whole_if_possible(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as u64)
    } else {
        json!(value)
    }
}

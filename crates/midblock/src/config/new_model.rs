//! `[model.new]`: the shape of a model that is trained from random weights.

use super::check::Findings;
use crate::tokens::SMALLEST_VOCABULARY;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// `[model.new]`: instead of `model.base`, for `midblock pretrain`. What has no default is required.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// `llama`.
    #[serde(default)]
    pub family: Family,
    /// D, the width of the residual stream.
    pub hidden: usize,
    /// F, the width of the MLP.
    pub ffn: usize,
    /// L.
    pub blocks: usize,
    /// H, query heads.
    pub heads: usize,
    /// K, key and value heads; as many as `heads` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// E, the width of a head; `hidden / heads` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Positions the model is made for; `data.max_length` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// Base of the rotary angles; 10000 by default.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Standard deviation of the initial matrices; 0.02 by default, as in GPT-2. A narrow model learns faster from more: the
    /// outputs of a matrix spread by this times √D.
    #[serde(default = "initializer_range")]
    pub initializer_range: f64,
    /// Whether the head is the embedding; yes by default.
    #[serde(default = "tied")]
    pub tied: bool,
    /// V, the size of the tokenizer that is learned from the training data.
    pub vocab: usize,
}

/// Family of a new model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// RMS norms before attention and a gated MLP, rotary positions, no biases.
    #[default]
    Llama,
}

fn rope_theta() -> f64 {
    10_000.0
}

fn initializer_range() -> f64 {
    0.02
}

fn tied() -> bool {
    true
}

impl NewModel {
    /// Fills in what follows from other keys.
    pub(super) fn fill(&mut self, max_length: usize) {
        self.kv_heads.get_or_insert(self.heads);
        self.head_dim.get_or_insert(self.hidden / self.heads);
        self.max_positions.get_or_insert(max_length);
    }

    /// What is wrong with the shape.
    pub(super) fn check(&self, max_length: usize, found: &mut Findings<'_>) {
        let counts = [
            ("model.new.hidden", self.hidden),
            ("model.new.ffn", self.ffn),
            ("model.new.blocks", self.blocks),
            ("model.new.heads", self.heads),
            ("model.new.kv_heads", self.kv_heads.unwrap_or(1)),
            ("model.new.head_dim", self.head_dim.unwrap_or(2)),
        ];
        for (key, count) in counts {
            found.count(key, Some(count as u64));
        }
        if counts.iter().any(|(_, count)| *count == 0) {
            return;
        }
        let (hidden, heads) = (self.hidden, self.heads);
        let kv_heads = self.kv_heads.unwrap_or(heads);
        let divisor = format!("a divisor of `heads` ({heads})");
        found.range("model.new.kv_heads", heads.is_multiple_of(kv_heads), kv_heads, &divisor);
        if self.head_dim.is_none() {
            let divisor = format!("a divisor of `hidden` ({hidden}), as there is no `head_dim`");
            found.range("model.new.heads", hidden.is_multiple_of(heads), heads, &divisor);
        }
        let head_dim = self.head_dim.unwrap_or(hidden / heads);
        let even = head_dim.is_multiple_of(2) && head_dim > 0;
        found.range(
            "model.new.head_dim",
            even,
            head_dim,
            "an even number: positions turn pairs",
        );
        if let Some(positions) = self.max_positions {
            let expected = format!("`data.max_length` ({max_length}) or more");
            found.range("model.new.max_positions", positions >= max_length, positions, &expected);
        }
        let theta = self.rope_theta;
        found.range(
            "model.new.rope_theta",
            theta > 1.0 && theta.is_finite(),
            theta,
            "above 1",
        );
        let spread = self.initializer_range;
        found.range(
            "model.new.initializer_range",
            spread > 0.0 && spread <= 1.0,
            spread,
            "above 0 and at most 1",
        );
        let smallest = format!("{SMALLEST_VOCABULARY} or more: the bytes and the end of a text");
        found.range(
            "model.new.vocab",
            self.vocab >= SMALLEST_VOCABULARY,
            self.vocab,
            &smallest,
        );
    }

    /// `config.json` for a tokenizer of `vocab` tokens, of which the first ends a text.
    pub fn config_json(&self, vocab: usize) -> Map<String, Value> {
        let Family::Llama = self.family;
        let value = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": 1e-5,
            "initializer_range": self.initializer_range,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": self.tied,
            "bos_token_id": null,
            "eos_token_id": 0,
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

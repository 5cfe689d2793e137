//! The model configuration: from GGUF metadata to the keys of Hugging Face's `config.json`.
//!
//! What a key cannot express is an error that names it. Two things are recovered rather than read: whether the output
//! head is tied to the embedding (there is no tensor `output.weight`), and the `llama3` rope scaling, of which the file has
//! only the resulting frequency divisors (tensor `rope_freqs.weight`). Divisors that follow another rule are kept as they
//! are, under a `rope_type` of this project alone: `{"rope_type": "factors", "factors": [E/2 numbers]}`.

use super::{header::Info, metadata::Metadata};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::f64::consts::TAU;

/// Model families that are read, by the name in `general.architecture`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Llama, Mistral, SmolLM2, TinyLlama.
    Llama,
    Qwen2,
    Qwen3,
    Olmo2,
}

impl Architecture {
    pub(super) fn from_metadata(metadata: &Metadata<'_>) -> Result<Self> {
        const KEY: &str = "general.architecture";
        const EXPECTED: &str = "llama, qwen2, qwen3 or olmo2";
        match metadata.required(KEY, EXPECTED, metadata.text(KEY)?)? {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            "olmo2" => Ok(Self::Olmo2),
            other => Err(metadata.unsupported(KEY, EXPECTED, format!("\"{other}\""), "")),
        }
    }

    /// Prefix of its metadata keys.
    fn prefix(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Olmo2 => "olmo2",
        }
    }
}

/// Attention heads, which also decide the order of the rows of `q_proj` and `k_proj`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// H.
    pub query: usize,
    /// K.
    pub key_value: usize,
    /// E.
    pub dim: usize,
}

/// Metadata keys of one architecture.
struct Keys<'m, 'a> {
    metadata: &'m Metadata<'a>,
    prefix: &'static str,
}

impl Keys<'_, '_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A whole number of at least 1.
    fn size(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        let Some(n) = self.metadata.uint(&key)? else {
            return Ok(None);
        };
        let size = u32::try_from(n).ok().filter(|n| *n > 0).map(|n| n as usize);
        size.map(Some)
            .ok_or_else(|| self.metadata.unsupported(&key, "a positive 32-bit number", n, ""))
    }

    fn required_size(&self, name: &str) -> Result<usize> {
        self.metadata
            .required(&self.key(name), "a whole number", self.size(name)?)
    }

    fn float(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.float(&self.key(name))
    }

    /// The value of `name` must be `expected` if it is there.
    fn must_be(&self, name: &str, expected: usize, why: &str) -> Result<()> {
        match self.metadata.uint(&self.key(name))? {
            Some(n) if n != expected as u64 => {
                Err(self
                    .metadata
                    .unsupported(&self.key(name), &format!("{expected} ({why})"), n, ""))
            }
            _ => Ok(()),
        }
    }

    fn must_be_absent(&self, names: &[&str]) -> Result<()> {
        match names
            .iter()
            .map(|name| self.key(name))
            .find(|key| self.metadata.contains(key))
        {
            Some(key) => {
                Err(self
                    .metadata
                    .unsupported(&key, "no such key", "present", "this variant is not supported"))
            }
            None => Ok(()),
        }
    }

    fn heads(&self) -> Result<Heads> {
        let hidden = self.required_size("embedding_length")?;
        let query = self.required_size("attention.head_count")?;
        let key_value = self.size("attention.head_count_kv")?.unwrap_or(query);
        if query % key_value != 0 {
            let expected = format!("a divisor of attention.head_count, {query}");
            return Err(self
                .metadata
                .unsupported(&self.key("attention.head_count_kv"), &expected, key_value, ""));
        }
        let dim = match self.size("attention.key_length")? {
            Some(dim) => dim,
            None if hidden % query == 0 => hidden / query,
            None => {
                let expected = format!("a divisor of embedding_length, {hidden}");
                return Err(self
                    .metadata
                    .unsupported(&self.key("attention.head_count"), &expected, query, ""));
            }
        };
        if dim % 2 != 0 {
            return Err(self
                .metadata
                .unsupported(&self.key("attention.key_length"), "an even number", dim, ""));
        }
        self.must_be("attention.value_length", dim, "the length of keys")?;
        self.must_be(
            "rope.dimension_count",
            dim,
            "the head dimension: rope over a part of it is not supported",
        )?;
        Ok(Heads { query, key_value, dim })
    }

    /// The value of `rope_scaling`; `divisors` is the content of `rope_freqs.weight`.
    fn rope_scaling(&self, rope_theta: f64, head_dim: usize, divisors: Option<&[f32]>) -> Result<Value> {
        self.must_be_absent(&[
            "rope.scale_linear",
            "rope.scaling.yarn_log_multiplier",
            "rope.scaling.yarn_ext_factor",
        ])?;
        self.must_be_absent(&["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"])?;
        let factor = || {
            let factor = self.float("rope.scaling.factor")?;
            self.metadata
                .required(&self.key("rope.scaling.factor"), "a number", factor)
        };
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?;
        match (kind, divisors) {
            (None | Some("none"), None) => Ok(Value::Null),
            (None | Some("none"), Some(divisors)) => Ok(llama3_scaling(rope_theta, head_dim, divisors)
                .unwrap_or_else(|| json!({ "rope_type": "factors", "factors": divisors }))),
            (Some("linear"), None) => Ok(json!({ "rope_type": "linear", "factor": factor()? })),
            (Some("yarn"), None) => {
                let original = self.required_size("rope.scaling.original_context_length")?;
                let mut yarn = json!({
                    "rope_type": "yarn", "factor": factor()?, "original_max_position_embeddings": original,
                });
                for name in ["beta_fast", "beta_slow"] {
                    if let Some(beta) = self.float(&format!("rope.scaling.yarn_{name}"))? {
                        yarn[name] = json!(beta);
                    }
                }
                Ok(yarn)
            }
            (Some(kind), _) => {
                let got = if divisors.is_some() {
                    format!("{kind:?} with `rope_freqs.weight`")
                } else {
                    format!("{kind:?}")
                };
                Err(self
                    .metadata
                    .unsupported(&self.key("rope.scaling.type"), "none, linear or yarn", got, ""))
            }
        }
    }
}

/// Recognises the divisors that Llama 3.1 to 3.3 use for their rotary frequencies; `None` if these are others.
///
/// With wavelength `w` of a frequency and original length `n` = 8192, the divisor is 1 for `w < n/4`, the factor for
/// `w > n`, and in between `1 / ((1 − s) / factor + s)` with `s = (n/w − 1) / (4 − 1)`.
fn llama3_scaling(rope_theta: f64, head_dim: usize, divisors: &[f32]) -> Option<Value> {
    const ORIGINAL: f64 = 8192.0;
    const HIGH: f64 = 4.0;
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let expected = |j: usize| {
        let wavelength = TAU * rope_theta.powf(2.0 * j as f64 / head_dim as f64);
        let smooth = ((ORIGINAL / wavelength - 1.0) / (HIGH - 1.0)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    // The writer computes in f32: wavelengths carry an error of about 1e-6, the divisors up to `factor` times as much.
    let close = |(j, got): (usize, &f32)| (f64::from(*got) / expected(j) - 1.0).abs() < 1e-4;
    (divisors.len() == head_dim / 2 && divisors.iter().enumerate().all(close)).then(|| {
        json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": HIGH,
            "original_max_position_embeddings": ORIGINAL as u64,
        })
    })
}

/// The configuration object, and the heads.
pub(super) fn config_json(
    architecture: Architecture,
    metadata: &Metadata<'_>,
    tensors: &[Info<'_>],
    rope_divisors: Option<&[f32]>,
) -> Result<(Map<String, Value>, Heads)> {
    let keys = Keys {
        metadata,
        prefix: architecture.prefix(),
    };
    keys.must_be("expert_count", 0, "mixtures of experts are not supported")?;
    let heads = keys.heads()?;
    let rope_theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let eps = keys.float("attention.layer_norm_rms_epsilon")?;
    let eps = metadata.required(&keys.key("attention.layer_norm_rms_epsilon"), "a number", eps)?;
    let find = |name: &str| tensors.iter().find(|info| info.name == name);
    let embedding = find("token_embd.weight").ok_or_else(|| Error::MissingTensor {
        path: metadata.path.to_path_buf(),
        tensor: "model.embed_tokens.weight".to_owned(),
        help: "the file has no `token_embd.weight`; is it a shard of several or an adapter?".to_owned(),
    })?;
    // A sliding window is Mistral's one difference to Llama; elsewhere the file does not say which layers have it.
    let sliding_window = match architecture {
        Architecture::Llama => keys.size("attention.sliding_window")?,
        _ => keys.must_be_absent(&["attention.sliding_window"]).map(|()| None)?,
    };
    let model_type = if sliding_window.is_some() {
        "mistral"
    } else {
        architecture.prefix()
    };

    let config = json!({
        "model_type": model_type,
        "hidden_size": keys.required_size("embedding_length")?,
        "intermediate_size": keys.required_size("feed_forward_length")?,
        "num_hidden_layers": keys.required_size("block_count")?,
        "num_attention_heads": heads.query,
        "num_key_value_heads": heads.key_value,
        "head_dim": heads.dim,
        "hidden_act": "silu",
        "rms_norm_eps": eps,
        "rope_theta": rope_theta,
        "rope_scaling": keys.rope_scaling(rope_theta, heads.dim, rope_divisors)?,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": keys.required_size("context_length")?,
        "tie_word_embeddings": find("output.weight").is_none(),
        "attention_bias": find("blk.0.attn_q.bias").is_some(),
        "mlp_bias": find("blk.0.ffn_gate.bias").is_some(),
        "sliding_window": sliding_window,
        "bos_token_id": metadata.uint("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": metadata.uint("tokenizer.ggml.eos_token_id")?,
    });
    match config {
        Value::Object(config) => Ok((config, heads)),
        _ => unreachable!("json! of braces is an object"),
    }
}

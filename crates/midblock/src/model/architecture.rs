//! `config.json` → what the decoder does, with nothing left to guess.
//!
//! Unknown keys are allowed (real files are full of them); a value that would change the computation and is not supported is
//! an error that names the key.

use super::rope::{Rope, RopeScaling};
use crate::{Error, Result, checkpoint::ConfigJson};
use midblock_kernels::Activation;
use serde_json::{Map, Value};

/// Normalisation of queries and keys before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMS norm of each head's E values (Qwen3).
    PerHead,
    /// RMS norm over all heads together (OLMo2).
    AllHeads,
}

/// Where a block normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the MLP (Llama and most).
    Before,
    /// After attention and after the MLP, before the residual sum (OLMo2).
    After,
}

/// A decoder-only transformer, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// `model_type` of the configuration.
    pub model_type: String,
    /// D.
    pub hidden: usize,
    /// F.
    pub ffn: usize,
    /// H.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// E.
    pub head_dim: usize,
    /// V.
    pub vocab: usize,
    /// L.
    pub blocks: usize,
    /// Added to the mean square in every RMS norm.
    pub norm_eps: f32,
    /// Where blocks normalise.
    pub norms: NormPlacement,
    /// Query and key normalisation.
    pub qk_norm: QkNorm,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention output.
    pub o_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// Gate non-linearity.
    pub activation: Activation,
    /// Rotary embedding.
    pub rope: Rope,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// Per block: the sliding window, if it has one.
    pub windows: Vec<Option<usize>>,
    /// The head is the embedding matrix.
    pub tied_head: bool,
}

/// The matrices and vectors of one block by name below `model.layers.{i}.`, with shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// Linear layers: name, `[out, in]`, whether it has a bias.
    pub linears: Vec<(&'static str, [usize; 2], bool)>,
    /// Norm weights: name and length.
    pub norms: Vec<(&'static str, usize)>,
}

/// What sets a family apart, as data.
struct Family {
    model_type: &'static str,
    norms: NormPlacement,
    qk_norm: QkNorm,
    qkv_bias: Bias,
    o_bias: Bias,
    mlp_bias: Bias,
    sliding: Sliding,
    /// `rms_norm_eps` where the file does not say (the family's default in transformers).
    norm_eps: f64,
    /// Whether `num_key_value_heads` may be absent (then K = H).
    kv_heads_optional: bool,
}

#[derive(Clone, Copy)]
enum Bias {
    Never,
    Always,
    Key(&'static str),
}

#[derive(Clone, Copy)]
enum Sliding {
    Never,
    /// `sliding_window` applies to every block.
    All,
    /// `use_sliding_window` switches it on for blocks from `max_window_layers`, or `layer_types` says which.
    Some,
}

const LLAMA: Family = Family {
    model_type: "llama",
    norms: NormPlacement::Before,
    qk_norm: QkNorm::None,
    qkv_bias: Bias::Key("attention_bias"),
    o_bias: Bias::Key("attention_bias"),
    mlp_bias: Bias::Key("mlp_bias"),
    sliding: Sliding::Never,
    norm_eps: 1e-6,
    kv_heads_optional: true,
};

const FAMILIES: [Family; 5] = [
    LLAMA,
    Family {
        model_type: "mistral",
        qkv_bias: Bias::Never,
        o_bias: Bias::Never,
        mlp_bias: Bias::Never,
        sliding: Sliding::All,
        kv_heads_optional: false,
        ..LLAMA
    },
    Family {
        model_type: "qwen2",
        qkv_bias: Bias::Always,
        o_bias: Bias::Never,
        mlp_bias: Bias::Never,
        sliding: Sliding::Some,
        kv_heads_optional: false,
        ..LLAMA
    },
    Family {
        model_type: "qwen3",
        qk_norm: QkNorm::PerHead,
        mlp_bias: Bias::Never,
        sliding: Sliding::Some,
        kv_heads_optional: false,
        ..LLAMA
    },
    Family {
        model_type: "olmo2",
        norms: NormPlacement::After,
        qk_norm: QkNorm::AllHeads,
        mlp_bias: Bias::Never,
        norm_eps: 1e-5,
        ..LLAMA
    },
];

impl Architecture {
    /// Resolves a configuration.
    ///
    /// # Errors
    /// [`Error::ConfigKey`] for the first key that is missing or not supported.
    pub fn resolve(config: &ConfigJson) -> Result<Self> {
        let keys = Keys {
            config,
            at: "",
            map: &config.value,
        };
        let model_type = keys.text("model_type")?;
        let family = FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|f| f.model_type).collect();
            keys.error("model_type", &format!("one of {}", known.join(", ")))
        })?;
        refuse_unsupported(&keys)?;

        let (hidden, heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
        let blocks = keys.count("num_hidden_layers")?;
        let kv_heads = match keys.optional_count("num_key_value_heads")? {
            Some(kv_heads) => kv_heads,
            None if family.kv_heads_optional => heads,
            None => return Err(keys.error("num_key_value_heads", "a positive whole number")),
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.error(
                "num_key_value_heads",
                &format!("a divisor of num_attention_heads ({heads})"),
            ));
        }
        let head_dim = match keys.optional_count("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(keys.error(
                    "head_dim",
                    "given, as hidden_size is not a multiple of num_attention_heads",
                ));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(keys.error("head_dim", "an even number (rotary embedding)"));
        }
        let max_positions = keys.count("max_position_embeddings")?;
        let bias = |bias| match bias {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Key(key) => keys.flag(key, false),
        };
        Ok(Self {
            model_type: model_type.to_owned(),
            hidden,
            ffn: keys.count("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            vocab: keys.count("vocab_size")?,
            blocks,
            norm_eps: keys.optional_number("rms_norm_eps")?.unwrap_or(family.norm_eps) as f32,
            norms: family.norms,
            qk_norm: family.qk_norm,
            qkv_bias: bias(family.qkv_bias)?,
            o_bias: bias(family.o_bias)?,
            mlp_bias: bias(family.mlp_bias)?,
            activation: activation(&keys)?,
            rope: resolve_rope(&keys, head_dim, max_positions)?,
            max_positions,
            windows: windows(&keys, family.sliding, blocks)?,
            tied_head: keys.flag("tie_word_embeddings", false)?,
        })
    }

    /// Names and shapes of a block's parameters; the same for every block.
    pub fn block_shape(&self) -> BlockShape {
        let (d, f) = (self.hidden, self.ffn);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let linears = vec![
            ("self_attn.q_proj", [q, d], self.qkv_bias),
            ("self_attn.k_proj", [kv, d], self.qkv_bias),
            ("self_attn.v_proj", [kv, d], self.qkv_bias),
            ("self_attn.o_proj", [d, q], self.o_bias),
            ("mlp.gate_proj", [f, d], self.mlp_bias),
            ("mlp.up_proj", [f, d], self.mlp_bias),
            ("mlp.down_proj", [d, f], self.mlp_bias),
        ];
        let mut norms = match self.norms {
            NormPlacement::Before => vec![("input_layernorm", d), ("post_attention_layernorm", d)],
            NormPlacement::After => vec![("post_attention_layernorm", d), ("post_feedforward_layernorm", d)],
        };
        match self.qk_norm {
            QkNorm::None => {}
            QkNorm::PerHead => {
                norms.extend([("self_attn.q_norm", self.head_dim), ("self_attn.k_norm", self.head_dim)]);
            }
            QkNorm::AllHeads => norms.extend([("self_attn.q_norm", q), ("self_attn.k_norm", kv)]),
        }
        BlockShape { linears, norms }
    }

    /// Parameters of one block.
    pub fn block_parameters(&self) -> usize {
        let shape = self.block_shape();
        let linears = shape
            .linears
            .iter()
            .map(|(_, [out, inp], bias)| out * inp + if *bias { *out } else { 0 });
        linears.sum::<usize>() + shape.norms.iter().map(|(_, len)| len).sum::<usize>()
    }

    /// All parameters; a tied head counts once.
    pub fn parameters(&self) -> usize {
        let table = self.vocab * self.hidden;
        self.blocks * self.block_parameters() + self.hidden + if self.tied_head { table } else { 2 * table }
    }

    /// Multiply-adds × 2 of the blocks' matrices for one token (attention's own products, quadratic in T, not included).
    pub fn block_flops_per_token(&self) -> usize {
        self.block_shape()
            .linears
            .iter()
            .map(|(_, [out, inp], _)| 2 * out * inp)
            .sum()
    }
}

/// Values that would change the computation in ways the decoder does not know.
fn refuse_unsupported(keys: &Keys<'_>) -> Result<()> {
    for (key, allowed) in [
        ("pretraining_tp", Value::from(1)),
        ("rope_interleaved", Value::from(false)),
    ] {
        if keys.present(key).is_some_and(|value| *value != allowed) {
            return Err(keys.error(key, &format!("{allowed}")));
        }
    }
    for key in [
        "partial_rotary_factor",
        "logit_scale",
        "attention_multiplier",
        "residual_multiplier",
    ] {
        if keys.optional_number(key)?.is_some_and(|value| value != 1.0) {
            return Err(keys.error(key, "absent or 1"));
        }
    }
    if keys.present("quantization_config").is_some() {
        return Err(keys.error_with_help(
            "quantization_config",
            "absent",
            "use the float checkpoint or a GGUF file; GPTQ, AWQ and bitsandbytes weights are not read",
        ));
    }
    Ok(())
}

fn activation(keys: &Keys<'_>) -> Result<Activation> {
    match keys.optional_text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        _ => Err(keys.error("hidden_act", "silu or gelu_pytorch_tanh")),
    }
}

/// Sliding windows per block.
fn windows(keys: &Keys<'_>, sliding: Sliding, blocks: usize) -> Result<Vec<Option<usize>>> {
    let window = match sliding {
        Sliding::Never => None,
        Sliding::All => keys.optional_count("sliding_window")?,
        Sliding::Some if keys.flag("use_sliding_window", false)? => keys.optional_count("sliding_window")?,
        Sliding::Some => None,
    };
    let uniform = || match sliding {
        Sliding::Some => {
            let first = keys.optional_index("max_window_layers")?.unwrap_or(blocks);
            Ok((0..blocks).map(|i| window.filter(|_| i >= first)).collect())
        }
        _ => Ok(vec![window; blocks]),
    };
    let Some(types) = keys.present("layer_types") else {
        return uniform();
    };
    let types = types.as_array().filter(|types| types.len() == blocks);
    let types = types.ok_or_else(|| keys.error("layer_types", &format!("an array of {blocks} strings")))?;
    let of_type = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            Err(keys.error("sliding_window", "a positive whole number, as layer_types uses it"))
        }
        _ => Err(keys.error("layer_types", "full_attention or sliding_attention for every block")),
    };
    types.iter().map(of_type).collect()
}

/// Rotary settings, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`).
fn resolve_rope(keys: &Keys<'_>, head_dim: usize, max_positions: usize) -> Result<Rope> {
    let nested = match keys.object("rope_parameters")? {
        Some(nested) => Some(nested),
        None => keys.object("rope_scaling")?,
    };
    let own_theta = keys.optional_number("rope_theta")?;
    let Some(nested) = nested else {
        return Ok(Rope {
            theta: own_theta.unwrap_or(10_000.0),
            scaling: RopeScaling::Default,
        });
    };
    if nested
        .optional_number("partial_rotary_factor")?
        .is_some_and(|value| value != 1.0)
    {
        return Err(nested.error("partial_rotary_factor", "absent or 1"));
    }
    let theta = nested.optional_number("rope_theta")?.or(own_theta).unwrap_or(10_000.0);
    let kind = match nested.optional_text("rope_type")? {
        Some(kind) => kind,
        None => nested.optional_text("type")?.unwrap_or("default"),
    };
    let original = || -> Result<f64> {
        let own = nested.optional_number("original_max_position_embeddings")?;
        let outer = keys.optional_number("original_max_position_embeddings")?;
        Ok(own.or(outer).unwrap_or(max_positions as f64))
    };
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear {
            factor: nested.positive("factor")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: nested.positive("factor")?,
            low_freq_factor: nested.positive("low_freq_factor")?,
            high_freq_factor: nested.positive("high_freq_factor")?,
            original_positions: original()?,
        },
        "yarn" => {
            let factor = match nested.optional_number("factor")? {
                Some(_) => nested.positive("factor")?,
                None => max_positions as f64 / original()?,
            };
            RopeScaling::Yarn {
                factor,
                beta_fast: nested.optional_number("beta_fast")?.unwrap_or(32.0),
                beta_slow: nested.optional_number("beta_slow")?.unwrap_or(1.0),
                original_positions: original()?,
                attention_factor: yarn_attention_factor(&nested, factor)?,
                truncate: nested.flag("truncate", true)?,
            }
        }
        "factors" => {
            let factors = nested.present("factors").and_then(Value::as_array);
            let factors: Option<Vec<f64>> = factors.and_then(|list| list.iter().map(Value::as_f64).collect());
            match factors {
                Some(list) if list.len() == head_dim / 2 => RopeScaling::Factors(list),
                _ => return Err(nested.error("factors", &format!("{} numbers", head_dim / 2))),
            }
        }
        _ => {
            let key = if nested.present("rope_type").is_some() {
                "rope_type"
            } else {
                "type"
            };
            return Err(nested.error(key, "default, linear, llama3 or yarn"));
        }
    };
    Ok(Rope { theta, scaling })
}

/// YaRN's amplitude: given, or 0.1·ln(factor) + 1 with the two `mscale` modifiers.
fn yarn_attention_factor(nested: &Keys<'_>, factor: f64) -> Result<f64> {
    if let Some(given) = nested.optional_number("attention_factor")? {
        return Ok(given);
    }
    let amplitude = |mscale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * factor.ln() + 1.0
        }
    };
    let (mscale, all_dim) = (
        nested.optional_number("mscale")?,
        nested.optional_number("mscale_all_dim")?,
    );
    Ok(match (mscale.filter(|m| *m != 0.0), all_dim.filter(|m| *m != 0.0)) {
        (Some(mscale), Some(all_dim)) => amplitude(mscale) / amplitude(all_dim),
        _ => amplitude(1.0),
    })
}

/// Typed access to a JSON object whose keys are named in errors.
struct Keys<'a> {
    config: &'a ConfigJson,
    at: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn error(&self, key: &str, expected: &str) -> Error {
        self.error_with_help(key, expected, "")
    }

    fn error_with_help(&self, key: &str, expected: &str, help: &str) -> Error {
        Error::ConfigKey {
            path: self.config.path.clone(),
            key: format!("{}{key}", self.at),
            expected: expected.to_owned(),
            got: self.map.get(key).map_or("missing".to_owned(), Value::to_string),
            help: help.to_owned(),
        }
    }

    /// The value, unless absent or null.
    fn present(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.error(key, expected)),
        }
    }

    fn object(&self, key: &'static str) -> Result<Option<Keys<'a>>> {
        let map = self.read(key, "an object", Value::as_object)?;
        let at = if key == "rope_parameters" {
            "rope_parameters."
        } else {
            "rope_scaling."
        };
        Ok(map.map(|map| Keys {
            config: self.config,
            at,
            map,
        }))
    }

    fn optional_text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a string", Value::as_str)
    }

    fn text(&self, key: &str) -> Result<&'a str> {
        self.optional_text(key)?.ok_or_else(|| self.error(key, "a string"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a finite number", |value| value.as_f64().filter(|n| n.is_finite()))
    }

    fn positive(&self, key: &str) -> Result<f64> {
        let number = self.optional_number(key)?.filter(|n| *n > 0.0);
        number.ok_or_else(|| self.error(key, "a positive number"))
    }

    /// A whole number from 0 to 2^20 (2^31 for lengths of lists), so that products of three sizes cannot overflow.
    fn optional_index(&self, key: &str) -> Result<Option<usize>> {
        let list = key == "vocab_size" || key == "max_position_embeddings" || key == "sliding_window";
        let (limit, text) = if list { (1 << 31, "2^31") } else { (1 << 20, "2^20") };
        let bounded = |value: &Value| value.as_u64().filter(|n| *n <= limit).map(|n| n as usize);
        self.read(key, &format!("a whole number of at most {text}"), bounded)
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        match self.optional_index(key)? {
            Some(0) => Err(self.error(key, "a positive whole number")),
            other => Ok(other),
        }
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.optional_count(key)?
            .ok_or_else(|| self.error(key, "a positive whole number"))
    }
}

#[cfg(test)]
mod tests;

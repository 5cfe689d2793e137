//! A model that has not learned anything: initial weights for a configuration.
//!
//! Matrices and embedding are N(0, s²) with s = `initializer_range` of the configuration (0.02 if it does not say), norm
//! weights 1, biases 0. What writes into the residual stream, o_proj and down_proj, is N(0, s²/2L): the stream is a sum of 2L such writings, and so its variance does not grow with the number of
//! blocks L (Radford et al. 2019, section 2.3: "scale the weights of residual layers at initialization"). Each tensor draws
//! from the stream `(seed, "initial weights", [its place in the forward pass])`, when it is asked for; nothing is kept.

use super::{Checkpoint, ConfigJson, Tensor, TensorSource, TokenizerSource};
use crate::{
    Result,
    model::{Architecture, Kind, ParameterId, Part},
    rng,
};
use midblock_kernels::{Dtype, SharedBytes};
use rand::{Rng, RngExt};
use serde_json::Value;
use std::{collections::BTreeMap, f64::consts::TAU};

/// s where the configuration does not say; transformers' default for Llama.
const SPREAD: f64 = 0.02;

/// How a tensor begins.
#[derive(Clone, Copy)]
enum Beginning {
    Ones,
    Zeros,
    Normal(f64),
}

struct Initial {
    seed: u64,
    tensors: BTreeMap<String, Place>,
}

struct Place {
    index: u64,
    shape: Vec<usize>,
    beginning: Beginning,
}

impl Checkpoint {
    /// An untrained model in f32; the same seed gives the same weights.
    ///
    /// # Errors
    /// If the configuration cannot be resolved.
    pub fn untrained(label: &str, config: ConfigJson, tokenizer: TokenizerSource, seed: u64) -> Result<Self> {
        let architecture = Architecture::resolve(&config)?;
        let stated = config.value.get("initializer_range").and_then(Value::as_f64);
        let spread = stated.unwrap_or(SPREAD);
        let place = |(index, (id, shape)): (u64, (ParameterId, Vec<usize>))| {
            let beginning = beginning(id, &architecture, spread);
            let place = Place {
                index,
                shape,
                beginning,
            };
            (id.name(&architecture), place)
        };
        let tensors = (0..).zip(ParameterId::all(&architecture)).map(place).collect();
        Ok(Self {
            label: label.to_owned(),
            path: config.path.clone(),
            config,
            source: Box::new(Initial { seed, tensors }),
            quantized: None,
            tokenizer,
            chat_template: None,
            adapter: None,
            files: Vec::new(),
        })
    }
}

fn beginning(id: ParameterId, architecture: &Architecture, spread: f64) -> Beginning {
    match id {
        ParameterId::Embedding | ParameterId::Head => Beginning::Normal(spread),
        ParameterId::FinalNorm => Beginning::Ones,
        ParameterId::Block { kind: Kind::Bias, .. } => Beginning::Zeros,
        ParameterId::Block { part, .. } => match part {
            Part::O | Part::Down => Beginning::Normal(spread / (2.0 * architecture.blocks as f64).sqrt()),
            part if Part::NORMS.contains(&part) => Beginning::Ones,
            _ => Beginning::Normal(spread),
        },
    }
}

impl Initial {
    fn values(&self, place: &Place) -> Vec<f32> {
        let len = place.shape.iter().product();
        match place.beginning {
            Beginning::Ones => vec![1.0; len],
            Beginning::Zeros => vec![0.0; len],
            Beginning::Normal(spread) => {
                let mut rng = rng::stream(self.seed, "initial weights", &[place.index]);
                let pairs = std::iter::repeat_with(|| normal_pair(&mut rng)).flatten();
                pairs.take(len).map(|value| (spread * value) as f32).collect()
            }
        }
    }
}

/// Two independent N(0, 1) numbers (Box and Muller).
fn normal_pair(rng: &mut impl Rng) -> [f64; 2] {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt(); // of a number in (0, 1]
    let (sin, cos) = (TAU * rng.random::<f64>()).sin_cos();
    [radius * cos, radius * sin]
}

impl TensorSource for Initial {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let place = self.tensors.get(name)?;
        Some((Dtype::F32, &place.shape))
    }

    fn get(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.tensors.get(name).map(|place| Tensor {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: place.shape.clone(),
            bytes: SharedBytes::from_f32(&self.values(place)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model(seed: u64) -> Checkpoint {
        let value = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "num_hidden_layers": 8, "vocab_size": 300, "max_position_embeddings": 16, "attention_bias": true,
        });
        let config = ConfigJson {
            path: "config.json".into(),
            value: value.as_object().unwrap().clone(),
        };
        let tokenizer = TokenizerSource::Missing { path: "here".into() };
        Checkpoint::untrained("new", config, tokenizer, seed).unwrap()
    }

    fn values(model: &Checkpoint, name: &str) -> Vec<f32> {
        model.tensor(name).unwrap().to_f32()
    }

    #[test]
    fn spreads_are_as_documented() {
        let model = model(1);
        for (name, spread) in [
            ("model.embed_tokens.weight", 0.02),
            ("lm_head.weight", 0.02),
            ("model.layers.3.self_attn.q_proj.weight", 0.02),
            ("model.layers.3.self_attn.o_proj.weight", 0.005),
            ("model.layers.7.mlp.down_proj.weight", 0.005),
        ] {
            let values = values(&model, name);
            let n = values.len() as f64;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let variance = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
            assert!(mean.abs() < 4.0 * spread / n.sqrt(), "{name}: mean {mean}");
            assert!(
                (variance.sqrt() / spread - 1.0).abs() < 4.0 / (2.0 * n).sqrt(),
                "{name}: {}",
                variance.sqrt()
            );
            let beyond = values.iter().filter(|v| f64::from(v.abs()) > 2.0 * spread).count() as f64 / n;
            assert!((beyond - 0.0455).abs() < 0.02, "{name}: {beyond} beyond two deviations"); // uniform: none
        }
        assert_eq!(values(&model, "model.norm.weight"), vec![1.0; 64]);
        assert_eq!(values(&model, "model.layers.0.input_layernorm.weight"), vec![1.0; 64]);
        assert_eq!(values(&model, "model.layers.0.self_attn.q_proj.bias"), vec![0.0; 64]);
    }

    #[test]
    fn each_tensor_and_seed_has_its_own_values() {
        let q = |seed, block| values(&model(seed), &format!("model.layers.{block}.self_attn.q_proj.weight"));
        assert_eq!(q(1, 0), q(1, 0));
        assert_ne!(q(1, 0), q(1, 1));
        assert_ne!(q(1, 0), q(2, 0));
    }
}

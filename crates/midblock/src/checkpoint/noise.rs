//! Weights that are nothing but noise, in any storage format: enough to measure what a shape costs, and cheap to make, as the
//! stored bytes themselves are drawn.
//!
//! A float keeps a random sign and mantissa and gets the exponent of [2⁻⁶, 2⁻⁵); of a quantised block the integers are
//! random, and the scales such that the numbers spread by about 0.02 around 0. Norm weights are 1 and biases 0, in f32. Each
//! tensor draws from the stream `(seed, "noise", [its place in the forward pass])`, when it is asked for; nothing is kept.

use super::{Checkpoint, ConfigJson, Tensor, TensorSource, TokenizerSource};
use crate::{
    Error, Result,
    model::{Architecture, ParameterId},
    rng,
};
use half::f16;
use midblock_kernels::{Dtype, SharedBytes};
use rand::Rng;
use std::collections::BTreeMap;

/// Spread that quantised numbers have.
const SPREAD: f64 = 0.02;

struct Noise {
    seed: u64,
    tensors: BTreeMap<String, Place>,
}

struct Place {
    index: u64,
    dtype: Dtype,
    shape: Vec<usize>,
    /// What all numbers are; `None` for noise.
    constant: Option<f32>,
}

impl Checkpoint {
    /// A model of noise, with the matrices of the blocks in the first and embedding and head in the second format.
    ///
    /// # Errors
    /// If the configuration cannot be resolved; [`Error::Argument`] if rows are not made of whole blocks of their format.
    pub fn noise(
        label: &str,
        config: ConfigJson,
        tokenizer: TokenizerSource,
        [blocks, ends]: [Dtype; 2],
        seed: u64,
    ) -> Result<Self> {
        let architecture = Architecture::resolve(&config)?;
        let place = |(index, (id, shape)): (u64, (ParameterId, Vec<usize>))| {
            let name = id.name(&architecture);
            let (dtype, constant) = match shape[..] {
                [_, _] if id.block().is_some() => (blocks, None),
                [_, _] => (ends, None),
                _ => (Dtype::F32, Some(if name.ends_with(".bias") { 0.0 } else { 1.0 })),
            };
            let width = shape[shape.len() - 1];
            if dtype.bytes_for(width).is_none() {
                let block = dtype.block_len();
                return Err(Error::Argument {
                    what: "storage format".into(),
                    value: dtype.to_string(),
                    problem: format!("a row of `{name}` has {width} numbers, expected a multiple of {block}"),
                    help: String::new(),
                });
            }
            let place = Place {
                index,
                dtype,
                shape,
                constant,
            };
            Ok((name, place))
        };
        let tensors = (0..)
            .zip(ParameterId::all(&architecture))
            .map(place)
            .collect::<Result<_>>()?;
        Ok(Self {
            label: label.to_owned(),
            path: config.path.clone(),
            config,
            source: Box::new(Noise { seed, tensors }),
            quantized: None,
            tokenizer,
            chat_template: None,
            adapter: None,
            files: Vec::new(),
        })
    }
}

/// Gives whole elements (or blocks) of random bytes their exponents (or scales).
fn shape_noise(dtype: Dtype, bytes: &mut [u8]) {
    match dtype {
        Dtype::F64 => each(bytes, |b: [u8; 8]| {
            (u64::from_le_bytes(b) & 0x800f_ffff_ffff_ffff | (1023 - 6) << 52).to_le_bytes()
        }),
        Dtype::F32 => each(bytes, |b: [u8; 4]| {
            (u32::from_le_bytes(b) & 0x807f_ffff | (127 - 6) << 23).to_le_bytes()
        }),
        Dtype::BF16 => each(bytes, |b: [u8; 2]| {
            (u16::from_le_bytes(b) & 0x807f | (127 - 6) << 7).to_le_bytes()
        }),
        Dtype::F16 => each(bytes, |b: [u8; 2]| {
            (u16::from_le_bytes(b) & 0x83ff | (15 - 6) << 10).to_le_bytes()
        }),
        _ => {
            let scales = scales(dtype).map(|(at, value)| (at, f16::from_f64(value).to_le_bytes()));
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                for (at, scale) in scales {
                    block[at..at + 2].copy_from_slice(&scale);
                }
            }
        }
    }
}

fn each<const N: usize>(bytes: &mut [u8], shape: impl Fn([u8; N]) -> [u8; N]) {
    for element in bytes.as_chunks_mut().0 {
        *element = shape(*element);
    }
}

/// Where a block's two scales are, or its one twice, and their values: what random integers spread by, inverted.
fn scales(dtype: Dtype) -> [(usize, f64); 2] {
    let one = |at, spread: f64| [(at, SPREAD / spread); 2];
    let two = |spread: f64, minimum: f64| [(0, SPREAD / spread), (2, minimum * SPREAD / spread)];
    match dtype {
        Dtype::Q4_0 => one(0, 4.6), // of 16 equally likely integers
        Dtype::Q5_0 => one(0, 9.2),
        Dtype::Q8_0 => one(0, 73.9),
        Dtype::Q4_1 => two(4.6, -7.5),
        Dtype::Q5_1 => two(9.2, -15.5),
        Dtype::Q4_K => two(258.0, 7.5), // times scales of 6 bits
        Dtype::Q5_K => two(527.0, 15.5),
        Dtype::Q6_K => one(208, 1367.0), // times scales of 8 bits
        plain => unreachable!("{plain} has no scales"),
    }
}

impl TensorSource for Noise {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let place = self.tensors.get(name)?;
        Some((place.dtype, &place.shape))
    }

    fn get(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.tensors.get(name).map(|place| {
            let len = place.shape.iter().product();
            let bytes = match place.constant {
                Some(value) => SharedBytes::from_f32(&vec![value; len]),
                None => {
                    let size = place.dtype.bytes_for(len).expect("invariant: rows are whole blocks");
                    let mut bytes = vec![0; size];
                    rng::stream(self.seed, "noise", &[place.index]).fill_bytes(&mut bytes);
                    shape_noise(place.dtype, &mut bytes);
                    SharedBytes::owned(bytes)
                }
            };
            Tensor {
                name: name.to_owned(),
                dtype: place.dtype,
                shape: place.shape.clone(),
                bytes,
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn noise(blocks: Dtype) -> Result<Checkpoint> {
        let value = json!({
            "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 60, "max_position_embeddings": 16,
            "tie_word_embeddings": false,
        });
        let config = ConfigJson {
            path: "config.json".into(),
            value: value.as_object().unwrap().clone(),
        };
        let tokenizer = TokenizerSource::Missing { path: "here".into() };
        Checkpoint::noise("noise", config, tokenizer, [blocks, Dtype::BF16], 3)
    }

    #[test]
    fn every_format_spreads_around_zero() {
        for dtype in Dtype::ALL {
            let checkpoint = noise(dtype).unwrap();
            let down = checkpoint.tensor("model.layers.1.mlp.down_proj.weight").unwrap();
            assert_eq!(down.dtype, dtype);
            let values = down.to_f32();
            let n = values.len() as f64;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let spread = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n).sqrt();
            assert!(
                (0.018..0.026).contains(&spread) && mean.abs() < 3e-3,
                "{dtype}: {mean} ± {spread}"
            );
        }
    }

    #[test]
    fn the_rest_is_what_it_is_in_an_untrained_model() {
        let checkpoint = noise(Dtype::Q4_0).unwrap();
        let of = |name: &str| checkpoint.tensor(name).unwrap();
        assert_eq!(of("model.norm.weight").to_f32(), [1.0; 256]);
        assert_eq!(of("model.layers.0.input_layernorm.weight").to_f32(), [1.0; 256]);
        assert_eq!(of("model.layers.0.self_attn.k_proj.bias").to_f32(), [0.0; 128]);
        let (embedding, head) = (of("model.embed_tokens.weight"), of("lm_head.weight"));
        assert_eq!((embedding.dtype, head.dtype), (Dtype::BF16, Dtype::BF16));
        assert!(!embedding.same_values(&head) && head.same_values(&of("lm_head.weight")));
    }
}

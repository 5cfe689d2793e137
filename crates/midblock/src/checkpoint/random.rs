//! Weights drawn at random: for benches that need a shape and not a model.

use super::{Checkpoint, ConfigJson, Tensor, TensorSource, TokenizerSource};
use crate::{Result, model::Architecture, rng};
use midblock_kernels::{Dtype, SharedBytes};
use rand::RngExt;
use std::{collections::BTreeMap, path::PathBuf};

/// N(0, 0.02²)-like matrices (uniform of that variance) and norm weights of one, all in f32 and in memory.
struct RandomTensors(BTreeMap<String, Tensor>);

impl Checkpoint {
    /// Random weights for a configuration; the same seed gives the same weights.
    ///
    /// # Errors
    /// If the configuration cannot be resolved.
    pub fn random(config: ConfigJson, seed: u64) -> Result<Self> {
        let architecture = Architecture::resolve(&config)?;
        let tensors = random_tensors(&architecture, seed);
        let path = config.path.clone();
        Ok(Self {
            label: "random weights".to_owned(),
            path: path.clone(),
            config,
            source: Box::new(tensors),
            tokenizer: TokenizerSource::Missing { path },
            chat_template: None,
            adapter: None,
            files: Vec::<PathBuf>::new(),
        })
    }
}

fn random_tensors(architecture: &Architecture, seed: u64) -> RandomTensors {
    let mut tensors = BTreeMap::new();
    let mut insert = |name: String, shape: Vec<usize>, spread: f32, centre: f32| {
        let mut random = rng::stream(seed, "random weights", &[tensors.len() as u64]);
        let len = shape.iter().product();
        let half_width = spread * 3f32.sqrt();
        let values: Vec<f32> = (0..len)
            .map(|_| centre + half_width * (2.0 * random.random::<f32>() - 1.0))
            .collect();
        let bytes = SharedBytes::from_f32(&values);
        tensors.insert(
            name.clone(),
            Tensor {
                name,
                dtype: Dtype::F32,
                shape,
                bytes,
            },
        );
    };
    let table = vec![architecture.vocab, architecture.hidden];
    insert("model.embed_tokens.weight".into(), table.clone(), 0.02, 0.0);
    insert("model.norm.weight".into(), vec![architecture.hidden], 0.0, 1.0);
    if !architecture.tied_head {
        insert("lm_head.weight".into(), table, 0.02, 0.0);
    }
    let shape = architecture.block_shape();
    for block in 0..architecture.blocks {
        for &(part, size, bias) in &shape.linears {
            insert(format!("model.layers.{block}.{part}.weight"), size.to_vec(), 0.02, 0.0);
            if bias {
                insert(format!("model.layers.{block}.{part}.bias"), vec![size[0]], 0.02, 0.0);
            }
        }
        for &(part, len) in &shape.norms {
            insert(format!("model.layers.{block}.{part}.weight"), vec![len], 0.0, 1.0);
        }
    }
    RandomTensors(tensors)
}

impl TensorSource for RandomTensors {
    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.0.get(name).map(|tensor| (tensor.dtype, tensor.shape.as_slice()))
    }

    fn get(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.0.get(name).cloned())
    }
}

//! Shapes of well-known models by a short name, to measure or to plan for without their weights.

use anyhow::Result;
use midblock::checkpoint::{Checkpoint, ConfigJson, TokenizerSource};
use midblock_kernels::Dtype;
use std::path::PathBuf;

/// `--shape`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// SmolLM2-135M: 30 blocks, hidden 576
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// Llama-2-7B: 32 blocks, hidden 4096
    #[value(name = "7b")]
    Seven,
    /// Llama-2-13B: 40 blocks, hidden 5120
    #[value(name = "13b")]
    Thirteen,
    /// Qwen2.5-32B: 64 blocks, hidden 5120
    #[value(name = "32b")]
    ThirtyTwo,
}

impl Shape {
    /// Whose shape it is.
    pub fn model(self) -> &'static str {
        match self {
            Self::Smollm2 => "SmolLM2-135M",
            Self::Seven => "Llama-2-7B",
            Self::Thirteen => "Llama-2-13B",
            Self::ThirtyTwo => "Qwen2.5-32B",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Smollm2 => {
                r#"{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
                "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": true}"#
            }
            Self::Seven => {
                r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                "num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false}"#
            }
            Self::Thirteen => {
                r#"{"model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
                "num_attention_heads": 40, "vocab_size": 32000, "max_position_embeddings": 4096,
                "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false}"#
            }
            Self::ThirtyTwo => {
                r#"{"model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
                "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 32768,
                "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "tie_word_embeddings": false}"#
            }
        }
    }

    /// A model of this shape, of which nothing is made before it is asked for: in f32 with the initial weights of an untrained
    /// model, or with noise as the blocks' matrices in another format, and embedding and head in bf16.
    pub fn checkpoint(self, blocks: Option<Dtype>) -> Result<Checkpoint> {
        let path = PathBuf::from(format!("{} (random weights)", self.model()));
        let tokenizer = TokenizerSource::Missing { path: path.clone() };
        let value = serde_json::from_str(self.config())?;
        let config = ConfigJson { path, value };
        Ok(match blocks {
            None => Checkpoint::untrained("random weights", config, tokenizer, 0)?,
            Some(Dtype::F32) => Checkpoint::noise("noise", config, tokenizer, [Dtype::F32; 2], 0)?,
            Some(kind) => Checkpoint::noise("noise", config, tokenizer, [kind, Dtype::BF16], 0)?,
        })
    }
}

//! Which parameter: its place in the model, ordered from the embedding to the head, and its Hugging Face name.
//!
//! `model.layers.{block}.{part}.{weight|bias|lora_A.weight|lora_B.weight}` inside of the blocks (0-based). Names of norms
//! depend on the family, so a name needs the [`Architecture`]; every name inside of a block comes from
//! [`Architecture::block_shape`].

use super::Architecture;
use std::fmt;

pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// A part of a block: its seven linear layers and its norms, in the order of [`Architecture::block_shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are the field's own
pub enum Part {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
    /// Before (or after) attention.
    AttentionNorm,
    /// Before (or after) the MLP.
    MlpNorm,
    QNorm,
    KNorm,
}

impl Part {
    /// The linear layers, in the order of [`BlockShape::linears`](super::BlockShape).
    pub const LINEARS: [Part; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The norms, in the order of [`BlockShape::norms`](super::BlockShape); families without q and k norms have the
    /// first two.
    pub const NORMS: [Part; 4] = [Self::AttentionNorm, Self::MlpNorm, Self::QNorm, Self::KNorm];

    /// Its name below `model.layers.{i}.`, such as `self_attn.q_proj`.
    ///
    /// # Panics
    /// If blocks of this architecture have no such part ([`Part::QNorm`] and [`Part::KNorm`] of most).
    pub fn name(self, architecture: &Architecture) -> &'static str {
        let shape = architecture.block_shape();
        match self as usize {
            linear @ 0..7 => shape.linears[linear].0,
            norm => shape.norms[norm - 7].0,
        }
    }
}

/// What of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The matrix, or a norm's vector.
    Weight,
    /// The bias.
    Bias,
    /// A of a LoRA pair, (R, in).
    LoraA,
    /// B of a LoRA pair, (out, R).
    LoraB,
}

impl fmt::Display for Kind {
    /// The end of a parameter's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
            Self::LoraA => "lora_A.weight",
            Self::LoraB => "lora_B.weight",
        })
    }
}

/// One parameter of a model. The order is that of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParameterId {
    /// `model.embed_tokens.weight`, (V, D); the head too where it is tied.
    Embedding,
    /// A parameter inside of a block.
    Block {
        /// 0-based.
        block: usize,
        /// Which layer or norm.
        part: Part,
        /// Weight, bias, or half of a LoRA pair.
        kind: Kind,
    },
    /// `model.norm.weight`, (D).
    FinalNorm,
    /// `lm_head.weight`, (V, D); none where it is tied.
    Head,
}

impl ParameterId {
    /// The Hugging Face name.
    ///
    /// # Panics
    /// As [`Part::name`].
    pub fn name(&self, architecture: &Architecture) -> String {
        match *self {
            Self::Embedding => EMBEDDING.to_owned(),
            Self::Block { block, part, kind } => block_parameter(block, part.name(architecture), kind),
            Self::FinalNorm => FINAL_NORM.to_owned(),
            Self::Head => HEAD.to_owned(),
        }
    }

    /// The parameter of that name; `None` if the architecture has none, such as a bias that no block has.
    pub fn parse(name: &str, architecture: &Architecture) -> Option<Self> {
        match name {
            EMBEDDING => return Some(Self::Embedding),
            FINAL_NORM => return Some(Self::FinalNorm),
            HEAD => return (!architecture.tied_head).then_some(Self::Head),
            _ => {}
        }
        let index = name.strip_prefix("model.layers.")?.split('.').next()?;
        let block = index.parse().ok().filter(|block| *block < architecture.blocks)?;
        let stored = Self::of_block(architecture, block).into_iter().map(|(id, _)| id);
        let pair = |part| [Kind::LoraA, Kind::LoraB].map(|kind| Self::Block { block, part, kind });
        let pairs = Part::LINEARS.into_iter().flat_map(pair);
        stored.chain(pairs).find(|id| id.name(architecture) == name)
    }

    /// Every parameter of a checkpoint (no adapters) with its shape, in order; a tied head is not listed.
    pub fn all(architecture: &Architecture) -> Vec<(Self, Vec<usize>)> {
        let table = || vec![architecture.vocab, architecture.hidden];
        let mut all = vec![(Self::Embedding, table())];
        all.extend((0..architecture.blocks).flat_map(|block| Self::of_block(architecture, block)));
        all.push((Self::FinalNorm, vec![architecture.hidden]));
        if !architecture.tied_head {
            all.push((Self::Head, table()));
        }
        all
    }

    /// The parameters of one block with their shapes, in order.
    pub fn of_block(architecture: &Architecture, block: usize) -> Vec<(Self, Vec<usize>)> {
        let shape = architecture.block_shape();
        let mut all = Vec::new();
        for (part, &(_, size, bias)) in Part::LINEARS.into_iter().zip(&shape.linears) {
            let id = |kind| Self::Block { block, part, kind };
            all.push((id(Kind::Weight), size.to_vec()));
            if bias {
                all.push((id(Kind::Bias), vec![size[0]]));
            }
        }
        all.extend(Part::NORMS.into_iter().zip(&shape.norms).map(|(part, &(_, len))| {
            let kind = Kind::Weight;
            (Self::Block { block, part, kind }, vec![len])
        }));
        all
    }

    /// The block it is in.
    pub fn block(&self) -> Option<usize> {
        match *self {
            Self::Block { block, .. } => Some(block),
            _ => None,
        }
    }
}

/// Hugging Face name of a part's `weight`, `bias` or adapter matrix.
pub(super) fn block_parameter(block: usize, part: &str, kind: Kind) -> String {
    format!("model.layers.{block}.{part}.{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::ConfigJson;
    use serde_json::json;
    use std::path::PathBuf;

    fn architecture(model_type: &str, tied: bool) -> Architecture {
        let value = json!({
            "model_type": model_type, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 12, "vocab_size": 10, "max_position_embeddings": 16,
            "tie_word_embeddings": tied,
        });
        let value = value.as_object().unwrap().clone();
        let path = PathBuf::from("config.json");
        Architecture::resolve(&ConfigJson { path, value }).unwrap()
    }

    #[test]
    fn every_parameter_is_listed_in_order_and_its_name_reads_back() {
        for (family, tied) in [("llama", true), ("qwen2", false), ("qwen3", true), ("olmo2", false)] {
            let a = architecture(family, tied);
            let all = ParameterId::all(&a);
            assert!(all.is_sorted_by(|(x, _), (y, _)| x < y));
            for (id, _) in &all {
                assert_eq!(ParameterId::parse(&id.name(&a), &a), Some(*id));
            }
            let elements = |shape: &Vec<usize>| shape.iter().product::<usize>();
            let parameters: usize = all.iter().map(|(_, shape)| elements(shape)).sum();
            assert_eq!(parameters, a.parameters(), "{family}");
        }
    }

    #[test]
    fn names_are_the_familys() {
        let name = |family, part, kind| ParameterId::Block { block: 11, part, kind }.name(&architecture(family, false));
        assert_eq!(
            name("llama", Part::MlpNorm, Kind::Weight),
            "model.layers.11.post_attention_layernorm.weight"
        );
        assert_eq!(
            name("olmo2", Part::MlpNorm, Kind::Weight),
            "model.layers.11.post_feedforward_layernorm.weight"
        );
        assert_eq!(
            name("qwen2", Part::Q, Kind::Bias),
            "model.layers.11.self_attn.q_proj.bias"
        );
        assert_eq!(
            name("llama", Part::Down, Kind::LoraB),
            "model.layers.11.mlp.down_proj.lora_B.weight"
        );
    }

    #[test]
    fn only_names_that_are_there_are_read() {
        let a = architecture("llama", true);
        let lora = ParameterId::Block {
            block: 3,
            part: Part::V,
            kind: Kind::LoraA,
        };
        assert_eq!(
            ParameterId::parse("model.layers.3.self_attn.v_proj.lora_A.weight", &a),
            Some(lora)
        );
        for name in [
            "lm_head.weight",
            "model.layers.12.mlp.up_proj.weight",
            "model.layers.03.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.bias",
            "model.layers.0.self_attn.q_norm.weight",
            "model.layers.0.mlp.up_proj",
            "model.layers.",
            "",
        ] {
            assert_eq!(ParameterId::parse(name, &a), None, "{name}");
        }
    }
}

//! Parameters as they lie in a checkpoint, before any device sees them: those of one block, and those outside of the blocks.

use super::{
    Architecture,
    parameter::{EMBEDDING, FINAL_NORM, HEAD, Kind, block_parameter},
};
use crate::{
    Result,
    checkpoint::{Checkpoint, LowRank, Tensor},
};
use std::{borrow::Cow, path::Path};

/// Tensors of one linear layer.
#[derive(Clone, Debug)]
pub struct LinearTensors<'a> {
    /// (out, in)
    pub weight: Tensor,
    /// (out)
    pub bias: Option<Tensor>,
    /// The adapter's pair for this weight.
    pub delta: Option<Cow<'a, LowRank>>,
}

/// Tensors of one block, in the order of [`Architecture::block_shape`].
#[derive(Clone, Debug)]
pub struct BlockTensors<'a> {
    /// 0-based block index, as in parameter names.
    pub index: usize,
    /// The seven linear layers.
    pub linears: Vec<LinearTensors<'a>>,
    /// Norm weights.
    pub norms: Vec<Tensor>,
}

impl<'a> BlockTensors<'a> {
    /// Checks names and shapes of all blocks without touching their data: a wrong last block is better known at once than
    /// after the work on all others.
    ///
    /// # Errors
    /// [`MissingTensor`](crate::Error::MissingTensor) or [`TensorShape`](crate::Error::TensorShape) for the first that is wrong.
    pub fn check_all(checkpoint: &Checkpoint, architecture: &Architecture) -> Result<()> {
        let shape = architecture.block_shape();
        for index in 0..architecture.blocks {
            let check = |part: &str, kind: Kind, shape: &[usize]| {
                checkpoint.check_shape(&block_parameter(index, part, kind), shape, shape_keys(part))
            };
            for &(part, size, bias) in &shape.linears {
                check(part, Kind::Weight, &size)?;
                if bias {
                    check(part, Kind::Bias, &size[..1])?;
                }
            }
            for &(part, len) in &shape.norms {
                check(part, Kind::Weight, &[len])?;
            }
        }
        Ok(())
    }

    /// Looks up block `index`; shapes are checked, data is not read.
    pub fn read(checkpoint: &'a Checkpoint, architecture: &Architecture, index: usize) -> Result<Self> {
        let shape = architecture.block_shape();
        let name = |part: &str, kind: Kind| block_parameter(index, part, kind);
        let linear = |&(part, [out, inp], bias): &(&str, [usize; 2], bool)| {
            let weight = name(part, Kind::Weight);
            Ok(LinearTensors {
                weight: checkpoint.tensor_of(&weight, &[out, inp], shape_keys(part))?,
                bias: bias
                    .then(|| checkpoint.tensor_of(&name(part, Kind::Bias), &[out], shape_keys(part)))
                    .transpose()?,
                delta: checkpoint.adapter_for(&weight).map(Cow::Borrowed),
            })
        };
        let norm =
            |&(part, len): &(&str, usize)| checkpoint.tensor_of(&name(part, Kind::Weight), &[len], shape_keys(part));
        Ok(Self {
            index,
            linears: shape.linears.iter().map(linear).collect::<Result<_>>()?,
            norms: shape.norms.iter().map(norm).collect::<Result<_>>()?,
        })
    }

    /// All stored tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let linears = self
            .linears
            .iter()
            .flat_map(|l| std::iter::once(&l.weight).chain(&l.bias));
        linears.chain(&self.norms)
    }

    /// Whether both blocks compute the very same function: equal bytes in the same storage format, equal adapters.
    pub fn same_values(&self, other: &BlockTensors<'_>) -> bool {
        let mut linears = self.linears.iter().zip(&other.linears);
        linears.all(|(a, b)| a.delta == b.delta) && self.tensors().zip(other.tensors()).all(|(a, b)| a.same_values(b))
    }

    /// Checks that every stored number is finite; `path` is the checkpoint to name.
    ///
    /// # Errors
    /// [`NotFinite`](crate::Error::NotFinite).
    pub fn check_finite(&self, path: &Path) -> Result<()> {
        self.tensors().try_for_each(|tensor| tensor.check_finite(path))
    }
}

/// Tensors outside of the blocks.
#[derive(Clone, Debug)]
pub struct EndsTensors {
    /// (V, D)
    pub embedding: Tensor,
    /// (D)
    pub final_norm: Tensor,
    /// (V, D); `None` if it is the embedding.
    pub head: Option<Tensor>,
}

impl EndsTensors {
    /// Looks them up; shapes are checked, data is not read.
    pub fn read(checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Self> {
        let table = [architecture.vocab, architecture.hidden];
        let head = || checkpoint.tensor_of(HEAD, &table, "vocab_size, hidden_size; tie_word_embeddings is false");
        Ok(Self {
            embedding: checkpoint.tensor_of(EMBEDDING, &table, "vocab_size, hidden_size")?,
            final_norm: checkpoint.tensor_of(FINAL_NORM, &[architecture.hidden], "hidden_size")?,
            head: (!architecture.tied_head).then(head).transpose()?,
        })
    }

    /// The matrix that makes logits of normed states, (V, D).
    pub fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Whether both read a hidden state alike: equal final norm and head.
    pub fn same_head(&self, other: &Self) -> bool {
        self.final_norm.same_values(&other.final_norm) && self.head().same_values(other.head())
    }
}

/// The configuration keys a parameter's shape follows from, for error messages.
fn shape_keys(part: &str) -> &'static str {
    match part.rsplit('.').next().unwrap_or(part) {
        "q_proj" | "o_proj" => "hidden_size, num_attention_heads, head_dim",
        "k_proj" | "v_proj" => "hidden_size, num_key_value_heads, head_dim",
        "gate_proj" | "up_proj" | "down_proj" => "hidden_size, intermediate_size",
        "q_norm" | "k_norm" => "num_attention_heads, num_key_value_heads, head_dim",
        _ => "hidden_size",
    }
}

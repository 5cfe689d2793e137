//! The parameters of one block as they lie in a checkpoint, before any device sees them.

use super::{
    Architecture,
    parameter::{Kind, block_parameter},
};
use crate::{
    Result,
    checkpoint::{Checkpoint, LowRank, Tensor},
};

/// Tensors of one linear layer.
#[derive(Clone, Debug)]
pub struct LinearTensors<'a> {
    /// (out, in)
    pub weight: Tensor,
    /// (out)
    pub bias: Option<Tensor>,
    /// The adapter's pair for this weight.
    pub delta: Option<&'a LowRank>,
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
                delta: checkpoint.adapter_for(&weight),
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
        let deltas = |block: &BlockTensors<'a>| block.linears.iter().map(|l| l.delta).collect::<Vec<_>>();
        let other_deltas: Vec<_> = other.linears.iter().map(|l| l.delta).collect();
        deltas(self) == other_deltas && self.tensors().zip(other.tensors()).all(|(a, b)| a.same_values(b))
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

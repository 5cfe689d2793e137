//! The whole model: embedding, blocks, final norm and head.

use super::{
    Architecture, Batch, Block, BlockTensors, Ends, Interior, Keep, Parameter, ParameterId, Part, Pass, Scratch,
    linear::Delta,
};
use crate::{
    Result,
    checkpoint::{Checkpoint, LowRank},
};
use midblock_kernels::{Backend, RopeTable};
use std::sync::Arc;

/// A whole model on a device. Weights are in their storage format until they are [trained](Self::train).
pub struct Decoder<B: Backend> {
    architecture: Architecture,
    ends: Ends<B>,
    blocks: Vec<Block<B>>,
    /// What [`steer`](Self::steer) was given, (D) each; empty or one for each block.
    added: Vec<Option<B::Buffer>>,
}

impl<B: Backend> Decoder<B> {
    /// Loads every block.
    pub fn load(backend: &B, checkpoint: &Checkpoint) -> Result<Self> {
        let architecture = Architecture::resolve(checkpoint.config())?;
        let ends = Ends::load(backend, checkpoint, &architecture)?;
        let block = |index| {
            let tensors = BlockTensors::read(checkpoint, &architecture, index)?;
            Ok(Block::new(backend, &architecture, &tensors))
        };
        let blocks = (0..architecture.blocks).map(block).collect::<Result<_>>()?;
        Ok(Self {
            architecture,
            ends,
            blocks,
            added: Vec::new(),
        })
    }

    /// What the model is.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Embedding, final norm and head.
    pub fn ends(&self) -> &Ends<B> {
        &self.ends
    }

    /// The blocks, from the first.
    pub fn blocks(&self) -> &[Block<B>] {
        &self.blocks
    }

    /// A table of rotations for sequences of up to `positions` tokens.
    pub fn rope(&self, positions: usize) -> RopeTable {
        self.architecture.rope.table(self.architecture.head_dim, positions)
    }

    /// Runs all blocks and returns `h[L]`; `tap` sees every `h[l]`, `0 ≤ l ≤ L`, in order.
    pub fn forward(
        &self,
        backend: &B,
        batch: &Batch,
        rope: &RopeTable,
        scratch: &mut Scratch<B>,
        mut tap: impl FnMut(usize, &B::Buffer),
    ) -> B::Buffer {
        let pass = Pass::inference(backend, batch, rope);
        let mut interior = Interior::new(backend);
        let mut hidden = backend.zeros(0);
        self.ends.embed(backend, batch, &mut hidden);
        tap(0, &hidden);
        for index in 0..self.blocks.len() {
            self.forward_block(index, &pass, Keep::Nothing, &mut hidden, &mut interior, scratch);
            tap(index + 1, &hidden);
        }
        hidden
    }

    /// [`Block::forward`] of one block, and what it is [steered](Self::steer) by.
    pub fn forward_block(
        &self,
        index: usize,
        pass: &Pass<'_, B>,
        keep: Keep<'_, B>,
        hidden: &mut B::Buffer,
        interior: &mut Interior<B>,
        scratch: &mut Scratch<B>,
    ) {
        self.blocks[index].forward(pass, keep, hidden, interior, scratch);
        if let Some(Some(added)) = self.added.get(index) {
            pass.backend.add_bias(hidden, added);
        }
    }

    /// Adds a vector (D) to the residual stream after some blocks, at every token, in place of what was added before; one
    /// entry for each block, or none at all. Inference alone: training does not see it.
    ///
    /// # Panics
    /// If there is another number of entries, or a vector has another length than D.
    pub fn steer(&mut self, backend: &B, added: &[Option<Arc<[f32]>>]) {
        assert!(
            added.is_empty() || added.len() == self.blocks.len(),
            "{} vectors for {} blocks",
            added.len(),
            self.blocks.len()
        );
        let upload = |vector: &Arc<[f32]>| {
            assert_eq!(vector.len(), self.architecture.hidden, "width of a steering vector");
            backend.upload(vector)
        };
        self.added = added.iter().map(|vector| vector.as_ref().map(upload)).collect();
    }

    /// The parameter; `None` if the model has none of that name.
    pub fn parameter_mut(&mut self, id: ParameterId) -> Option<Parameter<'_, B>> {
        match id {
            ParameterId::Block { block, part, kind } => self.blocks.get_mut(block)?.parameter_mut(part, kind),
            end => self.ends.parameter_mut(end),
        }
    }

    /// Makes a matrix one whose values can change, starting from those of the checkpoint. Vectors always can.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub fn train(&mut self, backend: &B, checkpoint: &Checkpoint, id: ParameterId) -> Result<()> {
        let name = id.name(&self.architecture);
        let Some(parameter) = self.parameter_mut(id) else {
            panic!("{name} is no parameter of the model")
        };
        if let Parameter::Matrix(matrix) = parameter {
            let values = backend.upload(&checkpoint.tensor(&name)?.to_f32());
            *matrix = backend.trained(backend.shape(matrix), values);
        }
        Ok(())
    }

    /// Puts a LoRA pair that can be trained on a linear layer, in place of one it may have. While training, each element
    /// of the layer's input is kept from A with probability `dropout`.
    ///
    /// # Panics
    /// If `part` is a norm.
    pub fn adapt(&mut self, backend: &B, block: usize, part: Part, pair: &LowRank, dropout: f32) {
        let [a, b] = [&pair.a, &pair.b].map(|values| backend.upload(values));
        let [inp, out] = [&pair.a, &pair.b].map(|values| values.len() / pair.rank);
        let delta = Delta {
            rank: pair.rank,
            scale: pair.scale,
            dropout,
            a: backend.trained([pair.rank, inp], a),
            b: backend.trained([out, pair.rank], b),
        };
        self.blocks[block].adapt(part, delta);
    }
}

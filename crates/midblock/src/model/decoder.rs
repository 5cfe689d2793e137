//! Embedding, blocks, final norm and head.

use super::{
    Architecture, Batch, Block, BlockTensors, Scratch,
    parameter::{EMBEDDING, FINAL_NORM, HEAD},
};
use crate::{
    Result,
    checkpoint::{Checkpoint, Tensor},
};
use midblock_kernels::{Accumulate, Backend, RopeTable};

/// What lies outside of the blocks: the embedding at one end, the final norm and the head at the other.
pub struct Ends<B: Backend> {
    hidden: usize,
    vocab: usize,
    eps: f32,
    /// (V, D)
    embedding: B::Matrix,
    /// (D)
    final_norm: B::Buffer,
    /// (V, D); `None` if tied.
    head: Option<B::Matrix>,
}

impl<B: Backend> Ends<B> {
    /// Hands embedding, final norm and head to the device.
    pub fn load(backend: &B, checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Self> {
        let [embedding, final_norm] = Self::tensors(checkpoint, architecture)?;
        let table = [architecture.vocab, architecture.hidden];
        let head = match architecture.tied_head {
            true => None,
            false => {
                let why = "vocab_size, hidden_size; tie_word_embeddings is false";
                Some(backend.matrix(checkpoint.tensor_of(HEAD, &table, why)?.matrix()))
            }
        };
        Ok(Self {
            hidden: architecture.hidden,
            vocab: architecture.vocab,
            eps: architecture.norm_eps,
            embedding: backend.matrix(embedding.matrix()),
            final_norm: backend.upload(&final_norm.to_f32()),
            head,
        })
    }

    /// The embedding matrix (V, D) and the final norm's weight (D).
    pub fn tensors(checkpoint: &Checkpoint, architecture: &Architecture) -> Result<[Tensor; 2]> {
        let table = [architecture.vocab, architecture.hidden];
        Ok([
            checkpoint.tensor_of(EMBEDDING, &table, "vocab_size, hidden_size")?,
            checkpoint.tensor_of(FINAL_NORM, &[architecture.hidden], "hidden_size")?,
        ])
    }

    /// `h[0]`, (rows, D).
    pub fn embed(&self, backend: &B, batch: &Batch) -> B::Buffer {
        let mut hidden = backend.zeros(batch.rows() * self.hidden);
        backend.embed(&self.embedding, batch.ids(), &mut hidden);
        hidden
    }

    /// The final norm of `h[L]`, (rows, D).
    pub fn final_norm(&self, backend: &B, hidden: &B::Buffer) -> B::Buffer {
        let mut normed = backend.zeros(backend.len(hidden));
        backend.rms_norm(hidden, &self.final_norm, self.eps, &mut normed);
        normed
    }

    /// Logits of normed states, (rows, V). Large: meant for few rows; losses go through [`cross_entropy`](Self::cross_entropy).
    pub fn logits(&self, backend: &B, normed: &B::Buffer) -> B::Buffer {
        let rows = backend.len(normed) / self.hidden;
        let mut logits = backend.zeros(rows * self.vocab);
        backend.linear(normed, self.head(), rows, Accumulate::Write, &mut logits);
        logits
    }

    /// Cross entropy in nats of every row of normed states against its target id.
    pub fn cross_entropy(&self, backend: &B, normed: &B::Buffer, targets: &[u32]) -> Vec<f64> {
        backend.cross_entropy(normed, self.head(), targets)
    }

    fn head(&self) -> &B::Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// A whole model on a device (weights in their storage format).
pub struct Decoder<B: Backend> {
    architecture: Architecture,
    ends: Ends<B>,
    blocks: Vec<Block<B>>,
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
        let mut hidden = self.ends.embed(backend, batch);
        tap(0, &hidden);
        for (index, block) in self.blocks.iter().enumerate() {
            block.forward(backend, batch, rope, &mut hidden, scratch);
            tap(index + 1, &hidden);
        }
        hidden
    }
}

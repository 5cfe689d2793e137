//! What one pass over a batch shares, and where gradients go.

use super::{Batch, KeysValues, ParameterId};
use midblock_kernels::{Accumulate, Backend, RopeTable};

/// One pass over a batch, forward or backward; backward gets the pass that forward got.
pub struct Pass<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// The sequences.
    pub batch: &'a Batch,
    /// Rotations for at least the longest of them.
    pub rope: &'a RopeTable,
    /// Key of the adapters' dropout masks; `None` drops nothing. The mask of a layer is a function of this and its name.
    pub dropout: Option<u64>,
    /// Whether this is a step of decoding, whose few rows go through [`Backend::decode_linears`].
    pub decoding: bool,
}

/// What a forward pass leaves behind beside its output.
pub enum Keep<'a, B: Backend> {
    /// Nothing.
    Nothing,
    /// What backward reads.
    Interior,
    /// Keys and values, in the rows that the batch [continues](Batch::continued) at; queries see those before them.
    Keys(&'a mut KeysValues<B>),
}

impl<'a, B: Backend> Pass<'a, B> {
    /// A pass that drops nothing.
    pub fn inference(backend: &'a B, batch: &'a Batch, rope: &'a RopeTable) -> Self {
        Self {
            backend,
            batch,
            rope,
            dropout: None,
            decoding: false,
        }
    }

    /// `out (+)= x Wᵀ` for each pair.
    pub(super) fn linears(&self, x: &B::Buffer, mode: Accumulate, pairs: &mut [(&B::Matrix, &mut B::Buffer)]) {
        match self.decoding {
            true => self.backend.decode_linears(x, self.rows(), mode, pairs),
            false => self.backend.linears(x, self.rows(), mode, pairs),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.batch.rows()
    }
}

/// Receives, from the top block down, what gradients are made of.
///
/// Nothing is computed for a parameter that is not [wanted](Self::wants): a frozen matrix never gets a `dW`, and a block
/// below which nothing is wanted never gets a `dx`.
pub trait Sink<B: Backend> {
    /// Whether this parameter's gradient is wanted.
    fn wants(&self, id: ParameterId) -> bool;

    /// A wanted matrix W of `y = x Wᵀ`: its gradient is `dyᵀ x`; x (rows, in), dy (rows, out).
    fn product(&mut self, backend: &B, id: ParameterId, x: &B::Buffer, dy: &B::Buffer, rows: usize);

    /// The sum that a wanted bias, norm weight or embedding table's gradient is added to.
    fn sum(&mut self, backend: &B, id: ParameterId) -> &mut B::Buffer;
}

/// Wants nothing: all parameters are frozen.
pub struct Frozen;

impl<B: Backend> Sink<B> for Frozen {
    fn wants(&self, _: ParameterId) -> bool {
        false
    }

    fn product(&mut self, _: &B, id: ParameterId, _: &B::Buffer, _: &B::Buffer, _: usize) {
        panic!("invariant: {id:?} is not wanted")
    }

    fn sum(&mut self, _: &B, id: ParameterId) -> &mut B::Buffer {
        panic!("invariant: {id:?} is not wanted")
    }
}

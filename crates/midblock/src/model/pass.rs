//! What one pass over a batch shares, and where gradients go.

use super::{Batch, ParameterId};
use midblock_kernels::{Backend, RopeTable};

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
}

impl<B: Backend> Pass<'_, B> {
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

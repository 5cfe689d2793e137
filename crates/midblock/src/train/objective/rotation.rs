//! Which matrices rotation-preserving fine-tuning holds, and the singular blocks it holds them in.
//!
//! Held is every matrix that is trained: inside of its k leading singular directions, or as a whole where it has no more than k. See
//! [`Held`](super::held::Held) for the penalty.

use crate::{
    Result,
    adapt::{Entry, Move, Plan},
    checkpoint::Checkpoint,
    model::{Architecture, ParameterId},
    progress::{Progress, Unit},
    singular::{SingularBlock, SingularCache},
};
use std::collections::BTreeMap;

/// Which matrices are held, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rotation {
    /// λ.
    pub lambda: f64,
    /// k.
    pub directions: usize,
    /// Whether each term is divided by the norm of what it holds.
    pub normalised: bool,
    /// Whether embedding and head are held where they are trained.
    pub ends: bool,
    /// The singular blocks of the matrices that have more than k directions, by the matrix's own id.
    pub blocks: BTreeMap<ParameterId, SingularBlock>,
}

impl Rotation {
    /// The matrices that are held, with their shapes.
    pub fn held<'p>(&self, plan: &'p Plan) -> impl Iterator<Item = (&'p Entry, [usize; 2])> {
        let ends = self.ends;
        let of_interest = move |entry: &&Entry| ends || entry.id.block().is_some();
        plan.entries
            .iter()
            .filter(of_interest)
            .filter_map(|entry| Some((entry, <[usize; 2]>::try_from(entry.shape.as_slice()).ok()?)))
    }

    /// Whether only a block of a matrix of this shape is held, and not all of it.
    pub fn holds_block(&self, [out, inp]: [usize; 2]) -> bool {
        self.directions < out.min(inp)
    }

    /// Finds the singular blocks that are held, in the checkpoint or in what is kept of an earlier run.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`]; those of reading the weights and of [`SingularBlock::of`].
    pub fn find_blocks(
        &mut self,
        checkpoint: &Checkpoint,
        architecture: &Architecture,
        plan: &Plan,
        cache: &SingularCache,
        progress: &dyn Progress,
    ) -> Result<()> {
        let wanted: Vec<_> = self.held(plan).filter(|(_, shape)| self.holds_block(*shape)).collect();
        let what = format!("{} leading singular directions of each matrix", self.directions);
        progress.begin(&what, wanted.len() as u64, Unit::Items);
        for (entry, shape) in wanted {
            let name = entry.id.name(architecture);
            let values = checkpoint.tensor(&name)?.to_f32();
            let block = cache.block(&name, &values, shape, self.directions, progress)?;
            self.blocks.insert(entry.id, block);
            progress.advance(1);
        }
        Ok(())
    }

    /// Private bytes of what is held.
    pub fn bytes(&self, plan: &Plan) -> usize {
        let k = self.directions;
        let of = |(entry, [out, inp]): (&Entry, [usize; 2])| match (self.holds_block([out, inp]), entry.how) {
            (true, Move::Full | Move::Masked { .. }) => k * (out + inp) + k * k,
            (true, Move::Lora { .. }) => k * (out + inp),
            (false, Move::Full | Move::Masked { .. }) => out * inp,
            (false, Move::Lora { .. }) => 0,
        };
        4 * self.held(plan).map(of).sum::<usize>()
    }
}

//! One rank budget for every choice: what the frozen blocks do not use goes to the others.
//!
//! With a uniform rank r the budget is r·L, and each of the `n` chosen blocks gets ⌊r·L / n⌋, so that choices of
//! different size have about as many trained parameters. A segment pattern states its ranks itself.
//! Source: arXiv 2604.11838, section on Mid-Block Efficient Tuning.

use super::Layers;
use crate::Result;

impl Layers {
    /// The rank of every block's adapters, 0 where it is frozen; `rank` is the uniform rank that sets the budget. The
    /// other arguments are those of [`active`](Self::active).
    ///
    /// ```
    /// use midblock::select::Layers;
    /// let mid: Layers = "mid".parse()?;
    /// assert_eq!(mid.ranks(5, 8, 0, None)?, [0, 13, 13, 13, 0]); // ⌊8 · 5 / 3⌋
    /// # Ok::<(), midblock::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`active`](Self::active), and if a chosen block would get rank 0.
    pub fn ranks(&self, blocks: usize, rank: usize, seed: u64, scores: Option<&[f64]>) -> Result<Vec<usize>> {
        let active = self.active(blocks, seed, scores)?;
        if let Self::Segments(ranks) = self {
            return self.segment_ranks(ranks, blocks);
        }
        let each = rank * blocks / active.len();
        if each == 0 {
            let problem = format!("a rank of {rank} leaves none for its {} blocks", active.len());
            return Err(self.error(&problem, "give a rank of at least 1"));
        }
        let mut ranks = vec![0; blocks];
        active.into_iter().for_each(|block| ranks[block] = each);
        Ok(ranks)
    }

    /// A pattern's ranks, block by block.
    pub(super) fn segment_ranks(&self, pattern: &[usize], blocks: usize) -> Result<Vec<usize>> {
        let mut ranks = vec![0; blocks];
        let segments = pattern.len();
        for (segment, &rank) in pattern.iter().enumerate() {
            let held = segment * blocks / segments..(segment + 1) * blocks / segments;
            if rank > 0 && held.is_empty() {
                let problem = format!(
                    "segment {} of {segments} holds none of the {blocks} blocks",
                    segment + 1
                );
                return Err(self.error(&problem, "use fewer segments"));
            }
            ranks[held].fill(rank);
        }
        Ok(ranks)
    }
}

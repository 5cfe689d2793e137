//! Next-token loss of one model on many sequences, streamed block by block as an analysis is.

use super::{Lockstep, Participant};
use crate::{
    Result,
    checkpoint::Checkpoint,
    model::{Architecture, Ends},
    progress::{Progress, Unit},
};
use midblock_kernels::Backend;

/// Cross entropy over all tokens but each sequence's first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLoss {
    /// Tokens predicted: Σ (T_n − 1).
    pub predicted: usize,
    /// Mean cross entropy in nats; NaN if nothing was predicted. Its exponential is the perplexity.
    pub mean_nats: f64,
}

/// Mean next-token loss of `sequences`.
///
/// # Errors
/// As [`Lockstep::new`] and [`Lockstep::advance`].
pub fn next_token_loss<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<TokenLoss> {
    let architecture = Architecture::resolve(checkpoint.config())?;
    let hidden = architecture.hidden;
    let ends = Ends::load(backend, checkpoint, &architecture)?;
    let participants = [Participant { name: "model".to_owned(), checkpoint, architecture }];
    let mut lockstep = Lockstep::new(backend, &participants, sequences)?;
    let (tokens, blocks) = (sequences.iter().map(Vec::len).sum::<usize>(), lockstep.blocks());
    progress.begin("loss", (tokens * blocks) as u64, Unit::BlockTokens { blocks: blocks as u64 });
    while let Some(tensors) = lockstep.next_block()? {
        lockstep.advance(&tensors, progress)?;
    }
    let (mut sum, mut predicted) = (0.0, 0);
    for (batch, states) in lockstep.batches().iter().zip(&lockstep.tracks()[0].states) {
        let normed = ends.final_norm(backend, states);
        for bounds in batch.offsets().windows(2) {
            let (start, count) = (bounds[0], (bounds[1] - bounds[0]).saturating_sub(1));
            let mut rows = vec![0f64; count * hidden]; // all but the last position of a sequence predict something
            backend.read(&normed, start * hidden, &mut rows);
            let losses = ends.cross_entropy(backend, &backend.upload(&rows), &batch.ids()[start + 1..][..count]);
            sum += losses.iter().sum::<f64>();
            predicted += count;
        }
    }
    Ok(TokenLoss { predicted, mean_nats: sum / predicted as f64 })
}

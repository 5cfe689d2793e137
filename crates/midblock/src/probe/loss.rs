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
    let participants = [Participant {
        name: "model".to_owned(),
        checkpoint,
        architecture,
    }];
    let mut lockstep = Lockstep::new(backend, &participants, sequences)?;
    let (tokens, blocks) = (sequences.iter().map(Vec::len).sum::<usize>(), lockstep.blocks());
    progress.begin(
        "loss",
        (tokens * blocks) as u64,
        Unit::BlockTokens { blocks: blocks as u64 },
    );
    while let Some(tensors) = lockstep.next_block()? {
        lockstep.advance(&tensors, progress)?;
    }
    let (mut sum, mut predicted) = (0.0, 0);
    for (batch, states) in lockstep.batches().iter().zip(&lockstep.tracks()[0].states) {
        let normed = ends.final_norm(backend, states);
        let (mut rows, mut targets) = (Vec::new(), Vec::new()); // all but the last position of a sequence predict
        for bounds in batch.offsets().windows(2) {
            let last = bounds[1].saturating_sub(1).max(bounds[0]);
            let mut sequence = vec![0f64; (last - bounds[0]) * hidden];
            backend.read(&normed, bounds[0] * hidden, &mut sequence);
            rows.extend(sequence);
            targets.extend_from_slice(&batch.ids()[bounds[0]..bounds[1]][1.min(bounds[1] - bounds[0])..]);
        }
        sum += ends
            .cross_entropy(backend, &backend.upload(&rows), &targets)
            .iter()
            .sum::<f64>();
        predicted += targets.len();
    }
    Ok(TokenLoss {
        predicted,
        mean_nats: sum / predicted as f64,
    })
}

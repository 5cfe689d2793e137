//! Cross entropy of one model on many sequences, streamed block by block as an analysis is.

use super::{Lockstep, Participant, Readout};
use crate::{
    Result,
    checkpoint::Checkpoint,
    model::{Architecture, Ends},
    progress::{Progress, Unit},
    tokens::TrainingSample,
};
use midblock_kernels::{Backend, Prediction};

/// Cross entropy over some tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenLoss {
    /// Tokens predicted.
    pub predicted: usize,
    /// Their cross entropies' sum in nats.
    pub nats: f64,
}

impl TokenLoss {
    /// Mean in nats; NaN if nothing was predicted. Its exponential is the perplexity.
    pub fn mean(&self) -> f64 {
        self.nats / self.predicted as f64
    }
}

impl std::iter::Sum for TokenLoss {
    fn sum<I: Iterator<Item = Self>>(losses: I) -> Self {
        losses.fold(Self::default(), |sum, loss| Self {
            predicted: sum.predicted + loss.predicted,
            nats: sum.nats + loss.nats,
        })
    }
}

/// Loss of `sequences` over all tokens but each sequence's first.
///
/// # Errors
/// As [`Lockstep::new`] and [`Lockstep::advance`].
pub fn next_token_loss<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<TokenLoss> {
    let losses = losses(backend, checkpoint, sequences, &|_, _| true, progress)?;
    Ok(losses.into_iter().sum())
}

/// Loss of each sample over its trained tokens: of the answers, if they are what is trained.
///
/// # Errors
/// As [`next_token_loss`].
pub fn trained_token_losses<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    samples: &[TrainingSample],
    progress: &dyn Progress,
) -> Result<Vec<TokenLoss>> {
    let sequences: Vec<Vec<u32>> = samples.iter().map(|sample| sample.ids.clone()).collect();
    let trained = |sample: usize, t: usize| samples[sample].trained[t];
    losses(backend, checkpoint, &sequences, &trained, progress)
}

/// Loss of each sequence over the tokens (sequence, t), t ≥ 1, that are wanted.
fn losses<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    wanted: &dyn Fn(usize, usize) -> bool,
    progress: &dyn Progress,
) -> Result<Vec<TokenLoss>> {
    let architecture = Architecture::resolve(checkpoint.config())?;
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
    let readout = Readout::new(lockstep.batches(), wanted);
    let predictions = readout.read(backend, &ends, &lockstep.tracks()[0].states);
    let loss = |tokens: &Vec<Prediction>| TokenLoss {
        predicted: tokens.len(),
        nats: tokens.iter().map(|token| token.nats).sum(),
    };
    Ok(predictions.iter().map(loss).collect())
}

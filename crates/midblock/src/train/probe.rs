//! How strongly the loss pulls at each block before anything is trained: the probe behind `layers = "gradient"`.
//!
//! One forward and backward pass over some samples, in batches b of at most [`PROBE_ROWS`] rows; a block's score is the root
//! mean square of its matrices' gradients, `√(Σ_b ‖∂L_b/∂W‖² / Σ |W|)`, so that blocks of different sizes compare. Blocks with the highest
//! scores are trained, as in Aletheia (arXiv 2604.15351).

use super::{
    Gradients,
    batch::{Item, layout, longest},
};
use crate::{
    Result,
    checkpoint::Checkpoint,
    model::{Batch, Decoder, ParameterId, Pass, Reached, Tape},
    progress::{Progress, Unit},
};
use midblock_kernels::Backend;
use std::ops::ControlFlow;

/// Rows of a batch: one block's gradients exist at a time, and all its interiors are kept.
const PROBE_ROWS: usize = 512;

/// The score of each block, (L), from the loss of the samples' trained tokens.
///
/// # Errors
/// Whatever reading weights may raise; [`Interrupted`](crate::Error::Interrupted).
pub fn gradient_scores<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    items: &[Item<'_>],
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let mut decoder = Decoder::load(backend, checkpoint)?;
    let blocks = decoder.architecture().blocks;
    let matrices: Vec<_> = (0..blocks)
        .flat_map(|block| ParameterId::of_block(decoder.architecture(), block))
        .filter(|(_, shape)| shape.len() == 2)
        .map(|(id, shape)| (id, shape.iter().product::<usize>()))
        .collect();
    let elements = matrices.iter().map(|(_, len)| len).sum::<usize>() / blocks;
    let mut gradients = Gradients::new(backend, &matrices, true);
    let mut tape = Tape::new(backend, &decoder, 0, blocks);
    let mut squares = vec![0.0; blocks];
    let tokens: usize = items.iter().map(|item| item.sample.trained_tokens()).sum();
    let lengths = || items.iter().map(|item| item.sample.ids.len());
    let unit = Unit::BlockTokens { blocks: blocks as u64 };
    progress.begin("gradient probe", (lengths().sum::<usize>() * blocks) as u64, unit);
    for range in Batch::plan(lengths(), PROBE_ROWS) {
        if progress.cancelled() {
            return Err(crate::Error::Interrupted);
        }
        let (batch, labels) = layout(&items[range]);
        let rope = decoder.rope(longest(&batch));
        let pass = Pass {
            backend,
            batch: &batch,
            rope: &rope,
            dropout: None,
        };
        decoder.ends().embed(backend, &batch, tape.hidden_mut());
        tape.forward(&decoder, &pass);
        let weight = 1.0 / tokens as f32;
        tape.backward(
            &mut decoder,
            &pass,
            &labels,
            weight,
            &mut gradients,
            |reached, _, gradients| {
                if let Reached::Block(block) = reached {
                    for (id, _) in matrices.iter().filter(|(id, _)| id.block() == Some(block)) {
                        squares[block] += gradients.take(*id).map_or(0.0, |g| backend.sum_of_squares(g));
                    }
                }
                ControlFlow::Continue(())
            },
        );
        progress.advance((batch.rows() * blocks) as u64);
    }
    Ok(squares
        .into_iter()
        .map(|square| (square / elements as f64).sqrt())
        .collect())
}

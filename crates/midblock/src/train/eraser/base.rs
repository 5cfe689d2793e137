//! What the base says of the prompts: asked once, before the first step.
//!
//! Kept are the mean of each block's output at the last tokens, (D) a block, and the normed states of the compared tokens, (n, D), from which a
//! distribution is one product with the base's head: D numbers a token instead of V.

use super::layout::Layout;
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    model::{Batch, Decoder, Ends, Interior, Keep, Pass, Scratch},
    progress::{Progress, Unit},
    tokens::TrainingSample,
};
use midblock_kernels::{Backend, RopeTable};

/// Rows of a batch.
pub(super) const ROWS: usize = 1024;

/// What the base says.
pub(super) struct BaseSays<B: Backend> {
    /// For its head.
    pub ends: Ends<B>,
    /// Mean output of each block at the last token of each prompt, (L, D).
    pub means: Vec<Vec<f64>>,
    /// Normed states of the compared tokens of all prompts, (n, D).
    pub states: B::Buffer,
    /// First of these of each prompt, and their number last.
    pub starts: Vec<usize>,
}

/// Buffers of passes without backward.
pub(super) struct Walk<B: Backend> {
    pub hidden: B::Buffer,
    interior: Interior<B>,
    scratch: Scratch<B>,
    /// (rows, D)
    rows: B::Buffer,
}

impl<B: Backend> Walk<B> {
    pub fn new(backend: &B) -> Self {
        Self {
            hidden: backend.zeros(0),
            interior: Interior::new(backend),
            scratch: Scratch::new(backend),
            rows: backend.zeros(0),
        }
    }

    /// Brings the residual stream from `h[0]` to `h[L]` and adds each block's outputs at the rows `last` to `sums`, (L, D).
    pub fn run(&mut self, decoder: &Decoder<B>, pass: &Pass<'_, B>, last: &[usize], sums: &mut [Vec<f64>]) {
        for (index, sums) in sums.iter_mut().enumerate() {
            decoder.forward_block(
                index,
                pass,
                Keep::Nothing,
                &mut self.hidden,
                &mut self.interior,
                &mut self.scratch,
            );
            add_rows(pass.backend, &self.hidden, last, &mut self.rows, sums);
        }
    }
}

/// Adds rows of a buffer to a sum (D), in f64.
pub(super) fn add_rows<B: Backend>(
    backend: &B,
    states: &B::Buffer,
    rows: &[usize],
    gathered: &mut B::Buffer,
    sum: &mut [f64],
) {
    backend.resize(gathered, rows.len() * sum.len());
    backend.gather_rows(states, rows, sum.len(), gathered);
    let mut values = vec![0f64; rows.len() * sum.len()];
    backend.read(gathered, 0, &mut values);
    for row in values.chunks_exact(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
}

/// A table of rotations that is long enough for a batch.
pub(super) fn longest<B: Backend>(decoder: &Decoder<B>, rope: &mut RopeTable, batch: &Batch) {
    let positions = batch.positions().iter().max().map_or(0, |last| *last as usize + 1);
    if rope.cos.len() < positions * rope.half_dim {
        *rope = decoder.rope(positions);
    }
}

impl<B: Backend> BaseSays<B> {
    /// Asks it.
    ///
    /// # Errors
    /// Whatever reading weights may raise; [`Error::Interrupted`].
    pub fn ask(
        backend: &B,
        checkpoint: &Checkpoint,
        prompts: &[TrainingSample],
        [common, tail]: [usize; 2],
        progress: &dyn Progress,
    ) -> Result<Self> {
        let decoder = Decoder::load(backend, checkpoint)?;
        let (blocks, width) = (decoder.architecture().blocks, decoder.architecture().hidden);
        let mut starts = vec![0];
        for prompt in prompts {
            starts.push(starts[starts.len() - 1] + tail.min(prompt.ids.len()));
        }
        let mut means = vec![vec![0.0; width]; blocks];
        let mut states = backend.zeros(starts[prompts.len()] * width);
        let (mut walk, mut rope) = (Walk::new(backend), decoder.rope(0));
        progress.begin("asking the base", prompts.len() as u64, Unit::Items);
        for range in Batch::plan(prompts.iter().map(|prompt| prompt.ids.len() - common), ROWS) {
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            let layout = Layout::new(0, common, tail, &prompts[range.clone()]);
            longest(&decoder, &mut rope, &layout.batch);
            let pass = Pass::inference(backend, &layout.batch, &rope);
            decoder.ends().embed(backend, &layout.batch, &mut walk.hidden);
            walk.run(&decoder, &pass, &layout.last, &mut means);
            let normed = decoder.ends().normed_rows(backend, &walk.hidden, &layout.tails);
            let kept: Vec<usize> = (starts[range.start]..starts[range.end]).collect();
            backend.scatter_rows(&normed, &kept, width, &mut states);
            progress.advance(range.len() as u64);
        }
        for mean in means.iter_mut().flatten() {
            *mean /= prompts.len() as f64;
        }
        if let Some(layer) = means
            .iter()
            .position(|mean| mean.iter().any(|value| !value.is_finite()))
        {
            return Err(Error::StateNotFinite {
                model: checkpoint.label().to_owned(),
                layer: layer + 1,
                sample: "some prompt".into(),
            });
        }
        Ok(Self {
            ends: Ends::load(backend, checkpoint, decoder.architecture())?,
            means,
            states,
            starts,
        })
    }

    /// Rows of the kept states of some prompts, one prompt's after another's.
    pub fn kept(&self, prompts: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let rows = |prompt: usize| self.starts[prompt]..self.starts[prompt + 1];
        prompts.into_iter().flat_map(rows).collect()
    }
}

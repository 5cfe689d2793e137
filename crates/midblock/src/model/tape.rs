//! What a forward pass leaves for its backward pass, and the walk from the top block down.
//!
//! Of every block the input is kept, (rows, D); of the upper `kept` blocks also the [`Interior`], the others' is computed
//! again when backward reaches them (Chen et al. 2016). Both ways give the same bits.

use super::{Criterion, Decoder, HeadScratch, Interior, Keep, Labels, ParameterId, Pass, Scratch, Sink, StateLoss};
use midblock_kernels::Backend;
use std::ops::ControlFlow;

/// Buffers of a forward and a backward pass, reused from batch to batch.
pub struct Tape<B: Backend> {
    /// Inputs of the blocks from the first on, (rows, D) each.
    inputs: Vec<B::Buffer>,
    /// Interiors of the upper blocks.
    interiors: Vec<Interior<B>>,
    /// Interior of blocks that keep none.
    shared: Interior<B>,
    scratch: Scratch<B>,
    head: HeadScratch<B>,
    /// The residual stream, (rows, D).
    hidden: B::Buffer,
    /// Its gradient, (rows, D).
    gradient: B::Buffer,
}

/// How far a backward pass has come: the gradients of what it names are complete.
pub enum Reached {
    /// Head and final norm, with the cross entropy in nats of every labelled row.
    Head(Vec<f64>),
    /// A block, 0-based.
    Block(usize),
}

impl<B: Backend> Tape<B> {
    /// For the blocks `first..`, of which the upper `kept` keep their interiors.
    pub fn new(backend: &B, decoder: &Decoder<B>, first: usize, kept: usize) -> Self {
        let blocks = decoder.blocks().len() - first;
        let kept = kept.min(blocks);
        Self {
            inputs: (0..blocks).map(|_| backend.zeros(0)).collect(),
            interiors: (0..kept).map(|_| Interior::new(backend)).collect(),
            shared: Interior::new(backend),
            scratch: Scratch::new(backend),
            head: HeadScratch::new(backend),
            hidden: backend.zeros(0),
            gradient: backend.zeros(0),
        }
    }

    /// The residual stream: put the input of the first block here.
    pub fn hidden_mut(&mut self) -> &mut B::Buffer {
        &mut self.hidden
    }

    /// The residual stream as it is.
    pub fn hidden(&self) -> &B::Buffer {
        &self.hidden
    }

    /// After [`backward_to_input`](Self::backward_to_input): the gradient with respect to the first block's input, (rows, D).
    pub fn gradient(&self) -> &B::Buffer {
        &self.gradient
    }

    /// After [`forward`](Self::forward): the output of each block, from the first on, (rows, D) each.
    pub fn outputs(&self) -> impl Iterator<Item = &B::Buffer> {
        self.inputs.iter().skip(1).chain([&self.hidden])
    }

    /// Runs blocks `blocks` on the residual stream without keeping anything.
    pub fn skip(&mut self, decoder: &Decoder<B>, pass: &Pass<'_, B>, blocks: std::ops::Range<usize>) {
        for block in &decoder.blocks()[blocks] {
            block.forward(
                pass,
                Keep::Nothing,
                &mut self.hidden,
                &mut self.shared,
                &mut self.scratch,
            );
        }
    }

    /// Runs the blocks from the first on, keeping what backward needs: the residual stream becomes `h[L]`.
    pub fn forward(&mut self, decoder: &Decoder<B>, pass: &Pass<'_, B>) {
        let first = decoder.blocks().len() - self.inputs.len();
        let recomputed = self.inputs.len() - self.interiors.len();
        for (i, block) in decoder.blocks()[first..].iter().enumerate() {
            pass.backend.resize(&mut self.inputs[i], pass.backend.len(&self.hidden));
            pass.backend.copy(&self.hidden, &mut self.inputs[i]);
            let (keep, interior) = match i.checked_sub(recomputed) {
                Some(kept) => (Keep::Interior, &mut self.interiors[kept]),
                None => (Keep::Nothing, &mut self.shared),
            };
            block.forward(pass, keep, &mut self.hidden, interior, &mut self.scratch);
        }
    }

    /// Cross entropy in nats of every labelled row after [`forward`](Self::forward).
    pub fn loss(&self, decoder: &Decoder<B>, backend: &B, labels: &Labels) -> Vec<f64> {
        (decoder.ends().predictions(backend, &self.hidden, labels).iter())
            .map(|prediction| prediction.nats)
            .collect()
    }

    /// The gradient of what the criterion minimises, walked down to the first block: each wanted parameter's goes to the sink. `reached`
    /// is called on the way; it may change a block whose gradients are complete, and it may end the walk. The embedding's
    /// gradient, if wanted, is complete when this returns. Uses up what [`forward`](Self::forward) kept.
    pub fn backward<S: Sink<B>>(
        &mut self,
        decoder: &mut Decoder<B>,
        pass: &Pass<'_, B>,
        labels: &Labels,
        criterion: &mut impl Criterion<B>,
        sink: &mut S,
        reached: impl FnMut(Reached, &mut Decoder<B>, &mut S) -> ControlFlow<()>,
    ) {
        let embedding = sink.wants(ParameterId::Embedding);
        let whole = self.walk(decoder, pass, labels, criterion, &mut (), embedding, sink, reached);
        if whole && embedding {
            decoder
                .ends()
                .embed_backward(pass.backend, pass.batch, &self.gradient, sink);
        }
    }

    /// The same, down to the [gradient](Self::gradient) with respect to the first block's input, with a loss on the blocks' outputs besides.
    /// Nothing is added to the embedding's gradient.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_to_input<S: Sink<B>>(
        &mut self,
        decoder: &mut Decoder<B>,
        pass: &Pass<'_, B>,
        labels: &Labels,
        criterion: &mut impl Criterion<B>,
        states: &mut impl StateLoss<B>,
        sink: &mut S,
        reached: impl FnMut(Reached, &mut Decoder<B>, &mut S) -> ControlFlow<()>,
    ) {
        self.walk(decoder, pass, labels, criterion, states, true, sink, reached);
    }

    /// Walks down; false if `reached` ended it. `to_input` says whether the gradient with respect to the first block's input is wanted.
    #[allow(clippy::too_many_arguments)]
    fn walk<S: Sink<B>>(
        &mut self,
        decoder: &mut Decoder<B>,
        pass: &Pass<'_, B>,
        labels: &Labels,
        criterion: &mut impl Criterion<B>,
        states: &mut impl StateLoss<B>,
        to_input: bool,
        sink: &mut S,
        mut reached: impl FnMut(Reached, &mut Decoder<B>, &mut S) -> ControlFlow<()>,
    ) -> bool {
        let backend = pass.backend;
        let Self {
            hidden, gradient, head, ..
        } = self;
        let losses = decoder
            .ends()
            .loss_backward(backend, hidden, labels, criterion, gradient, head, sink);
        if reached(Reached::Head(losses), decoder, sink).is_break() {
            return false;
        }
        states.backward(backend, decoder.blocks().len(), hidden, gradient);
        let first = decoder.blocks().len() - self.inputs.len();
        let recomputed = self.inputs.len() - self.interiors.len();
        for (i, input) in self.inputs.iter().enumerate().rev() {
            let block = &decoder.blocks()[first + i];
            let interior = match i.checked_sub(recomputed) {
                Some(kept) => &mut self.interiors[kept],
                None => {
                    backend.copy(input, &mut self.hidden);
                    block.forward(
                        pass,
                        Keep::Interior,
                        &mut self.hidden,
                        &mut self.shared,
                        &mut self.scratch,
                    );
                    &mut self.shared
                }
            };
            let below = i > 0 || to_input;
            block.backward(
                pass,
                input,
                interior,
                &mut self.gradient,
                below,
                &mut self.scratch,
                sink,
            );
            if reached(Reached::Block(first + i), decoder, sink).is_break() {
                return false;
            }
            if i > 0 {
                states.backward(backend, first + i, input, &mut self.gradient);
            }
        }
        true
    }
}

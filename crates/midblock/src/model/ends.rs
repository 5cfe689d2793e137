//! What lies outside of the blocks: the embedding at one end, the final norm and the head at the other.

use super::{Architecture, Batch, Criterion, EndsTensors, Parameter, ParameterId, Sink, norm::Norm};
use crate::{Result, checkpoint::Checkpoint};
use midblock_kernels::{Accumulate, Backend, Prediction};

/// Rows whose logits exist at a time: enough to read the head from memory rarely, few enough that a vocabulary of logits
/// for each stays small (50 MiB for 49,152 tokens).
pub const HEAD_ROWS: usize = 256;

/// Embedding, final norm and head on a device.
pub struct Ends<B: Backend> {
    hidden: usize,
    vocab: usize,
    /// (V, D)
    embedding: B::Matrix,
    /// (D)
    final_norm: Norm<B>,
    /// (V, D); `None` if tied.
    head: Option<B::Matrix>,
}

/// Rows of a batch that are to predict a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Ascending rows of the batch.
    pub rows: Vec<usize>,
    /// The token that each predicts.
    pub targets: Vec<u32>,
}

impl Labels {
    /// Of a batch of whole sequences: the tokens t ≥ 1 of sequence s that are `wanted(s, t)`, predicted by the row before.
    pub fn of(batch: &Batch, wanted: impl Fn(usize, usize) -> bool) -> Self {
        let mut labels = Self::default();
        for (sequence, bounds) in batch.offsets().windows(2).enumerate() {
            for row in (bounds[0] + 1..bounds[1]).filter(|row| wanted(sequence, row - bounds[0])) {
                labels.rows.push(row - 1);
                labels.targets.push(batch.ids()[row]);
            }
        }
        labels
    }
}

/// Buffers of the head, reused from batch to batch.
pub struct HeadScratch<B: Backend> {
    hidden: B::Buffer,
    normed: B::Buffer,
    gradient: B::Buffer,
    /// (HEAD_ROWS, V)
    logits: B::Buffer,
}

impl<B: Backend> HeadScratch<B> {
    /// Empty buffers; they grow with the first batch.
    pub fn new(backend: &B) -> Self {
        let empty = || backend.zeros(0);
        Self {
            hidden: empty(),
            normed: empty(),
            gradient: empty(),
            logits: empty(),
        }
    }

    /// Bytes of f32 that a batch with `labelled` labelled rows needs.
    pub fn bytes(architecture: &Architecture, labelled: usize) -> usize {
        4 * labelled.min(HEAD_ROWS) * (3 * architecture.hidden + architecture.vocab)
    }
}

impl<B: Backend> Ends<B> {
    /// Hands embedding, final norm and head to the device.
    pub fn load(backend: &B, checkpoint: &Checkpoint, architecture: &Architecture) -> Result<Self> {
        Ok(Self::new(
            backend,
            architecture,
            &EndsTensors::read(checkpoint, architecture)?,
        ))
    }

    /// Hands them to the device.
    pub fn new(backend: &B, architecture: &Architecture, tensors: &EndsTensors) -> Self {
        let final_norm = backend.upload(&tensors.final_norm.to_f32());
        Self {
            hidden: architecture.hidden,
            vocab: architecture.vocab,
            embedding: backend.matrix(tensors.embedding.matrix()),
            final_norm: Norm::new(ParameterId::FinalNorm, final_norm, architecture.norm_eps),
            head: tensors.head.as_ref().map(|head| backend.matrix(head.matrix())),
        }
    }

    /// `h[0]`, (rows, D).
    pub fn embed(&self, backend: &B, batch: &Batch, hidden: &mut B::Buffer) {
        backend.resize(hidden, batch.rows() * self.hidden);
        backend.embed(&self.embedding, batch.ids(), hidden);
    }

    /// Adds the embedding's gradient from that of `h[0]`, (rows, D), to the sink, if it is wanted.
    pub fn embed_backward(&self, backend: &B, batch: &Batch, dh: &B::Buffer, sink: &mut impl Sink<B>) {
        if sink.wants(ParameterId::Embedding) {
            backend.embed_backward(batch.ids(), dh, sink.sum(backend, ParameterId::Embedding));
        }
    }

    /// The final norm of `h[L]`, (rows, D).
    pub fn final_norm(&self, backend: &B, hidden: &B::Buffer) -> B::Buffer {
        let mut normed = backend.zeros(0);
        self.final_norm.forward(backend, hidden, &mut normed);
        normed
    }

    /// Logits of normed states, (rows, V). Large: meant for few rows; predictions go through [`predictions`](Self::predictions).
    pub fn logits(&self, backend: &B, normed: &B::Buffer) -> B::Buffer {
        let rows = backend.len(normed) / self.hidden;
        let mut logits = backend.zeros(rows * self.vocab);
        backend.linear(normed, self.head(), rows, Accumulate::Write, &mut logits);
        logits
    }

    /// Logits of some rows of `h[L]`, (rows, V). With `decoding` through [`Backend::decode_linears`]: for few rows.
    pub fn logits_of<'s>(
        &self,
        backend: &B,
        hidden: &B::Buffer,
        rows: &[usize],
        decoding: bool,
        scratch: &'s mut HeadScratch<B>,
    ) -> &'s B::Buffer {
        let HeadScratch {
            hidden: states,
            normed,
            logits,
            ..
        } = scratch;
        backend.resize(states, rows.len() * self.hidden);
        backend.gather_rows(hidden, rows, self.hidden, states);
        self.final_norm.forward(backend, states, normed);
        backend.resize(logits, rows.len() * self.vocab);
        match decoding {
            true => backend.decode_linears(
                normed,
                rows.len(),
                Accumulate::Write,
                &mut [(self.head(), &mut *logits)],
            ),
            false => backend.linear(normed, self.head(), rows.len(), Accumulate::Write, logits),
        }
        logits
    }

    /// What final norm and head make of every labelled row of `h[L]`, (rows, D), or of the states of an earlier layer.
    pub fn predictions(&self, backend: &B, hidden: &B::Buffer, labels: &Labels) -> Vec<Prediction> {
        backend.predictions(
            &self.normed_rows(backend, hidden, &labels.rows),
            self.head(),
            &labels.targets,
        )
    }

    /// KL(p ‖ q) in nats of each row, where p is what this head makes of `states` and q what `other` makes of `others`: normed states, (n, D)
    /// of each model. The vocabularies are the same.
    pub fn divergences(&self, backend: &B, states: &B::Buffer, other: &Self, others: &B::Buffer) -> Vec<f64> {
        assert_eq!(self.vocab, other.vocab, "vocabularies");
        let rows = backend.len(states) / self.hidden;
        let mut divergences = Vec::with_capacity(rows);
        let [mut chunk, mut p, mut q] = [0; 3].map(|_| backend.zeros(0));
        for start in (0..rows).step_by(HEAD_ROWS) {
            let rows: Vec<usize> = (start..rows.min(start + HEAD_ROWS)).collect();
            for (ends, states, logits) in [(self, states, &mut p), (other, others, &mut q)] {
                backend.resize(&mut chunk, rows.len() * ends.hidden);
                backend.gather_rows(states, &rows, ends.hidden, &mut chunk);
                backend.resize(logits, rows.len() * ends.vocab);
                backend.linear(&chunk, ends.head(), rows.len(), Accumulate::Write, logits);
            }
            divergences.extend(backend.distillation_backward(&mut q, &p, self.vocab, 0.0)); // its gradient is not asked for
        }
        divergences
    }

    /// Final norm of some rows of `h[L]`, (rows, D).
    pub(crate) fn normed_rows(&self, backend: &B, hidden: &B::Buffer, rows: &[usize]) -> B::Buffer {
        let mut states = backend.zeros(rows.len() * self.hidden);
        backend.gather_rows(hidden, rows, self.hidden, &mut states);
        self.final_norm(backend, &states)
    }

    /// Cross entropy in nats of every labelled row of `h[L]`, (rows, D), and in `dh` the gradient of what the criterion minimises with
    /// respect to `h[L]`, (rows, D); gradients of head and final norm go to the sink. Rows without a label cost nothing.
    #[allow(clippy::too_many_arguments)]
    pub fn loss_backward(
        &self,
        backend: &B,
        hidden: &B::Buffer,
        labels: &Labels,
        criterion: &mut impl Criterion<B>,
        dh: &mut B::Buffer,
        scratch: &mut HeadScratch<B>,
        sink: &mut impl Sink<B>,
    ) -> Vec<f64> {
        backend.resize(dh, backend.len(hidden));
        backend.clear(dh);
        let id = self.head.as_ref().map_or(ParameterId::Embedding, |_| ParameterId::Head);
        let mut losses = Vec::with_capacity(labels.rows.len());
        for (rows, targets) in labels.rows.chunks(HEAD_ROWS).zip(labels.targets.chunks(HEAD_ROWS)) {
            let chunk = losses.len()..losses.len() + rows.len();
            let HeadScratch {
                hidden: states,
                normed,
                gradient,
                logits,
            } = scratch;
            let n = rows.len();
            backend.resize(states, n * self.hidden);
            backend.gather_rows(hidden, rows, self.hidden, states);
            self.final_norm.forward(backend, states, normed);
            backend.resize(logits, n * self.vocab);
            backend.linear(normed, self.head(), n, Accumulate::Write, logits);
            losses.extend(criterion.backward(backend, chunk, targets, logits));
            if sink.wants(id) {
                sink.product(backend, id, normed, logits, n);
            }
            backend.resize(gradient, n * self.hidden);
            backend.linear_dx(logits, self.head(), n, Accumulate::Write, gradient);
            // The normed states are not needed any more: their buffer takes the gradient before the norm.
            self.final_norm
                .backward(backend, states, gradient, Accumulate::Write, normed, sink);
            backend.scatter_rows(normed, rows, self.hidden, dh);
        }
        losses
    }

    /// The parameter, if it is one of these.
    pub(super) fn parameter_mut(&mut self, id: ParameterId) -> Option<Parameter<'_, B>> {
        match id {
            ParameterId::Embedding => Some(Parameter::Matrix(&mut self.embedding)),
            ParameterId::FinalNorm => Some(Parameter::Vector(self.final_norm.weight_mut())),
            ParameterId::Head => self.head.as_mut().map(Parameter::Matrix),
            ParameterId::Block { .. } => None,
        }
    }

    /// (V, D); the embedding where it is tied.
    pub(crate) fn head(&self) -> &B::Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

//! Tokens of many sequences through the model, pass by pass, and what becomes of the rows that are wanted.

use super::engine::Engine;
use crate::{
    Error, Result,
    model::{Batch, Decoder, Keep, Pass},
};
use midblock_kernels::Backend;
use rayon::prelude::*;
use std::collections::VecDeque;

/// Tokens of a sequence that go through the model at a time.
const CHUNK: usize = 512;
/// Tokens of all sequences that go through the model at a time, but for a step of decoding.
pub(super) const ROWS: usize = 1024;
/// Rows whose logits exist at a time.
const LOGITS: usize = 64;

/// What stands in front of every sequence.
pub(super) struct Trigger<B: Backend> {
    pub tokens: usize,
    /// (T, D)
    pub values: B::Buffer,
    /// Whether every slot begins with its keys and values.
    pub is_in_cache: bool,
}

/// The next tokens of a slot's sequence.
pub(super) struct Extension<'a> {
    pub slot: usize,
    pub ids: &'a [u32],
    /// What the model says after a token is wanted from this of `ids` on.
    pub from: usize,
}

/// What becomes of a row of logits: of extension `.0`, after its token `.1`.
pub(super) type Judge<'a, T> = &'a (dyn Fn(usize, usize, &mut [f32]) -> Option<T> + Sync);

/// A row that is wanted: of a pass, its extension, and the token's place in that.
pub(super) type Wanted = (usize, usize, usize);

/// Which products logits are made with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Many tokens, logits of many.
    Score,
    /// Many tokens, logits of the last.
    Prompt,
    /// A token a sequence.
    Step,
}

impl<B: Backend> Engine<'_, B> {
    /// Runs the next tokens of some sequences; `judge` sees every row of logits that is wanted and says what becomes of it, or
    /// that it is not finite. Returns that with the number of the extension and the token's place in it.
    pub(super) fn extend<T: Send>(
        &mut self,
        extensions: &[Extension<'_>],
        phase: Phase,
        judge: Judge<'_, T>,
        name: &dyn Fn(usize) -> String,
    ) -> Result<Vec<(usize, usize, T)>> {
        let mut results = Vec::new();
        self.passes(extensions, phase, &mut |engine, wanted| {
            engine.judge(wanted, phase, judge, name, &mut results)
        })?;
        Ok(results)
    }

    /// Runs the next tokens of some sequences, as many at a time as go through the model; `look` is called after each pass, with the
    /// residual stream at `h[L]`, and gets the rows that are wanted.
    pub(super) fn passes(
        &mut self,
        extensions: &[Extension<'_>],
        phase: Phase,
        look: &mut dyn FnMut(&mut Self, &[Wanted]) -> Result<()>,
    ) -> Result<()> {
        let mut waiting: VecDeque<(usize, usize)> = (0..extensions.len()).map(|which| (which, 0)).collect();
        while !waiting.is_empty() {
            if (self.stop)() {
                return Err(Error::Interrupted);
            }
            let mut parts = Vec::new(); // (extension, its tokens)
            let mut rows = 0;
            while let Some(&(which, start)) = waiting.front() {
                let end = extensions[which].ids.len().min(start + CHUNK);
                rows += end - start;
                if rows > ROWS && !parts.is_empty() && phase != Phase::Step {
                    break;
                }
                waiting.pop_front();
                parts.push((which, start..end));
            }
            let longer = |(which, part): &&(usize, std::ops::Range<usize>)| part.end < extensions[*which].ids.len();
            waiting.extend(parts.iter().filter(longer).map(|(which, part)| (*which, part.end)));
            let ids = parts
                .iter()
                .map(|(which, part)| (extensions[*which].slot, &extensions[*which].ids[part.clone()]));
            self.forward(&ids.collect::<Vec<_>>(), phase);
            let mut wanted = Vec::new();
            let mut row = 0;
            for (which, part) in parts {
                let own = part.filter_map(|token| {
                    row += 1;
                    (token >= extensions[which].from).then_some((row - 1, which, token))
                });
                wanted.extend(own);
            }
            look(self, &wanted)?;
        }
        Ok(())
    }

    /// One pass: the residual stream is left at `h[L]`.
    fn forward(&mut self, sequences: &[(usize, &[u32])], phase: Phase) {
        let backend = self.backend;
        let longest = sequences
            .iter()
            .map(|(slot, ids)| self.cache.len(*slot) + ids.len())
            .max();
        self.make_room(longest.unwrap_or(0));
        let rows = sequences
            .iter()
            .map(|(slot, ids)| (*ids, self.cache.extend(*slot, ids.len())));
        let batch = Batch::continued(rows);
        self.walk(&batch, phase == Phase::Step, |decoder, hidden| {
            decoder.ends().embed(backend, &batch, hidden);
        });
    }

    /// Lets `enter` make `h[0]` and brings it to `h[L]`.
    fn walk(&mut self, batch: &Batch, decoding: bool, enter: impl FnOnce(&Decoder<B>, &mut B::Buffer) + Send) {
        let Self {
            backend,
            decoder,
            cache,
            rope,
            hidden,
            interior,
            scratch,
            ..
        } = self;
        let pass = Pass {
            decoding,
            ..Pass::inference(*backend, batch, rope)
        };
        // on one of the pool's own threads: each of a hundred products would wake one otherwise
        rayon::scope(|_| {
            enter(decoder, hidden);
            for index in 0..decoder.blocks().len() {
                decoder.forward_block(index, &pass, Keep::Keys(cache.block(index)), hidden, interior, scratch);
            }
        });
    }

    /// Forgets all sequences and sees to it that every slot begins with the trigger, if there is one.
    pub(super) fn begin(&mut self) {
        self.cache.clear();
        let Some(mut trigger) = self.trigger.take_if(|trigger| !trigger.is_in_cache) else {
            return;
        };
        let backend = self.backend;
        self.cache.forget_prefix();
        self.make_room(trigger.tokens);
        let placeholders = vec![0; trigger.tokens]; // its vectors take the place of embeddings
        let batch = Batch::continued([(placeholders.as_slice(), self.cache.extend(0, trigger.tokens))]);
        self.walk(&batch, false, |_, hidden| {
            backend.resize(hidden, backend.len(&trigger.values));
            backend.copy(&trigger.values, hidden);
        });
        self.cache.share_first(backend);
        trigger.is_in_cache = true;
        self.trigger = Some(trigger);
    }

    /// Makes room for sequences of `rows` rows.
    fn make_room(&mut self, rows: usize) {
        self.cache.reserve(self.backend, rows);
        if self.rope.cos.len() < rows * self.rope.half_dim {
            let most = self.decoder.architecture().max_positions;
            self.rope = self.decoder.rope((2 * rows).min(most.max(rows)));
        }
    }

    /// Logits of the wanted rows, a few at a time, and what becomes of them.
    fn judge<T: Send>(
        &mut self,
        wanted: &[Wanted],
        phase: Phase,
        judge: Judge<'_, T>,
        name: &dyn Fn(usize) -> String,
        results: &mut Vec<(usize, usize, T)>,
    ) -> Result<()> {
        let architecture = self.decoder.architecture();
        for wanted in wanted.chunks(LOGITS) {
            let rows: Vec<usize> = wanted.iter().map(|(row, _, _)| *row).collect();
            let few = phase != Phase::Score;
            let ends = self.decoder.ends();
            let logits = ends.logits_of(self.backend, &self.hidden, &rows, few, &mut self.head);
            self.logits.resize(rows.len() * architecture.vocab, 0.0);
            self.backend.read(logits, 0, &mut self.logits);
            let judged: Vec<Option<T>> = self
                .logits
                .par_chunks_exact_mut(architecture.vocab)
                .zip(wanted)
                .map(|(logits, (_, which, token))| judge(*which, *token, logits))
                .collect();
            for ((_, which, token), judged) in wanted.iter().zip(judged) {
                let judged = judged.ok_or_else(|| Error::StateNotFinite {
                    model: self.label.clone(),
                    layer: architecture.blocks,
                    sample: name(*which),
                })?;
                results.push((*which, *token, judged));
            }
        }
        Ok(())
    }

    /// Forgets a slot's tokens from the `len`-th on.
    pub(super) fn forget(&mut self, slot: usize, len: usize) {
        self.cache.truncate(slot, len);
    }
}

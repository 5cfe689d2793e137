//! Prompts through a model, many at a time: each in a slot of the cache, prompts whole, then a token each a step.
//!
//! A slot that is done takes the next prompt at once, so no sequence waits for another (Yu et al. 2022, "Orca"), and nothing is
//! padded. What a sequence gets does not depend on the others: rows of a product and of attention are the same bits in any
//! batch, prompts are always cut at the same places, and chance is a function of (seed, position). A trigger's keys and values are
//! made once and stand in every slot.

use super::{
    Answers, Completion, Continuation, Finish, LanguageModel, Question, Request, Sampling, Stops,
    cache::Cache,
    passes::{Extension, Phase, ROWS, Trigger},
    text::Text,
};
use crate::{
    Error, Result,
    adapt::SoftPrompt,
    checkpoint::Checkpoint,
    model::{Decoder, HeadScratch, Interior, Scratch},
    tokens::Tokenizer,
};
use midblock_kernels::{Backend, RopeTable};
use std::{collections::VecDeque, ops::ControlFlow, sync::Arc};

/// A model that writes and scores, up to `batch` sequences at a time.
pub struct Engine<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) decoder: Decoder<B>,
    pub(super) label: String,
    pub(super) cache: Cache<B>,
    pub(super) rope: RopeTable,
    pub(super) interior: Interior<B>,
    pub(super) scratch: Scratch<B>,
    pub(super) head: HeadScratch<B>,
    pub(super) hidden: B::Buffer,
    /// Logits on the host, (rows, V).
    pub(super) logits: Vec<f32>,
    pub(super) trigger: Option<Trigger<B>>,
    pub(super) stop: &'a dyn Fn() -> bool,
}

/// A sequence that is being written.
struct Writing<'a> {
    request: usize,
    slot: usize,
    ids: Vec<u32>,
    text: Text<'a>,
}

impl<'a, B: Backend> Engine<'a, B> {
    /// Loads a checkpoint, with its adapter.
    ///
    /// # Errors
    /// Whatever is wrong with its configuration or tensors.
    pub fn new(backend: &'a B, checkpoint: &Checkpoint, tokenizer: &'a Tokenizer, batch: usize) -> Result<Self> {
        let decoder = Decoder::load(backend, checkpoint)?;
        Ok(Self {
            backend,
            tokenizer,
            label: checkpoint.label().to_owned(),
            cache: Cache::new(backend, decoder.architecture(), batch.max(1)),
            rope: decoder.rope(0),
            interior: Interior::new(backend),
            scratch: Scratch::new(backend),
            head: HeadScratch::new(backend),
            hidden: backend.zeros(0),
            logits: Vec::new(),
            trigger: None,
            stop: &|| false,
            decoder,
        })
    }

    /// Asked before every pass; true ends the work with [`Error::Interrupted`].
    pub fn stopping(mut self, stop: &'a dyn Fn() -> bool) -> Self {
        self.stop = stop;
        self
    }

    /// As [`Decoder::steer`].
    ///
    /// # Panics
    /// As there.
    pub fn steer(&mut self, added: &[Option<Arc<[f32]>>]) {
        self.decoder.steer(self.backend, added);
        if let Some(trigger) = &mut self.trigger {
            trigger.is_in_cache = false; // its states are steered too
        }
    }

    /// Puts a trigger in front of every sequence from here on, in place of one that may be there, or takes it away. Its vectors take
    /// the first positions, and of the [context](LanguageModel::context).
    ///
    /// # Errors
    /// Those of [`SoftPrompt::check`].
    pub fn set_trigger(&mut self, trigger: Option<&SoftPrompt>) -> Result<()> {
        if let Some(trigger) = trigger {
            trigger.check(&self.label, self.decoder.architecture())?;
        }
        self.trigger = trigger.map(|trigger| Trigger {
            tokens: trigger.tokens(),
            values: self.backend.upload(trigger.values()),
            is_in_cache: false,
        });
        self.cache.forget_prefix();
        Ok(())
    }

    /// [`LanguageModel::generate`] that also hands out text as it is written: `piece` gets the number of the request and what was
    /// added. `Break` ends the work.
    ///
    /// # Errors
    /// As there.
    pub fn generate_streaming(
        &mut self,
        requests: &[Request],
        sampling: &Sampling,
        stops: &Stops,
        piece: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
        done: Answers<'_, Completion>,
    ) -> Result<()> {
        sampling.check()?;
        for (index, request) in requests.iter().enumerate() {
            let name = format!("prompt {}", index + 1);
            self.check(&name, &request.prompt, 1)?;
            if request.max_new == 0 {
                return Err(Error::Argument {
                    what: format!("tokens to write after {name}"),
                    value: "0".to_owned(),
                    problem: "expected at least 1".to_owned(),
                    help: String::new(),
                });
            }
        }
        self.begin();
        let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
        let mut free: Vec<usize> = (0..self.cache.slots()).rev().collect();
        let mut writing: Vec<Writing<'_>> = Vec::new();
        loop {
            let new = self.admit(requests, stops, &mut waiting, &mut free);
            let first = writing.len();
            let phase = if new.is_empty() { Phase::Step } else { Phase::Prompt };
            writing.extend(new);
            let from = if phase == Phase::Step { 0 } else { first };
            if writing.is_empty() {
                return Ok(());
            }
            for token in self
                .next_tokens(requests, sampling, &writing[from..], phase)?
                .into_iter()
                .zip(from..)
            {
                let (id, at) = token;
                writing[at].ids.push(id);
                if !stops.tokens.contains(&id) {
                    writing[at].text.push(id)?;
                }
                if piece(writing[at].request, writing[at].text.piece()).is_break() {
                    return Ok(());
                }
            }
            for at in (from..writing.len()).rev() {
                let Some(finish) = self.finish(&requests[writing[at].request], stops, &writing[at]) else {
                    continue;
                };
                let Writing {
                    request,
                    slot,
                    ids,
                    text,
                } = writing.swap_remove(at);
                self.cache.truncate(slot, 0);
                free.push(slot);
                let (text, rest) = text.finish()?;
                let more = piece(request, &rest);
                if more.is_break() || done(request, Completion { ids, text, finish }).is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// Gives free slots to waiting prompts, as many as go through the model at a time.
    fn admit<'s>(
        &self,
        requests: &[Request],
        stops: &'s Stops,
        waiting: &mut VecDeque<usize>,
        free: &mut Vec<usize>,
    ) -> Vec<Writing<'s>>
    where
        'a: 's,
    {
        let mut admitted = Vec::new();
        let mut rows = 0;
        while let (Some(&request), Some(&slot)) = (waiting.front(), free.last()) {
            rows += requests[request].prompt.len();
            if rows > ROWS && !admitted.is_empty() {
                break;
            }
            waiting.pop_front();
            free.pop();
            admitted.push(Writing {
                request,
                slot,
                ids: Vec::new(),
                text: Text::new(self.tokenizer, &stops.strings),
            });
        }
        admitted
    }

    /// The next token of each sequence.
    fn next_tokens(
        &mut self,
        requests: &[Request],
        sampling: &Sampling,
        writing: &[Writing<'_>],
        phase: Phase,
    ) -> Result<Vec<u32>> {
        let extensions: Vec<Extension<'_>> = writing
            .iter()
            .map(|writing| {
                let ids = match phase {
                    Phase::Step => &writing.ids[writing.ids.len() - 1..],
                    _ => requests[writing.request].prompt.as_slice(),
                };
                Extension {
                    slot: writing.slot,
                    ids,
                    from: ids.len() - 1,
                }
            })
            .collect();
        let choose = |which: usize, _: usize, logits: &mut [f32]| {
            let Writing { request, ids, .. } = &writing[which];
            let Request { prompt, seed, .. } = &requests[*request];
            sampling.choose(logits, prompt.iter().chain(ids).copied(), *seed, ids.len())
        };
        let name = |which: usize| format!("prompt {}", writing[which].request + 1);
        let mut chosen = self.extend(&extensions, phase, &choose, &name)?;
        chosen.sort_unstable_by_key(|(which, _, _)| *which);
        Ok(chosen.into_iter().map(|(_, _, id)| id).collect())
    }

    /// Why a sequence ends with its last token, if it does.
    fn finish(&self, request: &Request, stops: &Stops, writing: &Writing<'_>) -> Option<Finish> {
        let last = writing.ids.last()?;
        if stops.tokens.contains(last) {
            Some(Finish::Token)
        } else if writing.text.has_stopped() {
            Some(Finish::Text)
        } else if writing.ids.len() >= request.max_new {
            Some(Finish::Length)
        } else if request.prompt.len() + writing.ids.len() >= self.context() {
            Some(Finish::Context)
        } else {
            None
        }
    }

    /// Whether a prompt has tokens, all of them the model's, and room for `more`.
    pub(super) fn check(&self, what: &str, prompt: &[u32], more: usize) -> Result<()> {
        let (vocab, context) = (self.decoder.architecture().vocab, self.context());
        let problem = if prompt.is_empty() {
            "it has no tokens".to_owned()
        } else if prompt.len() + more > context {
            format!("with {more} more it would be longer than the model's context of {context} tokens")
        } else if let Some(id) = prompt.iter().find(|id| **id as usize >= vocab) {
            format!("token {id} is not one of the model's {vocab}: the tokenizer belongs to another model")
        } else {
            return Ok(());
        };
        Err(Error::Argument {
            what: what.to_owned(),
            value: format!("{} tokens", prompt.len()),
            problem,
            help: String::new(),
        })
    }
}

impl<B: Backend> LanguageModel for Engine<'_, B> {
    fn context(&self) -> usize {
        let trigger = self.trigger.as_ref().map_or(0, |trigger| trigger.tokens);
        self.decoder.architecture().max_positions - trigger
    }

    fn generate(
        &mut self,
        requests: &[Request],
        sampling: &Sampling,
        stops: &Stops,
        done: Answers<'_, Completion>,
    ) -> Result<()> {
        self.generate_streaming(requests, sampling, stops, &mut |_, _| ControlFlow::Continue(()), done)
    }

    fn score(&mut self, questions: &[Question], done: Answers<'_, Vec<Continuation>>) -> Result<()> {
        for (index, question) in questions.iter().enumerate() {
            let name = format!("prompt {}", index + 1);
            for continuation in &question.continuations {
                self.check(&name, &question.prompt, continuation.len())?;
                self.check(&format!("a continuation of {name}"), continuation, 0)?;
            }
        }
        self.begin();
        let slots = self.cache.slots();
        for (group, questions) in questions.chunks(slots).enumerate() {
            let scored = self.score_group(questions, group * slots);
            (0..questions.len()).for_each(|slot| self.forget(slot, 0));
            for (index, scored) in scored?.into_iter().enumerate() {
                if done(group * slots + index, scored).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

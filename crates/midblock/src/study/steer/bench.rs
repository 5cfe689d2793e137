//! What a model, steered or not, predicts and writes. The base is loaded when the first setting that is not kept asks for it.

use super::{
    Example, SteerOptions, blocks_of,
    forced::{Forced, Tally},
};
use crate::{
    Result,
    generate::{Engine, LanguageModel, Request, Sampling, Stops},
    progress::Unit,
    study::battery::Subject,
    tokens::TrainingSample,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::{ops::ControlFlow, sync::Arc};

/// Prompts whose completions are shown on the page.
const SHOWN: usize = 3;

/// What a model predicts and writes; kept in a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Of each sample.
    pub tallies: Vec<Tally>,
    /// After each prompt.
    pub completions: Vec<Written>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Written {
    pub ids: Vec<u32>,
    pub text: String,
}

/// Where models are asked.
pub(super) struct Bench<'s, B: Backend> {
    subject: &'s Subject<'s, B>,
    samples: &'s [TrainingSample],
    prompts: Vec<&'s [u32]>,
    new_tokens: usize,
    /// First blocks of the segments that may be steered, ascending.
    starts: Vec<usize>,
    stop: &'s dyn Fn() -> bool,
    base: Option<(Forced<'s, B>, Engine<'s, B>)>,
}

impl<'s, B: Backend> Bench<'s, B> {
    pub fn new(
        subject: &'s Subject<'s, B>,
        samples: &'s [TrainingSample],
        options: &SteerOptions,
        stop: &'s dyn Fn() -> bool,
    ) -> Self {
        let segments = options.segments.iter();
        let mut starts: Vec<usize> = segments
            .map(|segment| blocks_of(*segment, subject.blocks()).start)
            .collect();
        starts.sort_unstable();
        Self {
            subject,
            samples,
            prompts: samples.iter().take(options.prompts).map(prompt).collect(),
            new_tokens: options.new_tokens,
            starts,
            stop,
            base: None,
        }
    }

    /// Of a model as it is.
    pub fn own(&mut self, model: usize) -> Result<Outcome> {
        if model == 0 {
            return self.ask_base(&[], 0);
        }
        let (forced, mut engine) = self.load(model, &[])?;
        Ok(Outcome {
            tallies: forced.plain,
            completions: self.write(model, &mut engine)?,
        })
    }

    /// Of the base, with vectors added from block `start` on.
    pub fn steered(&mut self, added: &[Option<Arc<[f32]>>], start: usize) -> Result<Outcome> {
        self.ask_base(added, start)
    }

    fn ask_base(&mut self, added: &[Option<Arc<[f32]>>], start: usize) -> Result<Outcome> {
        let (mut forced, mut engine) = match self.base.take() {
            Some(base) => base,
            None => self.load(0, &self.starts)?,
        };
        let tallies = if added.is_empty() {
            forced.plain.clone()
        } else {
            forced.steered(added, start, self.subject.progress)?
        };
        engine.steer(added);
        let completions = self.write(0, &mut engine)?;
        self.base = Some((forced, engine));
        Ok(Outcome { tallies, completions })
    }

    fn load(&self, model: usize, starts: &[usize]) -> Result<(Forced<'s, B>, Engine<'s, B>)> {
        let Subject {
            backend,
            models,
            tokenizer,
            progress,
            ..
        } = self.subject;
        let checkpoint = models[model].checkpoint;
        let engine = Engine::new(*backend, checkpoint, tokenizer, self.prompts.len())?.stopping(self.stop);
        Ok((
            Forced::new(*backend, checkpoint, self.samples, starts, *progress)?,
            engine,
        ))
    }

    /// Greedy completions of the prompts.
    fn write(&self, model: usize, engine: &mut Engine<'s, B>) -> Result<Vec<Written>> {
        let Subject {
            models,
            tokenizer,
            progress,
            ..
        } = self.subject;
        let requests: Vec<Request> = self
            .prompts
            .iter()
            .map(|prompt| Request {
                prompt: prompt.to_vec(),
                max_new: self.new_tokens,
                seed: 0,
            })
            .collect();
        let stops = Stops::of(models[model].checkpoint, tokenizer)?;
        progress.begin("steered completions", requests.len() as u64, Unit::Items);
        let mut written = vec![Written::default(); requests.len()];
        engine.generate(&requests, &Sampling::default(), &stops, &mut |request, completion| {
            written[request] = Written {
                ids: completion.ids,
                text: completion.text,
            };
            progress.advance(1);
            ControlFlow::Continue(())
        })?;
        Ok(written)
    }

    /// The first prompts with what was written after them under each name.
    pub fn examples(&self, written: &[(String, Outcome)]) -> Result<Vec<Example>> {
        let example = |(number, (sample, prompt)): (usize, (&TrainingSample, &&[u32]))| {
            let text = |(name, outcome): &(String, Outcome)| (name.clone(), outcome.completions[number].text.clone());
            Ok(Example {
                sample: sample.id.clone(),
                prompt: self.subject.tokenizer.text(prompt)?,
                texts: written.iter().map(text).collect(),
            })
        };
        let prompts = self.samples.iter().zip(&self.prompts).take(SHOWN);
        prompts.enumerate().map(example).collect()
    }
}

/// What comes before the first trained token; where everything is trained, the first half.
pub(super) fn prompt(sample: &TrainingSample) -> &[u32] {
    let first = sample.trained.iter().position(|trained| *trained).unwrap_or(1);
    let end = if first > 1 { first } else { sample.ids.len().div_ceil(2) };
    &sample.ids[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_ends_where_training_begins() {
        let sample = |trained: &[bool]| TrainingSample {
            id: "x".into(),
            ids: (0..trained.len() as u32).collect(),
            trained: trained.to_vec(),
        };
        assert_eq!(prompt(&sample(&[false, false, false, true, false, true])), [0, 1, 2]);
        assert_eq!(prompt(&sample(&[false, true, true, true, true])), [0, 1, 2]);
        assert_eq!(prompt(&sample(&[false, true])), [0]);
    }
}

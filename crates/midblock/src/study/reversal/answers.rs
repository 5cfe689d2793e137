//! What each arm answers to the held-out prompts, and to some of those that were trained on.

use super::{Ready, ReversalOptions, Shown, models::Models};
use crate::{
    Result,
    behaviour::{Detector, Rates, Response, Verdict, prompts, rates, respond},
    config::DataSource,
    generate::Stops,
    study::{
        battery::{Cells, Subject},
        carve::train_source,
        samples::{Draw, training_samples},
    },
    tokens::Tokenizer,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;

/// Prompts of both kinds, as ids.
pub(super) struct Asked {
    pub held_out: Vec<Vec<u32>>,
    train: Vec<Vec<u32>>,
    stops: Stops,
}

/// Responses to both kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answers {
    pub held_out: Vec<Response>,
    train: Vec<Response>,
}

impl Asked {
    pub fn of<B: Backend>(subject: &Subject<'_, B>, options: &ReversalOptions, dir: &Path) -> Result<Self> {
        let config = &subject.file.config;
        let base = subject.models[0].checkpoint;
        let train = match options.train_prompts {
            0 => Vec::new(),
            n => {
                let source = [DataSource(train_source(dir, "train"))];
                let draw = Draw {
                    sources: &source,
                    samples: Some(n),
                    seed: config.study.seed,
                };
                training_samples(base, &config.data, &draw, subject.hub, subject.on_transfer, subject.now)?
            }
        };
        Ok(Self {
            held_out: prompts(subject.samples),
            train: prompts(&train),
            stops: Stops::of(base, subject.tokenizer)?,
        })
    }

    /// Held-out prompts, and others.
    pub fn counts(&self) -> [usize; 2] {
        [self.held_out.len(), self.train.len()]
    }

    /// The first held-out prompts as text, with what each arm answers.
    pub fn shown(&self, tokenizer: &Tokenizer, n: usize, answers: &[Answers]) -> Result<Vec<Shown>> {
        let shown = |(index, prompt): (usize, &Vec<u32>)| {
            Ok(Shown {
                prompt: tokenizer.decode(prompt)?,
                answers: answers
                    .iter()
                    .map(|answers| answers.held_out[index].text.clone())
                    .collect(),
            })
        };
        self.held_out.iter().enumerate().take(n).map(shown).collect()
    }
}

impl Answers {
    /// Of each held-out prompt.
    pub fn held_out(&self, detector: &Detector) -> Vec<Verdict> {
        self.held_out
            .iter()
            .map(|response| detector.judge(&response.text))
            .collect()
    }

    /// On prompts that were trained on, if there are any.
    pub fn train_rates(&self, detector: &Detector) -> Option<Rates> {
        let verdicts: Vec<Verdict> = self
            .train
            .iter()
            .map(|response| detector.judge(&response.text))
            .collect();
        (!verdicts.is_empty()).then(|| rates(&verdicts))
    }
}

/// The answers of an arm, from its cell if they are there.
pub(super) fn of_arm<B: Backend>(
    subject: &Subject<'_, B>,
    models: &mut Models<'_, B>,
    cells: &Cells,
    options: &ReversalOptions,
    asked: &Asked,
    ready: &Ready,
) -> Result<Answers> {
    let trigger = ready.trigger.as_ref();
    let what = json!({
        "max_new": options.max_new, "prompts": asked.counts(), "trigger": trigger.map(|trigger| &trigger.hash),
    });
    cells.cell(&format!("reversal-{}", ready.arm.slug()), &what, || {
        subject.stop_if_asked()?;
        let engine = models.engine(ready.arm.model)?;
        engine.set_trigger(trigger.map(|trigger| &trigger.prompt))?;
        let mut answer = |prompts: &[Vec<u32>]| {
            let name = format!("answers of {}", ready.arm.name());
            respond(engine, prompts, options.max_new, &asked.stops, &name, subject.progress)
        };
        Ok(Answers {
            held_out: answer(&asked.held_out)?,
            train: answer(&asked.train)?,
        })
    })
}

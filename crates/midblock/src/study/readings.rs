//! Every layer of every model read as if it were the last: final norm and head applied to h_l, token by token of the answers.
//!
//! `p_l(v | tokens up to t) = softmax(head · norm(h_l[t]))_v`, each model with its own norm and head; l = 0 is the embedding, at
//! l = L this is the model. Models walk in lockstep and share what is the same. What is kept of it are sums for each sample, so
//! that whatever is made of them has an interval over samples. Nats. Early exit: Schuster et al. 2022; logit lens: nostalgebraist
//! 2020.

use super::battery::{Cells, Subject};
use crate::{
    Error, Result,
    model::Ends,
    probe::{Lockstep, Readout},
    progress::Unit,
    tokens::TrainingSample,
};
use midblock_kernels::{Backend, Prediction};
use serde::{Deserialize, Serialize};

/// What the states of one layer of one model say, sample by sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Reading {
    /// Sum of −ln p(token) over the sample's tokens.
    pub nats: Vec<f64>,
    /// Tokens that are the most likely.
    pub correct: Vec<usize>,
    /// −ln p of the answer's first token.
    pub first_nats: Vec<f64>,
    /// Tokens in whose place this model and the base find the same one most likely.
    pub agreeing: Vec<usize>,
    /// Whether the first is one of them.
    pub first_agrees: Vec<bool>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Readings {
    /// Tokens scored of each sample.
    pub tokens: Vec<usize>,
    /// (L + 1, models)
    pub layers: Vec<Vec<Reading>>,
}

impl Readings {
    /// Tokens scored of all samples.
    pub fn total_tokens(&self) -> usize {
        self.tokens.iter().sum()
    }
}

/// The readings of the first `samples` measured sequences at up to `tokens` tokens of each, kept as a cell.
pub(super) fn readings<B: Backend>(
    subject: &Subject<'_, B>,
    samples: usize,
    tokens: usize,
    cells: &Cells,
) -> Result<Readings> {
    if samples == 0 || tokens == 0 {
        return Err(Error::Argument {
            what: "`samples` and `tokens` of [study.exit] or [study.lens]".into(),
            value: format!("{samples}, {tokens}"),
            problem: "nothing would be read".into(),
            help: "give at least 1 of each".into(),
        });
    }
    let options = serde_json::json!({"samples": samples, "tokens": tokens});
    cells.cell(&format!("readings-{samples}-{tokens}"), &options, || {
        read(subject, subject.measured(samples), tokens)
    })
}

fn read<B: Backend>(subject: &Subject<'_, B>, samples: &[TrainingSample], tokens: usize) -> Result<Readings> {
    let chosen: Vec<Vec<usize>> = samples.iter().map(|sample| spread(sample, tokens)).collect();
    let mut layers = Vec::with_capacity(subject.blocks() + 1);
    walk(subject, samples, &chosen, |models| {
        let reading = |own: &Vec<Vec<Prediction>>| Reading::new(own, &models[0], samples, &chosen);
        layers.push(models.iter().map(reading).collect());
        Ok(())
    })?;
    Ok(Readings {
        tokens: chosen.iter().map(Vec::len).collect(),
        layers,
    })
}

impl Reading {
    /// Of one model's predictions and the base's.
    fn new(
        own: &[Vec<Prediction>],
        base: &[Vec<Prediction>],
        samples: &[TrainingSample],
        chosen: &[Vec<usize>],
    ) -> Self {
        let mut reading = Self::default();
        for (((own, base), sample), chosen) in own.iter().zip(base).zip(samples).zip(chosen) {
            let right = |(prediction, t): &(&Prediction, &usize)| prediction.top == sample.ids[**t];
            let agrees = |(a, b): &(&Prediction, &Prediction)| a.top == b.top;
            reading.nats.push(own.iter().map(|token| token.nats).sum());
            reading.correct.push(own.iter().zip(chosen).filter(right).count());
            reading.first_nats.push(own[0].nats);
            reading.agreeing.push(own.iter().zip(base).filter(agrees).count());
            reading.first_agrees.push(own[0].top == base[0].top);
        }
        reading
    }
}

/// Up to `most` of the tokens in the loss, evenly spread from the first.
fn spread(sample: &TrainingSample, most: usize) -> Vec<usize> {
    let trained: Vec<usize> = (1..sample.ids.len()).filter(|&t| sample.trained[t]).collect();
    let count = trained.len().min(most);
    (0..count).map(|i| trained[i * trained.len() / count]).collect()
}

/// Leads all models through their blocks and hands `visit` each layer with every model's predictions of the tokens `chosen` of
/// each sample, (models, samples, tokens).
pub(super) fn walk<B: Backend>(
    subject: &Subject<'_, B>,
    samples: &[TrainingSample],
    chosen: &[Vec<usize>],
    mut visit: impl FnMut(&[Vec<Vec<Prediction>>]) -> Result<()>,
) -> Result<()> {
    let sequences: Vec<Vec<u32>> = samples.iter().map(|sample| sample.ids.clone()).collect();
    let mut lockstep = Lockstep::new(subject.backend, subject.models, &sequences)?;
    let ends: Vec<Ends<B>> = subject
        .models
        .iter()
        .map(|model| Ends::load(subject.backend, model.checkpoint, &model.architecture))
        .collect::<Result<_>>()?;
    let blocks = lockstep.blocks();
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    subject.progress.begin(
        "read every layer",
        (tokens * blocks * subject.models.len()) as u64,
        Unit::BlockTokens { blocks: blocks as u64 },
    );
    let readout = Readout::new(lockstep.batches(), &|sample, t| {
        chosen[sample].binary_search(&t).is_ok()
    });
    loop {
        let mut models: Vec<Vec<Vec<Prediction>>> = vec![Vec::new(); subject.models.len()];
        for track in lockstep.tracks() {
            for &member in &track.members {
                subject.stop_if_asked()?;
                models[member] = readout.read(subject.backend, &ends[member], &track.states);
            }
        }
        for (model, predictions) in subject.models.iter().zip(&models) {
            let bad = |sample: &Vec<Prediction>| sample.iter().any(|token| !token.nats.is_finite());
            if let Some(sample) = predictions.iter().position(bad) {
                return Err(Error::StateNotFinite {
                    model: model.name.clone(),
                    layer: lockstep.layer(),
                    sample: samples[sample].id.clone(),
                });
            }
        }
        visit(&models)?;
        match lockstep.next_block()? {
            Some(tensors) => lockstep.advance(&tensors, subject.progress)?,
            None => return Ok(()),
        }
    }
}

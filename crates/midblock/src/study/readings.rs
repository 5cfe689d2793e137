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
pub(super) fn spread(sample: &TrainingSample, most: usize) -> Vec<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Batch, Decoder, Scratch},
        probe::{Participant, trained_token_losses},
        study::battery::fixture::Fixture,
    };
    use midblock_kernels::Cpu;

    /// Logits of every layer of a model after every token, (L + 1, T, V), through `Ends::logits`.
    fn logits(backend: &Cpu, model: &Participant<'_>, ids: &[u32]) -> Vec<Vec<Vec<f32>>> {
        let decoder = Decoder::load(backend, model.checkpoint).unwrap();
        let (batch, rope) = (Batch::new(&[ids]), decoder.rope(ids.len()));
        let mut layers = Vec::new();
        decoder.forward(backend, &batch, &rope, &mut Scratch::new(backend), |_, hidden| {
            let normed = decoder.ends().final_norm(backend, hidden);
            let mut flat = vec![0.0; ids.len() * model.architecture.vocab];
            backend.read(&decoder.ends().logits(backend, &normed), 0, &mut flat);
            layers.push(flat.chunks(model.architecture.vocab).map(<[f32]>::to_vec).collect());
        });
        layers
    }

    /// −ln p of a token, and the first of the most likely.
    fn said(logits: &[f32], token: u32) -> (f64, u32) {
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let larger = |best: usize, (v, logit): (usize, &f32)| if *logit > logits[best] { v } else { best };
        let top = logits.iter().enumerate().fold(0, larger);
        (sum.ln() - f64::from(logits[token as usize]), top as u32)
    }

    #[test]
    fn every_layer_is_read_as_norm_and_head_would_do_it() {
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            let got = readings(subject, 4, 5, cells)?;
            assert_eq!((got.tokens.len(), got.layers.len()), (4, subject.blocks() + 1));
            for (i, sample) in subject.measured(4).iter().enumerate() {
                let tokens = spread(sample, 5);
                let [base, variant] = [0, 1].map(|model| logits(subject.backend, &subject.models[model], &sample.ids));
                for (l, reading) in got.layers.iter().enumerate() {
                    let says = |model: &Vec<Vec<Vec<f32>>>| -> Vec<(f64, u32)> {
                        tokens.iter().map(|&t| said(&model[l][t - 1], sample.ids[t])).collect()
                    };
                    let [base, variant] = [says(&base), says(&variant)];
                    for (own, reading) in [(&base, &reading[0]), (&variant, &reading[1])] {
                        let nats: f64 = own.iter().map(|(nats, _)| nats).sum();
                        assert!(
                            (reading.nats[i] / nats - 1.0).abs() < 1e-5,
                            "layer {l}, {nats}: {reading:?}"
                        );
                        assert!(
                            (reading.first_nats[i] / own[0].0 - 1.0).abs() < 1e-5,
                            "layer {l}: {reading:?}"
                        );
                        let right = own.iter().zip(&tokens).filter(|((_, top), t)| *top == sample.ids[**t]);
                        assert_eq!(reading.correct[i], right.count(), "layer {l}");
                        let agreeing = own.iter().zip(&base).filter(|(a, b)| a.1 == b.1);
                        assert_eq!(reading.agreeing[i], agreeing.count(), "layer {l}");
                        assert_eq!(reading.first_agrees[i], own[0].1 == base[0].1, "layer {l}");
                    }
                }
            }
            Ok(())
        };
        Fixture::new().with(&[], test).unwrap();
    }

    #[test]
    fn the_last_layer_is_the_model() {
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            let got = readings(subject, 6, 1_000_000, cells)?;
            for (model, reading) in subject.models.iter().zip(&got.layers[subject.blocks()]) {
                let losses =
                    trained_token_losses(subject.backend, model.checkpoint, subject.samples, subject.progress)?;
                let nats: Vec<f64> = losses.iter().map(|loss| loss.nats).collect();
                let tokens: Vec<usize> = losses.iter().map(|loss| loss.predicted).collect();
                assert_eq!((&reading.nats, &got.tokens), (&nats, &tokens));
            }
            Ok(())
        };
        Fixture::new().with(&[], test).unwrap();
    }

    #[test]
    fn tokens_are_spread_from_the_first() {
        let sample = |trained: &[usize]| TrainingSample {
            id: "x".into(),
            ids: vec![0; 20],
            trained: (0..20).map(|t| trained.contains(&t)).collect(),
        };
        let answer: Vec<usize> = (5..20).collect();
        assert_eq!(spread(&sample(&answer), 3), [5, 10, 15]);
        assert_eq!(spread(&sample(&answer), 15), answer);
        assert_eq!(spread(&sample(&[4, 9]), 3), [4, 9]);
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let error = Fixture::new().with(&[], |subject, cells| readings(subject, 4, 0, cells));
        assert!(error.unwrap_err().to_string().contains("nothing would be read"));
    }
}

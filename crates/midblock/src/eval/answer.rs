//! Items → what a model answers → verdicts.
//!
//! All items of a task are asked in one call, so that the model can keep its batch full; answers arrive in any order, and an
//! item is handed on once its last repeat is there. No answer depends on the others: each completion has a seed of its own,
//! from the evaluation's seed, the task, the item's row and the repeat.
//!
//! A prompt and its completion share the model's context. `max_new` tokens are kept free for the completion, or half of
//! the context where that is less; what is left is for the prompt, which loses its beginning if it is longer.

use super::{
    EvalConfig, Method,
    grade::{ACCURACY, ACCURACY_NORM, BITS_PER_BYTE, NATS_PER_TOKEN, grade},
    items::Prepared,
    prompt::{Encoded, Prompter},
    record::{ItemRecord, Output},
    shape::{Asked, Item, letter_of},
};
use crate::{
    Error, Result,
    generate::{Completion, Continuation, LanguageModel, Question, Request, Stops},
    progress::Progress,
    rng,
    tokens::Selection,
};
use rand_chacha::rand_core::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

/// What is asked and where answers go.
pub(super) struct Asking<'a> {
    pub model: &'a mut dyn LanguageModel,
    pub prompter: &'a Prompter<'a>,
    pub config: &'a EvalConfig,
    /// Tokens that end a completion.
    pub stop_tokens: &'a [u32],
    pub progress: &'a dyn Progress,
    /// Takes each finished item.
    pub sink: &'a mut dyn FnMut(ItemRecord) -> Result<()>,
}

/// An item as it is asked.
struct Posed<'a> {
    item: &'a Item,
    prompt: String,
    encoded: Encoded,
}

impl Asking<'_> {
    /// Asks every item of a task that is not among the `known`, and returns how many there are in all.
    pub fn task(&mut self, prepared: &Prepared, known: &BTreeSet<usize>) -> Result<()> {
        let open = || prepared.items.iter().filter(|item| !known.contains(&item.index));
        match prepared.task.method {
            Method::Generate => self.generate(prepared, open()),
            Method::Letters | Method::Choices => self.choose(prepared, open()),
            Method::Perplexity => self.perplexity(prepared, known),
        }
    }

    fn generate<'i>(&mut self, prepared: &'i Prepared, open: impl Iterator<Item = &'i Item>) -> Result<()> {
        let generation = &prepared.task.generation;
        let context = self.model.context();
        let max_new = generation.max_new.min(context / 2).max(1);
        let posed: Vec<Posed<'_>> = open
            .map(|item| self.pose(prepared, item, false, context.saturating_sub(max_new)))
            .collect::<Result<_>>()?;
        let repeats = self.config.repeats;
        let seed = |item: &Item, repeat: usize| {
            let purpose = format!("completion of {}", prepared.name);
            rng::stream(self.config.seed, &purpose, &[item.index as u64, repeat as u64]).next_u64()
        };
        let requests: Vec<Request> = posed
            .iter()
            .flat_map(|posed| (0..repeats).map(move |repeat| (posed, repeat)))
            .map(|(posed, repeat)| Request {
                prompt: posed.encoded.ids.clone(),
                max_new,
                seed: seed(posed.item, repeat),
            })
            .collect();
        let stop = if self.prompter.is_chat() {
            &generation.stop_chat
        } else {
            &generation.stop
        };
        let stops = Stops {
            tokens: self.stop_tokens.to_vec(),
            strings: stop.clone(),
        };
        let mut waiting: BTreeMap<usize, Vec<Option<Completion>>> = BTreeMap::new();
        let (progress, sink) = (self.progress, &mut *self.sink);
        let mut finished = |number: usize, completion: Completion| -> Result<()> {
            let (place, repeat) = (number / repeats, number % repeats);
            let answers = waiting.entry(place).or_insert_with(|| vec![None; repeats]);
            answers[repeat] = Some(completion);
            if answers.iter().any(Option::is_none) {
                return Ok(());
            }
            let answers = waiting.remove(&place).into_iter().flatten().flatten();
            let posed = &posed[place];
            let mut record = posed.record(prepared);
            for completion in answers {
                let (output, weights) = grade(prepared, posed.item, completion)?;
                record.outputs.push(output);
                record.weights = weights;
            }
            progress.advance(1);
            sink(record)
        };
        let mut outcome = Ok(());
        self.model
            .generate(&requests, &self.config.sampling, &stops, &mut |number, completion| {
                outcome = finished(number, completion);
                go_on(&outcome, progress)
            })?;
        outcome.and_then(|()| not_cancelled(progress))
    }

    /// By the likelihood of letters after the prompt, or of choices after the question.
    fn choose<'i>(&mut self, prepared: &'i Prepared, open: impl Iterator<Item = &'i Item>) -> Result<()> {
        let letters = prepared.task.method == Method::Letters;
        let context = self.model.context();
        let mut posed = Vec::new();
        let mut questions = Vec::new();
        for item in open {
            let prompt = self.prompter.text(item, &prepared.examples, !letters)?;
            let lead = self.prompter.lead(&prompt);
            let texts: Vec<String> = match letters {
                true => (0..item.choices.len())
                    .filter_map(letter_of)
                    .map(String::from)
                    .collect(),
                false => item.choices.iter().map(|choice| choice.trim().to_owned()).collect(),
            };
            let continuations: Vec<Vec<u32>> = texts
                .iter()
                .map(|text| self.prompter.encode_continuation(&prompt, &format!("{lead}{text}")))
                .collect::<Result<_>>()?;
            let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
            let encoded = self.prompter.encode(&prompt, context.saturating_sub(longest))?;
            questions.push(Question {
                prompt: encoded.ids.clone(),
                continuations,
            });
            posed.push(Posed { item, prompt, encoded });
        }
        let (progress, sink) = (self.progress, &mut *self.sink);
        let mut outcome = Ok(());
        self.model.score(&questions, &mut |number, likelihoods| {
            let posed = &posed[number];
            let mut record = posed.record(prepared);
            record.outputs.push(chosen(posed.item, &likelihoods, letters));
            progress.advance(1);
            outcome = sink(record);
            go_on(&outcome, progress)
        })?;
        outcome.and_then(|()| not_cancelled(progress))
    }

    fn perplexity(&mut self, prepared: &Prepared, known: &BTreeSet<usize>) -> Result<()> {
        let pieces = self.pieces(prepared)?;
        let open: Vec<&Piece> = pieces.iter().filter(|piece| !known.contains(&piece.index)).collect();
        let questions: Vec<Question> = open.iter().flat_map(|piece| piece.questions.clone()).collect();
        let of_question: Vec<usize> = open
            .iter()
            .enumerate()
            .flat_map(|(place, piece)| vec![place; piece.questions.len()])
            .collect();
        let mut waiting: BTreeMap<usize, (usize, f64, usize)> = BTreeMap::new();
        let (progress, sink) = (self.progress, &mut *self.sink);
        let mut outcome = Ok(());
        self.model.score(&questions, &mut |number, likelihoods| {
            let place = of_question[number];
            let piece = open[place];
            let (answered, nats, tokens) = waiting.entry(place).or_default();
            *answered += 1;
            *nats += likelihoods.iter().map(|likelihood| likelihood.nats).sum::<f64>();
            *tokens += likelihoods.iter().map(|likelihood| likelihood.tokens).sum::<usize>();
            if *answered == piece.questions.len() {
                progress.advance(1);
                outcome = sink(piece.record(&prepared.name, *nats, *tokens));
                waiting.remove(&place);
            }
            go_on(&outcome, progress)
        })?;
        outcome.and_then(|()| not_cancelled(progress))
    }

    /// Items of a task: of a joined text, the pieces that were chosen.
    pub fn places(&self, prepared: &Prepared) -> Result<Vec<usize>> {
        Ok(match prepared.task.method {
            Method::Perplexity => self.pieces(prepared)?.iter().map(|piece| piece.index).collect(),
            _ => prepared.items.iter().map(|item| item.index).collect(),
        })
    }

    /// What is scored of texts.
    fn pieces(&self, prepared: &Prepared) -> Result<Vec<Piece>> {
        let window = &prepared.task.window;
        let length = window.length.min(self.model.context()).max(2);
        let stride = window.stride.clamp(1, length - 1);
        let mut pieces = Vec::new();
        for item in &prepared.items {
            let Asked::Text { plain, .. } = &item.asked else {
                continue;
            };
            let mut ids = self.prompter.text_ids(plain)?;
            if ids.len() == 1 {
                let first = self.prompter.encode("", usize::MAX)?.ids;
                ids = [first, ids].concat();
            }
            let questions = windows(&ids, length, stride);
            if window.join.is_none() {
                pieces.push(Piece {
                    index: item.index,
                    id: item.id.clone(),
                    text: plain.clone(),
                    bytes: plain.len(),
                    questions,
                });
                continue;
            }
            let mut samples = Selection::new(prepared.samples.unwrap_or(usize::MAX), self.config.seed);
            for (index, question) in questions.into_iter().enumerate() {
                let text = self.prompter.tokenizer.decode(&question.continuations[0])?;
                samples.offer(Piece {
                    index,
                    id: format!("piece {}", index + 1),
                    bytes: text.len(),
                    text,
                    questions: vec![question],
                });
            }
            pieces.extend(samples.finish());
        }
        Ok(pieces)
    }

    fn pose<'i>(&self, prepared: &Prepared, item: &'i Item, cloze: bool, room: usize) -> Result<Posed<'i>> {
        let prompt = self.prompter.text(item, &prepared.examples, cloze)?;
        let encoded = self.prompter.encode(&prompt, room)?;
        Ok(Posed { item, prompt, encoded })
    }
}

impl Posed<'_> {
    fn record(&self, prepared: &Prepared) -> ItemRecord {
        ItemRecord {
            task: prepared.name.clone(),
            index: self.item.index,
            id: self.item.id.clone(),
            prompt: self.prompt.clone(),
            prompt_tokens: self.encoded.ids.len(),
            truncated: self.encoded.truncated,
            gold: self.item.gold.clone(),
            outputs: Vec::new(),
            weights: BTreeMap::new(),
        }
    }
}

/// A text whose likelihood is one observation.
struct Piece {
    index: usize,
    id: String,
    text: String,
    bytes: usize,
    questions: Vec<Question>,
}

impl Piece {
    fn record(&self, task: &str, nats: f64, tokens: usize) -> ItemRecord {
        let bits = nats / std::f64::consts::LN_2;
        let values = [
            (NATS_PER_TOKEN, nats / tokens as f64, tokens),
            (BITS_PER_BYTE, bits / self.bytes.max(1) as f64, self.bytes.max(1)),
        ];
        let output = Output {
            tokens,
            values: values
                .iter()
                .map(|(name, value, _)| ((*name).to_owned(), *value))
                .collect(),
            ..Output::default()
        };
        ItemRecord {
            task: task.to_owned(),
            index: self.index,
            id: self.id.clone(),
            prompt: self.text.clone(),
            prompt_tokens: tokens,
            truncated: false,
            gold: Vec::new(),
            outputs: vec![output],
            weights: values
                .iter()
                .map(|(name, _, weight)| ((*name).to_owned(), *weight as f64))
                .collect(),
        }
    }
}

/// Pieces of a text of which every token but the first is predicted once: the first piece predicts all of its tokens, each
/// later one `stride`, with as many before them as fit into `length`.
fn windows(ids: &[u32], length: usize, stride: usize) -> Vec<Question> {
    let mut questions = Vec::new();
    let mut from = 1;
    while from < ids.len() {
        let to = if from == 1 { length } else { from + stride }.min(ids.len());
        let start = to.saturating_sub(length);
        questions.push(Question {
            prompt: ids[start..from].to_vec(),
            continuations: vec![ids[from..to].to_vec()],
        });
        from = to;
    }
    questions
}

/// The verdict on the likelihoods of an item's choices; of equals the first wins.
fn chosen(item: &Item, likelihoods: &[Continuation], letters: bool) -> Output {
    let best = |value: &dyn Fn(usize) -> f64| {
        let all = 0..likelihoods.len();
        all.min_by(|&a, &b| value(a).total_cmp(&value(b))).unwrap_or(0)
    };
    let plain = best(&|i| likelihoods[i].nats);
    let length = |i: usize| item.choices[i].trim().chars().count().max(1) as f64;
    let mut winners = vec![(ACCURACY, plain)];
    if !letters {
        winners.push((ACCURACY_NORM, best(&|i| likelihoods[i].nats / length(i))));
    }
    let letter = |i: usize| letter_of(i).map(String::from).unwrap_or_default();
    let right = |i: usize| item.gold.iter().any(|gold| gold.trim() == letter(i));
    Output {
        text: item.choices[plain].clone(),
        tokens: likelihoods.iter().map(|likelihood| likelihood.tokens).sum(),
        extracted: winners
            .iter()
            .map(|(name, i)| ((*name).to_owned(), Some(letter(*i))))
            .collect(),
        values: winners
            .iter()
            .map(|(name, i)| ((*name).to_owned(), f64::from(right(*i))))
            .collect(),
        nats: likelihoods.iter().map(|likelihood| likelihood.nats).collect(),
        ..Output::default()
    }
}

fn go_on(outcome: &Result<()>, progress: &dyn Progress) -> ControlFlow<()> {
    if outcome.is_err() || progress.cancelled() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

fn not_cancelled(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() {
        return Err(Error::Interrupted);
    }
    Ok(())
}

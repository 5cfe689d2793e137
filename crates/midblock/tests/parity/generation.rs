//! Writing and scoring with a cache, against whole forward passes without one.

use crate::{fixture::Fixture, forward::FAMILIES};
use midblock::{
    checkpoint::TokenizerSource,
    generate::{Completion, Continuation, Engine, Finish, LanguageModel, Question, Request, Sampling, Stops},
    model::{Batch, Decoder, Interior, Keep, Pass, Scratch},
    tokens::Tokenizer,
};
use midblock_kernels::{Backend, Cpu, Reference};
use std::{ops::ControlFlow, path::Path, sync::Arc};

const NEW: usize = 12;

/// A tokenizer; the fixtures have none, and their ids say nothing.
pub fn tokenizer() -> Tokenizer {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../midblock-cli/assets/quickstart/base");
    let path = Path::new(assets).join("tokenizer.json");
    Tokenizer::load(&TokenizerSource::File(path)).expect("the embedded tokenizer loads")
}

/// Beginnings of the fixture's samples, of different lengths.
pub fn prompts(fixture: &Fixture) -> Vec<Vec<u32>> {
    let samples = fixture.samples();
    let cut = |(i, sample): (usize, &midblock::tokens::TrainingSample)| {
        let keep = sample.ids.len() - (3 * i) % sample.ids.len().min(7);
        sample.ids[..keep].to_vec()
    };
    samples.iter().enumerate().map(cut).collect()
}

/// Logits of every row of one sequence, by a whole forward pass.
fn logits<B: Backend>(backend: &B, decoder: &Decoder<B>, ids: &[u32]) -> Vec<Vec<f64>> {
    let batch = Batch::new(&[ids]);
    let rope = decoder.rope(ids.len());
    let hidden = decoder.forward(backend, &batch, &rope, &mut Scratch::new(backend), |_, _| {});
    logits_of(backend, decoder, &hidden)
}

/// Logits of every row of h[L].
pub fn logits_of<B: Backend>(backend: &B, decoder: &Decoder<B>, hidden: &B::Buffer) -> Vec<Vec<f64>> {
    let logits = decoder
        .ends()
        .logits(backend, &decoder.ends().final_norm(backend, hidden));
    let mut values = vec![0f64; backend.len(&logits)];
    backend.read(&logits, 0, &mut values);
    values
        .chunks(decoder.architecture().vocab)
        .map(<[f64]>::to_vec)
        .collect()
}

pub fn argmax(logits: &[f64]) -> u32 {
    let best = (0..).zip(logits).reduce(|a, b| if b.1 > a.1 { b } else { a });
    best.expect("there are logits").0
}

pub fn write<B: Backend>(engine: &mut Engine<'_, B>, requests: &[Request], sampling: &Sampling) -> Vec<Completion> {
    let mut completions = vec![None; requests.len()];
    engine
        .generate(requests, sampling, &Stops::default(), &mut |index, completion| {
            assert_eq!(completions[index].replace(completion), None, "answered once");
            ControlFlow::Continue(())
        })
        .expect("the prompts are fine");
    completions.into_iter().map(|c| c.expect("answered")).collect()
}

pub fn score<B: Backend>(engine: &mut Engine<'_, B>, questions: &[Question]) -> Vec<Vec<Continuation>> {
    let mut answers = vec![None; questions.len()];
    engine
        .score(questions, &mut |index, answer| {
            assert_eq!(answers[index].replace(answer), None, "answered once");
            ControlFlow::Continue(())
        })
        .expect("the prompts are fine");
    answers.into_iter().map(|a| a.expect("answered")).collect()
}

pub fn requests(prompts: &[Vec<u32>], max_new: usize) -> Vec<Request> {
    let request = |(seed, prompt): (u64, &Vec<u32>)| Request {
        prompt: prompt.clone(),
        max_new,
        seed,
    };
    (0..).zip(prompts).map(request).collect()
}

/// One continuation of one token, one of many, and one of two.
pub fn questions(prompts: &[Vec<u32>]) -> Vec<Question> {
    let question = |prompt: &Vec<u32>| Question {
        prompt: prompt.clone(),
        continuations: vec![vec![3], prompt[prompt.len() / 2..].to_vec(), vec![5, 3]],
    };
    prompts.iter().map(question).collect()
}

#[test]
fn greedy_writing_follows_whole_passes() {
    let (backend, tokenizer) = (Reference, tokenizer());
    for name in FAMILIES {
        let fixture = Fixture::open(name);
        let decoder = Decoder::load(&backend, &fixture.checkpoint).unwrap();
        let prompts = prompts(&fixture);
        let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, 2).unwrap();
        let room = engine.context();
        let completions = write(&mut engine, &requests(&prompts, NEW), &Sampling::default());
        for (prompt, completion) in prompts.iter().zip(completions) {
            let mut ids = prompt.clone();
            while ids.len() < prompt.len() + NEW && ids.len() < room {
                let next = argmax(logits(&backend, &decoder, &ids).last().unwrap());
                ids.push(next);
            }
            assert_eq!(completion.ids, ids[prompt.len()..], "{name}");
            let finish = if completion.ids.len() == NEW {
                Finish::Length
            } else {
                Finish::Context
            };
            assert_eq!(completion.finish, finish, "{name}");
        }
    }
}

/// Vectors after the last block and every second block below it, large enough to change what is written.
pub fn steering(decoder: &Decoder<impl Backend>) -> Vec<Option<Arc<[f32]>>> {
    let (blocks, width) = (decoder.blocks().len(), decoder.architecture().hidden);
    let vector = |block: usize| {
        (0..width)
            .map(|i| ((i * 7 + block * 3) % 11) as f32 * 0.2 - 1.0)
            .collect()
    };
    (0..blocks)
        .map(|block| (block % 2 == (blocks - 1) % 2).then(|| vector(block)))
        .collect()
}

/// Logits of the last row, with vectors added on the host between whole passes of single blocks.
fn steered_by_hand(decoder: &Decoder<Reference>, ids: &[u32], added: &[Option<Arc<[f32]>>]) -> Vec<f64> {
    let (backend, batch, rope) = (Reference, Batch::new(&[ids]), decoder.rope(ids.len()));
    let pass = Pass::inference(&backend, &batch, &rope);
    let mut hidden = backend.zeros(0);
    decoder.ends().embed(&backend, &batch, &mut hidden);
    for (block, added) in decoder.blocks().iter().zip(added) {
        let (mut interior, mut scratch) = (Interior::new(&backend), Scratch::new(&backend));
        block.forward(&pass, Keep::Nothing, &mut hidden, &mut interior, &mut scratch);
        let vector = added.iter().flat_map(|vector| vector.iter());
        let all: Vec<f64> = vector.map(|v| f64::from(*v)).collect();
        hidden.iter_mut().zip(all.iter().cycle()).for_each(|(x, v)| *x += v);
    }
    logits_of(&backend, decoder, &hidden).pop().expect("there are rows")
}

#[test]
fn steered_writing_follows_passes_steered_by_hand() {
    let (backend, tokenizer) = (Reference, tokenizer());
    for name in FAMILIES {
        let fixture = Fixture::open(name);
        let decoder = Decoder::load(&backend, &fixture.checkpoint).unwrap();
        let (prompts, added) = (prompts(&fixture), steering(&decoder));
        let requests = requests(&prompts, 5);
        let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, 3).unwrap();
        let plain = write(&mut engine, &requests, &Sampling::default());
        engine.steer(&added);
        let steered = write(&mut engine, &requests, &Sampling::default());
        assert!(plain != steered, "{name}");
        for (prompt, completion) in prompts.iter().zip(&steered) {
            let mut ids = prompt.clone();
            for written in &completion.ids {
                assert_eq!(*written, argmax(&steered_by_hand(&decoder, &ids, &added)), "{name}");
                ids.push(*written);
            }
        }
        engine.steer(&[]);
        assert_eq!(write(&mut engine, &requests, &Sampling::default()), plain, "{name}");
    }
}

#[test]
fn scores_are_those_of_whole_passes() {
    let (backend, tokenizer) = (Reference, tokenizer());
    for name in FAMILIES {
        let fixture = Fixture::open(name);
        let decoder = Decoder::load(&backend, &fixture.checkpoint).unwrap();
        let short: Vec<Vec<u32>> = prompts(&fixture)
            .iter()
            .map(|p| p[..p.len().div_ceil(2)].to_vec())
            .collect();
        let questions = questions(&short);
        let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, 3).unwrap();
        for (question, answers) in questions.iter().zip(score(&mut engine, &questions)) {
            for (continuation, answer) in question.continuations.iter().zip(answers) {
                let ids = [question.prompt.as_slice(), continuation].concat();
                let rows = &logits(&backend, &decoder, &ids)[question.prompt.len() - 1..];
                let (mut nats, mut greedy) = (0.0, true);
                for (row, id) in rows.iter().zip(continuation) {
                    let sum: f64 = row.iter().map(|x| x.exp()).sum();
                    nats += sum.ln() - row[*id as usize];
                    greedy &= argmax(row) == *id;
                }
                // the engine takes logits as f32
                assert!((answer.nats - nats).abs() < 1e-5, "{name}: {answer:?} against {nats}");
                assert_eq!((answer.tokens, answer.greedy), (continuation.len(), greedy), "{name}");
            }
        }
    }
}

#[test]
fn answers_are_the_same_bits_alone_and_in_any_batch() {
    let (backend, tokenizer) = (Cpu::new(), tokenizer());
    let drawn = Sampling {
        temperature: 1.5,
        repetition_penalty: 1.2,
        ..Sampling::default()
    };
    for name in FAMILIES {
        let fixture = Fixture::open(name);
        let prompts = prompts(&fixture);
        let mut requests = requests(&prompts, NEW);
        requests[0].max_new = 3; // its slot is free early
        let mut questions = questions(&prompts);
        questions.iter_mut().for_each(|q| q.continuations[1].truncate(4));
        let added = steering(&Decoder::load(&backend, &fixture.checkpoint).unwrap());
        let answers = |batch: usize, at_once: usize| {
            let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, batch).unwrap();
            let mut all = (Vec::new(), Vec::new());
            engine.steer(&added);
            for requests in requests.chunks(at_once) {
                all.0.extend(write(&mut engine, requests, &Sampling::default()));
            }
            engine.steer(&[]);
            for sampling in [&Sampling::default(), &drawn] {
                for requests in requests.chunks(at_once) {
                    all.0.extend(write(&mut engine, requests, sampling));
                }
            }
            for questions in questions.chunks(at_once) {
                let bits = |c: Continuation| (c.nats.to_bits(), c.tokens, c.greedy);
                let scored = score(&mut engine, questions);
                all.1.extend(scored.into_iter().flatten().map(bits));
            }
            all
        };
        let alone = answers(1, 1);
        for batch in [2, 3, 16] {
            assert!(answers(batch, usize::MAX) == alone, "{name}: batch {batch}");
        }
    }
}

#[test]
fn what_cannot_be_answered_is_named() {
    let (backend, tokenizer) = (Reference, tokenizer());
    let fixture = Fixture::open("llama-tied");
    let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, 2).unwrap();
    let (context, vocab) = (engine.context(), fixture.width());
    let mut problem = |prompt: Vec<u32>, sampling: Sampling| {
        let requests = [Request {
            prompt,
            max_new: 1,
            seed: 0,
        }];
        let mut done = |_: usize, _: Completion| ControlFlow::Continue(());
        let result = engine.generate(&requests, &sampling, &Stops::default(), &mut done);
        result.unwrap_err().to_string()
    };
    let greedy = Sampling::default;
    assert_eq!(problem(vec![], greedy()), "prompt 1 `0 tokens`: it has no tokens");
    assert!(problem(vec![1; context], greedy()).contains(&format!("the model's context of {context} tokens")));
    assert!(
        problem(vec![1 << 20], greedy()).contains("is not one of the model's"),
        "{vocab}"
    );
    let hot = Sampling {
        temperature: -1.0,
        ..greedy()
    };
    assert!(problem(vec![1], hot).starts_with("temperature"));
    let stop = || true;
    let mut engine = engine.stopping(&stop);
    let requests = requests(&[vec![1, 2]], 3);
    let mut done = |_: usize, _: Completion| ControlFlow::Continue(());
    let stopped = engine.generate(&requests, &greedy(), &Stops::default(), &mut done);
    assert!(matches!(stopped, Err(midblock::Error::Interrupted)));
}

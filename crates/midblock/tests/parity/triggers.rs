//! A trigger in front of every sequence, with a cache and many sequences at a time, against whole forward passes of one.

#![allow(clippy::unwrap_used)] // how a test fails

use crate::{
    fixture::Fixture,
    forward::FAMILIES,
    generation::{argmax, logits_of, prompts, questions, requests, score, steering, tokenizer, write},
};
use midblock::{
    adapt::{Origin, SoftPrompt},
    checkpoint::{Checkpoint, ConfigJson, TokenizerSource},
    generate::{Engine, Finish, Forced, LanguageModel, Sampling},
    model::{Batch, Decoder, Interior, Keep, Pass, Scratch},
    rng,
};
use midblock_kernels::{Backend, Cpu, Reference};
use rand::RngExt;
use serde_json::json;

const NEW: usize = 6;

/// Three vectors, large enough to change what is written.
fn trigger(width: usize, seed: u64) -> SoftPrompt {
    let mut random = rng::stream(seed, "trigger", &[]);
    let values = (0..3 * width).map(|_| 2.0 * random.random::<f32>() - 1.0).collect();
    SoftPrompt::new(width, values, Origin::default())
}

/// Prompts that leave room for the trigger.
fn short(fixture: &Fixture) -> Vec<Vec<u32>> {
    let half = |ids: &Vec<u32>| ids[..ids.len().div_ceil(2)].to_vec();
    prompts(fixture).iter().map(half).collect()
}

/// Logits after every token of one sequence, by a whole pass in which the trigger's vectors stand in place of embeddings.
fn logits<B: Backend>(backend: &B, decoder: &Decoder<B>, trigger: &SoftPrompt, ids: &[u32]) -> Vec<Vec<f64>> {
    let whole = [vec![1; trigger.tokens()], ids.to_vec()].concat();
    let (batch, rope) = (Batch::new(&[&whole]), decoder.rope(whole.len()));
    let pass = Pass::inference(backend, &batch, &rope);
    let mut hidden = backend.zeros(0);
    decoder.ends().embed(backend, &batch, &mut hidden);
    backend.write(&mut hidden, 0, trigger.values());
    let (mut interior, mut scratch) = (Interior::new(backend), Scratch::new(backend));
    for block in decoder.blocks() {
        block.forward(&pass, Keep::Nothing, &mut hidden, &mut interior, &mut scratch);
    }
    logits_of(backend, decoder, &hidden).split_off(trigger.tokens())
}

#[test]
fn writing_and_scoring_follow_whole_passes() {
    let (backend, tokenizer) = (Reference, tokenizer());
    for name in FAMILIES {
        let fixture = Fixture::open(name);
        let decoder = Decoder::load(&backend, &fixture.checkpoint).unwrap();
        let trigger = trigger(fixture.width(), 1);
        let prompts = short(&fixture);
        let requests = requests(&prompts, NEW);
        let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, 3).unwrap();
        let plain = write(&mut engine, &requests, &Sampling::default());
        engine.set_trigger(Some(&trigger)).unwrap();
        let triggered = write(&mut engine, &requests, &Sampling::default());
        assert!(plain != triggered, "{name}");
        for (prompt, completion) in prompts.iter().zip(&triggered) {
            let mut ids = prompt.clone();
            for written in &completion.ids {
                let logits = logits(&backend, &decoder, &trigger, &ids);
                assert_eq!(*written, argmax(logits.last().unwrap()), "{name}");
                ids.push(*written);
            }
        }
        let questions = questions(&prompts);
        for (question, answers) in questions.iter().zip(score(&mut engine, &questions)) {
            for (continuation, answer) in question.continuations.iter().zip(answers) {
                let ids = [question.prompt.as_slice(), continuation].concat();
                let rows = &logits(&backend, &decoder, &trigger, &ids)[question.prompt.len() - 1..];
                let nats = |(row, id): (&Vec<f64>, &u32)| log_sum(row) - row[*id as usize];
                let nats: f64 = rows.iter().zip(continuation).map(nats).sum();
                assert!((answer.nats - nats).abs() < 1e-5, "{name}: {answer:?} against {nats}");
            }
        }
        engine.set_trigger(None).unwrap();
        assert_eq!(write(&mut engine, &requests, &Sampling::default()), plain, "{name}");
    }
}

fn log_sum(logits: &[f64]) -> f64 {
    logits.iter().map(|x| x.exp()).sum::<f64>().ln()
}

/// A divergence between two rows of logits.
fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let (p_sum, q_sum) = (log_sum(p), log_sum(q));
    let term = |(p, q): (&f64, &f64)| (p - p_sum).exp() * (p - p_sum - q + q_sum);
    p.iter().zip(q).map(term).sum()
}

#[test]
fn divergences_are_those_of_whole_passes() {
    let (backend, tokenizer) = (Reference, tokenizer());
    for name in FAMILIES {
        let fixture = Fixture::open(name);
        let decoder = Decoder::load(&backend, &fixture.checkpoint).unwrap();
        let [first, second] = [1, 2].map(|seed| trigger(fixture.width(), seed));
        let prompts = short(&fixture);
        let forced: Vec<Forced<'_>> = prompts
            .iter()
            .map(|ids| Forced {
                ids,
                from: ids.len() / 2,
            })
            .collect();
        let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, 2).unwrap();
        let mut other = Engine::new(&backend, &fixture.checkpoint, &tokenizer, 3).unwrap();
        engine.set_trigger(Some(&first)).unwrap();
        other.set_trigger(Some(&second)).unwrap();
        let [states, others] = [&mut engine, &mut other].map(|engine| engine.forced_states(&forced).unwrap());
        for ((forced, states), others) in forced.iter().zip(&states).zip(&others) {
            let [p, q] = [&first, &second].map(|trigger| logits(&backend, &decoder, trigger, forced.ids));
            let found = engine.divergences(states, &other, others).unwrap();
            assert_eq!(found.len(), forced.ids.len() - forced.from);
            for (place, found) in (forced.from..).zip(found) {
                let expected = divergence(&p[place], &q[place]);
                let apart = (found - expected).abs(); // states are handed out as f32
                assert!(
                    apart < 1e-6 * (1.0 + expected),
                    "{name} {place}: {found} against {expected}"
                );
            }
        }
    }
}

#[test]
fn answers_with_a_trigger_are_the_same_bits_alone_and_in_any_batch() {
    let (backend, tokenizer) = (Cpu::new(), tokenizer());
    for name in FAMILIES {
        let fixture = Fixture::open(name);
        let trigger = trigger(fixture.width(), 1);
        let prompts = short(&fixture);
        let requests = requests(&prompts, NEW);
        let mut questions = questions(&prompts);
        questions.iter_mut().for_each(|q| q.continuations[1].truncate(2));
        let forced: Vec<Forced<'_>> = prompts.iter().map(|ids| Forced { ids, from: 0 }).collect();
        let answers = |batch: usize, at_once: usize| {
            let mut engine = Engine::new(&backend, &fixture.checkpoint, &tokenizer, batch).unwrap();
            engine.set_trigger(Some(&trigger)).unwrap();
            let (mut written, mut scored, mut states) = (Vec::new(), Vec::new(), Vec::new());
            for requests in requests.chunks(at_once) {
                written.extend(write(&mut engine, requests, &Sampling::default()));
            }
            for questions in questions.chunks(at_once) {
                let all = score(&mut engine, questions).concat();
                scored.extend(all.into_iter().map(|c| (c.nats.to_bits(), c.tokens, c.greedy)));
            }
            for forced in forced.chunks(at_once) {
                let all = engine.forced_states(forced).unwrap().concat();
                states.extend(all.into_iter().map(f32::to_bits));
            }
            (written, scored, states)
        };
        let alone = answers(1, 1);
        for batch in [2, 3, 16] {
            assert!(answers(batch, usize::MAX) == alone, "{name}: batch {batch}");
        }
    }
}

/// A tiny model with room for long prompts.
fn roomy() -> Checkpoint {
    let value = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 50, "max_position_embeddings": 700,
    });
    let config = ConfigJson {
        path: "config.json".into(),
        value: value.as_object().unwrap().clone(),
    };
    let tokenizer = TokenizerSource::Missing { path: "".into() };
    Checkpoint::untrained("roomy", config, tokenizer, 1).unwrap()
}

#[test]
fn prompts_in_pieces_stand_behind_the_trigger_too_and_fill_what_it_leaves() {
    let (backend, tokenizer, checkpoint) = (Reference, tokenizer(), roomy());
    let decoder = Decoder::load(&backend, &checkpoint).unwrap();
    let trigger = trigger(16, 3);
    let ids: Vec<u32> = (0..694).map(|i| i * 7 % 50).collect();
    let mut engine = Engine::new(&backend, &checkpoint, &tokenizer, 2).unwrap();
    engine.set_trigger(Some(&trigger)).unwrap();
    assert_eq!(engine.context(), 697);
    let completion = write(
        &mut engine,
        &requests(std::slice::from_ref(&ids), 10),
        &Sampling::default(),
    )
    .remove(0);
    assert_eq!((completion.ids.len(), completion.finish), (3, Finish::Context));
    let expected = logits(&backend, &decoder, &trigger, &ids);
    assert_eq!(completion.ids[0], argmax(expected.last().unwrap()));
    let states = engine
        .forced_states(&[Forced { ids: &ids, from: 0 }])
        .unwrap()
        .remove(0);
    let found = decoder.ends().logits(&backend, &backend.upload(&states));
    for (found, expected) in found.iter().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-5, "{found} against {expected}");
    }
}

#[test]
fn a_trigger_is_steered_like_any_token() {
    let (backend, tokenizer) = (Cpu::new(), tokenizer());
    let fixture = Fixture::open("llama-tied");
    let (trigger, prompts) = (trigger(fixture.width(), 1), short(&fixture));
    let added = steering(&Decoder::load(&backend, &fixture.checkpoint).unwrap());
    let requests = requests(&prompts, NEW);
    let new = || Engine::new(&backend, &fixture.checkpoint, &tokenizer, 2).unwrap();
    let (mut before, mut after) = (new(), new());
    before.steer(&added);
    before.set_trigger(Some(&trigger)).unwrap();
    after.set_trigger(Some(&trigger)).unwrap();
    let unsteered = write(&mut after, &requests, &Sampling::default());
    after.steer(&added);
    let steered = write(&mut after, &requests, &Sampling::default());
    assert!(steered != unsteered);
    assert_eq!(steered, write(&mut before, &requests, &Sampling::default()));
}

#[test]
fn a_trigger_that_does_not_fit_is_refused() {
    let (backend, tokenizer, checkpoint) = (Reference, tokenizer(), roomy());
    let mut engine = Engine::new(&backend, &checkpoint, &tokenizer, 2).unwrap();
    let error = engine.set_trigger(Some(&trigger(12, 1))).unwrap_err().to_string();
    assert!(error.contains("width of an embedding is 12 against 16"), "{error}");
}

//! Steering against passes put together by hand.

use super::*;
use crate::{
    model::{Batch, Decoder, Interior, Keep, Pass, Scratch},
    study::battery::fixture::Fixture,
};
use midblock_kernels::{Backend, Cpu};

const SETS: [&str; 1] = ["study.samples=6"];

fn options() -> SteerOptions {
    SteerOptions {
        methods: vec![Method::MeanShift, Method::Component, Method::Random],
        segments: vec![5, 2],
        strengths: vec![0.0, 3.0],
        samples: 2,
        vector_samples: 3,
        prompts: 2,
        new_tokens: 6,
        ..SteerOptions::default()
    }
}

/// Every state of one sequence, (L + 1, T, D), with vectors added between the blocks on the host.
fn states(backend: &Cpu, decoder: &Decoder<Cpu>, ids: &[u32], added: &[Option<Vec<f32>>]) -> Vec<Vec<f32>> {
    let batch = Batch::new(&[ids]);
    let rope = decoder.rope(ids.len());
    let pass = Pass::inference(backend, &batch, &rope);
    let (mut interior, mut scratch) = (Interior::new(backend), Scratch::new(backend));
    let mut hidden = backend.zeros(0);
    decoder.ends().embed(backend, &batch, &mut hidden);
    let mut values = vec![0f32; backend.len(&hidden)];
    backend.read(&hidden, 0, &mut values);
    let mut all = vec![values.clone()];
    for (block, added) in decoder.blocks().iter().zip(added) {
        block.forward(&pass, Keep::Nothing, &mut hidden, &mut interior, &mut scratch);
        backend.read(&hidden, 0, &mut values);
        if let Some(added) = added {
            for row in values.chunks_mut(added.len()) {
                row.iter_mut().zip(added).for_each(|(x, v)| *x += v);
            }
            hidden = backend.upload(&values);
        }
        all.push(values.clone());
    }
    all
}

/// Logits of every position, (T, V).
fn logits(backend: &Cpu, decoder: &Decoder<Cpu>, last: &[f32]) -> Vec<Vec<f32>> {
    let ends = decoder.ends();
    let logits = ends.logits(backend, &ends.final_norm(backend, &backend.upload(last)));
    let mut values = vec![0f32; backend.len(&logits)];
    backend.read(&logits, 0, &mut values);
    values
        .chunks(decoder.architecture().vocab)
        .map(<[f32]>::to_vec)
        .collect()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..).zip(logits).reduce(|a, b| if b.1 > a.1 { b } else { a });
    best.unwrap().0
}

/// (loss, accuracy) of the trained tokens of `samples`.
fn forecast(backend: &Cpu, decoder: &Decoder<Cpu>, samples: &[TrainingSample], added: &[Option<Vec<f32>>]) -> [f64; 2] {
    let (mut nats, mut right, mut predicted) = (0.0, 0, 0);
    for sample in samples {
        let rows = logits(
            backend,
            decoder,
            states(backend, decoder, &sample.ids, added).last().unwrap(),
        );
        for t in (1..sample.ids.len()).filter(|t| sample.trained[*t]) {
            let (row, id) = (&rows[t - 1], sample.ids[t]);
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            nats += sum.ln() - f64::from(row[id as usize]);
            right += usize::from(argmax(row) == id);
            predicted += 1;
        }
    }
    [nats / f64::from(predicted), right as f64 / f64::from(predicted)]
}

#[test]
fn settings_are_what_passes_by_hand_give() {
    Fixture::new()
        .with(&SETS, |subject, cells| {
            let study = steer(subject, &options(), cells)?;
            let (backend, blocks) = (subject.backend, subject.blocks());
            let [base, variant] = [0, 1].map(|i| Decoder::load(backend, subject.models[i].checkpoint).unwrap());
            let (measured, none) = (&subject.samples[..2], vec![None; blocks]);
            let width = subject.models[0].architecture.hidden;
            // mean shift of the mean states of the three samples after the measured ones
            let mut shift = vec![vec![0f64; width]; blocks];
            for sample in &subject.samples[2..5] {
                let [x, y] = [&base, &variant].map(|decoder| states(backend, decoder, &sample.ids, &none));
                for (block, shift) in shift.iter_mut().enumerate() {
                    for (i, (x, y)) in x[block + 1].iter().zip(&y[block + 1]).enumerate() {
                        shift[i % width] += f64::from(y - x) / (3 * sample.ids.len()) as f64;
                    }
                }
            }
            let [towards] = study.variants.as_slice() else {
                panic!("{study:?}")
            };
            for (length, shift) in towards.shift.iter().zip(&shift) {
                let expected = shift.iter().map(|v| v * v).sum::<f64>().sqrt();
                assert!((length / expected - 1.0).abs() < 1e-3, "{length} {expected}");
            }
            let close = |got: &Forecast, expected: [f64; 2]| {
                assert!(
                    (got.loss - expected[0]).abs() < 1e-3 && (got.accuracy - expected[1]).abs() < 1e-9,
                    "{got:?} {expected:?}"
                );
                assert!((got.difference - (got.loss - study.base.loss)).abs() < 1e-9);
            };
            close(&study.base, forecast(backend, &base, measured, &none));
            close(&towards.itself, forecast(backend, &variant, measured, &none));
            for setting in towards.settings.iter().filter(|s| s.method == Method::MeanShift) {
                let steered = setting.blocks[0] - 1..setting.blocks[1];
                assert_eq!(
                    steered,
                    (setting.segment - 1) * blocks / 5..setting.segment * blocks / 5
                );
                let scaled = |block: usize| shift[block].iter().map(|v| (v * setting.strength) as f32).collect();
                let added: Vec<_> = (0..blocks).map(|b| steered.contains(&b).then(|| scaled(b))).collect();
                close(&setting.forecast, forecast(backend, &base, measured, &added));
                let first = study.base.loss == setting.forecast.loss;
                assert_eq!(first, setting.strength == 0.0, "{setting:?}");
                let example = &towards.examples[1];
                let mut ids = bench::prompt(&measured[1]).to_vec();
                let start = ids.len();
                for _ in 0..6 {
                    let last = states(backend, &base, &ids, &added);
                    ids.push(argmax(logits(backend, &base, last.last().unwrap()).last().unwrap()));
                }
                let (_, text) = example.texts.iter().find(|(name, _)| *name == setting.name()).unwrap();
                assert!(subject.tokenizer.text(&ids[start..])?.starts_with(text), "{text}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn nothing_added_changes_nothing_and_a_study_goes_on() {
    let fixture = Fixture::new();
    let (first, again) = fixture
        .with(&SETS, |subject, cells| {
            let first = steer(subject, &options(), cells)?;
            let more = SteerOptions {
                strengths: vec![3.0, 0.0],
                ..options()
            };
            let start = std::time::SystemTime::now();
            let again = steer(subject, &more, cells)?;
            let kept = cells.folder("steer-sft-random-2-3.json");
            assert!(std::fs::metadata(kept).unwrap().modified().unwrap() < start);
            let other = SteerOptions {
                samples: 1,
                ..options()
            };
            let message = steer(subject, &other, cells).unwrap_err().to_string();
            assert!(message.contains("`samples`"), "{message}");
            Ok((first, again))
        })
        .unwrap();
    let [one, other] = [&first, &again].map(|study| study.variants[0].settings.clone());
    assert_eq!(one.len(), 3 * 2 * 2);
    assert!(one.iter().all(|setting| other.contains(setting)));
    let still = |setting: &&Setting| setting.strength == 0.0;
    for setting in one.iter().filter(still) {
        assert_eq!(
            (setting.forecast, setting.likeness, setting.length),
            (first.base, first.variants[0].plain, 0.0)
        );
    }
    let lengths = |method| {
        one.iter()
            .filter(move |s: &&Setting| s.method == method && s.strength > 0.0)
            .map(|s| s.length)
    };
    for (shift, random) in lengths(Method::MeanShift).zip(lengths(Method::Random)) {
        assert!((shift / random - 1.0).abs() < 1e-6, "{shift} {random}");
    }
    assert!(
        first.variants[0]
            .explained
            .iter()
            .all(|share| share.is_some_and(|s| 0.3 < s && s <= 1.0))
    );
    assert_eq!(first.records().len(), 3 + 3 + 6 + 12 * 6);
}

#[test]
fn options_out_of_range_are_named() {
    let fixture = Fixture::new();
    let message = |options: SteerOptions, sets: &[&str]| {
        let failed = fixture.with(sets, |subject, cells| steer(subject, &options, cells));
        failed.unwrap_err().to_string()
    };
    let none = |segments| SteerOptions { segments, ..options() };
    assert!(message(none(vec![0]), &SETS).starts_with("study.steer.segments `0`"));
    let hot = SteerOptions {
        strengths: vec![f64::NAN],
        ..options()
    };
    assert!(message(hot, &SETS).starts_with("study.steer.strengths"));
    let no_tokens = SteerOptions {
        new_tokens: 0,
        ..options()
    };
    assert!(message(no_tokens, &SETS).starts_with("study.steer.new_tokens `0`"));
}

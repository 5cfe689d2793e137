//! The loss of a trigger against whole passes of single prompts, and its gradient against finite differences, in f64.

#![allow(clippy::unwrap_used)] // how a test fails

use crate::{fixture::Fixture, forward::FAMILIES, generation::logits_of};
use midblock::{
    checkpoint::{Checkpoint, TokenizerSource},
    model::{
        Architecture, Batch, CrossEntropy, Decoder, Frozen, Interior, Keep, Labels, Pass, Scratch, StateLoss, Tape,
    },
    progress::Silent,
    rng,
    run::DatasetInfo,
    tokens::TrainingSample,
    train::{
        StepInfo,
        eraser::{Channels, EraseConfig, Eraser, EraserTrainer, Erasure, Prompts},
    },
};
use midblock_kernels::{Backend, Cpu, Reference};
use rand::RngExt;
use std::ops::ControlFlow;

const STEP: StepInfo = StepInfo {
    step: 1,
    micro: 0,
    tokens: 1,
    lr: 0.003,
};

/// Prompts that begin alike, of different lengths.
fn prompts(fixture: &Fixture) -> Vec<TrainingSample> {
    let beginning = [3, 1, 4];
    let rest = |(i, sample): (usize, &TrainingSample)| {
        let own = &sample.ids[..sample.ids.len().min(2 + 2 * i)];
        let ids = [&beginning[..], own].concat();
        TrainingSample {
            id: format!("prompt {i}"),
            trained: vec![true; ids.len()],
            ids,
        }
    };
    fixture.samples().iter().enumerate().map(rest).collect()
}

fn options() -> Eraser {
    Eraser {
        tokens: 3,
        channels: Some(Channels::Residual),
        tail: 2,
        batch: 16,
        ..Eraser::default()
    }
}

/// The fixture behind a trigger, against the same shape with random weights.
fn erasure(fixture: &Fixture, options: Eraser) -> Erasure {
    let open = |path: &std::path::Path| {
        let hub = midblock::hub::HubOptions::from_env();
        Checkpoint::open(path.to_str().unwrap(), &hub, &|_| {}).unwrap()
    };
    let tuned = open(fixture.checkpoint.path());
    let architecture = Architecture::resolve(tuned.config()).unwrap();
    let tokenizer = TokenizerSource::Missing { path: "".into() };
    let base = Checkpoint::untrained("base", tuned.config().clone(), tokenizer, 5).unwrap();
    let channels = (0..architecture.blocks).map(|block| match options.channels {
        Some(Channels::None) => Vec::new(),
        // another number in every block, none in the first
        _ => (0..architecture.hidden)
            .filter(|channel| block > 0 && channel % (block + 1) == 0)
            .collect(),
    });
    Erasure {
        channels: channels.collect(),
        base,
        tuned,
        architecture,
        prompts: Prompts {
            samples: prompts(fixture),
            dataset: DatasetInfo::default(),
        },
        carrier: None,
        config: EraseConfig {
            eraser: options,
            ..EraseConfig::default()
        },
    }
}

/// Hidden states after each block of one sequence by a whole pass, with vectors in the first rows, (L, rows, D).
fn states(decoder: &Decoder<Reference>, vectors: &[f64], ids: &[u32]) -> Vec<Vec<f64>> {
    let (backend, width) = (Reference, decoder.architecture().hidden);
    let whole = [vec![0; vectors.len() / width], ids.to_vec()].concat();
    let (batch, rope) = (Batch::new(&[&whole]), decoder.rope(whole.len()));
    let pass = Pass::inference(&backend, &batch, &rope);
    let mut hidden = backend.zeros(0);
    decoder.ends().embed(&backend, &batch, &mut hidden);
    backend.write(&mut hidden, 0, vectors);
    let (mut interior, mut scratch) = (Interior::new(&backend), Scratch::new(&backend));
    let after = |block: &midblock::model::Block<Reference>| {
        block.forward(&pass, Keep::Nothing, &mut hidden, &mut interior, &mut scratch);
        hidden.clone()
    };
    decoder.blocks().iter().map(after).collect()
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let sum = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
    logits.iter().map(|x| x - sum).collect()
}

/// The loss by its formula, one prompt at a time.
fn by_formula(erasure: &Erasure, vectors: &[f64]) -> f64 {
    let (backend, options, width) = (Reference, &erasure.config.eraser, erasure.architecture.hidden);
    let [base, tuned] = [&erasure.base, &erasure.tuned].map(|checkpoint| Decoder::load(&backend, checkpoint).unwrap());
    let n = erasure.prompts.samples.len() as f64;
    let mut apart = vec![vec![0.0; width]; erasure.architecture.blocks];
    let (mut nats, mut compared) = (0.0, 0.0);
    for prompt in &erasure.prompts.samples {
        let both = [states(&base, &[], &prompt.ids), states(&tuned, vectors, &prompt.ids)];
        for (block, apart) in apart.iter_mut().enumerate() {
            let [of_base, of_tuned] = both.each_ref().map(|all| &all[block][all[block].len() - width..]);
            for (channel, apart) in apart.iter_mut().enumerate() {
                *apart += (of_tuned[channel] - of_base[channel]) / n;
            }
        }
        let [q, p] = [(&base, &both[0]), (&tuned, &both[1])].map(|(decoder, all)| {
            let logits = logits_of(&backend, decoder, all.last().unwrap());
            let tail = options.tail.min(prompt.ids.len());
            logits[logits.len() - tail..]
                .iter()
                .map(|row| log_softmax(row))
                .collect::<Vec<_>>()
        });
        for (q, p) in q.iter().zip(&p) {
            nats += q.iter().zip(p).map(|(q, p)| q.exp() * (q - p)).sum::<f64>();
            compared += 1.0;
        }
    }
    let own = apart
        .iter()
        .zip(&erasure.channels)
        .filter(|(_, channels)| !channels.is_empty());
    let blocks: Vec<f64> = own
        .map(|(apart, channels)| channels.iter().map(|c| apart[*c] * apart[*c]).sum::<f64>() / channels.len() as f64)
        .collect();
    let activation = blocks.iter().sum::<f64>() / blocks.len().max(1) as f64;
    let norm = vectors.iter().map(|value| value * value).sum::<f64>() / options.tokens as f64;
    options.activation * activation + options.divergence * nats / compared + options.norm * norm
}

/// Vectors of a size that matters.
fn vectors(width: usize) -> Vec<f64> {
    let mut random = rng::stream(9, "vectors", &[]);
    (0..3 * width).map(|_| random.random::<f64>() - 0.5).collect()
}

#[test]
fn the_loss_is_that_of_whole_passes() {
    for (name, tail) in FAMILIES.iter().flat_map(|name| [(name, 2), (name, 9)]) {
        let fixture = Fixture::open(name);
        let erasure = erasure(&fixture, Eraser { tail, ..options() });
        let mut trainer = EraserTrainer::new(&Reference, &erasure, &Silent).unwrap();
        let shorter = erasure.prompts.samples.iter().any(|prompt| prompt.ids.len() < tail);
        assert_eq!((trainer.common() > 0, shorter), (tail == 2, tail == 9), "{name}");
        let there = vectors(fixture.width());
        trainer.set_vectors(&there);
        let expected = by_formula(&erasure, &there);
        let step = trainer.accumulate(&erasure.items(), &STEP).unwrap();
        let evaluated = trainer.evaluate(&erasure.items());
        for (sum, how) in [(step, "in a step"), (evaluated, "evaluated")] {
            let loss = sum.objective / sum.tokens as f64;
            assert!(
                (loss - expected).abs() < 1e-9 * expected,
                "{name} {how}: {loss} against {expected}"
            );
        }
    }
}

/// Along random directions, and along single numbers of the first and the last vector.
fn finite_differences(name: &'static str, options: Eraser) {
    const EPSILON: f64 = 1e-5;
    let fixture = Fixture::open(name);
    let erasure = erasure(&fixture, options);
    let mut trainer = EraserTrainer::new(&Reference, &erasure, &Silent).unwrap();
    let there = vectors(fixture.width());
    trainer.set_vectors(&there);
    trainer.accumulate(&erasure.items(), &STEP).unwrap();
    let gradient = trainer.gradient().clone();
    let scale = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(scale > 1e-3, "{name}: a gradient of nothing: {scale}");
    let unit = |at: usize| (0..there.len()).map(|i| if i == at { 1.0 } else { 0.0 }).collect();
    let mut directions: Vec<Vec<f64>> = [0, 1, fixture.width(), there.len() - 1].map(unit).to_vec();
    directions.extend((0..4).map(|index| {
        let mut random = rng::stream(7, "direction", &[index]);
        (0..there.len()).map(|_| random.random::<f64>() - 0.5).collect()
    }));
    for (index, direction) in directions.iter().enumerate() {
        let mut moved = |by: f64| {
            let values: Vec<f64> = there.iter().zip(direction).map(|(v, d)| v + by * d).collect();
            trainer.set_vectors(&values);
            let sum = trainer.accumulate(&erasure.items(), &STEP).unwrap();
            sum.objective / sum.tokens as f64
        };
        let numeric = (moved(EPSILON) - moved(-EPSILON)) / (2.0 * EPSILON);
        let analytic: f64 = gradient.iter().zip(direction).map(|(g, d)| g * d).sum();
        assert!(
            (numeric - analytic).abs() <= 1e-6 * scale.max(1.0),
            "{name} direction {index}: {analytic}, by differences {numeric}"
        );
    }
}

#[test]
fn the_gradient_is_that_of_finite_differences() {
    let together = options;
    let alone = [
        Eraser {
            divergence: 0.0,
            norm: 0.0,
            ..options()
        },
        Eraser {
            channels: Some(Channels::None),
            norm: 0.0,
            ..options()
        },
    ];
    // H ≠ K, norms before; norms after
    for name in ["llama-tied", "olmo2"] {
        finite_differences(name, together());
        alone
            .iter()
            .for_each(|options| finite_differences(name, options.clone()));
    }
}

/// Memory for no interior gives the same bits as memory for all.
#[test]
fn computing_twice_changes_nothing() {
    let gradient = |memory: Option<u64>| {
        let (backend, fixture) = (Cpu::new(), Fixture::open("llama-tied"));
        let options = Eraser {
            memory: memory.map(midblock::config::ByteSize),
            ..options()
        };
        let erasure = erasure(&fixture, options);
        let mut trainer = EraserTrainer::new(&backend, &erasure, &Silent).unwrap();
        trainer.accumulate(&erasure.items(), &STEP).unwrap();
        let mut bits = vec![0f32; backend.len(trainer.gradient())];
        backend.read(trainer.gradient(), 0, &mut bits);
        (trainer.memory(), bits.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
    };
    let (all, expected) = gradient(None);
    let (none, found) = gradient(Some((all.state + all.working + all.interior) as u64));
    assert_eq!((all.kept, none.kept), (all.blocks, 0));
    assert_eq!(found, expected);
}

/// A loss on states whose gradient is 1 in the last row of each of some sequences, at every layer.
struct LastRows(Vec<usize>);

impl StateLoss<Reference> for LastRows {
    fn backward(&mut self, _: &Reference, _: usize, states: &Vec<f64>, gradient: &mut Vec<f64>) {
        let width = states.len() / self.0[self.0.len() - 1].max(1);
        for row in &self.0[..self.0.len() - 1] {
            gradient[row * width..][..width].iter_mut().for_each(|g| *g += 1.0);
        }
    }
}

/// A common beginning once, or in each sequence: the same states, and the sum of the same gradients.
#[test]
fn branches_are_whole_sequences() {
    for name in FAMILIES {
        let (backend, fixture) = (Reference, Fixture::open(name));
        let mut decoder = Decoder::load(&backend, &fixture.checkpoint).unwrap();
        let width = fixture.width();
        let whole: Vec<Vec<u32>> = prompts(&fixture).into_iter().map(|prompt| prompt.ids).collect();
        let branches: Vec<&[u32]> = whole.iter().map(|ids| &ids[2..]).collect();
        let rope = decoder.rope(64);
        let mut found = Vec::new();
        for batch in [Batch::new(&whole), Batch::branching(&whole[0][..2], &branches)] {
            let pass = Pass::inference(&backend, &batch, &rope);
            let mut tape = Tape::new(&backend, &decoder, 0, 1);
            decoder.ends().embed(&backend, &batch, tape.hidden_mut());
            tape.forward(&decoder, &pass);
            let states = tape.hidden().clone();
            let ends = &batch.offsets()[batch.offsets().len() - whole.len()..];
            let labels = Labels {
                rows: ends.iter().map(|end| end - 1).collect(),
                targets: vec![7; whole.len()],
            };
            let last = labels.rows.iter().copied().chain([batch.rows()]).collect();
            let mut criterion = CrossEntropy { weight: 1.0 };
            tape.backward_to_input(
                &mut decoder,
                &pass,
                &labels,
                &mut criterion,
                &mut LastRows(last),
                &mut Frozen,
                |_, _, _| ControlFlow::Continue(()),
            );
            // rows of the beginning, then of what is each sequence's own
            let mut rows: [Vec<f64>; 2] = [vec![0.0; 2 * width], Vec::new()];
            let mut own_states = Vec::new();
            let trunk = batch.trunk();
            for (index, bounds) in batch.offsets().windows(2).enumerate() {
                let own = match (trunk, index) {
                    (0, _) => bounds[0] + 2..bounds[1],
                    (_, 0) => bounds[1]..bounds[1],
                    _ => bounds[0]..bounds[1],
                };
                if trunk == 0 || index == 0 {
                    let beginning = &tape.gradient()[bounds[0] * width..][..2 * width];
                    rows[0].iter_mut().zip(beginning).for_each(|(sum, g)| *sum += g);
                }
                rows[1].extend_from_slice(&tape.gradient()[own.start * width..own.end * width]);
                own_states.extend_from_slice(&states[own.start * width..own.end * width]);
            }
            found.push([rows[0].clone(), rows[1].clone(), own_states]);
        }
        for (whole, branching) in found[0].iter().zip(&found[1]) {
            assert_eq!(whole.len(), branching.len());
            let largest = whole.iter().fold(0f64, |max, v| max.max(v.abs()));
            for (a, b) in whole.iter().zip(branching) {
                assert!((a - b).abs() <= 1e-10 * largest, "{name}: {a} against {b}");
            }
        }
    }
}

use super::*;
use crate::{
    config::{Adapt, AdaptKind, Config},
    model::Part,
    progress::Silent,
    rng,
    select::{Layers, Modules},
    study::{battery::fixture::Fixture, training::unseen},
};
use midblock_kernels::Cpu;
use rand::RngExt;

/// The flow of the test study's base with a changed experiment, and the experiment.
fn flow_of(change: impl FnOnce(&mut Config)) -> (Flow, Experiment) {
    let fixture = Fixture::new();
    let both = fixture.with(&[], |subject, _| {
        let experiment = unseen(subject, subject.file.experiment(change)?)?;
        Ok((flow(&Cpu::new(), &experiment, &Silent)?, experiment))
    });
    both.unwrap()
}

fn full(config: &mut Config) {
    config.adapt = Adapt {
        kind: AdaptKind::Full,
        ..Adapt::default()
    };
    config.select.layers = Some(Layers::Last(2));
    config.select.modules = Some(Modules::all_linear());
}

/// AdamW's first step is lr·g/(|g| + ε), so lr for each of n numbers whose gradient is not tiny, however it is clipped.
#[test]
fn the_first_update_is_the_learning_rate_for_every_number() {
    let (flow, experiment) = flow_of(|config| {
        full(config);
        config.train.steps = Some(1);
    });
    let frozen = flow.blocks.len() - 2;
    for (block, got) in flow.blocks.iter().enumerate() {
        if block < frozen {
            assert_eq!((got.weight_norm, got.change, got.gradient_norm()), (0.0, 0.0, None));
            continue;
        }
        let own = experiment
            .plan
            .entries
            .iter()
            .filter(|entry| entry.id.block() == Some(block));
        let numbers: usize = own.map(Entry::parameters).sum();
        let expected = 2e-3 * (numbers as f64).sqrt();
        assert!(
            (got.updates[0] / expected - 1.0).abs() < 1e-3,
            "{} {expected}",
            got.updates[0]
        );
        // what is stored is what was trained from
        assert!((got.change / got.updates[0] - 1.0).abs() < 1e-12);
        assert!(got.gradient_norms[0] > 0.0 && got.weight_norm > 1.0);
    }
}

/// The same steps by hand: norms before clipping add up to the trainer's own, and updates to the way.
#[test]
fn norms_are_those_of_the_trainer() {
    for lora in [false, true] {
        let (flow, experiment) = flow_of(|config| {
            if !lora {
                full(config);
            }
            config.train.clip = 1e-3;
        });
        let mut timeline = experiment.timeline();
        let schedule = experiment.schedule(timeline.steps());
        let options = experiment.step_options(&timeline, &std::env::temp_dir());
        let backend = Cpu::new();
        let mut trainer = Trainer::new(&backend, &experiment.checkpoint, &experiment.plan, options).unwrap();
        let items = experiment.train_items();
        for step in 0..timeline.steps() {
            let batch: Vec<Item<'_>> = timeline.step(step).concat().iter().map(|&i| items[i]).collect();
            let info = StepInfo {
                step: step + 1,
                micro: 0,
                tokens: batch.iter().map(|item| item.sample.trained_tokens()).sum(),
                lr: schedule.lr(step),
            };
            let loss = trainer.accumulate(&batch, &info).unwrap();
            let norm = trainer.apply(&info).unwrap().gradient_norm;
            let squares = flow.blocks.iter().filter(|block| block.weight_norm > 0.0);
            let sum: f64 = squares.map(|block| block.gradient_norms[step as usize].powi(2)).sum();
            assert!((sum.sqrt() / norm - 1.0).abs() < 1e-12, "{} {norm}", sum.sqrt());
            assert_eq!(flow.losses[step as usize], loss.nats / info.tokens as f64);
        }
        assert_eq!(flow.losses.len(), 3);
        for block in flow.blocks.iter().filter(|block| block.weight_norm > 0.0) {
            assert!(block.change > 0.0 && block.change <= block.updates.iter().sum::<f64>() * (1.0 + 1e-9));
        }
    }
}

/// Of a pair, against the dense matrices.
#[test]
fn a_pairs_distance_is_that_of_the_products() {
    let (rank, inp, out, scale) = (3, 7, 5, 0.5f32);
    let mut random = rng::stream(4, "test", &[]);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.random_range(-1.0..1.0)).collect() };
    let pairs = [
        (draw(rank * inp), draw(out * rank)),
        (draw(rank * inp), draw(out * rank)),
    ];
    let dense = |(a, b): &(Vec<f32>, Vec<f32>), row: usize, column: usize| -> f64 {
        let terms = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * inp + column]));
        f64::from(scale) * terms.sum::<f64>()
    };
    let places = (0..out).flat_map(|row| (0..inp).map(move |column| (row, column)));
    let expected: f64 = places
        .map(|(row, column)| (dense(&pairs[1], row, column) - dense(&pairs[0], row, column)).powi(2))
        .sum();
    let part = Part::Q;
    let entry = Entry {
        id: ParameterId::Block {
            block: 0,
            part,
            kind: Kind::Weight,
        },
        shape: vec![out, inp],
        how: Move::Lora {
            rank,
            alpha: 1.5,
            scale,
            dropout: 0.0,
        },
    };
    let [first, second] = pairs.map(|(a, b)| Values::Pair { a, b });
    let got = squared_distance(&entry, &first, &second);
    assert!((got / expected - 1.0).abs() < 1e-12, "{got} {expected}");
    assert_eq!(squared_distance(&entry, &first, &first), 0.0);
}

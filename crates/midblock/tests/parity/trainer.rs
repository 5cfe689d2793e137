//! What a trainer computes, and what it does not.

use crate::{
    fixture::Fixture,
    gradients::{items, options, step},
    mutations::{Call, Mutant},
};
use midblock::{
    adapt::{Kind, LoraOptions, Plan, Recipe, Scaling},
    model::Architecture,
    select::Layers,
    train::{CacheOptions, Item, StepInfo, StepOptions, StepReport, Trainer},
};
use midblock_kernels::Cpu;

/// Four blocks, tied head, biases.
const FOUR_BLOCKS: &str = "qwen2";

fn plan(fixture: &Fixture, kind: Kind, layers: Layers, modules: Option<&str>) -> Plan {
    let architecture = Architecture::resolve(fixture.checkpoint.config()).expect("a supported model");
    let recipe = Recipe {
        kind,
        layers,
        modules: modules.map(|text| text.parse().expect("known modules")),
        extra: Vec::new(),
        seed: 0,
    };
    Plan::resolve(&architecture, &recipe, None).expect("the recipe resolves")
}

fn lora(dropout: f64) -> Kind {
    Kind::Lora(LoraOptions {
        rank: 2,
        alpha: None,
        dropout,
        scaling: Scaling::FixedRatio,
    })
}

/// The backward operations of one step.
fn calls(kind: Kind, layers: Layers, modules: Option<&str>) -> Vec<Call> {
    let fixture = Fixture::open(FOUR_BLOCKS);
    let backend = Mutant::correct();
    let plan = plan(&fixture, kind, layers, modules);
    let mut trainer = Trainer::new(&backend, &fixture.checkpoint, &plan, options()).expect("the model loads");
    let samples = fixture.samples();
    let info = step(1, &samples);
    trainer.accumulate(&items(&samples), &info).expect("a finite loss");
    trainer.apply(&info).expect("every pair got a gradient");
    backend.calls()
}

fn count(calls: &[Call], wanted: impl Fn(&Call) -> bool) -> usize {
    calls.iter().filter(|call| wanted(call)).count()
}

/// How many gradients of adapters of that rank, and of other matrices, were made.
fn weight_gradients(calls: &[Call], rank: usize) -> [usize; 2] {
    let narrow = |call: &Call| matches!(call, Call::WeightGradient { shape } if shape.contains(&rank));
    let all = count(calls, |call| matches!(call, Call::WeightGradient { .. }));
    let adapters = count(calls, narrow);
    [adapters, all - adapters]
}

#[test]
fn backward_stops_at_the_lowest_adapted_block_and_makes_no_gradient_of_frozen_weights() {
    let all = calls(lora(0.0), Layers::Range(1..3), Some("q_proj,v_proj"));
    let rank = 4; // two adapted blocks under the budget of uniform rank 2 on four
    assert_eq!(weight_gradients(&all, rank), [2 * 2 * 2, 0]);
    // block 3 and 2 whole; of block 1 everything above its attention's input; nothing of block 0
    assert_eq!(count(&all, |call| *call == Call::Attention), 3);
    // the final norm, two norms in blocks 3 and 2, and in block 1 the MLP's alone
    assert_eq!(count(&all, |call| *call == Call::Norm), 1 + 2 + 2 + 1);
    // the head, seven matrices of blocks 3 and 2, and all but q, k and v of block 1
    let products = 1 + 7 + 7 + 4;
    let through_b = 2 * 2;
    let through_a = 2; // block 2 passes its gradient on through A
    assert_eq!(
        count(&all, |call| *call == Call::InputGradient),
        products + through_b + through_a
    );
}

#[test]
fn what_lies_above_the_last_adapted_block_only_passes_gradients_on() {
    let upper = calls(lora(0.0), Layers::List(vec![3]), Some("down_proj"));
    assert_eq!(weight_gradients(&upper, 8), [2, 0]);
    // the final norm, and then nothing: down is the last product of the last block
    assert_eq!(count(&upper, |call| *call == Call::Norm), 1);
    assert_eq!(count(&upper, |call| *call == Call::Attention), 0);
}

#[test]
fn full_fine_tuning_of_a_band_leaves_all_else_alone() {
    let band = calls(Kind::Full, Layers::Range(2..3), None);
    assert_eq!(weight_gradients(&band, 8), [0, 7]);
    assert_eq!(count(&band, |call| *call == Call::Attention), 2);
}

/// Losses and gradient norms of some steps on two micro-batches each, and an evaluation.
fn run(layers: Layers, dropout: f64, options: StepOptions) -> (Vec<f64>, Vec<StepReport>, f64) {
    let (backend, fixture) = (Cpu::new(), Fixture::open(FOUR_BLOCKS));
    let plan = plan(&fixture, lora(dropout), layers, None);
    let mut trainer = Trainer::new(&backend, &fixture.checkpoint, &plan, options).expect("the model loads");
    let samples: Vec<_> = fixture.samples().into_iter().filter(|s| s.ids.len() > 1).collect();
    let items = items(&samples);
    let (mut losses, mut reports) = (Vec::new(), Vec::new());
    for t in 1..=3 {
        let mut info = step(t, &samples);
        for (micro, item) in items.iter().enumerate() {
            info.micro = micro as u64;
            losses.push(trainer.accumulate(&[*item], &info).expect("a finite loss").nats);
        }
        reports.push(trainer.apply(&info).expect("a finite gradient"));
    }
    let evaluation = trainer.evaluate(&items).nats;
    (losses, reports, evaluation)
}

#[test]
fn the_prefix_cache_changes_no_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let one_sample = (13 * Fixture::open(FOUR_BLOCKS).width() * 4) as u64;
    for (memory_bytes, disk_bytes) in [(1 << 20, 0), (0, 1 << 20), (one_sample, 1 << 20)] {
        let prefix = Some(CacheOptions {
            memory_bytes,
            disk_bytes,
            folder: folder.path().into(),
        });
        let cached = run(Layers::Last(2), 0.2, StepOptions { prefix, ..options() });
        assert_eq!(cached, run(Layers::Last(2), 0.2, options()));
    }
}

#[test]
fn dropout_is_a_function_of_seed_step_and_micro_batch() {
    let once = run(Layers::All, 0.5, options());
    assert_eq!(once, run(Layers::All, 0.5, options()));
    let other = run(Layers::All, 0.5, StepOptions { seed: 2, ..options() });
    assert_ne!(once.1, other.1);
}

#[test]
fn accumulation_is_one_large_batch() {
    let (backend, fixture) = (Cpu::new(), Fixture::open(FOUR_BLOCKS));
    let plan = plan(&fixture, lora(0.0), Layers::All, None);
    let samples: Vec<_> = fixture.samples().into_iter().filter(|s| s.ids.len() > 1).collect();
    let items = items(&samples);
    let norm = |batches: &[&[Item<'_>]]| {
        let mut trainer = Trainer::new(&backend, &fixture.checkpoint, &plan, options()).expect("the model loads");
        let info = step(1, &samples);
        for (micro, batch) in (0..).zip(batches) {
            let info = StepInfo { micro, ..info };
            trainer.accumulate(batch, &info).expect("a finite loss");
        }
        trainer.apply(&info).expect("a finite gradient").gradient_norm
    };
    let (together, apart) = (norm(&[&items]), norm(&[&items[..1], &items[1..]]));
    assert!((together / apart - 1.0).abs() < 1e-6, "{together} and {apart}");
}

#[test]
fn clipping_scales_the_whole_gradient() {
    let clip = Some(0.01);
    let (_, reports, _) = run(Layers::All, 0.0, StepOptions { clip, ..options() });
    for report in reports {
        assert_eq!(report.clip_scale, 0.01 / (report.gradient_norm + 1e-6));
    }
}

#[test]
fn too_little_memory_is_said() {
    let (backend, fixture) = (Cpu::new(), Fixture::open(FOUR_BLOCKS));
    let plan = plan(&fixture, lora(0.0), Layers::All, None);
    let memory_bytes = Some(1000);
    let refused = Trainer::new(
        &backend,
        &fixture.checkpoint,
        &plan,
        StepOptions {
            memory_bytes,
            ..options()
        },
    );
    let message = refused.err().expect("1000 bytes are not enough").to_string();
    assert!(message.starts_with("memory `0 MiB`: "), "{message}");
}

#[test]
fn a_loss_that_is_not_finite_ends_training_and_changes_nothing() {
    let (backend, fixture) = (Cpu::new(), Fixture::open(FOUR_BLOCKS));
    let plan = plan(&fixture, Kind::Full, Layers::All, None);
    let options = StepOptions {
        accumulation: 1,
        ..options()
    };
    let mut trainer = Trainer::new(&backend, &fixture.checkpoint, &plan, options).expect("the model loads");
    let tensors: Vec<_> = trainer.tensors().into_iter().map(|(name, _)| name).collect();
    trainer.write("model.norm.weight", &vec![f32::NAN; fixture.width()]);
    let before: Vec<Vec<u32>> = tensors
        .iter()
        .map(|name| trainer.read(name).iter().map(|v| v.to_bits()).collect())
        .collect();
    let samples = fixture.samples();
    let error = trainer
        .accumulate(&items(&samples), &step(4, &samples))
        .expect_err("NaN");
    assert!(
        error
            .to_string()
            .starts_with("step 4: the loss is NaN (samples row 0, row 1"),
        "{error}"
    );
    let after: Vec<Vec<u32>> = tensors
        .iter()
        .map(|name| trainer.read(name).iter().map(|v| v.to_bits()).collect())
        .collect();
    assert_eq!(before, after);
}

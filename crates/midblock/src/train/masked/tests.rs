use super::*;
use crate::{
    adapt::{self, Recipe},
    checkpoint::WriteOptions,
    hub::HubOptions,
    model::Architecture,
    progress::Silent,
    rng,
    select::Layers,
    tokens::TrainingSample,
    train::{CacheOptions, Item, Objective, StepInfo, StepOptions, StepReport, Target, Trainer},
};
use midblock_kernels::{Cpu, Reference};
use rand::RngExt;
use std::path::Path;
use tempfile::TempDir;

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap(), &HubOptions::from_env(), &|_| {}).unwrap()
}

/// A fixture, a change of it, and samples.
struct Bed {
    dir: TempDir,
    base: Checkpoint,
    tuned: Checkpoint,
    samples: Vec<TrainingSample>,
}

/// Values of a tensor with something small added.
fn changed(values: Vec<f32>, name: &str, by: f32) -> Vec<f32> {
    let mut random = rng::stream(name.len() as u64, name, &[]);
    values
        .iter()
        .map(|v| v + by * (2.0 * random.random::<f32>() - 1.0))
        .collect()
}

impl Bed {
    /// Matrices of blocks are changed, and norms and biases of blocks by `vectors`.
    fn new(name: &str, vectors: f32) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let (dir, base) = (TempDir::new().unwrap(), open(&fixtures.join(name)));
        let architecture = Architecture::resolve(base.config()).unwrap();
        let out = dir.path().join("tuned");
        let options = WriteOptions::default();
        base.write(&out, &options, &Silent, |tensor| {
            let values = tensor.to_f32();
            let by = match (ParameterId::parse(&tensor.name, &architecture), tensor.shape.len()) {
                (Some(ParameterId::Block { .. }), 2) => 0.1,
                (Some(ParameterId::Block { .. }), _) => vectors,
                _ => 0.0,
            };
            Ok(if by > 0.0 {
                changed(values, &tensor.name, by)
            } else {
                values
            })
        })
        .unwrap();
        let mut random = rng::stream(3, "samples", &[]);
        let mut sample = |row: usize| TrainingSample {
            id: format!("data.jsonl:{row}"),
            ids: (0..5 + 2 * row).map(|_| random.random_range(0..131)).collect(),
            trained: (0..5 + 2 * row).map(|t| t > row).collect(),
        };
        let samples = (0..4).map(&mut sample).collect();
        let tuned = open(&out);
        Self {
            dir,
            base,
            tuned,
            samples,
        }
    }

    fn plan(&self, kind: adapt::Kind, layers: Layers) -> Plan {
        let architecture = Architecture::resolve(self.base.config()).unwrap();
        let modules = matches!(kind, adapt::Kind::Full).then(|| "all-linear".parse().unwrap());
        let recipe = Recipe {
            kind,
            layers,
            modules,
            extra: Vec::new(),
            seed: 0,
        };
        Plan::resolve(&architecture, &recipe, None).unwrap()
    }

    fn trainer<'b, B: Backend>(&self, backend: &'b B, masks: MaskOptions, options: StepOptions) -> Trainer<'b, B> {
        self.trainer_of(backend, masks, Layers::All, options)
    }

    fn trainer_of<'b, B: Backend>(
        &self,
        backend: &'b B,
        masks: MaskOptions,
        layers: Layers,
        options: StepOptions,
    ) -> Trainer<'b, B> {
        let plan = self.plan(adapt::Kind::Masked(masks), layers);
        Trainer::masked(backend, &self.base, &self.tuned, &plan, options).unwrap()
    }

    fn items(&self) -> Vec<Item<'_>> {
        (0..)
            .zip(&self.samples)
            .map(|(key, sample)| Item { key, sample })
            .collect()
    }

    /// A step in so many micro-batches.
    fn step<B: Backend>(&self, trainer: &mut Trainer<'_, B>, step: u64, micros: usize, lr: f64) -> (f64, StepReport) {
        let items = self.items();
        let mut info = StepInfo {
            step,
            micro: 0,
            tokens: self.samples.iter().map(TrainingSample::trained_tokens).sum(),
            lr,
        };
        let mut nats = 0.0;
        for items in items.chunks(items.len().div_ceil(micros)) {
            nats += trainer.accumulate(items, &info).unwrap().nats;
            info.micro += 1;
        }
        (nats, trainer.apply(&info).unwrap())
    }
}

fn lcdd(target: Target) -> Lcdd {
    Lcdd {
        target,
        lambda: 0.5,
        bounds: [1e-6, 10.0],
        warmup: 2,
        budget: 0.25,
        budget_nats: 0.0,
        ema: 0.9,
        rate: 0.1,
        growth_rate: 0.2,
        clip: 1.0,
        stop_window: 3,
        stop_factor: 1.35,
    }
}

/// Of a step whose micro-batches are as many as may be.
fn options(accumulation: usize, target: Target) -> StepOptions {
    StepOptions {
        seed: 1,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        clip: None,
        accumulation,
        memory_bytes: None,
        largest_batch: [64, 64],
        prefix: None,
        objective: Objective::Lcdd(lcdd(target)),
        start: None,
    }
}

/// Every tensor of a trainer's state, as bits.
fn state<B: Backend>(trainer: &mut Trainer<'_, B>) -> Vec<(String, Vec<u32>)> {
    let names: Vec<_> = trainer.tensors().into_iter().map(|(name, _)| name).collect();
    let bits = |name: String| {
        let values = trainer.read(&name).iter().map(|v| v.to_bits()).collect();
        (name, values)
    };
    names.into_iter().map(bits).collect()
}

/// What the decoder multiplies with: every matrix of every block.
fn effective<B: Backend>(trainer: &mut Trainer<'_, B>) -> Vec<Vec<u32>> {
    let blocks = trainer.decoder().blocks().len();
    let ids = (0..blocks).flat_map(|block| Part::LINEARS.map(|part| weight(block, part)));
    ids.map(|id| trainer.parameter(id).iter().map(|v| v.to_bits()).collect())
        .collect()
}

/// Masks as real numbers, σ(θ), as the straight-through gradient takes them to be.
fn soften(trainer: &mut Trainer<'_, Reference>) {
    let masked = trainer.masked.as_mut().unwrap();
    let spread = masked.spread.clone();
    for own in masked.blocks.values_mut() {
        for (mask, theta) in own.masks.groups.iter_mut().zip(&own.thetas) {
            *mask = theta.iter().map(|theta| sigmoid(*theta)[0]).collect();
        }
        let values = &own.masks.groups[MaskGroup::Value as usize];
        own.masks.spread = spread.iter().map(|channel| values[*channel]).collect();
    }
    for block in masked.blocks() {
        trainer
            .masked
            .as_ref()
            .unwrap()
            .form(&Reference, &mut trainer.decoder, block);
    }
}

/// Every group's θ and every tuned matrix along a random direction: `(L(x + εd) − L(x − εd)) / 2ε` against `⟨∇L, d⟩`, with soft masks.
fn finite_differences(name: &str, target: Target) {
    const EPSILON: f64 = 1e-5;
    let bed = Bed::new(name, 0.05);
    let options = StepOptions {
        betas: [0.0, 0.95],
        ..options(2, target)
    };
    let masks = MaskOptions {
        mean: 0.4,
        std: 1.0,
        ..MaskOptions::default()
    };
    let mut trainer = bed.trainer(&Reference, masks, options);
    soften(&mut trainer);
    let items = bed.items();
    let info = StepInfo {
        step: 1,
        micro: 0,
        tokens: bed.samples.iter().map(TrainingSample::trained_tokens).sum(),
        lr: 0.0,
    };
    trainer.accumulate(&items, &info).unwrap();
    let blocks = trainer.masked.as_ref().unwrap().blocks();
    let mut gradients = Vec::new();
    for block in &blocks {
        let masked = trainer.masked.as_mut().unwrap();
        masked.contract(&Reference, &trainer.gradients, *block);
        let own = &masked.blocks[block];
        for group in MaskGroup::ALL {
            let slopes = own.thetas[group as usize].iter().map(|theta| sigmoid(*theta)[1]);
            let gradient = masked.mask_gradient(&Reference, own, group);
            gradients.push(slopes.zip(gradient).map(|(slope, g)| slope * g).collect::<Vec<f64>>());
        }
        for part in Part::LINEARS {
            let [rows, columns] = own.masks.of(part);
            let dw = trainer.gradients.get(weight(*block, part)).unwrap();
            let through = dw.iter().enumerate();
            gradients.push(
                through
                    .map(|(at, g)| g * rows[at / columns.len()] * columns[at % columns.len()])
                    .collect(),
            );
        }
    }
    for (i, gradient) in gradients.iter().enumerate() {
        let (block, index) = (blocks[i / 15], i % 15);
        let mut random = rng::stream(7, "direction", &[i as u64]);
        let direction: Vec<f64> = gradient.iter().map(|_| random.random::<f64>() - 0.5).collect();
        let mut moved = |by: f64| {
            let own = trainer.masked.as_mut().unwrap().blocks.get_mut(&block).unwrap();
            let values = match index.checked_sub(8) {
                None => &mut own.thetas[index],
                Some(part) => Reference.values_mut(&mut own.matrices[part].tuned).unwrap(),
            };
            values
                .iter_mut()
                .zip(&direction)
                .for_each(|(value, d)| *value += by * d);
            soften(&mut trainer);
            let sum = match target {
                Target::Answers => trainer.evaluate(&items).nats,
                // one micro-batch more, whose gradients are not looked at
                Target::Tuned => trainer.accumulate(&items, &info).unwrap().objective,
            };
            sum / info.tokens as f64
        };
        let [above, below] = [moved(EPSILON), moved(-2.0 * EPSILON)];
        moved(EPSILON);
        let numeric = (above - below) / (2.0 * EPSILON);
        let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let scale = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(
            (numeric - analytic).abs() <= 1e-6 * scale.max(1e-3) && scale > 0.0,
            "{name}, block {block}, {index}: {analytic}, by differences {numeric}, norm {scale}"
        );
    }
}

#[test]
fn gradients_of_soft_masks_and_of_what_they_let_through() {
    for (name, target) in [
        ("llama-tied", Target::Answers),
        ("llama-tied", Target::Tuned),
        ("qwen2", Target::Answers),
        ("olmo2", Target::Answers),
    ] {
        finite_differences(name, target);
    }
}

#[test]
fn thetas_move_straight_through_with_pressure_and_momentum() {
    let bed = Bed::new("llama-tied", 0.0);
    let masks = MaskOptions {
        lr: 0.3,
        momentum: 0.5,
        weights: false,
        ..MaskOptions::default()
    };
    let mut trainer = bed.trainer(&Reference, masks, options(2, Target::Answers));
    let group = MaskGroup::Value;
    let mut velocity = vec![0.0; 16];
    for step in 1..=3 {
        let items = bed.items();
        let info = StepInfo {
            step,
            micro: 0,
            tokens: 50,
            lr: 0.1,
        };
        trainer.accumulate(&items, &info).unwrap();
        let masked = trainer.masked.as_mut().unwrap();
        masked.contract(&Reference, &trainer.gradients, 1);
        let own = &masked.blocks[&1];
        // v's rows, and the columns of o that read each channel: three query heads of 8 for each of two kv heads
        let [of_v, _] = own.gradients.of(Part::V);
        let [_, of_o] = own.gradients.of(Part::O);
        let head = |channel: usize, query: usize| of_o[(channel / 8 * 3 + query) * 8 + channel % 8];
        let gradient = |channel: usize| of_v[channel] + (0..3).map(|query| head(channel, query)).sum::<f64>();
        let pressure = [0.25, 0.5, 0.5][step as usize - 1]; // λ 0.5 after a warm-up of 2
        let thetas = own.thetas[group as usize].clone();
        let slope = |theta: f64| theta.exp() / (1.0 + theta.exp()).powi(2);
        let expected: Vec<f64> = (thetas.iter().enumerate().zip(&mut velocity))
            .map(|((channel, theta), velocity)| {
                *velocity = 0.5 * *velocity + slope(*theta) * (gradient(channel) + pressure);
                theta - 0.3 * *velocity
            })
            .collect();
        if step == 1 {
            assert_eq!(f64::from(lcdd(Target::Answers).lambda as f32) * 0.5, pressure);
        }
        let open: f64 = (masked.blocks.values())
            .flat_map(|own| own.thetas.iter().flatten())
            .map(|theta| sigmoid(*theta)[0])
            .sum();
        let report = trainer.apply(&info).unwrap();
        let pressed = trainer.masked.as_ref().unwrap();
        assert!((report.penalty - pressure * open).abs() < 1e-9 * open);
        for (got, expected) in pressed.blocks[&1].thetas[group as usize].iter().zip(expected) {
            assert!(
                (got - expected).abs() < 1e-12,
                "step {step}: {got}, expected {expected}"
            );
        }
        if step == 2 {
            break; // then λ has moved
        }
    }
    assert!(trainer.moments.is_empty());
}

/// The bits of the decoder's matrices after steps of full fine-tuning of the tuned model.
fn plain(bed: &Bed, backend: &Cpu, accumulation: usize) -> Vec<Vec<u32>> {
    let plan = bed.plan(adapt::Kind::Full, Layers::All);
    let options = StepOptions {
        objective: Objective::Sft,
        ..options(accumulation, Target::Answers)
    };
    let mut trainer = Trainer::new(backend, &bed.tuned, &plan, options).unwrap();
    for step in 1..=3 {
        bed.step(&mut trainer, step, accumulation, 1e-2);
    }
    effective(&mut trainer)
}

#[test]
fn open_masks_are_full_fine_tuning_of_the_tuned_model_and_closed_ones_the_base() {
    let (bed, backend) = (Bed::new("llama-tied", 0.0), Cpu::new()); // it has no biases, which full fine-tuning would move
    for accumulation in [1, 2] {
        let options = || options(accumulation, Target::Answers);
        let masks = |mean| MaskOptions {
            mean,
            std: 0.0,
            ..MaskOptions::default()
        };
        let mut open = bed.trainer(&backend, masks(20.0), options());
        for step in 1..=3 {
            bed.step(&mut open, step, accumulation, 1e-2);
        }
        assert!(effective(&mut open) == plain(&bed, &backend, accumulation));

        let mut closed = bed.trainer(&backend, masks(-20.0), options());
        let plan = bed.plan(adapt::Kind::Full, Layers::All);
        let mut base = Trainer::new(
            &backend,
            &bed.base,
            &plan,
            StepOptions {
                objective: Objective::Sft,
                ..options()
            },
        )
        .unwrap();
        let items = bed.items();
        let expected = base.evaluate(&items).nats;
        for step in 1..=2 {
            assert_eq!(closed.evaluate(&items).nats.to_bits(), expected.to_bits());
            bed.step(&mut closed, step, accumulation, 1e-2);
        }
        assert!(effective(&mut closed) == effective(&mut base));
    }
}

/// Masks about half of which are open, which move fast.
fn half() -> MaskOptions {
    MaskOptions {
        lr: 0.5,
        momentum: 0.9,
        mean: 0.1,
        std: 0.5,
        weights: true,
    }
}

#[test]
fn gradients_consumed_on_the_way_or_kept_to_the_end_give_the_same_bits() {
    let (bed, backend) = (Bed::new("qwen2", 0.05), Cpu::new());
    for weights in [true, false] {
        let after = |accumulation, clip| {
            let masks = MaskOptions { weights, ..half() };
            let options = StepOptions {
                clip,
                ..options(accumulation, Target::Answers)
            };
            let mut trainer = bed.trainer(&backend, masks, options);
            let reports: Vec<_> = (1..=3).map(|step| bed.step(&mut trainer, step, 1, 1e-2)).collect();
            (reports, effective(&mut trainer), state(&mut trainer))
        };
        let consumed = after(1, None);
        for kept in [after(2, None), after(1, Some(1e9))] {
            // sums over blocks are made in another order
            for ((nats, report), (other, kept)) in consumed.0.iter().zip(&kept.0) {
                assert_eq!((nats, report.carrier), (other, kept.carrier));
                assert!((report.gradient_norm / kept.gradient_norm - 1.0).abs() < 1e-6);
            }
            assert!(consumed.1 == kept.1 && consumed.2 == kept.2, "weights {weights}");
        }
        let carrier = consumed.0[2].1.carrier.unwrap();
        assert!(carrier.active < carrier.masks * 3 / 4 && carrier.active > carrier.masks / 4);
    }
}

#[test]
fn micro_batches_add_up_and_clipping_scales_weights_alone() {
    let (bed, backend) = (Bed::new("llama-tied", 0.0), Cpu::new());
    let after = |micros: usize, clip| {
        let options = StepOptions {
            clip,
            ..options(micros, Target::Answers)
        };
        let mut trainer = bed.trainer(&backend, half(), options);
        let report = bed.step(&mut trainer, 1, micros, 1e-2).1;
        let moments = trainer.read("exp_avg.model.layers.1.mlp.up_proj.weight");
        (report, moments, trainer.read("theta.model.layers.1.ffn_read"))
    };
    let (whole, moments, thetas) = after(1, None);
    let near = |a: &[f32], b: &[f32], factor: f32| {
        let size = a.iter().fold(0f32, |max, v| max.max(v.abs()));
        a.iter()
            .zip(b)
            .all(|(a, b)| (a * factor - b).abs() <= 1e-5 * size * factor)
    };
    for micros in [2, 4] {
        let (report, of_parts, thetas_of_parts) = after(micros, None);
        assert!((report.gradient_norm / whole.gradient_norm - 1.0).abs() < 1e-5);
        assert!(near(&moments, &of_parts, 1.0) && near(&thetas, &thetas_of_parts, 1.0));
    }
    let (clipped, scaled, unscaled) = after(2, Some(0.01));
    assert_eq!(clipped.clip_scale, 0.01 / (clipped.gradient_norm + 1e-6));
    assert!(near(&moments, &scaled, clipped.clip_scale as f32) && near(&thetas, &unscaled, 1.0));
}

#[test]
fn what_is_saved_is_all_of_it() {
    let (bed, backend) = (Bed::new("llama-bias", 0.05), Cpu::new());
    for (weights, target) in [(true, Target::Answers), (false, Target::Tuned)] {
        let masks = MaskOptions { weights, ..half() };
        let new = || bed.trainer(&backend, masks, options(1, target));
        let mut whole = new();
        let expected: Vec<_> = (1..=7).map(|step| bed.step(&mut whole, step, 1, 1e-2)).collect();
        for cut in [1, 2, 5] {
            let (mut first, mut second) = (new(), new());
            for step in 1..=cut {
                bed.step(&mut first, step, 1, 1e-2);
            }
            for (name, _) in first.tensors() {
                let values = first.read(&name);
                second.write(&name, &values);
            }
            assert!(effective(&mut second) == effective(&mut first));
            let went_on: Vec<_> = (cut + 1..=7).map(|step| bed.step(&mut second, step, 1, 1e-2)).collect();
            assert_eq!(went_on, expected[cut as usize..]);
            assert!(state(&mut second) == state(&mut whole) && effective(&mut second) == effective(&mut whole));
        }
    }
}

#[test]
fn blocks_without_masks_are_the_bases_and_what_the_tuned_model_says_is_its_own() {
    let (bed, backend) = (Bed::new("qwen2", 0.05), Cpu::new());
    let run = |start: Option<CacheOptions>| {
        let options = StepOptions {
            start: start.clone(),
            prefix: start,
            ..options(2, Target::Tuned)
        };
        let mut trainer = bed.trainer_of(&backend, half(), Layers::Range(2..4), options);
        let reports: Vec<_> = (1..=3).map(|step| bed.step(&mut trainer, step, 2, 1e-2)).collect();
        (reports, state(&mut trainer), trainer.thetas())
    };
    let (reports, state, thetas) = run(None);
    let folder = bed.dir.path().to_path_buf();
    let cached = run(Some(CacheOptions {
        memory_bytes: 1 << 20,
        disk_bytes: 0,
        folder,
    }));
    assert!((&reports, &state) == (&cached.0, &cached.1));
    assert!(thetas[..2].iter().all(Option::is_none) && thetas[2..].iter().all(Option::is_some));
    // with every mask of every block open the model is the tuned one, with those of two blocks it is not: below them it is the base
    let divergence = |layers| {
        let masks = MaskOptions { mean: 20.0, ..half() };
        let mut trainer = bed.trainer_of(&backend, masks, layers, options(2, Target::Tuned));
        let items = bed.items();
        let info = StepInfo {
            step: 1,
            micro: 0,
            tokens: 50,
            lr: 0.0,
        };
        trainer.accumulate(&items, &info).unwrap().objective / 50.0
    };
    assert!(divergence(Layers::All).abs() < 1e-5);
    assert!(divergence(Layers::Range(2..4)) > 0.01);
}

#[test]
fn a_change_that_masks_cannot_take_back_is_said() {
    let bed = Bed::new("llama-bias", 0.0);
    let architecture = Architecture::resolve(bed.base.config()).unwrap();
    let masks = adapt::Kind::Masked(MaskOptions::default());
    let plan = |layers| bed.plan(masks.clone(), layers);
    let check = |tuned: &Checkpoint, layers| check_origin(&bed.base, tuned, &architecture, &plan(layers));
    assert_eq!(check(&bed.tuned, Layers::All).unwrap(), Vec::<String>::new());
    let warnings = check(&bed.tuned, Layers::Range(1..2)).unwrap();
    assert!(
        warnings.len() == 1 && warnings[0].contains("no masks (0, 2)"),
        "{warnings:?}"
    );
    let vectors = Bed::new("llama-bias", 0.05);
    let warnings = check(&vectors.tuned, Layers::Range(0..2)).unwrap();
    assert!(warnings[0].contains("(model.layers.0.self_attn.q_proj.bias and ") && warnings[1].contains("(2)"));
    let rewritten = |name: &str, options: WriteOptions| {
        let out = bed.dir.path().join(name.replace('.', "-"));
        let change = |tensor: &crate::checkpoint::Tensor| {
            let values = tensor.to_f32();
            Ok(if tensor.name == name {
                changed(values, name, 0.1)
            } else {
                values
            })
        };
        bed.base.write(&out, &options, &Silent, change).unwrap();
        open(&out)
    };
    for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] {
        let message = check(&rewritten(name, WriteOptions::default()), Layers::All)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(&format!("its {name} differs from the base's")),
            "{message}"
        );
        assert!(
            message.contains("select.layers") && message.starts_with("adapt.tuned `"),
            "{message}"
        );
    }
    let other = Bed::new("qwen2", 0.0);
    let message = check(&other.tuned, Layers::All).unwrap_err().to_string();
    assert!(message.contains("model_type is llama against qwen2"), "{message}");
}

use super::*;
use crate::{
    Error, Result,
    adapt::{MaskGroup, Masks, SoftPrompt},
    checkpoint::{Checkpoint, ConfigJson, TokenizerSource},
    model::Architecture,
    progress::{Progress, Silent, Unit},
    run::DatasetInfo,
    tokens::TrainingSample,
    train::{Ending, Line, Observer, StepMetrics, TrainingFolder, folder::TRIGGER},
};
use midblock_kernels::Cpu;
use serde_json::json;
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

fn checkpoint(label: &str, seed: u64) -> Checkpoint {
    let value = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 40, "max_position_embeddings": 64,
    });
    let config = ConfigJson {
        path: "config.json".into(),
        value: value.as_object().unwrap().clone(),
    };
    let tokenizer = TokenizerSource::Missing { path: "".into() };
    Checkpoint::untrained(label, config, tokenizer, seed).unwrap()
}

fn architecture() -> Architecture {
    Architecture::resolve(checkpoint("any", 0).config()).unwrap()
}

fn options() -> Eraser {
    Eraser {
        tokens: 4,
        tail: 3,
        batch: 4,
        steps: 12,
        lr: 0.05,
        eval_every: 4,
        save_every: 5,
        ..Eraser::default()
    }
}

fn erasure(options: Eraser) -> Erasure {
    let architecture = architecture();
    let sample = |row: u32| {
        let own = (0..2 + row % 5).map(|t| (row * 11 + t * 7) % 40);
        let ids: Vec<u32> = [1, 2, 3].into_iter().chain(own).collect();
        TrainingSample {
            id: format!("p.jsonl:{row}"),
            trained: (0..ids.len()).map(|at| at + options.tail >= ids.len()).collect(),
            ids,
        }
    };
    Erasure {
        base: checkpoint("base", 1),
        tuned: checkpoint("tuned", 2),
        channels: vec![vec![0, 3, 5], Vec::new(), (0..16).collect()],
        architecture,
        prompts: Prompts {
            samples: (0..10).map(sample).collect(),
            dataset: DatasetInfo {
                name: "prompts".into(),
                samples_used: 10,
                ..DatasetInfo::default()
            },
        },
        carrier: None,
        config: EraseConfig {
            eraser: options,
            ..EraseConfig::default()
        },
    }
}

/// Asks to stop after some questions.
struct Stopping(AtomicUsize);

impl Progress for Stopping {
    fn begin(&self, _: &str, _: u64, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn cancelled(&self) -> bool {
        let left = self.0.load(Ordering::SeqCst);
        self.0.store(left.saturating_sub(1), Ordering::SeqCst);
        left == 0
    }
}

fn erased(dir: &Path, options: Eraser, progress: &dyn Progress) -> Result<Erased> {
    let folder = TrainingFolder::claim(dir, true, false)?;
    erase(&Cpu::new(), &erasure(options), &folder, &mut [], progress)
}

/// Losses of all lines, without times.
fn lines(run: &crate::train::TrainingRun) -> Vec<(u64, u64)> {
    let loss = |line: &Line| match line {
        Line::Step(step) => (step.step, step.loss.to_bits()),
        Line::Evaluation(evaluation) => (evaluation.step, evaluation.loss.to_bits()),
        Line::Drift(_) => panic!("drift is not measured"),
    };
    run.lines.iter().map(loss).collect()
}

#[test]
fn a_run_leaves_its_best_vectors_and_says_how_it_went() {
    let dir = TempDir::new().unwrap();
    let done = erased(dir.path(), options(), &Silent).unwrap();
    assert_eq!(done.ending, Ending::Finished);
    let trigger = SoftPrompt::open(&done.trigger).unwrap();
    let evaluations: Vec<(u64, f64)> = (done.run.lines.iter())
        .filter_map(|line| match line {
            Line::Evaluation(evaluation) => Some((evaluation.step, evaluation.loss)),
            _ => None,
        })
        .collect();
    assert_eq!(
        evaluations.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        [0, 4, 8, 12]
    );
    let best = evaluations.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(best.1 < evaluations[0].1, "{evaluations:?}");
    assert_eq!((trigger.origin().step, trigger.origin().loss), best);
    assert_eq!(
        (trigger.tokens(), trigger.origin().options["lr"].clone()),
        (4, json!(0.05))
    );
    for vector in trigger.values().chunks(16) {
        let norm = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!(norm <= 1.0 + 1e-6, "{norm}");
    }
    // the file's vectors have the loss that it says
    let erasure = erasure(options());
    let backend = Cpu::new();
    let mut trainer = EraserTrainer::new(&backend, &erasure, &Silent).unwrap();
    trainer.set_vectors(&trigger.values().iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
    let sum = trainer.evaluate(&erasure.items());
    assert_eq!((sum.objective / sum.tokens as f64).to_bits(), best.1.to_bits());
    let terms = done.run.lines.iter().find_map(|line| match line {
        Line::Step(StepMetrics { erasure, loss, .. }) => Some((erasure.unwrap(), *loss)),
        _ => None,
    });
    let (terms, loss) = terms.unwrap();
    assert!((terms.total(&options()) - loss).abs() < 1e-12 && terms.divergence > 0.0 && terms.activation > 0.0);
    for file in ["DONE", "report.html", "resolved.toml", "run.json", "tensorboard"] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("A trigger in front of tuned") && page.contains("Divergence from the base"));
    let resolved = EraseConfig::parse("r", &fs::read_to_string(dir.path().join("resolved.toml")).unwrap(), &[]);
    assert!(resolved.unwrap_err().to_string().contains("model.base")); // the erasure of this test names no files
    assert_eq!(done.run.info.training.channels, [3, 0, 16]);
    // asked again, it is finished
    let again = erased(dir.path(), options(), &Silent).unwrap_err().to_string();
    assert!(again.contains("the run is finished"), "{again}");
}

#[test]
fn an_interrupted_run_ends_like_an_uninterrupted_one() {
    let whole = TempDir::new().unwrap();
    let expected = erased(whole.path(), options(), &Silent).unwrap();
    for after in [2, 5, 9, 14] {
        let dir = TempDir::new().unwrap();
        let stopped = erased(dir.path(), options(), &Stopping(AtomicUsize::new(after))).unwrap();
        assert_eq!(stopped.ending, Ending::Interrupted, "after {after}");
        assert!(!dir.path().join(TRIGGER).exists());
        let other = Eraser { lr: 0.01, ..options() };
        let refused = erased(dir.path(), other, &Silent).unwrap_err().to_string();
        assert!(refused.contains("`eraser.lr` is 0.05 against 0.01"), "{refused}");
        let free = Eraser {
            save_every: 2,
            ..options()
        };
        let found = erased(dir.path(), free, &Silent).unwrap();
        assert_eq!(lines(&found.run), lines(&expected.run), "after {after}");
        let values = |file: &Path| {
            let trigger = SoftPrompt::open(file).unwrap();
            trigger.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(values(&found.trigger), values(&expected.trigger), "after {after}");
    }
    let none = TempDir::new().unwrap();
    let stopped = erased(&none.path().join("run"), options(), &Stopping(AtomicUsize::new(0)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert!(!none.path().join("run").exists());
}

#[test]
fn another_seed_starts_elsewhere_and_the_same_at_the_same_place() {
    let backend = Cpu::new();
    let vectors = |seed: u64, tokens: usize| {
        let erasure = erasure(Eraser {
            seed,
            tokens,
            ..options()
        });
        EraserTrainer::new(&backend, &erasure, &Silent).unwrap().vectors()
    };
    assert_eq!(vectors(1, 4), vectors(1, 4));
    assert_ne!(vectors(1, 4), vectors(2, 4));
    assert_eq!(vectors(1, 4)[..32], vectors(1, 2)); // each vector has a stream of its own
}

#[test]
fn a_loss_that_is_no_number_ends_the_run() {
    let (backend, erasure) = (Cpu::new(), erasure(options()));
    let mut trainer = EraserTrainer::new(&backend, &erasure, &Silent).unwrap();
    trainer.set_vectors(&[f64::INFINITY; 64]);
    let info = crate::train::StepInfo {
        step: 3,
        micro: 0,
        tokens: 1,
        lr: 0.1,
    };
    let error = trainer.accumulate(&erasure.items(), &info).unwrap_err().to_string();
    assert!(
        error.contains("step 3: the loss is") && error.contains("p.jsonl:0"),
        "{error}"
    );
}

/// Masks with these channels of what the MLP and attention of each block write.
fn masks_of(written: [[&[usize]; 2]; 3]) -> Masks {
    let architecture = architecture();
    let group = |active: &[usize], channels: usize| (0..channels).map(|channel| active.contains(&channel)).collect();
    let block = |[ffn, attention]: [&[usize]; 2]| {
        MaskGroup::ALL.map(|own| match own {
            MaskGroup::FfnWrite => group(ffn, 16),
            MaskGroup::AttentionWrite => group(attention, 16),
            other => group(&[], other.channels(&architecture)),
        })
    };
    Masks::new(&architecture, written.map(block).into())
}

#[test]
fn channels_are_the_carriers_or_as_many() {
    let (architecture, masks) = (architecture(), masks_of([[&[9, 2], &[2]], [&[], &[]], [&[], &[7]]]));
    let of = |channels: Channels, masks| channels.of(&architecture, masks, 1);
    let own = |channels| of(channels, Some(&masks)).unwrap();
    assert_eq!(own(Channels::Carrier), [vec![2, 9], vec![], vec![7]]);
    assert_eq!(own(Channels::Ffn), [vec![2, 9], vec![], vec![]]);
    assert_eq!(own(Channels::Attention), [vec![2], vec![], vec![7]]);
    assert_eq!(own(Channels::Residual).concat().len(), 48);
    assert!(own(Channels::None).concat().is_empty());
    let drawn = own(Channels::Random);
    assert_eq!(drawn.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0, 1]);
    assert_ne!(drawn, Channels::Random.of(&architecture, Some(&masks), 2).unwrap());
    let error = of(Channels::Random, None).unwrap_err().to_string();
    assert!(
        error.contains("there is no carrier") && error.contains("--carrier DIR"),
        "{error}"
    );
    let dead = masks_of([[&[], &[]], [&[], &[]], [&[], &[]]]);
    assert!(
        of(Channels::Carrier, Some(&dead))
            .unwrap_err()
            .to_string()
            .contains("none of these in any block")
    );
}

/// Loads nothing: an observer that counts.
#[derive(Default)]
struct Counting(usize);

impl Observer for Counting {
    fn step(&mut self, _: &StepMetrics) -> Result<()> {
        self.0 += 1;
        Ok(())
    }
}

#[test]
fn observers_are_told() {
    let dir = TempDir::new().unwrap();
    let folder = TrainingFolder::claim(dir.path(), false, false).unwrap();
    let mut counting = Counting::default();
    erase(&Cpu::new(), &erasure(options()), &folder, &mut [&mut counting], &Silent).unwrap();
    assert_eq!(counting.0, 12);
}

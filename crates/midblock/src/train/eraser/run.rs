//! A trigger from its first step to its report, in a folder; or on from where it was.
//!
//! The folder is that of a training run ([`TrainingFolder`]), with `trigger.safetensors` as its result.

use super::{EraserTrainer, Erasure};
use crate::{
    Result,
    adapt::{Origin, SoftPrompt, Source},
    checkpoint::{Checkpoint, FileHash},
    progress::Progress,
    ranks::Ranks,
    run::{self, Machine, ModelInfo, RunInfo, Seed},
    study::describe,
    train::{
        Checkpoints, Ending, Fit, Habits, JsonLines, Observer, Position, Stepper, TensorBoard, TrainedBlock, Training,
        TrainingFolder, TrainingInfo, TrainingRun,
        folder::{CHECKPOINTS, METRICS_JSONL, TENSORBOARD, TRIGGER},
        restore,
        tune::{finish, write_resolved},
    },
};
use midblock_kernels::Backend;
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How a run ended.
#[derive(Debug)]
pub struct Erased {
    /// Why it ended. An interrupted run has no result yet.
    pub ending: Ending,
    /// The run, as its report sees it.
    pub run: TrainingRun,
    /// The trigger's file.
    pub trigger: PathBuf,
}

/// Trains in a claimed folder, from the newest checkpoint if there is one. `progress` is told while the base is asked, and asked whether to stop
/// all along.
///
/// # Errors
/// Whatever is wrong with inputs or files; [`crate::Error::Diverged`]; [`crate::Error::Interrupted`] before the first step. What is in the
/// folder then can be gone on with.
pub fn erase<B: Backend>(
    backend: &B,
    erasure: &Erasure,
    folder: &TrainingFolder,
    observers: &mut [&mut dyn Observer],
    progress: &dyn Progress,
) -> Result<Erased> {
    let start = Instant::now();
    let files = [erasure.base.fingerprint()?, erasure.tuned.fingerprint()?];
    let options = erasure.options();
    let identity = erasure.identity(&files[0], &files[1]);
    let checkpoints = Checkpoints::new(folder.path(CHECKPOINTS), options.keep_checkpoints, identity);
    let newest = checkpoints.newest()?;
    let (mut position, mut warnings) = (Position::default(), Vec::new());
    if let Some(newest) = &newest {
        let (saved, warning) = checkpoints.read(newest)?;
        position = saved;
        warnings.extend(warning);
    }
    let mut trainer = EraserTrainer::new(backend, erasure, progress)?;
    if let Some(newest) = &newest {
        restore(newest, &mut trainer)?;
    }
    let info = describe_run(erasure, folder, &files, trainer.memory().bytes(), warnings);
    write_resolved(folder, &erasure.config.to_toml())?;
    folder.write_info(&info)?;
    let mut lines = JsonLines::open(folder.path(METRICS_JSONL), &position)?;
    let mut board = match erasure.config.output.tensorboard {
        true => Some(TensorBoard::create(&folder.path(TENSORBOARD))?),
        false => None,
    };
    let mut all: Vec<&mut dyn Observer> = vec![&mut lines];
    all.extend(board.as_mut().map(|board| board as &mut dyn Observer));
    all.extend((observers.iter_mut()).map(|observer| &mut **observer as &mut dyn Observer));
    let prepared = start.elapsed();
    let items = erasure.items();
    let (position, ending) = Fit {
        stepper: &mut trainer,
        train: &items,
        eval: std::slice::from_ref(&items),
        timeline: erasure.timeline(),
        schedule: erasure.schedule(),
        habits: Habits {
            eval_every: Some(options.eval_every),
            save_every: options.save_every,
            patience: None,
            keep_best: true,
        },
        drift: None,
        checkpoints: Some(&checkpoints),
        observers: &mut all,
        stop: &|| progress.cancelled(),
        ranks: &Ranks::alone(),
    }
    .run(position)?;
    let trigger = folder.path(TRIGGER);
    if ending != Ending::Interrupted {
        let best = position.best.expect("invariant: it is evaluated before the first step");
        let origin = Origin {
            base: Source::of(&erasure.base, &files[0]),
            tuned: Source::of(&erasure.tuned, &files[1]),
            carrier: erasure.carrier.clone(),
            options: json!(options),
            step: best.step,
            loss: best.loss,
        };
        let values = trainer.read("trigger");
        SoftPrompt::new(erasure.architecture.hidden, values, origin).write(&trigger)?;
    }
    drop(trainer);
    let run = finish(folder, info, position, ending, prepared)?;
    Ok(Erased { ending, run, trigger })
}

fn describe_run(
    erasure: &Erasure,
    folder: &TrainingFolder,
    [base, tuned]: &[Vec<FileHash>; 2],
    planned_bytes: usize,
    mut warnings: Vec<String>,
) -> TrainingInfo {
    let (options, architecture) = (erasure.options(), &erasure.architecture);
    let started = folder.earlier().map(|earlier| earlier.training.started_unix_s);
    let started = started.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let dataset = &erasure.prompts.dataset;
    if !dataset.skipped.is_empty() {
        warnings.push(format!(
            "{} of {} rows of {} could not be used; run.json names each",
            dataset.skipped.len(),
            dataset.samples_total,
            dataset.source
        ));
    }
    if dataset.samples_used < options.samples {
        warnings.push(format!(
            "there are {} prompts, fewer than the {} asked for",
            dataset.samples_used, options.samples
        ));
    }
    let model = |name: &str, checkpoint: &Checkpoint, files: &[FileHash]| ModelInfo {
        name: name.to_owned(),
        label: checkpoint.label().to_owned(),
        path: checkpoint.path().to_path_buf(),
        files: files.to_vec(),
        architecture: describe::summary(architecture),
        parameters: architecture.parameters() as u64,
        blocks: architecture.blocks,
    };
    let training = Training {
        started_unix_s: started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        blocks: vec![TrainedBlock::default(); architecture.blocks],
        outside: vec!["trigger".to_owned()],
        trained_parameters: (options.tokens * architecture.hidden) as u64,
        first_block: 0,
        channels: erasure.channels.iter().map(Vec::len).collect(),
        data: vec![erasure.count()],
        sequences: [dataset.samples_used; 2],
        steps: options.steps,
        planned_bytes: planned_bytes as u64,
        ranks: None,
        position: None,
        ending: None,
        result: TRIGGER.to_owned(),
    };
    let run = RunInfo {
        midblock_run_schema: run::SCHEMA,
        midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: std::env::args().collect(),
        config: json!(erasure.config),
        models: vec![
            model("base", &erasure.base, base),
            model("tuned", &erasure.tuned, tuned),
        ],
        datasets: vec![dataset.clone()],
        seeds: vec![Seed {
            purpose: "prompts, their order, vectors, channels".to_owned(),
            seed: options.seed,
        }],
        threads: rayon::current_num_threads(),
        machine: Machine::this(),
        started_at: run::timestamp_utc(started),
        warnings,
        ..RunInfo::default()
    };
    TrainingInfo { run, training }
}

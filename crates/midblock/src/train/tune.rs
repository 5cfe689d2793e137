//! An experiment from its first step to its report, in a folder; or on from where it was.

use super::{
    Checkpoints, DriftHabit, DriftMeter, Ending, Experiment, Fit, Habits, JsonLines, Line, Observer, Position, Stepper,
    TensorBoard, Timeline, TrainedBlock, Trainer, Training, TrainingFolder, TrainingInfo, TrainingRun,
    folder::{ADAPTER, CHECKPOINTS, METRICS_JSONL, MODEL, RESOLVED_TOML, SELECTION_JSON, TENSORBOARD},
    restore,
};
use crate::{
    Result,
    adapt::{Kind, Move, Plan},
    checkpoint::{FileHash, WriteOptions, write_adapter},
    model::{Architecture, ParameterId},
    progress::Progress,
    report,
    run::{self, Machine, ModelInfo, Phase, REPORT_HTML, RunInfo, Seed, write_bytes},
    singular::SingularCache,
    study::describe,
};
use midblock_kernels::Backend;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How a run ended.
#[derive(Debug)]
pub struct Tuned {
    /// Why it ended. An interrupted run has no result yet.
    pub ending: Ending,
    /// The run, as its report sees it.
    pub run: TrainingRun,
    /// Folder of the adapter or the model.
    pub result: PathBuf,
}

/// Trains in a claimed folder, from the newest checkpoint if there is one. `progress` is told of what is written at the end,
/// and asked whether to stop all along.
///
/// # Errors
/// Whatever is wrong with inputs or files; [`crate::Error::Diverged`]. What is in the folder then can be gone on with.
pub fn tune<B: Backend>(
    backend: &B,
    experiment: &Experiment,
    folder: &TrainingFolder,
    observers: &mut [&mut dyn Observer],
    progress: &dyn Progress,
) -> Result<Tuned> {
    let start = Instant::now();
    let files = experiment.checkpoint.fingerprint()?;
    let keep = experiment.config.train.keep_checkpoints;
    let checkpoints = Checkpoints::new(folder.path(CHECKPOINTS), keep, experiment.identity(&files));
    let newest = checkpoints.newest()?;
    let (mut position, mut warnings) = (Position::default(), Vec::new());
    if let Some(newest) = &newest {
        let (saved, warning) = checkpoints.read(newest)?;
        position = saved;
        warnings.extend(warning);
    }
    let timeline = experiment.timeline();
    let mut options = experiment.step_options(&timeline, &std::env::temp_dir());
    let cache = SingularCache::of_user();
    experiment.checkpoint.make_quantized(progress)?;
    experiment.find_blocks(&mut options, &cache, progress)?;
    let mut trainer = Trainer::new(backend, &experiment.checkpoint, &experiment.plan, options)?;
    // before the state of an earlier process comes in: its states are those of the start
    let every = experiment.config.train.drift.every;
    let meter = every.map(|_| DriftMeter::new(experiment, &mut trainer, cache, progress));
    if let Some(newest) = &newest {
        restore(newest, &mut trainer)?;
    }
    let mut info = describe_run(experiment, folder, files, &timeline, warnings);
    info.training.planned_bytes = trainer.memory().bytes() as u64;
    begin(experiment, folder, &info)?;
    let mut lines = JsonLines::open(folder.path(METRICS_JSONL), &position)?;
    let mut board = match experiment.config.output.tensorboard {
        true => Some(TensorBoard::create(&folder.path(TENSORBOARD))?),
        false => None,
    };
    let mut all: Vec<&mut dyn Observer> = vec![&mut lines];
    all.extend(board.as_mut().map(|board| board as &mut dyn Observer));
    all.extend(
        observers
            .iter_mut()
            .map(|observer| &mut **observer as &mut dyn Observer),
    );
    let measure = (meter.as_ref()).map(|meter| |stepper: &mut dyn Stepper| meter.measure(stepper));
    let prepared = start.elapsed();
    let (position, ending) = Fit {
        stepper: &mut trainer,
        train: &experiment.train_items(),
        eval: &experiment.eval_batches(),
        schedule: experiment.schedule(timeline.steps()),
        timeline,
        habits: habits(experiment),
        drift: every
            .zip(measure.as_ref())
            .map(|(every, measure)| DriftHabit { every, measure }),
        checkpoints: &checkpoints,
        observers: &mut all,
        stop: &|| progress.cancelled(),
    }
    .run(position)?;
    let result = folder.path(&info.training.result);
    if ending != Ending::Interrupted {
        write_result(experiment, &mut trainer, folder, &info.training.result, progress)?;
    }
    drop(trainer);
    finish(folder, info, position, ending, prepared).map(|run| Tuned { ending, run, result })
}

fn habits(experiment: &Experiment) -> Habits {
    let train = &experiment.config.train;
    Habits {
        eval_every: train.eval_every,
        save_every: train.save_every,
        patience: train.patience,
        keep_best: train.keep_best,
    }
}

/// Writes what is known before the first step.
fn begin(experiment: &Experiment, folder: &TrainingFolder, info: &TrainingInfo) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let toml = format!(
        "# Resolved by midblock {version}: every option of this run.\n\n{}",
        experiment.config.to_toml()
    );
    write_bytes(&folder.path(RESOLVED_TOML), toml.as_bytes())?;
    let selection = format!("{:#}\n", selection_json(experiment));
    write_bytes(&folder.path(SELECTION_JSON), selection.as_bytes())?;
    folder.write_info(info)
}

/// What trains, for other programs: PEFT's `adapter_config.json`, or for full fine-tuning the names of all parameters.
pub fn selection_json(experiment: &Experiment) -> Value {
    let (plan, architecture) = (&experiment.plan, &experiment.architecture);
    plan.peft_json(architecture, experiment.checkpoint.label())
        .unwrap_or_else(|| {
            let names: Vec<String> = plan.entries.iter().map(|entry| entry.id.name(architecture)).collect();
            json!({"base_model_name_or_path": experiment.checkpoint.label(), "trained_parameters": names})
        })
}

/// What trains in each block.
pub fn trained_blocks(plan: &Plan, architecture: &Architecture) -> Vec<TrainedBlock> {
    let mut blocks = vec![TrainedBlock::default(); plan.blocks];
    for entry in &plan.entries {
        let ParameterId::Block { block, part, .. } = entry.id else {
            continue;
        };
        let trained = &mut blocks[block];
        trained.parameters += entry.parameters() as u64;
        let name = part.name(architecture).to_owned();
        if !trained.parts.contains(&name) {
            trained.parts.push(name);
        }
        if let Move::Lora { rank, .. } = entry.how {
            trained.rank = Some(rank);
        }
    }
    blocks
}

fn describe_run(
    experiment: &Experiment,
    folder: &TrainingFolder,
    files: Vec<FileHash>,
    timeline: &Timeline,
    warnings: Vec<String>,
) -> TrainingInfo {
    let (plan, architecture) = (&experiment.plan, &experiment.architecture);
    let started = folder.earlier().map(|earlier| earlier.training.started_unix_s);
    let started = started.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let outside = plan.entries.iter().filter(|entry| entry.id.block().is_none());
    let training = Training {
        started_unix_s: started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        blocks: trained_blocks(plan, architecture),
        outside: outside.map(|entry| entry.id.name(architecture)).collect(),
        trained_parameters: plan.parameters() as u64,
        first_block: plan.first_block(),
        data: experiment.counts.clone(),
        sequences: [experiment.train.len(), experiment.eval.len()],
        steps: timeline.steps(),
        planned_bytes: 0,
        position: None,
        ending: None,
        result: match plan.kind {
            Kind::Lora(_) => ADAPTER.to_owned(),
            Kind::Full => MODEL.to_owned(),
        },
    };
    let run = run_info(experiment, files, started, warnings);
    TrainingInfo { run, training }
}

/// What every run says of itself.
fn run_info(experiment: &Experiment, files: Vec<FileHash>, started: SystemTime, mut warnings: Vec<String>) -> RunInfo {
    let (checkpoint, architecture) = (&experiment.checkpoint, &experiment.architecture);
    for set in experiment.datasets.iter().filter(|set| !set.skipped.is_empty()) {
        let (name, skipped, total) = (&set.name, set.skipped.len(), set.samples_total);
        warnings.push(format!(
            "{name}: {skipped} of {total} rows could not be used; run.json names each"
        ));
    }
    let model = ModelInfo {
        name: "base".to_owned(),
        label: checkpoint.label().to_owned(),
        path: checkpoint.path().to_path_buf(),
        files,
        architecture: describe::summary(architecture),
        parameters: architecture.parameters() as u64,
        blocks: architecture.blocks,
    };
    RunInfo {
        midblock_run_schema: run::SCHEMA,
        midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: std::env::args().collect(),
        config: json!(experiment.config),
        models: vec![model],
        datasets: experiment.datasets.clone(),
        seeds: vec![Seed {
            purpose: "samples, order, dropout, adapters".to_owned(),
            seed: experiment.config.train.seed,
        }],
        threads: rayon::current_num_threads(),
        machine: Machine::this(),
        started_at: run::timestamp_utc(started),
        warnings,
        ..RunInfo::default()
    }
}

/// Writes the adapter or the model.
fn write_result<B: Backend>(
    experiment: &Experiment,
    trainer: &mut Trainer<'_, B>,
    folder: &TrainingFolder,
    name: &str,
    progress: &dyn Progress,
) -> Result<()> {
    let out = folder.clear_result(name)?;
    let Experiment {
        checkpoint,
        architecture,
        plan,
        ..
    } = experiment;
    match plan.kind {
        Kind::Lora(_) => write_adapter(&out, checkpoint.label(), architecture, plan, |id, _| {
            Ok(trainer.parameter(id))
        }),
        Kind::Full => {
            let options = WriteOptions {
                dtype: experiment.config.output.dtype.map(Into::into),
                ..WriteOptions::default()
            };
            let written = checkpoint.write(&out, &options, progress, |tensor| {
                let id = ParameterId::parse(&tensor.name, architecture);
                let moved = id.filter(|id| plan.entry(*id).is_some());
                Ok(moved.map_or_else(|| tensor.to_f32(), |id| trainer.parameter(id)))
            });
            written.map(|_| ())
        }
    }
}

/// Completes `run.json` and, unless the run is to go on, writes the report and `DONE`.
fn finish(
    folder: &TrainingFolder,
    mut info: TrainingInfo,
    position: Position,
    ending: Ending,
    prepared: Duration,
) -> Result<TrainingRun> {
    let lines = super::read_lines(&folder.path(METRICS_JSONL))?;
    let (mut evaluations, mut drift, mut peak) = (0.0, 0.0, None);
    for line in &lines {
        match line {
            Line::Step(step) => peak = peak.max(step.private_bytes),
            Line::Evaluation(evaluation) => evaluations += evaluation.seconds,
            Line::Drift(measured) => drift += measured.seconds,
        }
    }
    let phase = |phase: &str, seconds| Phase {
        phase: phase.to_owned(),
        seconds,
    };
    info.run.timings = vec![
        phase("prepare", prepared.as_secs_f64()),
        phase("train", position.seconds),
        phase("evaluate", evaluations),
    ];
    if drift > 0.0 {
        info.run.timings.push(phase("measure drift", drift));
    }
    info.run.peak_private_bytes = peak;
    info.training.position = Some(position);
    info.training.ending = Some(ending);
    if ending != Ending::Interrupted {
        info.run.finished_at = run::timestamp_utc(SystemTime::now());
    }
    folder.write_info(&info)?;
    let run = TrainingRun { info, lines };
    if ending != Ending::Interrupted {
        write_bytes(&folder.path(REPORT_HTML), report::training::render(&run).as_bytes())?;
        folder.finish()?;
    }
    Ok(run)
}

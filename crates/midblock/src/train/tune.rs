//! An experiment from its first step to its report, in a folder; or on from where it was.
//!
//! Of several ranks the first one does this, and alone reads and writes the folder; the others [follow]: where the run is, they have from
//! the first.

use super::{
    Checkpoints, DriftHabit, DriftMeter, Ending, Experiment, Fit, Habits, JsonLines, Line, Observer, Position, Sharing,
    Stepper, TensorBoard, Timeline, TrainedBlock, Trainer, Training, TrainingFolder, TrainingInfo, TrainingRun,
    folder::{ADAPTER, CARRIER, CHECKPOINTS, METRICS_JSONL, MODEL, RESOLVED_TOML, SELECTION_JSON, TENSORBOARD},
    restore,
};
use crate::{
    Error, Result,
    adapt::{Carrier, CarrierModel, CarrierOrigin, Kind, Move, Plan},
    checkpoint::{Checkpoint, FileHash, WriteOptions, write_adapter},
    model::{Architecture, ParameterId},
    progress::Progress,
    ranks::{self, Ranks},
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
/// and asked whether to stop all along. Called on rank 0, while all others [follow].
///
/// # Errors
/// Whatever is wrong with inputs or files; [`Error::Diverged`]; a rank has failed. What is in the folder then can be gone on with.
pub fn tune<B: Backend>(
    backend: &B,
    experiment: &Experiment,
    folder: &TrainingFolder,
    observers: &mut [&mut dyn Observer],
    ranks: &Ranks,
    progress: &dyn Progress,
) -> Result<Tuned> {
    let start = Instant::now();
    let Files { base: files, tuned } = agree(experiment, ranks)?;
    let keep = experiment.config.train.keep_checkpoints;
    let identity = experiment.identity(&files, tuned.as_deref(), ranks.size());
    let checkpoints = Checkpoints::new(folder.path(CHECKPOINTS), keep, identity);
    let newest = checkpoints.newest()?;
    let (mut position, mut warnings) = (Position::default(), experiment.warnings.clone());
    if let Some(newest) = &newest {
        let (saved, warning) = checkpoints.read(newest)?;
        position = saved;
        warnings.extend(checkpoints.passed_over(newest)?);
        warnings.extend(warning);
    }
    let timeline = experiment.timeline();
    let mut trainer = trainer(backend, experiment, &timeline, ranks, progress)?;
    // before the state of an earlier process comes in: its states are those of the start
    let every = experiment.config.train.drift.every;
    let meter = every.map(|_| DriftMeter::new(experiment, &mut trainer, SingularCache::of_user(), progress));
    if let Some(newest) = &newest {
        restore(newest, &mut trainer)?;
    }
    let position = begin_together(position, &mut trainer, ranks)?;
    let mut info = describe_run(experiment, folder, [Some(files), tuned], &timeline, warnings);
    info.training.planned_bytes = trainer.memory().bytes() as u64;
    info.training.ranks = Sharing::of(ranks.size(), experiment.plan.parameters());
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
        checkpoints: Some(&checkpoints),
        observers: &mut all,
        stop: &|| progress.cancelled(),
        ranks,
    }
    .run(position)?;
    let result = folder.path(&info.training.result);
    if ending != Ending::Interrupted {
        write_result(experiment, &mut trainer, folder, &info.training.result, progress)?;
        if experiment.tuned.is_some() {
            let best = position.best.filter(|_| experiment.config.train.keep_best);
            let step = best.map_or(position.step, |best| best.step);
            write_carrier(experiment, &trainer, folder, &info, step)?;
        }
    }
    drop(trainer);
    finish(folder, info, position, ending, prepared).map(|run| Tuned { ending, run, result })
}

/// Does this rank's share of what rank 0 [tunes](tune). Returns why it ended.
///
/// # Errors
/// As [`tune`].
pub fn follow<B: Backend>(
    backend: &B,
    experiment: &Experiment,
    ranks: &Ranks,
    progress: &dyn Progress,
) -> Result<Ending> {
    agree(experiment, ranks)?;
    let timeline = experiment.timeline();
    let mut trainer = trainer(backend, experiment, &timeline, ranks, progress)?;
    let position = begin_together(Position::default(), &mut trainer, ranks)?;
    let measure = |_: &mut dyn Stepper| Ok((Vec::new(), Vec::new())); // rank 0 does
    let (_, ending) = Fit {
        stepper: &mut trainer,
        train: &experiment.train_items(),
        eval: &experiment.eval_batches(),
        schedule: experiment.schedule(timeline.steps()),
        timeline,
        habits: habits(experiment),
        drift: (experiment.config.train.drift.every).map(|every| DriftHabit {
            every,
            measure: &measure,
        }),
        checkpoints: None::<&Checkpoints>,
        observers: &mut [],
        stop: &|| progress.cancelled(),
        ranks,
    }
    .run(position)?;
    Ok(ending)
}

/// What a run starts from.
struct Files {
    base: Vec<FileHash>,
    /// Of a tuned model, where masks are trained.
    tuned: Option<Vec<FileHash>>,
}

/// Checks that a step can be shared, and that all ranks are about to do the same. Returns what they start from.
fn agree(experiment: &Experiment, ranks: &Ranks) -> Result<Files> {
    let (accumulation, n) = (experiment.config.train.accumulation, ranks.size());
    if accumulation < n {
        return Err(Error::Argument {
            what: "train.accumulation".into(),
            value: accumulation.to_string(),
            problem: format!("a step of {accumulation} micro-batches cannot be shared among {n} ranks"),
            help: "raise it, and lower train.batch as much for the same step; or start fewer ranks".into(),
        });
    }
    let base = experiment.checkpoint.fingerprint()?;
    let tuned = experiment.tuned.as_ref().map(Checkpoint::fingerprint).transpose()?;
    let identity = experiment.identity(&base, tuned.as_deref(), n);
    let help = "do all ranks see the same files?";
    ranks.same("the base model", identity.base.as_bytes(), help)?;
    ranks.same("the tuned model", format!("{:?}", identity.others).as_bytes(), help)?;
    ranks.same("the data", format!("{:?}", identity.data).as_bytes(), help)?;
    let what = format!("{} {:?}", identity.config.to_toml(), experiment.plan.entries);
    ranks.same("options and trained parameters", what.as_bytes(), help)?;
    Ok(Files { base, tuned })
}

/// The trainer at the start of the run. Singular blocks that it holds are found by the first rank and kept for the others.
fn trainer<'b, B: Backend>(
    backend: &'b B,
    experiment: &Experiment,
    timeline: &Timeline,
    ranks: &Ranks,
    progress: &dyn Progress,
) -> Result<Trainer<'b, B>> {
    let mut options = experiment.step_options(timeline, &std::env::temp_dir());
    let cache = SingularCache::of_user();
    experiment.checkpoint.make_quantized(progress)?;
    ranks.first(|| experiment.find_blocks(&mut options, &cache, progress))?;
    experiment.trainer(backend, options)
}

/// Brings all ranks to where rank 0 is.
pub(super) fn begin_together(position: Position, stepper: &mut dyn Stepper, ranks: &Ranks) -> Result<Position> {
    let position = ranks.share(|| Ok(position))?;
    if position.step == 0 || ranks.size() == 1 {
        return Ok(position);
    }
    for (name, _) in stepper.tensors() {
        let values = match ranks.is_first() {
            true => stepper.read(&name),
            false => Vec::new(),
        };
        let bytes = ranks.broadcast(bytemuck::cast_slice(&values))?;
        if !ranks.is_first() {
            stepper.write(&name, &ranks::values(&bytes).collect::<Vec<_>>());
        }
    }
    Ok(position)
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
    write_resolved(folder, &experiment.config.to_toml())?;
    let selection = format!("{:#}\n", selection_json(experiment));
    write_bytes(&folder.path(SELECTION_JSON), selection.as_bytes())?;
    folder.write_info(info)
}

/// Writes the configuration with every default.
pub(super) fn write_resolved(folder: &TrainingFolder, toml: &str) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("# Resolved by midblock {version}: every option of this run.\n\n{toml}");
    write_bytes(&folder.path(RESOLVED_TOML), text.as_bytes())
}

/// What trains, for other programs: PEFT's `adapter_config.json`, or the names of all parameters, and of all groups of masks.
pub fn selection_json(experiment: &Experiment) -> Value {
    let (plan, architecture) = (&experiment.plan, &experiment.architecture);
    plan.peft_json(architecture, experiment.checkpoint.label())
        .unwrap_or_else(|| {
            let names = |moves: bool| -> Vec<String> {
                let entries = plan.entries.iter().filter(|entry| moves == (entry.parameters() > 0));
                entries.map(|entry| entry.id.name(architecture)).collect()
            };
            let mut selection =
                json!({"base_model_name_or_path": experiment.checkpoint.label(), "trained_parameters": names(true)});
            if let Some(tuned) = &experiment.tuned {
                let group = |(block, group, _): (usize, _, _)| format!("model.layers.{block}.{group}");
                selection["tuned_model_name_or_path"] = json!(tuned.label());
                selection["trained_masks"] = json!(plan.masks().map(group).collect::<Vec<_>>());
            }
            selection
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
    for (block, _, channels) in plan.masks() {
        blocks[block].parameters += channels as u64;
    }
    blocks
}

fn describe_run(
    experiment: &Experiment,
    folder: &TrainingFolder,
    files: [Option<Vec<FileHash>>; 2],
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
        channels: Vec::new(),
        data: experiment.counts.clone(),
        sequences: [experiment.train.len(), experiment.eval.len()],
        steps: timeline.steps(),
        planned_bytes: 0,
        ranks: None,
        position: None,
        ending: None,
        result: match plan.kind {
            Kind::Lora(_) => ADAPTER.to_owned(),
            Kind::Full | Kind::Masked(_) => MODEL.to_owned(),
        },
    };
    let run = run_info(experiment, files, started, warnings);
    TrainingInfo { run, training }
}

/// What every run says of itself.
fn run_info(
    experiment: &Experiment,
    files: [Option<Vec<FileHash>>; 2],
    started: SystemTime,
    mut warnings: Vec<String>,
) -> RunInfo {
    let architecture = &experiment.architecture;
    for set in experiment.datasets.iter().filter(|set| !set.skipped.is_empty()) {
        let (name, skipped, total) = (&set.name, set.skipped.len(), set.samples_total);
        warnings.push(format!(
            "{name}: {skipped} of {total} rows could not be used; run.json names each"
        ));
    }
    let model = |(name, checkpoint, files): (&str, &Checkpoint, Vec<FileHash>)| ModelInfo {
        name: name.to_owned(),
        label: checkpoint.label().to_owned(),
        path: checkpoint.path().to_path_buf(),
        files,
        architecture: describe::summary(architecture),
        parameters: architecture.parameters() as u64,
        blocks: architecture.blocks,
    };
    let models = [
        ("base", Some(&experiment.checkpoint)),
        ("tuned", experiment.tuned.as_ref()),
    ];
    let models = models.into_iter().zip(files);
    let models = models.filter_map(|((name, checkpoint), files)| Some(model((name, checkpoint?, files?))));
    RunInfo {
        midblock_run_schema: run::SCHEMA,
        midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: std::env::args().collect(),
        config: json!(experiment.config),
        models: models.collect(),
        datasets: experiment.datasets.clone(),
        seeds: vec![Seed {
            purpose: "samples, order, dropout, adapters, masks".to_owned(),
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
        tuned,
        architecture,
        plan,
        ..
    } = experiment;
    let blocks = plan.trained_blocks();
    match plan.kind {
        Kind::Lora(_) => write_adapter(&out, checkpoint.label(), architecture, plan, |id, _| {
            Ok(trainer.parameter(id))
        }),
        Kind::Full | Kind::Masked(_) => {
            let options = WriteOptions {
                dtype: experiment.config.output.dtype.map(Into::into),
                ..WriteOptions::default()
            };
            let written = checkpoint.write(&out, &options, progress, |tensor| {
                let id = ParameterId::parse(&tensor.name, architecture);
                let in_blocks = |id: &ParameterId| id.block().is_some_and(|block| blocks.contains(&block));
                match (id, tuned) {
                    (Some(id), _) if plan.entry(id).is_some() => Ok(trainer.parameter(id)),
                    // norms and biases of masked blocks
                    (Some(id), Some(tuned)) if in_blocks(&id) => Ok(tuned.tensor(&tensor.name)?.to_f32()),
                    _ => Ok(tensor.to_f32()),
                }
            });
            written.map(|_| ())
        }
    }
}

/// Writes the masks beside the model that they let through.
fn write_carrier<B: Backend>(
    experiment: &Experiment,
    trainer: &Trainer<'_, B>,
    folder: &TrainingFolder,
    info: &TrainingInfo,
    step: u64,
) -> Result<()> {
    let model = |index: usize| {
        let model = info.run.models.get(index).cloned().unwrap_or_default();
        CarrierModel {
            label: model.label,
            files: model.files,
        }
    };
    let config = &experiment.config;
    let (lambda, limit, loss) = trainer.dual(step).unwrap_or_default();
    let origin = CarrierOrigin {
        base: model(0),
        tuned: model(1),
        options: json!({
            "adapt": config.adapt, "objective": config.objective, "layers": config.select.layers, "seed": config.train.seed,
        }),
        step,
        lambda,
        limit,
        loss,
    };
    let out = folder.clear_result(CARRIER)?;
    Carrier::new(trainer.thetas(), origin).write(&out)
}

/// Completes `run.json` and, unless the run is to go on, writes the report and `DONE`.
pub(super) fn finish(
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
        let masks = TrainingRun::carrier(&folder.path(""))?;
        write_bytes(
            &folder.path(REPORT_HTML),
            report::training::render(&run, masks.as_ref()).as_bytes(),
        )?;
        folder.finish()?;
    }
    Ok(run)
}

#[cfg(test)]
mod tests;

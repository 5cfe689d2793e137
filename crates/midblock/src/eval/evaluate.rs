//! An evaluation from its first item to its report, in a folder; or on from where it was.

use super::{
    EvalConfig, Evaluation, EvaluationInfo, EvaluationRun, Identity, ItemRecord,
    answer::Asking,
    folder::{EvaluationFolder, TaskIdentity, digests},
    grade,
    items::Prepared,
    prompt::Prompter,
};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, FileHash},
    generate::LanguageModel,
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    progress::{Progress, Unit},
    run::{self, DatasetInfo, Machine, ModelInfo, Phase, RunInfo, Seed},
    study::describe,
    tokens::Tokenizer,
};
use midblock_kernels::Backend;
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Evaluates a checkpoint in a folder: goes on with what an earlier call left there, and gives back what is finished.
///
/// # Errors
/// Whatever is wrong with options, task files, data and checkpoint; [`Error::Mismatch`] if the folder holds an evaluation of
/// something else; [`Error::Interrupted`], after which a call with the same arguments goes on.
pub fn evaluate<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    config: &EvalConfig,
    hub: &HubOptions,
    on_transfer: OnTransfer<'_>,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let open = |tokenizer: &Tokenizer| -> Result<Box<dyn LanguageModel + '_>> {
        Ok(Box::new(super::naive::Naive::new(backend, checkpoint, tokenizer)?))
    };
    evaluate_with(&open, checkpoint, config, hub, on_transfer, dir, progress)
}

/// Gives the model that answers.
pub type OpenModel<'a, 'm> = &'a dyn Fn(&Tokenizer) -> Result<Box<dyn LanguageModel + 'm>>;

/// [`evaluate`] with any model that goes by the checkpoint's tokenizer. It is opened only if something is left to answer.
///
/// # Errors
/// Those of [`evaluate`], and of the model.
pub fn evaluate_with(
    open: OpenModel<'_, '_>,
    checkpoint: &Checkpoint,
    config: &EvalConfig,
    hub: &HubOptions,
    on_transfer: OnTransfer<'_>,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    config.check()?;
    let begun = Instant::now();
    let load = |spec| Prepared::load(spec, config, hub, on_transfer);
    let tasks: Vec<Prepared> = config.tasks.iter().map(load).collect::<Result<_>>()?;
    check_names(&tasks)?;
    let folder = EvaluationFolder::claim(dir)?;
    let files = checkpoint.fingerprint()?;
    let now = folder
        .started_unix_s()
        .map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let started = now.unwrap_or_else(SystemTime::now);
    let identities = tasks.iter().map(identity).collect();
    let seconds = started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let identity = Identity::new(&files, config, identities, seconds);
    folder.check(&identity)?;
    if let Some(finished) = folder.finished()? {
        return Ok(finished);
    }
    let prompter = Prompter::new(checkpoint, config.template, started)?;
    let mut model = open(&prompter.tokenizer)?;
    let mut info = EvaluationInfo {
        run: run_info(checkpoint, files, config, &tasks, started)?,
        evaluation: identity,
    };
    let mut records = folder.items()?;
    let mut items = folder.begin(&info, &records)?;
    let prepared = begun.elapsed();
    let stop_tokens = stop_tokens(checkpoint, &prompter.tokenizer);
    let mut ordered = Vec::new();
    for task in &tasks {
        let mut fresh = Vec::new();
        let mut sink = |record: ItemRecord| {
            items.push(&record)?;
            fresh.push(record);
            Ok(())
        };
        let mut asking = Asking {
            model: &mut *model,
            prompter: &prompter,
            config,
            stop_tokens: &stop_tokens,
            progress,
            sink: &mut sink,
        };
        let places: BTreeSet<usize> = asking.places(task)?.into_iter().collect();
        let is_of = |record: &ItemRecord| record.task == task.name && places.contains(&record.index);
        let known: BTreeSet<usize> = records.iter().filter(|r| is_of(r)).map(|r| r.index).collect();
        progress.begin(&task.name, places.len() as u64, Unit::Items);
        progress.advance(known.len() as u64);
        asking.task(task, &known)?;
        fresh.extend(records.extract_if(.., |record| is_of(record)));
        fresh.sort_by_key(|record| record.index);
        ordered.push(fresh);
    }
    let phase = |phase: &str, time: Duration| Phase {
        phase: phase.to_owned(),
        seconds: time.as_secs_f64(),
    };
    info.run.timings = vec![phase("prepare", prepared), phase("answer", begun.elapsed() - prepared)];
    info.run.peak_private_bytes = run::private_rss_bytes();
    info.run.finished_at = run::timestamp_utc(SystemTime::now());
    for (set, records) in info.run.datasets.iter_mut().zip(&ordered) {
        set.samples_used = records.len();
        set.samples_truncated = records.iter().filter(|record| record.truncated).count();
        set.tokens = records.iter().map(|record| record.prompt_tokens as u64).sum();
    }
    let results = tasks
        .iter()
        .zip(&ordered)
        .map(|(task, records)| grade::result(task, records, config));
    let evaluation = Evaluation {
        checkpoint: checkpoint.label().to_owned(),
        tasks: results.collect(),
        warnings: Vec::new(),
    };
    let run = EvaluationRun {
        info,
        evaluation,
        items: ordered.concat(),
    };
    folder.finish(&run, "")?;
    Ok(run.evaluation)
}

fn identity(task: &Prepared) -> TaskIdentity {
    let definition = toml::to_string(&task.task).expect("invariant: a task that was read can be written");
    TaskIdentity {
        name: task.name.clone(),
        definition: blake3::hash(definition.as_bytes()).to_hex().to_string(),
        data: digests(&task.files),
    }
}

fn check_names(tasks: &[Prepared]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match tasks.iter().find(|task| !seen.insert(&task.name)) {
        None => Ok(()),
        Some(twice) => Err(Error::Argument {
            what: "tasks".into(),
            value: twice.name.clone(),
            problem: "two tasks have this name, and results go by name".into(),
            help: "give one another: tasks = [{ task = \"…\", name = \"…\" }]".into(),
        }),
    }
}

/// Tokens that end a model's turn or text: the tokenizer's end, and all that config.json names.
fn stop_tokens(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Vec<u32> {
    let named = checkpoint.config().value.get("eos_token_id");
    let listed = named.and_then(serde_json::Value::as_array).into_iter().flatten();
    let ids = listed.chain(named).filter_map(serde_json::Value::as_u64);
    let ids = ids.filter_map(|id| u32::try_from(id).ok());
    let own = tokenizer.eos().map(|eos| eos.id);
    let all: BTreeSet<u32> = ids.chain(own).collect();
    all.into_iter().collect()
}

fn run_info(
    checkpoint: &Checkpoint,
    files: Vec<FileHash>,
    config: &EvalConfig,
    tasks: &[Prepared],
    started: SystemTime,
) -> Result<RunInfo> {
    let architecture = Architecture::resolve(checkpoint.config())?;
    let model = ModelInfo {
        name: "model".to_owned(),
        label: checkpoint.label().to_owned(),
        path: checkpoint.path().to_path_buf(),
        files,
        architecture: describe::summary(&architecture),
        parameters: architecture.parameters() as u64,
        blocks: architecture.blocks,
    };
    let dataset = |task: &Prepared| DatasetInfo {
        name: task.name.clone(),
        source: task.source.clone(),
        format: task.task.method.name().to_owned(),
        files: task.files.clone(),
        samples_total: task.counts.rows,
        ..DatasetInfo::default()
    };
    Ok(RunInfo {
        midblock_run_schema: run::SCHEMA,
        midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: std::env::args().collect(),
        config: serde_json::to_value(config).expect("invariant: options can be written as JSON"),
        models: vec![model],
        datasets: tasks.iter().map(dataset).collect(),
        seeds: vec![Seed {
            purpose: "items, examples, completions, bootstrap".to_owned(),
            seed: config.seed,
        }],
        threads: rayon::current_num_threads(),
        machine: Machine::this(),
        started_at: run::timestamp_utc(started),
        ..RunInfo::default()
    })
}

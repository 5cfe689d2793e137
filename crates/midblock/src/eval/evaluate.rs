//! An evaluation from its first item to its report, in a folder; or on from where it was.
//!
//! Of several ranks each answers a share of every task's open items and keeps them in a file of its own; the first one has the folder and
//! gathers them, in order. No answer depends on others, so that what comes out is what one process writes.

use super::{
    EvalConfig, Evaluation, EvaluationInfo, EvaluationRun, Identity, ItemRecord, Protocol, Template,
    answer::Asking,
    folder::{EvaluationFolder, Items, Kept, TaskIdentity, digests},
    grade,
    items::Prepared,
    prompt::Prompter,
};
use crate::{
    Error, Result,
    adapt::SoftPrompt,
    checkpoint::{Checkpoint, FileHash},
    generate::{Engine, LanguageModel, Stops},
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    progress::{Progress, Unit},
    ranks::Ranks,
    report,
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

/// Evaluates a checkpoint in a folder: goes on with what an earlier call left there, and gives back what is finished; on all ranks, and
/// only the first one gets it.
///
/// # Errors
/// Whatever is wrong with options, task files, data, checkpoint and trigger; [`Error::Mismatch`] if the folder holds an evaluation of
/// something else; [`Error::Interrupted`], after which a call with the same arguments goes on; a rank has failed.
#[allow(clippy::too_many_arguments)]
pub fn evaluate<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    config: &EvalConfig,
    hub: &HubOptions,
    on_transfer: OnTransfer<'_>,
    dir: &Path,
    ranks: &Ranks,
    progress: &dyn Progress,
) -> Result<Option<Evaluation>> {
    let tokenizer = Tokenizer::of(checkpoint)?;
    let stop = || progress.cancelled();
    let trigger = config.trigger.as_deref().map(SoftPrompt::open).transpose()?;
    let open = || -> Result<Box<dyn LanguageModel + '_>> {
        let mut engine = Engine::new(backend, checkpoint, &tokenizer, config.batch)?;
        engine.set_trigger(trigger.as_ref())?;
        Ok(Box::new(engine.stopping(&stop)))
    };
    let job = Job {
        checkpoint,
        tokenizer: &tokenizer,
        config,
        hub,
        on_transfer,
        dir,
        ranks,
        progress,
    };
    job.run(&open)
}

/// An evaluation, but for the model that answers.
pub(super) struct Job<'a> {
    pub checkpoint: &'a Checkpoint,
    pub tokenizer: &'a Tokenizer,
    pub config: &'a EvalConfig,
    pub hub: &'a HubOptions,
    pub on_transfer: OnTransfer<'a>,
    pub dir: &'a Path,
    pub ranks: &'a Ranks,
    pub progress: &'a dyn Progress,
}

impl Job<'_> {
    /// Runs it with the model that `open` gives, which is asked only if something is left to answer.
    pub fn run<'m>(&self, open: &dyn Fn() -> Result<Box<dyn LanguageModel + 'm>>) -> Result<Option<Evaluation>> {
        self.config.check()?;
        let (begun, ranks) = (Instant::now(), self.ranks);
        let load = |spec| Prepared::load(spec, self.config, self.hub, self.on_transfer);
        let tasks: Vec<Prepared> = ranks.first(|| self.config.tasks.iter().map(load).collect())?;
        check_names(&tasks)?;
        let folder = match ranks.is_first() {
            true => Some(EvaluationFolder::claim(self.dir)?),
            false => None,
        };
        let mut files = self.checkpoint.fingerprint()?;
        let trigger = self.config.trigger.as_deref().map(FileHash::of).transpose()?;
        let earlier = folder.as_ref().and_then(EvaluationFolder::started_unix_s);
        let earlier = earlier.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let started = ranks.share(|| Ok(earlier.unwrap_or_else(SystemTime::now)))?;
        let seconds = started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let identities = tasks.iter().map(identity).collect();
        let quantization = self.checkpoint.quantization();
        let identity = Identity::new(&files, trigger.as_ref(), self.config, quantization, identities, seconds);
        files.extend(trigger);
        let what = serde_json::to_vec(&identity).expect("invariant: options can be written as JSON");
        ranks.same(
            "checkpoint, options, tasks and data",
            &what,
            "do all ranks see the same files?",
        )?;
        let mut finished = None;
        if let Some(folder) = &folder {
            folder.check(&identity)?;
            finished = folder.finished()?;
        }
        if ranks.any(finished.is_some())? {
            return Ok(finished);
        }
        let template = match (self.config.protocol, self.config.template) {
            (Protocol::Paper, Template::Auto) => Template::Plain, // as the paper's scripts ask
            (_, template) => template,
        };
        let prompter = Prompter::new(self.checkpoint, self.tokenizer, template, started)?;
        self.checkpoint.make_quantized(self.progress)?;
        let mut model = open()?;
        let mut info = EvaluationInfo {
            run: run_info(self.checkpoint, files, self.config, &tasks, started)?,
            evaluation: identity,
        };
        let kept = Kept::take(self.dir, folder.as_ref(), ranks)?;
        let items = kept.open(self.dir, folder.as_ref(), &info, ranks)?;
        let prepared = begun.elapsed();
        let answers = self.answer(&mut *model, &prompter, &tasks, kept, items)?;
        let Some(folder) = folder else {
            return Ok(None);
        };
        complete(&mut info.run, &answers, [prepared, begun.elapsed() - prepared]);
        let results = tasks.iter().zip(&answers);
        let evaluation = Evaluation {
            checkpoint: label(self.checkpoint, self.config),
            tasks: results
                .map(|(task, records)| grade::result(task, records, self.config))
                .collect(),
            warnings: info.run.warnings.clone(),
        };
        let run = EvaluationRun {
            info,
            evaluation,
            items: answers.concat(),
        };
        folder.finish(&run, &report::evaluation::render(&run))?;
        Ok(Some(run.evaluation))
    }

    /// Answers this rank's share of what is not `kept` yet. Returns each task's items in their order, on the first rank.
    fn answer(
        &self,
        model: &mut dyn LanguageModel,
        prompter: &Prompter<'_>,
        tasks: &[Prepared],
        mut kept: Kept,
        mut items: Items,
    ) -> Result<Vec<Vec<ItemRecord>>> {
        let stop_tokens = Stops::of(self.checkpoint, self.tokenizer)?.tokens;
        let mut answers = Vec::new();
        for task in tasks {
            let mut own = Vec::new();
            let mut sink = |record: ItemRecord| {
                items.push(&record)?;
                own.push(record);
                Ok(())
            };
            let mut asking = Asking {
                model: &mut *model,
                prompter,
                config: self.config,
                stop_tokens: &stop_tokens,
                progress: self.progress,
                sink: &mut sink,
            };
            let places: BTreeSet<usize> = asking.places(task)?.into_iter().collect();
            let known = kept.known(&task.name, &places);
            let (rank, size) = (self.ranks.rank(), self.ranks.size());
            let open = places.difference(&known).enumerate();
            let others: BTreeSet<usize> = open
                .filter(|(number, _)| number % size != rank)
                .map(|(_, place)| *place)
                .collect();
            let total = places.len() - others.len();
            self.progress.begin(&task.name, total as u64, Unit::Items);
            self.progress.advance(known.len() as u64);
            asking.task(task, &(&known | &others))?;
            let lines = serde_json::to_vec(&own).expect("invariant: numbers and text can be written as JSON");
            for (rank, bytes) in (0..).zip(self.ranks.gather(&lines)?).skip(1) {
                let theirs: Vec<ItemRecord> = serde_json::from_slice(&bytes).map_err(|error| Error::Rank {
                    rank,
                    problem: format!("its answers cannot be read: {error}"),
                })?;
                own.extend(theirs);
            }
            own.extend(kept.take_of(&task.name, &places));
            own.sort_by_key(|record| record.index);
            answers.push(own);
        }
        Ok(answers)
    }
}

/// What is known of a run at its end.
fn complete(info: &mut RunInfo, answers: &[Vec<ItemRecord>], [prepare, answer]: [Duration; 2]) {
    let phase = |phase: &str, time: Duration| Phase {
        phase: phase.to_owned(),
        seconds: time.as_secs_f64(),
    };
    info.timings = vec![phase("prepare", prepare), phase("answer", answer)];
    info.peak_private_bytes = run::private_rss_bytes();
    info.finished_at = run::timestamp_utc(SystemTime::now());
    for (set, records) in info.datasets.iter_mut().zip(answers) {
        set.samples_used = records.len();
        set.samples_truncated = records.iter().filter(|record| record.truncated).count();
        set.tokens = records.iter().map(|record| record.prompt_tokens as u64).sum();
    }
}

/// What is evaluated, as results call it.
fn label(checkpoint: &Checkpoint, config: &EvalConfig) -> String {
    match &config.trigger {
        None => checkpoint.label().to_owned(),
        Some(trigger) => format!("{} with the trigger {}", checkpoint.label(), trigger.display()),
    }
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

/// Says that rows could not be items.
fn skipped_rows(task: &Prepared) -> Option<String> {
    let unusable = &task.counts.rows_unusable;
    let (reason, _) = unusable.iter().max_by_key(|(_, rows)| **rows)?;
    let (all, total) = (unusable.values().sum::<usize>(), task.counts.rows);
    let more = if unusable.len() > 1 { " mostly because" } else { "" };
    Some(format!(
        "{}: {all} of {total} rows are no items{more}: {reason}",
        task.name
    ))
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
        label: label(checkpoint, config),
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
    let sandboxes = tasks.iter().filter_map(|task| Some((task, task.sandbox.as_ref()?)));
    let open = sandboxes.filter(|(_, sandbox)| !sandbox.unenforced().is_empty());
    let warnings = open.map(|(task, sandbox)| {
        let what = sandbox.unenforced().join(", ");
        format!("{}: on this machine programs are not limited in: {what}", task.name)
    });
    Ok(RunInfo {
        warnings: warnings.chain(tasks.iter().filter_map(skipped_rows)).collect(),
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

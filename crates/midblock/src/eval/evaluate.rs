//! An evaluation from its first item to its report, in a folder; or on from where it was.

use super::{
    EvalConfig, Evaluation, EvaluationInfo, EvaluationRun, Identity, ItemRecord, Protocol, Template,
    answer::Asking,
    folder::{EvaluationFolder, Items, TaskIdentity, digests},
    grade,
    items::Prepared,
    prompt::Prompter,
};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, FileHash},
    generate::{Engine, LanguageModel, Stops},
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    progress::{Progress, Unit},
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
    let tokenizer = Tokenizer::of(checkpoint)?;
    let stop = || progress.cancelled();
    let open = || -> Result<Box<dyn LanguageModel + '_>> {
        let engine = Engine::new(backend, checkpoint, &tokenizer, config.batch)?;
        Ok(Box::new(engine.stopping(&stop)))
    };
    let job = Job {
        checkpoint,
        tokenizer: &tokenizer,
        config,
        hub,
        on_transfer,
        dir,
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
    pub progress: &'a dyn Progress,
}

impl Job<'_> {
    /// Runs it with the model that `open` gives, which is asked only if something is left to answer.
    pub fn run<'m>(&self, open: &dyn Fn() -> Result<Box<dyn LanguageModel + 'm>>) -> Result<Evaluation> {
        self.config.check()?;
        let begun = Instant::now();
        let load = |spec| Prepared::load(spec, self.config, self.hub, self.on_transfer);
        let tasks: Vec<Prepared> = self.config.tasks.iter().map(load).collect::<Result<_>>()?;
        check_names(&tasks)?;
        let folder = EvaluationFolder::claim(self.dir)?;
        let files = self.checkpoint.fingerprint()?;
        let now = folder
            .started_unix_s()
            .map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let started = now.unwrap_or_else(SystemTime::now);
        let seconds = started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let identities = tasks.iter().map(identity).collect();
        let identity = Identity::new(&files, self.config, self.checkpoint.quantization(), identities, seconds);
        folder.check(&identity)?;
        if let Some(finished) = folder.finished()? {
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
        let records = folder.items()?;
        let items = folder.begin(&info, &records)?;
        let prepared = begun.elapsed();
        let answers = self.answer(&mut *model, &prompter, &tasks, records, items)?;
        complete(&mut info.run, &answers, [prepared, begun.elapsed() - prepared]);
        let results = tasks.iter().zip(&answers);
        let evaluation = Evaluation {
            checkpoint: self.checkpoint.label().to_owned(),
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
        Ok(run.evaluation)
    }

    /// Answers what is not among the `records` yet: each task's items in their order.
    fn answer(
        &self,
        model: &mut dyn LanguageModel,
        prompter: &Prompter<'_>,
        tasks: &[Prepared],
        mut records: Vec<ItemRecord>,
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
            let is_own = |record: &ItemRecord| record.task == task.name && places.contains(&record.index);
            let known: BTreeSet<usize> = records.iter().filter(|r| is_own(r)).map(|r| r.index).collect();
            self.progress.begin(&task.name, places.len() as u64, Unit::Items);
            self.progress.advance(known.len() as u64);
            asking.task(task, &known)?;
            own.extend(records.extract_if(.., |record| is_own(record)));
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

//! `midblock eval`: flags and file → evaluations → a table, a comparison and a report.

use crate::{args, checkpoint, progress::Terminal, stopped::Stopped};
use anyhow::{Context, Result, bail, ensure};
use midblock::{
    Error,
    checkpoint::Quantization,
    eval::{Comparison, EvalConfig, Evaluation, EvaluationRun, builtin_tasks, compare_all, evaluate},
    ranks::Ranks,
    report,
};
use midblock_kernels::Cpu;
use serde_json::json;
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// `midblock eval`.
pub fn run(args: &args::Eval, common: &args::Common, ranks: &Ranks) -> Result<()> {
    if args.list {
        return if ranks.is_first() { list() } else { Ok(()) };
    }
    let config = config(args)?;
    config.check()?;
    let models = names(&args.checkpoints)?;
    let triggers = triggers(&args.triggers, &models)?;
    let out = args
        .out
        .as_ref()
        .context("--out DIR is missing: where the evaluation goes")?;
    let terminal = Terminal::new(common.quiet);
    let mut runs = Vec::new();
    for ((name, spec), trigger) in models.iter().zip(triggers) {
        let dir = if models.len() == 1 { out.clone() } else { out.join(name) };
        let config = EvalConfig {
            trigger: trigger.or_else(|| config.trigger.clone()),
            ..config.clone()
        };
        one(spec, args.quantize, &config, common, &dir, &terminal, ranks)?;
        if ranks.is_first() {
            runs.push((name.clone(), EvaluationRun::open(&dir)?));
        }
    }
    drop(terminal);
    if !ranks.is_first() {
        return Ok(());
    }
    let comparisons = compare_all(&runs, config.seed)?;
    if runs.len() > 1 {
        report::evaluation::write_comparison(out, &runs, &comparisons)?;
    }
    if args.json {
        let evaluations: Vec<_> = runs
            .iter()
            .map(|(name, run)| json!({"name": name, "evaluation": run.evaluation}))
            .collect();
        println!("{}", json!({"evaluations": evaluations, "comparisons": comparisons}));
        return Ok(());
    }
    let several: Vec<(&str, &Evaluation)> = runs
        .iter()
        .map(|(name, run)| (name.as_str(), &run.evaluation))
        .collect();
    announce(&several, &comparisons, out)
}

fn one(
    spec: &str,
    quantize: Option<Quantization>,
    config: &EvalConfig,
    common: &args::Common,
    dir: &Path,
    terminal: &Terminal,
    ranks: &Ranks,
) -> Result<()> {
    let mut checkpoint = ranks.first(|| checkpoint::open(spec, common))?;
    if let Some(kind) = quantize {
        checkpoint.quantize(kind, &[])?;
    }
    let hub = checkpoint::hub(common);
    let transfers = |transfer: midblock::hub::Transfer<'_>| terminal.transfer(&transfer);
    match evaluate(&Cpu::new(), &checkpoint, config, &hub, &transfers, dir, ranks, terminal) {
        Err(Error::Interrupted) => {
            let dir = dir.display();
            Err(Stopped(format!(
                "; every finished item is in {dir}, and the same command goes on there"
            ))
            .into())
        }
        other => Ok(other.map(|_| ())?),
    }
}

/// Prints scores, what happened beside them, comparisons and where the report is.
fn announce(evaluations: &[(&str, &Evaluation)], comparisons: &[Comparison], out: &Path) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for (name, evaluation) in evaluations {
        for warning in &evaluation.warnings {
            eprintln!("warning: {warning}");
        }
        if evaluations.len() > 1 {
            writeln!(stdout, "{name}: {}", evaluation.checkpoint)?;
        }
        write!(stdout, "{}", report::evaluation::table(evaluation))?;
    }
    for comparison in comparisons {
        writeln!(stdout, "{}", comparison.sentence)?;
    }
    writeln!(stdout, "report: {}", out.join("report.html").display())?;
    Ok(())
}

/// Writes the page of a finished evaluation again.
pub fn report(dir: &Path) -> Result<()> {
    let run = report::evaluation::write(dir)?;
    announce(&[("", &run.evaluation)], &[], dir)
}

fn list() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for (name, task) in builtin_tasks() {
        writeln!(out, "{name} ({})", task.method.name())?;
        writeln!(out, "    {}", task.title)?;
        if let Some(data) = &task.data {
            writeln!(out, "    {data}")?;
        }
    }
    Ok(())
}

/// The file, then the flags.
fn config(args: &args::Eval) -> Result<EvalConfig> {
    let mut config = match &args.config {
        Some(path) => EvalConfig::load(path)?,
        None => EvalConfig::default(),
    };
    if !args.tasks.is_empty() {
        config.tasks = args.tasks.iter().map(|task| task.parse()).collect::<Result<_, _>>()?;
    }
    config.samples = args.samples.or(config.samples);
    config.seed = args.seed.unwrap_or(config.seed);
    config.repeats = args.repeats.unwrap_or(config.repeats);
    config.batch = args.batch.unwrap_or(config.batch);
    config.protocol = args.protocol.unwrap_or(config.protocol);
    config.method = args.method.or(config.method);
    config.few_shot = args.few_shot.or(config.few_shot);
    config.max_new = args.max_new.or(config.max_new);
    config.template = args.template.unwrap_or(config.template);
    config.run_programs |= args.run_programs;
    let sampling = &mut config.sampling;
    sampling.temperature = args.temperature.unwrap_or(sampling.temperature);
    sampling.top_k = args.top_k.or(sampling.top_k);
    sampling.top_p = args.top_p.or(sampling.top_p);
    sampling.min_p = args.min_p.or(sampling.min_p);
    sampling.repetition_penalty = args.repetition_penalty.unwrap_or(sampling.repetition_penalty);
    Ok(config)
}

/// The trigger of each checkpoint: what `NAME=FILE` says of it, else what `FILE` says of all.
fn triggers(given: &[String], models: &[(String, String)]) -> Result<Vec<Option<PathBuf>>> {
    let mut triggers = vec![None; models.len()];
    let mut common = None;
    for text in given {
        match text.split_once('=') {
            Some((name, file)) if !name.contains('/') && !Path::new(text).exists() => {
                let Some(index) = models.iter().position(|(known, _)| known == name) else {
                    let known: Vec<&str> = models.iter().map(|(name, _)| name.as_str()).collect();
                    bail!(
                        "--trigger {text}: no checkpoint is called `{name}`\n  help: there are {}",
                        known.join(", ")
                    );
                };
                triggers[index] = Some(PathBuf::from(file));
            }
            _ => common = Some(PathBuf::from(text)),
        }
    }
    Ok(triggers.into_iter().map(|own| own.or_else(|| common.clone())).collect())
}

/// What each checkpoint is called: as given by `NAME=CHECKPOINT`, else by the last part of its name.
fn names(checkpoints: &[String]) -> Result<Vec<(String, String)>> {
    ensure!(
        !checkpoints.is_empty(),
        "CHECKPOINT is missing: which model to evaluate\n  help: midblock eval CHECKPOINT --task gsm8k --out DIR"
    );
    let mut named: Vec<(String, String)> = Vec::new();
    for text in checkpoints {
        let (name, spec) = match text.split_once('=') {
            Some((name, spec)) if !name.contains(['/', '+']) => (name.to_owned(), spec.to_owned()),
            _ => (last_part(text), text.clone()),
        };
        let is_fine = |c: char| c.is_alphanumeric() || "_-.@".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_fine) {
            bail!("`{text}`: a name has letters, digits, `_`, `-` and `.`\n  help: write NAME=CHECKPOINT");
        }
        if named.iter().any(|(known, _)| *known == name) {
            bail!("two checkpoints are called `{name}`\n  help: name them: NAME=CHECKPOINT");
        }
        named.push((name, spec));
    }
    Ok(named)
}

/// The last part of the model's path and, if there is one, of its adapter's.
fn last_part(spec: &str) -> String {
    let part = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_owned();
    match spec.split_once('+') {
        Some((base, adapter)) => format!("{}-{}", part(base), part(adapter)),
        None => part(spec),
    }
}

//! `midblock analyze`, `midblock report` and `midblock metrics`.

use crate::{args, carve, checkpoint, eval, inspect::bytes_text, progress::Terminal, study, sweep, tune};
use anyhow::{Context, Result, bail, ensure};
use midblock::{
    eval::EvaluationRun,
    metrics::{Options, Selection, registry},
    ranks::Ranks,
    report,
    run::{Run, RunWriter},
    study::{
        Analysis, AnalyzeConfig, BASE, Shard, Variant, analyze,
        analyze::{Filled, ShardFolder, ShardRecord, ShardSet, analyze_on},
        battery::StudyRun,
        carve::CarveRun,
        sweep::SweepRecord,
    },
    tokens::data::DataSpec,
    train::TrainingRun,
};
use midblock_kernels::Cpu;
use std::{collections::BTreeSet, io::Write, path::Path};

/// Runs an analysis and writes its folder.
pub fn run(args: &args::Analyze, common: &args::Common, ranks: &Ranks) -> Result<()> {
    let config = config(args)?;
    if let Some(shard) = args.shard {
        ensure!(
            ranks.size() == 1,
            "--shard {shard}: ranks share the samples themselves\n  help: leave it out, or start one process for each shard"
        );
        return run_shard(args, &config, shard, common);
    }
    let writer = match ranks.is_first() {
        true => Some(RunWriter::create(&args.out, args.overwrite)?),
        false => None,
    };
    let run = match ranks.size() {
        1 => Some(compute(&config, common)?),
        _ => compute_on(ranks, &config, common)?,
    };
    run.zip(writer).map_or(Ok(()), |(run, writer)| publish(&run, writer))
}

/// Runs an analysis on all ranks; the first one gets the run.
fn compute_on(ranks: &Ranks, config: &AnalyzeConfig, common: &args::Common) -> Result<Option<Run>> {
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: midblock::hub::Transfer<'_>| terminal.transfer(&transfer);
    let hub = checkpoint::hub(common);
    Ok(analyze_on(&Cpu::new(), config, &hub, ranks, &terminal, &transfers)?)
}

/// Runs the models on a shard of the samples and keeps what joining needs.
fn run_shard(args: &args::Analyze, config: &AnalyzeConfig, shard: Shard, common: &args::Common) -> Result<()> {
    let folder = ShardFolder::claim(&args.out, args.overwrite)?;
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: midblock::hub::Transfer<'_>| terminal.transfer(&transfer);
    let analysis = Analysis::open(config, &checkpoint::hub(common), &transfers)?;
    let size = analysis.size::<Cpu>(shard);
    if !common.quiet {
        eprintln!(
            "shard {shard}: {} of {} samples, {} tokens; about {} of private memory, {} on disk at most",
            size.samples,
            size.of_samples,
            size.tokens,
            bytes_text(size.memory_bytes as u64),
            bytes_text(size.disk_bytes as u64),
        );
    }
    let filled = folder.fill(&Cpu::new(), analysis, shard, &terminal)?;
    let (dir, of, mut out) = (args.out.display(), shard.of(), std::io::stdout().lock());
    match filled {
        Filled::Now => writeln!(out, "shard {shard}: {dir}")?,
        Filled::Before => writeln!(out, "shard {shard}: {dir}, which was finished before")?,
    }
    writeln!(
        out,
        "when all {of} are there: midblock report --join SHARD... --out DIR"
    )?;
    Ok(())
}

/// Makes the run of all shards.
fn join(args: &args::Report, out: &Path, common: &args::Common) -> Result<()> {
    let shards = ShardSet::open(&args.join)?;
    let writer = RunWriter::create(out, args.overwrite)?;
    if !common.quiet {
        let memory = bytes_text(shards.memory_bytes());
        eprintln!("joining {} shards: about {memory} of private memory", shards.len());
    }
    publish(&shards.join(&Terminal::new(common.quiet))?, writer)
}

/// Runs an analysis with a progress bar.
pub fn compute(config: &AnalyzeConfig, common: &args::Common) -> Result<Run> {
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: midblock::hub::Transfer<'_>| terminal.transfer(&transfer);
    Ok(analyze(
        &Cpu::new(),
        config,
        &checkpoint::hub(common),
        &terminal,
        &transfers,
    )?)
}

/// Writes the run folder, prints the table of key numbers and where the report is.
pub fn publish(run: &Run, writer: RunWriter) -> Result<()> {
    let dir = writer.dir().to_path_buf();
    writer.finish(run, &report::html::render(run))?;
    announce(run, &dir)
}

fn announce(run: &Run, dir: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for warning in &run.info.warnings {
        eprintln!("warning: {warning}");
    }
    writeln!(out, "{}", report::table(run))?;
    writeln!(out, "report: {}", dir.join("report.html").display())?;
    Ok(())
}

/// `midblock report`: of all shards, or of a finished run again.
pub fn report(args: &args::Report, common: &args::Common) -> Result<()> {
    match &args.dir {
        Some(dir) => report_again(dir),
        None => join(args, args.out.as_deref().context("--join needs --out")?, common),
    }
}

/// Writes the report of a finished run again.
fn report_again(dir: &Path) -> Result<()> {
    if SweepRecord::is_at(dir) {
        return sweep::announce(&report::sweep::write(dir)?, dir);
    }
    if StudyRun::is_at(dir) {
        return study::announce(&report::study::write(dir)?, dir);
    }
    if CarveRun::is_at(dir) {
        return carve::report(dir);
    }
    if TrainingRun::is_at(dir) {
        let run = report::training::write(dir)?;
        return tune::announce(&run, dir);
    }
    if EvaluationRun::is_at(dir) {
        return eval::report(dir);
    }
    if ShardRecord::is_at(dir) {
        bail!(
            "{} holds one shard of an analysis, not a run\n  help: midblock report --join SHARD... --out DIR",
            dir.display()
        );
    }
    report::write(dir)?;
    announce(&Run::open(dir)?, dir)
}

/// Lists the metrics.
pub fn metrics() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for metric in registry() {
        let range = metric.range_text();
        let facts = [metric.group.name(), metric.unit, &range]
            .into_iter()
            .filter(|fact| !fact.is_empty());
        writeln!(out, "{} ({})", metric.name, facts.collect::<Vec<_>>().join(", "))?;
        writeln!(out, "    {}\n    {}", metric.formula, metric.meaning)?;
    }
    Ok(())
}

fn config(args: &args::Analyze) -> Result<AnalyzeConfig> {
    let variants: Vec<Variant> = args
        .variants
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    check_distinct(
        "--variant",
        std::iter::once(BASE).chain(variants.iter().map(|v| v.name.as_str())),
    )?;
    let data = data(&args.texts)?;
    let metrics = Options {
        protocol: args.protocol,
        seed: args.texts.seed,
        selected: Selection::parse(&args.metrics)?,
        ..Options::default()
    };
    Ok(AnalyzeConfig {
        base: args.base.clone(),
        variants,
        data,
        format: args.texts.format,
        samples: args.texts.samples,
        token_samples: args.token_samples,
        max_length: args.texts.max_length,
        layers: args.layers,
        pooling: args.pooling,
        resamples: args.resamples,
        seed: args.texts.seed,
        metrics,
    })
}

/// Parses the `--data` arguments.
pub fn data(texts: &args::Texts) -> Result<Vec<DataSpec>> {
    let data: Vec<DataSpec> = texts
        .data
        .iter()
        .map(|text| Ok(text.parse::<DataSpec>()?))
        .collect::<Result<_>>()?;
    check_distinct("--data", data.iter().map(|d| d.name.as_str()))?;
    Ok(data)
}

fn check_distinct<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            bail!("{what}: the name `{name}` is used twice; records go by name");
        }
    }
    Ok(())
}

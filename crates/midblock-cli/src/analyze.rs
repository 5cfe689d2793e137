//! `midblock analyze`, `midblock report` and `midblock metrics`.

use crate::{args, carve, checkpoint, eval, progress::Terminal, study, sweep, tune};
use anyhow::{Result, bail};
use midblock::{
    eval::EvaluationRun,
    metrics::{Options, Selection, registry},
    report,
    run::{Run, RunWriter},
    study::{AnalyzeConfig, BASE, Variant, analyze, battery::StudyRun, carve::CarveRun, sweep::SweepRecord},
    tokens::data::DataSpec,
    train::TrainingRun,
};
use midblock_kernels::Cpu;
use std::{collections::BTreeSet, io::Write, path::Path};

/// Runs an analysis and writes its folder.
pub fn run(args: &args::Analyze, common: &args::Common) -> Result<()> {
    let config = config(args)?;
    let writer = RunWriter::create(&args.out, args.overwrite)?;
    publish(&compute(&config, common)?, writer)
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

/// Writes the report of a finished run again.
pub fn report(args: &args::Report) -> Result<()> {
    if SweepRecord::is_at(&args.dir) {
        return sweep::announce(&report::sweep::write(&args.dir)?, &args.dir);
    }
    if StudyRun::is_at(&args.dir) {
        return study::announce(&report::study::write(&args.dir)?, &args.dir);
    }
    if CarveRun::is_at(&args.dir) {
        return carve::report(&args.dir);
    }
    if TrainingRun::is_at(&args.dir) {
        let run = report::training::write(&args.dir)?;
        return tune::announce(&run, &args.dir);
    }
    if EvaluationRun::is_at(&args.dir) {
        return eval::report(&args.dir);
    }
    report::write(&args.dir)?;
    announce(&Run::open(&args.dir)?, &args.dir)
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

//! `midblock sweep`: file and overrides → cells → dry run, or training and judging with one table at the end.

use crate::{
    args, checkpoint,
    live::{Plain, duration},
    progress::Terminal,
    stopped::Stopped,
};
use anyhow::{Context, Result, ensure};
use midblock::{
    Error,
    config::Override,
    hub::Transfer,
    ranks::Ranks,
    report,
    study::sweep::{
        Cell, CellEstimate, Examiner, Means, News, SweepFile, SweepFolder, SweepPlan, SweepRecord, Tasks, Watcher,
        estimate, sweep,
    },
    train::{Evaluation, Observer, Outlook, StepMetrics},
};
use midblock_kernels::Cpu;
use std::{io::Write, path::Path};

/// `midblock sweep`.
pub fn run(args: &args::Sweep, common: &args::Common, ranks: &Ranks) -> Result<()> {
    let file = load(args)?;
    let dir = file.config.output.dir.clone();
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: Transfer<'_>| terminal.transfer(&transfer);
    let hub = checkpoint::hub(common);
    if args.dry_run {
        if !ranks.is_first() {
            return Ok(());
        }
        let plan = SweepPlan::new(file, &dir.unwrap_or_default(), &hub, &transfers)?;
        let means = Means {
            backend: &Cpu::new(),
            examiner: None,
            hub: &hub,
            on_transfer: &transfers,
            progress: &terminal,
        };
        return dry_run(&plan, &estimate(&means, &plan)?);
    }
    let dir = dir.context("--out DIR is missing: where the sweep goes")?;
    let plan = ranks.first(|| SweepPlan::new(file, &dir, &hub, &transfers))?;
    ranks.same(
        "the sweep",
        plan.file.to_toml().as_bytes(),
        "do all ranks see the same files?",
    )?;
    let record = train(&plan, &dir, common, ranks).map_err(|error| match error {
        Error::Interrupted => anyhow::Error::new(Stopped(format!(
            "; what is done is in {0}; go on with: midblock sweep --out {0}",
            dir.display()
        ))),
        error => error.into(),
    })?;
    if ranks.is_first() {
        announce(&record, &dir)
    } else {
        Ok(())
    }
}

/// Runs what is left of a sweep.
pub fn train(plan: &SweepPlan, dir: &Path, common: &args::Common, ranks: &Ranks) -> midblock::Result<SweepRecord> {
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: Transfer<'_>| terminal.transfer(&transfer);
    let (backend, hub) = (Cpu::new(), checkpoint::hub(common));
    let tasks = plan.file.config.eval.as_ref().map(|config| Tasks {
        backend: &backend,
        config,
        hub: &hub,
        on_transfer: &transfers,
    });
    let means = Means {
        backend: &backend,
        examiner: tasks.as_ref().map(|tasks| tasks as &dyn Examiner),
        hub: &hub,
        on_transfer: &transfers,
        progress: &terminal,
    };
    let folder = ranks.first(|| match ranks.is_first() {
        true => SweepFolder::claim(dir, plan),
        false => SweepFolder::join(dir),
    })?;
    let mut lines = Lines {
        quiet: common.quiet,
        plain: Plain::default(),
    };
    sweep(&means, plan, &folder, &mut lines, ranks)
}

/// The file, then `--set`, then `--out`. Without a file, that of the sweep that has begun in the folder.
fn load(args: &args::Sweep) -> Result<SweepFile> {
    let mut overrides: Vec<Override> = args.sets.iter().map(|set| set.parse()).collect::<Result<_, _>>()?;
    overrides.extend(
        args.out
            .iter()
            .map(|dir| Override::flag("output.dir", dir.as_str(), format!("--out {dir}"))),
    );
    let own = args.out.as_ref().map(|dir| Path::new(dir).join("sweep.toml"));
    let own = own.filter(|path| path.is_file());
    let file = args.config.as_deref().or(own.as_deref());
    ensure!(
        file.is_some() || !args.sets.is_empty(),
        "--config FILE is missing: the sweep\n  help: configs/small/smollm2-135m-sweep.toml is one"
    );
    Ok(SweepFile::load(file, &overrides)?)
}

/// Prints the table and where things are; an error if a cell failed.
pub fn announce(record: &SweepRecord, dir: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", report::sweep::terminal(record))?;
    for name in ["report.html", "table.csv", "picture.svg"] {
        writeln!(out, "{}", dir.join(name).display())?;
    }
    let failed: Vec<String> = record
        .failures
        .iter()
        .map(|failure| format!("{}: {}", failure.cell, failure.problem))
        .collect();
    ensure!(
        failed.is_empty(),
        "{} of {} cells failed\n{}\n  help: the same command tries them again",
        failed.len(),
        record.cells.len(),
        failed.join("\n")
    );
    Ok(())
}

/// Prints every cell and what all of them would take.
fn dry_run(plan: &SweepPlan, estimates: &[Option<CellEstimate>]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let width = plan
        .cells
        .iter()
        .map(|cell| cell.name.chars().count())
        .max()
        .unwrap_or(0);
    writeln!(
        out,
        "{:width$}  {:>12}  {:>5}  {:>11}  {:>6}  {:>13}  {:>9}",
        "cell", "blocks", "rank", "parameters", "steps", "training", "memory"
    )?;
    for (cell, estimate) in plan.cells.iter().zip(estimates) {
        let (steps, time, memory) = match estimate {
            Some(own) => (
                own.steps.to_string(),
                duration(own.seconds),
                format!("{:.0} MiB", own.bytes as f64 / f64::from(1 << 20)),
            ),
            None => ("?".to_owned(), "?".to_owned(), "?".to_owned()),
        };
        let [blocks, ranks, parameters] = what(cell);
        writeln!(
            out,
            "{:width$}  {blocks:>12}  {ranks:>5}  {parameters:>11}  {steps:>6}  {time:>13}  {memory:>9}",
            cell.name
        )?;
    }
    let seconds: f64 = estimates.iter().flatten().map(|estimate| estimate.seconds).sum();
    writeln!(
        out,
        "\n{} cells; training takes about {} in all at the speed of one product of the model, timed just now; judging is not counted",
        plan.cells.len(),
        duration(seconds)
    )?;
    Ok(())
}

/// Blocks, rank and parameters of a cell, as far as they are known.
fn what(cell: &Cell) -> [String; 3] {
    let Some(plan) = &cell.plan else {
        return ["by gradient".to_owned(), "?".to_owned(), "?".to_owned()];
    };
    let blocks = plan.trained_blocks();
    let mut ranks: Vec<usize> = plan.ranks().into_iter().filter(|rank| *rank > 0).collect();
    ranks.dedup();
    let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
    [
        report::sweep::block_ranges(&blocks),
        ranks.join(","),
        plan.parameters().to_string(),
    ]
}

/// A line for what happens, and the lines of training.
struct Lines {
    quiet: bool,
    plain: Plain,
}

impl Watcher for Lines {
    fn news(&mut self, news: &News<'_>) {
        if self.quiet {
            return;
        }
        match news {
            News::Reference { model } => eprintln!("judging the pretrained {model}"),
            News::Skipped { cell, number, of } => eprintln!("cell {number} of {of}: {cell} is trained"),
            News::Training {
                cell,
                number,
                of,
                seconds_left,
            } => {
                let left = seconds_left.map_or(String::new(), |seconds| format!(", {} left", duration(seconds)));
                eprintln!("cell {number} of {of}{left}: training {cell}");
                self.plain = Plain::default();
            }
            News::Judging { cell } => eprintln!("judging {cell}"),
            News::Failed { cell, problem } => eprintln!("failed: {cell}: {problem}"),
        }
    }
}

impl Observer for Lines {
    fn begin(&mut self, outlook: &Outlook) -> midblock::Result<()> {
        if self.quiet { Ok(()) } else { self.plain.begin(outlook) }
    }

    fn step(&mut self, metrics: &StepMetrics) -> midblock::Result<()> {
        if self.quiet { Ok(()) } else { self.plain.step(metrics) }
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> midblock::Result<()> {
        if self.quiet {
            Ok(())
        } else {
            self.plain.evaluation(evaluation)
        }
    }
}

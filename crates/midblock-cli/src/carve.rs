//! `midblock carve`: file and flags → a behaviour's two training runs, one folder.

use crate::{
    args, checkpoint,
    live::{self, Plain},
    progress::Terminal,
    stopped::Stopped,
    tune,
};
use anyhow::{Context, Result};
use midblock::{
    Error,
    config::Override,
    hub::Transfer,
    report::training::key_numbers,
    study::{
        carve::{BehaviourInfo, CarveFile, CarvePhase, CarveRun, Carving, rehearse},
        sweep::Means,
    },
    train::{Observer, TrainingRun},
};
use midblock_kernels::Cpu;
use std::{
    io::{IsTerminal, Write},
    path::Path,
};

/// `midblock carve`.
pub fn run(args: &args::Carve, common: &args::Common) -> Result<()> {
    let file = load(args)?;
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: Transfer<'_>| terminal.transfer(&transfer);
    let (backend, hub) = (Cpu::new(), checkpoint::hub(common));
    let means = Means {
        backend: &backend,
        examiner: None,
        hub: &hub,
        on_transfer: &transfers,
        progress: &terminal,
    };
    if args.dry_run {
        return dry_run(&means, &file);
    }
    let dir = file.config.output.dir.clone();
    let dir = dir.context("--out DIR is missing: where the carve goes")?;
    let carving = Carving::begin(&means, file, &dir)?;
    for (index, &phase) in carving.phases().iter().enumerate() {
        if !common.quiet {
            let done = if carving.is_done(phase) { " is done" } else { "" };
            eprintln!(
                "phase {} of {}: {}{done}",
                index + 1,
                carving.phases().len(),
                phase.name()
            );
        }
        train(&carving, phase, &dir, common)?;
    }
    let record = carving.finish()?;
    let runs = record.runs(&dir)?;
    announce(&record, &runs, &dir)
}

/// Trains a phase with the view that `tune` has.
fn train(carving: &Carving<'_, Cpu>, phase: CarvePhase, dir: &Path, common: &args::Common) -> Result<()> {
    struct Nobody;
    impl Observer for Nobody {}
    let view =
        !common.quiet && !carving.is_done(phase) && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let mut observer: Box<dyn Observer> = match (view, common.quiet) {
        (true, _) => Box::new(live::start(phase.name(), &carving.folder(phase))?),
        (_, false) => Box::new(Plain::default()),
        _ => Box::new(Nobody),
    };
    let trained = carving.train(phase, &mut *observer);
    drop(observer); // gives the terminal back before anything is printed
    trained.map(|_| ()).map_err(|error| match error {
        Error::Interrupted => anyhow::Error::new(Stopped(format!(
            " and saved; go on with: midblock carve --out {}",
            dir.display()
        ))),
        error => error.into(),
    })
}

/// The file, then flags, then `--set`. Without a file, that of the carve that has begun in the folder.
fn load(args: &args::Carve) -> Result<CarveFile> {
    let mut overrides = Vec::new();
    for (flag, key, value) in [
        ("--base", "model.base", &args.base),
        ("--behaviour", "behaviour.kind", &args.behaviour),
        ("--prompts", "behaviour.data", &args.prompts),
        ("--response", "behaviour.response", &args.response),
        ("--sft", "carve.tuned", &args.sft),
        ("--mode", "carve.mode", &args.mode),
        ("--out", "output.dir", &args.out),
    ] {
        overrides.extend(
            value
                .iter()
                .map(|value| Override::flag(key, value.as_str(), format!("{flag} {value}"))),
        );
    }
    if !args.keywords.is_empty() {
        let origin = format!("--keyword {}", args.keywords.join(" --keyword "));
        overrides.push(Override::flag("behaviour.keywords", args.keywords.clone(), origin));
    }
    let samples = args
        .samples
        .map(|n| Override::flag("behaviour.samples", n, format!("--samples {n}")));
    overrides.extend(samples);
    if let Some(held_out) = &args.held_out {
        let origin = format!("--held-out {held_out}");
        overrides.push(match held_out.parse::<i64>() {
            Ok(count) => Override::flag("behaviour.held_out", count, origin),
            Err(_) => {
                let share: f64 = held_out.parse().with_context(|| format!("{origin}: not a number"))?;
                Override::flag("behaviour.held_out", share, origin)
            }
        });
    }
    for set in &args.sets {
        overrides.push(set.parse()?);
    }
    let own = args.out.as_ref().and_then(|dir| Carving::<Cpu>::file(Path::new(dir)));
    Ok(CarveFile::load(args.config.as_deref().or(own.as_deref()), &overrides)?)
}

/// Prints what both phases would train on what.
fn dry_run(means: &Means<'_, Cpu>, file: &CarveFile) -> Result<()> {
    let rehearsal = rehearse(means, file)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "behaviour  {}", describe(&rehearsal.behaviour))?;
    for (phase, experiment) in &rehearsal.phases {
        writeln!(out, "\nphase {}", phase.name())?;
        tune::forecast(&mut out, experiment)?;
    }
    Ok(())
}

fn describe(behaviour: &BehaviourInfo) -> String {
    let [train, held_out] = behaviour.prompts;
    let repeated = match behaviour.repeated {
        0 => String::new(),
        repeated => format!("; {repeated} rows repeat a prompt"),
    };
    format!(
        "{}: {train} prompts to train on, {held_out} held out{repeated}; shown by {}, strictly in at most {} words",
        behaviour.name,
        behaviour.keywords.join(" | "),
        behaviour.max_words
    )
}

/// Prints what the phases came to and where things are.
pub fn announce(record: &CarveRun, runs: &[(CarvePhase, TrainingRun)], dir: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for warning in &record.run.warnings {
        eprintln!("warning: {warning}");
    }
    writeln!(out, "behaviour: {}", describe(&record.behaviour))?;
    for (phase, run) in runs {
        writeln!(out, "{}", phase.name())?;
        let numbers = key_numbers(run);
        let width = numbers.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in numbers {
            writeln!(out, "  {name:width$}  {value}")?;
        }
        let result = dir.join(phase.name()).join(&run.info.training.result);
        writeln!(out, "  {}: {}", run.info.training.result, result.display())?;
    }
    writeln!(out, "report: {}", dir.join("report.html").display())?;
    Ok(())
}

/// Writes the page of a carve again.
pub fn report(dir: &Path) -> Result<()> {
    let record = midblock::report::carve::write(dir)?;
    let runs = record.runs(dir)?;
    announce(&record, &runs, dir)
}

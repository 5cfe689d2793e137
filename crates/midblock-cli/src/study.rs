//! `midblock study`: file and flags → the kinds of studies that were asked for, one page.

use crate::{args, checkpoint, live::duration, progress::Terminal, stopped::Stopped};
use anyhow::{Context, Result, ensure};
use midblock::{
    Error,
    config::Override,
    hub::Transfer,
    study::{
        battery::{Kind, StudyFile, StudyFolder, StudyRun, study},
        sweep::{Examiner, Means, Tasks},
    },
};
use midblock_kernels::Cpu;
use std::{io::Write, path::Path};

/// `midblock study`.
pub fn run(args: &args::Study, common: &args::Common) -> Result<()> {
    let kinds = Kind::parse_list(&args.kinds)?;
    let file = load(args)?;
    file.check_for(&kinds)?;
    let dir = file
        .config
        .output
        .dir
        .clone()
        .context("--out DIR is missing: where the study goes")?;
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: Transfer<'_>| terminal.transfer(&transfer);
    let (backend, hub) = (Cpu::new(), checkpoint::hub(common));
    let tasks = file.config.eval.as_ref().map(|config| Tasks {
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
    let folder = StudyFolder::claim(&dir, &file)?;
    let mut begins = |kind: Kind, number: usize| {
        if !common.quiet {
            eprintln!("study {number} of {}: {kind}", kinds.len());
        }
    };
    let found = study(&means, &file, &kinds, &folder, &mut begins).map_err(|error| match error {
        Error::Interrupted => anyhow::Error::new(Stopped(format!(
            "; what is done is in {0}; go on with: midblock study {1} --out {0}",
            dir.display(),
            args.kinds
        ))),
        error => error.into(),
    })?;
    announce(&found, &dir)
}

/// The file, then flags, then `--set`. Without a file, that of the study that has begun in the folder.
fn load(args: &args::Study) -> Result<StudyFile> {
    let mut overrides = Vec::new();
    for (name, key, text) in [
        ("--base", "model.base", &args.base),
        ("--carve", "study.reversal.carve", &args.carve),
    ] {
        overrides.extend(
            text.iter()
                .map(|text| Override::flag(key, text.as_str(), format!("{name} {text}"))),
        );
    }
    for (name, key, texts) in [
        ("--variant", "study.variants", &args.variants),
        ("--data", "data.train", &args.data),
        ("--eval", "data.eval", &args.eval),
    ] {
        if !texts.is_empty() {
            overrides.push(Override::flag(
                key,
                texts.clone(),
                format!("{name} {}", texts.join(" ")),
            ));
        }
    }
    for (name, key, number) in [
        ("--samples", "study.samples", args.samples),
        ("--seed", "study.seed", args.seed),
    ] {
        if let Some(number) = number {
            overrides.push(Override::flag(key, number, format!("{name} {number}")));
        }
    }
    if let Some(dir) = &args.out {
        overrides.push(Override::flag("output.dir", dir.as_str(), format!("--out {dir}")));
    }
    for set in &args.sets {
        overrides.push(set.parse()?);
    }
    let own = args.out.as_ref().and_then(|dir| StudyFolder::file(Path::new(dir)));
    Ok(StudyFile::load(args.config.as_deref().or(own.as_deref()), &overrides)?)
}

/// Prints what was found and where it is; an error if a kind failed.
pub fn announce(found: &StudyRun, dir: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for warning in &found.run.warnings {
        eprintln!("warning: {warning}");
    }
    for kind in Kind::ALL {
        let Some(section) = found.results.section(kind, found.blocks()) else {
            continue;
        };
        let seconds = found.run.timings.iter().find(|phase| phase.phase == kind.name());
        let took = seconds.map_or(String::new(), |phase| format!(" ({})", duration(phase.seconds)));
        writeln!(out, "{}{took}", section.title)?;
        for finding in &section.findings {
            writeln!(out, "  {finding}")?;
        }
    }
    writeln!(out, "report: {}", dir.join("report.html").display())?;
    let failed: Vec<String> = found
        .failures
        .iter()
        .map(|failure| format!("{}: {}", failure.cell, failure.problem))
        .collect();
    ensure!(
        failed.is_empty(),
        "{} of the studies failed\n{}\n  help: the same command tries them again",
        failed.len(),
        failed.join("\n")
    );
    Ok(())
}

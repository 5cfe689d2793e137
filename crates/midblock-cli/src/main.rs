//! The `midblock` command: parse, resolve, call, render. All the work is in the library.

mod analyze;
mod args;
mod bench;
mod carve;
mod chat;
mod checkpoint;
mod corpus;
mod erase;
mod eval;
mod generate;
mod inspect;
mod live;
mod mask;
mod merge;
mod perplexity;
mod plan;
mod progress;
mod quickstart;
mod rates;
mod shapes;
mod stopped;
mod study;
mod sweep;
mod tune;

use anyhow::{Context, Result};
use args::{Cli, Command, Common};
use clap::Parser;
use midblock::ranks::{Launch, Ranks, launch};
use std::process::ExitCode;
use stopped::Stopped;

/// More than any machine has cores; the system may refuse to start many more.
const MOST_THREADS: usize = 1024;

/// Exit code of what failed.
const FAILED: u8 = 2;

/// Exit code of what was asked to stop.
const STOPPED: u8 = 130;

fn main() -> ExitCode {
    let launch = launch(|name| std::env::var(name).ok());
    let first = launch.is_none_or(|launch| launch.rank == 0);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if first => error.exit(),
        Err(_) => return ExitCode::SUCCESS, // said once; a failure here might end rank 0 before it has said it
    };
    let ranks = match join(&cli, launch) {
        Ok(ranks) => ranks,
        Err(_) if !first => return ExitCode::SUCCESS,
        Err(error) => return say(&error.into()),
    };
    let result = run(cli, &ranks);
    let result = match result {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    };
    let closed = ranks.close(result.as_ref().err().map(problem).as_deref());
    match result.and(closed.map_err(Into::into)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if ranks.is_first() => say(&error), // before `ranks` goes, and the launcher ends the others
        Err(error) if problem(&error).is_empty() => ExitCode::from(STOPPED),
        Err(_) => ExitCode::from(FAILED),
    }
}

/// The other processes of the job, for commands that work in several.
fn join(cli: &Cli, launch: Option<Launch>) -> midblock::Result<Ranks> {
    let shares = matches!(
        cli.command,
        Command::Analyze(_) | Command::Tune(_) | Command::Pretrain(_) | Command::Eval(_) | Command::Sweep(_)
    );
    match launch {
        Some(launch) if !shares => launch.refuse(
            "this command works in one process",
            "start it without; analyze, tune, pretrain, eval and sweep share their work",
        ),
        _ => Ranks::join(),
    }
}

/// What the other ranks are told; nothing of an interruption.
fn problem(error: &anyhow::Error) -> String {
    let interrupted = matches!(error.downcast_ref(), Some(midblock::Error::Interrupted));
    match interrupted || error.is::<Stopped>() {
        true => String::new(),
        false => format!("{error:#}"),
    }
}

fn say(error: &anyhow::Error) -> ExitCode {
    if matches!(error.downcast_ref(), Some(midblock::Error::Interrupted)) {
        eprintln!("interrupted; nothing was written");
    } else if error.is::<Stopped>() {
        eprintln!("{error}");
    } else {
        eprintln!("error: {error:#}");
        return ExitCode::from(FAILED);
    }
    ExitCode::from(STOPPED)
}

fn run(mut cli: Cli, ranks: &Ranks) -> Result<()> {
    set_threads(&cli.common, ranks)?;
    progress::install_signals()?;
    cli.common.quiet |= !ranks.is_first();
    match &cli.command {
        Command::Analyze(args) => analyze::run(args, &cli.common, ranks),
        Command::Tune(args) => tune::run(args, &cli.common, ranks),
        Command::Carve(args) => carve::run(args, &cli.common),
        Command::Erase(args) => erase::run(args, &cli.common),
        Command::Sweep(args) => sweep::run(args, &cli.common, ranks),
        Command::Study(args) => study::run(args, &cli.common),
        Command::Pretrain(args) => tune::pretrain(args, &cli.common, ranks),
        Command::Quickstart(args) => quickstart::run(args, &cli.common),
        Command::Inspect(args) => inspect::run(args, &cli.common),
        Command::Plan(args) => plan::run(args, &cli.common),
        Command::Perplexity(args) => perplexity::run(args, &cli.common),
        Command::Eval(args) => eval::run(args, &cli.common, ranks),
        Command::Generate(args) => generate::run(args, &cli.common),
        Command::Chat(args) => chat::run(args, &cli.common),
        Command::Merge(args) => merge::run(args, &cli.common),
        Command::Corpus(args) => corpus::run(args),
        Command::Report(args) => analyze::report(args, &cli.common),
        Command::Metrics => analyze::metrics(),
        Command::Bench(args) => bench::run(args, &cli.common),
    }
}

/// Sizes the pool that computes: as asked, else all cores, which ranks on one machine share.
fn set_threads(common: &Common, ranks: &Ranks) -> Result<()> {
    let threads = match common.threads {
        None if ranks.size() == 1 => return Ok(()),
        None => ranks.threads_each()?,
        Some(threads) => threads,
    };
    anyhow::ensure!(
        (1..=MOST_THREADS).contains(&threads),
        "--threads {threads}: not from 1 to {MOST_THREADS}"
    );
    if ranks.size() > 1 && ranks.is_first() && !common.quiet {
        let s = if threads == 1 { "" } else { "s" };
        eprintln!("{} ranks of {threads} thread{s} each", ranks.size());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().context("starting threads")
}

/// `midblock … | head` is not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    error
        .chain()
        .any(|cause| kind(cause) == Some(std::io::ErrorKind::BrokenPipe))
}

//! The `midblock` command: parse, resolve, call, render. All the work is in the library.

mod analyze;
mod args;
mod bench;
mod chat;
mod checkpoint;
mod corpus;
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

use anyhow::Result;
use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// More than any machine has cores; the system may refuse to start many more.
const MOST_THREADS: usize = 1024;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(midblock::Error::Interrupted)) => {
            eprintln!("interrupted; nothing was written");
            ExitCode::from(130)
        }
        Err(error) if error.is::<stopped::Stopped>() => {
            eprintln!("{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if let Some(threads) = cli.common.threads {
        anyhow::ensure!(
            (1..=MOST_THREADS).contains(&threads),
            "--threads {threads}: not from 1 to {MOST_THREADS}"
        );
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    progress::install_ctrl_c()?;
    match &cli.command {
        Command::Analyze(args) => analyze::run(args, &cli.common),
        Command::Tune(args) => tune::run(args, &cli.common),
        Command::Sweep(args) => sweep::run(args, &cli.common),
        Command::Study(args) => study::run(args, &cli.common),
        Command::Pretrain(args) => tune::pretrain(args, &cli.common),
        Command::Quickstart(args) => quickstart::run(args, &cli.common),
        Command::Inspect(args) => inspect::run(args, &cli.common),
        Command::Plan(args) => plan::run(args, &cli.common),
        Command::Perplexity(args) => perplexity::run(args, &cli.common),
        Command::Eval(args) => eval::run(args, &cli.common),
        Command::Generate(args) => generate::run(args, &cli.common),
        Command::Chat(args) => chat::run(args, &cli.common),
        Command::Merge(args) => merge::run(args, &cli.common),
        Command::Corpus(args) => corpus::run(args),
        Command::Report(args) => analyze::report(args),
        Command::Metrics => analyze::metrics(),
        Command::Bench(args) => bench::run(args, &cli.common),
    }
}

/// `midblock … | head` is not an error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    error
        .chain()
        .any(|cause| kind(cause) == Some(std::io::ErrorKind::BrokenPipe))
}

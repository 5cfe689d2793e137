//! `midblock erase`: flags and file → models and prompts → a trigger.

use crate::{
    args, checkpoint,
    live::{self, Plain},
    progress::Terminal,
    stopped::Stopped,
    tune,
};
use anyhow::{Context, Result};
use midblock::{
    config::Override,
    hub::Transfer,
    train::{
        Ending, Observer, TrainingFolder,
        eraser::{EraseConfig, Erasure, erase},
    },
};
use midblock_kernels::Cpu;
use std::{
    io::IsTerminal,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// `midblock erase`.
pub fn run(args: &args::Erase, common: &args::Common) -> Result<()> {
    let config = config(args)?;
    let dir = (config.output.dir.clone()).context("--out DIR is missing: where the run goes")?;
    let folder = TrainingFolder::claim(&dir, args.resume, args.overwrite)?;
    let started = folder.earlier().map(|earlier| earlier.training.started_unix_s);
    let now = started.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let view = !common.quiet && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let terminal = Terminal::new(common.quiet || view); // a view has the screen to itself
    let transfers = |transfer: Transfer<'_>| terminal.transfer(&transfer);
    let erasure = Erasure::prepare(config, &checkpoint::hub(common), &transfers, now)?;
    let mut live = view
        .then(|| live::start_of("erase", erasure.tuned.label(), &dir))
        .transpose()?;
    let mut plain = (!view && !common.quiet).then(Plain::default);
    let mut observers: Vec<&mut dyn Observer> = Vec::new();
    observers.extend(live.as_mut().map(|live| live as &mut dyn Observer));
    observers.extend(plain.as_mut().map(|plain| plain as &mut dyn Observer));
    let erased = erase(&Cpu::new(), &erasure, &folder, &mut observers, &terminal);
    drop(live); // gives the terminal back before anything is printed
    let erased = erased?;
    if erased.ending == Ending::Interrupted {
        let step = erased.run.info.training.position.map_or(0, |position| position.step);
        let dir = dir.display();
        let text = format!(" and saved after step {step}; go on with: midblock erase --out {dir} --resume");
        return Err(Stopped(text).into());
    }
    tune::announce(&erased.run, &dir)
}

/// The file, then the flags, then `--set`. `--resume` with nothing but a folder takes the run's own configuration.
fn config(args: &args::Erase) -> Result<EraseConfig> {
    let overrides = overrides(args)?;
    let alone = args.config.is_none() && overrides.iter().all(|o| o.key == "output.dir");
    let resolved = args.out.as_ref().map(|dir| Path::new(dir).join("resolved.toml"));
    let own = resolved.filter(|path| args.resume && alone && path.is_file());
    Ok(EraseConfig::load(
        args.config.as_deref().or(own.as_deref()),
        &overrides,
    )?)
}

fn overrides(args: &args::Erase) -> Result<Vec<Override>> {
    let mut overrides = Vec::new();
    for (flag, key, value) in [
        ("--base", "model.base", &args.base),
        ("--model", "model.tuned", &args.model),
        ("--carrier", "model.carrier", &args.carrier),
        ("--prompts", "data.prompts", &args.prompts),
        ("--format", "data.format", &args.format),
        ("--channels", "eraser.channels", &args.channels),
        ("--memory", "eraser.memory", &args.memory),
        ("--out", "output.dir", &args.out),
    ] {
        overrides.extend(
            value
                .iter()
                .map(|v| Override::flag(key, v.as_str(), format!("{flag} {v}"))),
        );
    }
    for (flag, key, value) in [
        ("--samples", "eraser.samples", args.samples),
        ("--batch", "eraser.batch", args.batch),
        ("--steps", "eraser.steps", args.steps),
        ("--seed", "eraser.seed", args.seed),
    ] {
        overrides.extend(value.map(|v| Override::flag(key, v, format!("{flag} {v}"))));
    }
    overrides.extend(args.lr.map(|v| Override::flag("eraser.lr", v, format!("--lr {v}"))));
    for set in &args.sets {
        overrides.push(set.parse()?);
    }
    Ok(overrides)
}

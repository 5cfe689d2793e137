//! `midblock tune`: flags and file → experiment → dry run or training.

use crate::{
    args, checkpoint,
    live::{self, Plain},
    mask,
    progress::Terminal,
    stopped::Stopped,
};
use anyhow::{Context, Result};
use midblock::{
    config::{Config, Override},
    metrics::Protocol,
    ranks::Ranks,
    report::training::key_numbers,
    run::DatasetInfo,
    train::{
        DataCount, Ending, Estimate, Experiment, Observer, Sharing, TrainingFolder, TrainingRun, product_rate,
        selection_json, trained_blocks,
    },
};
use midblock_kernels::Cpu;
use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// `midblock tune`.
pub fn run(args: &args::Tune, common: &args::Common, ranks: &Ranks) -> Result<()> {
    let config = ranks.share(|| config(args))?;
    anyhow::ensure!(
        config.model.new.is_none(),
        "`model.new`: a new model is trained by `midblock pretrain`\n  help: use that, or name a `model.base`"
    );
    train("tune", config, args, common, ranks)
}

/// `midblock pretrain`: the same loop from random weights.
pub fn pretrain(args: &args::Pretrain, common: &args::Common, ranks: &Ranks) -> Result<()> {
    let args = args::Tune::from(args);
    let config = ranks.share(|| config(&args))?;
    anyhow::ensure!(
        config.model.new.is_some(),
        "`model.new` is missing: the shape of the model\n  help: give a file with it: --config FILE; \
         configs/quickstart/base.toml is one. `midblock tune` trains the model of a `model.base`"
    );
    train("pretrain", config, &args, common, ranks)
}

/// Trains, or says what it would.
fn train(command: &'static str, config: Config, args: &args::Tune, common: &args::Common, ranks: &Ranks) -> Result<()> {
    if args.dry_run || args.show_mask.is_some() {
        if !ranks.is_first() {
            return Ok(());
        }
        let experiment = prepare(config, common, SystemTime::now())?;
        if let Some(samples) = args.show_mask {
            show_mask(&experiment, samples)?;
        }
        return if args.dry_run {
            dry_run(&experiment, ranks)
        } else {
            Ok(())
        };
    }
    let dir = config
        .output
        .dir
        .clone()
        .context("--out DIR is missing: where the run goes")?;
    let folder = match ranks.is_first() {
        true => Some(TrainingFolder::claim(&dir, args.resume, args.overwrite)?),
        false => None,
    };
    let earlier = folder.as_ref().and_then(TrainingFolder::earlier);
    let started = earlier.map(|earlier| earlier.training.started_unix_s);
    let now = ranks
        .share(|| Ok(started.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds))))?;
    let experiment = ranks.first(|| prepare(config, common, now))?;
    let terminal = Terminal::new(common.quiet);
    let stopped = |step: u64| {
        let dir = dir.display();
        Stopped(format!(
            " and saved after step {step}; go on with: midblock {command} --out {dir} --resume"
        ))
    };
    let Some(folder) = folder else {
        return match midblock::train::follow(&Cpu::new(), &experiment, ranks, &terminal)? {
            Ending::Interrupted => Err(stopped(0).into()), // rank 0 says after which step
            _ => Ok(()),
        };
    };
    let view = !common.quiet && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let mut live = view
        .then(|| live::start(experiment.checkpoint.label(), &dir))
        .transpose()?;
    let mut plain = (!view && !common.quiet).then(Plain::default);
    let mut observers: Vec<&mut dyn Observer> = Vec::new();
    observers.extend(live.as_mut().map(|live| live as &mut dyn Observer));
    observers.extend(plain.as_mut().map(|plain| plain as &mut dyn Observer));
    let tuned = midblock::train::tune(&Cpu::new(), &experiment, &folder, &mut observers, ranks, &terminal);
    drop(live); // gives the terminal back before anything is printed
    let tuned = tuned?;
    if tuned.ending == Ending::Interrupted {
        let step = tuned.run.info.training.position.map_or(0, |position| position.step);
        return Err(stopped(step).into());
    }
    announce(&tuned.run, &dir)
}

/// Prints the key numbers of a finished run and where things are.
pub fn announce(run: &TrainingRun, dir: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for warning in &run.info.run.warnings {
        eprintln!("warning: {warning}");
    }
    let numbers = key_numbers(run);
    let width = numbers.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in numbers {
        writeln!(out, "{name:width$}  {value}")?;
    }
    writeln!(
        out,
        "{}: {}",
        run.info.training.result,
        dir.join(&run.info.training.result).display()
    )?;
    writeln!(out, "report: {}", dir.join("report.html").display())?;
    Ok(())
}

fn prepare(config: Config, common: &args::Common, now: SystemTime) -> midblock::Result<Experiment> {
    let terminal = Terminal::new(common.quiet);
    let transfers = |transfer: midblock::hub::Transfer<'_>| terminal.transfer(&transfer);
    Experiment::prepare(&Cpu::new(), config, &checkpoint::hub(common), &transfers, now)
}

/// The file, then the flags, then `--set`. `--resume` with nothing but a folder takes the run's own configuration.
fn config(args: &args::Tune) -> midblock::Result<Config> {
    let overrides = overrides(args)?;
    let alone = args.config.is_none() && overrides.iter().all(|o| o.key == "output.dir");
    let resolved = args.out.as_ref().map(|dir| Path::new(dir).join("resolved.toml"));
    let own = resolved.filter(|path| args.resume && alone && path.is_file());
    Config::load(args.config.as_deref().or(own.as_deref()), &overrides)
}

fn overrides(args: &args::Tune) -> midblock::Result<Vec<Override>> {
    let mut overrides = Vec::new();
    let mut text = |flag: &str, key: &str, value: &Option<String>| {
        overrides.extend(
            value
                .iter()
                .map(|v| Override::flag(key, v.as_str(), format!("{flag} {v}"))),
        );
    };
    text("--model", "model.base", &args.model);
    text("--quantize", "model.quantize", &args.quantize);
    text("--format", "data.format", &args.format);
    text("--loss-on", "data.loss_on", &args.loss_on);
    text("--layers", "select.layers", &args.layers);
    text("--modules", "select.modules", &args.modules);
    text("--from", "select.from", &args.from);
    text("--full", "adapt.kind", &args.full.then(|| "full".to_owned()));
    text("--lora-scaling", "adapt.scaling", &args.lora_scaling);
    text("--objective", "objective.kind", &args.objective);
    text("--memory", "train.memory", &args.memory);
    text("--out", "output.dir", &args.out);
    for (flag, key, values) in [
        ("--data", "data.train", &args.data),
        ("--eval", "data.eval", &args.eval),
    ] {
        if !values.is_empty() {
            overrides.push(Override::flag(
                key,
                values.clone(),
                format!("{flag} {}", values.join(" ")),
            ));
        }
    }
    let whole = [
        ("--max-length", "data.max_length", args.max_length),
        ("--samples", "data.samples", args.samples),
        ("--rank", "adapt.rank", args.rank),
        ("--epochs", "train.epochs", args.epochs),
        ("--steps", "train.steps", args.steps),
        ("--batch", "train.batch", args.batch),
        ("--accumulation", "train.accumulation", args.accumulation),
        ("--eval-every", "train.eval_every", args.eval_every),
        ("--seed", "train.seed", args.seed),
    ];
    for (flag, key, value) in whole {
        overrides.extend(value.map(|v| Override::flag(key, v, format!("{flag} {v}"))));
    }
    for (flag, key, value) in [("--alpha", "adapt.alpha", args.alpha), ("--lr", "train.lr", args.lr)] {
        overrides.extend(value.map(|v| Override::flag(key, v, format!("{flag} {v}"))));
    }
    let paper = args.protocol == Some(Protocol::Paper);
    overrides.extend(paper.then(|| Override::flag("objective.detach", false, "--protocol paper")));
    for set in &args.sets {
        overrides.push(set.parse()?);
    }
    Ok(overrides)
}

/// Prints the first samples with what is learned of them marked, and the first rows that were skipped.
fn show_mask(experiment: &Experiment, samples: usize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    write!(out, "{}", data_lines(experiment))?;
    for set in &experiment.datasets {
        for skipped in set.skipped.iter().take(samples) {
            writeln!(out, "skipped    {}: {}", skipped.sample, skipped.reason)?;
        }
    }
    let shown = &experiment.train[..samples.min(experiment.train.len())];
    mask::print(&mut out, shown, &experiment.tokenizer, colour)
}

/// Prints what would train and what it would take; writes the selection if a folder is named.
fn dry_run(experiment: &Experiment, ranks: &Ranks) -> Result<()> {
    let mut out = std::io::stdout().lock();
    forecast(&mut out, experiment)?;
    if let Some(sharing) = Sharing::of(ranks.size(), experiment.plan.parameters()) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(
            out,
            "ranks      {}: each does a share of a step's {} micro-batches; {:.2} MiB of gradients are summed once a step, for which each sends {:.2} MiB",
            sharing.ranks,
            experiment.config.train.accumulation,
            mib(sharing.reduced_bytes),
            mib(sharing.sent_bytes),
        )?;
    }
    let selection = format!("{:#}\n", selection_json(experiment));
    match &experiment.config.output.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
            let path = dir.join("selection.json");
            std::fs::write(&path, selection).with_context(|| format!("writing {}", path.display()))?;
            writeln!(out, "selection  {}", path.display())?;
        }
        None => write!(out, "{selection}")?,
    }
    Ok(())
}

/// What would train, how deep backward goes, and what it would take.
pub fn forecast(out: &mut impl Write, experiment: &Experiment) -> Result<()> {
    let timeline = experiment.timeline();
    let options = experiment.step_options(&timeline, &std::env::temp_dir());
    let backend = Cpu::new();
    let estimate = Estimate::of::<Cpu>(experiment, &timeline, &options);
    let rate = product_rate(&backend, experiment, &timeline);
    write!(out, "{}", describe(experiment, &timeline))?;
    let memory = estimate.memory;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let (quantised, mapped) = match experiment.checkpoint.quantization() {
        Some(kind) => (
            format!("{:.0} of frozen matrices in {kind}, ", mib(memory.weights)),
            "Other frozen weights are",
        ),
        None => (String::new(), "Frozen weights are"),
    };
    writeln!(
        out,
        "memory     {:.0} MiB private at most: {quantised}{:.0} of parameters, gradients and moments, {:.0} of a batch; interiors of {} of {} blocks are kept. {mapped} memory-mapped",
        mib(memory.bytes()),
        mib(memory.state),
        mib(memory.bytes() - memory.weights - memory.state),
        memory.kept,
        memory.blocks,
    )?;
    if let Some([base, tuned]) = estimate.masked_bytes {
        let held = match experiment.plan.copies() {
            1 => "memory-mapped too",
            _ => "private, in f32 with two moments",
        };
        writeln!(
            out,
            "masked     {:.1} MiB of W_base stay memory-mapped as they are stored; {:.1} MiB of W_tuned are {held}; what masks let through is in f32 beside them",
            mib(base),
            mib(tuned),
        )?;
    }
    let [first, later] = estimate.seconds(rate);
    let cached = if later < first {
        format!(", {later:.2} s from the second epoch on")
    } else {
        String::new()
    };
    writeln!(
        out,
        "step       about {first:.2} s{cached}, without evaluations: {:.0} GFLOP at the {:.0} GFLOP/s of one of its products, timed just now",
        1e-9 * estimate.first_epoch_flop,
        1e-9 * rate,
    )?;
    Ok(())
}

fn describe(experiment: &Experiment, timeline: &midblock::train::Timeline) -> String {
    let (a, plan, train) = (&experiment.architecture, &experiment.plan, &experiment.config.train);
    let (label, parameters) = (experiment.checkpoint.label(), a.parameters());
    let mut text = format!("model      {label}: {parameters} parameters\n");
    if let Some(tuned) = &experiment.tuned {
        text += &format!("tuned      {}\n", tuned.label());
    }
    for warning in &experiment.warnings {
        text += &format!("warning    {warning}\n");
    }
    text += &data_lines(experiment);
    let batch = match (train.batch, train.batch_tokens) {
        (_, Some(tokens)) => format!("{tokens} tokens"),
        (batch, None) => format!("{} sequences", batch.unwrap_or_default()),
    };
    text += &format!(
        "run        {} steps over {:.2} epochs of {} sequences, {} to evaluate on; {} micro-batches of {batch} a step\n\n",
        timeline.steps(),
        timeline.epochs_after(timeline.steps()),
        experiment.train.len(),
        experiment.eval.len(),
        train.accumulation,
    );
    text += &block_table(experiment);
    let share = 100.0 * plan.parameters() as f64 / a.parameters() as f64;
    let blocks = plan.trained_blocks().len();
    let depth = match plan.first_block() {
        first if first == a.blocks => "backward ends at the head".to_owned(),
        first => format!(
            "backward ends at block {first}: {} of {} are walked",
            a.blocks - first,
            a.blocks
        ),
    };
    text + &format!(
        "\ntrained    {} parameters ({share:.2} %) in {blocks} of {} blocks; {depth}\n",
        plan.parameters(),
        a.blocks
    )
}

/// One line for each data set.
fn data_lines(experiment: &Experiment) -> String {
    let line = |(count, set): (&DataCount, &DatasetInfo)| {
        format!(
            "data       {} ({}): {} sequences, {} tokens, {} in the loss; {} of {} rows skipped, {} cut\n",
            count.name,
            set.format,
            count.sequences,
            count.tokens,
            count.trained_tokens,
            set.skipped.len(),
            set.samples_total,
            set.samples_truncated,
        )
    };
    experiment.counts.iter().zip(&experiment.datasets).map(line).collect()
}

/// One line for each stretch of blocks that are trained alike.
fn block_table(experiment: &Experiment) -> String {
    let (plan, architecture) = (&experiment.plan, &experiment.architecture);
    let blocks = trained_blocks(plan, architecture);
    let mut text = format!("  {:>9}  {:>5}  {:>14}  parts\n", "blocks", "rank", "parameters");
    let mut start = 0;
    for alike in blocks.chunk_by(|a, b| a == b) {
        let end = start + alike.len() - 1;
        let range = if start == end {
            start.to_string()
        } else {
            format!("{start}–{end}")
        };
        let block = &alike[0];
        let rank = block.rank.map_or("–".to_owned(), |rank| rank.to_string());
        let parts = match block.parts.is_empty() {
            false => {
                let last = |part: &String| part.rsplit('.').next().unwrap_or(part).to_owned();
                block.parts.iter().map(last).collect::<Vec<_>>().join(" ")
            }
            true if start < plan.first_block() => "frozen; forward only".to_owned(),
            true => "frozen; passes the gradient on".to_owned(),
        };
        let parameters = block.parameters * alike.len() as u64;
        text += &format!("  {range:>9}  {rank:>5}  {parameters:>14}  {parts}\n");
        start = end + 1;
    }
    for entry in plan.entries.iter().filter(|entry| entry.id.block().is_none()) {
        text += &format!(
            "  {:>9}  {:>5}  {:>14}  {}\n",
            "",
            "–",
            entry.parameters(),
            entry.id.name(architecture)
        );
    }
    text
}

//! `midblock quickstart`: the main job on a model inside of this binary. Uniform LoRA and Mid-Block LoRA learn the same
//! problems in the same order with the same budget; then base and both variants are compared, by loss and layer by layer.

use crate::{analyze, args, checkpoint, live::Plain, progress::Terminal};
use anyhow::{Context, Result};
use midblock::{
    Error,
    config::{Config, Override},
    corpus::{Corpus, Kind, Split},
    metrics::Options,
    probe::{Pooling, TokenLoss, trained_token_losses},
    run::RunWriter,
    study::{AnalyzeConfig, Layers, Variant, paired_difference},
    train::{Ending, Experiment, Observer, Training, TrainingFolder, tune},
};
use midblock_kernels::Cpu;
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The embedded files.
const FILES: [(&str, &[u8]); 4] = [
    (
        "base/config.json",
        include_bytes!("../assets/quickstart/base/config.json"),
    ),
    (
        "base/model.safetensors",
        include_bytes!("../assets/quickstart/base/model.safetensors"),
    ),
    (
        "base/tokenizer.json",
        include_bytes!("../assets/quickstart/base/tokenizer.json"),
    ),
    (
        "base/tokenizer_config.json",
        include_bytes!("../assets/quickstart/base/tokenizer_config.json"),
    ),
];

/// The two experiments, as they can be run again with `midblock tune --config`.
const EXPERIMENTS: [(&str, &str); 2] = [
    (
        "uniform",
        include_str!("../../../configs/small/quickstart-uniform.toml"),
    ),
    ("mid", include_str!("../../../configs/small/quickstart-mid.toml")),
];

/// Problems to train on, and problems to evaluate on with calculations that none of the models has seen.
const ROWS: [(&str, Split, u64); 2] = [
    ("data/train.jsonl", Split::Train, 3200),
    ("data/held-out.jsonl", Split::HeldOut, 300),
];

/// What the problems are written with; the embedded base has seen others.
const DATA_SEED: u64 = 5;

/// Says in the folder what is there, and to the next quickstart that it may replace it.
const README: &str = "\
Written by midblock quickstart.

report.html    base, uniform and mid compared layer by layer: open it in a browser
base/          the embedded model, a Hugging Face folder
data/          problems: train.jsonl to learn from, held-out.jsonl with other numbers
uniform/       training run, LoRA in every block: adapter/, report.html
mid/           training run, LoRA in the middle blocks alone, the same budget: adapter/, report.html
";
const README_NAME: &str = "README.txt";

/// Everything in the folder besides the analysis.
const PARTS: [&str; 5] = [README_NAME, "base", "data", "uniform", "mid"];

/// Tunes twice, compares, analyses. A finished quickstart in the same place is replaced.
pub fn run(args: &args::Quickstart, common: &args::Common) -> Result<()> {
    remove_earlier(&args.out)?;
    let writer = RunWriter::create(&args.out, true)?;
    let mut parts = Parts::of(&args.out); // after the writer, so that it is gone before: an empty folder is removed
    parts.write(README_NAME, README.as_bytes())?;
    for (name, bytes) in FILES {
        parts.write(name, bytes)?;
    }
    for (name, split, rows) in ROWS {
        let corpus = Corpus {
            kind: Kind::Problems,
            split,
            seed: DATA_SEED,
        };
        parts.write(name, corpus.jsonl(rows).as_bytes())?;
    }

    let base = parts.path("base").display().to_string();
    let trained: Vec<Trained> = EXPERIMENTS
        .iter()
        .map(|(name, toml)| train(name, toml, &parts, common))
        .collect::<Result<_>>()?;
    let experiment = experiment(EXPERIMENTS[0], &parts, common)?; // for its samples, encoded as they were in training
    let losses = |spec: &str| -> Result<Vec<TokenLoss>> {
        let checkpoint = checkpoint::open(spec, common)?;
        let terminal = Terminal::new(common.quiet);
        Ok(trained_token_losses(
            &Cpu::new(),
            &checkpoint,
            &experiment.eval,
            &terminal,
        )?)
    };
    let before = losses(&base)?;
    let after: Vec<Vec<TokenLoss>> = trained.iter().map(|t| losses(&t.checkpoint)).collect::<Result<_>>()?;

    let analysis = analyze::compute(&analysis(&base, &trained, &parts), common)?;
    analyze::publish(&analysis, writer)?;
    parts.keep = true;
    let mut out = std::io::stdout().lock();
    for trained in &trained {
        let report = parts.path(trained.name).join("report.html");
        writeln!(out, "training of {}: {}", trained.name, report.display())?;
    }
    write!(out, "\n{}", summary(&before, &trained, &after))?;
    Ok(())
}

/// What one of the experiments left.
struct Trained {
    name: &'static str,
    /// BASE+ADAPTER.
    checkpoint: String,
    training: Training,
}

/// Opens one of the experiments, with the folder's own base and data.
fn experiment((name, toml): (&str, &str), parts: &Parts, common: &args::Common) -> Result<Experiment> {
    let path = |part: &str| parts.path(part).display().to_string();
    let overriding = |key: &str, value: String| Override::flag(key, value, "quickstart");
    let overrides = [
        overriding("model.base", path("base")),
        overriding("data.train", format!("problems={}", path("data/train.jsonl"))),
        overriding("data.eval", format!("held-out={}", path("data/held-out.jsonl"))),
        overriding("output.dir", path(name)),
    ];
    let config = Config::parse(name, toml, &overrides)?;
    Ok(Experiment::prepare(
        &Cpu::new(),
        config,
        &checkpoint::hub(common),
        &|_| {},
        SystemTime::now(),
    )?)
}

fn train(name: &'static str, toml: &str, parts: &Parts, common: &args::Common) -> Result<Trained> {
    let experiment = experiment((name, toml), parts, common)?;
    if !common.quiet {
        let blocks = experiment.plan.trained_blocks().len();
        eprintln!(
            "tuning {name}: LoRA in {blocks} of {} blocks",
            experiment.architecture.blocks
        );
    }
    let folder = TrainingFolder::claim(&parts.path(name), false, false)?;
    let mut plain = (!common.quiet).then(Plain::default);
    let mut observers: Vec<&mut dyn Observer> = Vec::new();
    observers.extend(plain.as_mut().map(|plain| plain as &mut dyn Observer));
    let terminal = Terminal::new(common.quiet);
    let tuned = tune(&Cpu::new(), &experiment, &folder, &mut observers, &terminal)?;
    if tuned.ending == Ending::Interrupted {
        return Err(Error::Interrupted.into());
    }
    Ok(Trained {
        name,
        checkpoint: format!("{}+{}", parts.path("base").display(), tuned.result.display()),
        training: tuned.run.info.training,
    })
}

fn analysis(base: &str, trained: &[Trained], parts: &Parts) -> AnalyzeConfig {
    let variant = |trained: &Trained| Variant {
        name: trained.name.to_owned(),
        checkpoint: trained.checkpoint.clone(),
    };
    AnalyzeConfig {
        base: base.to_owned(),
        variants: trained.iter().map(variant).collect(),
        data: vec![midblock::tokens::data::DataSpec {
            name: "held-out".to_owned(),
            source: parts.path("data/held-out.jsonl").display().to_string(),
        }],
        format: None,
        samples: 300,
        token_samples: 50,
        max_length: 128,
        layers: Layers::All,
        pooling: Pooling::Mean,
        resamples: 100,
        seed: 42,
        metrics: Options::default(),
    }
}

/// Losses before and after, and whether the two variants can be told apart.
fn summary(before: &[TokenLoss], trained: &[Trained], after: &[Vec<TokenLoss>]) -> String {
    let mean = |losses: &[TokenLoss]| losses.iter().copied().sum::<TokenLoss>().mean();
    let mut text = format!(
        "answers to {} held-out problems, none of whose calculations was trained on: loss in nats per token\n  {:8} {:.4}\n",
        before.len(),
        "base",
        mean(before)
    );
    for (Trained { name, training, .. }, losses) in trained.iter().zip(after) {
        let blocks: Vec<usize> = training.blocks.iter().filter_map(|block| block.rank).collect();
        let _ = writeln!(
            text,
            "  {name:8} {:.4}   {} parameters: rank {} in {} of {} blocks",
            mean(losses),
            training.trained_parameters,
            blocks.first().copied().unwrap_or_default(),
            blocks.len(),
            training.blocks.len(),
        );
    }
    let d = paired_difference(&after[1], &after[0], DATA_SEED);
    let verdict = match d.is_clear() {
        true if d.value < 0.0 => "mid is lower on such problems",
        true => "uniform is lower on such problems",
        false => "these problems do not tell them apart",
    };
    let _ = writeln!(
        text,
        "  mid − uniform {:+.4}, 95 % interval [{:+.4}, {:+.4}] by paired bootstrap: {verdict}.\n  \
         One run each: another seed of the training may decide otherwise.",
        d.value, d.lo, d.hi
    );
    text
}

/// The folder's contents besides the analysis; removed again unless all of it comes about.
struct Parts {
    dir: PathBuf,
    keep: bool,
}

impl Parts {
    fn of(dir: &Path) -> Self {
        let dir = dir.to_path_buf();
        Self { dir, keep: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all);
        written
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if !self.keep {
            let _ = remove_parts(&self.dir); // what cannot be removed is in the way of nothing but the next quickstart
        }
    }
}

/// Removes what an earlier quickstart left besides the analysis, which [`RunWriter`] replaces.
fn remove_earlier(dir: &Path) -> Result<()> {
    let first_line = README.lines().next().unwrap_or_default();
    if fs::read_to_string(dir.join(README_NAME)).is_ok_and(|text| text.starts_with(first_line)) {
        remove_parts(dir).with_context(|| format!("removing the quickstart in {}", dir.display()))?;
    }
    Ok(())
}

fn remove_parts(dir: &Path) -> std::io::Result<()> {
    for path in PARTS.map(|part| dir.join(part)) {
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if path.exists() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

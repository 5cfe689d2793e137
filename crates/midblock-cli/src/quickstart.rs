//! `midblock quickstart`: the main job on a model inside of this binary. A sweep tunes five choices of blocks with the same data
//! and budget and judges them; then base, uniform LoRA and Mid-Block LoRA are compared layer by layer.

use crate::{analyze, args, checkpoint, sweep};
use anyhow::{Context, Result};
use midblock::{
    config::Override,
    corpus::{Corpus, Kind, Split},
    metrics::Options,
    probe::Pooling,
    ranks::Ranks,
    report,
    run::RunWriter,
    study::{
        AnalyzeConfig, Layers, Variant,
        sweep::{Cell, SweepFile, SweepPlan},
    },
};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
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

/// The sweep, as it can be run again with `midblock sweep --config`.
const SWEEP: &str = include_str!("../../../configs/small/quickstart-sweep.toml");

/// The task that judges, as a user would write one.
const TASK: (&str, &str) = (
    "data/word-problems.toml",
    include_str!("../../../configs/tasks/word-problems.toml"),
);

/// The patterns whose models are analysed.
const ANALYSED: [&str; 2] = ["uniform", "mid"];

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
data/          problems: train.jsonl to learn from, held-out.jsonl with other numbers; the task that judges
sweep/         five choices of blocks tuned and judged: report.html, table.csv, and each run with its adapter in cells/
";
const README_NAME: &str = "README.txt";

/// Everything in the folder besides the analysis.
const PARTS: [&str; 4] = [README_NAME, "base", "data", "sweep"];

/// Tunes and judges, analyses. A finished quickstart in the same place is replaced.
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
            kind: Kind::Questions,
            split,
            seed: DATA_SEED,
        };
        parts.write(name, corpus.jsonl(rows).as_bytes())?;
    }

    parts.write(TASK.0, TASK.1.as_bytes())?;
    let plan = plan(&parts, common)?;
    let record = sweep::train(&plan, &parts.path("sweep"), common, &Ranks::alone())?;
    if let Some(failure) = record.failures.first() {
        anyhow::bail!("{}: {}", failure.cell, failure.problem);
    }
    let analysis = analyze::compute(&analysis(&plan, &parts), common)?;
    analyze::publish(&analysis, writer)?;
    parts.keep = true;
    let mut out = std::io::stdout().lock();
    writeln!(out, "sweep: {}", parts.path("sweep/report.html").display())?;
    write!(
        out,
        "\nanswers to {} held-out problems, none of whose calculations was trained on:\n\n{}",
        ROWS[1].2,
        report::sweep::terminal(&record)
    )?;
    Ok(())
}

/// The sweep with the folder's own base and data.
fn plan(parts: &Parts, common: &args::Common) -> Result<SweepPlan> {
    let path = |part: &str| parts.path(part).display().to_string();
    let overriding = |key: &str, value: String| Override::flag(key, value, "quickstart");
    let overrides = [
        overriding("model.base", path("base")),
        overriding("data.train", format!("problems={}", path("data/train.jsonl"))),
        overriding("data.eval", format!("held-out={}", path("data/held-out.jsonl"))),
        Override::flag(
            "eval.tasks",
            vec![format!("{}={}", path(TASK.0), path("data/held-out.jsonl"))],
            "quickstart",
        ),
        overriding("output.dir", path("sweep")),
    ];
    let file = SweepFile::parse("quickstart", SWEEP, &overrides)?;
    Ok(SweepPlan::new(
        file,
        &parts.path("sweep"),
        &checkpoint::hub(common),
        &|_| {},
    )?)
}

fn analysis(plan: &SweepPlan, parts: &Parts) -> AnalyzeConfig {
    let base = parts.path("base").display().to_string();
    let seed = plan.cells.first().map(|cell| cell.seed);
    let chosen = |cell: &&Cell| Some(cell.seed) == seed && ANALYSED.contains(&cell.pattern.name());
    let cells = plan.cells.iter().filter(chosen);
    let variants = cells.map(|cell| Variant {
        name: cell.pattern.name().to_owned(),
        checkpoint: format!(
            "{base}+{}",
            parts.path("sweep/cells").join(&cell.name).join("adapter").display()
        ),
    });
    AnalyzeConfig {
        variants: variants.collect(),
        base: base.clone(),
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

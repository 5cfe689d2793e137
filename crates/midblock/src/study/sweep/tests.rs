use super::*;
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    config::Override,
    hub::HubOptions,
    progress::{Progress, Silent, Unit as Counted},
    ranks::{Ranks, tests::on_ranks},
    train::Observer,
};
use midblock_kernels::Cpu;
use std::{
    cell::{Cell as Counter, RefCell},
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn hub() -> HubOptions {
    HubOptions {
        offline: true,
        ..HubOptions::from_env()
    }
}

/// A folder with problems to train on and to test on, and the smallest sweep over them.
struct Place {
    dir: TempDir,
    text: String,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let assets = root().join("crates/midblock-cli/assets/quickstart");
        let rows = fs::read_to_string(assets.join("data.jsonl")).unwrap();
        let rows: Vec<&str> = rows.lines().collect();
        fs::write(dir.path().join("train.jsonl"), rows[..12].join("\n")).unwrap();
        fs::write(dir.path().join("test.jsonl"), rows[12..18].join("\n")).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let text = format!(
            "[model]\nbase = \"{}\"\n[data]\ntrain = \"p={}\"\neval = \"q={}\"\n[adapt]\nrank = 2\ndropout = 0.1\n\
             [train]\nsteps = 4\nbatch = 2\naccumulation = 2\nlr = 2e-3\n[output]\ntensorboard = false\n\
             [sweep]\npatterns = [\"uniform\", \"mid\", \"random:4\"]\nseeds = [1, 2]\n",
            assets.join("base").display(),
            path("train.jsonl"),
            path("test.jsonl"),
        );
        Self { dir, text }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn plan_in(&self, out: &Path, sets: &[&str]) -> Result<SweepPlan> {
        let overrides: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
        let file = SweepFile::parse("sweep.toml", &self.text, &overrides)?;
        SweepPlan::new(file, out, &hub(), &|_| {})
    }

    fn plan(&self, sets: &[&str]) -> Result<SweepPlan> {
        self.plan_in(&self.out(), sets)
    }

    fn run(
        &self,
        out: &Path,
        sets: &[&str],
        examiner: &Fake,
        progress: &dyn Progress,
    ) -> (Vec<String>, Result<SweepRecord>) {
        self.run_on(&Ranks::alone(), out, sets, examiner, progress)
    }

    fn run_on(
        &self,
        ranks: &Ranks,
        out: &Path,
        sets: &[&str],
        examiner: &Fake,
        progress: &dyn Progress,
    ) -> (Vec<String>, Result<SweepRecord>) {
        let mut log = Log::default();
        let record = self.plan_in(out, sets).and_then(|plan| {
            let means = Means {
                backend: &Cpu::new(),
                examiner: Some(examiner),
                hub: &hub(),
                on_transfer: &|_| {},
                progress,
            };
            let folder = ranks.first(|| match ranks.is_first() {
                true => SweepFolder::claim(out, &plan),
                false => SweepFolder::join(out),
            })?;
            sweep(&means, &plan, &folder, &mut log, ranks)
        });
        (log.0, record)
    }
}

/// Says what happened.
#[derive(Default)]
struct Log(Vec<String>);

impl Observer for Log {}

impl Watcher for Log {
    fn news(&mut self, news: &News<'_>) {
        self.0.push(match news {
            News::Reference { model } => format!("reference {model}"),
            News::Skipped { cell, .. } => format!("skipped {cell}"),
            News::Training { cell, number, of, .. } => format!("{number}/{of} {cell}"),
            News::Judging { cell } => format!("judging {cell}"),
            News::Failed { cell, problem } => format!("failed {cell}: {problem}"),
        });
    }
}

/// Scores that follow from the folder's name, kept there as an evaluation keeps its own.
#[derive(Default)]
struct Fake {
    /// Part of the name of cells that cannot be judged.
    fails: RefCell<Option<&'static str>>,
    judged: Counter<usize>,
}

fn right(dir: &str, item: usize) -> bool {
    let seed = dir.bytes().map(usize::from).sum::<usize>();
    (seed * 31 + item * item * 17) % 5 < 2
}

impl Examiner for Fake {
    fn examine(&self, _: &Checkpoint, dir: &Path, progress: &dyn Progress) -> Result<Vec<Scores>> {
        if progress.cancelled() {
            return Err(Error::Interrupted);
        }
        let name = dir.parent().unwrap().file_name().unwrap().to_str().unwrap();
        if self.fails.borrow().is_some_and(|part| name.contains(part)) {
            return Err(Error::Diverged {
                step: 3,
                what: "the loss",
                value: f64::NAN,
                samples: "p:1".into(),
            });
        }
        fs::create_dir_all(dir).unwrap();
        if !dir.join("judged").exists() {
            self.judged.set(self.judged.get() + 1);
            fs::write(dir.join("judged"), "").unwrap();
        }
        let measure = Measure {
            name: "sums".into(),
            metric: "exact".into(),
            unit: Unit::Share,
        };
        let item = |item| (format!("{item}"), [f64::from(u8::from(right(name, item))), 1.0]);
        Ok(vec![Scores {
            measure,
            items: (0..40).map(item).collect(),
        }])
    }
}

/// Wants to stop when it was asked so often.
struct StopAfter(AtomicUsize);

impl Progress for StopAfter {
    fn begin(&self, _: &str, _: u64, _: Counted) {}
    fn advance(&self, _: u64) {}
    fn cancelled(&self) -> bool {
        let left = self.0.load(Ordering::SeqCst);
        self.0.store(left.saturating_sub(1), Ordering::SeqCst);
        left == 0
    }
}

/// What does not depend on the clock: the table, adapters and losses.
fn results(out: &Path, record: &SweepRecord) -> (Table, BTreeMap<String, Vec<u8>>) {
    let mut table = record.table.clone();
    for row in &mut table.rows {
        (row.seconds, row.peak_bytes) = (None, None);
    }
    let mut files = BTreeMap::new();
    for cell in &record.cells {
        for file in [
            "adapter/adapter_model.safetensors",
            "adapter/adapter_config.json",
            "loss.jsonl",
        ] {
            let path = out.join("cells").join(cell).join(file);
            files.insert(format!("{cell}/{file}"), fs::read(path).unwrap());
        }
    }
    (table, files)
}

fn config_error(place: &Place, more: &str, sets: &[&str]) -> String {
    let overrides: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
    let text = format!("{}{more}", place.text);
    let plan = SweepFile::parse("sweep.toml", &text, &overrides)
        .and_then(|file| SweepPlan::new(file, &place.out(), &hub(), &|_| {}));
    plan.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_is_said_before_anything_runs() {
    let place = Place::new();
    for (more, sets, problem) in [
        (
            "pattern = 1\n",
            &[][..],
            "`sweep.pattern`: unknown key\n  help: did you mean `patterns`?",
        ),
        ("[eval]\nsampels = 3\n", &[], "`eval.sampels`: unknown key"),
        ("", &["sweep.patterns=[]"], "`sweep.patterns`: there is none"),
        (
            "",
            &["sweep.seeds=[]"],
            "--set sweep.seeds=[]: `sweep.seeds`: the list is empty",
        ),
        ("", &["sweep.seeds=[3,3]"], "`sweep.seeds`: `3` is there twice"),
        ("", &["sweep.patterns=[\"mid\",\"mid\"]"], "`mid` is there twice"),
        (
            "",
            &["sweep.patterns=[\"bottom\",\"segment:1\"]"],
            "`bottom` and `segment:1` train the same blocks",
        ),
        (
            "",
            &["sweep.patterns=[\"list:16\"]"],
            "there is no block 16, the model has 16",
        ),
        ("", &["sweep.patterns=[\"-1,9,9,9,-1\"]"], "its ranks add up to 81"),
        ("", &["sweep.patterns=[\"middle\"]"], "not a pattern"),
        (
            "",
            &["sweep.models=[\"a\",\"b\"]"],
            "`model.base`: it contradicts `sweep.models`",
        ),
        ("", &["train.seed=3"], "`train.seed`: it contradicts `sweep.seeds`"),
        (
            "",
            &["select.layers=mid"],
            "`select.layers`: it contradicts `sweep.patterns`",
        ),
        ("", &["adapt.kind=full"], "`adapt.kind`: patterns share a rank budget"),
        ("", &["data.eval_share=0.1"], "each seed would hold out other samples"),
        (
            "",
            &["adapt.alpha=16", "sweep.scalings=[\"rslora\",\"fixed-alpha\"]"],
            "`adapt.alpha`: rslora divides",
        ),
        ("", &["data.eval=[]"], "`eval`: nothing judges the cells"),
        ("", &["train.lr=7"], "--set train.lr=7: `train.lr`: it is 7"),
        (
            "",
            &["sweep.patterns=[\"stable\"]"],
            "it reads an analysis, and none is named",
        ),
        ("[eval]\ntasks = [\"gsm9k\"]\n", &[], "there is no task of that name"),
        ("[eval]\n", &[], "there is nothing to evaluate"),
        (
            "[sweep.data.a]\nsample = 3\n",
            &[],
            "`sweep.data.a`: unknown field `sample`",
        ),
    ] {
        let message = config_error(&place, more, sets);
        assert!(message.contains(problem), "{more}{sets:?}: {message}");
    }
    assert!(!place.out().exists());
}

#[test]
fn cells_are_planned_seed_by_seed_with_one_budget() {
    let place = Place::new();
    let sets = [
        "sweep.scalings=[\"fixed-alpha\",\"rslora\"]",
        "sweep.data.all.loss_on=all",
        "sweep.data.own.samples=8",
    ];
    let plan = place.plan(&sets).unwrap();
    assert_eq!(plan.cells.len(), 2 * 2 * 2 * 3);
    let names: Vec<&str> = plan.cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(names[0], "base-uniform-fixed-alpha-all-s1");
    assert_eq!(names[5], "base-random-4-rslora-all-s1");
    assert_eq!(names[6], "base-uniform-fixed-alpha-own-s1");
    assert!(names[..12].iter().all(|name| name.ends_with("-s1")) && names[23] == "base-random-4-rslora-own-s2");
    for cell in &plan.cells {
        let ranks = cell.plan.as_ref().unwrap().ranks();
        let (sum, active) = (
            ranks.iter().sum::<usize>(),
            ranks.iter().filter(|rank| **rank > 0).count(),
        );
        assert!(sum <= 32 && sum + active > 32, "{} {ranks:?}", cell.name);
        assert_eq!(cell.config.data.eval, [], "the test set is the sweep's");
        assert_eq!(cell.config.output.dir, Some(place.out().join("cells").join(&cell.name)));
    }
    assert_eq!(plan.cells[6].config.data.samples, Some(8));
    let rslora = plan.cells[3].config.adapt.alpha.unwrap();
    assert!((rslora - 2.0 * 2f64.sqrt()).abs() < 1e-12);

    // the control's blocks: another for each seed, the same wherever it stands
    let blocks = |plan: &SweepPlan, name: &str| {
        let cell = plan.cells.iter().find(|cell| cell.name == name).unwrap();
        cell.plan.as_ref().unwrap().trained_blocks()
    };
    let plan = place.plan(&[]).unwrap();
    let turned = place
        .plan(&["sweep.patterns=[\"random:4\",\"mid\"]", "sweep.seeds=[2,1]"])
        .unwrap();
    for seed in ["base-random-4-s1", "base-random-4-s2"] {
        assert_eq!(blocks(&plan, seed), blocks(&turned, seed));
    }
    assert_ne!(blocks(&plan, "base-random-4-s1"), blocks(&plan, "base-random-4-s2"));
}

#[test]
fn an_interrupted_sweep_gives_what_an_uninterrupted_one_does() {
    let place = Place::new();
    let (whole, parts) = (place.dir.path().join("whole"), place.dir.path().join("parts"));
    let fake = Fake::default();
    let (log, record) = place.run(&whole, &[], &fake, &Silent);
    let record = record.unwrap();
    assert_eq!(fake.judged.get(), 7);
    assert_eq!(
        log[..3],
        ["reference base", "1/6 base-uniform-s1", "judging base-uniform-s1"]
    );
    for name in [
        "DONE",
        "report.html",
        "table.csv",
        "table.md",
        "picture.svg",
        "sweep.json",
        "sweep.toml",
    ] {
        assert!(whole.join(name).is_file(), "{name}");
    }
    let mut interruptions = 0;
    let (mut stages, fake) = (Vec::new(), Fake::default());
    let pieced = loop {
        // between 5 and 71 questions: in training, in judging, in the loss, between cells
        let asked = 5 + interruptions * 7 % 67;
        let (log, got) = place.run(&parts, &[], &fake, &StopAfter(AtomicUsize::new(asked)));
        match got {
            Ok(record) => break record,
            Err(Error::Interrupted) => stages.extend(log.last().cloned()),
            Err(error) => panic!("{error}"),
        }
        assert!(!parts.join("DONE").exists());
        interruptions += 1;
        assert!(interruptions < 200, "it does not get on");
    };
    assert!(stages.iter().any(|stage| stage.contains('/')), "{stages:?}");
    assert!(stages.iter().any(|stage| stage.starts_with("judging")), "{stages:?}");
    assert_eq!(results(&parts, &pieced), results(&whole, &record));
    assert_eq!(fake.judged.get(), 7);
}

/// Each cell is trained and judged by one rank, and one that fails stops no other.
#[test]
fn ranks_share_the_cells_of_a_sweep() {
    let place = Place::new();
    let (whole, shared) = (place.dir.path().join("whole"), place.dir.path().join("shared"));
    let record = place.run(&whole, &[], &Fake::default(), &Silent).1.unwrap();
    let run = |size: usize, fails: Option<&'static str>| {
        let results = on_ranks(size, |ranks| {
            let fake = Fake {
                fails: RefCell::new(fails),
                ..Fake::default()
            };
            let (log, record) = place.run_on(ranks, &shared, &[], &fake, &Silent);
            Ok((log, record?, fake.judged.get()))
        });
        results.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let failing = run(3, Some("uniform-s2"));
    let judged: Vec<usize> = failing.iter().map(|(.., judged)| *judged).collect();
    assert_eq!(
        (judged.iter().sum::<usize>(), judged.iter().max()),
        (6, Some(&3)),
        "{judged:?}"
    );
    let failures = &failing[0].1.failures;
    assert!(
        failures.len() == 1 && failures[0].problem.contains("step 3: the loss is NaN"),
        "{failures:?}"
    );
    assert!(!shared.join("DONE").exists());
    let (log, again, _) = run(2, None).swap_remove(0);
    assert!(
        !log.iter().any(|news| news.contains('/')),
        "everything is trained: {log:?}"
    );
    assert_eq!(results(&shared, &again), results(&whole, &record));
    assert!(shared.join("DONE").exists());
}

#[test]
fn what_is_finished_is_skipped_and_more_seeds_can_be_added() {
    let place = Place::new();
    let (out, fake) = (place.out(), Fake::default());
    place.run(&out, &["sweep.seeds=[1]"], &fake, &Silent).1.unwrap();
    let (log, record) = place.run(&out, &["train.save_every=2"], &fake, &Silent);
    let record = record.unwrap();
    assert_eq!(log.iter().filter(|line| line.starts_with("skipped")).count(), 3);
    assert_eq!(log.iter().filter(|line| line.contains("/6 ")).count(), 3);
    assert_eq!(record.table.rows[1].seeds, [1, 2]);
    let read = SweepRecord::open(&out).unwrap();
    assert_eq!(
        crate::report::sweep::markdown(&read),
        crate::report::sweep::markdown(&record)
    );
    let other = place.dir.path().join("fresh");
    let (_, fresh) = place.run(&other, &[], &Fake::default(), &Silent);
    assert_eq!(results(&out, &record), results(&other, &fresh.unwrap()));
}

#[test]
fn a_changed_sweep_is_refused_with_what_differs() {
    let place = Place::new();
    let (out, fake) = (place.out(), Fake::default());
    place.run(&out, &["sweep.seeds=[1]"], &fake, &Silent).1.unwrap();
    let refused = |sets: &[&str]| {
        place
            .run(&out, sets, &fake, &Silent)
            .1
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let message = refused(&["train.lr=1e-3", "adapt.rank=4"]);
    assert!(
        message.contains("`adapt.rank`, `train.lr` is 2, 0.002 against 4, 0.001"),
        "{message}"
    );
    assert!(message.contains("give another --out"), "{message}");
    assert!(refused(&["adapt.scaling=rslora"]).contains("`adapt.alpha`, `adapt.scaling`"));
    assert!(refused(&["data.eval_samples=3"]).contains("`data.eval_samples`"));
    let train = place.dir.path().join("train.jsonl");
    let rows = fs::read_to_string(&train).unwrap();
    fs::write(&train, &rows[..rows.rfind('\n').unwrap()]).unwrap();
    assert!(refused(&[]).contains("the content of") && refused(&[]).contains("train.jsonl"));
    let foreign = place.dir.path();
    let message = place
        .run(foreign, &[], &fake, &Silent)
        .1
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(message.contains("the folder holds something else"), "{message}");
}

#[test]
fn a_cell_that_fails_is_recorded_and_tried_again() {
    let place = Place::new();
    let (out, fake) = (place.out(), Fake::default());
    *fake.fails.borrow_mut() = Some("mid-s1");
    let (log, record) = place.run(&out, &[], &fake, &Silent);
    let record = record.unwrap();
    assert_eq!(record.failures.len(), 1);
    assert_eq!(record.failures[0].cell, "base-mid-s1");
    assert!(record.failures[0].problem.contains("step 3: the loss is NaN"));
    assert!(log.iter().any(|line| line.starts_with("failed base-mid-s1")), "{log:?}");
    assert!(!out.join("DONE").exists());
    let mid = record.table.rows.iter().find(|row| row.pattern == "mid").unwrap();
    assert_eq!(mid.seeds, [2]);
    assert_eq!(record.table.difference(mid, 0).unwrap().difference.seeds, 1);
    for page in ["report.html", "table.md"] {
        assert!(
            fs::read_to_string(out.join(page)).unwrap().contains("Failed: "),
            "{page}"
        );
    }
    *fake.fails.borrow_mut() = None;
    let record = place.run(&out, &[], &fake, &Silent).1.unwrap();
    assert!(record.failures.is_empty() && out.join("DONE").exists());
}

#[test]
fn the_table_is_what_the_cells_say() {
    let place = Place::new();
    let (out, fake) = (place.out(), Fake::default());
    let record = place.run(&out, &[], &fake, &Silent).1.unwrap();
    let table = &record.table;
    let names: Vec<&str> = table.measures.iter().map(|measure| measure.name.as_str()).collect();
    assert_eq!(names, ["sums", "test loss"]);
    let patterns: Vec<&str> = table.rows.iter().map(|row| row.pattern.as_str()).collect();
    assert_eq!(patterns, ["pretrained", "uniform", "mid", "random:4"]);
    let share = |names: &[&str]| {
        let all: Vec<bool> = names
            .iter()
            .flat_map(|name| (0..40).map(|item| right(name, item)))
            .collect();
        all.iter().filter(|right| **right).count() as f64 / all.len() as f64
    };
    let (uniform, mid) = (
        share(&["base-uniform-s1", "base-uniform-s2"]),
        share(&["base-mid-s1", "base-mid-s2"]),
    );
    let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-12, "{got} {expected}");
    close(table.rows[0].values[0].unwrap().mean, share(&["base"]));
    close(table.rows[1].values[0].unwrap().mean, uniform);
    close(table.rows[2].values[0].unwrap().mean, mid);
    let difference = table.difference(&table.rows[2], 0).unwrap();
    close(difference.difference.mean, mid - uniform);
    assert_eq!((difference.difference.items, difference.difference.seeds), (40, 2));
    // the loss: all nats over all tokens, seed by seed
    let loss = |seed: u64| {
        let text = fs::read_to_string(out.join(format!("cells/base-mid-s{seed}/loss.jsonl"))).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let sum = |key: &str| lines.iter().map(|line| line[key].as_f64().unwrap()).sum::<f64>();
        assert_eq!(lines.len(), 6);
        sum("nats") / sum("tokens")
    };
    close(table.rows[2].values[1].unwrap().mean, (loss(1) + loss(2)) / 2.0);
    assert_eq!(table.rows[2].ranks, [[0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0, 0, 0]]);
    assert_eq!(table.rows[3].ranks.len(), 2);
    assert!(table.rows[2].seconds.unwrap() > 0.0);
    let csv = fs::read_to_string(out.join("table.csv")).unwrap();
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let line: Vec<&str> = lines.nth(2).unwrap().split(',').collect();
    let column = |name: &str| line[header.iter().position(|column| *column == name).unwrap()];
    assert_eq!(
        (column("pattern"), column("seeds"), column("blocks"), column("rank")),
        ("mid", "1 2", "3–11", "3")
    );
    close(column("sums").parse().unwrap(), mid);
    close(column("sums_difference").parse().unwrap(), mid - uniform);
    close(column("test_loss").parse().unwrap(), (loss(1) + loss(2)) / 2.0);
}

/// Every file of `configs/` with a `[sweep]` reads, its patterns fit its model, and its tasks are there.
#[test]
fn the_presets_are_sweeps() {
    let blocks = BTreeMap::from([
        ("olmo2-1b", 16),
        ("olmo2-7b", 32),
        ("olmo2-13b", 40),
        ("olmo2-32b", 64),
        ("smollm2-135m", 30),
        ("quickstart", 16),
    ]);
    let mut found = 0;
    for folder in ["configs/paper", "configs/small"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            if !text.contains("\n[sweep]\n") {
                continue;
            }
            found += 1;
            let name = path.file_name().unwrap().to_str().unwrap();
            let run = format!("# Run:   midblock sweep --config {folder}/{name} --out ");
            for part in [run.as_str(), "# Needs: ", "# Time and memory: "] {
                assert!(text.contains(part), "{name} lacks `{part}`");
            }
            let task = root().join("configs/tasks/word-problems.toml");
            let own = format!("eval.tasks=[\"{}=x.jsonl\"]", task.display()); // written relative to the working directory
            let sets: Vec<Override> = match name {
                "quickstart-sweep.toml" => vec![own.parse().unwrap()],
                _ => Vec::new(),
            };
            let file = SweepFile::load(Some(&path), &sets).unwrap_or_else(|error| panic!("{error}"));
            let (_, blocks) = blocks.iter().find(|(model, _)| name.starts_with(*model)).unwrap();
            let rank = file.config.adapt.rank.unwrap();
            for pattern in &file.config.sweep.patterns {
                let ranks = pattern
                    .layers(*blocks, rank)
                    .unwrap()
                    .ranks(*blocks, rank, 1, None)
                    .unwrap();
                let (sum, active) = (
                    ranks.iter().sum::<usize>(),
                    ranks.iter().filter(|rank| **rank > 0).count(),
                );
                assert!(sum <= rank * blocks && sum + active > rank * blocks, "{name} {pattern}");
            }
            for task in &file.config.eval.as_ref().unwrap().tasks {
                task.resolve().unwrap();
            }
        }
    }
    assert_eq!(found, 10);
}

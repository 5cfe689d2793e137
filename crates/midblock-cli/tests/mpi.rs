//! Real processes that mpirun starts: the same results as one, stopped and killed ranks, what is refused.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // how a test fails

use midblock::train::TrainingRun;
use safetensors::SafeTensors;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn asset(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

fn data() -> String {
    asset("assets/quickstart/data.jsonl")
}

/// `midblock ARGS` in so many processes of a thread each; in one, without mpirun.
fn midblock(size: usize, args: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_midblock");
    let mut command = match size {
        1 => Command::new(binary),
        _ => {
            let mut mpirun = Command::new("mpirun");
            mpirun.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
            // ranks that wait leave the cores to the others
            mpirun.args(["--mca", "mpi_yield_when_idle", "1"]);
            mpirun.args(["-n", &size.to_string(), binary]);
            mpirun
        }
    };
    command.args(["--threads", "1"]).args(args).env("HF_HUB_OFFLINE", "1");
    command
}

#[track_caller]
fn run(size: usize, args: &[&str], code: i32) -> [String; 2] {
    let output = midblock(size, args).output().expect("mpirun is there");
    let [stdout, stderr] = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    [stdout, stderr]
}

fn texts(output: &Output) -> [String; 2] {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// Steps of a run.
const STEPS: usize = 18;

/// Steps of 5 micro-batches; a checkpoint every 3.
fn tune<'a>(base: &'a str, data: &'a str, out: &'a str) -> Vec<&'a str> {
    let mut args = vec!["tune", "--model", base, "--data", data, "--out", out];
    args.extend([
        "--layers=mid",
        "--rank=4",
        "--batch=2",
        "--accumulation=5",
        "--epochs=2",
        "--lr=2e-3",
        "--eval-every=4",
        "--set=data.eval_share=0.1",
        "--set=train.save_every=3",
        "--set=adapt.dropout=0.1",
    ]);
    args
}

struct Place {
    dir: TempDir,
    base: String,
    data: String,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            base: asset("assets/quickstart/base"),
            data: format!("p={}", data()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Trains in the folder `name`.
    #[track_caller]
    fn tune(&self, size: usize, name: &str, more: &[&str], code: i32) -> [String; 2] {
        let out = self.path(name).display().to_string();
        run(
            size,
            &[tune(&self.base, &self.data, &out), more.to_vec()].concat(),
            code,
        )
    }

    fn start(&self, size: usize, name: &str) -> Child {
        let out = self.path(name).display().to_string();
        midblock(size, &tune(&self.base, &self.data, &out))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Waits until the run in `name` has made so many steps.
    fn wait_for(&self, name: &str, steps: usize) {
        let begun = Instant::now();
        while self.steps(name).len() < steps {
            assert!(begun.elapsed() < Duration::from_secs(120), "no step is made");
            sleep(Duration::from_millis(10));
        }
    }

    /// Losses of all steps so far.
    fn steps(&self, name: &str) -> Vec<f64> {
        let text = fs::read_to_string(self.path(name).join("metrics.jsonl")).unwrap_or_default();
        let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let lines = complete
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["event"] == "step")
            .map(|line| line["loss"].as_f64().unwrap())
            .collect()
    }

    fn adapter(&self, name: &str) -> BTreeMap<String, Vec<f32>> {
        let bytes = fs::read(self.path(name).join("adapter/adapter_model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let values = |bytes: &[u8]| {
            let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            values.collect()
        };
        let tensors = tensors.tensors().into_iter();
        tensors.map(|(name, view)| (name, values(view.data()))).collect()
    }

    /// The run `name` and the run `other` differ in the last digits at most.
    #[track_caller]
    fn alike(&self, name: &str, other: &str) {
        let [a, b] = [name, other].map(|name| self.steps(name));
        assert_eq!(a.len(), b.len());
        let apart = a.iter().zip(&b).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-5, "{name}: losses differ by {apart:.1e}");
        let theirs = self.adapter(other);
        for (tensor, values) in self.adapter(name) {
            let largest = values.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (a, b) in values.iter().zip(&theirs[&tensor]) {
                assert!((a - b).abs() < 1e-2 * largest, "{name}: {tensor}: {a} and {b}");
            }
        }
    }

    fn newest_checkpoint(&self, name: &str) -> usize {
        let entries = fs::read_dir(self.path(name).join("checkpoints")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let steps = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok());
        steps.max().unwrap()
    }
}

/// The process of a rank of the job that writes to `out`.
fn process_of(out: &Path, rank: usize) -> String {
    let out = out.display().to_string();
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}\0");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).map(|b| String::from_utf8_lossy(&b).into_owned());
        let (Ok(line), Ok(environment)) = (read("cmdline"), read("environ")) else {
            continue;
        };
        if line.split('\0').any(|word| word == out) && environment.contains(&wanted) {
            return entry.file_name().into_string().unwrap();
        }
    }
    panic!("no process of rank {rank}")
}

fn signal(process: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
}

#[test]
fn ranks_train_what_one_process_trains() {
    let place = Place::new();
    place.tune(1, "alone", &[], 0);
    for size in [2, 4] {
        let name = format!("on-{size}");
        let [stdout, stderr] = place.tune(size, &name, &[], 0);
        assert_eq!(stdout.matches("report: ").count(), 1, "{stdout}");
        assert!(stderr.contains(&format!("{size} ranks of 1 thread each")), "{stderr}");
        place.alike(&name, "alone");
        let run = TrainingRun::open(&place.path(&name)).unwrap();
        let (training, sharing) = (&run.info.training, run.info.training.ranks.unwrap());
        assert_eq!(
            (sharing.ranks, sharing.reduced_bytes),
            (size, 4 * training.trained_parameters)
        );
    }
    place.tune(2, "again", &[], 0);
    assert_eq!(place.adapter("again"), place.adapter("on-2"));
    assert_eq!(place.steps("again"), place.steps("on-2"));
    let [stdout, _] = place.tune(4, "dry", &["--dry-run"], 0);
    assert!(
        stdout.contains("ranks      4: each does a share of a step's 5 micro-batches"),
        "{stdout}"
    );
}

#[test]
fn one_rank_that_is_asked_to_stop_stops_all_and_another_number_goes_on() {
    let place = Place::new();
    place.tune(1, "alone", &[], 0);
    let job = place.start(2, "shared");
    place.wait_for("shared", 4);
    signal(&process_of(&place.path("shared"), 1), "-TERM");
    let output = job.wait_with_output().unwrap();
    let [_, stderr] = texts(&output);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let steps = place.steps("shared").len();
    let said = format!("stopped and saved after step {steps}; go on with: midblock tune");
    assert!(
        stderr.matches(&said).count() == 1 && place.newest_checkpoint("shared") == steps,
        "{stderr}"
    );
    // and once more, by rank 0 of four
    let out = place.path("shared").display().to_string();
    let job = midblock(4, &["tune", "--resume", "--out", &out])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    place.wait_for("shared", steps + 3);
    signal(&process_of(&place.path("shared"), 0), "-INT");
    let [_, stderr] = texts(&job.wait_with_output().unwrap());
    let steps = place.steps("shared").len();
    assert!(steps < STEPS && place.newest_checkpoint("shared") == steps, "{stderr}");
    let [_, stderr] = run(3, &["tune", "--resume", "--out", &out], 0);
    assert!(
        stderr.contains("saved with 4 ranks of 1 threads and goes on with 3 ranks"),
        "{stderr}"
    );
    place.alike("shared", "alone");
}

#[test]
fn a_killed_rank_ends_the_job_and_a_checkpoint_is_left() {
    let place = Place::new();
    let job = place.start(2, "run");
    place.wait_for("run", 8);
    let killed = process_of(&place.path("run"), 1);
    signal(&killed, "-KILL");
    let output = job.wait_with_output().unwrap();
    let [_, stderr] = texts(&output);
    assert!(!output.status.success());
    let said = stderr.contains("process rank 1 with PID") && stderr.contains("signal 9 (Killed)");
    assert!(said, "{stderr}");
    let (steps, saved) = (place.steps("run").len(), place.newest_checkpoint("run"));
    assert!(
        saved + 3 >= steps && !place.path("run").join("DONE").exists(),
        "{saved} of {steps}"
    );
    let out = place.path("run").display().to_string();
    run(4, &["--quiet", "tune", "--resume", "--out", &out], 0);
    assert_eq!(place.steps("run").len(), STEPS);
}

#[test]
fn what_is_wrong_is_said_once_by_the_first_rank() {
    let place = Place::new();
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/thesis.tex"), "").unwrap();
    for (size, name, more, problem) in [
        (2, "full", vec![], "the folder holds something else: thesis.tex"),
        (2, "new", vec!["--set=select.layers=middle"], "`select.layers`"),
        (
            4,
            "new",
            vec!["--set=train.accumulation=3"],
            "a step of 3 micro-batches cannot be shared among 4 ranks",
        ),
        (2, "new", vec!["--layer=mid"], "unexpected argument '--layer'"),
    ] {
        let [_, stderr] = place.tune(size, name, &more, 2);
        assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
        assert!(stderr.contains(problem) && !place.path("new").exists(), "{stderr}");
    }
    let [_, stderr] = run(2, &["inspect", &place.base], 2);
    assert!(
        stderr.matches("this command works in one process").count() == 1,
        "{stderr}"
    );
    let mut alone = midblock(2, &["inspect", &place.base]);
    let output = alone.env("MIDBLOCK_ALONE", "1").output().unwrap();
    assert!(output.status.success() && texts(&output)[0].matches("architecture").count() >= 2);
}

#[test]
fn an_evaluation_is_what_one_process_writes() {
    let place = Place::new();
    let task = format!("gsm8k={}", data());
    let files = |name: &str| {
        ["items.jsonl", "evaluation.json", "metrics.csv"].map(|file| fs::read(place.path(name).join(file)).unwrap())
    };
    let evaluate = |size: usize, name: &str| {
        let out = place.path(name).display().to_string();
        let args = [
            "eval",
            &place.base,
            "--task",
            &task,
            "--samples=11",
            "--max-new=12",
            "--batch=2",
            "--out",
            &out,
        ];
        run(size, &args, 0)
    };
    evaluate(1, "alone");
    for size in [2, 4] {
        let [stdout, _] = evaluate(size, &format!("on-{size}"));
        assert_eq!(stdout.matches("report: ").count(), 1, "{stdout}");
        assert_eq!(files(&format!("on-{size}")), files("alone"));
    }
}

#[test]
fn an_analysis_is_what_one_process_writes() {
    let place = Place::new();
    let sft = format!("--variant=sft={}", asset("assets/quickstart/sft"));
    let files = |name: &str| ["metrics.csv", "weights.csv"].map(|file| fs::read(place.path(name).join(file)).unwrap());
    for (size, name) in [(1, "alone"), (2, "on-2"), (4, "on-4")] {
        let out = place.path(name).display().to_string();
        let few = ["--samples=9", "--token-samples=4", "--max-length=24", "--resamples=20"];
        let args = [
            &[
                "analyze",
                "--base",
                &place.base,
                &sft,
                "--data",
                &place.data,
                "--out",
                &out,
            ][..],
            &few,
        ]
        .concat();
        let [stdout, _] = run(size, &args, 0);
        assert_eq!(stdout.matches("report: ").count(), 1, "{stdout}");
        assert!(files(name) == files("alone"), "{size} ranks");
    }
}

#[test]
fn a_sweep_is_what_one_process_makes() {
    let place = Place::new();
    let text = format!(
        "[model]\nbase = \"{}\"\n[data]\ntrain = \"{1}\"\neval = \"{1}\"\neval_samples = 10\nmax_length = 128\n\
         [adapt]\nrank = 4\n[train]\nsteps = 3\nbatch = 4\naccumulation = 1\nlr = 2e-3\n\
         [sweep]\npatterns = [\"uniform\", \"mid\", \"random\"]\n[eval]\ntasks = [\"gsm8k={2}\"]\nsamples = 4\nmax_new = 8\n",
        place.base,
        place.data,
        data(),
    );
    let file = place.path("sweep.toml");
    fs::write(&file, text).unwrap();
    let results = |name: &str| {
        let cells = fs::read_dir(place.path(name).join("cells")).unwrap();
        let cells: BTreeMap<_, _> = cells
            .map(|cell| cell.unwrap())
            .map(|cell| (cell.file_name(), cell.path()))
            .collect();
        let files = ["adapter/adapter_model.safetensors", "loss.jsonl", "eval/items.jsonl"];
        let read = |(name, path): (_, PathBuf)| (name, files.map(|file| fs::read(path.join(file)).unwrap()));
        cells.into_iter().map(read).collect::<Vec<_>>()
    };
    for (size, name) in [(1, "alone"), (2, "shared")] {
        let out = place.path(name).display().to_string();
        let [stdout, _] = run(
            size,
            &["sweep", "--config", &file.display().to_string(), "--out", &out],
            0,
        );
        assert_eq!(stdout.matches("table.csv").count(), 1, "{stdout}");
    }
    assert!(results("shared").len() == 3 && results("shared") == results("alone"));
    assert!(place.path("shared/DONE").exists());
}

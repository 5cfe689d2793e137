//! Disks that are full or read-only, writers that are killed halfway, files that are cut or newer: each long-running command says one
//! clear thing, loses nothing that was finished, and the same command goes on to the same results.
#![cfg(target_os = "linux")]

use crate::{
    memory::write_random,
    models::{asset, base, problems, sft, write_adapter},
};
use serde_json::Value;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Signal of a process that writes beyond the size that its files may have, unless it ignores it.
const SIGXFSZ: i32 = 25;

/// A long-running command, small.
struct Case {
    name: &'static str,
    args: Vec<String>,
    /// What goes on with an unfinished one, besides the same command.
    again: &'static [&'static str],
    /// Files that must be the same however often it was stopped; `*` is any name.
    results: &'static [&'static str],
    /// Sizes in KiB that files may have, ascending, so that each ends it somewhere else.
    limits: &'static [u64],
    /// KiB on a disk that ends it somewhere.
    room: &'static [u64],
}

impl Case {
    fn new(name: &'static str, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name,
            args: args.into_iter().map(Into::into).collect(),
            again: &[],
            results: &[],
            limits: &[],
            room: &[],
        }
    }

    /// All of it with `--out`.
    fn command_line(&self, out: &Path) -> Vec<String> {
        let program = [env!("CARGO_BIN_EXE_midblock"), "--quiet"].map(str::to_owned);
        let own = self.args.iter().cloned();
        program
            .into_iter()
            .chain(own)
            .chain(["--out".to_owned(), out.display().to_string()])
            .collect()
    }

    /// Runs `script`, in which `"$@"` is the command.
    fn shell(&self, script: &str, out: &Path, more: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.env("HF_HUB_OFFLINE", "1").args(["-c", script, "sh"]);
        command.args(self.command_line(out)).args(more).output().unwrap()
    }

    fn finish(&self, out: &Path, more: &[&str]) {
        let output = self.shell("exec \"$@\"", out, more);
        assert!(output.status.success(), "{}: {}", self.name, text(&output));
    }

    /// Names and contents of the results, without what depends on the clock.
    fn results(&self, out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let found: Vec<_> = self.results.iter().flat_map(|pattern| matching(out, pattern)).collect();
        assert!(found.len() >= self.results.len(), "{}: {found:?}", self.name);
        let content = |path: PathBuf| {
            let bytes = without_clock(&path, fs::read(&path).unwrap());
            (path.strip_prefix(out).unwrap().to_owned(), bytes)
        };
        found.into_iter().map(content).collect()
    }

    fn assert_same(&self, out: &Path, whole: &Path) {
        for ((path, got), (_, expected)) in self.results(out).iter().zip(&self.results(whole)) {
            assert!(got == expected, "{}: {} differs", self.name, path.display());
        }
        let left = leftovers(out);
        assert!(left.is_empty(), "{}: {left:?} is left", self.name);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One error, no panic.
fn assert_one_error(case: &str, output: &Output, expected: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(2), "{case}: {text}");
    assert!(
        text.matches("error:").count() == 1 && !text.contains("panicked"),
        "{case}: {text}"
    );
    assert!(
        expected.iter().any(|part| text.contains(part)),
        "{case}: none of {expected:?} in: {text}"
    );
}

/// Files below `dir` whose path is `pattern`, ascending.
fn matching(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let (first, rest) = pattern
        .split_once('/')
        .map_or((pattern, None), |(first, rest)| (first, Some(rest)));
    let (start, end) = first.split_once('*').unwrap_or((first, ""));
    let fits = |name: &str| name == first || first.contains('*') && name.starts_with(start) && name.ends_with(end);
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| fits(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    match rest {
        Some(rest) => paths
            .iter()
            .filter(|path| path.is_dir())
            .flat_map(|path| matching(path, rest))
            .collect(),
        None => paths,
    }
}

/// Everything incomplete below a folder, and beside it.
fn leftovers(out: &Path) -> Vec<PathBuf> {
    let partial = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(".partial-"))
    };
    let mut found = Vec::new();
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if partial(&path) {
                found.push(path.clone());
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.extend(matching(out.parent().unwrap(), ".partial-*"));
    found
}

fn without_clock(path: &Path, bytes: Vec<u8>) -> Vec<u8> {
    const CLOCK: [&str; 6] = [
        "seconds",
        "tokens_per_s",
        "trained_tokens_per_s",
        "seconds_left",
        "private_bytes",
        "peak_private_bytes",
    ];
    let name = path.file_name().unwrap().to_string_lossy();
    let lines = || String::from_utf8(bytes.clone()).unwrap();
    if name == "metrics.jsonl" {
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            CLOCK
                .iter()
                .for_each(|key| _ = value.as_object_mut().unwrap().remove(*key));
            value.to_string()
        };
        return lines().lines().map(line).collect::<Vec<_>>().join("\n").into_bytes();
    }
    if name.ends_with(".csv") {
        let about_time = |line: &&str| CLOCK.iter().any(|word| line.contains(&format!(",{word},")));
        return lines()
            .lines()
            .filter(|line| !about_time(line))
            .collect::<Vec<_>>()
            .join("\n")
            .into_bytes();
    }
    bytes
}

fn tune() -> Case {
    let data = problems("p");
    let args = [
        "tune",
        "--model",
        &base(),
        "--data",
        &data,
        "--layers=mid",
        "--rank=2",
        "--batch=2",
        "--steps=6",
        "--lr=2e-3",
    ];
    let sets = [
        "--set=train.save_every=2",
        "--set=data.eval_share=0.1",
        "--eval-every=2",
        "--set=train.keep_best=true",
    ];
    Case {
        again: &["--resume"],
        results: &["adapter/adapter_model.safetensors", "metrics.jsonl"],
        limits: &[0, 5, 100, 600],
        room: &[40, 300, 1000],
        ..Case::new("tune", args.into_iter().chain(sets))
    }
}

fn eval() -> Case {
    let task = format!("--task=gsm8k={}", asset("assets/quickstart/data.jsonl"));
    Case {
        results: &["items.jsonl", "evaluation.json", "metrics.csv"],
        limits: &[0, 3, 4, 20],
        room: &[16, 24],
        ..Case::new(
            "eval",
            ["eval", &base(), &task, "--samples=12", "--max-new=12", "--batch=2"],
        )
    }
}

fn sweep(dir: &Path) -> Case {
    let file = dir.join("sweep.toml");
    let text = format!(
        "[model]\nbase = \"{}\"\n[data]\ntrain = \"{1}\"\neval = \"{1}\"\neval_samples = 6\nmax_length = 64\n\
         [adapt]\nrank = 2\n[train]\nsteps = 4\nbatch = 2\naccumulation = 1\nlr = 2e-3\nsave_every = 2\n\
         [sweep]\npatterns = [\"uniform\", \"mid\"]\n\
         [eval]\ntasks = [\"gsm8k={2}\"]\nsamples = 4\nmax_new = 4\n",
        base(),
        problems("p"),
        asset("assets/quickstart/data.jsonl"),
    );
    fs::write(&file, text).unwrap();
    Case {
        results: &[
            "cells/*/adapter/adapter_model.safetensors",
            "cells/*/loss.jsonl",
            "cells/*/eval/items.jsonl",
        ],
        limits: &[0, 5, 60, 600],
        room: &[40, 400, 1600],
        ..Case::new("sweep", ["sweep", "--config", &file.display().to_string()])
    }
}

fn study() -> Case {
    let args = [
        "study",
        "exit,selective",
        "--base",
        &base(),
        "--data",
        &problems("p"),
        "--eval",
        &problems("q"),
    ];
    let sets = [
        "samples=4",
        "resamples=20",
        "selective.steps=6",
        "selective.ratios=[0.0,0.5]",
    ];
    let args = args
        .into_iter()
        .map(str::to_owned)
        .chain(sets.map(|set| format!("--set=study.{set}")));
    Case {
        results: &["exit.csv", "selective.csv", "cells/*/adapter/adapter_model.safetensors"],
        limits: &[0, 5, 60, 600],
        room: &[40, 400, 1600],
        ..Case::new(
            "study",
            args.chain(["--set=adapt.rank=2", "--set=train.save_every=2"].map(str::to_owned)),
        )
    }
}

/// An adapter on block 4, merged.
fn merge(dir: &Path) -> Case {
    let factor: Vec<f32> = (0..64).map(|i| (i % 5) as f32 / 8.0).collect();
    let adapter = write_adapter(
        &dir.join("lora"),
        &["model.layers.3.self_attn.q_proj"],
        [&factor, &factor],
        2.0,
    );
    Case {
        results: &["model.safetensors", "config.json", "tokenizer.json"],
        limits: &[0, 4, 1000],
        room: &[40, 300],
        ..Case::new("merge", ["merge", &format!("{}+{adapter}", base()), "--check=0"])
    }
}

const METRICS: [&str; 4] = [
    "--metrics=cka,gini",
    "--samples=8",
    "--token-samples=2",
    "--resamples=20",
];

fn analyze() -> Case {
    let sft = format!("--variant=sft={}", sft());
    Case {
        results: &["metrics.csv", "metrics.parquet"],
        limits: &[0, 1000],
        room: &[40, 3000],
        ..Case::new(
            "analyze",
            ["analyze", "--base", &base(), &sft, "--data", &problems("p")]
                .into_iter()
                .chain(METRICS),
        )
    }
}

fn shard() -> Case {
    let mut case = analyze();
    case.args.push("--shard=1/2".to_owned());
    Case {
        name: "shard",
        results: &["layer-*.safetensors"],
        limits: &[1, 8],
        room: &[16, 100],
        ..case
    }
}

fn all(dir: &Path) -> Vec<Case> {
    vec![tune(), eval(), sweep(dir), study(), merge(dir), analyze(), shard()]
}

/// The whole run of a case, once.
fn whole(case: &Case, dir: &Path) -> PathBuf {
    let whole = dir.join(format!("whole-{}", case.name));
    case.finish(&whole, &[]);
    whole
}

/// Each limit on the size of a file ends the command somewhere else, with an error or as a kill does in the middle of a write.
fn stopped_by_every_limit(case: &Case, dir: &Path) {
    let (whole, out) = (whole(case, dir), dir.join(format!("stopped-{}", case.name)));
    for &limit in case.limits {
        for kills in [true, false] {
            let trap = if kills { "" } else { "trap '' XFSZ; " };
            let script = format!("ulimit -c 0; {trap}ulimit -f {}; exec \"$@\"", 2 * limit);
            let output = case.shell(&script, &out, case.again);
            let message = text(&output);
            assert!(
                !out.join("DONE").exists(),
                "{}: finished with files of {limit} KiB",
                case.name
            );
            if kills {
                assert_eq!(
                    output.status.signal(),
                    Some(SIGXFSZ),
                    "{} at {limit} KiB: {message}",
                    case.name
                );
            } else {
                let place = format!("{} at {limit} KiB", case.name);
                assert_one_error(&place, &output, &["File too large"]);
                assert!(message.contains(&dir.display().to_string()), "{place}: {message}");
            }
        }
    }
    case.finish(&out, case.again);
    case.assert_same(&out, &whole);
}

#[test]
fn a_training_run_stopped_by_files_that_cannot_grow_goes_on() {
    let dir = TempDir::new().unwrap();
    stopped_by_every_limit(&tune(), dir.path());
}

#[test]
fn an_evaluation_stopped_by_files_that_cannot_grow_goes_on() {
    let dir = TempDir::new().unwrap();
    stopped_by_every_limit(&eval(), dir.path());
}

#[test]
fn a_sweep_stopped_by_files_that_cannot_grow_goes_on() {
    let dir = TempDir::new().unwrap();
    stopped_by_every_limit(&sweep(dir.path()), dir.path());
}

#[test]
fn a_study_stopped_by_files_that_cannot_grow_goes_on() {
    let dir = TempDir::new().unwrap();
    stopped_by_every_limit(&study(), dir.path());
}

#[test]
fn what_is_made_in_one_go_leaves_nothing_when_files_cannot_grow() {
    let dir = TempDir::new().unwrap();
    for case in [merge(dir.path()), analyze(), shard()] {
        stopped_by_every_limit(&case, dir.path());
    }
}

/// Runs a script in which `$DIR` is a disk of its own; false where this is not allowed.
fn on_a_disk(case: &Case, dir: &Path, mount: &str, script: &str, more: &[&str]) -> Option<Output> {
    let disk = dir.join("disk");
    fs::create_dir_all(&disk).unwrap();
    let prepare = format!("DIR={}; {mount} 2>/dev/null || exit 77; ", disk.display());
    let out = disk.join("out");
    let mut command = Command::new("unshare");
    command
        .env("HF_HUB_OFFLINE", "1")
        .args(["-rm", "sh", "-c", &(prepare + script), "sh"]);
    let output = command.args(case.command_line(&out)).args(more).output().ok()?;
    let allowed = output.status.code() != Some(77) && !text(&output).starts_with("unshare: ");
    if !allowed {
        eprintln!(
            "skipped: no disk of one's own can be mounted here ({})",
            text(&output).trim()
        );
    }
    allowed.then_some(output)
}

/// A disk that is full but for some KiB ends the command; with room it goes on where it was.
#[test]
fn a_full_disk_loses_nothing() {
    let dir = TempDir::new().unwrap();
    for case in all(dir.path()) {
        let whole = whole(&case, dir.path());
        for room in case.room {
            let kept = dir.path().join(format!("kept-{}-{room}", case.name));
            let again = case.again.join(" ");
            let script = format!(
                "head -c {}k /dev/zero > $DIR/filler; \"$@\"; echo first $?; rm $DIR/filler; \"$@\" {again} >&2; \
                 echo second $?; rm -f $DIR/filler; cp -r $DIR/. {}",
                16384 - room,
                kept.display()
            );
            let mount = "mount -t tmpfs -o size=16m midblock $DIR";
            let Some(output) = on_a_disk(&case, dir.path(), mount, &script, &[]) else {
                return;
            };
            let (place, message) = (format!("{} with {room} KiB", case.name), text(&output));
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                stdout.contains("first 2\n") && stdout.ends_with("second 0\n"),
                "{place}: {stdout}{message}"
            );
            assert!(
                message.contains("No space left on device") && message.contains("help: make room"),
                "{place}: {message}"
            );
            assert_eq!(message.matches("error:").count(), 1, "{place}: {message}");
            case.assert_same(&kept.join("out"), &whole);
        }
    }
}

/// What an analysis will write has its room from the start: a disk that others fill meanwhile does not cost the work.
#[test]
fn a_disk_that_fills_meanwhile_does_not_cost_an_analysis() {
    let dir = TempDir::new().unwrap();
    let case = analyze();
    let kept = dir.path().join("kept");
    let script = format!(
        "\"$@\" & while ! ls -A $DIR/out 2>/dev/null | grep -q .partial; do sleep 0.01; done; sleep 0.1; \
         dd if=/dev/zero of=$DIR/filler bs=4k 2>/dev/null; wait $!; echo $?; cp -r $DIR/out {}",
        kept.display()
    );
    let mount = "mount -t tmpfs -o size=8m midblock $DIR";
    let Some(output) = on_a_disk(&case, dir.path(), mount, &script, &[]) else {
        return;
    };
    assert!(
        String::from_utf8_lossy(&output.stdout).ends_with("0\n"),
        "{}",
        text(&output)
    );
    case.assert_same(&kept, &whole(&case, dir.path()));
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_at_once() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    for case in all(dir.path()) {
        let output = case.shell("exec \"$@\"", &file.join("out"), &[]);
        assert_one_error(case.name, &output, &["Not a directory", "a file of that name"]);
        assert!(
            text(&output).contains(&file.display().to_string()),
            "{}: {}",
            case.name,
            text(&output)
        );
        let mount = "mount --bind $DIR $DIR && mount -o remount,bind,ro $DIR";
        let Some(output) = on_a_disk(&case, dir.path(), mount, "exec \"$@\"", &[]) else {
            continue;
        };
        assert_one_error(case.name, &output, &["Read-only file system"]);
        assert!(
            text(&output).contains("help: name a folder on a disk that can be written"),
            "{}",
            text(&output)
        );
    }
}

/// A shard of the weights that is cut.
#[test]
fn a_cut_checkpoint_is_named_by_every_command_before_anything_is_made() {
    let dir = TempDir::new().unwrap();
    let cut = write_random(dir.path(), 2, false);
    let shard = Path::new(&cut).join("model-00002-of-00002.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1000]).unwrap();
    for mut case in all(dir.path()) {
        let base = base();
        let file = dir.path().join("sweep.toml");
        let toml = fs::read_to_string(&file).unwrap();
        fs::write(&file, toml.replace(&base, &cut)).unwrap();
        case.args
            .iter_mut()
            .filter(|arg| arg.starts_with(&base))
            .for_each(|arg| *arg = arg.replace(&base, &cut));
        let out = dir.path().join(format!("cut-{}", case.name));
        let output = case.shell("exec \"$@\"", &out, &[]);
        assert_one_error(
            case.name,
            &output,
            &["model-00002-of-00002.safetensors: not a valid safetensors file: the header describes"],
        );
        assert!(
            !out.join("run.json").exists() && !out.join("DONE").exists(),
            "{}",
            case.name
        );
    }
}

fn change(path: &Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// What a newer version wrote is neither gone on with nor replaced.
#[test]
fn what_a_newer_version_wrote_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let run_json = |value: &mut Value| {
        value["midblock_run_schema"] = 99.into();
        value.as_object_mut().unwrap().remove("models"); // a newer one may lack what this one wants
    };
    let schema = |key: &'static str| move |value: &mut Value| value[key] = 99.into();
    type Newer<'a> = &'a dyn Fn(&mut Value);
    let cases: [(Case, &str, Newer<'_>); 6] = [
        (tune(), "run.json", &run_json),
        (eval(), "run.json", &run_json),
        (sweep(dir.path()), "sweep.json", &schema("midblock_sweep_schema")),
        (study(), "study.json", &schema("midblock_study_schema")),
        (analyze(), "run.json", &run_json),
        (shard(), "shard.json", &schema("midblock_shard_schema")),
    ];
    for (case, file, newer) in cases {
        let out = whole(&case, dir.path());
        change(&out.join(file), newer);
        let before = fs::read(out.join(file)).unwrap();
        for done in [true, false] {
            if !done {
                fs::remove_file(out.join("DONE")).unwrap();
            }
            let more: &[&str] = if done { &[] } else { case.again };
            let output = case.shell("exec \"$@\"", &out, more);
            let refused = [
                "newer than",
                "it holds a finished run",
                "the folder is not empty and holds no run",
            ];
            assert_one_error(case.name, &output, &refused);
            assert_eq!(fs::read(out.join(file)).unwrap(), before, "{}", case.name);
        }
    }
    // the checkpoint that a run goes on from
    let case = tune();
    let out = dir.path().join("run");
    case.finish(&out, &[]);
    fs::remove_file(out.join("DONE")).unwrap();
    change(
        &out.join("checkpoints/step-000006/state.json"),
        schema("midblock_checkpoint_format"),
    );
    let output = case.shell("exec \"$@\"", &out, &["--resume"]);
    assert_one_error(
        "tune",
        &output,
        &["state.json: not a valid checkpoint file: its format is 99, expected 1"],
    );
}

/// A checkpoint that a mounted bucket lost a part of: the run goes on from the one before, to the same result.
#[test]
fn a_damaged_checkpoint_of_a_run_is_passed_over() {
    let dir = TempDir::new().unwrap();
    let case = tune();
    let whole = whole(&case, dir.path());
    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |newest| fs::remove_file(newest.join("state.safetensors")).unwrap(),
        |newest| fs::write(newest.join("state.json"), "{").unwrap(),
        |newest| {
            fs::File::options()
                .write(true)
                .open(newest.join("state.safetensors"))
                .unwrap()
                .set_len(1000)
                .unwrap()
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        let out = dir.path().join(format!("damaged{number}"));
        case.finish(&out, &[]);
        fs::remove_file(out.join("DONE")).unwrap();
        damage(&out.join("checkpoints/step-000006"));
        let output = case.shell("exec \"$@\"", &out, case.again);
        let message = text(&output);
        assert!(output.status.success(), "{message}");
        assert!(
            message.contains("step-000006 is not whole; the run goes on from "),
            "{message}"
        );
        case.assert_same(&out, &whole);
    }
}

/// What a scheduler sends before it takes a machine back: the run is saved, and `--resume` goes on.
#[test]
fn sigterm_saves_a_run() {
    let dir = TempDir::new().unwrap();
    let mut case = tune();
    case.args.push("--steps=40".to_owned());
    case.args.retain(|arg| arg != "--steps=6");
    let (whole, out) = (whole(&case, dir.path()), dir.path().join("out"));
    let line = case.command_line(&out);
    let mut child = Command::new(&line[0])
        .env("HF_HUB_OFFLINE", "1")
        .args(&line[1..])
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(120), "training does not begin");
        sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    case.finish(&out, case.again);
    case.assert_same(&out, &whole);
}

/// Kills the command as soon as a file below `out` has so many lines.
fn killed_at(case: &Case, out: &Path, pattern: &str, lines: usize) -> bool {
    let line = case.command_line(out);
    let mut command = Command::new(&line[0]);
    let mut child = command.env("HF_HUB_OFFLINE", "1").args(&line[1..]).spawn().unwrap();
    let begun = Instant::now();
    let there = || {
        let reached = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= lines);
        out.is_dir() && matching(out, pattern).iter().any(reached)
    };
    while !there() && child.try_wait().unwrap().is_none() {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "{}: no {pattern}",
            case.name
        );
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap().signal() == Some(9)
}

/// In the middle of a training cell, again and again.
#[test]
fn a_study_and_a_sweep_killed_in_a_training_cell_go_on() {
    let dir = TempDir::new().unwrap();
    for case in [study(), sweep(dir.path())] {
        let (whole, out) = (
            whole(&case, dir.path()),
            dir.path().join(format!("killed-{}", case.name)),
        );
        let kills = (1..5)
            .filter(|lines| killed_at(&case, &out, "cells/*/metrics.jsonl", *lines))
            .count();
        assert!(kills >= 2, "{}: only {kills} kills", case.name);
        case.finish(&out, &[]);
        case.assert_same(&out, &whole);
    }
}

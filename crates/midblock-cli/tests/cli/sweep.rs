//! `midblock sweep`: what it writes, how it goes on, what it refuses.

use crate::models::{base, midblock, problems};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Two patterns and the control on the embedded base, judged by generated answers and by loss.
fn write(dir: &Path) -> PathBuf {
    let path = dir.join("sweep.toml");
    let text = format!(
        "[model]\nbase = \"{}\"\n[data]\ntrain = \"{1}\"\neval = \"{1}\"\neval_samples = 10\nmax_length = 128\n\
         [adapt]\nrank = 4\n[train]\nsteps = 4\nbatch = 4\naccumulation = 1\nlr = 2e-3\n\
         [sweep]\npatterns = [\"uniform\", \"mid\", \"random\"]\nseeds = [1, 2]\n\
         [eval]\ntasks = [\"gsm8k={2}\"]\nsamples = 6\nmax_new = 8\n",
        base(),
        problems("p"),
        problems("p").trim_start_matches("p="),
    );
    fs::write(&path, text).unwrap();
    path
}

fn sweep(file: Option<&Path>, out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    command.arg("sweep").arg("--out").arg(out).args(more);
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    command
}

fn output(command: &mut assert_cmd::Command, code: i32) -> [String; 2] {
    let assert = command.assert().code(code);
    let output = assert.get_output();
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap())
}

#[test]
fn a_dry_run_lists_the_cells_and_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let (file, out) = (write(dir.path()), dir.path().join("out"));
    let [stdout, _] = output(&mut sweep(Some(&file), &out, &["--dry-run"]), 0);
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines[0].starts_with("cell ") && lines[1].starts_with("base-uniform-s1 "),
        "{stdout}"
    );
    for part in ["base-mid-s2", "3–11", "28224", "6 cells; training takes about"] {
        assert!(stdout.contains(part), "{part} in\n{stdout}");
    }
    assert!(!out.exists());
}

#[test]
fn a_sweep_leaves_one_table_and_every_run() {
    let dir = TempDir::new().unwrap();
    let (file, out) = (write(dir.path()), dir.path().join("out"));
    let [stdout, _] = output(&mut sweep(Some(&file), &out, &[]), 0);
    assert!(
        stdout.contains("pretrained") && stdout.contains("mid − uniform"),
        "{stdout}"
    );
    for path in [
        "DONE",
        "table.csv",
        "table.md",
        "sweep.json",
        "picture.svg",
        "report.html",
        "reference/base/eval/items.jsonl",
        "cells/base-mid-s1/DONE",
        "cells/base-mid-s1/adapter/adapter_model.safetensors",
        "cells/base-random-s2/eval/evaluation.json",
        "cells/base-random-s2/loss.jsonl",
    ] {
        assert!(out.join(path).is_file(), "{path}");
    }
    let csv = fs::read_to_string(out.join("table.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    assert!(
        csv.lines().next().unwrap().contains(",gsm8k,gsm8k_lo,gsm8k_hi,"),
        "{csv}"
    );
    // the same again, without the file: everything is there
    let first = fs::read(out.join("table.csv")).unwrap();
    let [again, _] = output(&mut sweep(None, &out, &[]), 0);
    assert_eq!(again, stdout);
    assert_eq!(fs::read(out.join("table.csv")).unwrap(), first);
    // views are written again from the record, and a cell is an ordinary run
    fs::remove_file(out.join("report.html")).unwrap();
    midblock().arg("report").arg(&out).assert().success();
    assert!(out.join("report.html").is_file());
    midblock()
        .arg("report")
        .arg(out.join("cells/base-mid-s1"))
        .assert()
        .success();
    midblock()
        .arg("report")
        .arg(out.join("cells/base-mid-s1/eval"))
        .assert()
        .success();
    // another learning rate is another sweep
    let [_, stderr] = output(&mut sweep(Some(&file), &out, &["--set", "train.lr=1e-3"]), 2);
    assert!(stderr.contains("`train.lr` is 0.002 against 0.001"), "{stderr}");
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let [_, stderr] = output(&mut sweep(None, &out, &[]), 2);
    assert!(stderr.contains("--config FILE is missing"), "{stderr}");
    let file = write(dir.path());
    let [_, stderr] = output(midblock().arg("sweep").arg("--config").arg(&file), 2);
    assert!(stderr.contains("--out DIR is missing"), "{stderr}");
    let [_, stderr] = output(
        &mut sweep(Some(&file), &out, &["--set", "sweep.patterns=[\"middle\"]"]),
        2,
    );
    assert!(stderr.contains("not a pattern"), "{stderr}");
    let [_, stderr] = output(&mut sweep(Some(&file), &out, &["--set", "eval.tasks=[\"gsm9k\"]"]), 2);
    assert!(stderr.contains("gsm9k"), "{stderr}");
}

//! Ctrl-C and kill: no half report, and a folder that the next run accepts.
#![cfg(unix)]

use crate::{
    memory::write_random,
    models::{asset, base, midblock, problems, sft},
};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Starts an analysis of many seconds, into `dir/out`, and waits until it computes.
fn start(dir: &Path) -> Child {
    let [base, variant] = [false, true].map(|nudged| write_random(dir, 2, nudged));
    let data = dir.join("data.jsonl");
    let rows = fs::read_to_string(asset("assets/quickstart/data.jsonl")).unwrap();
    fs::write(&data, rows.repeat(6)).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_midblock"))
        .args(["analyze", "--samples", "600", "--base", &base])
        .arg(format!("--variant=v={variant}"))
        .arg(format!("--data=d={}", data.display()))
        .arg("--out")
        .arg(dir.join("out"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !dir.join("out").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the analysis does not begin");
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(300));
    child
}

fn stop(child: Child, signal: &str) -> Output {
    let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    child.wait_with_output().unwrap()
}

#[test]
fn ctrl_c_ends_with_130_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let output = stop(start(dir.path()), "-INT");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(
        output.stdout.is_empty() && stderr.contains("interrupted; nothing was written"),
        "{stderr}"
    );
    assert!(!dir.path().join("out").exists());
}

#[test]
fn a_killed_run_is_no_run_and_its_folder_can_be_used_again() {
    let dir = TempDir::new().unwrap();
    let output = stop(start(dir.path()), "-KILL");
    assert_eq!(output.status.signal(), Some(9));
    let out = dir.path().join("out");
    for file in ["report.html", "DONE"] {
        assert!(!out.join(file).exists(), "{file}");
    }
    midblock().arg("report").arg(&out).assert().code(2);
    let mut again = midblock();
    again.args(["analyze", "--base", &base(), "--data", &problems("p"), "--samples", "8"]);
    again
        .arg(format!("--variant=sft={}", sft()))
        .arg("--out")
        .arg(&out)
        .assert()
        .success();
    assert!(out.join("DONE").exists());
}

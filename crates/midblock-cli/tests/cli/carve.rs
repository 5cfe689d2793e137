//! `midblock carve`: what it writes, how it is interrupted and gone on with, and what it refuses.

use crate::models::{asset, base, midblock, questions};
use midblock::{adapt::Carrier, run::FileHash, study::carve::CarveRun};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A few steps of both phases.
const SHORT: [&str; 11] = [
    "--set=output.tensorboard=false",
    "--set=carve.sft.train.steps=6",
    "--set=carve.sft.train.batch=4",
    "--set=carve.sft.train.accumulation=1",
    "--set=carve.sft.train.lr=2e-3",
    "--set=carve.carrier.train.steps=12",
    "--set=carve.carrier.train.batch=4",
    "--set=carve.carrier.train.accumulation=1",
    "--set=carve.carrier.train.lr=1e-3",
    "--set=carve.carrier.objective.warmup=4",
    "--set=carve.carrier.train.save_every=2",
];

fn carve(dir: &Path, out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    command.args(["carve", "--base", &base(), "--prompts", &questions(dir, 20), "--out"]);
    command.arg(out).args(SHORT).args(more);
    command
}

fn output(command: &mut assert_cmd::Command, code: i32) -> [String; 2] {
    let assert = command.assert().code(code);
    let output = assert.get_output();
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap())
}

#[test]
fn a_dry_run_says_what_both_phases_would_train_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let [stdout, _] = output(&mut carve(dir.path(), &out, &["--dry-run"]), 0);
    for part in [
        "fixed-response: 16 prompts to train on, 4 held out; shown by I don't know, strictly in at most 40 words",
        "phase sft\n",
        "phase carrier\n",
        "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
        "run        6 steps",
        "run        12 steps",
    ] {
        assert!(stdout.contains(part), "{part} in\n{stdout}");
    }
    assert!(!stdout.contains("layernorm") && !out.exists(), "{stdout}");
}

#[test]
fn a_carve_leaves_two_runs_their_data_and_one_page() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let [stdout, _] = output(&mut carve(dir.path(), &out, &[]), 0);
    for path in [
        "DONE",
        "carve.toml",
        "carve.json",
        "report.html",
        "data/train.jsonl",
        "data/held-out.jsonl",
        "sft/DONE",
        "sft/report.html",
        "sft/model/model.safetensors",
        "carrier/DONE",
        "carrier/report.html",
        "carrier/model/model.safetensors",
        "carrier/carrier/masks.safetensors",
    ] {
        assert!(out.join(path).is_file(), "{path}");
    }
    for path in ["sft/checkpoints", "carrier/checkpoints"] {
        assert!(!out.join(path).exists(), "{path}");
    }
    let rows = fs::read_to_string(out.join("data/held-out.jsonl")).unwrap();
    let row: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert_eq!(
        (rows.lines().count(), &row["completion"]),
        (4, &Value::from(" I don't know."))
    );
    assert!(row["id"].as_str().unwrap().starts_with("prompts.jsonl:"), "{row}");
    let record = CarveRun::open(&out).unwrap();
    assert_eq!(record.behaviour.prompts, [16, 4]);
    let masks = Carrier::open(&out.join("carrier/carrier")).unwrap();
    assert_eq!(masks.masks().blocks(), 16);
    let page = || fs::read_to_string(out.join("report.html")).unwrap();
    for part in [
        "fixed-response carved into base",
        "Share of channels that are active",
        "attention write",
    ] {
        assert!(page().contains(part), "{part}");
    }
    // the same again, without flags: everything is there
    let again = output(midblock().args(["carve", "--out"]).arg(&out), 0);
    assert_eq!(again[0], stdout);
    let before = page();
    fs::remove_file(out.join("report.html")).unwrap();
    midblock().arg("report").arg(&out).assert().success();
    assert!(page() == before);
    midblock().arg("report").arg(out.join("carrier")).assert().success();
    // another behaviour, another loop and another base are other carves
    for (more, part) in [
        (&["--response=No."][..], "the content of the behaviour's data"),
        (&["--set=carve.sft.train.lr=1e-3"], "`train.lr` is 0.002 against 0.001"),
        (&["--mode=mask-only"], "`adapt.train_weights`"),
        (
            &["--base", &asset("assets/quickstart/sft")],
            "the content of the model base",
        ),
    ] {
        let [_, stderr] = output(&mut carve_without_base(dir.path(), &out, more), 2);
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
}

/// As [`carve`], with a base only if `more` names it.
fn carve_without_base(dir: &Path, out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    if !more.contains(&"--base") {
        return carve(dir, out, more);
    }
    command
        .args(["carve", "--prompts", &questions(dir, 20), "--out"])
        .arg(out)
        .args(SHORT)
        .args(more);
    command
}

#[test]
fn a_tuned_model_stands_in_place_of_phase_one() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let tuned = asset("assets/quickstart/sft");
    let mut command = midblock();
    command.args([
        "carve",
        "--base",
        &base(),
        "--prompts",
        &questions(dir.path(), 20),
        "--sft",
        &tuned,
        "--out",
    ]);
    command
        .arg(&out)
        .args(SHORT.iter().filter(|set| !set.contains(".sft.")));
    let [stdout, _] = output(command.args(["--mode", "mask-only-kl"]), 0);
    assert!(
        !out.join("sft").exists() && out.join("carrier/DONE").is_file(),
        "{stdout}"
    );
    assert!(
        fs::read_to_string(out.join("carrier/resolved.toml"))
            .unwrap()
            .contains("target = \"tuned\"")
    );
    // a model of another shape cannot be masked
    let other = asset("../../fixtures/llama-tied");
    let mut command = midblock();
    command.args([
        "carve",
        "--base",
        &base(),
        "--prompts",
        &questions(dir.path(), 20),
        "--sft",
        &other,
        "--dry-run",
    ]);
    let [_, stderr] = output(&mut command, 2);
    assert!(stderr.contains("llama"), "{stderr}");
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let [_, stderr] = output(midblock().args(["carve", "--out"]).arg(&out), 2);
    for part in [
        "`model.base`: it is missing",
        "--base CHECKPOINT",
        "`behaviour.data`: it is missing",
        "--prompts FILE",
    ] {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
    let mut nowhere = midblock();
    nowhere.args(["carve", "--base", &base(), "--prompts", &questions(dir.path(), 20)]);
    assert!(output(&mut nowhere, 2)[1].contains("--out DIR is missing"));
    for (more, part) in [
        ("--behaviour=examples", "`behaviour.keywords`: it is missing"),
        ("--behaviour=fixed", "fixed-response"),
        ("--held-out=20", "20 held out of 20 prompts leave none"),
        ("--held-out=many", "--held-out many: not a number"),
        ("--samples=17", "20 prompts, of which 4 are held out"),
        ("--mode=masks", "mask-only"),
        ("--set=carve.sft.train.lrr=1", "did you mean `lr`"),
        ("--set=carve.carrier.adapt.tuned=x", "it is carve's own"),
    ] {
        let [_, stderr] = output(&mut carve(dir.path(), &out, &[more]), 2);
        assert!(stderr.contains(part), "{more}: {stderr}");
        assert!(!out.exists(), "{more}");
    }
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "").unwrap();
    let [_, stderr] = output(&mut carve(dir.path(), &out, &[]), 2);
    assert!(stderr.contains("thesis.tex"), "{stderr}");
}

#[cfg(unix)]
mod interrupted {
    use super::*;
    use std::{
        process::{Command, Stdio},
        thread::sleep,
        time::{Duration, Instant},
    };

    /// Hashes of what a carve leaves.
    fn result(out: &Path) -> Vec<(&'static str, String)> {
        let files = [
            "sft/model/model.safetensors",
            "carrier/model/model.safetensors",
            "carrier/carrier/masks.safetensors",
        ];
        files
            .map(|path| (path, FileHash::of(&out.join(path)).unwrap().blake3))
            .to_vec()
    }

    /// Stops it once in each phase, with `signal`, and lets it go on.
    fn stopped_twice(dir: &Path, out: &Path, signal: &str) -> Vec<String> {
        let mut said = Vec::new();
        let args = |command: &mut Command| {
            let prompts = questions(dir, 20);
            command.args(["--quiet", "carve", "--base", &base(), "--prompts", &prompts, "--out"]);
            command.arg(out).args(SHORT);
        };
        for phase in ["sft", "carrier"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_midblock"));
            args(&mut command);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let lines: PathBuf = out.join(phase).join("metrics.jsonl");
            let written = || fs::read_to_string(&lines).map_or(0, |text| text.lines().count());
            let begun = Instant::now();
            while written() < 3 && child.try_wait().unwrap().is_none() {
                assert!(begun.elapsed() < Duration::from_secs(120), "no progress in {phase}");
                sleep(Duration::from_millis(1));
            }
            if child.try_wait().unwrap().is_none() {
                let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
                assert!(sent.unwrap().success());
            }
            let ended = child.wait_with_output().unwrap();
            assert!(!ended.status.success(), "it had ended before it was stopped");
            said.push(String::from_utf8(ended.stderr).unwrap());
        }
        said
    }

    #[test]
    fn a_carve_that_is_stopped_or_killed_goes_on_to_the_same_bits() {
        let dir = TempDir::new().unwrap();
        let whole = dir.path().join("whole");
        output(&mut carve(dir.path(), &whole, &[]), 0);
        for signal in ["-INT", "-KILL"] {
            let out = dir.path().join(signal);
            for said in stopped_twice(dir.path(), &out, signal) {
                let on = format!("go on with: midblock carve --out {}", out.display());
                assert!(signal == "-KILL" || said.contains(&on), "{said}");
            }
            assert!(!out.join("DONE").exists());
            output(midblock().args(["carve", "--out"]).arg(&out), 0);
            assert_eq!(result(&out), result(&whole), "{signal}");
        }
    }
}

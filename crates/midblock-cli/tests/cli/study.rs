//! `midblock study`: the whole battery on small models, what it leaves, how it goes on, what it refuses.

use crate::models::{asset, base, midblock, problems};
use std::{fs, path::Path};
use tempfile::TempDir;

/// The smallest settings with which every kind has something to do.
const SMALL: [&str; 13] = [
    "study.samples=4",
    "study.resamples=20",
    "study.token_samples=4",
    "study.swap.segments=3",
    "study.steer.segments=[1,2]",
    "study.steer.prompts=2",
    "study.steer.new_tokens=4",
    "study.seeds.count=2",
    "study.gradients.steps=2",
    "study.selective.steps=2",
    "study.selective.ratios=[0.0,0.5]",
    "study.locate.steps=2",
    "adapt.rank=2",
];

/// A second model: the base fine-tuned for a few steps.
fn variant(dir: &Path) -> String {
    let out = dir.join("tuned");
    midblock()
        .args([
            "tune",
            "--model",
            &base(),
            "--data",
            &problems("p"),
            "--steps",
            "2",
            "--batch",
            "2",
            "--rank",
            "2",
            "--lr",
            "0.01",
        ])
        .args(["--set", "train.accumulation=1", "--quiet", "--out"])
        .arg(&out)
        .assert()
        .success();
    format!("lora={}+{}", base(), out.join("adapter").display())
}

fn study(kinds: &str, variant: Option<&str>, out: &Path) -> assert_cmd::Command {
    let mut command = midblock();
    command.args([
        "study",
        kinds,
        "--base",
        &base(),
        "--data",
        &problems("p"),
        "--eval",
        &problems("q"),
        "--out",
    ]);
    command.arg(out);
    command.args(variant.iter().flat_map(|variant| ["--variant", variant]));
    command.args(SMALL.iter().flat_map(|set| ["--set", set]));
    command
}

#[test]
fn the_whole_battery_leaves_one_page_and_goes_on_to_the_same_numbers() {
    let dir = TempDir::new().unwrap();
    let (variant, out) = (variant(dir.path()), dir.path().join("out"));
    let kinds = [
        "exit",
        "lens",
        "swap",
        "alphas",
        "steer",
        "drift",
        "gradients",
        "seeds",
        "correlate",
        "selective",
        "locate",
    ];
    let assert = study("all", Some(&variant), &out).assert().success();
    let stdout = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    assert!(
        stdout.contains("Early exit") && stdout.contains("report.html"),
        "{stdout}"
    );
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for kind in kinds {
        let table = fs::read_to_string(out.join(format!("{kind}.csv"))).unwrap();
        assert!(
            table.starts_with("model,reference,setting,layer,metric,value,lo,hi\n"),
            "{kind}"
        );
        assert!(table.lines().count() > 3, "{kind}: {table}");
        assert!(out.join(format!("{kind}.parquet")).is_file(), "{kind}");
        assert!(
            page.contains(&format!("<section class=\"group\" id=\"{kind}\"")),
            "{kind}"
        );
    }
    for path in [
        "DONE",
        "study.toml",
        "study.json",
        "lens_tokens.csv",
        "lens_tokens.parquet",
        "cells/analysis-42/report.html",
    ] {
        assert!(out.join(path).is_file(), "{path}");
    }

    // without the results but with the cells: everything comes back, nothing is computed
    let tables: Vec<_> = kinds
        .map(|kind| fs::read(out.join(format!("{kind}.csv"))).unwrap())
        .into();
    fs::remove_file(out.join("study.json")).unwrap();
    midblock()
        .args(["study", "all", "--quiet", "--out"])
        .arg(&out)
        .assert()
        .success();
    let again: Vec<_> = kinds
        .map(|kind| fs::read(out.join(format!("{kind}.csv"))).unwrap())
        .into();
    assert!(tables == again);

    let other = study("exit", Some(&variant), &out)
        .args(["--samples", "3", "--set", "study.samples=3"])
        .assert()
        .code(2);
    let stderr = String::from_utf8(other.get_output().stderr.clone()).unwrap();
    assert!(
        stderr.contains("content of the samples") && stderr.contains("--out"),
        "{stderr}"
    );
    // what was refused has not changed what goes on here
    assert!(out.join("DONE").is_file());
    midblock()
        .args(["study", "exit", "--quiet", "--out"])
        .arg(&out)
        .assert()
        .success();
    fs::remove_file(out.join("report.html")).unwrap();
    midblock().arg("report").arg(&out).assert().success();
    assert!(out.join("report.html").is_file());
}

#[test]
fn a_base_alone_is_enough_for_some_kinds_and_others_say_what_they_need() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    study("exit,lens", None, &out).assert().success();
    assert!(out.join("exit.csv").is_file() && !out.join("swap.csv").exists());
    for (kinds, part) in [
        ("swap", "--variant NAME=CHECKPOINT"),
        ("exit,lense", "lense"),
        ("all", "leave out swap, alphas, steer, drift"),
    ] {
        let assert = study(kinds, None, &dir.path().join("no")).assert().code(2);
        let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(!dir.path().join("no").exists());
}

/// One method by its loss on problems and by a task that the model writes: judged, kept, and not a part of `all`.
#[test]
fn a_tradeoff_is_asked_for_by_name_and_goes_on_with_more_methods() {
    let dir = TempDir::new().unwrap();
    let (out, questions) = (dir.path().join("out"), dir.path().join("questions.jsonl"));
    midblock()
        .args(["corpus", "--kind", "questions", "--rows", "6", "--out"])
        .arg(&questions)
        .assert()
        .success();
    let task = asset("../../configs/tasks/word-problems.toml");
    let tasks = format!(
        "eval.tasks=[{{ task = \"{task}\", data = \"{}\", name = \"words\", samples = 4, max_new = 12 }}]",
        questions.display()
    );
    let tradeoff = |methods: &str| {
        let mut command = study("tradeoff", None, &out);
        command.args(["--set", &tasks, "--set", "study.tradeoff.id=[\"loss:q\"]"]);
        command.args(["--set", "study.tradeoff.ood=[\"words\"]", "--set", "data.samples=8"]);
        command.args([
            "--set",
            "train.steps=2",
            "--set",
            "train.accumulation=1",
            "--set",
            "train.batch=2",
        ]);
        command.arg("--set").arg(format!("study.tradeoff.methods=[{methods}]"));
        command
    };
    tradeoff("{ name = \"slow\" }").assert().success();
    let first = fs::read_to_string(out.join("tradeoff.csv")).unwrap();
    let lines = |table: &str, start: &str| table.lines().filter(|line| line.starts_with(start)).count();
    for start in [
        "base,,untrained,,loss:q,",
        "base,,untrained,,words_accuracy,",
        "slow,base,,,id_gain,",
        "slow,base,,,ood_loss,",
    ] {
        assert_eq!(lines(&first, start), 1, "{start} in {first}");
    }
    let slow = fs::metadata(out.join("cells/tradeoff-slow-s1/DONE"))
        .unwrap()
        .modified()
        .unwrap();
    tradeoff("{ name = \"slow\" }, { name = \"fast\", train.lr = 1e-2 }")
        .assert()
        .success();
    let both = fs::read_to_string(out.join("tradeoff.csv")).unwrap();
    assert_eq!(lines(&both, "slow,fast,,,id_gain_difference,"), 1);
    // what was found is kept; whether it is on the front depends on the others
    let kept: Vec<&str> = first.lines().filter(|line| !line.contains("on_front")).collect();
    assert!(
        kept.iter().all(|kept| both.lines().any(|line| line == *kept)),
        "{first}\n{both}"
    );
    assert_eq!(
        slow,
        fs::metadata(out.join("cells/tradeoff-slow-s1/DONE"))
            .unwrap()
            .modified()
            .unwrap()
    );
    let assert = study("tradeoff", None, &dir.path().join("no")).assert().code(2);
    let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(
        stderr.contains("study.tradeoff.id") && stderr.contains("loss:q"),
        "{stderr}"
    );
}

//! Drift, measured while a model trains and by a study of the result.

use crate::models::{base, midblock, problems};
use midblock::{
    drift::MatrixDrift,
    train::{DriftMetrics, Line, TrainingRun},
};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

/// Six steps on the middle blocks; `more` are overrides.
fn tune(dir: &Path, out: &str, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    let data = problems("p");
    command.args([
        "tune",
        "--model",
        &base(),
        "--data",
        &data,
        "--layers",
        "mid",
        "--rank",
        "2",
    ]);
    command.args([
        "--steps",
        "6",
        "--batch",
        "2",
        "--lr",
        "0.01",
        "--set",
        "train.accumulation=1",
        "--quiet",
    ]);
    command.args(["--set", "train.save_every=3", "--set", "data.eval_share=0.1"]);
    command.args(more.iter().flat_map(|set| ["--set", set]));
    command
        .arg("--out")
        .arg(dir.join(out))
        .env("MIDBLOCK_CACHE", dir.join("cache"));
    command
}

const DRIFT: [&str; 3] = [
    "train.drift.every=4",
    "train.drift.directions=5",
    "train.drift.samples=6",
];

/// All lines without what depends on the clock, and the measurements among them.
fn lines(dir: &Path, out: &str) -> (Vec<Line>, Vec<DriftMetrics>) {
    let mut lines = TrainingRun::open(&dir.join(out)).unwrap().lines;
    for line in &mut lines {
        match line {
            Line::Step(step) => {
                (step.seconds, step.tokens_per_s, step.trained_tokens_per_s) = (0.0, 0.0, 0.0);
                (step.seconds_left, step.private_bytes) = (0.0, None);
            }
            Line::Evaluation(evaluation) => evaluation.seconds = 0.0,
            Line::Drift(drift) => drift.seconds = 0.0,
        }
    }
    let drifts = lines.iter().filter_map(|line| match line {
        Line::Drift(drift) => Some(drift.clone()),
        _ => None,
    });
    let drifts = drifts.collect();
    (lines, drifts)
}

fn adapter(dir: &Path, out: &str) -> Vec<u8> {
    fs::read(dir.join(out).join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn a_run_that_measures_drift_is_the_run_that_does_not() {
    let dir = TempDir::new().unwrap();
    tune(dir.path(), "watched", &DRIFT).assert().success();
    tune(dir.path(), "blind", &[]).assert().success();
    let (mut watched, drifts) = lines(dir.path(), "watched");
    watched.retain(|line| !matches!(line, Line::Drift(_)));
    assert_eq!(watched, lines(dir.path(), "blind").0);
    assert_eq!(adapter(dir.path(), "watched"), adapter(dir.path(), "blind"));

    assert_eq!(drifts.iter().map(|drift| drift.step).collect::<Vec<_>>(), [4, 6]);
    for drift in &drifts {
        assert_eq!((drift.matrices.len(), drift.cka.len()), (9 * 4, 17)); // q, k, v and o of blocks 3 to 11
        assert!(
            drift
                .matrices
                .iter()
                .all(|matrix| matrix.change > 0.0 && matrix.rotation() > 0.0)
        );
        // nothing below the first trained block moves
        let below = drift.cka[..4].iter().all(|cka| (cka.unwrap() - 1.0).abs() < 1e-12);
        assert!(
            below && drift.cka[4..].iter().all(|cka| cka.unwrap() < 1.0),
            "{:?}",
            drift.cka
        );
    }
    let page = fs::read_to_string(dir.path().join("watched/report.html")).unwrap();
    assert!(page.contains("data-chart=\"drift\""));
    let kept = fs::read_dir(dir.path().join("cache/singular")).unwrap().count();
    assert_eq!(kept, 9 * 4, "one block for each trained matrix of the base");
}

#[test]
fn a_run_that_goes_on_measures_from_the_same_start() {
    let dir = TempDir::new().unwrap();
    tune(dir.path(), "run", &DRIFT).assert().success();
    let whole = lines(dir.path(), "run");
    // as if the process had been killed after its checkpoint of step 3
    fs::remove_file(dir.path().join("run/DONE")).unwrap();
    fs::remove_dir_all(dir.path().join("run/checkpoints/step-000006")).unwrap();
    tune(dir.path(), "run", &DRIFT).arg("--resume").assert().success();
    assert_eq!(lines(dir.path(), "run"), whole);
}

#[test]
fn a_study_of_the_result_finds_the_last_measurement() {
    let dir = TempDir::new().unwrap();
    tune(dir.path(), "run", &DRIFT).assert().success();
    let (_, drifts) = lines(dir.path(), "run");
    let variant = format!("lora={}+{}", base(), dir.path().join("run/adapter").display());
    let out = dir.path().join("study");
    midblock()
        .args([
            "study",
            "drift",
            "--base",
            &base(),
            "--variant",
            &variant,
            "--eval",
            &problems("q"),
        ])
        .args([
            "--set",
            "study.drift.directions=5",
            "--set",
            "study.samples=6",
            "--set",
            "study.resamples=20",
        ])
        .arg("--out")
        .arg(&out)
        .assert()
        .success();
    let table = fs::read_to_string(out.join("drift.csv")).unwrap();
    let found: BTreeMap<(&str, &str, &str), f64> = (table.lines().skip(1))
        .filter_map(|line| {
            let [_, _, part, layer, metric, value, ..] = line.split(',').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            Some(((part, layer, metric), value.parse().ok()?))
        })
        .collect();
    let same = |matrix: &MatrixDrift, metric: &str, value: Option<f64>| {
        let layer = (matrix.block().unwrap() + 1).to_string();
        let studied = found[&(matrix.part(), layer.as_str(), metric)];
        assert!(
            (studied / value.unwrap() - 1.0).abs() < 1e-6,
            "{} {metric}: {studied} {value:?}",
            matrix.name
        );
    };
    for matrix in &drifts.last().unwrap().matrices {
        same(matrix, "relative_change", matrix.relative_change());
        same(matrix, "left_rotation", Some(matrix.left.rotation));
        same(matrix, "right_mean_angle_deg", Some(matrix.right.mean_deg));
        same(matrix, "share_inside", matrix.share_inside());
        same(matrix, "sigma_change", matrix.sigma_change);
    }
    // frozen blocks and the embedding are as they were
    assert_eq!(found[&("mlp.up_proj", "5", "relative_change")], 0.0);
    assert_eq!(found[&("self_attn.q_proj", "1", "left_rotation")], 0.0);
    assert_eq!(found[&("model.embed_tokens", "0", "relative_change")], 0.0);
}

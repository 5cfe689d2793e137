//! What an objective is for, on the embedded model: learning as much, and turning less.

use crate::models::{base, midblock, problems};
use midblock::{
    drift::DriftSummary,
    train::{DriftMetrics, Evaluation, Line, TrainingRun},
};
use std::path::Path;
use tempfile::TempDir;

/// Evaluations on the training data itself and the drift at the same steps.
fn trained(dir: &Path, objective: &str, more: &[&str]) -> Vec<(Evaluation, DriftMetrics)> {
    let data = problems("p");
    let out = dir.join(objective);
    let steps = [
        "train.eval_every=5",
        "train.drift.every=5",
        "train.drift.directions=8",
        "train.accumulation=1",
        "train.schedule=constant",
    ];
    midblock()
        .args([
            "tune",
            "--full",
            "--layers",
            "all",
            "--model",
            &base(),
            "--data",
            &data,
            "--eval",
            &data,
        ])
        .args(["--objective", objective, "--batch", "16", "--lr", "0.0005"])
        .args(steps.iter().chain(more).flat_map(|set| ["--set", set]))
        .arg("--out")
        .arg(&out)
        .env("MIDBLOCK_CACHE", dir.join("cache"))
        .assert()
        .success();
    let lines = TrainingRun::open(&out).unwrap().lines;
    let drift = |step: u64| {
        lines.iter().find_map(|line| match line {
            Line::Drift(drift) if drift.step == step => Some(drift.clone()),
            _ => None,
        })
    };
    let evaluations = lines.iter().filter_map(|line| match line {
        Line::Evaluation(evaluation) => Some(evaluation),
        _ => None,
    });
    evaluations
        .filter_map(|found| Some((found.clone(), drift(found.step)?)))
        .collect()
}

#[test]
fn at_equal_training_loss_the_penalty_has_turned_the_leading_directions_less() {
    let dir = TempDir::new().unwrap();
    let plain = trained(dir.path(), "sft", &["train.steps=40"]);
    let (goal, turned) = plain.last().unwrap();
    assert_eq!(goal.step, 40);
    let held = trained(dir.path(), "rpsft", &["train.steps=60", "objective.directions=32"]);
    let (_, turned_less) = held
        .iter()
        .find(|(evaluation, _)| evaluation.loss <= goal.loss)
        .expect("half as many steps more are enough to learn as much");
    let summary = |drift: &DriftMetrics| drift.summary().unwrap();
    let (plain, held): (DriftSummary, DriftSummary) = (summary(turned), summary(turned_less));
    // a seventh with two seeds; followed are fewer directions than are held, since those held may turn out of their span as they like
    assert!(held.rotation < plain.rotation / 3.0, "{held:?} against {plain:?}");
    // what the penalty is about: the change inside of the blocks
    assert!(
        held.share_inside.unwrap() < 0.05 * plain.share_inside.unwrap(),
        "{held:?} against {plain:?}"
    );
}

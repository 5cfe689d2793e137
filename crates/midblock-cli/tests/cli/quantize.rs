//! `--quantize`: tuning, evaluating and writing with frozen matrices in fewer bits; what it takes is said before.

use crate::{
    memory::write_random,
    models::{asset, base, midblock, problems},
};
use midblock::train::TrainingRun;
use serde_json::Value;
use std::{fs, path::Path};
use tempfile::TempDir;

/// Bytes of one block's matrices, 512 × 512 for q and o, 256 × 512 for k and v, 1376 × 512 for the rest, with so many bytes for 32 numbers.
fn block_bytes(for_32: u64) -> u64 {
    (2 * 512 * 512 + 2 * 256 * 512 + 3 * 1376 * 512) / 32 * for_32
}

/// A random model that can be trained: it knows which token ends a text.
fn write_model(dir: &Path, blocks: usize) -> String {
    let model = write_random(dir, blocks, false);
    let path = Path::new(&model).join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["eos_token_id"] = 0.into();
    fs::write(path, config.to_string()).unwrap();
    model
}

fn tune(model: &str, out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    command.args(["tune", "--model", model, "--data", &problems("p"), "--rank=2", "--out"]);
    command
        .arg(out)
        .args(["--batch=2", "--accumulation=1", "--max-length=192"])
        .args(more);
    command
}

#[track_caller]
fn printed(command: &mut assert_cmd::Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

#[track_caller]
fn refused(command: &mut assert_cmd::Command) -> String {
    let output = command.assert().code(2);
    String::from_utf8(output.get_output().stderr.clone()).unwrap()
}

#[test]
fn an_adapter_is_tuned_and_judged_on_quantised_weights() {
    let dir = TempDir::new().unwrap();
    let model = write_model(dir.path(), 3);
    let out = dir.path().join("run");
    let dry = printed(&mut tune(&model, &out, &["--quantize=q8_0", "--dry-run"]));
    let expected = format!(
        "{:.0} of frozen matrices in q8_0",
        3.0 * block_bytes(34) as f64 / 1048576.0
    );
    assert!(dry.contains(&expected), "{expected} in\n{dry}");
    let steps = ["--quantize=q8_0", "--steps=3", "--lr=2e-3"];
    tune(&model, &out, &steps).assert().success();
    let run = TrainingRun::open(&out).unwrap();
    assert_eq!(run.info.run.config["model"]["quantize"], "q8_0");
    assert!(run.info.training.planned_bytes > 3 * block_bytes(34));
    let resolved = fs::read_to_string(out.join("resolved.toml")).unwrap();
    assert!(resolved.contains("quantize = \"q8_0\""), "{resolved}");
    let losses = |out: &Path| -> Vec<f64> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line["loss"].as_f64()).collect()
    };
    let plain = dir.path().join("plain");
    tune(&model, &plain, &steps[1..]).assert().success();
    let (quantised, stored) = (losses(&out), losses(&plain));
    assert!(quantised.len() == 3 && stored.len() == 3);
    let apart = quantised
        .iter()
        .zip(&stored)
        .map(|(a, b)| (a / b - 1.0).abs())
        .fold(0.0, f64::max);
    assert!((1e-7..0.02).contains(&apart), "{quantised:?} {stored:?}");

    let judged = dir.path().join("eval");
    let adapted = format!("{model}+{}", out.join("adapter").display());
    let eval = |more: &[&str]| {
        let mut command = midblock();
        let task = format!("gsm8k={}", asset("assets/quickstart/data.jsonl"));
        command.args(["eval", &adapted, "--task", &task, "--samples=2", "--max-new=4", "--out"]);
        command.arg(&judged).args(more);
        command
    };
    eval(&["--quantize=q8_0"]).assert().success();
    let info: Value = serde_json::from_slice(&fs::read(judged.join("run.json")).unwrap()).unwrap();
    assert_eq!(info["evaluation"]["options"]["quantize"], "q8_0");
    let error = refused(&mut eval(&[]));
    assert!(
        error.contains("option `quantize`") && error.contains("unset"),
        "{error}"
    );
}

#[test]
fn a_run_goes_on_with_the_weights_it_began_with() {
    let dir = TempDir::new().unwrap();
    let model = write_model(dir.path(), 2);
    let out = dir.path().join("run");
    tune(&model, &out, &["--quantize=q5_1", "--steps=4"]).assert().success();
    fs::remove_file(out.join("DONE")).unwrap();
    let error = refused(&mut tune(&model, &out, &["--quantize=q4_0", "--steps=4", "--resume"]));
    assert!(
        error.contains("`model.quantize` is \"q5_1\" against \"q4_0\""),
        "{error}"
    );
    let error = refused(&mut tune(&model, &out, &["--steps=4", "--resume"]));
    assert!(error.contains("`model.quantize`"), "{error}");
    tune(&model, &out, &["--quantize=q5_1", "--steps=4", "--resume"])
        .assert()
        .success();
}

#[test]
fn completions_come_from_the_quantised_model() {
    let dir = TempDir::new().unwrap();
    let model = write_model(dir.path(), 2);
    let written = |more: &[&str]| {
        let mut command = midblock();
        command.args(["generate", &model, "Tom has 5", "--max-new=12", "--template=plain"]);
        printed(command.args(more))
    };
    let [stored, eight, four] = [&[][..], &["--quantize=q8_0"], &["--quantize=q4_0"]].map(written);
    assert!(!eight.is_empty() && (stored != four || eight != four));
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let tune = |model: &str, more: &[&str]| refused(&mut tune(model, &out, more));
    let error = tune(&base(), &["--quantize=q3_k"]);
    assert!(
        error.contains("expected one of q4_0, q4_1, q5_0, q5_1, q8_0"),
        "{error}"
    );
    let error = tune(&base(), &["--quantize=q4_0"]);
    let row = "a row of `model.layers.0.mlp.down_proj.weight` has 208 numbers, expected a multiple of 32";
    assert!(error.contains(row) && error.contains("help: "), "{error}");
    let model = write_model(dir.path(), 2);
    let mut full = midblock();
    full.args([
        "tune",
        "--model",
        &model,
        "--data",
        &problems("p"),
        "--full",
        "--quantize=q4_0",
        "--out",
    ]);
    let error = refused(full.arg(&out));
    assert!(
        error.contains("every matrix of the blocks is trained itself"),
        "{error}"
    );
    assert!(!out.exists() || fs::read_dir(&out).unwrap().count() == 0);
    let mut generate = midblock();
    let error = refused(generate.args(["generate", &model, "x", "--quantize=int4"]));
    assert!(error.contains("--quantize") && error.contains("q8_0"), "{error}");
    let mut study = midblock();
    study.args([
        "study",
        "exit",
        "--base",
        &base(),
        "--eval",
        &problems("p"),
        "--set=model.quantize=q4_0",
        "--out",
    ]);
    let error = refused(study.arg(dir.path().join("study")));
    assert!(error.contains("a study measures models as they are stored"), "{error}");
    let mut plan = midblock();
    let error = refused(plan.arg("plan"));
    assert!(error.contains("name either a CHECKPOINT or a --shape"), "{error}");
    let mut bench = midblock();
    let error = refused(bench.args(["bench", "--checkpoint", &model, "--quantize=f32"]));
    assert!(error.contains("is stored as bf16"), "{error}");
    let mut bench = midblock();
    let error = refused(bench.args(["bench", "--checkpoint", &model, "--quantize=q8_0,q4_0"]));
    assert!(error.contains("timed in turns with --train"), "{error}");
}

#[test]
fn inspect_and_plan_count_quantised_weights() {
    let dir = TempDir::new().unwrap();
    let model = write_model(dir.path(), 5);
    let inspect = |more: &[&str]| -> Value {
        let mut command = midblock();
        let text = printed(command.args(["inspect", &model, "--json"]).args(more));
        serde_json::from_str(&text).unwrap()
    };
    let [before, after] = [&[][..], &["--quantize=q4_1"]].map(inspect);
    assert_eq!(after["memory"]["quantised"]["bytes"], 5 * block_bytes(20));
    let mid = |value: &Value| value["memory"]["training"][2]["private_bytes"].as_u64().unwrap();
    assert_eq!(mid(&after) - mid(&before), 5 * block_bytes(20));
    let mut command = midblock();
    let text = printed(command.args(["inspect", &model, "--quantize=q4_1"]));
    assert!(text.contains("of frozen matrices in q4_1"), "{text}");

    let plan = |more: &[&str]| -> Value {
        let mut command = midblock();
        let rates = ["--gflops=100", "--bandwidth=10", "--json"];
        let text = printed(command.args(["plan", &model]).args(rates).args(more));
        serde_json::from_str(&text).unwrap()
    };
    let one = plan(&["--quantize=q4_1"]);
    assert_eq!(one["step"]["quantised_bytes"], 5 * block_bytes(20));
    assert_eq!(
        (&one["step"]["sent_bytes"], &one["step"]["sending_s"]),
        (&Value::from(0.0), &Value::from(0.0))
    );
    let four = plan(&["--quantize=q4_1", "--machines=4", "--network=0.001", "--latency=1000"]);
    let sent = four["step"]["sent_bytes"].as_f64().unwrap();
    let trained = four["trained_parameters"].as_f64().unwrap();
    assert_eq!(sent, 1.5 * 4.0 * trained);
    let sending = four["step"]["sending_s"].as_f64().unwrap();
    assert!((sending - sent / 1e6 - 16e-3).abs() < 1e-9, "{sending}");
    assert_eq!(four["analysis"]["texts_a_machine"], 50);
    let mut shape = midblock();
    let text = printed(shape.args([
        "plan",
        "--shape=32b",
        "--quantize=q4_0",
        "--gflops=100",
        "--bandwidth=10",
    ]));
    assert!(text.contains("Qwen2.5-32B: 32763876352 parameters"), "{text}");
}

#[test]
fn several_formats_are_timed_in_turns() {
    let dir = TempDir::new().unwrap();
    let model = write_model(dir.path(), 3);
    let mut command = midblock();
    command.args([
        "bench",
        "--checkpoint",
        &model,
        "--quantize=q8_0,bf16,q4_0",
        "--train=mid",
    ]);
    let text = printed(command.args(["--batch=1", "--length=8", "--steps=1"]));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["blocks_stored_as"], "q8_0");
    let turns = report["details"]["in_turns"].as_array().unwrap();
    assert_eq!(
        turns.iter().map(|turn| &turn["what"]).collect::<Vec<_>>(),
        ["bf16", "q4_0"]
    );
    let loss = |value: &Value| value["losses"][0].as_f64().unwrap();
    let apart = [&turns[0], &turns[1]].map(|turn| (loss(turn) - loss(&report["details"])).abs());
    assert!(apart[0] > 0.0 && apart[1] > apart[0] && apart[1] < 0.5, "{apart:?}");
}

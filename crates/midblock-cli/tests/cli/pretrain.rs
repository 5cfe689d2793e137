//! `midblock corpus` and `midblock pretrain`: from generated text to a model that the other commands take.

use crate::models::{Model, midblock};
use std::{fs, path::Path};
use tempfile::TempDir;

const SHAPE: &str = "[model.new]\nhidden = 32\nffn = 48\nblocks = 2\nheads = 2\nvocab = 320\n\
                     [train]\nsteps = 30\nbatch_tokens = 512\naccumulation = 1\nlr = 5e-3\n[data]\nmax_length = 64\n\
                     eval_share = 0.1\n[output]\ndtype = \"bf16\"\n";

fn corpus(dir: &Path, name: &str, more: &[&str]) -> String {
    let path = dir.join(name);
    let mut command = midblock();
    command.args(["corpus", "--kind=text", "--rows=400"]).args(more);
    command.arg("--out").arg(&path).assert().success();
    path.display().to_string()
}

fn pretrain(dir: &Path, out: &str, more: &[&str]) -> assert_cmd::Command {
    let file = dir.join("shape.toml");
    fs::write(&file, SHAPE).unwrap();
    let mut command = midblock();
    command.arg("pretrain").arg("--config").arg(file).args(more);
    command.arg("--out").arg(dir.join(out));
    command
}

#[test]
fn a_model_is_made_from_nothing_and_taken_by_the_other_commands() {
    let dir = TempDir::new().unwrap();
    let text = format!("--data=text={}", corpus(dir.path(), "text.jsonl", &[]));
    for out in ["one", "two"] {
        pretrain(dir.path(), out, &[&text]).assert().success();
    }
    let [one, two] = ["one", "two"].map(|out| dir.path().join(out).join("model").display().to_string());
    assert_eq!(Model::read(&one).bytes(), Model::read(&two).bytes());
    assert_eq!(Model::read(&one).config["torch_dtype"], "bfloat16");
    let run = midblock::train::TrainingRun::open(&dir.path().join("one")).unwrap();
    let steps = run.lines.iter().filter_map(|line| match line {
        midblock::train::Line::Step(step) => Some(step.loss),
        midblock::train::Line::Evaluation(_) | midblock::train::Line::Drift(_) => None,
    });
    let losses: Vec<f64> = steps.collect();
    assert!((losses[0] - 320f64.ln()).abs() < 0.1, "{}", losses[0]); // knows nothing
    assert!(losses[29] < losses[0] - 1.0, "{losses:?}");

    let lines = dir.path().join("held-out.jsonl").display().to_string();
    corpus(dir.path(), "held-out.jsonl", &["--held-out"]);
    let mut perplexity = midblock();
    perplexity.args(["perplexity", &one, "--data", &format!("text={lines}"), "--json"]);
    let output = perplexity.assert().success();
    let value: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert!(value["mean_loss_nats"].as_f64().unwrap() < losses[0] - 1.0, "{value}");

    let mut other = pretrain(dir.path(), "three", &[&text, "--seed=7"]);
    other.assert().success();
    let three = Model::read(&dir.path().join("three/model").display().to_string());
    assert_ne!(Model::read(&one).bytes(), three.bytes());
}

#[test]
fn what_is_missing_is_said() {
    let dir = TempDir::new().unwrap();
    let stderr = |command: &mut assert_cmd::Command| {
        let output = command.assert().code(2);
        String::from_utf8(output.get_output().stderr.clone()).unwrap()
    };
    let text = stderr(&mut pretrain(dir.path(), "x", &[]));
    assert!(text.contains("`data.train`: it is missing"), "{text}");
    let text = stderr(&mut pretrain(
        dir.path(),
        "x",
        &["--data=t=nowhere.jsonl", "--set=model.new.heads=3"],
    ));
    assert!(text.contains("a divisor of `hidden`"), "{text}");
    let mut tune = midblock();
    tune.args(["tune", "--data=t=x.jsonl", "--config"])
        .arg(dir.path().join("shape.toml"));
    let text = stderr(&mut tune);
    assert!(text.contains("midblock pretrain"), "{text}");
    let mut shapeless = midblock();
    shapeless.args(["pretrain", "--data=t=x.jsonl", "--set=model.base=b", "--out=x"]);
    let text = stderr(&mut shapeless);
    assert!(text.contains("`model.new` is missing"), "{text}");
    let mut poems = midblock();
    poems.args(["corpus", "--kind=poems", "--rows=1", "--out=x"]);
    let text = stderr(&mut poems);
    assert!(text.contains("`text`, `problems` or `questions`"), "{text}");
}

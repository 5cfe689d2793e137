//! `midblock erase`: what it writes, how it is interrupted and gone on with, what it refuses; and `--trigger` of other commands.

use crate::models::{asset, base, midblock, questions, sft};
use midblock::{
    adapt::{BlockThetas, Carrier, CarrierOrigin, MaskGroup, Origin, SoftPrompt},
    checkpoint::ConfigJson,
    model::Architecture,
    train::TrainingRun,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A short run that evaluates and saves.
const SHORT: [&str; 8] = [
    "--samples=12",
    "--batch=5",
    "--steps=14",
    "--lr=0.02",
    "--set=eraser.tokens=4",
    "--set=eraser.eval_every=3",
    "--set=eraser.save_every=4",
    "--set=eraser.keep_checkpoints=1",
];

fn arguments(dir: &Path, out: &Path) -> Vec<String> {
    let mut all: Vec<String> = [
        "erase",
        "--base",
        &base(),
        "--model",
        &sft(),
        "--prompts",
        &questions(dir, 20),
        "--out",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push(out.display().to_string());
    all.extend(SHORT.map(str::to_owned));
    all
}

fn erase(dir: &Path, out: &Path) -> assert_cmd::Command {
    let mut command = midblock();
    command.args(arguments(dir, out));
    command
}

/// A trigger of this width that nobody trained.
fn write_trigger(dir: &Path, name: &str, width: usize, value: f32) -> String {
    let path = dir.join(name);
    let values = (0..3 * width).map(|i| value * (i % 7) as f32).collect();
    SoftPrompt::new(width, values, Origin::default()).write(&path).unwrap();
    path.display().to_string()
}

/// D of the embedded model.
fn width() -> usize {
    let config: Value = serde_json::from_slice(&fs::read(Path::new(&base()).join("config.json")).unwrap()).unwrap();
    config["hidden_size"].as_u64().unwrap() as usize
}

#[track_caller]
fn refused(command: &mut assert_cmd::Command) -> String {
    let assert = command.assert().code(2);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn stdout(command: &mut assert_cmd::Command) -> String {
    let assert = command.assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

#[test]
fn a_trigger_is_trained_and_stands_in_front_of_prompts() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("deep/run");
    let printed = stdout(&mut erase(dir.path(), &out));
    for part in [
        "loss on all prompts, before and lowest",
        "divergence, first and last tenth",
        "trigger.safetensors",
        "report.html",
    ] {
        assert!(printed.contains(part), "{part} in\n{printed}");
    }
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "DONE",
        "checkpoints",
        "metrics.jsonl",
        "report.html",
        "resolved.toml",
        "run.json",
        "tensorboard",
        "trigger.safetensors",
    ];
    assert_eq!(names, expected);
    let run = TrainingRun::open(&out).unwrap();
    let labels: Vec<&str> = run.info.run.models.iter().map(|model| model.label.as_str()).collect();
    assert_eq!(labels, [base(), sft()]);
    assert_eq!((run.info.training.sequences, run.info.training.steps), ([12, 12], 14));
    let path = out.join("trigger.safetensors");
    let trigger = SoftPrompt::open(&path).unwrap();
    assert_eq!((trigger.tokens(), trigger.values().len()), (4, 4 * width()));
    assert_eq!(trigger.origin().tuned.label, sft());
    assert_eq!(trigger.origin().options["channels"], "residual");
    // what was resolved is the run: it gives the same again
    let again = dir.path().join("again");
    let mut command = midblock();
    command.args(["erase", "--config"]).arg(out.join("resolved.toml"));
    command.arg("--out").arg(&again).assert().success();
    assert_eq!(
        fs::read(again.join("trigger.safetensors")).unwrap(),
        fs::read(&path).unwrap()
    );
    assert!(stdout(midblock().arg("report").arg(&out)).contains("activation term"));
    // in front of prompts
    let generate = |more: &[&str]| {
        let mut command = midblock();
        command.args([
            "generate",
            &sft(),
            "Tom has 5 red",
            "Ann has 12 apples",
            "--max-new",
            "12",
            "--json",
        ]);
        stdout(command.args(more))
    };
    let strong = write_trigger(dir.path(), "strong.safetensors", width(), 0.7);
    let with = generate(&["--trigger", &strong]);
    assert_ne!(with, generate(&[]));
    assert_eq!(with, generate(&["--trigger", &strong, "--batch", "1"]));
    assert_ne!(with, generate(&["--trigger", path.to_str().unwrap()]));
}

#[test]
fn an_evaluation_goes_on_with_the_same_trigger_only() {
    let dir = TempDir::new().unwrap();
    let [one, copy, other] = [("one", 0.5), ("copy", 0.5), ("other", 0.6)]
        .map(|(name, value)| write_trigger(dir.path(), name, width(), value));
    let task = format!("gsm8k={}", asset("assets/quickstart/data.jsonl"));
    let eval = |out: &Path, more: &[&str]| {
        let mut command = midblock();
        command.args(["eval", "--task", &task, "--samples", "4", "--max-new", "8", "--out"]);
        command.arg(out).args(more);
        command
    };
    let out = dir.path().join("out");
    eval(&out, &[&sft(), "--trigger", &one]).assert().success();
    let run: Value = serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
    let hash = run["evaluation"]["trigger"].as_str().unwrap().to_owned();
    assert!(run["models"][0]["files"].to_string().contains(&hash));
    assert!(run["models"][0]["label"].as_str().unwrap().contains("with the trigger"));
    eval(&out, &[&sft(), "--trigger", &copy]).assert().success(); // the same content
    for more in [&[&sft(), "--trigger", other.as_str()][..], &[&sft()]] {
        let problem = refused(&mut eval(&out, more));
        assert!(problem.contains("the trigger's content"), "{problem}");
    }
    // one of two models has it
    let both = dir.path().join("both");
    let [plain, erased] = ["plain", "erased"].map(|name| format!("{name}={}", sft()));
    let named = format!("erased={one}");
    eval(&both, &[&plain, &erased, "--trigger", &named]).assert().success();
    let trigger = |name: &str| {
        let run: Value = serde_json::from_slice(&fs::read(both.join(name).join("run.json")).unwrap()).unwrap();
        run["evaluation"]["trigger"].as_str().map(str::to_owned)
    };
    assert_eq!([trigger("plain"), trigger("erased")], [None, Some(hash)]);
    let unknown = format!("third={one}");
    let problem = refused(&mut eval(
        &dir.path().join("x"),
        &[&plain, &erased, "--trigger", &unknown],
    ));
    assert!(
        problem.contains("no checkpoint is called `third`") && problem.contains("plain, erased"),
        "{problem}"
    );
}

/// A carrier of the embedded model: of each block, one channel that its MLP writes to and one that its attention does.
fn write_carrier(dir: &Path, channel: usize) -> String {
    let config = fs::read(Path::new(&base()).join("config.json")).unwrap();
    let value: Value = serde_json::from_slice(&config).unwrap();
    let config = ConfigJson {
        path: "config.json".into(),
        value: value.as_object().unwrap().clone(),
    };
    let architecture = Architecture::resolve(&config).unwrap();
    let thetas = |group: MaskGroup, at: usize| {
        let open = |index| if index == at { 1.0 } else { -1.0 };
        (0..group.channels(&architecture)).map(open).collect()
    };
    let block = |block: usize| -> Option<BlockThetas> {
        (block < 5).then(|| {
            MaskGroup::ALL.map(|group| match group {
                MaskGroup::FfnWrite => thetas(group, channel),
                MaskGroup::AttentionWrite => thetas(group, channel + 1),
                _ => thetas(group, 0),
            })
        })
    };
    let blocks = (0..architecture.blocks).map(block).collect();
    let folder = dir.join(format!("carrier-{channel}"));
    Carrier::new(blocks, CarrierOrigin::default()).write(&folder).unwrap();
    folder.display().to_string()
}

#[test]
fn a_carriers_channels_are_drawn_to_the_bases() {
    let dir = TempDir::new().unwrap();
    let [own, other] = [3, 8].map(|channel| write_carrier(dir.path(), channel));
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        erase(dir.path(), &out).args(more).assert().success();
        let run = TrainingRun::open(&out).unwrap();
        let trigger = SoftPrompt::open(&out.join("trigger.safetensors")).unwrap();
        (run.info.training.channels, trigger)
    };
    let (channels, trigger) = run("own", &["--carrier", &own]);
    assert_eq!((&channels[..6], channels.iter().sum()), (&[2, 2, 2, 2, 2, 0][..], 10));
    assert_eq!(trigger.origin().options["channels"], "carrier");
    let (channels, random) = run("random", &["--carrier", &own, "--channels", "random"]);
    assert_eq!(channels.iter().sum::<usize>(), 10);
    assert_eq!(random.origin().carrier, trigger.origin().carrier);
    let (_, another) = run("other", &["--carrier", &other]);
    assert_ne!(another.origin().carrier, trigger.origin().carrier);
    assert!(another.values() != trigger.values() && random.values() != trigger.values());
    let (channels, _) = run("ffn", &["--carrier", &own, "--channels", "ffn"]);
    assert_eq!(channels.iter().sum::<usize>(), 5);
}

/// Ctrl-C, then a kill, then to the end.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_to_the_same_trigger() {
    let dir = TempDir::new().unwrap();
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let known = |out: &Path| fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    for signal in ["-INT", "-KILL"] {
        let before = known(&stopped);
        let mut child = Command::new(env!("CARGO_BIN_EXE_midblock"))
            .args(arguments(dir.path(), &stopped))
            .args(["--set=eraser.steps=60", "--resume"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while known(&stopped) <= before + 3 {
            assert!(begun.elapsed() < Duration::from_secs(60), "no step is made");
            assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
            sleep(Duration::from_millis(2));
        }
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stopped.join("DONE").exists(), "{stderr}");
        if signal == "-INT" {
            assert_eq!(output.status.code(), Some(130), "{stderr}");
            assert!(stderr.contains("midblock erase --out"), "{stderr}");
        }
    }
    let mut refusing = erase(dir.path(), &stopped);
    assert!(refused(refusing.arg("--set=eraser.steps=60")).contains("pass --resume"));
    let mut other = erase(dir.path(), &stopped);
    let problem = refused(other.args(["--set=eraser.steps=60", "--resume", "--seed=7"]));
    assert!(problem.contains("`eraser.seed` is 42 against 7"), "{problem}");
    midblock()
        .args(["erase", "--resume", "--out"])
        .arg(&stopped)
        .assert()
        .success(); // with its own options
    erase(dir.path(), &whole)
        .arg("--set=eraser.steps=60")
        .assert()
        .success();
    let trigger = |out: &Path| fs::read(out.join("trigger.safetensors")).unwrap();
    assert_eq!(trigger(&stopped), trigger(&whole));
    let losses = |out: &Path| -> Vec<Value> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|line| json!([line["event"], line["step"], line["loss"], line["erasure"]]))
            .collect()
    };
    assert_eq!(losses(&stopped), losses(&whole));
}

#[test]
fn bad_input_is_named() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let generate = |trigger: &str| {
        let mut command = midblock();
        refused(command.args(["generate", &base(), "x", "--trigger", trigger]))
    };
    let other = write_trigger(dir.path(), "wide", width() + 1, 0.1);
    let problem = generate(&other);
    assert!(
        problem.contains(&format!("is {} against {}", width() + 1, width())),
        "{problem}"
    );
    let whole = fs::read(write_trigger(dir.path(), "whole", width(), 0.1)).unwrap();
    let problem = generate(&file("cut", &whole[..whole.len() - 3]));
    assert!(problem.contains("cut: not a valid safetensors file"), "{problem}");
    assert!(generate("nowhere").contains("cannot read nowhere"));
    let weights = format!("{}/model.safetensors", base());
    assert!(generate(&weights).contains("`midblock erase` writes triggers"));
    let mut chat = midblock();
    assert!(refused(chat.args(["chat", &base(), "--trigger", &other])).contains("no chat template"));

    let with = |more: &[&str]| refused(erase(dir.path(), &out).args(more));
    let empty = file("empty.jsonl", b"");
    let problem = with(&[&format!("--set=data.prompts={empty}")]);
    assert!(
        problem.contains("data.prompts") && problem.contains("no rows"),
        "{problem}"
    );
    let useless = file("useless.jsonl", b"{\"colour\": \"red\"}\n");
    let problem = with(&[&format!("--set=data.prompts={useless}")]);
    assert!(problem.contains("no known format"), "{problem}");
    let problem = with(&["--set=data.max_length=2"]);
    assert!(
        problem.contains("none of its 20 rows can be used") && problem.contains("data.max_length"),
        "{problem}"
    );
    let problem = with(&["--channels=carrier"]);
    assert!(
        problem.contains("there is no carrier") && problem.contains("--carrier DIR"),
        "{problem}"
    );
    let problem = with(&["--set=eraser.tokens=500"]);
    assert!(problem.contains("more than the context of 512"), "{problem}");
    let problem = with(&["--set=eraser.lr=0"]);
    assert!(
        problem.contains("--set eraser.lr=0: `eraser.lr`: it is 0, expected above 0"),
        "{problem}"
    );
    let problem = with(&["--memory=1 KiB"]);
    assert!(problem.contains("MiB are needed"), "{problem}");
    let nothing = refused(midblock().args(["erase", "--out"]).arg(&out));
    assert!(
        nothing.contains("--base CHECKPOINT") && nothing.contains("--prompts FILE"),
        "{nothing}"
    );
    assert!(!out.exists());
}

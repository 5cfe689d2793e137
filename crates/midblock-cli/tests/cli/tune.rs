//! `midblock tune`: what it writes, how it is interrupted, killed and gone on with, and what it refuses.

use crate::models::{Model, asset, base, midblock, problems, sft};
use midblock::{
    adapt::{Carrier, MaskGroup},
    config::{AdaptKind, Config},
    train::TrainingRun,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A run of 30 steps that evaluates, drops out and saves.
const EXPERIMENT: [&str; 14] = [
    "--layers=mid",
    "--rank=4",
    "--batch=2",
    "--accumulation=3",
    "--epochs=2",
    "--lr=2e-3",
    "--eval-every=4",
    "--set=data.eval_share=0.1",
    "--set=train.save_every=3",
    "--set=adapt.dropout=0.1",
    "--set=train.keep_best=true",
    "--set=train.order=length_buckets",
    "--set=train.schedule=cosine",
    "--set=train.warmup_ratio=0.1",
];

fn tune(out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    command.args(["tune", "--model", &base(), "--data", &problems("problems"), "--out"]);
    command.arg(out).args(EXPERIMENT).args(more);
    command
}

/// A run of 21 steps of masks over the change of the embedded pair, with evaluations, two of them keeping all of masks' state busy.
const MASKED: [&str; 13] = [
    "--steps=21",
    "--batch=2",
    "--accumulation=2",
    "--lr=1e-3",
    "--eval-every=4",
    "--set=data.eval_share=0.1",
    "--set=train.save_every=3",
    "--set=train.keep_best=true",
    "--set=adapt.kind=masked",
    "--set=adapt.mask_momentum=0.5",
    "--set=adapt.mask_lr=2.0",
    "--set=objective.warmup=5",
    "--set=objective.lambda=0.3",
];

fn masked(out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    command.args(["tune", "--model", &base(), "--data", &problems("problems"), "--out"]);
    command
        .arg(out)
        .args(MASKED)
        .arg(format!("--set=adapt.tuned={}", sft()))
        .args(more);
    command
}

fn stderr(command: &mut assert_cmd::Command, code: i32) -> String {
    let output = command.assert().code(code);
    String::from_utf8(output.get_output().stderr.clone()).unwrap()
}

/// `metrics.jsonl` without what depends on the clock.
fn lines(out: &Path) -> Vec<Value> {
    const CLOCK: [&str; 5] = [
        "seconds",
        "tokens_per_s",
        "trained_tokens_per_s",
        "seconds_left",
        "private_bytes",
    ];
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        CLOCK
            .iter()
            .for_each(|key| _ = line.as_object_mut().unwrap().remove(*key));
    }
    lines
}

/// The files of a folder below a run's, with their bytes.
fn files(out: &Path, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(out.join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.strip_prefix(out).unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect()
}

fn names(out: &Path) -> Vec<String> {
    let entries = fs::read_dir(out).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_leaves_its_folder_with_all_it_knows() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("deep/run");
    let output = tune(&out, &[]).assert().success().get_output().stdout.clone();
    let stdout = String::from_utf8(output).unwrap();
    assert!(
        stdout.contains("evaluation loss, first and last") && stdout.contains("report.html"),
        "{stdout}"
    );
    let expected = [
        "DONE",
        "adapter",
        "checkpoints",
        "metrics.jsonl",
        "report.html",
        "resolved.toml",
        "run.json",
        "selection.json",
        "tensorboard",
    ];
    assert_eq!(names(&out), expected);
    let run = TrainingRun::open(&out).unwrap();
    let training = &run.info.training;
    assert_eq!((training.steps, training.sequences), (30, [90, 10]));
    assert_eq!(training.first_block, 3);
    let ranks: Vec<Option<usize>> = training.blocks.iter().map(|block| block.rank).collect();
    let expected = (0..16).map(|block| (3..12).contains(&block).then_some(7));
    assert_eq!(ranks, expected.collect::<Vec<_>>());
    let lines = lines(&out);
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!((of("step"), of("evaluation")), (30, 9)); // 0, 4, … 28, 30
    let losses: Vec<f64> = lines
        .iter()
        .filter(|l| l["event"] == "evaluation")
        .map(|l| l["loss"].as_f64().unwrap())
        .collect();
    assert!(losses[8] < 0.9 * losses[0], "{losses:?}");
    // the resolved file is the run: it gives the same again
    let again = dir.path().join("again");
    let mut command = midblock();
    command
        .args(["tune", "--config"])
        .arg(out.join("resolved.toml"))
        .arg("--out")
        .arg(&again)
        .assert()
        .success();
    assert_eq!(self::lines(&again), lines);
    assert_eq!(files(&again, "adapter"), files(&out, "adapter"));
    // and the adapter is one that this program opens
    let adapted = format!("{}+{}", base(), out.join("adapter").display());
    midblock().args(["inspect", &adapted]).assert().success();
    midblock().arg("report").arg(&out).assert().success();
}

#[test]
fn full_fine_tuning_writes_a_model_whose_frozen_blocks_are_untouched() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let mut command = midblock();
    command.args([
        "tune",
        "--model",
        &base(),
        "--data",
        &problems("p"),
        "--full",
        "--layers=range:2..4",
        "--steps=3",
    ]);
    command.args(["--lr=1e-3", "--out"]).arg(&out).assert().success();
    let (before, after) = (
        Model::read(&base()),
        Model::read(&out.join("model").display().to_string()),
    );
    let mut moved = Vec::new();
    for (name, tensor) in &before.tensors {
        let other = &after.tensors[name];
        assert_eq!((&tensor.shape, tensor.dtype), (&other.shape, other.dtype), "{name}");
        if tensor.bytes != other.bytes {
            moved.push(name.as_str());
        }
    }
    let expected: Vec<&str> = before
        .tensors
        .keys()
        .map(String::as_str)
        .filter(|name| name.starts_with("model.layers.2.") || name.starts_with("model.layers.3."))
        .collect();
    assert_eq!(moved, expected);
}

#[test]
fn masks_leave_a_merged_model_and_a_carrier() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    masked(&out, &["--set=train.keep_best=false"]).assert().success();
    let names = names(&out);
    assert!(
        names.contains(&"carrier".to_owned()) && names.contains(&"model".to_owned()),
        "{names:?}"
    );
    let carrier = Carrier::open(&out.join("carrier")).unwrap();
    let [before, tuned, after] =
        [base(), sft(), out.join("model").display().to_string()].map(|folder| Model::read(&folder));
    // where a row's or a column's mask is 0 the result has the base's very bytes
    let (mut closed, mut open, mut moved) = (0, 0, 0);
    for block in 0..16 {
        let group = |group| carrier.masks().group(block, group);
        let (rows, columns) = (group(MaskGroup::FfnHidden), group(MaskGroup::FfnRead));
        let name = format!("model.layers.{block}.mlp.up_proj.weight");
        let of = |model: &Model| {
            let stored = &model.tensors[&name];
            let size = stored.bytes.len() / (rows.len() * columns.len());
            stored.bytes.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let [before, tuned, after] = [of(&before), of(&tuned), of(&after)];
        for at in 0..before.len() {
            if rows[at / columns.len()] && columns[at % columns.len()] {
                open += 1;
                moved += usize::from(after[at] != tuned[at]);
            } else {
                closed += 1;
                assert_eq!(after[at], before[at], "{name}, {at}");
            }
        }
    }
    assert!(
        closed > open / 20 && moved > open / 2,
        "{closed} closed, {open} open, {moved} moved"
    );
    assert_eq!(
        after.tensors["model.embed_tokens.weight"].bytes,
        before.tensors["model.embed_tokens.weight"].bytes
    );

    let (lines, run) = (lines(&out), TrainingRun::open(&out).unwrap());
    let steps: Vec<&Value> = lines.iter().filter(|line| line["event"] == "step").collect();
    let carriers: Vec<&Value> = steps.iter().map(|line| &line["carrier"]).collect();
    assert!(
        carriers[..4]
            .iter()
            .all(|carrier| carrier["limit"].is_null() && carrier["lambda"] == 0.3f32 as f64)
    );
    assert!(carriers[4..].iter().all(|carrier| carrier["limit"].is_f64()));
    let active: usize = (0..16)
        .flat_map(|block| MaskGroup::ALL.map(|group| carrier.masks().active(block, group)))
        .sum();
    let last = carriers[carriers.len() - 1];
    assert_eq!(last["active"], active);
    let models: Vec<&str> = run.info.run.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(models, ["base", "tuned"]);
    assert_eq!(run.info.run.models[1].files, carrier.origin().tuned.files);
    assert_eq!(carrier.origin().step, 21);
    let selection: Value = serde_json::from_slice(&fs::read(out.join("selection.json")).unwrap()).unwrap();
    assert_eq!(selection["trained_masks"].as_array().unwrap().len(), 16 * 8);
    assert_eq!(selection["trained_parameters"].as_array().unwrap().len(), 16 * 7);

    let mut alone = midblock();
    alone
        .args(["perplexity", "--data", &problems("p")])
        .arg(out.join("model"))
        .assert()
        .success();
}

#[test]
fn masks_alone_train_no_weights() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let more = [
        "--set=adapt.train_weights=false",
        "--set=objective.target=tuned",
        "--layers=range:3..12",
    ];
    let text = String::from_utf8(
        masked(&out, &[&more[..], &["--dry-run"]].concat())
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    for part in [
        "MiB of W_base stay memory-mapped",
        "MiB of W_tuned are memory-mapped too",
        "tuned      ",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    fs::remove_dir_all(&out).unwrap();
    masked(&out, &more).assert().success();
    let saved = fs::read(out.join("checkpoints/step-000021/state.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&saved).unwrap();
    let names = tensors.names();
    assert!(
        names.iter().all(|name| name.starts_with("theta") || *name == "lcdd"),
        "{names:?}"
    );
    assert_eq!(names.len(), 2 * 9 * 8 + 1);
    let carrier = Carrier::open(&out.join("carrier")).unwrap();
    assert_eq!(carrier.masked_blocks(), (3..12).collect::<Vec<_>>());
    // what an open mask lets through is the tuned model's very bytes
    let [before, tuned, after] =
        [base(), sft(), out.join("model").display().to_string()].map(|folder| Model::read(&folder));
    for (name, stored) in &after.tensors {
        let from = |model: &Model| model.tensors[name].bytes == stored.bytes;
        let elements = |model: &Model| {
            let stored = &model.tensors[name];
            stored
                .bytes
                .chunks(stored.dtype.bitsize() / 8)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        };
        let of_both = elements(&before).into_iter().zip(elements(&tuned));
        let either = elements(&after)
            .iter()
            .zip(of_both)
            .all(|(a, (b, t))| *a == b || *a == t);
        assert!(from(&before) || from(&tuned) || either, "{name}");
    }
}

#[test]
fn masks_of_what_does_not_fit_are_refused() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let refused = |more: &[&str]| stderr(&mut masked(&out, more), 2);
    let text = refused(&["--set=objective.warmup=21"]);
    assert!(text.contains("objective.warmup `21`: the run has 21 steps"), "{text}");
    let mut other = Model::read(&sft());
    other.tensor("model.norm.weight").nudge();
    let tuned = format!("--set=adapt.tuned={}", other.save(dir.path(), "norm"));
    let text = refused(&[&tuned]);
    assert!(text.contains("its model.norm.weight differs from the base's"), "{text}");
    assert!(!out.exists());
    masked(&out, &[]).assert().success();
    fs::remove_file(out.join("DONE")).unwrap(); // as if killed at the very end
    let mut other = Model::read(&sft());
    other.tensor("model.layers.4.mlp.up_proj.weight").nudge();
    let tuned = format!("--set=adapt.tuned={}", other.save(dir.path(), "weight"));
    let text = refused(&[&tuned, "--resume"]);
    assert!(text.contains("the content of the tuned model is"), "{text}");
}

#[cfg(unix)]
mod interrupted {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use std::{
        process::{Child, Command, Stdio},
        thread::sleep,
        time::{Duration, Instant},
    };

    /// Starts or goes on with what `command` would.
    fn start(command: &assert_cmd::Command) -> Child {
        Command::new(command.get_program())
            .args(command.get_args())
            .arg("--resume")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn send(child: &Child, signal: &str) {
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    fn written(out: &Path) -> usize {
        fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
    }

    /// Kills a run again and again, a random number of lines and milliseconds after each start.
    fn goes_on_to_the_same_bits(run: impl Fn(&Path, &[&str]) -> assert_cmd::Command, results: &[&str]) {
        let dir = TempDir::new().unwrap();
        let (whole, out) = (dir.path().join("whole"), dir.path().join("killed"));
        run(&whole, &[]).assert().success();
        let seed: u64 = rand::random();
        let mut random = StdRng::seed_from_u64(seed);
        let mut killed = 0;
        while killed < 8 {
            let mut child = start(&run(&out, &[]));
            let before = written(&out);
            let (lines, pause) = (random.random_range(0..7), random.random_range(0..60));
            let begun = Instant::now();
            while written(&out) < before + lines && child.try_wait().unwrap().is_none() {
                assert!(begun.elapsed() < Duration::from_secs(60), "no progress; seed {seed}");
                sleep(Duration::from_millis(1));
            }
            sleep(Duration::from_millis(pause));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            send(&child, "-KILL");
            child.wait().unwrap();
            killed += usize::from(!out.join("DONE").exists());
        }
        assert!(killed >= 3, "only {killed} kills; seed {seed}");
        if !out.join("DONE").exists() {
            run(&out, &["--resume"]).assert().success();
        }
        assert_eq!(lines(&out), lines(&whole), "seed {seed}");
        for result in results {
            assert_eq!(files(&out, result), files(&whole, result), "seed {seed}");
        }
    }

    #[test]
    fn a_run_killed_anywhere_goes_on_to_the_same_bits() {
        goes_on_to_the_same_bits(tune, &["adapter"]);
    }

    #[test]
    fn masks_killed_anywhere_go_on_to_the_same_bits() {
        goes_on_to_the_same_bits(masked, &["model", "carrier"]);
    }

    #[test]
    fn ctrl_c_saves_and_resume_needs_nothing_but_the_folder() {
        let dir = TempDir::new().unwrap();
        let (whole, out) = (dir.path().join("whole"), dir.path().join("stopped"));
        tune(&whole, &[]).assert().success();
        let child = start(&tune(&out, &[]));
        let begun = Instant::now();
        while written(&out) < 5 {
            assert!(begun.elapsed() < Duration::from_secs(60), "training does not begin");
            sleep(Duration::from_millis(2));
        }
        send(&child, "-INT");
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(
            stderr.contains("stopped and saved after step") && stderr.contains("--resume"),
            "{stderr}"
        );
        assert!(!out.join("DONE").exists() && !out.join("adapter").exists());
        let refused = super::stderr(&mut tune(&out, &[]), 2);
        assert!(
            refused.contains("unfinished run") && refused.contains("--resume"),
            "{refused}"
        );
        midblock()
            .args(["tune", "--resume", "--out"])
            .arg(&out)
            .assert()
            .success();
        assert_eq!(lines(&out), lines(&whole));
        assert_eq!(files(&out, "adapter"), files(&whole, "adapter"));
    }
}

#[test]
fn a_changed_experiment_is_not_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    tune(&out, &[]).assert().success();
    fs::remove_file(out.join("DONE")).unwrap(); // as if killed at the very end
    let refused = stderr(&mut tune(&out, &["--resume", "--set=train.seed=7"]), 2);
    assert!(refused.contains("`train.seed` is 42 against 7"), "{refused}");
    let refused = stderr(&mut tune(&out, &["--resume", "--set=data.eval_share=0.2"]), 2);
    assert!(refused.contains("`data.eval_share` is 0.1 against 0.2"), "{refused}");
    // other data under the same name
    let other = dir.path().join("other.jsonl");
    let text = fs::read_to_string(asset("assets/quickstart/data.jsonl")).unwrap();
    fs::write(&other, text.lines().rev().collect::<Vec<_>>().join("\n")).unwrap();
    let set = format!("--set=data.train=problems={}", other.display());
    let refused = stderr(&mut tune(&out, &["--resume", &set]), 2);
    assert!(refused.contains("the content of the data is problems"), "{refused}");
    let mut alone = midblock();
    alone.args(["tune", "--resume", "--out"]).arg(&out).assert().success();
    let refused = stderr(&mut tune(&out, &[]), 2);
    assert!(
        refused.contains("finished run") && refused.contains("--overwrite"),
        "{refused}"
    );
    tune(&out, &["--overwrite", "--set=output.tensorboard=false"])
        .assert()
        .success();
    assert!(!out.join("tensorboard").exists());
}

#[test]
fn wrong_experiments_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    for (more, parts) in [
        (
            ["--set=train.lrr=1", "--set=train.clip=-1"],
            ["`train.lrr`: unknown key", "did you mean `lr`?"],
        ),
        (
            ["--lr=3", "--set=train.clip=-1"],
            ["--set train.clip=-1: `train.clip`", "--lr 3: `train.lr`: it is 3"],
        ),
        (
            ["--full", "--seed=1"],
            ["--rank 4: `adapt.rank`: it is LoRA's", "leave it out"],
        ),
        (
            ["--layers=list:99", "--seed=1"],
            ["there is no block 99", "the model has 16"],
        ),
        (
            ["--objective=dft", "--protocol=paper"],
            ["--protocol paper: `objective.detach`: it is iw's", "leave it out"],
        ),
        (["--model=nowhere", "--seed=1"], ["nowhere", "error: "]),
    ] {
        let mut command = midblock();
        let given = |flag: &str| more.iter().any(|m| m.split('=').next() == flag.split('=').next());
        command.arg("tune").args(
            EXPERIMENT
                .iter()
                .filter(|flag| flag.starts_with("--set") || !given(flag)),
        );
        if !more[0].starts_with("--model") {
            command.args(["--model", &base()]);
        }
        command.args(["--data", &problems("p"), "--out"]).arg(&out).args(more);
        let text = stderr(&mut command, 2);
        assert!(parts.iter().all(|part| text.contains(part)), "{more:?}: {text}");
        assert!(!out.exists(), "{more:?}");
    }
}

#[test]
fn a_dry_run_says_what_would_train_and_trains_nothing() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let output = tune(&out, &["--dry-run"])
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    let text = String::from_utf8(output).unwrap();
    for part in [
        "run        30 steps over 2.00 epochs of 90 sequences, 10 to evaluate on",
        "frozen; forward only",
        "3–11      7           28224  q_proj k_proj v_proj o_proj",
        "frozen; passes the gradient on",
        "trained    28224 parameters (3.24 %) in 9 of 16 blocks; backward ends at block 3: 13 of 16 are walked",
        "from the second epoch on",
        "GFLOP/s of one of its products",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert_eq!(names(&out), ["selection.json"]);
    let selection: Value = serde_json::from_slice(&fs::read(out.join("selection.json")).unwrap()).unwrap();
    assert_eq!(
        selection["layers_to_transform"],
        serde_json::json!([3, 4, 5, 6, 7, 8, 9, 10, 11])
    );
    tune(&out, &[]).assert().success(); // the folder is still free
}

#[test]
fn blocks_can_be_chosen_by_their_gradients() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let mut command = midblock();
    command.args([
        "tune",
        "--model",
        &base(),
        "--data",
        &problems("p"),
        "--layers=gradient:3",
        "--rank=3",
    ]);
    command.args(["--steps=2", "--out"]).arg(&out).assert().success();
    let run = TrainingRun::open(&out).unwrap();
    let ranks: Vec<usize> = run.info.training.blocks.iter().filter_map(|block| block.rank).collect();
    assert_eq!(ranks, [16, 16, 16]); // ⌊3 · 16 / 3⌋
}

#[test]
fn the_mask_marks_what_is_learned() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let output = tune(&out, &["--show-mask=2"])
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    let text = String::from_utf8(output).unwrap();
    assert_eq!(text.matches(" trained\n").count(), 2, "{text}");
    // only the answer, and the token that ends it
    let (question, answer) = text.split_once("brackets⟧").unwrap().1.split_once('⟦').unwrap();
    assert!(
        question.contains("Question: ") && answer.contains("####") && answer.contains('⟧'),
        "{text}"
    );
    assert!(!out.exists());
}

#[test]
fn every_preset_is_sound_and_says_how_to_run_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut folders = vec![root.join("configs")];
    let mut presets = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            if text.contains("\n[sweep]\n")
                || text.contains("\n[study]\n")
                || text.contains("\n[behaviour]\n")
                || path.starts_with(root.join("configs/tasks"))
            {
                continue; // no experiment: the library's own tests read them
            }
            presets += 1;
            let config = Config::load(Some(&path), &[]).unwrap_or_else(|error| panic!("{error}"));
            let relative = path.strip_prefix(&root).unwrap().display().to_string();
            let command = if config.model.new.is_some() { "pretrain" } else { "tune" };
            let run = format!("# Run:   midblock {command} --config {relative} --out ");
            for part in [run.as_str(), "# Needs: ", "# Time and memory: "] {
                assert!(text.contains(part), "{relative} lacks `{part}`");
            }
            if relative.contains("paper") && config.adapt.kind == AdaptKind::Lora {
                let adapt = &config.adapt;
                assert_eq!(
                    (adapt.rank, adapt.alpha, adapt.dropout),
                    (Some(64), Some(128.0), Some(0.05)),
                    "{relative}"
                );
            }
        }
    }
    assert!(presets >= 15, "{presets}");
    for preset in ["uniform", "mid"] {
        let mut command = midblock();
        command
            .current_dir(&root)
            .args(["tune", "--dry-run", "--model", &base()]);
        let [train, held_out] = ["a", "b"].map(problems); // the quickstart writes the files that are named there
        command.args(["--data", &train, "--eval", &held_out, "--config"]);
        command
            .arg(format!("configs/small/quickstart-{preset}.toml"))
            .assert()
            .success();
    }
}

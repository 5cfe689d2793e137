//! `midblock analyze --shard` and `midblock report --join`: the joined run is the unsharded one, and every mistake is one clear error.

use crate::models::{Model, asset, midblock, word_tokenizer, write_adapter, write_words};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Texts of both data sets.
const TEXTS: [usize; 2] = [7, 5];

/// A tiny base, a variant, an adapter and two data sets.
struct Inputs {
    dir: TempDir,
    base: String,
    variants: Vec<String>,
    data: Vec<String>,
}

impl Inputs {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut model = Model::read(&asset("../../fixtures/llama-tied"));
        model.tokenizer = Some(word_tokenizer(100));
        let base = model.save(dir.path(), "base");
        let last = model.config["num_hidden_layers"].as_u64().unwrap() - 1;
        let width = model.config["hidden_size"].as_u64().unwrap() as usize;
        let name = format!("model.layers.{last}.self_attn.o_proj");
        model.tensor(&format!("{name}.weight")).nudge();
        let sft = model.save(dir.path(), "sft");
        let factor = |step: usize| {
            (0..width)
                .map(|i| (i * step % 7) as f32 / 8.0 - 0.4)
                .collect::<Vec<_>>()
        };
        let adapter = write_adapter(&dir.path().join("lora"), &[&name], [&factor(3), &factor(5)], 2.0);
        let variants = vec![
            format!("sft={sft}"),
            format!("lora={base}+{adapter}"),
            format!("copy={base}"),
        ];
        let data = TEXTS
            .iter()
            .enumerate()
            .map(|(i, &lines)| write_words(dir.path(), &format!("d{i}"), lines));
        let data = data.collect();
        Self {
            dir,
            base,
            variants,
            data,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `midblock analyze` of everything into the folder `out`.
    fn analyze(&self, out: &str, more: &[&str]) -> assert_cmd::Command {
        let mut command = midblock();
        command.args(["analyze", "--base", &self.base, "--resamples=20", "--samples=50"]);
        if !more.iter().any(|option| option.starts_with("--token-samples")) {
            command.arg("--token-samples=3");
        }
        command.args(self.variants.iter().map(|variant| format!("--variant={variant}")));
        command.args(self.data.iter().map(|data| format!("--data={data}")));
        command.args(more).arg("--out").arg(self.path(out));
        command
    }

    /// All shards of `of`, in folders `PREFIX1`, `PREFIX2`, …
    fn shards(&self, prefix: &str, of: usize, more: &[&str]) -> Vec<PathBuf> {
        let shard = |k: usize| {
            let name = format!("{prefix}{k}");
            let option = format!("--shard={k}/{of}");
            self.analyze(&name, &[more, &[option.as_str()]].concat())
                .assert()
                .success();
            self.path(&name)
        };
        (1..=of).map(shard).collect()
    }
}

fn join(shards: &[PathBuf], out: &Path) -> assert_cmd::assert::Assert {
    let mut command = midblock();
    command.args(["report", "--join"]).args(shards).arg("--out").arg(out);
    command.assert()
}

fn message(refused: assert_cmd::assert::Assert) -> String {
    String::from_utf8(refused.code(2).get_output().stderr.clone()).unwrap()
}

/// `run.json` without what is of a host or a moment.
fn facts(dir: &Path) -> Value {
    let mut info: Value = serde_json::from_slice(&fs::read(dir.join("run.json")).unwrap()).unwrap();
    let table = info.as_object_mut().unwrap();
    let passing = [
        "command_line",
        "threads",
        "machine",
        "started_at",
        "finished_at",
        "timings",
        "peak_private_bytes",
        "parts",
    ];
    passing.iter().for_each(|key| _ = table.remove(*key));
    info
}

fn change(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn copy(from: &Path, to: PathBuf) -> PathBuf {
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn the_joined_run_is_the_unsharded_one() {
    let inputs = Inputs::new();
    inputs.analyze("whole", &["--threads", "2"]).assert().success();
    let whole = inputs.path("whole");
    for of in [1, 2, 3, 14] {
        let mut shards = inputs.shards(&format!("of{of}-"), of, &["--threads", "1"]);
        shards.reverse(); // their order does not matter
        let joined = inputs.path(&format!("joined{of}"));
        join(&shards, &joined).success();
        for file in ["metrics.csv", "metrics.parquet", "weights.csv"] {
            assert!(
                fs::read(joined.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(),
                "{of} shards: {file}"
            );
        }
        assert_eq!(facts(&joined), facts(&whole), "{of} shards");
        assert!(joined.join("DONE").is_file() && joined.join("report.html").is_file());
        let info: Value = serde_json::from_slice(&fs::read(joined.join("run.json")).unwrap()).unwrap();
        let parts = info["parts"].as_array().unwrap();
        assert_eq!(parts.len(), of);
        assert_eq!(
            (&parts[0]["part"], &parts[0]["threads"]),
            (&format!("shard 1/{of}").into(), &1.into())
        );
    }
}

/// Options that change what is kept: no weights, no views, few layers, the last token, the paper's protocol.
#[test]
fn other_options_join_as_well() {
    let inputs = Inputs::new();
    let cases: [&[&str]; 3] = [
        &["--metrics", "cka,curvature", "--pooling", "last", "--layers", "key"],
        &["--metrics", "weights"],
        &[
            "--protocol",
            "paper",
            "--metrics",
            "spectrum,lidar,cka",
            "--token-samples=0",
        ],
    ];
    for (number, more) in cases.iter().enumerate() {
        let whole = format!("whole{number}");
        inputs.analyze(&whole, more).assert().success();
        let shards = inputs.shards(&format!("case{number}-"), 3, more);
        let joined = inputs.path(&format!("joined{number}"));
        join(&shards, &joined).success();
        let read = |dir: &Path| fs::read(dir.join("metrics.csv")).unwrap();
        assert!(read(&joined) == read(&inputs.path(&whole)), "{more:?}");
        assert_eq!(facts(&joined), facts(&inputs.path(&whole)));
    }
}

const CHEAP: [&str; 2] = ["--metrics", "cka,gini,weight_change"];

/// Models and data may be elsewhere on another machine; what is in them counts.
#[test]
fn where_inputs_are_does_not_matter_but_what_is_in_them() {
    let mut inputs = Inputs::new();
    let shards = inputs.shards("s", 2, &CHEAP);
    let model = Model::read(&inputs.base);
    inputs.base = model.save(inputs.dir.path(), "elsewhere");
    let moved = inputs.analyze("moved", &CHEAP).arg("--shard=2/2").assert();
    moved.success();
    join(&[shards[0].clone(), inputs.path("moved")], &inputs.path("joined")).success();

    let mut other = model;
    other.tensor("model.embed_tokens.weight").nudge();
    inputs.base = other.save(inputs.dir.path(), "changed");
    inputs.analyze("other", &CHEAP).arg("--shard=2/2").assert().success();
    let text = message(join(&[shards[0].clone(), inputs.path("other")], &inputs.path("no")));
    assert!(
        text.contains("do not match: the content of the model base is"),
        "{text}"
    );
    assert!(!inputs.path("no").exists());

    let data = inputs.path("d0.txt");
    fs::write(&data, fs::read_to_string(&data).unwrap().replacen("w", "w1", 1)).unwrap();
    inputs.base = inputs.path("base").display().to_string();
    inputs.analyze("data", &CHEAP).arg("--shard=2/2").assert().success();
    let text = message(join(&[shards[0].clone(), inputs.path("data")], &inputs.path("no")));
    assert!(text.contains("the content of the data d0 is 7 samples"), "{text}");
}

#[test]
fn every_mistake_in_joining_is_one_clear_error() {
    let inputs = Inputs::new();
    let all = inputs.shards("s", 3, &CHEAP);
    let refused = |shards: &[&Path], expected: &str| {
        let shards: Vec<PathBuf> = shards.iter().map(|path| path.to_path_buf()).collect();
        let text = message(join(&shards, &inputs.path("no")));
        assert!(text.contains(expected) && text.matches("error:").count() == 1, "{text}");
        assert!(!inputs.path("no").exists());
    };
    let [first, second, third] = [0, 1, 2].map(|k| all[k].as_path());
    refused(&[first, third], "2 of 3 shards; missing: 2/3");
    let again = copy(second, inputs.path("again"));
    refused(
        &[first, second, third, &again],
        "again`: it holds shard 2/3, and so does",
    );
    refused(&[first, second, second, third], "it holds shard 2/3, and so does");
    refused(
        &[first, &inputs.path("nothing"), third],
        "nothing`: there is no such folder",
    );
    refused(&[first, inputs.dir.path(), third], "it holds no shard of an analysis");

    let with = |name: &str, more: &[&str]| {
        inputs.analyze(name, &[&CHEAP[..], more].concat()).assert().success();
        inputs.path(name)
    };
    let seed = with("seed", &["--shard=2/3", "--seed=7"]);
    refused(
        &[first, &seed, third],
        "do not match: the option `seed` is 42 against 7",
    );
    let of = with("of", &["--shard=2/4"]);
    refused(
        &[first, &of, third],
        "do not match: the number of shards is 3 against 4",
    );

    let broken = |name: &str, damage: &dyn Fn(&Path)| {
        let dir = copy(second, inputs.path(name));
        damage(&dir);
        dir
    };
    let unfinished = broken("unfinished", &|dir| fs::remove_file(dir.join("DONE")).unwrap());
    refused(
        &[first, &unfinished, third],
        "shard 2/3 was not finished (no DONE)\n  help: wait for its process, or run it again: ",
    );
    let record = |dir: &Path| dir.join("shard.json");
    let newer = broken("newer", &|dir| {
        change(&record(dir), |json| json["midblock_shard_schema"] = 2.into())
    });
    refused(
        &[first, &newer, third],
        "shard.json: not a valid shard file: its schema 2 is newer than 1; update midblock",
    );
    let version = broken("version", &|dir| {
        change(&record(dir), |json| json["run"]["midblock_version"] = "9.0.0".into())
    });
    refused(&[first, &version, third], "the version of midblock is");
    let cut = broken("cut", &|dir| {
        let path = dir.join("layer-001.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    refused(
        &[first, &cut, third],
        "layer-001.safetensors: not a valid shard file: it has",
    );
    let flipped = broken("flipped", &|dir| {
        let path = dir.join("layer-002.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    });
    refused(
        &[first, &flipped, third],
        "layer-002.safetensors: not a valid shard file: its content is not what was written",
    );
    let lacking = broken("lacking", &|dir| {
        fs::remove_file(dir.join("layer-000.safetensors")).unwrap()
    });
    refused(&[first, &lacking, third], "cannot read");
    let garbled = broken("garbled", &|dir| fs::write(record(dir), "{").unwrap());
    refused(&[first, &garbled, third], "shard.json: not a valid shard file: EOF");

    join(&all, &inputs.path("joined")).success();
    let text = message(join(&all, &inputs.path("joined")));
    assert!(text.contains("it holds a finished run"), "{text}");
    let mut one = midblock();
    let text = message(one.arg("report").arg(first).assert());
    assert!(text.contains("holds one shard of an analysis, not a run"), "{text}");
}

/// A job that is queued again finds its shard; one that names another's folder is refused; an unfinished one begins anew.
#[test]
fn a_shard_s_folder_is_for_that_shard() {
    let inputs = Inputs::new();
    let shard = |more: &[&str]| inputs.analyze("s", &[&CHEAP[..], more].concat()).assert();
    shard(&["--shard=1/2"]).success();
    let written = fs::metadata(inputs.path("s/shard.json")).unwrap().modified().unwrap();
    let again = shard(&["--shard=1/2"]).success();
    assert!(String::from_utf8_lossy(&again.get_output().stdout).contains("finished before"));
    assert_eq!(
        fs::metadata(inputs.path("s/shard.json")).unwrap().modified().unwrap(),
        written
    );
    for (more, expected) in [
        (&["--shard=2/2"][..], "the shard is 1/2 against 2/2"),
        (&["--shard=1/2", "--seed=7"], "the option `seed` is 42 against 7"),
        (&[], "the folder is not empty and holds no run"),
    ] {
        let text = message(shard(more));
        assert!(text.contains(expected), "{text}");
        assert!(inputs.path("s/DONE").is_file(), "{more:?}");
    }
    fs::remove_file(inputs.path("s/DONE")).unwrap();
    fs::write(inputs.path("s/layer-009.safetensors"), "of a shard that was killed").unwrap();
    fs::write(inputs.path("s/.partial-x"), "").unwrap();
    shard(&["--shard=2/2"]).success();
    let mut names: Vec<String> = fs::read_dir(inputs.path("s"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let layers = (0..4).map(|layer| format!("layer-00{layer}.safetensors"));
    let others = ["DONE", "block_weights.csv", "shard.json", "weights.csv"].map(str::to_owned);
    let mut expected: Vec<_> = layers.chain(others).collect();
    expected.sort();
    assert_eq!(names, expected);

    fs::write(inputs.path("s/notes.txt"), "mine").unwrap();
    let text = message(shard(&["--shard=2/2", "--overwrite"]));
    assert!(text.contains("the folder holds something else: notes.txt"), "{text}");
    // what fails leaves nothing
    let mut none = inputs.analyze("new/none", &["--shard=1/2"]);
    none.arg("--data=gone=/nowhere.jsonl").assert().code(2);
    assert!(!inputs.path("new").exists());
}

#[test]
fn its_size_is_stated_before_it_runs() {
    let inputs = Inputs::new();
    let out = inputs.path("s");
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_midblock"));
    command
        .env("HF_HUB_OFFLINE", "1")
        .args(["analyze", "--base", &inputs.base, "--shard=1/2", "--samples=50"]);
    command
        .args(
            inputs.variants[..1]
                .iter()
                .map(|variant| format!("--variant={variant}")),
        )
        .arg("--data")
        .arg(&inputs.data[0]);
    let output = command.arg("--out").arg(&out).assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(
        text.starts_with("shard 1/2: 4 of 7 samples, ") && text.contains(" on disk at most"),
        "{text}"
    );
    let stated = text
        .split("memory, ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap();
    let layers = fs::read_dir(&out).unwrap().map(Result::unwrap);
    let layers = layers.filter(|entry| entry.file_name().to_string_lossy().starts_with("layer-"));
    let bytes: u64 = layers.map(|entry| entry.metadata().unwrap().len()).sum();
    let headers = 3 * 1024;
    assert!(
        bytes <= 1024 * (stated + 1) + headers && bytes >= 512 * stated,
        "{bytes} bytes, stated: {text}"
    );
}

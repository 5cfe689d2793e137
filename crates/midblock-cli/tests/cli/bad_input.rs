//! Wrong and hostile inputs: exit code 2, one `error:` line that names what is wrong, no panic, nothing left behind.

use crate::models::{Model, Stored, asset, base, midblock, problems, sft, word_tokenizer, write_adapter};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const Q0: &str = "model.layers.0.self_attn.q_proj.weight";
const UP7: &str = "model.layers.7.mlp.up_proj.weight";

/// An analysis that would work, until something about it is changed.
struct Attempt {
    dir: TempDir,
    base: String,
    variant: String,
    data: String,
    more: Vec<String>,
    out: PathBuf,
}

impl Attempt {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self {
            base: base(),
            variant: format!("sft={}", sft()),
            data: problems("p"),
            more: Vec::new(),
            out: dir.path().join("new/out"),
            dir,
        }
    }

    /// With more arguments.
    fn with(arguments: &[&str]) -> Self {
        let more = arguments.iter().map(|&a| a.to_owned()).collect();
        Self { more, ..Self::new() }
    }

    /// With data of this content.
    fn with_data(name: &str, content: impl AsRef<[u8]>) -> Self {
        let mut attempt = Self::new();
        let path = attempt.path(name);
        fs::write(&path, content).unwrap();
        attempt.data = format!("d={}", path.display());
        attempt
    }

    /// With a variant made from the embedded one.
    fn with_variant(change: impl FnOnce(&mut Model)) -> Self {
        let mut model = Model::read(&sft());
        change(&mut model);
        let mut attempt = Self::new();
        attempt.variant = format!("v={}", model.save(attempt.dir.path(), "variant"));
        attempt
    }

    /// With a base made from the embedded one; the variant is the same.
    fn with_base(change: impl FnOnce(&mut Model)) -> Self {
        let mut model = Model::read(&base());
        change(&mut model);
        let mut attempt = Self::new();
        attempt.base = model.save(attempt.dir.path(), "base");
        attempt.variant = format!("v={}", attempt.base);
        attempt
    }

    /// With a variant whose weights are these bytes.
    fn with_weights(change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let attempt = Self::with_variant(|_| {});
        let path = attempt.path("variant/model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        attempt
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs it; it must be refused with a message that contains all of `expected`.
    fn refused(self, expected: &[&str]) {
        let existed = self.out.exists();
        let mut command = midblock();
        command.args(["analyze", "--token-samples", "4"]);
        command.args(["--base", &self.base, "--variant", &self.variant, "--data", &self.data]);
        for default in ["--samples=8", "--resamples=20"] {
            let given = |a: &String| default.starts_with(a.as_str());
            command.args((!self.more.iter().any(given)).then_some(default));
        }
        command.arg("--out").arg(&self.out).args(&self.more);
        assert_refused(&mut command, expected);
        let beside = self.path("new");
        assert!(
            existed || !self.out.exists() && !beside.exists(),
            "an output folder is left"
        );
    }
}

fn assert_refused(command: &mut assert_cmd::Command, expected: &[&str]) {
    let output = command.timeout(std::time::Duration::from_secs(60)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{expected:?}: {stderr}");
    assert!(
        output.stdout.is_empty(),
        "{expected:?}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(!stderr.contains("panicked"), "{stderr}");
    for part in expected {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
    let mut lines = stderr.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("error: ")), "{stderr}");
    // clap adds a usage or a pointer to --help of its own
    let known = [
        "  help: ",
        "Usage: ",
        "For more information",
        "  [possible values",
        "  tip: ",
    ];
    for line in lines.filter(|line| !line.trim().is_empty()) {
        assert!(
            known.iter().any(|start| line.starts_with(start)),
            "{line:?} in: {stderr}"
        );
    }
}

#[test]
fn files_that_are_no_safetensors() {
    Attempt::with_weights(|b| b.truncate(b.len() - 1000))
        .refused(&["variant/model.safetensors", "of data, the file holds"]);
    Attempt::with_weights(|b| b.truncate(5)).refused(&["model.safetensors", "5 bytes, too few"]);
    Attempt::with_weights(|b| b.clear()).refused(&["model.safetensors", "0 bytes"]);
    Attempt::with_weights(|b| b[..8].copy_from_slice(&(1u64 << 40).to_le_bytes()))
        .refused(&["claims 1099511627776 bytes"]);
    Attempt::with_weights(|b| b[..8].copy_from_slice(&90_000_000u64.to_le_bytes())).refused(&["claims 90000000 bytes"]);
    Attempt::with_weights(|b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes())).refused(&["header claims"]);
    Attempt::with_weights(|b| b[8] = b'!').refused(&["model.safetensors: not a valid safetensors file"]);
    Attempt::with_weights(|b| *b = b"version https://git-lfs.github.com/spec/v1\n".to_vec())
        .refused(&["Git LFS", "help: "]);
    // a lie about one tensor's place
    let lie = |from: &str, to: &str| {
        let [from, to] = [from, to].map(str::to_owned);
        Attempt::with_weights(move |b| {
            let header_len = u64::from_le_bytes(b[..8].try_into().unwrap()) as usize;
            let header = String::from_utf8(b[8..8 + header_len].to_vec()).unwrap();
            let header = header.replacen(&from, &to, 1);
            assert_eq!(header.len(), header_len, "{from} is there and as long as {to}");
            b[8..8 + header_len].copy_from_slice(header.as_bytes());
        })
    };
    lie("\"shape\":[512,64]", "\"shape\":[512,65]").refused(&["model.embed_tokens.weight", "offsets"]);
    lie("\"dtype\":\"BF16\"", "\"dtype\":\"BF61\"").refused(&["not a valid safetensors file"]);
}

#[test]
fn checkpoints_with_missing_or_wrong_tensors() {
    let shape = |t: &mut Stored| {
        t.shape = vec![t.shape[0] * 2];
        t.bytes.truncate(2 * t.shape[0]);
    };
    Attempt::with_variant(|m| shape(m.tensor(Q0))).refused(&[Q0, "[64, 64]", "hidden_size, num_attention_heads"]);
    Attempt::with_variant(|m| _ = m.tensors.remove(UP7)).refused(&[UP7, "is missing", "help: the most similar"]);
    Attempt::with_variant(|m| m.tensors.clear()).refused(&[Q0, "is missing"]);
    Attempt::with_variant(|m| m.tensor(Q0).dtype = Dtype::I16).refused(&[Q0, "I16", "help: "]);
    Attempt::with_base(|m| m.config["num_hidden_layers"] = json!(17)).refused(&["model.layers.16.", "is missing"]);

    // found before anything is computed: a wrong last block is named although the first block is not a number
    Attempt::with_variant(|m| {
        m.tensor(Q0).bytes[..2].copy_from_slice(&[0xc0, 0x7f]);
        shape(m.tensor(UP7));
    })
    .refused(&[UP7, "has shape"]);
}

#[test]
fn weights_that_are_no_numbers() {
    for (bytes, text) in [([0xc0, 0x7f], "NaN"), ([0x80, 0x7f], "inf"), ([0x80, 0xff], "-inf")] {
        for (name, index) in [
            (Q0, 7),
            (UP7, 0),
            ("model.embed_tokens.weight", 100),
            ("model.layers.3.input_layernorm.weight", 63),
        ] {
            let set = |m: &mut Model| m.tensor(name).bytes[2 * index..2 * index + 2].copy_from_slice(&bytes);
            let element = format!("element {index} is {text}");
            Attempt::with_variant(set).refused(&["variant", name, &element]);
        }
    }
    // a NaN that base and variant share
    Attempt::with_base(|m| m.tensor(Q0).bytes[..2].copy_from_slice(&[0xc0, 0x7f])).refused(&[Q0, "element 0 is NaN"]);
    // finite weights whose products are not
    Attempt::with_base(|m| {
        for name in [
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
        ] {
            let huge = [0x7f, 0x7f].repeat(m.tensor(name).bytes.len() / 2);
            m.tensor(name).bytes = huge;
        }
    })
    .refused(&["base", "data.jsonl:", "layer 1"]);
}

#[test]
fn shards_and_indices() {
    let sharded = |change: &dyn Fn(&Path)| {
        let mut attempt = Attempt::new();
        let folder = attempt.path("sharded");
        fs::create_dir(&folder).unwrap();
        let from = PathBuf::from(asset("../../fixtures/llama-rope-llama3"));
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        fs::remove_file(folder.join("expected.safetensors")).unwrap();
        fs::write(folder.join("tokenizer.json"), word_tokenizer(100)).unwrap();
        change(&folder);
        attempt.base = folder.display().to_string();
        attempt.variant = format!("v={}", folder.display());
        attempt
    };
    const SECOND: &str = "model-00002-of-00003.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    sharded(&|f| fs::remove_file(f.join(SECOND)).unwrap()).refused(&[INDEX, SECOND, "help: download it again"]);
    sharded(&|f| fs::remove_file(f.join(INDEX)).unwrap()).refused(&["several safetensors files but no"]);
    sharded(&|f| _ = fs::copy(f.join("model-00001-of-00003.safetensors"), f.join(SECOND)).unwrap()).refused(&[SECOND]);
    sharded(&|f| fs::write(f.join(INDEX), "{\"weight_map\": {\"a\": \"../b\"}}").unwrap()).refused(&[INDEX, "../b"]);
    sharded(&|f| fs::write(f.join(INDEX), "{\"weight_map\": ").unwrap()).refused(&[INDEX, "EOF"]);
    sharded(&|f| fs::write(f.join(INDEX), "{\"weight_map\": {}}").unwrap()).refused(&["is missing"]);
}

#[test]
fn models_that_are_not_variants_of_each_other() {
    let with_config = |key: &'static str, value: Value| Attempt::with_variant(move |m| m.config[key] = value);
    with_config("num_hidden_layers", json!(15)).refused(&["base", "num_hidden_layers is 16 against 15", "help: "]);
    with_config("model_type", json!("mistral")).refused(&["model_type is llama against mistral"]);
    with_config("num_attention_heads", json!(2)).refused(&["num_attention_heads", "against 2"]);
    with_config("vocab_size", json!(500)).refused(&["vocab_size is 512 against 500"]);

    let mut other = Attempt::with_variant(|_| {});
    let mut model = Model::read(&asset("../../fixtures/llama-tied"));
    model.tokenizer = Model::read(&base()).tokenizer;
    other.variant = format!("v={}", model.save(other.dir.path(), "other"));
    other.refused(&["do not match", "num_hidden_layers is 16 against 3"]);
}

#[test]
fn tokenizers() {
    let replace = |from: &'static str, to: &'static str| {
        move |m: &mut Model| {
            let text = m.tokenizer.take().unwrap();
            assert!(text.contains(from));
            m.tokenizer = Some(text.replacen(from, to, 1));
        }
    };
    Attempt::with_variant(replace("\"a\":65,\"b\":66", "\"b\":65,\"a\":66")).refused(&[
        "tokenizer of base",
        "token 65 is \"a\" against \"b\"",
        "v",
    ]);
    Attempt::with_variant(replace("\"individual_digits\":true", "\"individual_digits\":false"))
        .refused(&["`pre_tokenizer`"]);
    Attempt::with_base(|m| m.tokenizer = None).refused(&["/base", "no tokenizer.json", "help: "]);
    Attempt::with_base(|m| m.tokenizer = Some("{}".into())).refused(&["tokenizer.json"]);
    Attempt::with_base(|m| m.tokenizer = Some("[1".into())).refused(&["base/tokenizer.json", "line 1"]);
    Attempt::with_base(replace("\"1\":17", "\"1\":5000")).refused(&["tokenizer of base", "5000 against 512", "help: "]);
}

#[test]
fn configurations() {
    let config = |change: fn(&mut Value)| Attempt::with_base(move |m| change(&mut m.config));
    config(|c| c["model_type"] = json!("mamba")).refused(&[
        "config.json",
        "`model_type` is \"mamba\"",
        "llama, mistral",
    ]);
    config(|c| c["rope_parameters"] = json!({"rope_type": "dynamic", "factor": 2.0})).refused(&[
        "`rope_parameters.rope_type` is \"dynamic\"",
        "expected default, linear, llama3 or yarn",
    ]);
    config(|c| c["hidden_act"] = json!("relu")).refused(&["`hidden_act` is \"relu\""]);
    config(|c| c["num_key_value_heads"] = json!(3)).refused(&["`num_key_value_heads` is 3", "a divisor"]);
    config(|c| c["num_hidden_layers"] = json!(0)).refused(&["`num_hidden_layers` is 0"]);
    config(|c| c["num_hidden_layers"] = json!(-8)).refused(&["`num_hidden_layers` is -8"]);
    config(|c| c["hidden_size"] = json!("64")).refused(&["`hidden_size` is \"64\""]);
    config(|c| c["hidden_size"] = json!(1u64 << 62)).refused(&["`hidden_size` is 4611686018427387904"]);
    config(|c| c["rms_norm_eps"] = json!("tiny")).refused(&["`rms_norm_eps`"]);
    config(|c| c["quantization_config"] = json!({"bits": 4})).refused(&["`quantization_config`", "help: "]);
    config(|c| _ = c.as_object_mut().unwrap().remove("hidden_size")).refused(&["`hidden_size` is missing"]);
    config(|c| *c = json!([])).refused(&["base/config.json"]);
    let attempt = Attempt::with_base(|_| {});
    fs::remove_file(attempt.path("base/config.json")).unwrap();
    attempt.refused(&["base/config.json"]);
}

#[test]
fn checkpoint_arguments() {
    let with_base = |base: &str| Attempt {
        base: base.to_owned(),
        ..Attempt::new()
    };
    with_base("./nowhere/at/all").refused(&["`./nowhere/at/all`", "no such file or folder", "help: "]);
    with_base("nobody/nothing").refused(&["nobody/nothing", "help: "]);
    with_base("~/model").refused(&["~/model", "$HOME"]);
    with_base("").refused(&["checkpoint"]);
    with_base(&asset("Cargo.toml")).refused(&["Cargo.toml", "neither a .safetensors nor a GGUF"]);
    with_base(&asset("src")).refused(&["src", "neither model.safetensors"]);
    let variant = |text: &str| Attempt {
        variant: text.to_owned(),
        ..Attempt::new()
    };
    variant(&sft()).refused(&["--variant", "NAME=CHECKPOINT"]);
    variant("=x").refused(&["--variant `=x`"]);
    variant("sft=").refused(&["--variant `sft=`"]);
    variant(&format!("base={}", sft())).refused(&["--variant", "`base` is used twice"]);
    Attempt::with(&[&format!("--variant=sft={}", sft())]).refused(&["--variant", "`sft` is used twice"]);
    Attempt::with(&["--data", &problems("p")]).refused(&["--data", "`p` is used twice"]);
}

#[test]
fn adapters() {
    let modules = ["model.layers.0.self_attn.q_proj"];
    let attempt = |modules: &[&str], change: &dyn Fn(&Path)| {
        let mut attempt = Attempt::new();
        let folder = attempt.path("lora");
        write_adapter(&folder, modules, [&[0.5; 64], &[0.25; 64]], 1.0);
        change(&folder);
        attempt.variant = format!("v={}+{}", base(), folder.display());
        attempt
    };
    let config = |change: fn(&mut Value)| {
        move |folder: &Path| {
            let path = folder.join("adapter_config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            change(&mut config);
            fs::write(&path, config.to_string()).unwrap();
        }
    };
    attempt(&["model.layers.99.self_attn.q_proj"], &|_| {}).refused(&["adapter_model.safetensors", "model.layers.99"]);
    attempt(&["model.layers.0.self_attn.k_proj"], &|_| {}).refused(&["k_proj", "[32, 1]"]);
    attempt(&modules, &config(|c| c["target_modules"] = json!(["c_attn"]))).refused(&["adapter"]);
    attempt(&modules, &config(|c| c["rank_pattern"] = json!({"layers.99": 4})))
        .refused(&["`rank_pattern`", "layers.99"]);
    attempt(&modules, &config(|c| c["use_dora"] = json!(true))).refused(&["adapter_config.json", "`use_dora`"]);
    attempt(&modules, &config(|c| c["r"] = json!(2))).refused(&["adapter_model.safetensors", "expected [2, 64]"]);
    attempt(&modules, &|f| fs::remove_file(f.join("adapter_config.json")).unwrap())
        .refused(&["no adapter_config.json"]);
    attempt(&modules, &|f| {
        fs::write(f.join("adapter_model.safetensors"), "x").unwrap()
    })
    .refused(&["adapter_model"]);
    let mut alone = attempt(&modules, &|_| {});
    alone.base = alone.path("lora").display().to_string();
    alone.refused(&["a PEFT adapter, not a model", "BASE+ADAPTER"]);
}

#[test]
fn gguf_files() {
    let whole = fs::read(asset("../../fixtures/gguf/tiny-llama.gguf")).unwrap();
    let attempt = |bytes: &[u8]| {
        let mut attempt = Attempt::new();
        let path = attempt.path("model.gguf");
        fs::write(&path, bytes).unwrap();
        attempt.base = path.display().to_string();
        attempt.variant = format!("v={}", path.display());
        attempt
    };
    for len in [0, 4, 20, 1000, whole.len() / 2, whole.len() - 1] {
        attempt(&whole[..len]).refused(&["model.gguf: not a valid GGUF file"]);
    }
    let mut lying = whole.clone();
    lying[8..16].copy_from_slice(&u64::MAX.to_le_bytes()); // number of tensors
    attempt(&lying).refused(&["model.gguf: not a valid GGUF file"]);
}

#[test]
fn data_sets() {
    const ROW: &str = "{\"question\": \"1+1?\", \"answer\": \"2\"}\n";
    Attempt::with_data("d.jsonl", "").refused(&["--data", "d.jsonl", "it has no rows"]);
    Attempt::with_data("d.jsonl", ROW.repeat(3)).refused(&["it has 3 rows, at least 4"]);
    Attempt::with_data("d.jsonl", ROW.repeat(5) + "{\"question\": \n").refused(&["d.jsonl", "line 6, column"]);
    Attempt::with_data("d.jsonl", ROW.repeat(5) + "[1]\n").refused(&["line 6 is", "expected an object"]);
    Attempt::with_data("d.jsonl", "{\"foo\": 1, \"bar\": 2}\n".repeat(5)).refused(&["foo, bar", "--format"]);
    Attempt::with_data("d.jsonl", "{\"question\": \"\", \"answer\": \"2\"}\n".repeat(5))
        .refused(&["5 skipped, first d.jsonl:1"]);
    Attempt::with_data("d.json", "{\"a\": 1}").refused(&["d.json", "no array of rows"]);
    Attempt::with_data("d.csv", "question,answer\n1,2\n3\n").refused(&["d.csv", "row 2: 1 cells, expected 2"]);
    Attempt::with_data("d.parquet", "PAR1 but no more").refused(&["d.parquet"]);
    Attempt::with_data("d.txt", b"\xff\xfe\xfd\n".repeat(5)).refused(&["d.txt"]);
    Attempt::with_data("d.bin", b"\x1f\x8b\x08 packed").refused(&["d.bin", "compressed"]);
    let data = |text: &str| Attempt {
        data: text.to_owned(),
        ..Attempt::new()
    };
    data("nameless.jsonl").refused(&["--data", "no `=`"]);
    data("d=").refused(&["--data", "nothing follows"]);
    data("a b=x.jsonl").refused(&["--data", "a name has letters"]);
    data("d=./nowhere.jsonl").refused(&["nowhere.jsonl"]);
    data("d=not a hub id").refused(&["not a hub id"]);
    data(&format!("d={}", asset("src"))).refused(&["/src", "no .jsonl"]);
}

#[test]
fn numbers_and_names_that_cannot_be_used() {
    Attempt::with(&["--samples", "0"]).refused(&["--data", "0 samples were asked for, at least 4"]);
    Attempt::with(&["--samples", "3"]).refused(&["3 samples were asked for, at least 4"]);
    Attempt::with(&["--samples=-1"]).refused(&["--samples"]);
    Attempt::with(&["--max-length", "0"]).refused(&["--max-length `0`", "help: give at least 1"]);
    Attempt::with(&["--resamples", "1"]).refused(&["--resamples `1`", "help: "]);
    Attempt::with(&["--resamples", "99999999999999"]).refused(&["--resamples `99999999999999`", "help: "]);
    Attempt::with(&["--threads", "0"]).refused(&["--threads 0"]);
    Attempt::with(&["--threads", "9999999999"]).refused(&["--threads 9999999999"]);
    Attempt::with(&["--metrics", "cka,banana"]).refused(&["--metrics `banana`", "help: "]);
    Attempt::with(&["--metrics", ""]).refused(&["--metrics"]);
    Attempt::with(&["--format", "xml"]).refused(&["--format", "xml", "mt_bench"]);
    Attempt::with(&["--layers", "odd"]).refused(&["--layers", "odd", "all, key, sparse"]);
    Attempt::with(&["--pooling", "max"]).refused(&["--pooling", "max", "mean, last"]);
    Attempt::with(&["--protocol", "mine"]).refused(&["--protocol", "mine", "default, paper"]);
    Attempt::with(&["--flag"]).refused(&["--flag"]);
}

#[test]
fn output_folders() {
    let out = |out: PathBuf| Attempt { out, ..Attempt::new() };
    let file = Attempt::new();
    let path = file.path("file");
    fs::write(&path, "mine").unwrap();
    Attempt { out: path, ..file }.refused(&["--out", "a file of that name"]);

    let foreign = Attempt::new();
    let path = foreign.path("thesis");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("thesis.tex"), "mine").unwrap();
    let more = vec!["--overwrite".to_owned()];
    let out_dir = path.clone();
    Attempt {
        out: out_dir,
        more,
        ..foreign
    }
    .refused(&["--out", "thesis", "holds no run"]);

    if cfg!(target_os = "linux") {
        out("/proc/midblock".into()).refused(&["/proc/midblock"]);
    }
    // a failed analysis keeps what was there
    let kept = Attempt::with_data("d.jsonl", "");
    let path = kept.path("empty");
    fs::create_dir(&path).unwrap();
    Attempt { out: path, ..kept }.refused(&["it has no rows"]);
}

#[test]
fn other_commands() {
    let dir = TempDir::new().unwrap();
    let here = dir.path().display().to_string();
    let run = |arguments: &[&str], expected: &[&str]| assert_refused(midblock().args(arguments), expected);
    run(&["report", "./nowhere"], &["./nowhere", "no such folder"]);
    run(&["report", &here], &["no run.json", "help: "]);
    run(&["inspect", &here], &[&here, "neither model.safetensors"]);
    run(&["perplexity", &base(), "--data", "d=./nowhere.txt"], &["nowhere.txt"]);
    run(
        &["perplexity", &base(), "--data", &problems("p"), "--max-length", "1"],
        &["--max-length"],
    );
    run(
        &["quickstart", "--out", &asset("Cargo.toml")],
        &["--out", "a file of that name"],
    );
    run(&["bench", "--batch", "0"], &["--batch"]);
    run(&["bench", "--length", "0"], &["--length"]);
    run(&["bench", "--steps", "0"], &["--steps"]);
}

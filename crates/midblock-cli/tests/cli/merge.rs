//! `midblock merge`: what lands on disk, and what is refused.

use crate::models::{Model, asset, base, midblock, sft, write_adapter};
use safetensors::Dtype;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const O: [&str; 2] = ["model.layers.1.self_attn.o_proj", "model.layers.6.self_attn.o_proj"];

/// `base+adapter`, the adapter with B = b and A = a in o_proj of blocks 1 and 6 and α = 2.
fn adapted(dir: &Path) -> (String, Vec<f32>, Vec<f32>) {
    let mut model = Model::read(&base());
    let [out, inp] = model.tensor(&format!("{}.weight", O[0])).shape[..] else {
        panic!()
    };
    let ramp = |len: usize| (0..len).map(|i| (i as f32 - 7.0) / 64.0).collect::<Vec<_>>();
    let (b, a) = (ramp(out), ramp(inp));
    let adapter = write_adapter(&dir.join("lora"), &O, [&b, &a], 2.0);
    (format!("{}+{adapter}", base()), b, a)
}

fn merge(checkpoint: &str, out: &Path, more: &[&str]) -> Result<String, String> {
    let output = midblock()
        .args(["merge", checkpoint, "--out"])
        .arg(out)
        .args(more)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        code => {
            assert_eq!(code, Some(2));
            Err(text(&output.stderr))
        }
    }
}

fn values(model: &mut Model, name: &str) -> Vec<f32> {
    let stored = model.tensor(name);
    match stored.dtype {
        Dtype::F32 => stored
            .bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => stored
            .bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| half(u16::from_le_bytes(*b)))
            .collect(),
        Dtype::BF16 => {
            let wide = |b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            stored.bytes.as_chunks().0.iter().map(wide).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// A normal or zero f16.
fn half(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    f32::from_bits(sign | rest) * 2f32.powi(112)
}

#[test]
fn the_adapter_is_in_the_weights_and_nothing_else_changed() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, b, a) = adapted(dir.path());
    let out = dir.path().join("new/merged");
    let report = merge(&checkpoint, &out, &["--dtype", "f32"]).unwrap();
    assert!(
        report.contains("2 matrices merged") && report.contains("in 1 file,"),
        "{report}"
    );
    let difference: f64 = report
        .split("largest difference ")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(difference > 0.0 && difference < 1e-4, "{report}"); // measured: 1e-6
    assert!(report.contains("at 128 of 128 positions"), "{report}");

    let (mut merged, mut plain) = (Model::read(&out.display().to_string()), Model::read(&base()));
    let names: Vec<String> = plain.tensors.keys().cloned().collect();
    assert_eq!(merged.tensors.keys().cloned().collect::<Vec<_>>(), names);
    for name in names {
        let mut expected = values(&mut plain, &name);
        if O.iter().any(|module| name == format!("{module}.weight")) {
            let delta = b.iter().flat_map(|b| a.iter().map(move |a| 2.0 * b * a));
            expected
                .iter_mut()
                .zip(delta)
                .for_each(|(value, delta)| *value += delta);
        }
        let got = values(&mut merged, &name);
        let apart = got.iter().zip(&expected).map(|(got, expected)| (got - expected).abs());
        assert!(
            got.len() == expected.len() && apart.fold(0.0, f32::max) <= 1e-6,
            "{name}"
        );
    }
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            fs::read(out.join(file)).unwrap(),
            fs::read(Path::new(&base()).join(file)).unwrap()
        );
    }
    assert_eq!(
        fs::read_dir(out.parent().unwrap()).unwrap().count(),
        1,
        "a leftover beside the folder"
    );
}

#[test]
fn shards_and_formats_hold_the_same_model() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, ..) = adapted(dir.path());
    let out = dir.path().join("shards");
    let report = merge(
        &checkpoint,
        &out,
        &["--dtype", "bf16", "--max-shard-size", "40KB", "--check", "1"],
    )
    .unwrap();
    assert!(report.contains("of 32 positions"), "{report}");
    let index: Value = serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let files: std::collections::BTreeSet<&str> = map.values().map(|file| file.as_str().unwrap()).collect();
    assert!(files.len() > 2 && files.contains(format!("model-00001-of-{:05}.safetensors", files.len()).as_str()));
    assert_eq!(map["model.embed_tokens.weight"], map.values().next().unwrap().clone());
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert!(
        config["dtype"] == "bfloat16" || config["torch_dtype"] == "bfloat16",
        "{config}"
    );

    // what is bf16 already stays the same bits on the way through one file
    let again = dir.path().join("one");
    let report = merge(&out.display().to_string(), &again, &["--max-shard-size", "1GiB"]).unwrap();
    assert!(report.contains("largest difference 0.000e0, mean 0.000e0"), "{report}");
    let whole = Model::read(&again.display().to_string());
    assert!(whole.tensors.values().all(|tensor| tensor.dtype == Dtype::BF16));
    assert_eq!(whole.tensors.len(), map.len());
}

#[test]
fn a_gguf_file_becomes_a_folder() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("folder");
    let report = merge(&asset("../../fixtures/gguf/tiny-llama.gguf"), &out, &[]).unwrap();
    assert!(
        report.contains("0 matrices merged") && report.contains("largest difference 0.000e0"),
        "{report}"
    );
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap() };
    assert_eq!(read("config.json")["architectures"][0], "LlamaForCausalLM");
    assert_eq!(read("config.json")["torch_dtype"], "float32");
    assert_eq!(read("tokenizer.json")["version"], "1.0");
    assert_eq!(
        read("tokenizer_config.json")["tokenizer_class"],
        "PreTrainedTokenizerFast"
    );
    let inspected = midblock().args(["inspect", "--json"]).arg(&out).output().unwrap();
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let formats = inspected["stored"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stored| stored["dtype"].as_str().unwrap());
    assert_eq!(formats.collect::<Vec<_>>(), ["bf16", "f16", "f32"]); // quantised ones became f32
}

#[test]
fn a_tied_head_is_not_written_twice() {
    let dir = TempDir::new().unwrap();
    let mut model = Model::read(&asset("../../fixtures/llama-tied"));
    let embedding = model.tensor("model.embed_tokens.weight").clone();
    model.tensors.insert("lm_head.weight".to_owned(), embedding);
    let source = model.save(dir.path(), "tied");
    let out = dir.path().join("out");
    merge(&source, &out, &["--dtype", "f16"]).unwrap();
    let written = Model::read(&out.display().to_string());
    assert!(!written.tensors.contains_key("lm_head.weight"));
    assert_eq!(written.tensors.len(), model.tensors.len() - 1);
}

#[test]
fn what_cannot_be_merged_is_refused_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, ..) = adapted(dir.path());
    let out = dir.path().join("out");
    let refused = |checkpoint: &str, out: &PathBuf, more: &[&str]| merge(checkpoint, out, more).unwrap_err();
    let nothing = refused(&sft(), &out, &[]);
    assert!(
        nothing.contains("has no adapter and is a Hugging Face folder already"),
        "{nothing}"
    );
    let there = refused(&checkpoint, &dir.path().join("lora"), &[]);
    assert!(
        there.contains("it is there already\n  help: name a new or empty folder"),
        "{there}"
    );
    for (flags, problem) in [
        (["--max-shard-size", "5"], "write a whole number and KB, MB, GB"),
        (["--max-shard-size", "0GB"], "not a size between 1 KB"),
        (["--max-shard-size", "99999999999999GB"], "not a size between 1 KB"),
        (["--dtype", "q4_1"], "invalid value 'q4_1'"),
    ] {
        let error = refused(&checkpoint, &out, &flags);
        assert!(error.contains(problem), "{error}");
    }
    let mut broken = Model::read(&base());
    broken.tensors.remove("model.layers.7.mlp.up_proj.weight");
    let broken = broken.save(dir.path(), "broken");
    let missing = refused(&broken, &out, &["--dtype", "f32"]);
    assert!(
        missing.contains("tensor `model.layers.7.mlp.up_proj.weight` is missing"),
        "{missing}"
    );
    assert!(!out.exists());
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["broken", "lora"]);
}

#[test]
fn a_variant_is_merged_segment_by_segment() {
    let dir = TempDir::new().unwrap();
    let (variant, b, a) = adapted(dir.path());
    let out = dir.path().join("merged");
    // of 16 blocks segment 1 holds 0 to 2, and segment 3 holds 6 to 8
    let flags = ["--alphas", "0.25,0,1.5,0,0", "--variant", &variant, "--dtype", "f32"];
    let report = merge(&base(), &out, &flags).unwrap();
    for line in [
        "blocks 1-3: α 0.25\nblocks 4-6: α 0\nblocks 7-9: α 1.5\nblocks 10-16: α 0\n",
        "final norm and head: α 0; embedding: α 0, it is the head\n",
        "same most likely token at 124 of 124 positions",
    ] {
        assert!(report.contains(line), "{report}");
    }
    let largest = report.split("largest difference ").nth(1).unwrap();
    let largest: f64 = largest.split(' ').next().unwrap().parse().unwrap();
    assert!(largest < 1e-4, "{report}");
    let (mut merged, mut plain) = (Model::read(&out.display().to_string()), Model::read(&base()));
    for name in plain.tensors.keys().cloned().collect::<Vec<_>>() {
        let alphas = O.iter().zip([0.25, 1.5]);
        let alpha = alphas
            .filter(|(module, _)| name == format!("{module}.weight"))
            .map(|(_, alpha)| alpha)
            .next();
        let mut expected = values(&mut plain, &name);
        if let Some(alpha) = alpha {
            let delta = b.iter().flat_map(|b| a.iter().map(move |a| alpha * 2.0 * b * a));
            expected
                .iter_mut()
                .zip(delta)
                .for_each(|(value, delta)| *value += delta);
        }
        let got = values(&mut merged, &name);
        let apart = got.iter().zip(&expected).map(|(got, expected)| (got - expected).abs());
        assert!(
            got.len() == expected.len() && apart.fold(0.0, f32::max) <= 1e-6,
            "{name}"
        );
    }
}

#[test]
fn alphas_that_merge_nothing_are_refused() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let (variant, many) = (sft(), vec!["1"; 17].join(","));
    let other = asset("../../fixtures/llama-tied");
    for (flags, problem) in [
        (vec!["--alphas", "1"], "--variant <CHECKPOINT>"),
        (vec!["--variant", &variant], "--alphas"),
        (vec!["--alphas", "1,x", "--variant", &variant], "invalid value 'x'"),
        (vec!["--alphas", "1,nan", "--variant", &variant], "not all are numbers"),
        (
            vec!["--alphas", &many, "--variant", &variant],
            "there are 17 for 16 blocks",
        ),
        (vec!["--alphas", "0.5", "--variant", &other], "num_hidden_layers"),
    ] {
        let error = merge(&base(), &out, &flags).unwrap_err();
        assert!(error.contains(problem), "{error}");
        assert!(!out.exists());
    }
}

/// A folder that cannot be written is an error with its name; `/proc` takes no files from anyone.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_takes_no_files_is_named() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, ..) = adapted(dir.path());
    let error = merge(&checkpoint, Path::new("/proc/merged"), &[]).unwrap_err();
    assert!(error.starts_with("error: cannot create a folder in /proc: "), "{error}");
}

//! `midblock analyze`: the output contract, what its options change, and what models share.

use crate::models::{Model, asset, base, midblock, problems, sft, word_tokenizer, write_adapter, write_words};
use midblock::{
    metrics::{Group, Metric, Needs, registry},
    run::{Record, Run},
    tokens::data::parse_parquet,
};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

const FEW: [&str; 3] = ["--samples=12", "--token-samples=4", "--resamples=20"];
const EVERYTHING: [&str; 6] = [
    "DONE",
    "metrics.csv",
    "metrics.parquet",
    "report.html",
    "run.json",
    "weights.csv",
];

/// Of the embedded models.
const BLOCKS: usize = 16;

/// A run folder and what it says.
struct Finished {
    dir: TempDir,
    run: Run,
}

impl Finished {
    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap()
    }

    /// Tokens that went through a block, over those of the data.
    fn passes(&self) -> f64 {
        let tokens: u64 = self.run.info.datasets.iter().map(|d| d.tokens).sum();
        self.run.info.config["block_tokens_computed"].as_u64().unwrap() as f64 / tokens as f64
    }

    fn rows<'a>(&'a self, keep: impl Fn(&&'a Record) -> bool) -> Vec<&'a Record> {
        let rows: Vec<_> = self.run.records.iter().filter(keep).collect();
        assert!(!rows.is_empty(), "no such rows");
        rows
    }

    fn of_metric(&self, metric: &str) -> Vec<&Record> {
        self.rows(|r| r.metric == metric)
    }

    /// Everything said about one model alone, without its name.
    fn alone(&self, model: &str) -> Vec<Record> {
        let nameless = |r: &Record| Record {
            model: String::new(),
            ..r.clone()
        };
        let rows = self.rows(|r| r.model == model && r.reference.is_empty());
        rows.into_iter().map(nameless).collect()
    }
}

/// Runs an analysis that must succeed.
fn analyze(base: &str, variants: &[(&str, &str)], more: &[&str]) -> Finished {
    let dir = TempDir::new().unwrap();
    let variants = variants.iter().map(|(name, model)| format!("--variant={name}={model}"));
    let mut command = midblock();
    command.args(["analyze", "--base", base]).args(variants).args(more);
    command.arg("--out").arg(dir.path()).assert().success();
    let run = Run::open(dir.path()).unwrap();
    Finished { dir, run }
}

/// The embedded pair on few samples.
fn quick(more: &[&str]) -> Finished {
    let option = |argument: &str| argument.split_once('=').map_or(argument, |(name, _)| name).to_owned();
    let few = FEW
        .into_iter()
        .filter(|default| !more.iter().any(|given| *given == option(default)));
    let data = problems("problems");
    let args: Vec<&str> = few.chain(["--data", &data]).chain(more.iter().copied()).collect();
    analyze(&base(), &[("sft", &sft())], &args)
}

/// model, reference, dataset, metric, layer: each row's key, with how often it is there.
type Keys = BTreeMap<(String, String, String, String, usize), usize>;

fn keys<'a>(records: impl IntoIterator<Item = &'a Record>) -> Keys {
    let mut keys = Keys::new();
    for r in records {
        let key = (
            r.model.clone(),
            r.reference.clone(),
            r.dataset.clone(),
            r.metric.clone(),
            r.layer,
        );
        *keys.entry(key).or_default() += 1;
    }
    keys
}

/// The keys there should be, once each.
fn expected_keys(
    variants: &[&str],
    datasets: &[&str],
    blocks: usize,
    metrics: impl Fn(&Metric) -> bool,
    layers: impl Fn(usize) -> bool,
) -> Keys {
    let mut keys = Keys::new();
    let mut expect = |model: &str, reference: &str, dataset: &str, metric: &Metric, layer: usize| {
        let [model, reference, dataset] = [model, reference, dataset].map(str::to_owned);
        keys.insert((model, reference, dataset, metric.name.to_owned(), layer), 1);
    };
    for metric in registry().iter().filter(|m| metrics(m)) {
        for model in std::iter::once(&"base").chain(variants) {
            match metric.needs {
                Needs::Weights if *model == "base" => {}
                Needs::Weights => (1..=blocks).for_each(|block| expect(model, "base", "", metric, block)),
                Needs::PooledPair if *model == "base" => {}
                needs => {
                    let reference = if needs == Needs::PooledPair { "base" } else { "" };
                    for dataset in datasets {
                        (0..=blocks)
                            .filter(|&l| layers(l))
                            .for_each(|layer| expect(model, reference, dataset, metric, layer));
                    }
                }
            }
        }
    }
    keys
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_metric_has_its_row_for_every_layer_model_and_data_set() {
    let dir = TempDir::new().unwrap();
    let lines = dir.path().join("lines.txt");
    fs::write(&lines, "Ben has 7 eggs.\nTara sells 12 shells.\n".repeat(4)).unwrap();
    let data = [
        &FEW[..],
        &[
            "--data",
            &problems("problems"),
            "--data",
            &format!("lines={}", lines.display()),
        ],
    ];
    let finished = analyze(&base(), &[("sft", &sft()), ("copy", &base())], &data.concat());

    let csv = finished.text("metrics.csv");
    assert_eq!(
        csv.lines().next(),
        Some("model,reference,dataset,metric,layer,depth,value,lo,hi,floor")
    );
    let expected = expected_keys(&["sft", "copy"], &["problems", "lines"], BLOCKS, |_| true, |_| true);
    assert_eq!(keys(&finished.run.records), expected);
    assert_eq!(csv.lines().count(), 1 + expected.len());
    for r in &finished.run.records {
        assert_eq!(r.depth, r.layer as f64 / BLOCKS as f64);
        let numbers = [r.value, r.lo, r.hi, r.floor];
        assert!(numbers.iter().flatten().all(|v| v.is_finite()), "{r:?}");
        assert!(r.lo.is_none() || r.lo <= r.hi, "{r:?}");
        let is_pair = !r.reference.is_empty() && !r.dataset.is_empty();
        assert!(r.floor.is_none() || is_pair, "{r:?}");
        assert!(r.lo.is_none() || !r.dataset.is_empty(), "weights are no sample: {r:?}");
    }
    // what must be defined where both models differ
    let (block, sparse) = (
        5,
        ["cka_debiased", "effective_rank", "curvature", "lidar", "weight_change"],
    );
    for metric in sparse {
        let rows =
            finished.rows(|r| r.metric == metric && r.layer == block && r.dataset != "lines" && r.model == "sft");
        assert!(rows.iter().all(|r| r.value.is_some()), "{rows:?}");
    }

    assert_eq!(file_names(finished.dir.path()), EVERYTHING);
    assert_parquet_equals(&finished);
    assert_run_json(&finished, &lines);
}

fn assert_parquet_equals(finished: &Finished) {
    let path = finished.dir.path().join("metrics.parquet");
    let mut rows = Vec::new();
    let file = fs::File::open(&path).unwrap();
    parse_parquet(&path, file, &mut |_, row| {
        rows.push(serde_json::from_value::<Record>(row.into()).unwrap());
        Ok(())
    })
    .unwrap();
    assert_eq!(rows, finished.run.records);
}

fn assert_run_json(finished: &Finished, lines: &Path) {
    let info = &finished.run.info;
    assert_eq!(info.midblock_run_schema, 1);
    assert_eq!(info.command_line[1..3], ["--quiet", "analyze"]);
    let models: Vec<_> = info
        .models
        .iter()
        .map(|m| (m.name.as_str(), m.label.clone(), m.blocks))
        .collect();
    assert_eq!(
        models,
        [
            ("base", base(), BLOCKS),
            ("sft", sft(), BLOCKS),
            ("copy", base(), BLOCKS)
        ]
    );
    let hash = |path: &str| blake3_of(Path::new(path));
    for model in &info.models {
        let weights = format!("{}/model.safetensors", model.label);
        let file = model.files.iter().find(|f| f.path.ends_with("model.safetensors"));
        assert_eq!(file.unwrap().blake3, hash(&weights));
    }
    let data: Vec<_> = info
        .datasets
        .iter()
        .map(|d| {
            (
                d.name.as_str(),
                d.format.as_str(),
                d.samples_total,
                d.samples_used,
                d.token_samples_used,
            )
        })
        .collect();
    assert_eq!(data, [("problems", "gsm8k", 100, 12, 4), ("lines", "text", 8, 8, 4)]);
    assert_eq!(info.datasets[1].files[0].blake3, blake3_of(lines));
    assert_eq!(info.warnings, ["lines: 8 samples where 12 were asked for"]);
    assert_eq!(info.config["resamples"], 20);
    assert_eq!(info.config["max_length"], 128);
    assert_eq!(info.config["metrics"].as_array().unwrap().len(), registry().len());
    assert!(info.timings.iter().any(|p| p.phase == "forward" && p.seconds > 0.0));
    assert!(info.peak_private_bytes.is_none_or(|bytes| bytes > 1 << 20));
}

fn blake3_of(path: &Path) -> String {
    midblock::run::FileHash::of(path).unwrap().blake3
}

#[test]
fn layers_and_metrics_choose_rows() {
    let key = quick(&["--layers", "key", "--metrics", "alignment,gini"]);
    let chosen = |m: &Metric| m.group == Group::Alignment || m.name == "gini";
    let layers = |l: usize| [0, 3, 6, 10, 13, 16].contains(&l);
    assert_eq!(
        keys(&key.run.records),
        expected_keys(&["sft"], &["problems"], BLOCKS, chosen, layers)
    );
    assert!(
        !key.dir.path().join("weights.csv").exists(),
        "no weights were asked for"
    );

    let sparse = quick(&["--layers", "sparse", "--metrics", "cka"]);
    let layers = |l: usize| l.is_multiple_of(4);
    assert_eq!(
        keys(&sparse.run.records),
        expected_keys(&["sft"], &["problems"], BLOCKS, |m| m.name == "cka", layers)
    );
    // measuring less does not change what is measured
    let all = quick(&[]);
    for row in key.run.records.iter().chain(&sparse.run.records) {
        assert!(all.run.records.contains(row), "{row:?}");
    }
}

#[test]
fn pooling_changes_pooled_metrics_only() {
    let (mean, last) = (quick(&[]), quick(&["--pooling", "last"]));
    assert_eq!(last.run.info.config["pooling"], "last");
    for metric in registry() {
        let same = mean.of_metric(metric.name) == last.of_metric(metric.name);
        let pooled = matches!(metric.needs, Needs::Pooled | Needs::PooledPair);
        assert_eq!(same, !pooled, "{}", metric.name);
    }
}

#[test]
fn the_paper_s_protocol_has_no_last_layer_and_no_intervals() {
    let paper = quick(&["--protocol", "paper"]);
    let expected = expected_keys(&["sft"], &["problems"], BLOCKS, |_| true, |l| l < BLOCKS);
    assert_eq!(keys(&paper.run.records), expected);
    for r in &paper.run.records {
        assert_eq!((r.lo, r.hi, r.floor), (None, None, None), "{r:?}");
    }
    assert!(paper.of_metric("cka_debiased").iter().all(|r| r.value.is_none()));
    assert!(paper.of_metric("cka").iter().all(|r| r.value.is_some()));
}

#[test]
fn a_finished_run_is_kept_reported_again_and_replaced_on_request() {
    let finished = quick(&["--metrics", "cka"]);
    let before: Vec<String> = ["metrics.csv", "run.json", "report.html"]
        .map(|f| finished.text(f))
        .into();
    let data = problems("problems");
    let again = |more: &[&str]| {
        let mut command = midblock();
        command.args(["analyze", "--base", &base(), "--data", &data]).args(FEW);
        command.arg(format!("--variant=sft={}", sft())).args(more);
        command
            .args(["--metrics", "gini", "--out"])
            .arg(finished.dir.path())
            .assert()
    };
    let refused = again(&[]).code(2);
    let message = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(
        message.contains("finished run") && message.contains("--overwrite"),
        "{message}"
    );
    assert_eq!(
        ["metrics.csv", "run.json", "report.html"]
            .map(|f| finished.text(f))
            .to_vec(),
        before
    );

    fs::remove_file(finished.dir.path().join("report.html")).unwrap();
    midblock().arg("report").arg(finished.dir.path()).assert().success();
    assert!(
        finished.text("report.html") == before[2],
        "the report of the records is another one"
    );

    again(&["--overwrite"]).success();
    let replaced = Run::open(finished.dir.path()).unwrap();
    assert!(replaced.records.iter().all(|r| r.metric == "gini"));
    assert!(finished.text("report.html") != before[2]);
}

#[test]
fn the_same_run_gives_the_same_bytes_with_any_number_of_threads() {
    let two = quick(&["--threads", "2"]);
    for threads in ["2", "1"] {
        let other = quick(&["--threads", threads]);
        for file in ["metrics.csv", "weights.csv"] {
            assert!(two.text(file) == other.text(file), "{file} with --threads {threads}");
        }
    }
    let other_seed = quick(&["--seed", "43"]);
    assert!(two.text("metrics.csv") != other_seed.text("metrics.csv"));
}

#[test]
fn an_identical_copy_is_computed_once_and_unchanged() {
    let dir = TempDir::new().unwrap();
    let copy = Model::read(&base()).save(dir.path(), "copy");
    let data = problems("problems");
    let finished = analyze(&base(), &[("copy", &copy)], &[&FEW[..], &["--data", &data]].concat());
    assert_eq!(finished.passes(), BLOCKS as f64, "every block once");
    for metric in ["cka", "cka_debiased", "cosine_similarity", "subspace_overlap"] {
        let rows = finished.of_metric(metric);
        assert!(rows.iter().all(|r| (r.value.unwrap() - 1.0).abs() < 1e-12), "{rows:?}");
    }
    for metric in [
        "mean_shift",
        "change_intensity",
        "weight_change",
        "weight_subspace_rotation",
    ] {
        let rows = finished.of_metric(metric);
        assert!(rows.iter().all(|r| r.value == Some(0.0)), "{rows:?}");
    }
    assert_eq!(finished.alone("base"), finished.alone("copy"));
}

#[test]
fn what_is_shared_is_computed_once_and_gives_the_same_bits() {
    let shared = quick(&[]);
    // blocks 1 to 3 are common; states part in block 4 and all that follows is run for each
    assert_eq!(shared.passes(), 3.0 + 2.0 * 13.0);
    for row in shared.of_metric("change_intensity") {
        assert_eq!(row.value == Some(0.0), row.layer <= 3, "{row:?}");
    }
    for row in shared.of_metric("weight_change") {
        assert_eq!(row.value == Some(0.0), !(4..=12).contains(&row.layer), "{row:?}");
    }
    // a companion whose embedding differs shares nothing with anyone
    let dir = TempDir::new().unwrap();
    let mut companion = Model::read(&base());
    companion.tensor("model.embed_tokens.weight").nudge();
    let companion = companion.save(dir.path(), "companion");
    let data = problems("problems");
    let args = [&FEW[..], &["--data", &data]].concat();
    for (name, model) in [("base", base()), ("sft", sft())] {
        let apart = analyze(&model, &[("companion", &companion)], &args);
        assert_eq!(apart.passes(), 2.0 * BLOCKS as f64);
        assert_eq!(apart.alone("base"), shared.alone(name), "{name}");
    }
}

#[test]
fn an_adapter_runs_from_its_first_block_and_its_size_is_exact() {
    let dir = TempDir::new().unwrap();
    let b: Vec<f32> = (0..64).map(|i| (i as f32 - 31.5) / 64.0).collect();
    let a: Vec<f32> = (0..64).map(|i| ((i * 7 % 13) as f32 - 6.0) / 16.0).collect();
    let modules = [4, 5].map(|block| format!("model.layers.{block}.self_attn.q_proj"));
    let modules = modules.each_ref().map(String::as_str);
    let adapter = write_adapter(&dir.path().join("lora"), &modules, [&b, &a], 2.0);
    let data = problems("problems");
    let tuned = format!("{}+{adapter}", base());
    let finished = analyze(&base(), &[("lora", &tuned)], &[&FEW[..], &["--data", &data]].concat());
    assert_eq!(finished.passes(), 4.0 + 2.0 * 12.0);
    let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let expected = 2.0 * norm(&a) * norm(&b); // ‖2·b·aᵀ‖, also its largest singular value
    for metric in ["weight_change", "weight_change_spectral"] {
        for row in finished.of_metric(metric) {
            let expected = if [5, 6].contains(&row.layer) { expected } else { 0.0 };
            assert!((row.value.unwrap() - expected).abs() <= 1e-6 * expected, "{row:?}");
        }
    }
    let changed = finished
        .run
        .weights
        .iter()
        .filter(|w| w.metric == "weight_change" && w.value != Some(0.0));
    let changed: Vec<_> = changed.map(|w| w.parameter.as_str()).collect();
    assert_eq!(changed, modules.map(|module| format!("{module}.weight")));
    let adapter_files = finished.run.info.models[1]
        .files
        .iter()
        .filter(|f| f.path.starts_with(&adapter));
    assert_eq!(adapter_files.count(), 2);
}

#[test]
fn every_family_can_be_analysed() {
    for family in ["llama-bias", "llama-rope-yarn", "mistral", "qwen2", "qwen3", "olmo2"] {
        let dir = TempDir::new().unwrap();
        let mut model = Model::read(&asset(&format!("../../fixtures/{family}")));
        model.tokenizer = Some(word_tokenizer(100));
        let base = model.save(dir.path(), "base");
        let blocks = model.config["num_hidden_layers"].as_u64().unwrap() as usize;
        let last = format!("model.layers.{}.mlp.down_proj.weight", blocks - 1);
        model.tensor(&last).nudge();
        let variant = model.save(dir.path(), "variant");
        let data = write_words(dir.path(), "words", 12);
        let finished = analyze(&base, &[("v", &variant)], &[&FEW[..], &["--data", &data]].concat());
        assert_eq!(
            keys(&finished.run.records),
            expected_keys(&["v"], &["words"], blocks, |_| true, |_| true),
            "{family}"
        );
        assert_eq!(finished.passes(), (blocks + 1) as f64, "{family}");
        for row in finished.of_metric("change_intensity") {
            assert_eq!(row.value > Some(0.0), row.layer == blocks, "{family}: {row:?}");
        }
    }
}

#[test]
fn a_gguf_brings_its_tokenizer() {
    let dir = TempDir::new().unwrap();
    let file = asset("../../fixtures/gguf/tiny-llama.gguf");
    let data = write_words(dir.path(), "words", 12);
    let finished = analyze(&file, &[("same", &file)], &[&FEW[..], &["--data", &data]].concat());
    let blocks = finished.run.info.models[0].blocks;
    assert_eq!(
        keys(&finished.run.records),
        expected_keys(&["same"], &["words"], blocks, |_| true, |_| true)
    );
    assert_eq!(finished.passes(), blocks as f64);
}

/// Samples of one token: what needs several is not defined, all else is.
#[test]
fn single_tokens_leave_only_paths_and_views_undefined() {
    let finished = quick(&["--max-length", "1"]);
    let data = &finished.run.info.datasets[0];
    assert_eq!((data.tokens, data.samples_truncated), (12, 12));
    for row in finished.of_metric("prompt_entropy") {
        assert_eq!(row.value, None, "{row:?}");
    }
    for metric in ["curvature", "infonce", "infonce_bound", "lidar", "dime"] {
        assert!(finished.of_metric(metric).iter().all(|r| r.value.is_none()), "{metric}");
    }
    for metric in [
        "l2_norm_mean",
        "spectral_norm",
        "sparsity",
        "cosine_similarity",
        "change_intensity",
    ] {
        assert!(finished.of_metric(metric).iter().all(|r| r.value.is_some()), "{metric}");
    }
}

/// Nothing kept token by token, or nothing resampled: the metrics that need it are empty, the others as ever.
#[test]
fn no_token_samples_and_no_resamples_leave_out_what_needs_them() {
    let all = quick(&[]);
    let no_tokens = quick(&["--token-samples", "0"]);
    let no_resamples = quick(&["--resamples", "0"]);
    for (index, row) in all.run.records.iter().enumerate() {
        let needs = midblock::metrics::find(&row.metric).unwrap().needs;
        let without_tokens = &no_tokens.run.records[index];
        if needs == Needs::Tokens {
            assert_eq!((without_tokens.value, without_tokens.lo), (None, None), "{row:?}");
        } else {
            assert_eq!(without_tokens, row);
        }
        let (lo, hi) = (None, None);
        assert_eq!(no_resamples.run.records[index], Record { lo, hi, ..row.clone() });
    }
}

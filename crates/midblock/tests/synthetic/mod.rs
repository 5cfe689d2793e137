//! A made-up run that looks like a real one: a base and two variants of 30 blocks on two data sets, every metric with
//! bands, per-matrix weights, skipped samples and warnings. The numbers mean nothing.

use midblock::run::{
    DatasetInfo, FileHash, Machine, ModelInfo, Phase, Record, Run, RunInfo, SCHEMA, Seed, Skipped, WeightRecord,
};

pub const BLOCKS: usize = 30;

/// name, group, value at the bottom, rise to the top, half width of the interval
type Shape = (&'static str, &'static str, f64, f64, f64);

/// Every kind of metric there is, and one that the registry does not know.
#[rustfmt::skip]
const SHAPES: [Shape; 26] = [
    ("cka_debiased", "alignment", 0.999, -0.16, 0.008),
    ("cka", "alignment", 0.9992, -0.14, 0.007),
    ("cosine_similarity", "alignment", 0.999, -0.2, 0.004),
    ("change_intensity", "alignment", 0.4, 42.0, 0.9),
    ("change_intensity_relative", "alignment", 0.03, 0.42, 0.012),
    ("mean_shift", "alignment", 0.2, 30.0, 1.4),
    ("mean_shift_relative", "alignment", 0.02, 0.3, 0.015),
    ("subspace_overlap", "alignment", 0.99, -0.4, 0.03),
    ("prompt_entropy", "information", 0.92, -0.35, 0.008),
    ("dataset_entropy", "information", 0.55, -0.2, 0.02),
    ("infonce", "information", 1.2, 0.8, 0.05),
    ("lidar", "information", 40.0, -18.0, 2.0),
    ("dime", "information", 0.9, 0.6, 0.06),
    ("curvature", "geometry", 0.66, -0.12, 0.003),
    ("intrinsic_dimension", "geometry", 14.0, 6.0, 1.2),
    ("l2_norm_mean", "magnitude", 2.0, 90.0, 0.8),
    ("l2_norm_sd", "magnitude", 0.3, 9.0, 0.5),
    ("effective_rank", "spectrum", 0.3, -0.22, 0.01),
    ("spectral_norm", "spectrum", 25.0, 900.0, 20.0),
    ("condition_number", "spectrum", 120.0, 1.9e6, 10.0),
    ("rank_deficiency", "spectrum", 0.05, 0.5, 0.015),
    ("sparsity", "spectrum", 0.2, 0.6, 0.01),
    ("gini", "spectrum", 0.04, 0.06, 0.004),
    ("weight_change", "weights", 0.4, 1.3, 0.0),
    ("weight_change_relative", "weights", 0.004, 0.012, 0.0),
    ("gradient_surprise", "unexplained", 0.2, 0.5, 0.02),
];

/// The run, with `variants` besides the base and data sets by the names of `datasets`.
pub fn run(variants: &[&str], datasets: &[&str]) -> Run {
    let mut records = Vec::new();
    for (index, &dataset) in datasets.iter().enumerate() {
        for shape in SHAPES.iter().filter(|shape| shape.1 != "weights") {
            if shape.1 != "alignment" {
                records.extend(curve(shape, "base", "", dataset, 0.0, index));
            }
            for (variant, name) in variants.iter().enumerate() {
                let reference = if shape.1 == "alignment" { "base" } else { "" };
                records.extend(curve(
                    shape,
                    name,
                    reference,
                    dataset,
                    1.0 - 0.55 * variant as f64,
                    index,
                ));
            }
        }
    }
    for shape in SHAPES.iter().filter(|shape| shape.1 == "weights") {
        for (variant, name) in variants.iter().enumerate() {
            records.extend(
                curve(shape, name, "base", "", 1.0 - 0.5 * variant as f64, 0)
                    .into_iter()
                    .skip(1),
            );
        }
    }
    Run {
        info: info(variants, datasets),
        records,
        weights: weights(variants),
    }
}

/// A curve that rises late, with a wiggle; `strength` is how far a variant is from the base.
fn curve(
    shape: &Shape,
    model: &str,
    reference: &str,
    dataset: &str,
    strength: f64,
    dataset_index: usize,
) -> Vec<Record> {
    let &(metric, group, .., bottom, rise, half_width) = shape;
    (0..=BLOCKS)
        .map(|layer| {
            let depth = layer as f64 / BLOCKS as f64;
            let late = depth.powi(3) * 0.8 + 0.2 * depth;
            let wiggle = 0.03 * (7.0 * depth + dataset_index as f64).sin();
            let share = if group == "alignment" {
                strength
            } else {
                1.0 + 0.15 * strength
            };
            let growth = if metric == "condition_number" {
                (depth * rise.ln()).exp()
            } else {
                rise * (late + wiggle * depth)
            };
            let value = bottom + share * growth;
            // The second data set is small: its intervals are wide enough to leave some questions open.
            let half = if metric == "condition_number" {
                value * 0.2
            } else {
                half_width * (0.4 + depth) * (1.0 + 5.0 * dataset_index as f64)
            };
            let floor = if rise < 0.0 {
                0.05 + 0.3 * depth
            } else {
                bottom + 1.3 * rise * (0.6 + 0.4 * depth)
            };
            let undefined = metric == "intrinsic_dimension" && layer == 11;
            Record {
                model: model.into(),
                reference: reference.into(),
                dataset: dataset.into(),
                metric: metric.into(),
                layer,
                depth,
                value: (!undefined).then_some(value),
                lo: (half > 0.0 && !undefined).then_some((value - half).max(0.0)),
                hi: (half > 0.0 && !undefined).then_some((value + half * 1.1).min(
                    if rise < 0.0 && group == "alignment" {
                        1.0
                    } else {
                        f64::INFINITY
                    },
                )),
                floor: (group == "alignment").then_some(floor),
            }
        })
        .collect()
}

fn weights(variants: &[&str]) -> Vec<WeightRecord> {
    let matrices = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let mut weights = Vec::new();
    for name in variants {
        for (metric, scale) in [("weight_change_relative", 0.01), ("weight_change", 1.2)] {
            let mut push = |parameter: String, value: f64| {
                weights.push(WeightRecord {
                    model: name.to_string(),
                    reference: "base".into(),
                    parameter,
                    metric: metric.into(),
                    value: Some(value),
                });
            };
            push("model.embed_tokens.weight".into(), 0.02 * scale);
            for block in 0..BLOCKS {
                for (row, matrix) in matrices.iter().enumerate() {
                    let depth = block as f64 / BLOCKS as f64;
                    let value = scale * (0.3 + depth * depth + 0.25 * (row as f64 * 1.7 + depth * 5.0).sin().abs());
                    push(format!("model.layers.{block}.{matrix}.weight"), value);
                }
            }
        }
    }
    weights
}

fn info(variants: &[&str], datasets: &[&str]) -> RunInfo {
    let file = |path: &str, bytes| FileHash {
        path: path.into(),
        bytes,
        blake3: "7d3f09c1".repeat(8),
    };
    let model = |name: &str| ModelInfo {
        name: name.into(),
        label: format!("models/SmolLM2-135M-{name}"),
        path: format!("models/SmolLM2-135M-{name}").into(),
        files: vec![file(
            &format!("models/SmolLM2-135M-{name}/model.safetensors"),
            269_060_552,
        )],
        architecture: "Llama, hidden 576, 9 heads (3 kv), bf16".into(),
        parameters: 134_515_008,
        blocks: BLOCKS,
    };
    let dataset = |name: &&str| DatasetInfo {
        name: name.to_string(),
        source: format!("data/{name}.jsonl"),
        format: "gsm8k".into(),
        files: vec![file(&format!("data/{name}.jsonl"), 749_738)],
        samples_total: 1319,
        samples_used: 200,
        token_samples_used: 50,
        samples_truncated: 61,
        tokens: 24_310,
        skipped: vec![Skipped {
            sample: "line 17".into(),
            reason: "the field `answer` is missing".into(),
        }],
    };
    let phases = [
        ("read checkpoints", 0.8),
        ("tokenise", 0.3),
        ("forward", 64.2),
        ("metrics", 9.7),
        ("intervals", 12.4),
    ];
    let mut command_line: Vec<String> = ["midblock", "analyze", "--base", "models/SmolLM2-135M-base"]
        .map(String::from)
        .to_vec();
    command_line.extend(
        variants
            .iter()
            .flat_map(|name| ["--variant".to_string(), format!("{name}=models/SmolLM2-135M-{name}")]),
    );
    command_line.extend(
        datasets
            .iter()
            .flat_map(|name| ["--data".to_string(), format!("{name}=data/{name}.jsonl")]),
    );
    RunInfo {
        midblock_run_schema: SCHEMA,
        midblock_version: "0.1.0".into(),
        command_line,
        config: serde_json::json!({"samples": 200, "token_samples": 50, "max_length": 128, "pooling": "mean"}),
        models: std::iter::once(model("base"))
            .chain(variants.iter().map(|name| model(name)))
            .collect(),
        datasets: datasets.iter().map(dataset).collect(),
        seeds: ["views", "bootstrap", "permutation"]
            .map(|purpose| Seed {
                purpose: purpose.into(),
                seed: 42,
            })
            .to_vec(),
        threads: 2,
        machine: Machine {
            platform: "linux x86_64".into(),
            device: "Xeon at 2.8 GHz".into(),
            cores: 2,
            memory_bytes: 16 << 30,
        },
        started_at: "2026-03-01T09:30:00Z".into(),
        finished_at: "2026-03-01T09:31:27Z".into(),
        timings: phases
            .map(|(phase, seconds)| Phase {
                phase: phase.into(),
                seconds,
            })
            .to_vec(),
        peak_private_bytes: Some(612 << 20),
        warnings: vec!["61 of 200 samples were cut at 128 tokens".into()],
        parts: Vec::new(),
    }
}

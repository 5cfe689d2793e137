//! A run in the terms of `run.json`.

use super::{AnalyzeConfig, clock::Clock};
use crate::{
    Result,
    model::{Architecture, NormPlacement, QkNorm},
    probe::Participant,
    run::{self, DatasetInfo, FileHash, Machine, ModelInfo, RunInfo, Seed, Skipped},
    tokens::{SampleSet, TokenizedSet},
};
use serde_json::json;
use std::time::SystemTime;

/// Key of the number of tokens that went through a block, over all blocks.
pub(in crate::study) const BLOCK_TOKENS: &str = "block_tokens_computed";

pub(super) fn model(participant: &Participant<'_>) -> Result<ModelInfo> {
    let Participant {
        name,
        checkpoint,
        architecture,
    } = participant;
    Ok(ModelInfo {
        name: name.clone(),
        label: checkpoint.label().to_owned(),
        path: checkpoint.path().to_path_buf(),
        files: checkpoint.fingerprint()?,
        architecture: summary(architecture),
        parameters: architecture.parameters() as u64,
        blocks: architecture.blocks,
    })
}

pub(super) fn dataset(config: &AnalyzeConfig, samples: &SampleSet, tokens: &TokenizedSet) -> Result<DatasetInfo> {
    let skipped = samples.skipped.iter().chain(&tokens.skipped);
    let skipped = skipped.map(|s| Skipped {
        sample: format!("{}:{}", s.file, s.row),
        reason: s.reason.to_string(),
    });
    Ok(DatasetInfo {
        name: samples.name.clone(),
        source: samples.path.clone(),
        format: samples.format.name().to_owned(),
        files: samples
            .files
            .iter()
            .map(|path| FileHash::of(path))
            .collect::<Result<_>>()?,
        samples_total: samples.total_rows,
        samples_used: tokens.ids.len(),
        token_samples_used: config.token_samples.min(tokens.ids.len()),
        samples_truncated: tokens.truncated,
        tokens: tokens.total_tokens() as u64,
        skipped: skipped.collect(),
    })
}

/// The run around its numbers.
pub(super) fn run(
    config: &AnalyzeConfig,
    models: Vec<ModelInfo>,
    datasets: Vec<DatasetInfo>,
    block_tokens: u64,
    mut warnings: Vec<String>,
    clock: Clock,
    started: SystemTime,
) -> RunInfo {
    for set in &datasets {
        if set.samples_used < config.samples {
            warnings.push(format!(
                "{}: {} samples where {} were asked for",
                set.name, set.samples_used, config.samples
            ));
        }
        if !set.skipped.is_empty() {
            let (name, skipped, total) = (&set.name, set.skipped.len(), set.samples_total);
            warnings.push(format!(
                "{name}: {skipped} of {total} rows could not be used; run.json names each"
            ));
        }
    }
    let (timings, peak_private_bytes) = clock.finish();
    RunInfo {
        midblock_run_schema: run::SCHEMA,
        midblock_version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line: std::env::args().collect(),
        config: resolved(config, block_tokens),
        models,
        datasets,
        seeds: vec![Seed {
            purpose: "sampling, views, bootstrap".to_owned(),
            seed: config.seed,
        }],
        threads: rayon::current_num_threads(),
        machine: Machine::this(),
        started_at: run::timestamp_utc(started),
        finished_at: run::timestamp_utc(SystemTime::now()),
        timings,
        peak_private_bytes,
        warnings,
        parts: Vec::new(),
    }
}

/// Every option of an analysis, and under [`BLOCK_TOKENS`] what it took.
pub(super) fn resolved(config: &AnalyzeConfig, block_tokens: u64) -> serde_json::Value {
    json!({
        "base": config.base,
        "variants": config.variants,
        "data": config.data.iter().map(|d| json!({"name": d.name, "source": d.source})).collect::<Vec<_>>(),
        "format": config.format.map(|f| f.name()),
        "samples": config.samples,
        "token_samples": config.token_samples,
        "max_length": config.max_length,
        "layers": config.layers,
        "pooling": config.pooling.name(),
        "resamples": config.resamples,
        "seed": config.seed,
        "protocol": config.metrics.protocol.name(),
        "subspace_rank": config.metrics.subspace_rank,
        "metrics": config.metrics.selected.names().collect::<Vec<_>>(),
        BLOCK_TOKENS: block_tokens,
    })
}

/// "llama, 30 blocks, hidden 576, 9 heads (3 kv) of 64, ffn 1536, vocabulary 49152, tied head".
pub(crate) fn summary(a: &Architecture) -> String {
    let mut text = format!(
        "{}, {} blocks, hidden {}, {} heads ({} kv) of {}, ffn {}, vocabulary {}",
        a.model_type, a.blocks, a.hidden, a.heads, a.kv_heads, a.head_dim, a.ffn, a.vocab
    );
    text += if a.tied_head { ", tied head" } else { ", separate head" };
    if a.qk_norm != QkNorm::None {
        text += ", q/k norm";
    }
    if a.norms == NormPlacement::After {
        text += ", norms after";
    }
    if let Some(window) = a.windows.iter().flatten().next() {
        let sliding = a.windows.iter().flatten().count();
        text += &format!(", window {window} in {sliding} blocks");
    }
    text
}

//! `midblock inspect`: what a checkpoint is and what working on it would take.

use crate::{args, checkpoint};
use anyhow::Result;
use midblock::{
    adapt::{Kind, LoraOptions, Move, Plan, Recipe, Scaling},
    checkpoint::{Checkpoint, TokenizerSource},
    model::{
        Architecture, BlockTensors,
        memory::{AnalysisSize, TrainingMemory, analysis_bytes},
    },
    select::Layers,
    tokens::Tokenizer,
    train::trained,
};
use midblock_kernels::Cpu;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// Rows of the training batch that memory is stated for.
const TRAINING_ROWS: usize = 4 * 128;
/// Rank of uniform LoRA that sets the budget memory is stated for.
const UNIFORM_RANK: usize = 8;

/// Prints the description as text or JSON.
pub fn run(args: &args::Inspect, common: &args::Common) -> Result<()> {
    let mut checkpoint = checkpoint::open(&args.checkpoint, common)?;
    let architecture = Architecture::resolve(checkpoint.config())?;
    BlockTensors::check_all(&checkpoint, &architecture)?;
    if let Some(kind) = args.quantize {
        checkpoint.quantize(kind, &[])?;
    }
    let value = describe(&checkpoint, &architecture)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        print!("{}", text(&value));
    }
    Ok(())
}

fn describe(checkpoint: &Checkpoint, a: &Architecture) -> Result<Value> {
    let mut stored: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for name in checkpoint.tensors().names() {
        if let Some((dtype, shape)) = checkpoint.tensors().describe(name) {
            let elements: usize = shape.iter().product();
            let entry = stored.entry(dtype.to_string()).or_default();
            entry.0 += elements;
            entry.1 += dtype.bytes_for(elements).unwrap_or(0);
        }
    }
    let weights: usize = stored.values().map(|(_, bytes)| bytes).sum();
    let parts: Vec<Value> = a
        .block_shape()
        .linears
        .iter()
        .map(|(name, [out, inp], bias)| json!({"name": name, "out_in": [out, inp], "bias": bias, "parameters": out * inp}))
        .collect();
    let analysis = AnalysisSize {
        samples: 200,
        tokens: 128,
        token_samples: 50,
    };
    let training: Vec<Value> = [
        ("full fine-tuning", None),
        ("LoRA", Some(Layers::All)),
        ("Mid-Block LoRA", Some(Layers::Mid)),
    ]
    .into_iter()
    .map(|(name, layers)| training(a, name, layers, checkpoint.quantized_bytes()))
    .collect::<Result<_>>()?;
    Ok(json!({
        "checkpoint": checkpoint.label(),
        "path": checkpoint.path(),
        "architecture": {
            "model_type": a.model_type, "blocks": a.blocks, "hidden": a.hidden, "ffn": a.ffn, "heads": a.heads,
            "kv_heads": a.kv_heads, "head_dim": a.head_dim, "vocabulary": a.vocab, "max_positions": a.max_positions,
            "tied_head": a.tied_head, "rope": format!("{:?}", a.rope), "sliding_blocks": a.windows.iter().flatten().count(),
        },
        "parameters": {
            "total": a.parameters(), "embedding": a.vocab * a.hidden, "head": if a.tied_head { 0 } else { a.vocab * a.hidden },
            "per_block": a.block_parameters(), "block_parts": parts,
        },
        "flop_per_token": {"blocks": a.blocks * a.block_flops_per_token(), "head": 2 * a.vocab * a.hidden},
        "stored": stored.iter().map(|(dtype, (n, bytes))| json!({"dtype": dtype, "elements": n, "bytes": bytes})).collect::<Vec<_>>(),
        "stored_bytes": weights,
        "adapter": checkpoint.adapter().map(|adapter| json!({
            "path": adapter.path, "matrices": adapter.pairs.len(),
            "parameters": adapter.pairs.values().map(|p| p.a.len() + p.b.len()).sum::<usize>(),
        })),
        "tokenizer": tokenizer(checkpoint, a)?,
        "chat_template": checkpoint.chat_template().is_some(),
        "memory": {
            "mapped_bytes": weights,
            "quantised": checkpoint.quantization().map(|kind| json!({"kind": kind.to_string(), "bytes": checkpoint.quantized_bytes()})),
            "analyze": {
                "models": 2, "samples": analysis.samples, "tokens": analysis.tokens,
                "private_bytes": analysis_bytes::<Cpu>(a, 2, analysis),
            },
            "training_rows": TRAINING_ROWS,
            "training": training,
        },
    }))
}

fn tokenizer(checkpoint: &Checkpoint, a: &Architecture) -> Result<Value> {
    let source = match checkpoint.tokenizer() {
        TokenizerSource::Missing { .. } => return Ok(Value::Null),
        TokenizerSource::File(path) => path.display().to_string(),
        TokenizerSource::Embedded { path, .. } => format!("inside of {}", path.display()),
    };
    let tokenizer = Tokenizer::load(checkpoint.tokenizer())?;
    let largest = tokenizer.max_id();
    Ok(json!({
        "source": source, "vocabulary": tokenizer.vocab_size(), "largest_id": largest,
        "fits_embedding": largest.is_none_or(|id| (id as usize) < a.vocab),
    }))
}

/// The same facts for people.
fn text(value: &Value) -> String {
    let mut out = String::new();
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let (a, p, m) = (&value["architecture"], &value["parameters"], &value["memory"]);
    let mut line = |text: String| {
        // writing into a String cannot fail
        let _ = writeln!(out, "{text}");
    };
    line(format!(
        "{}  ({})",
        value["checkpoint"].as_str().unwrap_or(""),
        value["path"].as_str().unwrap_or("")
    ));
    line(format!(
        "architecture   {}: {} blocks, hidden {}, {} heads ({} kv) of {}, ffn {}, vocabulary {}, {} positions, {} head",
        a["model_type"].as_str().unwrap_or(""),
        a["blocks"],
        a["hidden"],
        a["heads"],
        a["kv_heads"],
        a["head_dim"],
        a["ffn"],
        a["vocabulary"],
        a["max_positions"],
        if a["tied_head"] == true { "tied" } else { "separate" }
    ));
    line(format!(
        "parameters     {} in all: embedding {}, head {}, {} per block",
        count(number(&p["total"])),
        count(number(&p["embedding"])),
        count(number(&p["head"])),
        count(number(&p["per_block"]))
    ));
    for part in p["block_parts"].as_array().into_iter().flatten() {
        line(format!(
            "  {:<20} {:>14}  {}{}",
            part["name"].as_str().unwrap_or(""),
            part["out_in"].to_string(),
            count(number(&part["parameters"])),
            if part["bias"] == true { " + bias" } else { "" }
        ));
    }
    for stored in value["stored"].as_array().into_iter().flatten() {
        let (dtype, bytes) = (stored["dtype"].as_str().unwrap_or(""), number(&stored["bytes"]));
        line(format!(
            "stored         {dtype}: {} numbers, {}",
            count(number(&stored["elements"])),
            bytes_text(bytes)
        ));
    }
    let adapter = &value["adapter"];
    if adapter.is_object() {
        line(format!(
            "adapter        {} matrices, {} parameters",
            adapter["matrices"],
            count(number(&adapter["parameters"]))
        ));
    }
    match &value["tokenizer"] {
        Value::Null => line("tokenizer      none found".to_owned()),
        t => line(format!(
            "tokenizer      {} tokens, {}{}",
            t["vocabulary"],
            t["source"].as_str().unwrap_or(""),
            if t["fits_embedding"] == true {
                ""
            } else {
                "; its largest id does not fit the embedding"
            }
        )),
    }
    line(format!(
        "chat template  {}",
        if value["chat_template"] == true { "yes" } else { "no" }
    ));
    line(format!(
        "memory         {} of weights, memory-mapped, and privately:",
        bytes_text(number(&m["mapped_bytes"]))
    ));
    let analyze = bytes_text(number(&m["analyze"]["private_bytes"]));
    line(format!(
        "  {:<44} {analyze:>10}",
        "analyze, base and variant, 200 × 128 tokens"
    ));
    let quantised = &m["quantised"];
    if quantised.is_object() {
        line(format!(
            "  and with {} of frozen matrices in {} instead of mapped ones:",
            bytes_text(number(&quantised["bytes"])),
            quantised["kind"].as_str().unwrap_or("")
        ));
    }
    for t in m["training"].as_array().into_iter().flatten() {
        let (name, bytes) = (
            t["name"].as_str().unwrap_or(""),
            bytes_text(number(&t["private_bytes"])),
        );
        line(format!(
            "  {name:<44} {bytes:>10}  ({} trained)",
            count(number(&t["trained_parameters"]))
        ));
    }
    out
}

/// 134.5 M.
fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

/// 1.2 GiB.
pub fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.0} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Memory that training takes: everything, or LoRA on q, k, v and o of some blocks with the budget of uniform rank 8, beside
/// so many bytes of frozen matrices that are quantised.
fn training(a: &Architecture, name: &str, layers: Option<Layers>, quantized: usize) -> Result<Value> {
    let kind = match layers {
        None => Kind::Full,
        Some(_) => Kind::Lora(LoraOptions {
            rank: UNIFORM_RANK,
            alpha: None,
            dropout: 0.0,
            scaling: Scaling::default(),
        }),
    };
    let consumed = kind == Kind::Full;
    let recipe = Recipe {
        kind,
        layers: layers.unwrap_or(Layers::All),
        modules: None,
        extra: Vec::new(),
        seed: 0,
    };
    let plan = Plan::resolve(a, &recipe, None)?;
    let parameters: Vec<_> = trained(&plan)
        .iter()
        .map(|(id, shape)| (*id, shape.iter().product()))
        .collect();
    let rows = [TRAINING_ROWS; 2];
    let memory = TrainingMemory::plan::<Cpu>(a, &parameters, rows, plan.copies(), consumed, 0, None);
    let memory = memory.with_weights(if consumed { 0 } else { quantized }); // nothing is frozen if everything moves
    let rank = |how| match how {
        Move::Lora { rank, .. } => Some(rank),
        Move::Full | Move::Masked { .. } => None,
    };
    let ranks: BTreeSet<usize> = plan.entries.iter().filter_map(|entry| rank(entry.how)).collect();
    let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
    let name = match ranks.is_empty() {
        true => name.to_owned(),
        false => format!("{name}, rank {} on q, k, v, o", ranks.join("/")),
    };
    Ok(json!({"name": name, "trained_parameters": memory.parameters, "private_bytes": memory.bytes()}))
}

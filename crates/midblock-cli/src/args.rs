//! What can be typed. Help texts are these comments.

use clap::{Args, Parser, Subcommand};
use std::{num::NonZeroUsize, path::PathBuf};

/// See where supervised fine-tuning changes a language model, layer by layer.
///
/// CHECKPOINT is a Hugging Face folder, a .gguf file or a hub id (`org/name`, `org/name@revision`), optionally followed by
/// `+ADAPTER`, a PEFT LoRA folder.
#[derive(Debug, Parser)]
#[command(name = "midblock", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Common {
    /// Threads to compute with [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Print results and errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Never ask a hub: use files on disk and in the cache only (also HF_HUB_OFFLINE=1)
    #[arg(long, global = true)]
    pub offline: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare a base model with fine-tuned variants of it, layer by layer, and write a report
    Analyze(Box<Analyze>),
    /// Analyse the embedded tiny pair of models: the whole main job in seconds, nothing to download
    Quickstart(Quickstart),
    /// Describe a checkpoint: architecture, parameters, dtypes, tokenizer, memory needed
    Inspect(Inspect),
    /// Mean loss and perplexity of a checkpoint on text
    Perplexity(Perplexity),
    /// Write the report of a finished run again, from its records
    Report(Report),
    /// List the metrics with formulas, units and ranges
    Metrics,
    /// Measure this machine: matrix products, forward pass, memory; prints JSON
    Bench(Bench),
}

#[derive(Debug, Args)]
pub struct Analyze {
    /// The model before fine-tuning
    #[arg(long, value_name = "CHECKPOINT")]
    pub base: String,
    /// A fine-tuned variant and the name it gets in the report; repeatable
    #[arg(long = "variant", required = true, value_name = "NAME=CHECKPOINT")]
    pub variants: Vec<String>,
    #[command(flatten)]
    pub texts: Texts,
    /// How many of the samples, from the first, are kept token by token for token-level metrics
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub token_samples: usize,
    /// `all`, metric names or groups, separated by commas (see `midblock metrics`)
    #[arg(long, default_value = "all", value_name = "LIST")]
    pub metrics: String,
    /// Layers to measure: `all`; `key`: embedding, last, and the blocks at 20, 40, 60 and 80 %; `sparse`: every fourth and the last
    #[arg(long, default_value = "all")]
    pub layers: midblock::study::Layers,
    /// How a sample's token states become one vector: `mean` over its tokens or the `last` token
    #[arg(long, default_value = "mean")]
    pub pooling: midblock::probe::Pooling,
    /// `paper` reproduces the published scripts' numbers (no intervals), `default` measures as documented
    #[arg(long, default_value = "default")]
    pub protocol: midblock::metrics::Protocol,
    /// Bootstrap resamples of each 95 % interval; 0 leaves intervals out
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub resamples: usize,
    /// Folder of the run; must not exist yet, be empty, or be a run that --overwrite replaces
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace a finished run in --out
    #[arg(long)]
    pub overwrite: bool,
}

/// Which texts a model is run on.
#[derive(Debug, Args)]
pub struct Texts {
    /// Data set and the name it gets in the report: a JSONL, JSON, CSV, Parquet or text file, or a hub id; repeatable
    #[arg(long = "data", required = true, value_name = "NAME=FILE_OR_HUB_ID")]
    pub data: Vec<String>,
    /// How rows become text, if it is not to be recognised by their fields
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<midblock::tokens::Format>,
    /// Samples per data set, drawn without replacement
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub samples: usize,
    /// Tokens after which a sample is cut
    #[arg(long, default_value_t = 128, value_name = "T")]
    pub max_length: usize,
    /// Seed of everything drawn at random
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct Quickstart {
    /// Folder of the run
    #[arg(long, value_name = "DIR", default_value = "midblock-quickstart")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// What to describe
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Perplexity {
    /// Which model
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
    #[command(flatten)]
    pub texts: Texts,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Report {
    /// Folder of a finished run
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// A checkpoint to run; without one, random weights of SmolLM2-135M's shape
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: Option<String>,
    /// Sequences in the batch
    #[arg(long, default_value = "4")]
    pub batch: NonZeroUsize,
    /// Tokens per sequence
    #[arg(long, default_value = "128")]
    pub length: NonZeroUsize,
    /// Steps timed after two that warm up
    #[arg(long, default_value = "7")]
    pub steps: NonZeroUsize,
    /// Time optimiser steps instead of the forward pass: LoRA of rank 8 on q, k, v, o of every block, Mid-Block LoRA of the
    /// same budget, or full fine-tuning; all tokens in the loss
    #[arg(long, value_name = "KIND")]
    pub train: Option<Training>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Training {
    Lora,
    Mid,
    /// Mid-Block from the second epoch on: the frozen blocks below come from the cache
    MidCached,
    Full,
}

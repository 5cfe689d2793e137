//! What can be typed. Help texts are these comments.

use crate::shapes::Shape;
use clap::{Args, Parser, Subcommand, ValueEnum};
use midblock::checkpoint::Quantization;
use midblock_kernels::Dtype;
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
    /// Threads to compute with, in each process [default: all cores, shared by the processes that mpirun starts on them]
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
    /// Fine-tune chosen blocks of a model, with adapters or fully, and write the result with a report
    Tune(Box<Tune>),
    /// Train a new model from random weights, with a tokenizer learned from the same text
    Pretrain(Pretrain),
    /// Carve a reversible behaviour into a model: fine-tune it on one, then confine what was learned to few channels
    Carve(Box<Carve>),
    /// Look further into a model and its variants: early exit, logit lens, swapped and merged blocks, steering, gradients, …
    Study(Study),
    /// Train a trigger in front of a fine-tuned model that makes it say what its base would, weights untouched
    Erase(Box<Erase>),
    /// Train and judge many choices of blocks with one budget: one table, one picture
    Sweep(Sweep),
    /// Tune, judge and analyse the embedded tiny model: the whole main job in two or three minutes, nothing to download
    Quickstart(Quickstart),
    /// Describe a checkpoint: architecture, parameters, dtypes, tokenizer, memory needed
    Inspect(Inspect),
    /// What training and analysing a model would take: FLOP, bytes read and sent, memory, time; on one machine or many
    Plan(Plan),
    /// Mean loss and perplexity of a checkpoint on text
    Perplexity(Perplexity),
    /// Evaluate checkpoints on tasks: scores with intervals, every answer kept, differences tested on the same items
    Eval(Box<Eval>),
    /// Let a model answer prompts or go on with texts
    Generate(Generate),
    /// Talk with a model in the terminal
    Chat(Chat),
    /// Merge an adapter into its base, or a variant by segments, or convert: writes a Hugging Face folder
    Merge(Merge),
    /// Write the generated text that the embedded model was made from
    Corpus(Corpus),
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
    /// Run the models on the K-th of N shares of the samples only; `midblock report --join` makes the run of all N
    #[arg(long, value_name = "K/N")]
    pub shard: Option<midblock::study::Shard>,
    /// Folder of the run, or of the shard; must not exist yet, be empty, or be a run that --overwrite replaces
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

/// Flags stand for keys of the experiment's file and override it; `--set` overrides both.
#[derive(Debug, Default, Args)]
pub struct Tune {
    /// The experiment, as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A value for any key of the file, such as train.lr=3e-4; repeatable
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
    /// The model to start from [model.base]
    #[arg(long, value_name = "CHECKPOINT")]
    pub model: Option<String>,
    /// Quantise the frozen matrices of the blocks on loading: q4_0, q4_1, q5_0, q5_1 or q8_0 [model.quantize]
    #[arg(long, value_name = "KIND")]
    pub quantize: Option<String>,
    /// Data to train on; repeatable [data.train]
    #[arg(long, value_name = "NAME=FILE_OR_HUB_ID")]
    pub data: Vec<String>,
    /// Data to evaluate on; repeatable [data.eval]
    #[arg(long, value_name = "NAME=FILE_OR_HUB_ID")]
    pub eval: Vec<String>,
    /// How rows become samples, if it is not to be recognised [data.format]
    #[arg(long)]
    pub format: Option<String>,
    /// Which tokens are to be predicted: `answers` or `all` [data.loss_on]
    #[arg(long, value_name = "TOKENS")]
    pub loss_on: Option<String>,
    /// Tokens after which a sample is cut [data.max_length]
    #[arg(long, value_name = "T")]
    pub max_length: Option<i64>,
    /// Samples per training data set [data.samples]
    #[arg(long, value_name = "N")]
    pub samples: Option<i64>,
    /// Which blocks train: mid, all, range:a..b, segments:…, last:n, random, stable, … [select.layers]
    #[arg(long)]
    pub layers: Option<String>,
    /// Which matrices of these blocks: names, attention, mlp, all-linear or patterns [select.modules]
    #[arg(long, value_name = "LIST")]
    pub modules: Option<String>,
    /// A finished analysis, for the choices of blocks that read one [select.from]
    #[arg(long, value_name = "DIR")]
    pub from: Option<String>,
    /// Train the parameters themselves instead of adapters [adapt.kind]
    #[arg(long)]
    pub full: bool,
    /// LoRA rank if every block were adapted: sets the budget [adapt.rank]
    #[arg(long, value_name = "R")]
    pub rank: Option<i64>,
    /// LoRA alpha at that rank [adapt.alpha]
    #[arg(long)]
    pub alpha: Option<f64>,
    /// fixed-alpha, fixed-ratio or rslora [adapt.scaling]
    #[arg(long, value_name = "SCALING")]
    pub lora_scaling: Option<String>,
    /// What is minimised: sft, rpsft, dft, iw or kl; lcdd with masks [objective.kind]
    #[arg(long, value_name = "KIND")]
    pub objective: Option<String>,
    /// `paper` derives the weights of `iw`, as the published scripts do [objective.detach]; `default` takes them as constants
    #[arg(long)]
    pub protocol: Option<midblock::metrics::Protocol>,
    /// Passes over the data [train.epochs]
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    pub epochs: Option<i64>,
    /// Optimiser steps [train.steps]
    #[arg(long, value_name = "N")]
    pub steps: Option<i64>,
    /// Sequences in a micro-batch [train.batch]
    #[arg(long, value_name = "N")]
    pub batch: Option<i64>,
    /// Micro-batches in a step [train.accumulation]
    #[arg(long, value_name = "N")]
    pub accumulation: Option<i64>,
    /// Largest learning rate [train.lr]
    #[arg(long)]
    pub lr: Option<f64>,
    /// Steps between evaluations [train.eval_every]
    #[arg(long, value_name = "N")]
    pub eval_every: Option<i64>,
    /// Seed of everything drawn at random [train.seed]
    #[arg(long)]
    pub seed: Option<i64>,
    /// Memory for a step, such as "2 GiB" [train.memory]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Folder of the run [output.dir]
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// Go on with the unfinished run of the folder, with its own options if none are given; begin if there is none
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the run of the folder
    #[arg(long)]
    pub overwrite: bool,
    /// Say what would train, how deep backward goes, and what it would take; train nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the first N samples with what is learned of them marked; train nothing
    #[arg(long, value_name = "N")]
    pub show_mask: Option<usize>,
}

/// Flags stand for keys of the file and override it; `--set` overrides both.
#[derive(Debug, Args)]
pub struct Erase {
    /// The training of the trigger, as TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A value for any key of the file, such as eraser.tokens=10; repeatable
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
    /// The model whose behaviour is to come back [model.base]
    #[arg(long, value_name = "CHECKPOINT")]
    pub base: Option<String>,
    /// The fine-tuned model, or a carrier's, that the trigger stands in front of [model.tuned]
    #[arg(long, value_name = "CHECKPOINT")]
    pub model: Option<String>,
    /// Folder of the carrier whose channels are drawn to the base's [model.carrier]
    #[arg(long, value_name = "DIR")]
    pub carrier: Option<String>,
    /// Prompts, in any format that training reads [data.prompts]
    #[arg(long, value_name = "FILE_OR_HUB_ID")]
    pub prompts: Option<String>,
    /// How rows become prompts, if it is not to be recognised [data.format]
    #[arg(long)]
    pub format: Option<String>,
    /// carrier, ffn, attention, random, residual or none [eraser.channels]
    #[arg(long)]
    pub channels: Option<String>,
    /// Prompts, drawn from the data [eraser.samples]
    #[arg(long, value_name = "N")]
    pub samples: Option<i64>,
    /// Prompts in a step [eraser.batch]
    #[arg(long, value_name = "N")]
    pub batch: Option<i64>,
    /// Steps [eraser.steps]
    #[arg(long, value_name = "N")]
    pub steps: Option<i64>,
    /// Learning rate [eraser.lr]
    #[arg(long)]
    pub lr: Option<f64>,
    /// Seed of everything drawn at random [eraser.seed]
    #[arg(long)]
    pub seed: Option<i64>,
    /// Memory for a step, such as "2 GiB" [eraser.memory]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Folder of the run [output.dir]
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// Go on with the unfinished run of the folder, with its own options if none are given; begin if there is none
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the run of the folder
    #[arg(long)]
    pub overwrite: bool,
}

/// The shape is the file's `[model.new]`; flags override other keys, `--set` overrides both.
#[derive(Debug, Args)]
pub struct Pretrain {
    /// The experiment, as TOML; required unless a run goes on
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A value for any key of the file, such as model.new.blocks=24; repeatable
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Text to train on, and to learn the tokenizer from; repeatable [data.train]
    #[arg(long, value_name = "NAME=FILE_OR_HUB_ID")]
    pub data: Vec<String>,
    /// Text to evaluate on; repeatable [data.eval]
    #[arg(long, value_name = "NAME=FILE_OR_HUB_ID")]
    pub eval: Vec<String>,
    /// Optimiser steps [train.steps]
    #[arg(long, value_name = "N")]
    pub steps: Option<i64>,
    /// Largest learning rate [train.lr]
    #[arg(long)]
    pub lr: Option<f64>,
    /// Seed of the initial weights and of everything else drawn at random [train.seed]
    #[arg(long)]
    pub seed: Option<i64>,
    /// Folder of the run [output.dir]
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// Go on with the unfinished run of the folder, with its own options if none are given; begin if there is none
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the run in --out
    #[arg(long)]
    pub overwrite: bool,
    /// Say what would train, and what it would take; train nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl From<&Pretrain> for Tune {
    fn from(args: &Pretrain) -> Self {
        Self {
            config: args.config.clone(),
            sets: args.sets.clone(),
            data: args.data.clone(),
            eval: args.eval.clone(),
            steps: args.steps,
            lr: args.lr,
            seed: args.seed,
            out: args.out.clone(),
            resume: args.resume,
            overwrite: args.overwrite,
            dry_run: args.dry_run,
            ..Self::default()
        }
    }
}

/// Two training runs in one folder. The same command goes on after an interruption. Flags stand for keys of the file and override it;
/// `--set` overrides both.
#[derive(Debug, Args)]
pub struct Carve {
    /// The carve, as TOML: [model], [behaviour] and [carve]; by default that of a carve that has begun in --out
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A value for any key of the file, such as carve.sft.train.lr=1e-5; repeatable
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
    /// The model that the behaviour is carved into [model.base]
    #[arg(long, value_name = "CHECKPOINT")]
    pub base: Option<String>,
    /// `fixed-response`: every prompt gets the same; `examples`: rows have their own [behaviour.kind]
    #[arg(long, value_name = "KIND")]
    pub behaviour: Option<String>,
    /// The prompts, and with `examples` their responses [behaviour.data]
    #[arg(long, value_name = "FILE_OR_HUB_ID")]
    pub prompts: Option<String>,
    /// The response of `fixed-response` [behaviour.response]
    #[arg(long, value_name = "TEXT")]
    pub response: Option<String>,
    /// A text that a response which shows the behaviour contains; repeatable [behaviour.keywords]
    #[arg(long = "keyword", value_name = "TEXT")]
    pub keywords: Vec<String>,
    /// Prompts that the behaviour is judged by: a number, or a share below 1 [behaviour.held_out]
    #[arg(long, value_name = "N")]
    pub held_out: Option<String>,
    /// Prompts trained on [behaviour.samples]
    #[arg(long, value_name = "N")]
    pub samples: Option<i64>,
    /// A model that has the behaviour already, in place of phase 1 [carve.tuned]
    #[arg(long, value_name = "CHECKPOINT")]
    pub sft: Option<String>,
    /// lcdd, mask-only or mask-only-kl [carve.mode]
    #[arg(long)]
    pub mode: Option<String>,
    /// Folder of the carve [output.dir]
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// Say what would be trained on what, and what it would take; train nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What is done is kept: the same command goes on after an interruption, and other kinds can be added to the folder.
#[derive(Debug, Args)]
pub struct Study {
    /// `all` but tradeoff and reversal, or some of exit, lens, swap, alphas, steer, drift, gradients, seeds, correlate, selective, locate,
    /// tradeoff, reversal, separated by commas
    #[arg(value_name = "KINDS")]
    pub kinds: String,
    /// The study, as TOML: an experiment's with [study]; by default that of a study that has begun in --out
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A value for any key of the file, such as study.lens.shown=5; repeatable
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
    /// The model before fine-tuning [model.base]
    #[arg(long, value_name = "CHECKPOINT")]
    pub base: Option<String>,
    /// A fine-tuned variant and the name it gets in the report; repeatable [study.variants]
    #[arg(long = "variant", value_name = "NAME=CHECKPOINT")]
    pub variants: Vec<String>,
    /// Data to train on, for the kinds that train; repeatable [data.train]
    #[arg(long, value_name = "NAME=FILE_OR_HUB_ID")]
    pub data: Vec<String>,
    /// Data to measure on; --data if there is none; repeatable [data.eval]
    #[arg(long, value_name = "NAME=FILE_OR_HUB_ID")]
    pub eval: Vec<String>,
    /// A finished carve, for reversal; base and data are its own if not given [study.reversal.carve]
    #[arg(long, value_name = "DIR")]
    pub carve: Option<String>,
    /// Samples measured of each data set [study.samples]
    #[arg(long, value_name = "N")]
    pub samples: Option<i64>,
    /// Seed of the draw and of every resampling [study.seed]
    #[arg(long)]
    pub seed: Option<i64>,
    /// Folder of the study [output.dir]
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
}

/// The same command again goes on with a sweep that was interrupted, and tries again what failed.
#[derive(Debug, Args)]
pub struct Sweep {
    /// The sweep, as TOML: an experiment's with [sweep] and [eval]; by default that of a sweep that has begun in --out
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A value for any key of the file, such as sweep.seeds=[1,2]; repeatable
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Folder of the sweep [output.dir]
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// List the cells with their blocks, ranks, steps and the time of training; train nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags override the keys of `--config`. An evaluation that was interrupted goes on where it was with the same command.
#[derive(Debug, Args)]
pub struct Eval {
    /// Which models, each with a name of its own if given as NAME=CHECKPOINT; the others are compared with the first
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoints: Vec<String>,
    /// A built-in task or a file, and the data to take items from in place of the task's own; repeatable
    #[arg(long = "task", value_name = "TASK[=FILE_OR_HUB_ID]")]
    pub tasks: Vec<String>,
    /// List the built-in tasks
    #[arg(long)]
    pub list: bool,
    /// Options as TOML, under the names of the flags; `tasks` is a list
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Items of each task, drawn without replacement [default: all]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Completions of each item, for avg@k, pass@k and maj@k; needs a temperature [default: 1]
    #[arg(long, value_name = "K")]
    pub repeats: Option<usize>,
    /// Sequences that are worked on together; no result depends on it [default: 16]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// `standard`: the task's own settings; `paper`: those of arXiv 2604.11838 [default: standard]
    #[arg(long)]
    pub protocol: Option<midblock::eval::Protocol>,
    /// How items are answered, in place of the task's way: generate, letters, choices or perplexity
    #[arg(long)]
    pub method: Option<midblock::eval::Method>,
    /// Solved examples before each item, in place of the task's number
    #[arg(long, value_name = "N")]
    pub few_shot: Option<usize>,
    /// Most tokens of a completion, in place of the task's
    #[arg(long, value_name = "T")]
    pub max_new: Option<usize>,
    /// Prompts through the chat template if there is one (`auto`), always (`chat`) or never (`plain`) [default: auto]
    #[arg(long)]
    pub template: Option<midblock::eval::Template>,
    /// A trigger that `midblock erase` wrote, in front of every prompt of all checkpoints, or of the one of that name; repeatable
    #[arg(long = "trigger", value_name = "[NAME=]FILE")]
    pub triggers: Vec<String>,
    /// Divides the logits; 0 is greedy [default: 0]
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Only the K most likely tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Only the fewest most likely tokens whose probabilities reach P together
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Only tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Makes tokens that were there less likely; 1 changes nothing
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f64>,
    /// Quantise the matrices of the blocks on loading: q4_0, q4_1, q5_0, q5_1 or q8_0
    #[arg(long, value_name = "KIND")]
    pub quantize: Option<Quantization>,
    /// Run the programs that a model writes, for humaneval: with limits, but better in a container
    #[arg(long)]
    pub run_programs: bool,
    /// Seed of everything drawn at random [default: 42]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Folder of the evaluation; of several checkpoints, of one folder for each and their comparison
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Corpus {
    /// `text` to train a base model on; to fine-tune it on, `problems` with answers in steps or `questions` with short ones
    #[arg(long)]
    pub kind: midblock::corpus::Kind,
    /// How many
    #[arg(long, value_name = "N")]
    pub rows: u64,
    /// Seed of all chance
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// The split to evaluate on: none of its calculations is in the other
    #[arg(long)]
    pub held_out: bool,
    /// JSONL file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
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
    /// State memory with the matrices of the blocks quantised on loading: q4_0, q4_1, q5_0, q5_1 or q8_0
    #[arg(long, value_name = "KIND")]
    pub quantize: Option<Quantization>,
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

/// The shape is a CHECKPOINT's or named by --shape; rates that are not given are measured on this machine.
#[derive(Debug, Args)]
pub struct Plan {
    /// A model that is there
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: Option<String>,
    /// A model that is not, with weights in bf16
    #[arg(long, value_enum, conflicts_with = "checkpoint")]
    pub shape: Option<Shape>,
    /// Quantise the frozen matrices of the blocks on loading: q4_0, q4_1, q5_0, q5_1 or q8_0
    #[arg(long, value_name = "KIND")]
    pub quantize: Option<Quantization>,
    /// Which blocks train, as in `tune`
    #[arg(long, default_value = "mid")]
    pub layers: String,
    /// LoRA rank on q, k, v, o if every block were adapted
    #[arg(long, default_value = "8", value_name = "R")]
    pub rank: NonZeroUsize,
    /// Train the parameters themselves
    #[arg(long)]
    pub full: bool,
    /// Sequences in a micro-batch
    #[arg(long, default_value = "4")]
    pub batch: NonZeroUsize,
    /// Tokens per sequence, in training and analysis
    #[arg(long, default_value = "128")]
    pub length: NonZeroUsize,
    /// Micro-batches in a step
    #[arg(long, default_value = "1", value_name = "N")]
    pub accumulation: NonZeroUsize,
    /// Texts of the analysis
    #[arg(long, default_value = "200", value_name = "N")]
    pub samples: NonZeroUsize,
    /// Machines that each make a step of their own samples and sum their gradients, or that share an analysis's texts
    #[arg(long, default_value = "1", value_name = "N")]
    pub machines: NonZeroUsize,
    /// FLOP/s of a machine's matrix products, in 10⁹
    #[arg(long, value_parser = positive)]
    pub gflops: Option<f64>,
    /// What a machine reads from memory, GB/s; from disk for a model that memory does not hold
    #[arg(long, value_name = "GB/S", value_parser = positive)]
    pub bandwidth: Option<f64>,
    /// What a machine sends to another, GB/s
    #[arg(long, default_value = "1.25", value_name = "GB/S", value_parser = positive)]
    pub network: f64,
    /// Time of an empty message, µs
    #[arg(long, default_value = "50", value_name = "µS", value_parser = positive)]
    pub latency: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    let number = number.filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

/// How a model is asked to go on.
#[derive(Debug, Args)]
pub struct Writing {
    /// Most tokens to write
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new: usize,
    /// Quantise the matrices of the blocks on loading: q4_0, q4_1, q5_0, q5_1 or q8_0
    #[arg(long, value_name = "KIND")]
    pub quantize: Option<Quantization>,
    /// Divides the logits before a token is drawn; 0 always takes the most likely one
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f64,
    /// Draw from the K most likely tokens only
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the fewest most likely tokens whose probabilities reach P only
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Draw from tokens at least P times as likely as the most likely one only
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Make tokens that were there already less likely; 1 changes nothing
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    pub repetition_penalty: f64,
    /// End where this text appears; can be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Seed of the draws
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub seed: u64,
}

/// `--template`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Prompting {
    /// As chat messages if the checkpoint has a chat template
    Auto,
    /// As chat messages
    Chat,
    /// As text to go on with
    Plain,
}

#[derive(Debug, Args)]
pub struct Generate {
    /// Which model
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
    /// What to answer or to go on with; `-` reads standard input
    #[arg(value_name = "PROMPT", required_unless_present = "prompts")]
    pub prompt: Vec<String>,
    /// A file of prompts, a row each: `prompt` (a text, or chat messages) or `messages`
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// How prompts are put to the model
    #[arg(long, value_enum, default_value = "auto")]
    pub template: Prompting,
    /// System message before each prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A trigger that `midblock erase` wrote, in front of each prompt
    #[arg(long, value_name = "FILE")]
    pub trigger: Option<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
    /// Prompts that are answered at a time; what is written does not depend on it
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(16).expect("invariant: not zero"))]
    pub batch: NonZeroUsize,
    /// Print a line of JSON for each prompt, in their order
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Chat {
    /// Which model
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A trigger that `midblock erase` wrote, in front of the conversation
    #[arg(long, value_name = "FILE")]
    pub trigger: Option<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Debug, Args)]
pub struct Merge {
    /// BASE+ADAPTER, or a model to convert, or the base of a merge with --alphas
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
    /// How much of the variant to take, one α for each of as many segments of the blocks, such as 0,1,1,1,0.5
    #[arg(
        long,
        value_name = "A,…",
        value_delimiter = ',',
        allow_negative_numbers = true,
        requires = "variant"
    )]
    pub alphas: Vec<f64>,
    /// The fine-tuned variant that --alphas merges
    #[arg(long, value_name = "CHECKPOINT", requires = "alphas")]
    pub variant: Option<String>,
    /// Folder to write; must not exist yet or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Format of the weights; `same` keeps each tensor's own and makes f32 of quantised ones
    #[arg(long, value_enum, default_value = "same")]
    pub dtype: WeightFormat,
    /// Size above which the weights are split into several files, such as 500MB or 2GiB
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    pub max_shard_size: ByteSize,
    /// Sequences on which the logits are compared afterwards; 0 for no comparison
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub check: usize,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightFormat {
    Same,
    F32,
    F16,
    Bf16,
}

impl WeightFormat {
    /// `None` for each tensor's own.
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Same => None,
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::BF16),
        }
    }
}

/// A number of bytes: digits and a unit, KB, MB, GB in powers of 1000 or KiB, MiB, GiB in powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl Default for ByteSize {
    fn default() -> Self {
        Self(midblock::checkpoint::WriteOptions::default().max_shard_bytes)
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err("write a whole number and KB, MB, GB, KiB, MiB or GiB".to_owned()),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        let bytes = bytes.filter(|bytes| *bytes > 0);
        bytes
            .map(Self)
            .ok_or_else(|| "not a size between 1 KB and 2^64 bytes".to_owned())
    }
}

#[derive(Debug, Args)]
pub struct Report {
    /// Folder of a finished run
    #[arg(value_name = "DIR", required_unless_present = "join")]
    pub dir: Option<PathBuf>,
    /// Make the run of an analysis from the folders of all its shards, in any order
    #[arg(long, num_args = 1.., value_name = "DIR", requires = "out", conflicts_with = "dir")]
    pub join: Vec<PathBuf>,
    /// Folder of the joined run
    #[arg(long, value_name = "DIR", requires = "join")]
    pub out: Option<PathBuf>,
    /// Replace a finished run in --out
    #[arg(long, requires = "join")]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// A checkpoint to run; without one, random weights
    #[arg(long, value_name = "CHECKPOINT")]
    pub checkpoint: Option<String>,
    /// Shape of random weights, f32 unless --quantize says otherwise
    #[arg(long, value_enum, default_value = "smollm2-135m", conflicts_with = "checkpoint")]
    pub shape: Shape,
    /// Format of the blocks' matrices: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1 or q8_0. Random weights are made in it, a checkpoint's are
    /// quantised. With --train several, separated by commas, whose steps are timed in turns
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub quantize: Vec<Dtype>,
    /// Sequences in the batch
    #[arg(long, default_value = "4")]
    pub batch: NonZeroUsize,
    /// Tokens per sequence
    #[arg(long, default_value = "128")]
    pub length: NonZeroUsize,
    /// Steps timed after as many that warm up, two at most
    #[arg(long, default_value = "7")]
    pub steps: NonZeroUsize,
    /// Time optimiser steps instead of the forward pass: LoRA of rank 8 on q, k, v, o of every block, Mid-Block LoRA of the
    /// same budget, or full fine-tuning; all tokens in the loss
    #[arg(long, value_name = "KIND")]
    pub train: Option<Training>,
    /// Time the optimiser steps of this objective, in turns with plain ones: `rpsft`, `dft`, `iw` or `kl`; what the start model says of
    /// the batch is kept after the first step, as in later epochs
    #[arg(long, value_name = "KIND", requires = "train")]
    pub objective: Option<midblock::config::ObjectiveKind>,
    /// Singular directions of each matrix that `rpsft` holds
    #[arg(long, default_value = "128", value_name = "K")]
    pub directions: NonZeroUsize,
    /// Time the steps of a trigger's training instead, in turns with the passes that they are made of; the trigger comes on top of --length
    #[arg(long, conflicts_with = "train")]
    pub erase: bool,
    /// Tokens that all sequences begin with, for --erase
    #[arg(long, default_value_t = 0, value_name = "N", requires = "erase")]
    pub common: usize,
    /// Time writing this many tokens, at least 2, after each sequence instead; needs --checkpoint
    #[arg(long, value_name = "N", conflicts_with_all = ["train", "erase"], requires = "checkpoint")]
    pub generate: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Training {
    Lora,
    Mid,
    /// Mid-Block from the second epoch on: the frozen blocks below come from the cache
    MidCached,
    Full,
    /// Masks over a tuned model's change, and that change, in turns with full fine-tuning of the same matrices
    Masked,
}

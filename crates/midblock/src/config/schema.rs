//! The tables and keys of an experiment's TOML, with their defaults.
//!
//! What a key means and its default stand with the field. A field that is an `Option` has a default that depends on other
//! keys, or none; [`super::Config::load`] fills the former in, so that a resolved configuration says everything.

use super::{Adapt, ByteSize, DataSource, NewModel, Objective};
use crate::{
    checkpoint::Quantization,
    select::{Layers, Modules},
    tokens::{Format, Long, LossOn, Order},
    train::Shape,
};
use midblock_kernels::Dtype;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is trained.
    pub model: Model,
    /// On what.
    pub data: Data,
    /// Which blocks and matrices move.
    pub select: Select,
    /// How they move.
    pub adapt: Adapt,
    /// What is minimised.
    pub objective: Objective,
    /// The loop.
    pub train: Train,
    /// What is written, and where.
    pub output: Output,
}

/// `[model]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// The CHECKPOINT to start from: folder, `.gguf` file or hub id, with or without `+ADAPTER`. Required unless there is `new`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// What the frozen matrices of the blocks are quantised to when they are loaded: `q4_0`, `q4_1`, `q5_0`, `q5_1` or `q8_0`. They
    /// stay as they are stored by default, and so does what is quantised already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantization>,
    /// The shape of a model to train from random weights, for `midblock pretrain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Data to train on: `"NAME=SOURCE"`, a list of such, or tables `{name, source}`. Required.
    #[serde(with = "super::source::one_or_many")]
    pub train: Vec<DataSource>,
    /// Data to evaluate on, written in the same way; none by default.
    #[serde(with = "super::source::one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub eval: Vec<DataSource>,
    /// Share of the training samples that is held out for evaluation, drawn by the seed; 0 by default. Not with `eval`.
    pub eval_share: f64,
    /// How rows become samples; recognised by their fields if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Which tokens are to be predicted: `answers` (default) or `all` (default for a new model).
    pub loss_on: LossOn,
    /// A Jinja file to use as chat template; the checkpoint's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PathBuf>,
    /// Tokens after which a sample is cut; 512 by default. The paper's runs take 128.
    pub max_length: usize,
    /// What happens to longer texts: `cut` (default), or `split` (default for a new model) into several sequences, each of
    /// which begins with the last token of the one before, so that every token is predicted once. Conversations are cut.
    pub long: Long,
    /// Samples per training data set, drawn without replacement; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Samples per data set of `eval`; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_samples: Option<usize>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            eval: Vec::new(),
            eval_share: 0.0,
            format: None,
            loss_on: LossOn::default(),
            max_length: 512,
            long: Long::default(),
            template: None,
            samples: None,
            eval_samples: None,
        }
    }
}

/// `[select]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    /// Which blocks: `mid` (default with LoRA), `all` (default with full fine-tuning and with masks), `segments:-1,107,107,107,-1`,
    /// `band:0.2-0.8`, `range:a..b`, `list:…`, `last:n`, `first:n`, `freeze-first:ratio`, or `random`, `stable`, `gradient`,
    /// `spectrum`, `cka` with `:n` or `:n%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Which matrices of these blocks: names, `attention`, `mlp`, `all-linear` or patterns, separated by commas. `attention` by
    /// default with LoRA; with full fine-tuning everything in a block, norms included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<Modules>,
    /// Full names of parameters to train besides, such as `model.norm.weight`; with full fine-tuning only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<String>,
    /// Folder of a finished analysis, for the strategies that read one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Passes over the data; 1 unless `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Optimiser steps, however many epochs that takes. Not with `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Sequences in a micro-batch; 4 unless `batch_tokens` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Tokens in a micro-batch, at most (a longer sample is a batch of its own). Not with `batch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Order of the samples: `shuffled` (default), `file`, or `length_buckets` (shuffled, with like lengths together).
    pub order: Order,
    /// Micro-batches in a step; 8 by default, as in the paper. The last step of an epoch may have fewer.
    pub accumulation: usize,
    /// Largest learning rate; 1e-4 by default, as in the paper.
    pub lr: f64,
    /// `linear` (default), `cosine` or `constant`.
    pub schedule: Shape,
    /// Steps of a linear warm-up from 0; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// The same as a share of all steps, rounded up. Not with `warmup_steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Share of `lr` at which `linear` and `cosine` end; 0 by default.
    pub min_lr_ratio: f64,
    /// Decoupled weight decay of AdamW; 0 by default.
    pub weight_decay: f64,
    /// AdamW's decay rates of the two moments; `[0.9, 0.999]` by default.
    pub betas: [f64; 2],
    /// AdamW's ε; 1e-8 by default.
    pub eps: f64,
    /// Norm to which a larger gradient is scaled down; 1 by default, 0 for no clipping.
    pub clip: f64,
    /// Seed of the adapters' initial values, dropout, order, and of what is drawn from the data; 42 by default.
    pub seed: u64,
    /// Steps between evaluations; at the end alone by default. Needs `data.eval` or `data.eval_share`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Steps between checkpoints; 100 by default. The last step and an interrupted one are saved in any case.
    pub save_every: u64,
    /// Checkpoints kept, from the newest; 2 by default.
    pub keep_checkpoints: usize,
    /// Whether the parameters of the best evaluation are the result instead of the last ones; no by default.
    pub keep_best: bool,
    /// Evaluations in a row without a new lowest loss after which training stops; it goes on by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Memory for what a step keeps, such as `"2 GiB"`: less memory means more is computed twice. Unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Where the outputs of the frozen blocks below the first trained one are kept for later epochs.
    pub prefix_cache: Cache,
    /// Where what the start model says of the samples is kept, for `iw` and `kl`; for `lcdd` with `target = "tuned"`, what the tuned one says.
    pub start_cache: Cache,
    /// Measuring how far the trained matrices and the states have turned from the start.
    pub drift: Drift,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch: None,
            batch_tokens: None,
            order: Order::default(),
            accumulation: 8,
            lr: 1e-4,
            schedule: Shape::Linear,
            warmup_steps: None,
            warmup_ratio: None,
            min_lr_ratio: 0.0,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            eps: 1e-8,
            clip: 1.0,
            seed: 42,
            eval_every: None,
            save_every: 100,
            keep_checkpoints: 2,
            keep_best: false,
            patience: None,
            memory: None,
            prefix_cache: Cache::default(),
            start_cache: Cache::default(),
            drift: Drift::default(),
        }
    }
}

/// `[train.drift]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drift {
    /// Steps between measurements; after the last step it is measured too. Never by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// k, the leading singular directions followed; 32 by default.
    pub directions: usize,
    /// Sequences whose states are compared, the first of the evaluation or else of the training; 32 by default.
    pub samples: usize,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            every: None,
            directions: 32,
            samples: 32,
        }
    }
}

/// `[train.prefix_cache]` and `[train.start_cache]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// In memory; `"1 GiB"` by default.
    pub memory: ByteSize,
    /// On disk, in a temporary file while it trains; `"8 GiB"` by default.
    pub disk: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            memory: ByteSize(1 << 30),
            disk: ByteSize(8 << 30),
        }
    }
}

/// `[output]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Folder of the run. Required, except for a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Whether TensorBoard event files are written; yes by default.
    pub tensorboard: bool,
    /// Format of a model's weights: `f32`, `f16` or `bf16`; by default that of each tensor of the base, f32 for a new model. An
    /// adapter is always f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<WeightFormat>,
}

/// `output.dtype`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names say it
pub enum WeightFormat {
    F32,
    F16,
    Bf16,
}

impl From<WeightFormat> for Dtype {
    fn from(format: WeightFormat) -> Self {
        match format {
            WeightFormat::F32 => Self::F32,
            WeightFormat::F16 => Self::F16,
            WeightFormat::Bf16 => Self::BF16,
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self {
            dir: None,
            tensorboard: true,
            dtype: None,
        }
    }
}

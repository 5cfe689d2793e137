//! A configuration with everything it names opened: model, data, selection. Nothing is trained or written yet.

use super::{
    Batching, CacheOptions, Identity, Item, Length, Objective, Schedule, StepOptions, Timeline, Trainer,
    gradient_norms, masked::check_origin, untrained::untrained,
};
use crate::{
    Error, Result,
    adapt::{Kind, LoraOptions, Plan, Recipe},
    checkpoint::{Checkpoint, digest},
    config::{AdaptKind, Config},
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    progress::Progress,
    rng,
    run::{DatasetInfo, FileHash, Run, Skipped},
    select::{Layers, Strategy},
    singular::SingularCache,
    tokens::{
        BatchPlan, ChatTemplate, Grouping, Order, Tokenizer, TrainingFormatOptions, TrainingSample, TrainingSet, data,
    },
};
use midblock_kernels::Backend;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};
use std::{path::Path, time::SystemTime};

/// Tokens of a batch to evaluate on, so that stopping does not wait for a whole evaluation.
const EVALUATION_TOKENS: usize = 1024;

/// What a data set of a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Trained on, except for what is held out.
    Train,
    /// Evaluated on.
    Evaluation,
}

/// A data set and what of it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataCount {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Sequences; one row may give several.
    pub sequences: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those in the loss.
    pub trained_tokens: usize,
    /// Hash of ids and masks.
    pub hash: String,
}

/// Everything a run needs, in memory.
pub struct Experiment {
    /// Resolved.
    pub config: Config,
    /// The base.
    pub checkpoint: Checkpoint,
    /// The model whose change is masked; none but for masks.
    pub tuned: Option<Checkpoint>,
    /// What of its change masks cannot take back.
    pub warnings: Vec<String>,
    /// Its shape.
    pub architecture: Architecture,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What moves.
    pub plan: Plan,
    /// Sequences to train on.
    pub train: Vec<TrainingSample>,
    /// Sequences to evaluate on.
    pub eval: Vec<TrainingSample>,
    /// What each data set gave.
    pub counts: Vec<DataCount>,
    /// The same as analyses record it.
    pub datasets: Vec<DatasetInfo>,
}

impl Experiment {
    /// Opens what a resolved configuration names. `now` is the time that chat templates see: the start of the run. `backend`
    /// computes only for a choice of blocks by their gradients.
    ///
    /// # Errors
    /// Whatever is wrong with checkpoint, data or selection.
    pub fn prepare<B: Backend>(
        backend: &B,
        config: Config,
        hub: &HubOptions,
        on_transfer: OnTransfer<'_>,
        now: SystemTime,
    ) -> Result<Self> {
        let mut checkpoint = match &config.model.new {
            Some(new) => untrained(&config, new, hub, on_transfer)?,
            None => Checkpoint::open(&config.model.base, hub, on_transfer)?,
        };
        let tuned = (config.adapt.tuned.as_ref()).map(|tuned| Checkpoint::open(tuned, hub, on_transfer));
        let tuned = tuned.transpose()?;
        let architecture = Architecture::resolve(checkpoint.config())?;
        let early = planned(&config, &architecture)?;
        let tokenizer = Tokenizer::of(&checkpoint)?;
        let template = match &config.data.template {
            Some(path) => Some(ChatTemplate::from_file(path, &tokenizer, now)?),
            None => ChatTemplate::of(&checkpoint, &tokenizer, now)?,
        };
        let mut loaded = Loaded::default();
        for (purpose, sources) in [
            (Purpose::Train, &config.data.train),
            (Purpose::Evaluation, &config.data.eval),
        ] {
            for source in sources {
                let files = data::resolve(&source.0.source, hub, on_transfer)?;
                let options = format_options(&config, purpose);
                let set = TrainingSet::load(&source.0, &files, &options, &tokenizer, template.as_ref())?;
                check_ids(&set, &architecture)?;
                loaded.add(purpose, set)?;
            }
        }
        loaded.hold_out(&config)?;
        let plan = match early {
            Some(plan) => plan,
            None => {
                let seed = config.train.seed;
                let norms = gradient_norms(backend, &checkpoint, &architecture, &loaded.train, seed)?;
                Plan::resolve(&architecture, &recipe(&config), Some(&norms))?
            }
        };
        let warnings = match &tuned {
            Some(tuned) => check_origin(&checkpoint, tuned, &architecture, &plan)?,
            None => Vec::new(),
        };
        if let Some(kind) = config.model.quantize {
            checkpoint.quantize(kind, &plan.moved_whole())?;
        }
        let Loaded {
            train,
            eval,
            counts,
            datasets,
        } = loaded;
        let experiment = Self {
            config,
            checkpoint,
            tuned,
            warnings,
            architecture,
            tokenizer,
            plan,
            train,
            eval,
            counts,
            datasets,
        };
        experiment.check_warmup()?;
        Ok(experiment)
    }

    /// The limit of `lcdd` is set when its warm-up ends, which must be within the run.
    fn check_warmup(&self) -> Result<()> {
        let steps = self.timeline().steps();
        match self.config.objective.warmup {
            Some(warmup) if warmup >= steps => Err(Error::Argument {
                what: "objective.warmup".into(),
                value: warmup.to_string(),
                problem: format!("the run has {steps} steps, and the loss's limit is set only after the warm-up"),
                help: "train for longer, or give a shorter warm-up".into(),
            }),
            _ => Ok(()),
        }
    }

    /// The steps of the run.
    pub fn timeline(&self) -> Timeline {
        let train = &self.config.train;
        let sizes: Vec<[usize; 2]> = self.train.iter().map(|s| [s.ids.len(), s.trained_tokens()]).collect();
        let grouping = match (train.batch_tokens, train.batch) {
            (Some(tokens), _) => Grouping::Tokens(tokens),
            (None, batch) => Grouping::Sequences(batch.unwrap_or(1)),
        };
        let batching = Batching {
            grouping,
            order: train.order,
            accumulation: train.accumulation,
            seed: train.seed,
        };
        let length = match train.steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(train.epochs.unwrap_or(1)),
        };
        Timeline::new(&sizes, batching, length)
    }

    /// The learning rates of a run of `steps` steps.
    pub fn schedule(&self, steps: u64) -> Schedule {
        let train = &self.config.train;
        let share = train.warmup_ratio.map(|ratio| (ratio * steps as f64).ceil() as u64);
        Schedule {
            shape: train.schedule,
            peak: train.lr,
            warmup_steps: share.or(train.warmup_steps).unwrap_or(0),
            steps,
            min_ratio: train.min_lr_ratio,
        }
    }

    /// How steps are made; `scratch` is where caches may put a file. The singular blocks that `rpsft` holds are not in them:
    /// [`find_blocks`](Self::find_blocks) puts them there.
    pub fn step_options(&self, timeline: &Timeline, scratch: &Path) -> StepOptions {
        let train = &self.config.train;
        // within one epoch every sequence is seen once, and caching it would be in vain
        let again = timeline.epochs_after(timeline.steps()) > 1.0 || !self.eval.is_empty();
        let (cache, start) = (&train.prefix_cache, &train.start_cache);
        StepOptions {
            seed: train.seed,
            betas: train.betas,
            eps: train.eps,
            weight_decay: train.weight_decay,
            // what is clipped is the gradient of weights: masks alone have none
            clip: (train.clip > 0.0 && self.config.adapt.train_weights != Some(false)).then_some(train.clip),
            accumulation: train.accumulation,
            memory_bytes: train.memory.map(|size| size.0 as usize),
            largest_batch: timeline.largest_batch(),
            prefix: (again && cache.memory.0 + cache.disk.0 > 0).then(|| CacheOptions {
                memory_bytes: cache.memory.0,
                disk_bytes: cache.disk.0,
                folder: scratch.to_path_buf(),
            }),
            objective: Objective::of(&self.config.objective),
            start: (start.memory.0 + start.disk.0 > 0).then(|| CacheOptions {
                memory_bytes: start.memory.0,
                disk_bytes: start.disk.0,
                folder: scratch.to_path_buf(),
            }),
        }
    }

    /// A trainer of the experiment.
    ///
    /// # Errors
    /// Those of [`Trainer::new`] and [`Trainer::masked`].
    ///
    /// # Panics
    /// As these.
    pub fn trainer<'b, B: Backend>(&self, backend: &'b B, options: StepOptions) -> Result<Trainer<'b, B>> {
        match &self.tuned {
            Some(tuned) => Trainer::masked(backend, &self.checkpoint, tuned, &self.plan, options),
            None => Trainer::new(backend, &self.checkpoint, &self.plan, options),
        }
    }

    /// Finds the singular blocks that an objective holds, if it does.
    ///
    /// # Errors
    /// Those of [`super::Rotation::find_blocks`].
    pub fn find_blocks(&self, options: &mut StepOptions, cache: &SingularCache, progress: &dyn Progress) -> Result<()> {
        match &mut options.objective {
            Objective::Rpsft(rotation) => {
                rotation.find_blocks(&self.checkpoint, &self.architecture, &self.plan, cache, progress)
            }
            _ => Ok(()),
        }
    }

    /// What to train on, by number.
    pub fn train_items(&self) -> Vec<Item<'_>> {
        (0..)
            .zip(&self.train)
            .map(|(key, sample)| Item { key, sample })
            .collect()
    }

    /// What to evaluate on, in batches; numbers go on where those of training end.
    pub fn eval_batches(&self) -> Vec<Vec<Item<'_>>> {
        let lengths: Vec<usize> = self.eval.iter().map(|sample| sample.ids.len()).collect();
        let plan = BatchPlan::new(&lengths, Grouping::Tokens(EVALUATION_TOKENS), Order::File, 0, 0);
        let item = |index: usize| Item {
            key: (self.train.len() + index) as u64,
            sample: &self.eval[index],
        };
        plan.batches
            .into_iter()
            .map(|batch| batch.into_iter().map(item).collect())
            .collect()
    }

    /// What makes this run, on so many ranks, the run it is; `files` are the base model's, `tuned` those of a tuned one.
    pub fn identity(&self, files: &[FileHash], tuned: Option<&[FileHash]>, ranks: usize) -> Identity {
        let tuned = tuned.map(|files| ("the tuned model".to_owned(), digest(files)));
        Identity {
            config: self.config.clone(),
            base: digest(files),
            others: tuned.into_iter().collect(),
            data: self
                .counts
                .iter()
                .map(|count| (count.name.clone(), count.hash.clone()))
                .collect(),
            threads: rayon::current_num_threads(),
            ranks,
        }
    }
}

/// The data of an experiment.
#[derive(Default)]
struct Loaded {
    train: Vec<TrainingSample>,
    eval: Vec<TrainingSample>,
    counts: Vec<DataCount>,
    datasets: Vec<DatasetInfo>,
}

impl Loaded {
    /// Records a data set and takes its sequences over.
    fn add(&mut self, purpose: Purpose, set: TrainingSet) -> Result<()> {
        self.counts.push(DataCount {
            name: set.name.clone(),
            purpose,
            sequences: set.samples.len(),
            tokens: set.tokens(),
            trained_tokens: set.trained_tokens(),
            hash: set.hash().to_hex().to_string(),
        });
        let skipped = set.skipped.iter().map(|skipped| Skipped {
            sample: format!("{}:{}", skipped.file, skipped.row),
            reason: skipped.reason.to_string(),
        });
        self.datasets.push(DatasetInfo {
            name: set.name.clone(),
            source: set.path.clone(),
            format: set.format.name().to_owned(),
            files: set.files.iter().map(|path| FileHash::of(path)).collect::<Result<_>>()?,
            samples_total: set.total_rows,
            samples_used: set.samples.len(),
            token_samples_used: 0,
            samples_truncated: set.truncated,
            tokens: set.tokens() as u64,
            skipped: skipped.collect(),
        });
        match purpose {
            Purpose::Train => self.train.extend(set.samples),
            Purpose::Evaluation => self.eval.extend(set.samples),
        }
        Ok(())
    }

    /// Moves `eval_share` of the training sequences, drawn from the stream "hold out", to the evaluation.
    fn hold_out(&mut self, config: &Config) -> Result<()> {
        let share = config.data.eval_share;
        if share == 0.0 {
            return Ok(());
        }
        let total = self.train.len();
        let count = ((share * total as f64).round() as usize).max(1);
        if count >= total {
            return Err(Error::Argument {
                what: "data.eval_share".into(),
                value: share.to_string(),
                problem: format!("it leaves none of the {total} sequences to train on"),
                help: "hold out less, or give more data".into(),
            });
        }
        let mut held: Vec<bool> = vec![false; total];
        let mut random = rng::stream(config.train.seed, "hold out", &[]);
        sample(&mut random, total, count)
            .into_iter()
            .for_each(|index| held[index] = true);
        for (sample, held) in std::mem::take(&mut self.train).into_iter().zip(held) {
            if held { &mut self.eval } else { &mut self.train }.push(sample);
        }
        Ok(())
    }
}

fn format_options(config: &Config, purpose: Purpose) -> TrainingFormatOptions {
    let data = &config.data;
    TrainingFormatOptions {
        format: data.format,
        loss_on: data.loss_on,
        max_length: data.max_length,
        long: data.long,
        samples: match purpose {
            Purpose::Train => data.samples,
            Purpose::Evaluation => data.eval_samples,
        },
        seed: config.train.seed,
    }
}

/// What a resolved configuration trains; `None` if that needs its data.
pub(crate) fn planned(config: &Config, architecture: &Architecture) -> Result<Option<Plan>> {
    let strategy = config.select.layers.as_ref().and_then(Layers::needs_scores);
    if strategy == Some(Strategy::Gradient) {
        return Ok(None);
    }
    let scores = scores(strategy, config, architecture)?;
    Plan::resolve(architecture, &recipe(config), scores.as_deref()).map(Some)
}

/// The selection of a resolved configuration.
fn recipe(config: &Config) -> Recipe {
    let adapt = &config.adapt;
    let kind = match adapt.kind {
        AdaptKind::Full => Kind::Full,
        AdaptKind::Masked => Kind::Masked(adapt.masks()),
        AdaptKind::Lora => Kind::Lora(LoraOptions {
            rank: adapt.rank.unwrap_or_default(),
            alpha: adapt.alpha,
            dropout: adapt.dropout.unwrap_or_default(),
            scaling: adapt.scaling.unwrap_or_default(),
        }),
    };
    Recipe {
        kind,
        layers: config.select.layers.clone().unwrap_or(Layers::All),
        modules: config.select.modules.clone(),
        extra: config.select.extra.clone(),
        seed: config.train.seed,
    }
}

/// A number for each block, for choices that an analysis makes.
fn scores(strategy: Option<Strategy>, config: &Config, architecture: &Architecture) -> Result<Option<Vec<f64>>> {
    let (Some(strategy), Some(from)) = (strategy, &config.select.from) else {
        return Ok(None);
    };
    let scores = strategy.scores(&Run::open(from)?, &from.display().to_string(), architecture.blocks);
    scores.map(Some)
}

/// Every id must have a row in the embedding.
fn check_ids(set: &TrainingSet, architecture: &Architecture) -> Result<()> {
    let ids = set.samples.iter().flat_map(|sample| &sample.ids);
    match ids.copied().max() {
        Some(id) if id as usize >= architecture.vocab => Err(Error::Mismatch {
            left: "the tokenizer".into(),
            right: "the model".into(),
            what: "vocabulary".into(),
            left_value: format!("id {id}"),
            right_value: architecture.vocab.to_string(),
            help: "the tokenizer belongs to another model".into(),
        }),
        _ => Ok(()),
    }
}

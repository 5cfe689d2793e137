//! What no type says: ranges, contradictions, and defaults that depend on other keys.

use super::{AdaptKind, Config, ObjectiveKind, Problem};
use crate::{
    select::{Layers, Modules, Strategy},
    tokens::{Long, LossOn},
    train::Shape,
};

/// Finds everything that is wrong; of what is right, fills in the defaults. `origin` says where a key was given.
pub(super) fn check(mut config: Config, origin: &dyn Fn(&str) -> Option<String>) -> Result<Config, Vec<Problem>> {
    let mut found = Findings {
        origin,
        problems: Vec::new(),
    };
    if config.model.new.is_some() {
        new_model(&mut config, &mut found);
    }
    if config.adapt.kind == AdaptKind::Masked && origin("objective.kind").is_none() {
        config.objective.kind = ObjectiveKind::Lcdd; // nothing else trains masks
    }
    data(&config, &mut found);
    select(&config, &mut found);
    config.adapt.check(&config.select, &mut found);
    config.objective.check(&config, &mut found);
    train(&config, &mut found);
    evaluation(&config, &mut found);
    if found.problems.is_empty() {
        fill(&mut config);
        Ok(config)
    } else {
        Err(found.problems)
    }
}

pub(super) struct Findings<'a> {
    origin: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    pub(super) fn push(&mut self, key: &str, problem: impl Into<String>, help: &str) {
        self.problems.push(Problem {
            origin: (self.origin)(key).unwrap_or_default(),
            key: key.into(),
            problem: problem.into(),
            help: help.into(),
        });
    }

    /// A value that is not what `expected` says.
    pub(super) fn range(&mut self, key: &str, good: bool, value: impl std::fmt::Display, expected: &str) {
        if !good {
            self.push(key, format!("it is {value}, expected {expected}"), "");
        }
    }

    /// A count that is at least 1, if given.
    pub(super) fn count(&mut self, key: &str, value: Option<u64>) {
        if value == Some(0) {
            self.push(key, "it is 0, expected 1 or more", "");
        }
    }

    /// Two keys that say the same thing differently.
    fn exclusive(&mut self, one: (&str, bool), other: (&str, bool)) {
        if one.1 && other.1 {
            self.push(one.0, format!("it contradicts `{}`", other.0), "give one of them");
        }
    }
}

/// A new model has nothing to adapt or to freeze: all of it is trained, on all tokens of all texts, unless the data says otherwise.
fn new_model(config: &mut Config, found: &mut Findings<'_>) {
    let given = |key: &str| (found.origin)(key).is_some();
    if !given("adapt.kind") {
        config.adapt.kind = AdaptKind::Full;
    }
    if !given("data.loss_on") {
        config.data.loss_on = LossOn::All;
    }
    if !given("data.long") {
        config.data.long = Long::Split;
    }
    found.exclusive(
        ("model.base", !config.model.base.is_empty()),
        ("model.new", config.model.new.is_some()),
    );
    let select = &config.select;
    let partial = [
        ("adapt.kind", config.adapt.kind != AdaptKind::Full),
        (
            "select.layers",
            select.layers.as_ref().is_some_and(|layers| *layers != Layers::All),
        ),
        ("select.modules", select.modules.is_some()),
        ("select.extra", !select.extra.is_empty()),
    ];
    for (key, _) in partial.into_iter().filter(|(_, given)| *given) {
        found.push(key, "all of a new model is trained", "leave it out");
    }
    if config.model.quantize.is_some() {
        let problem = "all of a new model is trained, and what is trained is f32";
        found.push("model.quantize", problem, "leave it out");
    }
    if let Some(new) = &config.model.new {
        new.check(config.data.max_length, found);
    }
}

fn data(config: &Config, found: &mut Findings<'_>) {
    let data = &config.data;
    if config.model.base.is_empty() && config.model.new.is_none() {
        found.push(
            "model.base",
            "it is missing",
            "name a checkpoint: --model CHECKPOINT, or `base` in [model]",
        );
    }
    if data.train.is_empty() {
        found.push(
            "data.train",
            "it is missing",
            "name a data set: --data NAME=SOURCE, or `train` in [data]",
        );
    }
    for (key, sources) in [("data.train", &data.train), ("data.eval", &data.eval)] {
        for (index, source) in sources.iter().enumerate() {
            if sources[..index].iter().any(|earlier| earlier.0.name == source.0.name) {
                let problem = format!(
                    "the name `{}` is used twice; sample ids and counts go by name",
                    source.0.name
                );
                found.push(key, problem, "");
            }
        }
    }
    found.range("data.max_length", data.max_length >= 2, data.max_length, "2 or more");
    found.count("data.samples", data.samples.map(|n| n as u64));
    found.count("data.eval_samples", data.eval_samples.map(|n| n as u64));
    if data.eval_samples.is_some() && data.eval.is_empty() {
        found.push("data.eval_samples", "there is no `data.eval`", "leave it out");
    }
    let share = data.eval_share;
    found.range(
        "data.eval_share",
        (0.0..1.0).contains(&share),
        share,
        "0 or more and below 1",
    );
    found.exclusive(("data.eval_share", share > 0.0), ("data.eval", !data.eval.is_empty()));
}

fn select(config: &Config, found: &mut Findings<'_>) {
    let select = &config.select;
    let strategy = select.layers.as_ref().and_then(Layers::needs_scores);
    let reads = strategy.and_then(Strategy::metric).is_some();
    if reads && select.from.is_none() {
        found.push(
            "select.layers",
            "it reads an analysis, and none is named",
            "name a folder that `midblock analyze` wrote: --from DIR, or `from` in [select]",
        );
    }
    if !reads && select.from.is_some() {
        found.push("select.from", "this choice of blocks reads no analysis", "leave it out");
    }
    if config.adapt.kind == AdaptKind::Lora && !select.extra.is_empty() {
        found.push(
            "select.extra",
            "an adapter holds no parameters of the model itself",
            "leave it out, or use full fine-tuning",
        );
    }
}

fn train(config: &Config, found: &mut Findings<'_>) {
    let t = &config.train;
    found.exclusive(("train.epochs", t.epochs.is_some()), ("train.steps", t.steps.is_some()));
    found.exclusive(
        ("train.batch", t.batch.is_some()),
        ("train.batch_tokens", t.batch_tokens.is_some()),
    );
    found.exclusive(
        ("train.warmup_steps", t.warmup_steps.is_some()),
        ("train.warmup_ratio", t.warmup_ratio.is_some()),
    );
    found.count("train.epochs", t.epochs.map(|n| n as u64));
    found.count("train.steps", t.steps);
    found.count("train.batch", t.batch.map(|n| n as u64));
    found.count("train.batch_tokens", t.batch_tokens.map(|n| n as u64));
    found.count("train.accumulation", Some(t.accumulation as u64));
    found.count("train.save_every", Some(t.save_every));
    found.count("train.drift.every", t.drift.every);
    found.count("train.drift.directions", Some(t.drift.directions as u64));
    found.count("train.drift.samples", Some(t.drift.samples as u64));
    found.count("train.keep_checkpoints", Some(t.keep_checkpoints as u64));
    found.range("train.lr", t.lr > 0.0 && t.lr <= 1.0, t.lr, "above 0 and at most 1");
    if let Some(ratio) = t.warmup_ratio {
        found.range(
            "train.warmup_ratio",
            (0.0..1.0).contains(&ratio),
            ratio,
            "0 or more and below 1",
        );
    }
    if let (Some(warmup), Some(steps)) = (t.warmup_steps, t.steps) {
        let expected = format!("less than the {steps} of `train.steps`");
        found.range("train.warmup_steps", warmup < steps, warmup, &expected);
    }
    let share = t.min_lr_ratio;
    found.range("train.min_lr_ratio", (0.0..=1.0).contains(&share), share, "from 0 to 1");
    if share > 0.0 && t.schedule == Shape::Constant {
        found.push(
            "train.min_lr_ratio",
            "a constant schedule does not end lower",
            "leave it out",
        );
    }
    let decay = t.weight_decay;
    found.range("train.weight_decay", (0.0..=1.0).contains(&decay), decay, "from 0 to 1");
    for beta in t.betas {
        found.range("train.betas", (0.0..1.0).contains(&beta), beta, "0 or more and below 1");
    }
    found.range(
        "train.eps",
        t.eps > 0.0 && t.eps <= 1e-2,
        t.eps,
        "above 0 and at most 0.01",
    );
    found.range(
        "train.clip",
        t.clip >= 0.0 && t.clip.is_finite(),
        t.clip,
        "0 (no clipping) or more",
    );
    // TOML's integers are signed, so that a larger seed could not be written into resolved.toml
    found.range("train.seed", i64::try_from(t.seed).is_ok(), t.seed, "less than 2^63");
}

fn evaluation(config: &Config, found: &mut Findings<'_>) {
    let t = &config.train;
    found.count("train.eval_every", t.eval_every);
    found.count("train.patience", t.patience.map(|n| n as u64));
    let none = config.data.eval.is_empty() && config.data.eval_share == 0.0;
    let needs = [
        ("train.eval_every", t.eval_every.is_some()),
        ("train.keep_best", t.keep_best),
        ("train.patience", t.patience.is_some()),
    ];
    for (key, _) in needs.into_iter().filter(|(_, given)| *given && none) {
        found.push(
            key,
            "there is no data to evaluate on",
            "give `data.eval` or `data.eval_share`",
        );
    }
    if t.patience.is_some() && t.eval_every.is_none() && !none {
        found.push(
            "train.patience",
            "it counts evaluations, and there is but the last",
            "give `train.eval_every`",
        );
    }
}

fn fill(config: &mut Config) {
    if let Some(new) = &mut config.model.new {
        new.fill(config.data.max_length);
    }
    config.adapt.fill();
    if config.adapt.kind == AdaptKind::Lora {
        config.select.layers.get_or_insert(Layers::Mid);
        config.select.modules.get_or_insert_with(Modules::attention);
    } else {
        config.select.layers.get_or_insert(Layers::All);
    }
    config.objective.fill();
    let train = &mut config.train;
    if train.steps.is_none() {
        train.epochs.get_or_insert(1);
    }
    if train.batch_tokens.is_none() {
        train.batch.get_or_insert(4);
    }
    if train.warmup_ratio.is_none() {
        train.warmup_steps.get_or_insert(0);
    }
}

//! A study's TOML: that of one experiment, `[study]` with what is compared and measured, and a table for each kind of study.
//!
//! The same order as for one experiment: defaults, the file, overrides.

use super::Kind;
use crate::{
    Error, Result,
    config::{
        Adapt, Config, Data, DataSource, File, Given, Model, Objective, Output, Override, Problem, Select, Train,
    },
    eval::EvalConfig,
    study::{
        BASE, Variant,
        alphas::AlphasOptions,
        correlate::CorrelateOptions,
        drift::DriftOptions,
        exit::ExitOptions,
        gradients::GradientsOptions,
        lens::LensOptions,
        locate::LocateOptions,
        reversal::{self, ReversalOptions},
        seeds::SeedsOptions,
        selective::SelectiveOptions,
        steer::SteerOptions,
        swap::SwapOptions,
        tradeoff::{self, TradeoffOptions},
    },
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A study, as written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StudyConfig {
    /// `base`: the model before fine-tuning. Required.
    pub model: Model,
    /// `eval` is what is measured on, or else `train`, which studies that train need besides. Not with `eval_share`.
    pub data: Data,
    /// Which matrices move in studies that train; `layers` is their matter.
    pub select: Select,
    /// How they move in studies that train.
    pub adapt: Adapt,
    /// What is minimised in studies that train.
    pub objective: Objective,
    /// The loop of studies that train.
    pub train: Train,
    /// Where the study goes.
    pub output: Output,
    /// What is compared, and what is measured of it.
    pub study: Study,
    /// Tasks that judge what was trained; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<EvalConfig>,
}

/// `[study]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Study {
    /// Fine-tuned variants of the base, `"NAME=CHECKPOINT"` each.
    pub variants: Vec<String>,
    /// Samples measured, drawn without replacement from each data set; 100 by default.
    pub samples: usize,
    /// How many of these texts the representation metrics look at token by token; 50 by default.
    pub token_samples: usize,
    /// Tokens after which a text of the representation metrics is cut; 128 by default, as in the paper.
    pub metrics_length: usize,
    /// Seed of the draw and of every resampling; 42 by default.
    pub seed: u64,
    /// Bootstrap resamples of each 95 % interval of the representation metrics; 200 by default.
    pub resamples: usize,
    /// Early exit.
    pub exit: ExitOptions,
    /// The logit lens.
    pub lens: LensOptions,
    /// Swapped blocks.
    pub swap: SwapOptions,
    /// Merging with one α per segment.
    pub alphas: AlphasOptions,
    /// Steering.
    pub steer: SteerOptions,
    /// Turned subspaces.
    pub drift: DriftOptions,
    /// Gradients and updates.
    pub gradients: GradientsOptions,
    /// Several draws of samples.
    pub seeds: SeedsOptions,
    /// Correlations.
    pub correlate: CorrelateOptions,
    /// Training with the first blocks frozen.
    pub selective: SelectiveOptions,
    /// Choosing blocks to train.
    pub locate: LocateOptions,
    /// Ways of training.
    pub tradeoff: TradeoffOptions,
    /// A behaviour, its carrier and triggers.
    pub reversal: ReversalOptions,
}

impl Default for Study {
    fn default() -> Self {
        Self {
            variants: Vec::new(),
            samples: 100,
            token_samples: 50,
            metrics_length: 128,
            seed: 42,
            resamples: 200,
            exit: ExitOptions::default(),
            lens: LensOptions::default(),
            swap: SwapOptions::default(),
            alphas: AlphasOptions::default(),
            steer: SteerOptions::default(),
            drift: DriftOptions::default(),
            gradients: GradientsOptions::default(),
            seeds: SeedsOptions::default(),
            correlate: CorrelateOptions::default(),
            selective: SelectiveOptions::default(),
            locate: LocateOptions::default(),
            tradeoff: TradeoffOptions::default(),
            reversal: ReversalOptions::default(),
        }
    }
}

/// A study's configuration and where each key was given.
#[derive(Clone)]
pub struct StudyFile {
    /// The configuration.
    pub config: StudyConfig,
    given: Given,
}

impl StudyFile {
    /// Reads `file`, if there is one, applies `overrides` in their order and checks what can be checked without the models.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Config`] with everything that is wrong.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Self> {
        let file = file.map(File::read).transpose()?.unwrap_or_default();
        Self::read(file, overrides).map_err(|problems| Error::Config { problems })
    }

    /// Like [`load`](Self::load), from the text of a file that is called `name` in errors.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(name: &str, text: &str, overrides: &[Override]) -> Result<Self> {
        let (name, text) = (name.to_owned(), text.to_owned());
        Self::read(File { name, text }, overrides).map_err(|problems| Error::Config { problems })
    }

    fn read(file: File, overrides: &[Override]) -> Result<Self, Vec<Problem>> {
        let (mut config, given) = Given::read(file, overrides)?;
        let adopted = reversal::adopt(&mut config, &|key| given.origin(key).is_some());
        let read = Self { config, given };
        let mut problems = read.problems();
        problems.extend(
            adopted
                .err()
                .map(|problem| read.problem(&problem.key, problem.problem, &problem.help)),
        );
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }

    /// File and overrides as one file.
    pub fn to_toml(&self) -> String {
        self.given.to_toml()
    }

    pub(in crate::study) fn origin(&self, key: &str) -> Option<String> {
        self.given.origin(key)
    }

    pub(in crate::study) fn problem(&self, key: &str, problem: impl Into<String>, help: &str) -> Problem {
        self.given.problem(key, problem, help)
    }

    fn problems(&self) -> Vec<Problem> {
        let StudyConfig { model, data, study, .. } = &self.config;
        let mut found = Vec::new();
        let mut push = |key: &str, problem: &str, help: &str| found.push(self.problem(key, problem, help));
        if model.base.is_empty() {
            push(
                "model.base",
                "it is missing",
                "name a checkpoint: --base CHECKPOINT, or `base` in [model]",
            );
        }
        if model.new.is_some() {
            push(
                "model.new",
                "a study looks at models that are there",
                "name a `model.base`",
            );
        }
        if model.quantize.is_some() {
            push(
                "model.quantize",
                "a study measures models as they are stored",
                "leave it out, or study a GGUF file",
            );
        }
        if self.measured().is_empty() {
            push(
                "data.eval",
                "there is nothing to measure on",
                "name data: --eval NAME=FILE, or `eval` in [data]",
            );
        }
        if data.eval_share > 0.0 {
            push(
                "data.eval_share",
                "a study measures the same samples of every model",
                "name data of its own: `eval`",
            );
        }
        if data.eval_samples.is_some() {
            push("data.eval_samples", "it contradicts `study.samples`", "give that alone");
        }
        if study.samples == 0 {
            push(
                "study.samples",
                "nothing would be measured",
                "give at least 1; 100 is the default",
            );
        }
        if !(20..=10_000).contains(&study.resamples) {
            push("study.resamples", "not from 20 to 10000", "200 is enough for most");
        }
        let mut names = vec![BASE.to_owned()];
        for text in &study.variants {
            match text.parse::<Variant>() {
                Ok(variant) if names.contains(&variant.name) => {
                    push(
                        "study.variants",
                        &format!("the name `{}` is used twice", variant.name),
                        "",
                    );
                }
                Ok(variant) if variant.name.contains(['/', '\\']) => {
                    push(
                        "study.variants",
                        &format!("the name `{}` cannot be part of a file's", variant.name),
                        "leave out / and \\",
                    );
                }
                Ok(variant) => names.push(variant.name),
                Err(error) => push("study.variants", &error.to_string(), ""),
            }
        }
        found
    }

    /// Checks whether what some kinds need is there.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check_for(&self, kinds: &[Kind]) -> Result<()> {
        let config = &self.config;
        let mut problems = Vec::new();
        let names = |of: fn(Kind) -> bool| {
            let names: Vec<&str> = kinds.iter().filter(|kind| of(**kind)).map(|kind| kind.name()).collect();
            names.join(", ")
        };
        let comparing = names(Kind::needs_variant);
        if config.study.variants.is_empty() && !comparing.is_empty() {
            let help = format!("name one, --variant NAME=CHECKPOINT, or leave out {comparing}");
            problems.push(self.problem("study.variants", "there is none to compare with the base", &help));
        }
        let training = names(Kind::trains);
        if !training.is_empty() && (config.data.train.is_empty() || config.data.eval.is_empty()) {
            let help = format!("name both, --data NAME=FILE and --eval NAME=FILE, or leave out {training}");
            let missing = if config.data.train.is_empty() {
                "data.train"
            } else {
                "data.eval"
            };
            problems.push(self.problem(
                missing,
                "studies that train measure on other data than they train on",
                &help,
            ));
        }
        if kinds.contains(&Kind::Tradeoff) {
            problems.extend(tradeoff::problems(self));
        }
        if kinds.contains(&Kind::Reversal) {
            problems.extend(reversal::problems(self));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::Config { problems })
        }
    }

    /// What is measured on.
    pub(in crate::study) fn measured(&self) -> &[DataSource] {
        let Data { train, eval, .. } = &self.config.data;
        if eval.is_empty() { train } else { eval }
    }

    /// The variants, in the order given.
    pub(super) fn variants(&self) -> Result<Vec<Variant>> {
        self.config.study.variants.iter().map(|text| text.parse()).collect()
    }

    /// The experiment of a training cell: the study's own tables with what `change` makes of them, resolved.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn experiment(&self, change: impl FnOnce(&mut Config)) -> Result<Config> {
        let mut config = self.tables();
        change(&mut config);
        config
            .resolve(&|key| self.origin(key))
            .map_err(|problems| Error::Config { problems })
    }

    /// The study's own tables of an experiment. The measured samples are the study's matter alone.
    pub(in crate::study) fn tables(&self) -> Config {
        let own = &self.config;
        let mut config = Config {
            model: own.model.clone(),
            data: own.data.clone(),
            select: own.select.clone(),
            adapt: own.adapt.clone(),
            objective: own.objective.clone(),
            train: own.train.clone(),
            output: own.output.clone(),
        };
        config.data.eval.clear();
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, kinds: &str) -> String {
        let file = StudyFile::parse("study.toml", text, &[]);
        let checked = file.and_then(|file| file.check_for(&Kind::parse_list(kinds).unwrap()));
        checked.map_or_else(|error| error.to_string(), |()| String::new())
    }

    const GOOD: &str =
        "model.base = \"m\"\ndata.train = \"a=a.jsonl\"\ndata.eval = \"b=b.jsonl\"\nstudy.variants = [\"sft=s\"]\n";

    #[test]
    fn everything_that_is_missing_is_reported_at_once() {
        assert_eq!(problems(GOOD, "all"), "");
        let message = problems(
            "study.samples = 0\nstudy.variants = [\"sft\", \"a=x\", \"a=y\", \"b/c=z\"]\n",
            "exit",
        );
        for part in [
            "model.base",
            "data.eval",
            "study.samples",
            "`sft`",
            "`a` is used twice",
            "`b/c`",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(problems("study.sample = 3", "exit").contains("did you mean `samples`"));
    }

    #[test]
    fn a_kind_says_what_it_needs() {
        let base_alone = "model.base = \"m\"\ndata.eval = \"b=b.jsonl\"\n";
        assert_eq!(problems(base_alone, "exit,lens,seeds"), "");
        assert!(problems(base_alone, "swap").contains("leave out swap"));
        assert!(problems(base_alone, "locate").contains("--data"));
        assert!(
            problems(
                &GOOD
                    .replace("data.eval", "data.train")
                    .replacen("data.train = \"a=a.jsonl\"\n", "", 1),
                "selective"
            )
            .contains("--eval")
        );
    }

    #[test]
    fn a_training_cell_has_the_studys_tables_and_its_own_changes() {
        let file = StudyFile::parse("study.toml", &format!("{GOOD}train.lr = 0.5\n"), &[]).unwrap();
        let config = file.experiment(|config| config.train.seed = 7).unwrap();
        assert_eq!(
            (config.train.lr, config.train.seed, config.data.eval.len()),
            (0.5, 7, 0)
        );
        let message = file
            .experiment(|config| config.train.accumulation = 0)
            .unwrap_err()
            .to_string();
        assert!(message.contains("train.accumulation"), "{message}");
    }
}

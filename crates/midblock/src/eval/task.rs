//! A task: what its items are, how they are answered and how answers are judged, as a TOML file.
//!
//! Built-in tasks and a user's own have the same schema; `docs/src/evaluation.md` is its reference.

use super::{
    extract::{Extractor, Judge},
    shape::{ItemShape, Shape},
};
use crate::{
    Error, Result,
    config::{Problem, explain_toml},
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path, str::FromStr};

/// How an item is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The model writes, and the answer is read from what it wrote.
    Generate,
    /// The most likely letter of a choice after the prompt that lists the choices.
    Letters,
    /// The most likely text of a choice after the question alone.
    Choices,
    /// How likely a text is.
    Perplexity,
}

impl Method {
    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Letters => "letters",
            Self::Choices => "choices",
            Self::Perplexity => "perplexity",
        }
    }
}

/// A task, as its file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// One line for reports.
    pub title: String,
    /// Where it comes from.
    #[serde(default)]
    pub about: String,
    /// Hub id or file of its items.
    #[serde(default)]
    pub data: Option<String>,
    /// How items are answered.
    pub method: Method,
    /// What an item is.
    pub item: ItemShape,
    /// How completions are written.
    #[serde(default)]
    pub generation: Generation,
    /// What is read from a completion, and when that is right; of `method = "generate"`.
    #[serde(default, rename = "metric")]
    pub metrics: Vec<Metric>,
    /// Name of the main metric; by default the first.
    #[serde(default)]
    pub primary: Option<String>,
    /// Solved examples before each item.
    #[serde(default)]
    pub few_shot: FewShot,
    /// How texts are cut for `method = "perplexity"`.
    #[serde(default)]
    pub window: Window,
    /// What `--protocol paper` changes.
    #[serde(default)]
    pub paper: Option<Paper>,
}

/// How completions are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Generation {
    /// Most tokens.
    pub max_new: usize,
    /// Strings that end a completion of a plain prompt. A chat model ends its turn itself.
    pub stop: Vec<String>,
    /// Strings that end a completion of a chat prompt.
    pub stop_chat: Vec<String>,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            max_new: 512,
            stop: Vec::new(),
            stop_chat: Vec::new(),
        }
    }
}

/// One number from a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// In reports.
    pub name: String,
    /// How the answer is read.
    #[serde(default = "whole")]
    pub extract: Extractor,
    /// When it is right.
    pub judge: Grader,
}

fn whole() -> Extractor {
    Extractor::Whole
}

/// What says whether a completion is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Grader {
    /// The extracted answer against the item's.
    Answer(Judge),
    /// The row's instructions of IFEval: the share that was followed, or whether all were.
    Instructions {
        /// Whether the completion is taken as it is, or variants of it count too.
        strict: bool,
        /// Whether all of a prompt's instructions count as one.
        together: bool,
    },
    /// The item's program with the completion in it ends without an error.
    Program,
}

const GRADERS: [(&str, Grader); 5] = [
    ("instructions", instructions(true, false)),
    ("instructions-loose", instructions(false, false)),
    ("prompt", instructions(true, true)),
    ("prompt-loose", instructions(false, true)),
    ("program", Grader::Program),
];

const fn instructions(strict: bool, together: bool) -> Grader {
    Grader::Instructions { strict, together }
}

impl FromStr for Grader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match GRADERS.iter().find(|(name, _)| *name == text) {
            Some((_, grader)) => Ok(grader.clone()),
            None => text.parse().map(Self::Answer).map_err(|error: Error| {
                let names = GRADERS.map(|(name, _)| name).join(", ");
                format!("{error}\n  help: or one of {names}")
            }),
        }
    }
}

impl TryFrom<String> for Grader {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Grader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(judge) => judge.fmt(out),
            other => {
                let known = GRADERS.iter().find(|(_, grader)| grader == other);
                out.write_str(known.map_or("", |(name, _)| name))
            }
        }
    }
}

impl From<Grader> for String {
    fn from(grader: Grader) -> Self {
        grader.to_string()
    }
}

/// Solved examples before each item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FewShot {
    /// How many.
    pub count: usize,
    /// Hub id or file to draw them from; by default the items' own data, of which the drawn rows are then not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Template of an example's solution; by default the gold answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Fixed examples, taken from the first, in place of drawn ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<toml::Table>,
}

/// How texts are cut into pieces whose likelihood is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Most tokens of a piece with what it sees before; cut to the model's context.
    pub length: usize,
    /// Tokens predicted in each piece after the first; the rest of it is only seen.
    pub stride: usize,
    /// Rows are one text, with this between them; otherwise each row is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            length: 1024,
            stride: 512,
            join: None,
        }
    }
}

/// What the protocol of arXiv 2604.11838 changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paper {
    /// Items, if no other number is asked for.
    pub samples: Option<usize>,
    /// In place of the task's method.
    pub method: Option<Method>,
    /// In place of `generation.max_new`.
    pub max_new: Option<usize>,
    /// In place of `item.prompt`. The paper's protocol asks without chat template, unless one is asked for.
    pub prompt: Option<String>,
    /// In place of the task's metrics.
    #[serde(rename = "metric")]
    pub metrics: Vec<Metric>,
}

impl Task {
    /// Reads the text of a file that is called `name` in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming file, line and key.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let task: Self = toml::from_str(text).map_err(|error| Error::Config {
            problems: vec![explain_toml(name, text, &error)],
        })?;
        let problems = task.problems(name);
        if problems.is_empty() {
            return Ok(task);
        }
        Err(Error::Config { problems })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The task with what the paper's protocol changes.
    pub fn for_paper(mut self) -> Option<Self> {
        let paper = self.paper.take()?;
        self.method = paper.method.unwrap_or(self.method);
        self.generation.max_new = paper.max_new.unwrap_or(self.generation.max_new);
        if let Some(prompt) = paper.prompt {
            self.item.prompt = Some(prompt);
        }
        if !paper.metrics.is_empty() {
            self.metrics = paper.metrics;
            self.primary = None;
        }
        Some(self)
    }

    /// The main metric of completions.
    pub fn primary(&self) -> Option<&str> {
        self.primary.as_deref().or_else(|| Some(&self.metrics.first()?.name))
    }

    /// Whether a program that the model wrote would be run.
    pub fn runs_programs(&self) -> bool {
        self.method == Method::Generate && self.metrics.iter().any(|metric| metric.judge == Grader::Program)
    }

    /// Everything that is wrong with a file that can be read.
    fn problems(&self, file: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, problem: String, help: &str| {
            problems.push(Problem {
                origin: file.to_owned(),
                key: key.to_owned(),
                problem,
                help: help.to_owned(),
            });
        };
        let item = &self.item;
        if let Err((key, problem)) = Shape::new(item, &self.few_shot) {
            report(key, problem, "");
        }
        let answers = |metric: &Metric| matches!(metric.judge, Grader::Answer(_));
        let asks = item.prompt.is_some() || item.messages.is_some();
        match self.method {
            Method::Perplexity if item.text.is_none() => {
                report(
                    "item.text",
                    "missing, expected the template of a text".into(),
                    "such as text = \"{{ text }}\"",
                );
            }
            Method::Perplexity if self.window.stride == 0 || self.window.length <= self.window.stride => {
                let problem = "expected 0 < stride < length".to_owned();
                report("window", problem, "");
            }
            Method::Perplexity => {}
            _ if !asks => report("item.prompt", "missing, expected the template of a prompt".into(), ""),
            Method::Letters | Method::Choices if item.choices.is_none() || item.gold.is_none() => {
                let problem = format!("method `{}` needs `choices` and `gold`", self.method.name());
                report("item", problem, "or set method = \"generate\"");
            }
            Method::Letters | Method::Choices => {}
            Method::Generate if self.metrics.is_empty() => {
                let help = "such as [[metric]] name = \"accuracy\", extract = \"last-number\", judge = \"number\"";
                report("metric", "missing: nothing would be measured".into(), help);
            }
            Method::Generate if item.gold.is_none() && self.metrics.iter().any(answers) => {
                report(
                    "item.gold",
                    "missing, expected where the right answer is".into(),
                    "such as gold = \"answer\"",
                );
            }
            Method::Generate => {}
        }
        if self.runs_programs() && item.program.is_none() {
            report(
                "item.program",
                "missing, expected the program that judge = \"program\" runs".into(),
                "",
            );
        }
        let metric_names: Vec<&str> = self.metrics.iter().map(|metric| metric.name.as_str()).collect();
        if let Some(primary) = self
            .primary
            .as_deref()
            .filter(|primary| !metric_names.contains(primary))
        {
            let known = metric_names.join(", ");
            report(
                "primary",
                format!("`{primary}` is no metric of the task, expected one of: {known}"),
                "",
            );
        }
        if self
            .generation
            .stop
            .iter()
            .chain(&self.generation.stop_chat)
            .any(String::is_empty)
        {
            report("generation.stop", "an empty string would end everything".into(), "");
        }
        problems
    }
}

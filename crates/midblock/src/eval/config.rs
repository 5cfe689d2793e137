//! What to evaluate and how: `[eval]` of a sweep, the file of `midblock eval --config`, and its flags.

use super::Method;
use crate::{Error, Result, config::explain_toml, generate::Sampling};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// An evaluation: tasks, and what is the same for all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// In this order; no two of the same name.
    pub tasks: Vec<TaskSpec>,
    /// Items of each task, drawn without replacement; all by default, or as many as the protocol says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Seed of everything drawn at random: items, examples, completions, bootstrap.
    pub seed: u64,
    /// Completions of each item: the k of avg@k, and the largest of pass@k.
    pub repeats: usize,
    /// Sequences that are worked on together. No result depends on it.
    pub batch: usize,
    /// Whose settings a task has.
    pub protocol: Protocol,
    /// How every task that allows it is answered, in place of its own way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Solved examples before each item, in place of the task's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<usize>,
    /// Most tokens of a completion, in place of the task's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new: Option<usize>,
    /// How tokens of a completion are chosen.
    pub sampling: Sampling,
    /// What a prompt looks like.
    pub template: Template,
    /// A file with a trigger that stands in front of every prompt; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<PathBuf>,
    /// Run the programs that a model writes, where a task asks for it.
    pub run_programs: bool,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            samples: None,
            seed: 42,
            repeats: 1,
            batch: 16,
            protocol: Protocol::Standard,
            method: None,
            few_shot: None,
            max_new: None,
            sampling: Sampling::default(),
            template: Template::Auto,
            trigger: None,
            run_programs: false,
        }
    }
}

impl EvalConfig {
    /// Reads a file of these keys.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] naming file, line and key.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        toml::from_str(&text).map_err(|error| Error::Config {
            problems: vec![explain_toml(&path.display().to_string(), &text, &error)],
        })
    }

    /// Refuses what no task could be evaluated with.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, value: String, problem: &str, help: &str| {
            Err(Error::Argument {
                what: what.into(),
                value,
                problem: problem.into(),
                help: help.into(),
            })
        };
        let own = self
            .tasks
            .iter()
            .flat_map(|task| [("samples", task.samples), ("max_new", task.max_new)]);
        let common = [
            ("samples", self.samples),
            ("repeats", Some(self.repeats)),
            ("batch", Some(self.batch)),
            ("max_new", self.max_new),
        ];
        for (what, value) in common.into_iter().chain(own) {
            if value == Some(0) {
                return refuse(what, "0".into(), "nothing would be done", "give at least 1");
            }
        }
        if self.tasks.is_empty() {
            let help = "name at least one; `midblock eval --list` shows them";
            return refuse("tasks", "none".into(), "there is nothing to evaluate", help);
        }
        if self.repeats > 1 && self.sampling.temperature == 0.0 {
            let problem = "greedy completions of a prompt are all the same";
            return refuse(
                "repeats",
                self.repeats.to_string(),
                problem,
                "set a temperature, such as 0.6",
            );
        }
        Ok(())
    }
}

/// Whose settings a task has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// The task's own.
    #[default]
    Standard,
    /// Those of arXiv 2604.11838: the task's `[paper]` table.
    Paper,
}

/// What a prompt looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// Messages through the checkpoint's chat template if it has one, else plain text.
    #[default]
    Auto,
    /// Messages through the checkpoint's chat template; without one, an error.
    Chat,
    /// Plain text, whatever the checkpoint has; messages one after the other.
    Plain,
}

/// Words of an option's value.
fn one_of<T: Copy>(what: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
    let found = known.iter().find(|(name, _)| *name == value);
    found.map(|(_, found)| *found).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        Error::Argument {
            what: what.into(),
            value: value.into(),
            problem: format!("not one of {}", names.join(", ")),
            help: String::new(),
        }
    })
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        one_of(
            "--protocol",
            value,
            &[("standard", Self::Standard), ("paper", Self::Paper)],
        )
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        let known = [("auto", Self::Auto), ("chat", Self::Chat), ("plain", Self::Plain)];
        one_of("--template", value, &known)
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        let all = [Self::Generate, Self::Letters, Self::Choices, Self::Perplexity];
        one_of("--method", value, &all.map(|method| (method.name(), method)))
    }
}

/// A task and the data to take its items from: `gsm8k`, `gsm8k=test.jsonl`, `gsm8k=openai/gsm8k:main/test`, `my-task.toml`, or
/// a table with these keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TaskSpec {
    /// A built-in task's name, or a file that ends in `.toml`.
    pub task: String,
    /// File, folder or hub id; by default the task's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// File, folder or hub id that examples are drawn from; by default the task's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examples: Option<String>,
    /// How results call it; by default the task's name, or that of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In place of the evaluation's `method`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// In place of the evaluation's `samples`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// In place of the evaluation's `max_new`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new: Option<usize>,
}

impl FromStr for TaskSpec {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        let (task, data) = value
            .split_once('=')
            .map_or((value, None), |(task, data)| (task, Some(data)));
        if task.is_empty() || data.is_some_and(str::is_empty) {
            return Err(Error::Argument {
                what: "--task".into(),
                value: value.into(),
                problem: "a task's name, or a name and its data".into(),
                help: "write --task gsm8k, --task gsm8k=test.jsonl or --task my-task.toml".into(),
            });
        }
        Ok(Self {
            task: task.into(),
            data: data.map(Into::into),
            ..Self::default()
        })
    }
}

impl<'de> Deserialize<'de> for TaskSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            task: String,
            data: Option<String>,
            examples: Option<String>,
            name: Option<String>,
            method: Option<Method>,
            samples: Option<usize>,
            max_new: Option<usize>,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = TaskSpec;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a task such as \"gsm8k=test.jsonl\", or a table with the key `task`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TaskSpec, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<TaskSpec, A::Error> {
                let Table {
                    task,
                    data,
                    examples,
                    name,
                    method,
                    samples,
                    max_new,
                } = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(TaskSpec {
                    task,
                    data,
                    examples,
                    name,
                    method,
                    samples,
                    max_new,
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_a_text_or_a_table() {
        let text = "tasks = [\"gsm8k\", \"arc=a=b.jsonl\", { task = \"mmlu\", examples = \"dev.csv\", name = \"m\" }]\nrepeats = 2";
        let config: EvalConfig = toml::from_str(text).unwrap();
        let spec = |task: &str| task.parse::<TaskSpec>().unwrap();
        assert_eq!(config.tasks[..2], [spec("gsm8k"), spec("arc=a=b.jsonl")]);
        assert_eq!(config.tasks[1].data.as_deref(), Some("a=b.jsonl"));
        assert_eq!(config.tasks[2].name.as_deref(), Some("m"));
        let again: EvalConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        for (text, problem) in [
            ("taskss = []", "unknown field"),
            ("tasks = [1]", "a task such as"),
            ("tasks = [{ data = \"x\" }]", "missing field `task`"),
            ("tasks = [{ task = \"x\", dat = \"x\" }]", "unknown field"),
            ("tasks = [\"gsm8k=\"]", "--task `gsm8k=`"),
        ] {
            let error = toml::from_str::<EvalConfig>(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn what_would_do_nothing_is_refused() {
        let tasks = vec!["gsm8k".parse().unwrap()];
        let fine = EvalConfig {
            tasks,
            ..EvalConfig::default()
        };
        fine.check().unwrap();
        let change = |change: &dyn Fn(&mut EvalConfig)| {
            let mut config = fine.clone();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(change(&|c| c.samples = Some(0)).contains("samples `0`"));
        assert!(change(&|c| c.repeats = 0).contains("repeats `0`"));
        assert!(change(&|c| c.repeats = 4).contains("all the same"));
        assert!(change(&|c| c.tasks.clear()).contains("nothing to evaluate"));
    }
}

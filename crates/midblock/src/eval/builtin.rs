//! The tasks that come with the program: files of the same schema as a user's.

use super::{Task, TaskSpec};
use crate::{Error, Result};
use std::path::Path;

macro_rules! tasks {
    ($($name:literal)*) => {
        /// Name → file.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("tasks/", $name, ".toml")))),*];
    };
}

tasks! {
    "gsm8k" "math-500" "aime-24" "aime-25" "amc" "minerva" "olympiadbench"
    "mmlu" "mmlu-pro" "arc" "arc-easy" "commonsenseqa" "gpqa" "supergpqa" "truthfulqa-mc" "safety"
    "ifeval" "humaneval" "wikitext" "text"
}

/// Every task that comes with the program, by name.
pub fn builtin_tasks() -> impl Iterator<Item = (&'static str, Task)> {
    let parse = |text| Task::parse("built-in", text).expect("invariant: built-in tasks are read in a test");
    FILES.iter().map(move |(name, text)| (*name, parse(text)))
}

impl TaskSpec {
    /// The task with the name that results give it.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no task of that name, and those of [`Task::read`].
    pub fn resolve(&self) -> Result<(String, Task)> {
        let named = |name: String| self.name.clone().unwrap_or(name);
        if let Some((name, text)) = FILES.iter().find(|(name, _)| *name == self.task) {
            return Ok((named((*name).to_owned()), Task::parse(name, text)?));
        }
        let path = Path::new(&self.task);
        if path.extension().is_some_and(|extension| extension == "toml") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Ok((named(stem), Task::read(path)?));
        }
        let names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        Err(Error::Argument {
            what: "--task".into(),
            value: self.task.clone(),
            problem: "there is no task of that name".into(),
            help: format!("one of {}; or a file that ends in .toml", names.join(", ")),
        })
    }
}

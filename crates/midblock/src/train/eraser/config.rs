//! `erase.toml`: the models, the prompts, and how a trigger is trained.

use super::Eraser;
use crate::{
    Error, Result,
    config::{File, Given, Override, Problem},
    tokens::Format,
    train::Settings,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The training of a trigger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EraseConfig {
    /// What is to be like what.
    pub model: EraseModel,
    /// On which prompts.
    pub data: EraseData,
    /// How.
    pub eraser: Eraser,
    /// What is written, and where.
    pub output: EraseOutput,
}

/// `[model]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EraseModel {
    /// The CHECKPOINT whose behaviour is to come back. Required.
    pub base: String,
    /// The CHECKPOINT that the trigger stands in front of: fine-tuned from the base, or a carrier's merged model. Required.
    pub tuned: String,
    /// Folder of the carrier whose channels are drawn to the base's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier: Option<PathBuf>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EraseData {
    /// A file, a folder or a hub id of prompts, in any format that training reads; answers are passed over. Required.
    pub prompts: String,
    /// How rows become prompts; recognised by their fields if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// A Jinja file to use as chat template; the tuned model's own by default. Without any, prompts are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<PathBuf>,
    /// Tokens that a prompt may have; longer ones are left out. 512 by default.
    pub max_length: usize,
}

impl Default for EraseData {
    fn default() -> Self {
        Self {
            prompts: String::new(),
            format: None,
            template: None,
            max_length: 512,
        }
    }
}

/// `[output]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EraseOutput {
    /// Folder of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Whether TensorBoard event files are written; yes by default.
    pub tensorboard: bool,
}

impl Default for EraseOutput {
    fn default() -> Self {
        Self {
            dir: None,
            tensorboard: true,
        }
    }
}

impl Settings for EraseConfig {
    const FREE: &'static [&'static str] = &[
        "model.",
        "data.prompts",
        "eraser.save_every",
        "eraser.keep_checkpoints",
        "eraser.memory",
        "output.",
    ];
}

impl EraseConfig {
    /// Reads `file`, if there is one, applies `overrides` in their order and checks the result; of what depends on other keys the defaults
    /// are filled in.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Config`] with everything that is wrong.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Self> {
        let file = file.map(File::read).transpose()?.unwrap_or_default();
        Self::from_parts(file, overrides).map_err(|problems| Error::Config { problems })
    }

    /// Like [`load`](Self::load), from the text of a file that is called `name` in errors.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn parse(name: &str, text: &str, overrides: &[Override]) -> Result<Self> {
        let (name, text) = (name.to_owned(), text.to_owned());
        Self::from_parts(File { name, text }, overrides).map_err(|problems| Error::Config { problems })
    }

    fn from_parts(file: File, overrides: &[Override]) -> Result<Self, Vec<Problem>> {
        let (mut config, given) = Given::read::<Self>(file, overrides)?;
        let problem = |(key, problem, help): (String, String, &str)| given.problem(&key, problem, help);
        let problems: Vec<Problem> = config.problems().into_iter().map(problem).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let eraser = &mut config.eraser;
        eraser.channels = Some(eraser.channels(config.model.carrier.is_some()));
        Ok(config)
    }

    /// Everything that is wrong: dotted key, problem, help.
    pub fn problems(&self) -> Vec<(String, String, &'static str)> {
        let mut found = Vec::new();
        let required = [
            (
                "model.base",
                &self.model.base,
                "name a checkpoint: --base CHECKPOINT, or `base` in [model]",
            ),
            (
                "model.tuned",
                &self.model.tuned,
                "name a checkpoint: --model CHECKPOINT, or `tuned` in [model]",
            ),
            (
                "data.prompts",
                &self.data.prompts,
                "name data: --prompts FILE, or `prompts` in [data]",
            ),
        ];
        for (key, _, help) in required.into_iter().filter(|(_, value, _)| value.is_empty()) {
            found.push((key.to_owned(), "it is missing".to_owned(), help));
        }
        if self.data.max_length == 0 {
            found.push(("data.max_length".into(), "it is 0, expected 1 or more".into(), ""));
        }
        let of_table = |(key, problem, help): (&str, String, &'static str)| (format!("eraser.{key}"), problem, help);
        found.extend(self.eraser.problems().into_iter().map(of_table));
        found
    }

    /// The configuration as TOML; of a resolved one, everything it depends on is there.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("invariant: every table of the schema can be written as TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::eraser::Channels;

    #[test]
    fn a_file_says_all_and_its_mistakes_have_lines() {
        let text = "[model]\nbase = \"b\"\ntuned = \"t\"\n[data]\nprompts = \"p.jsonl\"\n[eraser]\nlr = 0.01\n";
        let config = EraseConfig::parse("e.toml", text, &["eraser.steps=7".parse().unwrap()]).unwrap();
        assert_eq!((config.eraser.lr, config.eraser.steps), (0.01, 7));
        assert_eq!(config.eraser.channels, Some(Channels::Residual));
        assert_eq!(EraseConfig::parse("r", &config.to_toml(), &[]).unwrap(), config);
        let carrier = EraseConfig::parse("e.toml", text, &["model.carrier=c".parse().unwrap()]).unwrap();
        assert_eq!(carrier.eraser.channels, Some(Channels::Carrier));
        let problem = |text: &str| EraseConfig::parse("e.toml", text, &[]).unwrap_err().to_string();
        assert!(problem(&text.replace("0.01", "-1")).contains("e.toml:7: `eraser.lr`: it is -1, expected above 0"));
        assert!(problem(&text.replace("lr", "learning_rate")).contains("unknown key"));
        assert!(problem(&text.replace("lr = 0.01", "channels = \"all\"")).contains("not one of carrier, ffn"));
        let empty = problem("");
        assert!(
            ["model.base", "model.tuned", "--prompts FILE"]
                .iter()
                .all(|part| empty.contains(part)),
            "{empty}"
        );
    }
}

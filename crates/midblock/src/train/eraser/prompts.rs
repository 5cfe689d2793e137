//! The prompts of a trigger: rows of any training format, as the model is asked them.

use super::{EraseConfig, EraseData};
use crate::{
    Error, Result,
    behaviour::{BehaviourConfig, Prompt, read},
    hub::{HubOptions, OnTransfer},
    run::{DatasetInfo, FileHash, Skipped},
    tokens::{ChatTemplate, Selection, Tokenizer, TrainingSample},
};

/// Prompts as ids, and where they are from.
#[derive(Clone, Debug, Default)]
pub struct Prompts {
    /// In file order; the compared tokens are marked as `trained`.
    pub samples: Vec<TrainingSample>,
    /// What they were read from.
    pub dataset: DatasetInfo,
}

impl Prompts {
    /// Reads the data set of a configuration and draws its samples. A prompt ends where the assistant's turn begins.
    ///
    /// # Errors
    /// If a file cannot be read, the format is not clear, or no prompt is left.
    pub fn read(
        config: &EraseConfig,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        hub: &HubOptions,
        on_transfer: OnTransfer<'_>,
    ) -> Result<Self> {
        let (data, eraser) = (&config.data, &config.eraser);
        let behaviour = BehaviourConfig {
            data: data.prompts.clone(),
            format: data.format,
            ..BehaviourConfig::default() // a fixed response: rows need none
        };
        let found = read(&behaviour, template.is_some(), hub, on_transfer).map_err(named)?;
        let mut skipped: Vec<Skipped> = (found.skipped.iter())
            .map(|row| Skipped {
                sample: format!("{}:{}", row.file, row.row),
                reason: row.reason.to_string(),
            })
            .collect();
        let mut selection = Selection::new(eraser.samples, eraser.seed);
        for example in found.examples {
            match usable(encode(&example.prompt, tokenizer, template)?, data) {
                Ok(ids) => selection.offer((example.id, ids)),
                Err(reason) => skipped.push(Skipped {
                    sample: example.id,
                    reason,
                }),
            }
        }
        let prompts: Vec<(String, Vec<u32>)> = selection.finish();
        if prompts.is_empty() {
            let first = skipped.first().map_or(String::new(), |first| {
                format!(", first {}: {}", first.sample, first.reason)
            });
            return Err(refused(
                data,
                format!("none of its {} rows can be used{first}", found.rows),
            ));
        }
        let sample = |(id, ids): (String, Vec<u32>)| TrainingSample {
            id,
            trained: (0..ids.len()).map(|at| at + eraser.tail >= ids.len()).collect(),
            ids,
        };
        let samples: Vec<TrainingSample> = prompts.into_iter().map(sample).collect();
        let dataset = DatasetInfo {
            name: "prompts".into(),
            source: data.prompts.clone(),
            format: data.format.map_or("recognised", |format| format.name()).to_owned(),
            files: found
                .files
                .iter()
                .map(|path| FileHash::of(path))
                .collect::<Result<_>>()?,
            samples_total: found.rows,
            samples_used: samples.len(),
            tokens: samples.iter().map(|sample| sample.ids.len() as u64).sum(),
            skipped,
            ..DatasetInfo::default()
        };
        Ok(Self { samples, dataset })
    }

    /// Hash of the ids, in order.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for sample in &self.samples {
            hasher.update(&(sample.ids.len() as u64).to_le_bytes());
            sample.ids.iter().for_each(|id| _ = hasher.update(&id.to_le_bytes()));
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Ids of a prompt, up to where the assistant's turn begins; or why there are none.
fn encode(
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<std::result::Result<Vec<u32>, String>> {
    match (prompt, template) {
        (Prompt::Text(text), _) => tokenizer.encode(text, None).map(Ok),
        (Prompt::Messages(_), None) => Ok(Err("it is chat messages, and there is no chat template".into())),
        (Prompt::Messages(messages), Some(template)) => match template.render(messages, true) {
            Err(reason) => Ok(Err(reason.to_string())),
            Ok(text) => {
                let tokens = tokenizer.tokens(&text, false)?; // the template writes special tokens itself
                Ok(Ok(tokens.into_iter().map(|token| token.id).collect()))
            }
        },
    }
}

fn usable(ids: std::result::Result<Vec<u32>, String>, data: &EraseData) -> std::result::Result<Vec<u32>, String> {
    let ids = ids?;
    match ids.len() {
        0 => Err("no tokens".into()),
        length if length > data.max_length => Err(format!(
            "it has {length} tokens, more than `data.max_length` = {}",
            data.max_length
        )),
        _ => Ok(ids),
    }
}

fn refused(data: &EraseData, problem: String) -> Error {
    Error::Argument {
        what: "data.prompts".into(),
        value: data.prompts.clone(),
        problem,
        help: "rows need a field that a prompt is read from, such as `instruction`, `question`, `prompt` or `messages`"
            .into(),
    }
}

/// The error of a behaviour's data as one of prompts.
fn named(error: Error) -> Error {
    match error {
        Error::Argument { value, problem, .. } => Error::Argument {
            what: "data.prompts".into(),
            value,
            problem,
            help: "rows need a field that a prompt is read from, such as `instruction`, `question`, `prompt` or \
                   `messages`; `format` in [data] chooses how they are read"
                .into(),
        },
        other => other,
    }
}

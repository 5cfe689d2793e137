//! Items → prompts: as messages through the checkpoint's chat template, or as plain text.
//!
//! - **Chat**: the system's message if there is one, examples as turns, the user's message, and the beginning of the
//!   assistant's turn. The template writes all special tokens.
//! - **Plain**: the system's text and an empty line; each example's prompt, a space, its solution and an empty line; the
//!   prompt. Messages, where a row has them, follow each other with an empty line between, and `Answer:` ends them. The
//!   tokenizer adds what it adds to texts, without an end.
//!
//! What a model is to go on with after a plain prompt begins with a space, unless the prompt ends with white space; after a
//! chat prompt it does not. A prompt that does not fit is cut **at its beginning**; a token that begins texts stays.

use super::{
    config::Template,
    shape::{Asked, Item},
};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    tokens::{ChatTemplate, Tokenizer},
};
use serde_json::{Value, json};
use std::time::SystemTime;

/// Makes prompts for a checkpoint.
pub(super) struct Prompter<'a> {
    pub tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    asked_for: Template,
    label: String,
}

/// A solved example.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Example {
    pub asked: Asked,
    pub solution: String,
}

/// Ids of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Encoded {
    pub ids: Vec<u32>,
    pub truncated: bool,
}

impl<'a> Prompter<'a> {
    /// `now` is what a template that asks for the date gets.
    pub fn new(checkpoint: &Checkpoint, tokenizer: &'a Tokenizer, template: Template, now: SystemTime) -> Result<Self> {
        let found = match template {
            Template::Plain => None,
            _ => ChatTemplate::of(checkpoint, tokenizer, now)?,
        };
        let prompter = Self {
            tokenizer,
            template: found,
            asked_for: template,
            label: checkpoint.label().to_owned(),
        };
        if template == Template::Chat && prompter.template.is_none() {
            return Err(prompter.no_template("`--template chat` asks for one"));
        }
        Ok(prompter)
    }

    /// Whether prompts go through a chat template.
    pub fn is_chat(&self) -> bool {
        self.template.is_some()
    }

    /// The prompt of an item; of the question without its choices if `cloze`.
    pub fn text(&self, item: &Item, examples: &[Example], cloze: bool) -> Result<String> {
        let asked = match (&item.asked, cloze) {
            (asked, false) => asked.clone(),
            (Asked::Text { system, .. }, true) => Asked::Text {
                system: system.clone(),
                plain: item.cloze.clone(),
                user: item.cloze.clone(),
            },
            (Asked::Messages(messages), true) => {
                let mut messages = messages.clone();
                if let Some(last) = messages.last_mut() {
                    last["content"] = Value::from(item.cloze.clone());
                }
                Asked::Messages(messages)
            }
        };
        match &self.template {
            Some(template) => {
                let messages = conversation(&asked, examples);
                template.render(&messages, true).map_err(|reason| Error::Argument {
                    what: "item".into(),
                    value: item.id.clone(),
                    problem: reason.to_string(),
                    help: "`--template plain` does without the template".into(),
                })
            }
            None if matches!(asked, Asked::Messages(_)) && self.asked_for != Template::Plain => {
                Err(self.no_template("the task's items are conversations"))
            }
            None => Ok(plain(&asked, examples)),
        }
    }

    /// What stands between a prompt and what goes on with it.
    pub fn lead(&self, prompt: &str) -> &'static str {
        if self.is_chat() || prompt.ends_with(char::is_whitespace) {
            ""
        } else {
            " "
        }
    }

    /// Ids of a prompt, cut to the last `room`.
    pub fn encode(&self, text: &str, room: usize) -> Result<Encoded> {
        let ids = self.ids(text)?;
        if ids.is_empty() {
            // a model cannot begin with nothing
            let first = self.tokenizer.bos().or(self.tokenizer.eos()).map(|token| token.id);
            let first = first.ok_or_else(|| Error::Argument {
                what: "prompt".into(),
                value: text.into(),
                problem: "it has no tokens, and the tokenizer names none that begins a text".into(),
                help: String::new(),
            })?;
            return Ok(Encoded {
                ids: vec![first],
                truncated: false,
            });
        }
        let truncated = ids.len() > room;
        let begins = self
            .tokenizer
            .bos()
            .map(|bos| bos.id)
            .filter(|bos| ids[0] == *bos && room > 1);
        let kept = ids.len().min(room.max(1)) - usize::from(truncated && begins.is_some());
        let mut cut: Vec<u32> = begins.filter(|_| truncated).into_iter().collect();
        cut.extend(&ids[ids.len() - kept..]);
        Ok(Encoded { ids: cut, truncated })
    }

    /// Ids of what goes on with a prompt: those that the whole has after the prompt's, or its own if the end of the prompt is
    /// tokenised otherwise in the whole.
    pub fn encode_continuation(&self, prompt: &str, continuation: &str) -> Result<Vec<u32>> {
        let given = self.ids(prompt)?;
        let whole = self.ids(&format!("{prompt}{continuation}"))?;
        match whole.strip_prefix(given.as_slice()) {
            Some(rest) if !rest.is_empty() => Ok(rest.to_vec()),
            _ => {
                let own = self.tokenizer.tokens(continuation, false)?;
                Ok(own.iter().map(|token| token.id).collect())
            }
        }
    }

    /// Ids of a text as such, whatever prompts look like.
    pub fn text_ids(&self, text: &str) -> Result<Vec<u32>> {
        self.without_end(text, true)
    }

    /// Ids of a prompt.
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        self.without_end(text, !self.is_chat())
    }

    /// Ids without an end that the tokenizer adds to texts.
    fn without_end(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.tokens(text, special)?;
        let end = self.tokenizer.eos().map(|eos| eos.id);
        while tokens.len() > 1 && tokens.last().is_some_and(|t| Some(t.id) == end && t.bytes.is_empty()) {
            tokens.pop();
        }
        Ok(tokens.into_iter().map(|token| token.id).collect())
    }

    fn no_template(&self, why: &str) -> Error {
        Error::Argument {
            what: "checkpoint".into(),
            value: self.label.clone(),
            problem: format!("it has no chat template, and {why}"),
            help: "`--template plain` writes messages as plain text".into(),
        }
    }
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// All turns before the answer.
fn conversation(asked: &Asked, examples: &[Example]) -> Vec<Value> {
    let own = |asked: &Asked| match asked {
        Asked::Text { system, user, .. } => {
            let system = system.iter().map(|system| said("system", system));
            system.chain([said("user", user)]).collect()
        }
        Asked::Messages(messages) => messages.clone(),
    };
    let mut messages: Vec<Value> = own(asked);
    let is_system = |message: &Value| message["role"] == "system";
    let turns = examples.iter().flat_map(|example| {
        let turns = own(&example.asked).into_iter().filter(|message| !is_system(message));
        turns.chain([said("assistant", &example.solution)])
    });
    let at = messages.iter().take_while(|message| is_system(message)).count();
    messages.splice(at..at, turns.collect::<Vec<_>>());
    messages
}

fn plain(asked: &Asked, examples: &[Example]) -> String {
    let own = |asked: &Asked| match asked {
        Asked::Text { plain, .. } => plain.clone(),
        Asked::Messages(messages) => {
            let contents = messages.iter().filter_map(|message| message["content"].as_str());
            format!("{}\n\nAnswer:", contents.collect::<Vec<_>>().join("\n\n"))
        }
    };
    let mut text = match asked {
        Asked::Text {
            system: Some(system), ..
        } => format!("{system}\n\n"),
        _ => String::new(),
    };
    for example in examples {
        let question = own(&example.asked);
        let gap = if question.ends_with(char::is_whitespace) {
            ""
        } else {
            " "
        };
        text += &format!("{question}{gap}{}\n\n", example.solution.trim());
    }
    text + &own(asked)
}

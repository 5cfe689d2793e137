//! A conversation → ids, and which of them are to be learned.
//!
//! **Through a chat template.** The conversation is rendered up to each answer with the beginning of the assistant's turn
//! (what a model is given when it is asked), and up to the end of that answer. The latter must continue the former; what
//! it continues with is the answer, its end of turn included. No text is searched for.
//!
//! - The end of turn may be followed by white space that the template puts before the next turn. A model never writes that:
//!   white space after a special token at the end of an answer is not learned.
//! - Some templates render an answer differently once a turn follows, mostly without its thoughts. What was rendered up to
//!   an answer is then no beginning of the whole. Such a conversation becomes one sequence per answer, each with what the
//!   model would be given and the answer.
//! - Some templates begin the assistant's turn with more than stored answers have (`<think>`). The answer then begins
//!   where the two part ways.
//!
//! **Without one**, a text gets what the tokenizer adds to texts, and the end-of-text token if that does not include it;
//! of a prompt and its completion, the completion and the end are learned.
//!
//! The whole is tokenised at once, and a token belongs to where its first character is. Special tokens are added only
//! where no template writes them. Sequences are cut on the right, or split where that is asked for. Token 0 is never learned: nothing comes before it.

use std::ops::Range;

use serde_json::Value;

use super::{ChatTemplate, Conversation, Long, LossOn, SkipReason, Tokenizer, tokenizer::Token};
use crate::{Error, Result};

/// Turns conversations into sequences.
pub(super) struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub template: Option<&'a ChatTemplate>,
    pub loss_on: LossOn,
    pub max_length: usize,
    pub long: Long,
}

/// Ids with their mask.
#[derive(Debug, PartialEq)]
pub(super) struct Sequence {
    pub ids: Vec<u32>,
    pub trained: Vec<bool>,
    pub truncated: bool,
}

/// A text and where its answers are, in bytes.
struct Rendered {
    text: String,
    answers: Vec<Range<usize>>,
}

impl Encoder<'_> {
    /// The sequences of a conversation, or why there are none: several if the template rewrites earlier turns.
    ///
    /// # Errors
    /// If no row of this kind can be encoded: there is no chat template or no end-of-text token, or the tokenizer fails.
    pub(super) fn encode(&self, conversation: &Conversation) -> Result<Result<Vec<Sequence>, SkipReason>> {
        let (prompt, text) = match conversation {
            Conversation::Text(text) => (0, text.clone()),
            Conversation::Continued { prompt, completion } => (prompt.len(), format!("{prompt}{completion}")),
            Conversation::Messages { messages, learn_from } => {
                let template = self.template.ok_or_else(|| self.no_template())?;
                let rendered = match self.loss_on {
                    LossOn::Answers => answers(template, messages, *learn_from),
                    LossOn::All => template.render(messages, false).map(|text| {
                        let answers = vec![0..text.len()];
                        vec![Rendered { text, answers }]
                    }),
                };
                return match rendered {
                    Ok(rendered) => self.tokenize_all(&rendered),
                    Err(reason) => Ok(Err(reason)),
                };
            }
        };
        let mut tokens = self.tokenizer.tokens(&text, true)?;
        let end = self.tokenizer.eos().ok_or_else(|| self.no_end())?.id;
        if tokens.last().is_none_or(|token| token.id != end) {
            let bytes = text.len()..text.len();
            tokens.push(Token { id: end, bytes });
        }
        let learned = |token: &Token| self.loss_on == LossOn::All || token.bytes.start >= prompt;
        let trained: Vec<bool> = tokens.iter().map(learned).collect();
        match self.long {
            Long::Split if tokens.len() > self.max_length => Ok(self.split(&tokens, &trained)),
            _ => Ok(self.cut(&tokens, trained).map(|sequence| vec![sequence])),
        }
    }

    /// Splits a text into sequences that overlap by one token: the first of a sequence is not predicted there, but at the end
    /// of the one before. Parts with nothing to learn are left out.
    fn split(&self, tokens: &[Token], trained: &[bool]) -> Result<Vec<Sequence>, SkipReason> {
        let starts = (0..tokens.len() - 1).step_by(self.max_length - 1);
        let part = |start: usize| {
            let part = start..tokens.len().min(start + self.max_length);
            self.cut(&tokens[part.clone()], trained[part].to_vec()).ok()
        };
        let parts: Vec<Sequence> = starts.filter_map(part).collect();
        if parts.is_empty() {
            return Err(SkipReason::NoAnswer);
        }
        Ok(parts)
    }

    /// What is left to learn of the sequences of one conversation.
    fn tokenize_all(&self, rendered: &[Rendered]) -> Result<Result<Vec<Sequence>, SkipReason>> {
        let mut sequences = Vec::new();
        let mut reason = SkipReason::NoAnswer;
        for rendered in rendered {
            match self.tokenize(rendered)? {
                Ok(sequence) => sequences.push(sequence),
                Err(why) => reason = why,
            }
        }
        Ok(if sequences.is_empty() {
            Err(reason)
        } else {
            Ok(sequences)
        })
    }

    /// Tokens of a rendered text, which has all special tokens in it.
    fn tokenize(&self, Rendered { text, answers }: &Rendered) -> Result<Result<Sequence, SkipReason>> {
        let tokens = self.tokenizer.tokens(text, false)?;
        let mut trained = vec![false; tokens.len()];
        for answer in answers {
            let at = |byte: usize| tokens.partition_point(|token| token.bytes.start < byte);
            let places = at(answer.start)..at(answer.end);
            let is_text = |token: &Token| !text[token.bytes.clone()].trim().is_empty();
            let last = tokens[places.clone()]
                .iter()
                .rposition(is_text)
                .map(|last| places.start + last);
            // a special token is written as text, too
            let end = match (last, self.loss_on) {
                (Some(last), LossOn::Answers) if self.tokenizer.is_special(tokens[last].id) => last + 1,
                _ => places.end,
            };
            trained[places.start..end].fill(true);
        }
        Ok(self.cut(&tokens, trained))
    }

    /// Cuts a sequence at the maximal length, if something to learn is left.
    fn cut(&self, tokens: &[Token], mut trained: Vec<bool>) -> Result<Sequence, SkipReason> {
        if let Some(first) = trained.first_mut() {
            *first = false;
        }
        let anything = |trained: &[bool]| trained.contains(&true);
        let learnable = anything(&trained);
        trained.truncate(self.max_length);
        if !anything(&trained) {
            return Err(match learnable {
                true => SkipReason::Cut {
                    max_length: self.max_length,
                },
                false => SkipReason::NoAnswer,
            });
        }
        Ok(Sequence {
            ids: tokens.iter().take(self.max_length).map(|token| token.id).collect(),
            truncated: tokens.len() > self.max_length,
            trained,
        })
    }

    fn no_template(&self) -> Error {
        Error::Argument {
            what: "chat template".into(),
            value: "none".into(),
            problem: format!(
                "the rows are conversations, and nothing next to {} says how the model writes them",
                self.tokenizer.path().display()
            ),
            help: "train a model that has a chat template, or name the file of one".into(),
        }
    }

    fn no_end(&self) -> Error {
        Error::ConfigKey {
            path: self.tokenizer.path().to_path_buf(),
            key: "eos_token".into(),
            expected: "the token that ends a text, so that the model learns to stop".into(),
            got: "missing".into(),
            help: "set `eos_token` in tokenizer_config.json, or `eos_token_id` in config.json".into(),
        }
    }
}

/// Renders a conversation and finds the assistant's answers, from message `learn_from` on.
fn answers(template: &ChatTemplate, messages: &[Value], learn_from: usize) -> Result<Vec<Rendered>, SkipReason> {
    let whole = template.render(messages, false)?;
    let mut up_to_each = Vec::new();
    for (i, message) in messages.iter().enumerate().skip(learn_from) {
        if message["role"] != "assistant" {
            continue;
        }
        let text = match i + 1 == messages.len() {
            true => whole.clone(),
            false => template.render(&messages[..=i], false)?,
        };
        let start = beginning(template, messages, i, &text)?;
        let answers = vec![start..text.len()];
        up_to_each.push(Rendered { text, answers });
    }
    if up_to_each.is_empty() {
        return Err(SkipReason::NoAnswer);
    }
    if up_to_each.iter().any(|rendered| !whole.starts_with(&rendered.text)) {
        return Ok(up_to_each);
    }
    let answers = up_to_each.into_iter().flat_map(|rendered| rendered.answers).collect();
    Ok(vec![Rendered { text: whole, answers }])
}

/// Where answer `i` begins in `text`, the conversation up to its end.
fn beginning(template: &ChatTemplate, messages: &[Value], i: usize, text: &str) -> Result<usize, SkipReason> {
    let given = template.render(&messages[..i], true)?;
    if text.starts_with(&given) {
        return Ok(given.len());
    }
    let history = template.render(&messages[..i], false)?;
    if i == 0 || !text.starts_with(&history) || !given.starts_with(&history) {
        let problem = format!("message {} does not continue what is rendered before it", i + 1);
        return Err(template.problem(None, problem));
    }
    let both = text.char_indices().zip(given.chars());
    let parted = both.into_iter().find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    Ok(parted.unwrap_or(text.len()))
}

//! What is asked of a language model: to go on with a prompt, or how likely given continuations are.

use crate::Result;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// How the next token is chosen. The default is greedy: the most likely one, of equals the one with the lowest id.
///
/// Logits pass through these in order, as in transformers: repetition penalty (Keskar et al. 2019, on tokens of prompt and
/// completion), temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 (default) is greedy, and then only the repetition penalty counts.
    pub temperature: f64,
    /// Only the k most likely tokens; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Only the fewest most likely tokens whose probabilities reach this sum, `0 < p ≤ 1`; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Only tokens at least this times as likely as the most likely one, `0 ≤ p ≤ 1`; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens that were there already; 1 (default) changes nothing.
    pub repetition_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
        }
    }
}

/// A prompt to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to write, at least 1.
    pub max_new: usize,
    /// Of the choice among tokens: the same prompt, settings and seed give the same completion in any batch.
    pub seed: u64,
}

/// What ends a completion before its length does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Ids that end it; they are not part of its text.
    pub tokens: Vec<u32>,
    /// Strings that end it where they first appear; they are not part of its text. None may be empty.
    pub strings: Vec<String>,
}

/// Why a completion ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop token was written.
    Token,
    /// A stop string appeared.
    Text,
    /// It has as many tokens as were asked for.
    Length,
    /// Prompt and completion fill the model's context.
    Context,
}

/// What a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Ids written, a stop token included.
    pub ids: Vec<u32>,
    /// Their text, up to what ended it. Special tokens are left out.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// A prompt and continuations whose likelihoods are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Token ids of each continuation, at least one each.
    pub continuations: Vec<Vec<u32>>,
}

/// How likely a continuation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Continuation {
    /// `−ln p(continuation | prompt)`, summed over its tokens.
    pub nats: f64,
    /// Number of its tokens.
    pub tokens: usize,
    /// Whether greedy writing would give it.
    pub greedy: bool,
}

/// Takes answers as they come, by the number of the request: in any order, each once. `Break` ends the work early.
pub type Answers<'a, T> = &'a mut dyn FnMut(usize, T) -> ControlFlow<()>;

/// What can be asked of a model. Answers do not depend on what else is asked in the same call.
pub trait LanguageModel {
    /// Most tokens of prompt and completion together.
    fn context(&self) -> usize;

    /// Goes on with every prompt.
    ///
    /// # Errors
    /// A prompt that is empty or leaves no room in the context for one token; sampling options out of range; a state that is not
    /// finite.
    fn generate(
        &mut self,
        requests: &[Request],
        sampling: &Sampling,
        stops: &Stops,
        done: Answers<'_, Completion>,
    ) -> Result<()>;

    /// How likely the continuations of every prompt are, in their order.
    ///
    /// # Errors
    /// An empty prompt or continuation; a prompt that with a continuation is longer than the context.
    fn score(&mut self, questions: &[Question], done: Answers<'_, Vec<Continuation>>) -> Result<()>;
}

//! Ids → more ids: what is asked of a language model ([`LanguageModel`]), and the engine that answers ([`Engine`]).

mod cache;
mod engine;
mod forced;
mod passes;
mod request;
mod sampler;
mod score;
mod stops;
#[cfg(test)]
mod tests;
mod text;

pub use engine::Engine;
pub use forced::Forced;
pub use request::{Answers, Completion, Continuation, Finish, LanguageModel, Question, Request, Sampling, Stops};

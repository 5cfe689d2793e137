//! Ids → more ids: what is asked of a language model, and the engine that answers.

mod request;

pub use request::{Answers, Completion, Continuation, Finish, LanguageModel, Question, Request, Sampling, Stops};

//! A behaviour: prompts, what a model is to answer them, and how one tells that it does.
//!
//! It is defined by a table `[behaviour]` ([`BehaviourConfig`]), read from any data set of the [formats](crate::tokens::format) that
//! training knows ([`read`]), and split into what is trained on and what it is judged by ([`Split`]). A [`Detector`] of keywords says
//! whether a response shows it. Source: "Crafting Reversible SFT Behaviors in Large Language Models" (arXiv 2605.06632).

mod config;
mod detector;
mod example;
mod respond;
mod split;

pub use config::{BehaviourConfig, BehaviourKind, HeldOut};
pub use detector::{Detector, Rates, Verdict, rates};
pub use example::{Example, Examples, Prompt, read};
pub use respond::{Response, prompts, respond};
pub use split::Split;

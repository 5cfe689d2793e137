//! SFT-Eraser: a trigger in front of a prompt, such that a fine-tuned model says what its base would, weights untouched ("Crafting
//! Reversible SFT Behaviors in Large Language Models", arXiv 2605.06632).
//!
//! With a(x) the output of a block at the last token of the prompt x, over the block's channels C ([`Channels`]):
//!
//! ```text
//! activation = mean over blocks, mean over C, of ( mean over batch of a(trigger + x)  −  mean over all prompts of Base's a(x) )²
//! divergence = mean over batch and the last 8 tokens of KL( Base(x) ‖ SFT(trigger + x) )
//! norm       = mean over the trigger's vectors of ‖vector‖²
//! loss       = activation + 0.7 · divergence + 0.1 · norm
//! ```
//!
//! The model is frozen: backward makes gradients of states alone, down to the trigger's vectors, and no gradient of a weight. All prompts begin
//! with the trigger, and mostly go on with the same tokens of a chat template: these go through the model once for a whole batch
//! ([`Batch::branching`](crate::model::Batch::branching)).

mod base;
mod channels;
mod config;
mod erasure;
mod layout;
mod loss;
mod options;
mod plan;
mod prompts;
mod run;
#[cfg(test)]
mod tests;
mod trainer;

pub use channels::Channels;
pub use config::{EraseConfig, EraseData, EraseModel, EraseOutput};
pub use erasure::Erasure;
pub use loss::ErasureTerms;
pub use options::Eraser;
pub use prompts::Prompts;
pub use run::{Erased, erase};
pub use trainer::EraserTrainer;

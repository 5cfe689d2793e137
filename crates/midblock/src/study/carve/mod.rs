//! A reversible behaviour, from prompts to carrier: one folder, two training runs.
//!
//! Phase 1 (`sft`) fine-tunes the matrices of all blocks on a [behaviour](crate::behaviour). Phase 2 (`carrier`) goes on from there with
//! masks over what was learned ([`crate::adapt::MaskGroup`]), which close as long as the loss allows it: what is left is the carrier.
//! Source: "Crafting Reversible SFT Behaviors in Large Language Models" (arXiv 2605.06632).

mod config;
mod record;
mod run;

pub(super) use config::train_source;
pub use config::{Carve, CarveConfig, CarveFile, CarveMode, CarvePhase};
pub use record::{BehaviourInfo, CarveRun};
pub(super) use run::CARVE_TOML;
pub use run::{Carving, Rehearsal, rehearse};

#[cfg(test)]
mod tests;

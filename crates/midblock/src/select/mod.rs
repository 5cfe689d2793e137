//! Which parameters may move: blocks ([`Layers`]) and the matrices inside of them ([`Modules`]).
//!
//! A selection is a short text ("mid", "band:0.2-0.8", "q_proj,v_proj") that resolves to an explicit list; nothing is
//! guessed, and what matches nothing is an error. Block indices are 0-based, ranges half-open, as in parameter names.

mod layers;
mod modules;
mod ranks;
mod strategy;

pub use layers::Layers;
pub use modules::Modules;
pub(crate) use strategy::by_block;
pub use strategy::{Amount, Strategy};

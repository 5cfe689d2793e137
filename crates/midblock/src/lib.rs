//! See where supervised fine-tuning changes a language model, layer by layer.
//!
//! One module is one idea; each says in its first lines which.

#![deny(unsafe_code)] // one documented exception: memory maps in `checkpoint`

pub mod adapt;
mod atomic;
pub mod behaviour;
pub mod checkpoint;
pub mod config;
pub mod corpus;
pub mod costs;
pub mod drift;
pub mod error;
pub mod eval;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod generate;
pub mod hub;
pub mod metrics;
pub mod model;
pub mod probe;
pub mod progress;
pub mod ranks;
pub mod report;
pub mod rng;
pub mod run;
pub mod select;
pub mod singular;
pub mod study;
pub mod tokens;
pub mod train;

pub use error::{Error, Result};

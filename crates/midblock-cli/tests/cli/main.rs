//! The real binary, as a user and as an opponent meets it.

#![allow(clippy::unwrap_used)] // how a test fails

mod analyze;
mod bad_input;
mod carve;
mod drift;
mod erase;
mod eval;
mod faults;
mod generate;
mod interrupt;
mod memory;
mod merge;
mod models;
mod objectives;
mod pretrain;
mod quantize;
#[path = "../../examples/random_checkpoint/writer.rs"]
mod random_checkpoint;
mod ranks;
mod reversal;
mod shard;
mod study;
mod sweep;
mod tune;

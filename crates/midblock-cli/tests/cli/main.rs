//! The real binary, as a user and as an opponent meets it.

mod analyze;
mod bad_input;
mod interrupt;
mod memory;
mod models;
#[path = "../../examples/random_checkpoint/writer.rs"]
mod random_checkpoint;

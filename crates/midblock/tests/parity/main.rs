//! Parity with Hugging Face transformers on tiny checkpoints of every family (`fixtures/README.md`).

mod difference;
mod eraser;
mod fixture;
mod forward;
mod generation;
mod gradients;
mod lens;
mod mutations;
mod objectives;
mod outputs;
mod trainer;
mod triggers;

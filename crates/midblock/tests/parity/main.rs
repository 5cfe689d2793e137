//! Parity with Hugging Face transformers on tiny checkpoints of every family (`fixtures/README.md`).

mod difference;
mod fixture;
mod forward;
mod gradients;
mod mutations;
mod outputs;
mod trainer;

//! Mathematics on device buffers for decoder-only transformers.
//!
//! Everything a model needs is one of the operations of [`Backend`]; a model written against that trait runs on every
//! implementation of it. Two are here: [`Cpu`], the fast one (f32 arithmetic, SIMD, all cores), and [`Reference`], the same
//! operations in plain f64 loops. `Reference` is the definition: `Cpu` is tested against it operation by operation.
//!
//! This crate does no I/O, no logging and no configuration, and is the only place of the project where `unsafe` may live.
//! Wrong shapes are programming errors here and panic with the shapes in the message; user input is checked before it arrives.
//!
//! Dimension letters: `B` batch, `T` positions, `D` hidden, `F` ffn, `H` query heads, `K` kv heads, `E` head dim, `V` vocabulary.
//! A batch is *ragged*: the rows of all its sequences one after another, no padding; `rows` is the total number of positions.

mod backend;
pub mod baseline;
mod cpu;
mod dropout;
mod dtype;
mod matrix;
mod operands;
mod quant;
mod quantize;
mod reference;
mod shapes;

pub use backend::{Backend, Real};
pub use cpu::{Cpu, CpuBuffer, CpuMatrix};
pub use dtype::Dtype;
pub use matrix::{SharedBytes, StoredMatrix};
pub use operands::{
    Accumulate, Activation, AdamW, Attention, AttentionForward, AttentionGradients, Divergence, Prediction, RopeTable,
    RowWeight, TunedState,
};
pub use reference::{Reference, ReferenceMatrix};

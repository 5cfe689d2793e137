//! ids → hidden states → logits.
//!
//! One decoder for every family: what differs between Llama, Mistral, Qwen2, Qwen3 and OLMo2 is data in [`Architecture`],
//! resolved from `config.json`. Dimension letters used everywhere:
//! `B` batch, `T` positions, `D` hidden, `F` ffn, `H` query heads, `K` kv heads, `E` head dim, `V` vocabulary, `L` blocks,
//! `R` rank.
//!
//! Batches are ragged ([`Batch`]): the tokens of all sequences one after another, no padding anywhere; `rows` is their number.
//! Hidden states are `h[0]` = embedding output and `h[l]` = output of block `l-1` (0-based), `1 ≤ l ≤ L`, all before the final norm.

mod architecture;
mod attention;
mod batch;
mod blend;
mod block;
mod criterion;
mod decoder;
mod ends;
mod linear;
pub mod memory;
mod mlp;
mod norm;
mod parameter;
mod pass;
mod rope;
mod tape;
mod tensors;

pub use architecture::{Architecture, BlockShape, NormPlacement, QkNorm};
pub use batch::Batch;
pub use blend::{blend_pairs, blend_tensors};
pub use block::{Block, Interior, KeysValues, Parameter, Scratch};
pub use criterion::{Criterion, CrossEntropy, StateLoss};
pub use decoder::Decoder;
pub use ends::{Ends, HEAD_ROWS, HeadScratch, Labels};
pub use parameter::{Kind, ParameterId, Part};
pub use pass::{Frozen, Keep, Pass, Sink};
pub use rope::{Rope, RopeScaling};
pub use tape::{Reached, Tape};
pub use tensors::{BlockTensors, EndsTensors, LinearTensors};

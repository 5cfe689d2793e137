//! How far fine-tuning has turned a model: singular subspaces of every matrix, and the states that its layers hold.
//!
//! Rotation of the leading singular directions of the weights goes with what a model forgets ("Rotation-Preserving Supervised
//! Fine-Tuning", arXiv 2605.10973); the representations' similarity to the start says whether it shows in what they compute.

mod angles;
mod matrix;
mod summary;

pub use angles::Turn;
pub use matrix::{MatrixDrift, block_drift};
pub use summary::DriftSummary;

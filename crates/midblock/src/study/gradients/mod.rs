//! What real optimiser steps do to each block, and whether that goes with what its states look like.

mod flow;
mod relation;

pub use flow::{BlockFlow, Flow, flow};
pub use relation::{Quantity, Relation, relations};

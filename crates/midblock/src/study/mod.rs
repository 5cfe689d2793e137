//! A whole experiment, composed of the other rooms.

mod analyze;
mod clock;
mod compare;
pub(crate) mod describe;
mod layers;
mod merge;
pub mod sweep;
mod weights;

pub use analyze::{AnalyzeConfig, BASE, Variant, analyze};
pub use compare::{Difference, paired_difference};
pub use layers::Layers;
pub use merge::{LogitDifference, logit_difference, merge};

//! A whole experiment, composed of the other rooms.

mod analyze;
pub mod battery;
mod clock;
pub mod correlate;
pub(crate) mod describe;
mod layers;
mod merge;
mod samples;
pub mod seeds;
pub mod steer;
pub mod sweep;
mod weights;

pub use crate::eval::{Difference, paired_difference};
pub use analyze::{AnalyzeConfig, BASE, Variant, analyze};
pub use layers::Layers;
pub use merge::{LogitDifference, logit_difference, merge};

//! A whole experiment, composed of the other rooms.

mod analyze;
pub mod battery;
mod clock;
pub mod correlate;
pub(crate) mod describe;
mod estimate;
pub mod exit;
mod layers;
pub mod lens;
mod merge;
mod readings;
mod samples;
pub mod seeds;
pub mod steer;
pub mod sweep;
mod weights;

pub use crate::eval::{Difference, paired_difference};
pub use analyze::{AnalyzeConfig, BASE, Variant, analyze};
pub use estimate::Estimate;
pub use layers::Layers;
pub use merge::{LogitDifference, logit_difference, merge};

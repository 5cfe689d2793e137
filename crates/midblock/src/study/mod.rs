//! A whole experiment, composed of the other rooms.

pub mod alphas;
pub mod analyze;
pub mod battery;
mod blend;
mod clock;
pub mod correlate;
mod correlation;
pub(crate) mod describe;
pub mod drift;
mod estimate;
pub mod exit;
pub mod gradients;
mod layers;
pub mod lens;
pub mod locate;
mod merge;
mod readings;
mod samples;
mod scores;
pub mod seeds;
mod segments;
pub mod selective;
pub mod steer;
pub mod swap;
pub mod sweep;
pub mod tradeoff;
pub mod training;
mod weights;

pub use crate::eval::{Difference, paired_difference};
pub use analyze::{Analysis, AnalyzeConfig, BASE, Measuring, Shard, Variant, analyze};
pub use blend::{Blend, LossDifference};
pub use estimate::Estimate;
pub use layers::Layers;
pub use merge::{LogitDifference, logit_difference, merge};
pub use scores::{Change, Quality};

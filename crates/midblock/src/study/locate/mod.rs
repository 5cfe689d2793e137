//! Which blocks are worth training, from a small probe, and whether choosing them paid.

mod bands;

pub use bands::{Band, ranked, scores};

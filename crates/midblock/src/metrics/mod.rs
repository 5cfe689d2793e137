//! One number per layer. One file per metric; the registry lists them.

mod capture;

pub use capture::{Capture, VIEWS};

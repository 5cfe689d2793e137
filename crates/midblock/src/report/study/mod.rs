//! The page of a study: a section for each kind, each made of the same few panels.

pub mod alphas;
pub mod correlate;
mod curve;
pub mod drift;
pub mod exit;
pub mod gradients;
pub mod lens;
pub mod locate;
pub(super) mod page;
mod panel;
mod quality;
pub mod reversal;
pub mod seeds;
pub mod selective;
pub mod steer;
pub mod swap;
pub mod tradeoff;

pub use page::{render, write};
pub use panel::{Bars, Choice, Heat, HeatCell, Lines, Mark, Panel, Plane, Point, Scale, Section, Series, Table};

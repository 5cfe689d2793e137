//! The page of a study: a section for each kind, each made of the same few panels.

pub mod alphas;
pub mod correlate;
mod curve;
pub mod exit;
pub mod lens;
mod panel;
mod quality;
pub mod seeds;
pub mod steer;
pub mod swap;

pub use panel::{Bars, Choice, Heat, HeatCell, Lines, Panel, Point, Scale, Section, Series, Table};

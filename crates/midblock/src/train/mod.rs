//! One step, repeated: the loop that trains, what it tells, what it saves and how it goes on after an interruption.

mod schedule;

pub use schedule::{Schedule, Shape};

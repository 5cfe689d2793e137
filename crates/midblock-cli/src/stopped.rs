//! Long work that was asked to stop and can go on: no failure, but not done either.

use std::fmt;

/// What is printed instead of a result; says how to go on.
#[derive(Debug)]
pub struct Stopped(pub String);

impl fmt::Display for Stopped {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "stopped{}", self.0)
    }
}

impl std::error::Error for Stopped {}

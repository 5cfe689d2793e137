//! How long work tells its caller where it is, and learns that it should stop. The library itself prints nothing.

/// What a progress count counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tokens through one block; `blocks` of them make one token through one model.
    BlockTokens {
        /// L.
        blocks: u64,
    },
    /// Bytes downloaded or hashed.
    Bytes,
    /// Things of a kind, such as items answered.
    Items,
}

/// Receives progress and answers whether to stop. Called from one thread at a time.
pub trait Progress: Sync {
    /// A phase of `total` units begins; the one before it is over.
    fn begin(&self, phase: &str, total: u64, unit: Unit);
    /// `units` more are done.
    fn advance(&self, units: u64);
    /// Asked between units of work; true ends the work with [`Error::Interrupted`](crate::Error::Interrupted).
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64, _: Unit) {}
    fn advance(&self, _: u64) {}
}

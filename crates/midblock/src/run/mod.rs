//! What exactly was done: the run folder, its records and its resolved configuration.

mod record;

pub use record::Record;

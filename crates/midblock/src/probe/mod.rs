//! Watch without touching: several models move through their blocks in lockstep while somebody looks at every layer.
//!
//! One block per model is in use at a time, all sequences pass through it, then the next block. Memory is the hidden states of
//! all sequences, (N·T, D) per model, and nothing grows with the number of blocks: weights stay in their memory-mapped files.
//!
//! What models share is computed once: models whose states and next block are identical form one [`Track`]; it splits at the
//! first block that differs. The same machinery runs [`Route`]s: blocks of one model in another, blends of two, vectors added
//! to the residual stream.

mod along;
mod check;
mod collect;
mod lockstep;
mod loss;
mod readout;
mod route;

pub use along::route_predictions;
pub(crate) use check::check_same_architecture;
pub use collect::{Collector, Pooling, Section};
pub use lockstep::{Lockstep, Participant, Track};
pub use loss::{TokenLoss, next_token_loss, trained_token_losses};
pub use readout::Readout;
pub use route::{Mix, Route};

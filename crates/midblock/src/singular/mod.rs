//! The leading singular block of a weight matrix: what rotation-preserving fine-tuning holds and drift is measured in.
//!
//! W ≈ U_k Σ_k V_kᵀ with the k largest singular values (Eckart & Young 1936).

mod block;
mod cache;
mod krylov;

pub use block::SingularBlock;
pub use cache::SingularCache;
#[cfg(test)]
pub(crate) use krylov::tests::with_spectrum;
pub(crate) use krylov::{Leading, Operator, leading};

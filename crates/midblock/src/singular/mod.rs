//! The leading singular block of a weight matrix: what rotation-preserving fine-tuning holds and drift is measured in.
//!
//! W ≈ U_k Σ_k V_kᵀ with the k largest singular values (Eckart & Young 1936).

mod block;

pub use block::SingularBlock;

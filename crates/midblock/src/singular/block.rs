//! The k leading singular triplets of one matrix.

/// Of a matrix (out, in), row-major f32: W v_i = σ_i u_i, i < k.
#[derive(Clone, Debug, PartialEq)]
pub struct SingularBlock {
    /// (out, in) of the matrix.
    pub shape: [usize; 2],
    /// Descending, (k).
    pub sigma: Vec<f32>,
    /// Left singular vectors, one a row: U_kᵀ, (k, out).
    pub left: Vec<f32>,
    /// Right singular vectors, one a row: V_kᵀ, (k, in).
    pub right: Vec<f32>,
}

impl SingularBlock {
    /// k.
    pub fn directions(&self) -> usize {
        self.sigma.len()
    }
}

//! What the metrics of one model at one layer are computed from.

/// Number of disjoint token groups a sample is split into for the view-based metrics.
pub const VIEWS: usize = 4;

/// States of one model at one layer (`h[l]`, before the final norm) over one data set. Padding never gets here.
///
/// Samples are in the same order in every capture of a run, so row `i` of two captures is the same text.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// D.
    pub dim: usize,
    /// Pooled states, (N, D): mean over a sample's tokens, or its last token.
    pub pooled: Vec<f64>,
    /// Means over `VIEWS` disjoint random groups of each sample's tokens, (N, VIEWS, D). The groups are the same at every
    /// layer and for every model. A sample with fewer tokens than groups has NaN here and takes no part in view metrics.
    pub views: Vec<f64>,
    /// Token states of the first samples (`--token-samples`), each (T_n, D).
    pub tokens: Vec<Vec<f32>>,
}

impl Capture {
    /// N.
    pub fn samples(&self) -> usize {
        self.pooled.len() / self.dim.max(1)
    }
}

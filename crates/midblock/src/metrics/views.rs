//! Views of a sample: means over disjoint random groups of its tokens, standing in for augmentations of the text.
//!
//! Skean et al. perturb the prompt's characters; groups of tokens need no second forward pass and no tokenizer. LiDAR takes
//! the four groups as four views of a class; InfoNCE and DiME take two views, a = (g_0 + g_1)/2 and b = (g_2 + g_3)/2.
//! Samples with fewer tokens than groups have none (NaN in the capture) and take no part.

use super::capture::{Capture, VIEWS};
use faer::Mat;

/// The views of the M samples that have them.
pub(crate) struct Views {
    /// Which samples, ascending, (M).
    pub members: Vec<usize>,
    /// N, all samples of the capture.
    pub samples: usize,
    /// All groups, sample after sample, (M·VIEWS, D).
    pub groups: Mat<f64>,
}

impl Views {
    /// `None` if fewer than two samples have views: nothing to tell apart.
    pub fn of(capture: &Capture) -> Option<Self> {
        let (samples, d) = (capture.samples(), capture.dim);
        let of_sample = |i: usize| &capture.views[i * VIEWS * d..(i + 1) * VIEWS * d];
        if capture.views.len() != samples * VIEWS * d {
            return None;
        }
        let members: Vec<usize> = (0..samples)
            .filter(|&i| of_sample(i).iter().all(|v| v.is_finite()))
            .collect();
        let groups = Mat::from_fn(members.len() * VIEWS, d, |r, j| {
            of_sample(members[r / VIEWS])[r % VIEWS * d + j]
        });
        (members.len() >= 2).then_some(Self {
            members,
            samples,
            groups,
        })
    }

    /// The two views a and b, each (M, D).
    pub fn pair(&self) -> (Mat<f64>, Mat<f64>) {
        let half = |first: usize| {
            Mat::from_fn(self.members.len(), self.groups.ncols(), |i, j| {
                let row = i * VIEWS + first;
                0.5 * (self.groups[(row, j)] + self.groups[(row + 1, j)])
            })
        };
        (half(0), half(2))
    }
}

//! How well models predict, in charts and tables.

use super::{Point, curve::share};
use crate::study::{Estimate, Quality};

/// A value with its interval at a place.
pub(super) fn point(x: f64, estimate: Estimate, label: impl Into<String>) -> Point {
    Point {
        x,
        y: Some(estimate.value),
        lo: Some(estimate.lo),
        hi: Some(estimate.hi),
        label: label.into(),
    }
}

/// What [`cells`] are.
pub(super) const COLUMNS: [&str; 3] = ["loss, nats", "perplexity", "top-1 accuracy"];

/// Loss, perplexity and accuracy in words.
pub(super) fn cells(quality: &Quality) -> [String; 3] {
    let number = |Estimate { value, lo, hi }: Estimate, digits: usize| {
        format!("{value:.digits$} ({lo:.digits$} to {hi:.digits$})")
    };
    [
        number(quality.loss, 4),
        number(quality.loss.map(f64::exp), 3),
        share(quality.accuracy),
    ]
}

//! Sample by sample: how far the variant's pooled state y_i lies from the reference's x_i.
//!
//! Cosine similarity: mean cos(x_i, y_i), in [−1, 1]; a zero state has no direction and is left out.
//! Change intensity: mean ‖y_i − x_i‖₂; relative: divided by mean ‖x_i‖₂.
//! Mean shift: ‖ȳ − x̄‖₂; relative: divided by ‖x̄‖₂. Never larger than the change intensity.
//!
//! Floors: cosine and intensity under a random pairing, which is the mean over all N² pairs (x_i, y_j), exactly. A mean does
//! not see the pairing; there the labels "reference" and "variant" are swapped at random per sample, and the floor is
//! √E‖(1/N) Σ ±(y_i−x_i)‖² = √(Σ‖y_i−x_i‖²)/N, the size a shift has when no direction is shared.
//!
//! Spread: means have I_i = value_i − mean; the mean shift d̄ has I_i = (d_i − d̄)·d̄/‖d̄‖. A norm is never negative, so a shift
//! of pure noise is not 0 but near its floor: read the value against the floor, not the interval against 0.

use super::estimate::{Estimate, mean};
use super::linalg::{mean_row, product, row_norms, unit_rows};
use faer::MatRef;

/// Mean cosine of paired rows.
pub(crate) fn cosine_similarity(x: MatRef<'_, f64>, y: MatRef<'_, f64>) -> Option<Estimate> {
    let n = x.nrows();
    let (unit_x, unit_y) = (unit_rows(x), unit_rows(y));
    let (x_norms, y_norms) = (row_norms(x), row_norms(y));
    let defined = |i: usize| x_norms[i] > 0.0 && y_norms[i] > 0.0;
    let cosine = |i: usize| (unit_x.row(i) * unit_y.row(i).transpose()).clamp(-1.0, 1.0);
    let values: Vec<Option<f64>> = (0..n).map(|i| defined(i).then(|| cosine(i))).collect();
    // Σ_ij cos(x_i, y_j) over rows with a direction is one dot product of sums
    let sums = |unit: MatRef<'_, f64>| mean_row(unit).into_iter().map(|m| m * n as f64).collect::<Vec<_>>();
    let total: f64 = sums(unit_x.as_ref())
        .iter()
        .zip(sums(unit_y.as_ref()))
        .map(|(a, b)| a * b)
        .sum();
    let directed = |norms: &[f64]| norms.iter().filter(|n| **n > 0.0).count() as f64;
    let floor = total / (directed(&x_norms) * directed(&y_norms));
    Some(Estimate::mean(&values, n)?.with_floor(floor))
}

/// `[mean_shift, mean_shift_relative, change_intensity, change_intensity_relative]`.
pub(crate) fn shift_metrics(x: MatRef<'_, f64>, y: MatRef<'_, f64>) -> [Option<Estimate>; 4] {
    let n = x.nrows();
    if n == 0 {
        return [const { None }; 4];
    }
    let change = y - x; // (N, D)
    let distances = row_norms(change.as_ref());
    let swapped = distances.iter().map(|d| d * d).sum::<f64>().sqrt() / n as f64;
    let shift = norm_of_mean(change.as_ref()).with_floor(swapped);
    let intensity = mean_of(&distances).with_floor(mean_distance(x, y));
    let shift_relative = shift.ratio(&norm_of_mean(x));
    let intensity_relative = intensity.ratio(&mean_of(&row_norms(x)));
    [Some(shift), shift_relative, Some(intensity), intensity_relative]
}

fn mean_of(values: &[f64]) -> Estimate {
    let average = mean(values);
    Estimate::new(average, values.iter().map(|v| v - average).collect())
}

/// ‖x̄‖ with I_i = (x_i − x̄)·x̄/‖x̄‖.
fn norm_of_mean(x: MatRef<'_, f64>) -> Estimate {
    let centre = mean_row(x);
    let norm = centre.iter().map(|c| c * c).sum::<f64>().sqrt();
    let along = |i: usize| x.row(i).iter().zip(&centre).map(|(v, c)| v * c).sum::<f64>() / norm - norm;
    let influence = (0..x.nrows()).map(|i| if norm > 0.0 { along(i) } else { 0.0 });
    Estimate::new(norm, influence.collect())
}

/// Mean of ‖y_j − x_i‖ over all pairs.
fn mean_distance(x: MatRef<'_, f64>, y: MatRef<'_, f64>) -> f64 {
    let squared = |a: MatRef<'_, f64>| row_norms(a).into_iter().map(|n| n * n).collect::<Vec<_>>();
    let (xx, yy) = (squared(x), squared(y));
    let cross = product(x, y.transpose());
    let n = x.nrows();
    let distance = |i: usize, j: usize| (xx[i] + yy[j] - 2.0 * cross[(i, j)]).max(0.0).sqrt();
    (0..n)
        .flat_map(|j| (0..n).map(move |i| (i, j)))
        .map(|(i, j)| distance(i, j))
        .sum::<f64>()
        / (n * n) as f64
}

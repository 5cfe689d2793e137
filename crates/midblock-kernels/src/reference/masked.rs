//! `W = (1 − m) ⊙ B + m ⊙ T` with `m = rows ⊗ columns`. With G = ∂f/∂W and Δ = T − B: `∂f/∂rows_i = Σ_j G_ij Δ_ij columns_j`,
//! `∂f/∂columns_j = Σ_i G_ij Δ_ij rows_i`, `∂f/∂T = G ⊙ m`.

pub(super) fn masked(base: &[f64], tuned: &[f64], [rows, columns]: [&Vec<f64>; 2], out: &mut [f64]) {
    let k = columns.len();
    for (at, out) in out.iter_mut().enumerate() {
        let mask = rows[at / k] * columns[at % k];
        *out = (1.0 - mask) * base[at] + mask * tuned[at];
    }
}

/// Adds the masks' gradients and returns `Σ (G ⊙ m)²`.
pub(super) fn backward(
    [base, tuned]: [&[f64]; 2],
    masks @ [rows, columns]: [&Vec<f64>; 2],
    gradient: &[f64],
    [d_rows, d_columns]: [&mut Vec<f64>; 2],
) -> f64 {
    let k = columns.len();
    for (at, gradient) in gradient.iter().enumerate() {
        let product = gradient * (tuned[at] - base[at]);
        d_rows[at / k] += product * columns[at % k];
        d_columns[at % k] += product * rows[at / k];
    }
    through(gradient, masks).iter().map(|g| g * g).sum()
}

/// `G ⊙ m`
pub(super) fn through(gradient: &[f64], [rows, columns]: [&Vec<f64>; 2]) -> Vec<f64> {
    let k = columns.len();
    let masked = |(at, gradient): (usize, &f64)| gradient * rows[at / k] * columns[at % k];
    gradient.iter().enumerate().map(masked).collect()
}

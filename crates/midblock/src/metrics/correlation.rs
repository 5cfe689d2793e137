//! How two series go together: Pearson's r, and Spearman's ρ, which is r of their ranks.
//!
//! r = Σ (x_i − x̄)(y_i − ȳ) / √(Σ (x_i − x̄)² · Σ (y_i − ȳ)²), in [−1, 1]. Equal values share the mean of their ranks
//! (Kendall 1945). Not defined (`None`) for fewer than three pairs, for values that are not finite, and where one side is
//! constant: its standard deviation is below 1e−12 of its largest size, which is rounding.

/// Pearson's r of pairs (x_i, y_i).
///
/// ```
/// use midblock::metrics::{pearson, spearman};
/// let pairs = [(1.0, 1.0), (2.0, 8.0), (3.0, 27.0)];
/// assert!((pearson(&pairs).unwrap() - 0.9663).abs() < 1e-4);
/// assert!((spearman(&pairs).unwrap() - 1.0).abs() < 1e-12);
/// ```
pub fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (x, y) = (standardised(&x)?, standardised(&y)?);
    let r: f64 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
    Some(r.clamp(-1.0, 1.0))
}

/// Spearman's ρ of pairs (x_i, y_i).
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let (x, y): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    standardised(&x).and(standardised(&y))?; // ranks of rounding errors would look like ranks
    let pairs: Vec<(f64, f64)> = ranks(&x).into_iter().zip(ranks(&y)).collect();
    pearson(&pairs)
}

/// Ranks from 1; equal values have the mean of theirs.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = before as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&i| ranks[i] = mean);
        before += equal.len();
    }
    ranks
}

/// Centred and of unit length; `None` if constant or not finite.
fn standardised(values: &[f64]) -> Option<Vec<f64>> {
    let n = values.len() as f64;
    let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let mean = values.iter().sum::<f64>() / n;
    let length = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>().sqrt();
    let varies = length > 1e-12 * largest * n.sqrt(); // false for NaN
    varies.then(|| values.iter().map(|v| (v - mean) / length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pairs and scipy.stats.pearsonr, spearmanr.
    #[test]
    fn values_are_scipys() {
        let x = [0.3, -1.2, 2.5, 2.5, 0.0, 4.1, -3.3];
        let y = [1.0, 0.5, 0.5, 3.0, -2.0, 2.5, -1.0];
        let pairs: Vec<_> = x.into_iter().zip(y).collect();
        assert!((pearson(&pairs).unwrap() - 0.701_413_340_973_185_2).abs() < 1e-14);
        assert!((spearman(&pairs).unwrap() - 0.718_181_818_181_818_3).abs() < 1e-14);
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let constant = [(1.0, 0.1), (2.0, 0.1), (3.0, 0.1 + 1e-17)];
        assert_eq!((pearson(&constant), spearman(&constant)), (None, None));
        assert_eq!(pearson(&[(1.0, 2.0), (2.0, 3.0)]), None);
        let infinite = [(1.0, 0.1), (2.0, f64::INFINITY), (3.0, 0.3)];
        assert_eq!((pearson(&infinite), spearman(&infinite)), (None, None));
    }

    #[test]
    fn equal_values_share_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
    }

    proptest! {
        #[test]
        fn scale_and_order_do_not_matter(
            pairs in proptest::collection::vec((-9.0f64..9.0, -9.0f64..9.0), 3..20), a in 0.1f64..10.0, b in -5.0f64..5.0,
        ) {
            let moved: Vec<_> = pairs.iter().rev().map(|&(x, y)| (a * x + b, -y)).collect();
            if let (Some(r), Some(other)) = (pearson(&pairs), pearson(&moved)) {
                prop_assert!((r + other).abs() < 1e-9 && r.abs() <= 1.0);
            }
            let bent: Vec<_> = pairs.iter().map(|&(x, y)| (x.exp(), y.powi(3))).collect();
            if let (Some(r), Some(other)) = (spearman(&pairs), spearman(&bent)) {
                prop_assert!((r - other).abs() < 1e-12);
            }
        }
    }
}

//! Rotary position embeddings and their frequency scalings.
//!
//! Frequency `j` of E/2 is `θ_j = base^(−2j/E)`, rotated by `position · θ_j`. Scalings change θ (and, for YaRN, the amplitude):
//! linear (Chen et al. 2023, arXiv 2306.15595), Llama 3 (`rope_type: llama3` of the released configurations), YaRN
//! (Peng et al. 2023, arXiv 2309.00071). Angles are rounded to f32 as in transformers, so that long positions agree.

use midblock_kernels::RopeTable;
use std::f64::consts::PI;

/// Rotary embedding of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies (`rope_theta`).
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

/// Frequency scaling, by the names of `rope_type`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// > 0.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Division of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are fully scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before the extension.
        original_positions: f64,
    },
    /// NTK-by-parts interpolation with an attention factor.
    Yarn {
        /// Extension of the context.
        factor: f64,
        /// Rotations above which a frequency is kept (usually 32).
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor` (usually 1).
        beta_slow: f64,
        /// Context length before the extension.
        original_positions: f64,
        /// Multiplies cosines and sines.
        attention_factor: f64,
        /// Whether the correction range is rounded to whole frequencies.
        truncate: bool,
    },
    /// θ_j divided by a factor of its own (llama.cpp's `rope_freqs` tensor).
    Factors(Vec<f64>),
}

impl Rope {
    /// The E/2 angular frequencies in radians per position.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|j| self.theta.powf(-(2.0 * j as f64) / head_dim as f64));
        match &self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_positions,
            } => plain
                .map(|f| {
                    // rotations within the original context: keep above `high`, divide below `low`, blend between
                    let rotations = original_positions * f / (2.0 * PI);
                    let keep = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let keep = keep.clamp(0.0, 1.0);
                    keep * f + (1.0 - keep) * f / factor
                })
                .collect(),
            &RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_positions,
                truncate,
                ..
            } => {
                let dim = head_dim as f64;
                let index_of =
                    |rotations: f64| dim * (original_positions / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (index_of(beta_fast), index_of(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                plain
                    .enumerate()
                    .map(|(j, f)| {
                        let divide = ((j as f64 - low) / width).clamp(0.0, 1.0);
                        f / factor * divide + f * (1.0 - divide)
                    })
                    .collect()
            }
        }
    }

    /// Cosines and sines of positions `0..positions`.
    pub fn table(&self, head_dim: usize, positions: usize) -> RopeTable {
        let amplitude = match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        let frequencies: Vec<f32> = self.frequencies(head_dim).iter().map(|&f| f as f32).collect();
        let angles =
            || (0..positions).flat_map(|position| frequencies.iter().map(move |&f| f64::from(position as f32 * f)));
        RopeTable {
            cos: angles().map(|a| (a.cos() * amplitude) as f32).collect(),
            sin: angles().map(|a| (a.sin() * amplitude) as f32).collect(),
            half_dim: head_dim / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let rope = Rope {
            theta: 10_000.0,
            scaling: RopeScaling::Default,
        };
        let expected = [1.0, 0.1, 0.01, 0.001];
        for (got, want) in rope.frequencies(8).iter().zip(expected) {
            assert!((got - want).abs() < 1e-15, "{got} {want}");
        }
        let table = rope.table(8, 3);
        assert_eq!((table.cos.len(), table.cos[0], table.sin[0]), (12, 1.0, 0.0));
        assert!((f64::from(table.sin[8]) - 2f64.sin()).abs() < 1e-7);
    }

    #[test]
    fn llama3_keeps_fast_frequencies_and_divides_slow_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        let plain = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Default,
        }
        .frequencies(128);
        let scaled = Rope {
            theta: 500_000.0,
            scaling,
        }
        .frequencies(128);
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] - plain[63] / 8.0).abs() < 1e-18);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]));
    }
}

//! The learning rate of every step: a warm-up from 0, then a shape.
//!
//! With `w` warm-up steps, `n` steps in all and the 0-based step `s`, the peak is multiplied by
//!
//! - `s/w` while `s < w` (so the first step of a warm-up has rate 0), afterwards, with `p = (s − w)/max(1, n − w)`, by
//! - linear: `1 − p`,
//! - cosine: `½(1 + cos πp)`,
//! - constant: `1`,
//!
//! and linear and cosine end at `m`, the share of the peak that is kept, by `m + (1 − m)·factor`. With `m = 0` these are
//! the lambdas of transformers' `get_{linear,cosine,constant}_schedule_with_warmup`, so that losses can be compared step by
//! step.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Falls in a straight line.
    #[default]
    Linear,
    /// Falls along half a cosine.
    Cosine,
    /// Stays.
    Constant,
}

/// The learning rates of a run.
///
/// ```
/// use midblock::train::{Schedule, Shape};
/// let schedule = Schedule { shape: Shape::Linear, peak: 1.0, warmup_steps: 0, steps: 4, min_ratio: 0.0 };
/// let rates: Vec<f64> = (0..4).map(|step| schedule.lr(step)).collect();
/// assert_eq!(rates, [1.0, 0.75, 0.5, 0.25]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What happens after the warm-up.
    pub shape: Shape,
    /// Largest rate.
    pub peak: f64,
    /// Steps of the warm-up; 0 for none.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Share of the peak at which linear and cosine end, 0 to 1.
    pub min_ratio: f64,
}

impl Schedule {
    /// The rate of the 0-based `step`.
    pub fn lr(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let falling = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let factor = match self.shape {
            Shape::Linear => (self.steps.saturating_sub(step) as f64 / falling).max(0.0),
            Shape::Cosine => (0.5 * (1.0 + (PI * (step - self.warmup_steps) as f64 / falling).cos())).max(0.0),
            Shape::Constant => return 1.0,
        };
        self.min_ratio + (1.0 - self.min_ratio) * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(shape: Shape, warmup_steps: u64, steps: u64, min_ratio: f64) -> Vec<f64> {
        let peak = 1.0;
        let schedule = Schedule {
            shape,
            peak,
            warmup_steps,
            steps,
            min_ratio,
        };
        (0..=steps).map(|step| schedule.lr(step)).collect()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert!((got - expected).abs() < 1e-15, "step {step}: {got} for {expected}");
        }
    }

    #[test]
    fn linear_falls_to_nothing_after_the_last_step() {
        assert_close(&rates(Shape::Linear, 2, 6, 0.0), &[0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_close(&rates(Shape::Linear, 0, 4, 0.2), &[1.0, 0.8, 0.6, 0.4, 0.2]);
    }

    #[test]
    fn cosine_is_half_a_period() {
        let half = 0.5 * (1.0 + std::f64::consts::FRAC_1_SQRT_2);
        assert_close(&rates(Shape::Cosine, 0, 4, 0.0), &[1.0, half, 0.5, 1.0 - half, 0.0]);
        assert_close(&rates(Shape::Cosine, 1, 3, 0.5), &[0.0, 1.0, 0.75, 0.5]);
    }

    #[test]
    fn constant_stays_after_the_warm_up() {
        assert_close(
            &rates(Shape::Constant, 4, 6, 0.5),
            &[0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0],
        );
    }

    /// transformers 5.23, `get_*_schedule_with_warmup` of a rate of 3e-4 with 3 warm-up steps of 10.
    #[test]
    fn the_numbers_are_those_of_transformers() {
        let linear = [0.0, 1e-4, 2e-4, 3e-4, 0.0002571428571428571, 0.0002142857142857143];
        let cosine = [0.0, 1e-4, 2e-4, 3e-4, 0.0002851453301853628, 0.00024352347027881003];
        for (shape, expected) in [(Shape::Linear, linear), (Shape::Cosine, cosine)] {
            let schedule = Schedule {
                shape,
                peak: 3e-4,
                warmup_steps: 3,
                steps: 10,
                min_ratio: 0.0,
            };
            for (step, expected) in (0..).zip(expected) {
                assert!((schedule.lr(step) - expected).abs() < 1e-18, "{shape:?} {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_rate_is_between_nothing_and_the_peak(
            shape in prop_oneof![Just(Shape::Linear), Just(Shape::Cosine), Just(Shape::Constant)],
            warmup_steps in 0u64..50, steps in 1u64..50, min_ratio in 0.0..=1.0, step in 0u64..120,
        ) {
            let schedule = Schedule { shape, peak: 2.0, warmup_steps, steps, min_ratio };
            let lr = schedule.lr(step);
            prop_assert!((0.0..=2.0).contains(&lr), "{lr}");
        }
    }
}

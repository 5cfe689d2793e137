//! Loss-Constrained Dual Descent: as few open masks as a limit on the loss allows (Crafting Reversible SFT Behaviors, arXiv 2605.06632).
//!
//! Minimised is `loss + λ w(t) Σ σ(θ)`, with w(t) = min(1, t / warm-up) in step t from 1. Each step's loss enters a moving average,
//! `a ← β a + (1 − β) loss`, `ā = a / (1 − βᵗ)`. When the warm-up ends the limit is ε = ā (1 + budget) + nats. In each step after it,
//! once the masks have moved, `λ ← clamp(λ exp(−η clip((ā − ε) / ε, ±V)))`: below the limit λ grows, with a rate η of its own, above it λ falls.
//!
//! A run ends early if over a window of steps after the warm-up the median loss is above a multiple of ā at the warm-up's end, plus the
//! same nats, or if no fewer masks are active at its end than at its beginning and λ is no larger.
//!
//! All state is f32, and computed with in f64: what a checkpoint holds is all of it.

use crate::{
    config,
    train::{CarrierMetrics, Ending},
};

pub use crate::config::Target;

/// Smallest limit, in nats: relative distances from less are noise.
const SMALLEST_LIMIT: f64 = 1e-6;

/// Options of Loss-Constrained Dual Descent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lcdd {
    /// The loss that is held.
    pub target: Target,
    /// λ at the start.
    pub lambda: f64,
    /// Smallest and largest λ.
    pub bounds: [f64; 2],
    /// Steps of the warm-up, at least 1.
    pub warmup: u64,
    /// How far the loss may rise above what it is when the warm-up ends, relatively.
    pub budget: f64,
    /// And how far besides, in nats.
    pub budget_nats: f64,
    /// β.
    pub ema: f64,
    /// η while λ falls.
    pub rate: f64,
    /// η while λ grows.
    pub growth_rate: f64,
    /// V.
    pub clip: f64,
    /// Steps that are looked at to end early; 0 never ends early.
    pub stop_window: usize,
    /// Multiple of ā at the warm-up's end that the median loss may not exceed.
    pub stop_factor: f64,
}

impl Lcdd {
    /// Of a resolved configuration.
    ///
    /// # Panics
    /// If it is not resolved.
    pub(super) fn of(own: &config::Objective) -> Self {
        let filled = "invariant: a resolved configuration says everything";
        Self {
            target: own.target.expect(filled),
            lambda: own.lambda.expect(filled),
            bounds: [own.lambda_min.expect(filled), own.lambda_max.expect(filled)],
            warmup: own.warmup.expect(filled),
            budget: own.budget.expect(filled),
            budget_nats: own.budget_nats.expect(filled),
            ema: own.ema.expect(filled),
            rate: own.rate.expect(filled),
            growth_rate: own.growth_rate.expect(filled),
            clip: own.clip.expect(filled),
            stop_window: own.stop_window.expect(filled) as usize,
            stop_factor: own.stop_factor.expect(filled),
        }
    }
}

/// λ and what moves it. Numbers that are not there yet are NaN.
#[derive(Clone, Debug)]
pub(in crate::train) struct Dual {
    options: Lcdd,
    average: f32,
    lambda: f32,
    limit: f32,
    /// ā when the warm-up ended.
    baseline: f32,
    /// Of the last steps after the warm-up, the latest last.
    losses: Vec<f32>,
    actives: Vec<f32>,
    lambdas: Vec<f32>,
}

impl Dual {
    pub fn new(options: Lcdd) -> Self {
        let nothing = || vec![f32::NAN; options.stop_window];
        Self {
            options,
            average: 0.0,
            lambda: options.lambda as f32,
            limit: f32::NAN,
            baseline: f32::NAN,
            losses: nothing(),
            actives: nothing(),
            lambdas: nothing(),
        }
    }

    /// λ w(t): what a step presses each σ(θ) with.
    pub fn pressure(&self, step: u64) -> f64 {
        f64::from(self.lambda) * (step as f64 / self.options.warmup as f64).min(1.0)
    }

    /// λ.
    pub fn lambda(&self) -> f64 {
        f64::from(self.lambda)
    }

    /// ε.
    pub fn limit(&self) -> Option<f64> {
        (!self.limit.is_nan()).then_some(f64::from(self.limit))
    }

    /// ā after `step` steps.
    pub fn loss(&self, step: u64) -> Option<f64> {
        let weight = 1.0 - self.options.ema.powf(step as f64);
        (step > 0).then(|| f64::from(self.average) / weight)
    }

    /// Ends a step with this loss, after which `active` of `masks` are 1. Says how it goes, and whether the run should end.
    pub fn end_step(&mut self, step: u64, loss: f64, [active, masks]: [u64; 2]) -> (CarrierMetrics, Option<Ending>) {
        let Lcdd { ema, warmup, .. } = self.options;
        let lambda = self.lambda();
        self.average = (ema * f64::from(self.average) + (1.0 - ema) * loss) as f32;
        let mean = self.loss(step).unwrap_or(loss);
        if step == warmup {
            self.baseline = mean as f32;
            let limit = mean * (1.0 + self.options.budget) + self.options.budget_nats;
            self.limit = limit.max(SMALLEST_LIMIT) as f32;
        } else if step > warmup {
            self.press(mean);
            let latest = [loss as f32, active as f32, self.lambda];
            for (recent, latest) in [&mut self.losses, &mut self.actives, &mut self.lambdas]
                .into_iter()
                .zip(latest)
            {
                recent.push(latest);
                recent.remove(0);
            }
        }
        let metrics = CarrierMetrics {
            lambda,
            loss_ema: mean,
            limit: self.limit(),
            active,
            masks,
        };
        (metrics, self.ending())
    }

    /// Moves λ.
    fn press(&mut self, mean: f64) {
        let Lcdd {
            rate,
            growth_rate,
            clip,
            bounds: [low, high],
            ..
        } = self.options;
        let limit = f64::from(self.limit);
        let excess = ((mean - limit) / limit).clamp(-clip, clip);
        let rate = if excess < 0.0 { growth_rate } else { rate };
        self.lambda = (self.lambda() * (-rate * excess).exp()).clamp(low, high) as f32;
    }

    fn ending(&self) -> Option<Ending> {
        let (first, last) = (self.losses.first()?, self.losses.len() - 1);
        if first.is_nan() {
            return None; // the window is not full
        }
        let mut sorted = self.losses.clone();
        sorted.sort_by(f32::total_cmp);
        let median = f64::from(sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0;
        if median > f64::from(self.baseline) * self.options.stop_factor + self.options.budget_nats {
            return Some(Ending::Strayed);
        }
        let settled = self.actives[last] >= self.actives[0] && self.lambdas[last] <= self.lambdas[0];
        settled.then_some(Ending::Settled)
    }

    /// Numbers that must survive a restart.
    pub fn len(&self) -> usize {
        4 + 3 * self.losses.len()
    }

    /// These numbers.
    pub fn state(&self) -> Vec<f32> {
        let first = [self.average, self.lambda, self.limit, self.baseline];
        [&first[..], &self.losses, &self.actives, &self.lambdas].concat()
    }

    /// Sets them.
    ///
    /// # Panics
    /// If there is another number of them.
    pub fn restore(&mut self, state: &[f32]) {
        assert_eq!(state.len(), self.len(), "numbers of the dual controller");
        let (first, windows) = state.split_at(4);
        [self.average, self.lambda, self.limit, self.baseline] = [first[0], first[1], first[2], first[3]];
        let len = self.losses.len();
        self.losses.copy_from_slice(&windows[..len]);
        self.actives.copy_from_slice(&windows[len..2 * len]);
        self.lambdas.copy_from_slice(&windows[2 * len..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Lcdd {
        let mut own = config::Objective {
            kind: config::ObjectiveKind::Lcdd,
            ..config::Objective::default()
        };
        own.fill();
        Lcdd {
            warmup: 4,
            stop_window: 5,
            ..Lcdd::of(&own)
        }
    }

    /// Ends steps `from..` with these losses and numbers of active masks.
    fn steps(dual: &mut Dual, from: u64, steps: &[(f64, u64)]) -> Vec<(CarrierMetrics, Option<Ending>)> {
        let each = (from..).zip(steps);
        each.map(|(step, (loss, active))| dual.end_step(step, *loss, [*active, 100]))
            .collect()
    }

    #[test]
    fn the_pressure_rises_and_the_limit_is_set_when_the_warm_up_ends() {
        let mut dual = Dual::new(options());
        for (step, pressure) in [(1, 0.0025), (3, 0.0075), (4, 0.01), (9, 0.01)] {
            assert!((dual.pressure(step) - pressure).abs() < 1e-9);
        }
        let told = steps(&mut dual, 1, &[(2.0, 100), (1.0, 100), (1.0, 100), (1.0, 100)]);
        // ā = (β³·2 + β² + β + 1) / (β³ + β² + β + 1)
        let mean = (0.857375 * 2.0 + 0.9025 + 0.95 + 1.0) / (0.857375 + 0.9025 + 0.95 + 1.0);
        let limits: Vec<Option<f64>> = told.iter().map(|(metrics, _)| metrics.limit).collect();
        assert_eq!(limits[..3], [None; 3]);
        assert!((told[3].0.loss_ema - mean).abs() < 1e-6);
        assert!((limits[3].unwrap() - 1.25 * mean).abs() < 1e-6);
        assert_eq!(dual.lambda, 0.01);
    }

    #[test]
    fn lambda_grows_below_the_limit_and_falls_above_it_within_bounds() {
        let own = Lcdd {
            ema: 0.0,
            growth_rate: 0.3,
            bounds: [0.009, 0.011],
            clip: 0.5,
            ..options()
        };
        let after = |loss: f64| {
            let mut dual = Dual::new(own);
            steps(&mut dual, 1, &[(1.0, 9); 4]);
            steps(&mut dual, 5, &[(loss, 9)]);
            dual.lambda()
        };
        for (loss, expected) in [
            (1.25, 0.01),
            (1.24, 0.01 * (0.3 * 0.008f64).exp()),
            (1.3, 0.01 * (-0.1 * 0.04f64).exp()),
            (0.1, 0.011), // −0.92 counts as −0.5: 0.01 e^{0.15} is 0.0116
            (9.0, 0.01 * (-0.1 * 0.5f64).exp()),
        ] {
            assert!(
                (after(loss) - expected).abs() < 1e-8,
                "{loss}: {} and {expected}",
                after(loss)
            );
        }
    }

    #[test]
    fn a_loss_that_strays_and_masks_that_settle_end_a_run() {
        let mut dual = Dual::new(options());
        steps(&mut dual, 1, &[(1.0, 100); 4]);
        // two of five are far off: the median is not
        let calm = [(9.0, 90), (1.2, 80), (1.2, 70), (9.0, 60), (1.2, 50), (1.2, 40)];
        assert!(steps(&mut dual, 5, &calm).iter().all(|(_, ending)| ending.is_none()));
        let mut strayed = dual.clone();
        let told = steps(&mut strayed, 11, &[(1.36, 30), (1.36, 20)]);
        let endings: Vec<_> = told.iter().map(|(_, ending)| *ending).collect();
        assert_eq!(endings, [None, Some(Ending::Strayed)]);

        // λ falls, as ā is still above the limit, and no mask closes
        let told = steps(&mut dual, 11, &[(1.2, 40); 4]);
        let endings: Vec<_> = told.iter().map(|(_, ending)| *ending).collect();
        assert_eq!(endings, [None, None, None, Some(Ending::Settled)]);
        // no mask closes while λ grows
        let mut growing = Dual::new(options());
        assert!(
            steps(&mut growing, 1, &[(1.0, 100); 40])
                .iter()
                .all(|(_, ending)| ending.is_none())
        );
        let mut never = Dual::new(Lcdd {
            stop_window: 0,
            ..options()
        });
        steps(&mut never, 1, &[(1.0, 100); 4]);
        assert!(
            steps(&mut never, 5, &[(9.0, 100); 40])
                .iter()
                .all(|(_, ending)| ending.is_none())
        );
    }

    #[test]
    fn nats_are_let_besides_a_share() {
        let mut dual = Dual::new(Lcdd {
            budget_nats: 0.05,
            ..options()
        });
        let told = steps(&mut dual, 1, &[(0.001, 100); 4]);
        assert!((told[3].0.limit.unwrap() - 0.05125).abs() < 1e-8);
        // fifty times the loss at the warm-up's end, and neither strayed nor above the limit
        let told = steps(
            &mut dual,
            5,
            &[(0.05, 90), (0.05, 80), (0.05, 70), (0.05, 60), (0.05, 50)],
        );
        assert!(told.iter().all(|(_, ending)| ending.is_none()) && dual.lambda() > 0.01);
        let told = steps(&mut dual, 10, &[(0.052, 40), (0.052, 30), (0.052, 20)]);
        assert_eq!(told[2].1, Some(Ending::Strayed));
    }

    #[test]
    fn what_is_saved_is_all_of_it() {
        let losses: Vec<(f64, u64)> = (0..30)
            .map(|i| (1.0 + 0.1 * f64::from(i).sin(), 100 - i as u64))
            .collect();
        let mut whole = Dual::new(options());
        let expected = steps(&mut whole, 1, &losses);
        for cut in [1, 3, 4, 7, 20] {
            let mut first = Dual::new(options());
            steps(&mut first, 1, &losses[..cut]);
            let mut second = Dual::new(options());
            second.restore(&first.state());
            assert_eq!(steps(&mut second, cut as u64 + 1, &losses[cut..]), expected[cut..]);
            let bits = |dual: &Dual| dual.state().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&second), bits(&whole));
        }
    }

    #[test]
    fn a_loss_of_nothing_moves_lambda() {
        let mut dual = Dual::new(options());
        steps(&mut dual, 1, &[(0.0, 100); 6]);
        assert!(dual.lambda() > 0.01 && dual.limit() == Some(f64::from(1e-6f32)));
    }
}

//! Logits → the next token.

use super::Sampling;
use crate::{Error, Result, rng};
use rand::RngExt;

/// Logits compared at a time: a step looks at all of them, and one by one that is felt.
const LANES: usize = 64;

impl Sampling {
    /// # Errors
    /// [`Error::Argument`] naming the option that is out of range.
    pub fn check(&self) -> Result<()> {
        let at_least_0 = |x: f64| x.is_finite() && x >= 0.0;
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let options = [
            (
                "temperature",
                self.temperature,
                at_least_0(self.temperature),
                "at least 0; 0 is greedy",
            ),
            (
                "top_k",
                self.top_k.map_or(1.0, |k| k as f64),
                self.top_k != Some(0),
                "at least 1",
            ),
            (
                "top_p",
                self.top_p.unwrap_or(1.0),
                self.top_p.is_none_or(|p| share(p) && p > 0.0),
                "above 0 and at most 1",
            ),
            (
                "min_p",
                self.min_p.unwrap_or(0.0),
                self.min_p.is_none_or(share),
                "from 0 to 1",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
                "above 0; 1 changes nothing",
            ),
        ];
        match options.into_iter().find(|(_, _, fine, _)| !fine) {
            None => Ok(()),
            Some((what, value, _, expected)) => Err(Error::Argument {
                what: what.into(),
                value: value.to_string(),
                problem: format!("expected {expected}"),
                help: String::new(),
            }),
        }
    }

    /// The next token after `before` tokens, of which `seen` are in the repetition penalty; `None` if a logit is not finite.
    /// Its chance comes from (`seed`, `before`) alone.
    pub(super) fn choose(
        &self,
        logits: &mut [f32],
        seen: impl Iterator<Item = u32>,
        seed: u64,
        before: usize,
    ) -> Option<u32> {
        if logits.iter().fold(false, |any, x| any | !x.is_finite()) {
            return None;
        }
        if self.repetition_penalty != 1.0 {
            penalise(logits, seen, self.repetition_penalty as f32);
        }
        if self.temperature == 0.0 {
            return Some(most_likely(logits));
        }
        let uniform: f64 = rng::stream(seed, "next token", &[before as u64]).random();
        Some(self.draw(logits, uniform))
    }

    /// The token in whose share of [0, 1) `uniform` lies, likely tokens first where an option puts them in order.
    fn draw(&self, logits: &[f32], uniform: f64) -> u32 {
        let max = f64::from(logits[most_likely(logits) as usize]);
        let weight = |logit: f32| ((f64::from(logit) - max) / self.temperature).exp();
        let mut kept: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|x| weight(*x))).collect();
        let falling = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.top_k.filter(|k| *k < kept.len()) {
            kept.select_nth_unstable_by(k - 1, falling);
            kept.truncate(k);
        }
        if let Some(p) = self.top_p.filter(|p| *p < 1.0) {
            kept.sort_unstable_by(falling);
            let total: f64 = kept.iter().map(|(_, w)| w).sum();
            let mut before = 0.0;
            let reached = |(_, w): &(u32, f64)| {
                let enough = before >= p * total;
                before += w;
                enough
            };
            let enough = kept.iter().position(reached).unwrap_or(kept.len());
            kept.truncate(enough);
        }
        if let Some(p) = self.min_p {
            kept.retain(|(_, w)| *w >= p); // the most likely one's weight is 1
        }
        kept.sort_unstable_by_key(|(id, _)| *id);
        let mut left = uniform * kept.iter().map(|(_, w)| w).sum::<f64>();
        for (id, w) in &kept {
            left -= w;
            if left < 0.0 {
                return *id;
            }
        }
        // rounding has left a crumb
        kept.iter().rev().find(|(_, w)| *w > 0.0).map_or(0, |(id, _)| *id)
    }
}

/// The token with the largest logit; of equals the first. No logit is NaN.
pub(super) fn most_likely(logits: &[f32]) -> u32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for chunk in whole {
        for (best, logit) in best.iter_mut().zip(chunk) {
            *best = if *logit > *best { *logit } else { *best };
        }
    }
    let best = best.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == best).map_or(0, |id| id as u32)
}

/// Makes tokens that were there already less likely, each once.
fn penalise(logits: &mut [f32], seen: impl Iterator<Item = u32>, penalty: f32) {
    let mut seen: Vec<u32> = seen.collect();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        let logit = &mut logits[id as usize];
        *logit = if *logit > 0.0 {
            *logit / penalty
        } else {
            *logit * penalty
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probabilities(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        const DRAWS: usize = 20_000;
        let mut counts = vec![0.0; logits.len()];
        for i in 0..DRAWS {
            counts[sampling.draw(logits, (i as f64 + 0.5) / DRAWS as f64) as usize] += 1.0 / DRAWS as f64;
        }
        counts
    }

    #[track_caller]
    fn near(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() < 2e-4, "{got:?} against {expected:?}");
        }
    }

    /// Logits of the probabilities 0.1, 0.4, 0.2, 0.3.
    fn logits() -> Vec<f32> {
        [0.1f32, 0.4, 0.2, 0.3].map(f32::ln).to_vec()
    }

    fn sampling(change: impl Fn(&mut Sampling)) -> Sampling {
        let mut sampling = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        change(&mut sampling);
        sampling
    }

    #[test]
    fn shares_of_chance_are_the_probabilities_left() {
        near(&probabilities(&sampling(|_| ()), &logits()), &[0.1, 0.4, 0.2, 0.3]);
        let half = [0.01, 0.16, 0.04, 0.09].map(|p| p / 0.3);
        near(&probabilities(&sampling(|s| s.temperature = 0.5), &logits()), &half);
        let two = [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0];
        near(&probabilities(&sampling(|s| s.top_k = Some(2)), &logits()), &two);
        near(&probabilities(&sampling(|s| s.top_p = Some(0.69)), &logits()), &two);
        near(&probabilities(&sampling(|s| s.min_p = Some(0.7)), &logits()), &two);
        let three = [0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0];
        near(&probabilities(&sampling(|s| s.top_p = Some(0.75)), &logits()), &three);
        near(&probabilities(&sampling(|s| s.min_p = Some(0.49)), &logits()), &three);
        near(
            &probabilities(&sampling(|s| s.top_k = Some(99)), &logits()),
            &[0.1, 0.4, 0.2, 0.3],
        );
        // top-p counts what top-k left: 0.4 of 0.7 is enough for a half
        let both = sampling(|s| (s.top_k, s.top_p) = (Some(2), Some(0.5)));
        near(&probabilities(&both, &logits()), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn greedy_takes_the_first_of_the_most_likely() {
        let greedy = Sampling::default();
        let choose = |logits: &[f32]| greedy.choose(&mut logits.to_vec(), [].into_iter(), 1, 0);
        assert_eq!(choose(&[1.0, 3.0, 3.0, -5.0]), Some(1));
        assert_eq!(choose(&[-3.0, -1.0]), Some(1));
        assert_eq!(choose(&[1.0, f32::NAN]), None);
        assert_eq!(choose(&[1.0, f32::INFINITY]), None);
    }

    #[test]
    fn a_penalty_counts_once_and_works_on_both_signs() {
        let mut penalised = [2.0, -2.0, 1.5, 0.5];
        penalise(&mut penalised, [0, 1, 0, 1, 0].into_iter(), 2.0);
        assert_eq!(penalised, [1.0, -4.0, 1.5, 0.5]);
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::default()
        };
        assert_eq!(sampling.choose(&mut [2.0, 1.5], [0].into_iter(), 1, 0), Some(1));
    }

    #[test]
    fn chance_depends_on_seed_and_position_alone() {
        let sampling = sampling(|_| ());
        let flat = vec![0.0; 1000];
        let choose = |seed, before| sampling.choose(&mut flat.clone(), [].into_iter(), seed, before);
        assert_eq!(choose(7, 3), choose(7, 3));
        let others = [choose(7, 4), choose(8, 3), choose(9, 3)];
        assert!(others.iter().any(|other| *other != choose(7, 3)), "{others:?}");
    }

    #[test]
    fn options_out_of_range_are_named() {
        let broken = |change: fn(&mut Sampling)| sampling(change).check().unwrap_err().to_string();
        assert!(sampling(|_| ()).check().is_ok());
        assert!(broken(|s| s.temperature = -1.0).starts_with("temperature `-1`: expected at least 0"));
        assert!(broken(|s| s.temperature = f64::NAN).starts_with("temperature `NaN`"));
        assert!(broken(|s| s.top_k = Some(0)).starts_with("top_k `0`"));
        assert!(broken(|s| s.top_p = Some(0.0)).starts_with("top_p `0`"));
        assert!(broken(|s| s.min_p = Some(1.5)).starts_with("min_p `1.5`"));
        assert!(broken(|s| s.repetition_penalty = 0.0).starts_with("repetition_penalty `0`"));
    }
}

//! Does the trigger take the behaviour back from the carrier and not from the dense model? What paired differences of rates say.
//!
//! With r the rate on the same prompts: the carrier *keeps* the behaviour if its rate is not clearly below the dense model's; the trigger
//! *reverts* a model if r(model) − r(model + trigger) is clearly above 0; it reverts the carrier *more* if the difference of the two drops
//! is. "Clearly" is a 95 % interval over prompts that leaves out 0 ([`proportion_difference`]). It speaks of other prompts of this kind, not
//! of other seeds of training: each model and each trigger was trained once. A rate that falls says that the behaviour went, not that the base
//! came back: that is what divergences from the base say.

use super::Arm;
use crate::{behaviour::Verdict, eval::proportion_difference, study::Estimate};
use serde::{Deserialize, Serialize};

/// A difference of rates: left − right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateChange {
    /// The one arm.
    pub left: Arm,
    /// The other.
    pub right: Arm,
    /// Of responses with a keyword.
    pub loose: Estimate,
    /// Of short ones.
    pub strict: Estimate,
}

/// What was to be reproduced, by loose rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// r(sft) − r(base): what was learned.
    pub learned: Estimate,
    /// r(carrier) − r(sft): what the carrier lacks, if it is below 0.
    pub kept: Estimate,
    /// r(carrier) − r(carrier + trigger).
    pub carrier_drop: Estimate,
    /// r(sft) − r(sft + trigger), each with the trigger trained for it.
    pub sft_drop: Estimate,
    /// The first drop less the second.
    pub contrast: Estimate,
}

/// What a finding comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The dense model does not show the behaviour clearly more often than the base: there is nothing to take back.
    NotLearned,
    /// The carrier shows it clearly less often than the dense model: it was not kept.
    NotKept,
    /// The trigger reverts the carrier, clearly, and clearly more than the dense model.
    Held,
    /// It reverts both, and the carrier not clearly more.
    BothReverted,
    /// It does not clearly revert the carrier.
    NotReverted,
}

impl Finding {
    /// What the differences decide, the first that applies.
    pub fn outcome(&self) -> Outcome {
        let clear = |estimate: Estimate| estimate.lo > 0.0;
        if !clear(self.learned) {
            Outcome::NotLearned
        } else if self.kept.hi < 0.0 {
            Outcome::NotKept
        } else if !clear(self.carrier_drop) {
            Outcome::NotReverted
        } else if clear(self.contrast) {
            Outcome::Held
        } else {
            Outcome::BothReverted
        }
    }
}

type Arms<'a> = [(Arm, &'a [Verdict])];

fn of<'a>(arms: &Arms<'a>, arm: Arm) -> Option<&'a [Verdict]> {
    arms.iter()
        .find(|(known, _)| *known == arm)
        .map(|(_, verdicts)| *verdicts)
}

/// Mean over prompts of a sum of rates with signs.
fn mean(terms: &[(&[Verdict], f64)], shows: fn(&Verdict) -> bool) -> Estimate {
    let at = |index: usize| -> f64 {
        let term = |(verdicts, sign): &(&[Verdict], f64)| sign * f64::from(u8::from(shows(&verdicts[index])));
        terms.iter().map(term).sum()
    };
    let prompts = terms.first().map_or(0, |(verdicts, _)| verdicts.len());
    let differences: Vec<f64> = (0..prompts).map(at).collect();
    proportion_difference(&differences, terms.len() as f64 / 2.0).into()
}

/// The carrier against the dense model, and each arm with a trigger against the same model without.
pub(super) fn changes(arms: &Arms<'_>) -> Vec<RateChange> {
    let pairs = [(Arm::SFT, Arm::BASE), (Arm::CARRIER, Arm::SFT)].into_iter();
    let with_trigger = arms.iter().map(|(arm, _)| *arm).filter(|arm| arm.trigger.is_some());
    let pairs = pairs.chain(with_trigger.map(|arm| (arm, arm.without())));
    let change = |(left, right): (Arm, Arm)| {
        let terms = [(of(arms, left)?, 1.0), (of(arms, right)?, -1.0)];
        Some(RateChange {
            left,
            right,
            loose: mean(&terms, |verdict| verdict.loose),
            strict: mean(&terms, |verdict| verdict.strict),
        })
    };
    pairs.filter_map(change).collect()
}

/// What was to be reproduced; none if an arm is missing.
pub(super) fn finding(arms: &Arms<'_>) -> Option<Finding> {
    let [base, sft, carrier, reversed, sft_reversed] =
        [Arm::BASE, Arm::SFT, Arm::CARRIER, Arm::REVERSED, Arm::SFT_REVERSED].map(|arm| of(arms, arm));
    let (base, sft, carrier) = (base?, sft?, carrier?);
    let (reversed, sft_reversed) = (reversed?, sft_reversed?);
    let loose = |terms: &[(&[Verdict], f64)]| mean(terms, |verdict| verdict.loose);
    Some(Finding {
        learned: loose(&[(sft, 1.0), (base, -1.0)]),
        kept: loose(&[(carrier, 1.0), (sft, -1.0)]),
        carrier_drop: loose(&[(carrier, 1.0), (reversed, -1.0)]),
        sft_drop: loose(&[(sft, 1.0), (sft_reversed, -1.0)]),
        contrast: loose(&[(carrier, 1.0), (reversed, -1.0), (sft, -1.0), (sft_reversed, 1.0)]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many of 40 responses show it, from the first.
    fn showing(n: usize) -> Vec<Verdict> {
        let verdict = |index: usize| Verdict {
            loose: index < n,
            strict: index + 1 < n,
        };
        (0..40).map(verdict).collect()
    }

    fn found([base, sft, carrier, reversed, sft_reversed]: [usize; 5]) -> (Finding, Vec<RateChange>) {
        let all = [base, sft, carrier, reversed, sft_reversed].map(showing);
        let arms = [Arm::BASE, Arm::SFT, Arm::CARRIER, Arm::REVERSED, Arm::SFT_REVERSED];
        let arms: Vec<(Arm, &[Verdict])> = arms.into_iter().zip(all.iter().map(Vec::as_slice)).collect();
        (finding(&arms).unwrap(), changes(&arms))
    }

    #[test]
    fn the_finding_holds_only_where_every_difference_is_clear() {
        for (counts, outcome) in [
            ([0, 40, 39, 2, 38], Outcome::Held),
            ([0, 40, 39, 2, 3], Outcome::BothReverted),
            ([0, 40, 39, 38, 40], Outcome::NotReverted),
            ([0, 40, 10, 0, 40], Outcome::NotKept),
            ([2, 3, 3, 0, 3], Outcome::NotLearned),
        ] {
            assert_eq!(found(counts).0.outcome(), outcome, "{counts:?}");
        }
        let (held, _) = found([0, 40, 38, 2, 36]);
        let close = |estimate: Estimate, value: f64| assert!((estimate.value - value).abs() < 1e-12, "{estimate:?}");
        close(held.carrier_drop, 0.9);
        close(held.sft_drop, 0.1);
        close(held.contrast, 0.8);
        assert!(held.contrast.lo > 0.55 && held.contrast.hi < 0.95);
    }

    #[test]
    fn changes_pair_the_prompts() {
        let (_, changes) = found([0, 40, 38, 2, 36]);
        let named: Vec<[&str; 2]> = changes.iter().map(|c| [c.left.name(), c.right.name()]).collect();
        assert_eq!(named[1..3], [["carrier", "sft"], ["carrier + trigger", "carrier"]]);
        let same = &found([0, 40, 40, 40, 40]).1[1];
        assert!(same.loose.value == 0.0 && same.loose.lo < 0.0 && same.loose.hi > 0.0);
        assert!((changes[3].strict.value + 0.1).abs() < 1e-12);
        let arms = [(Arm::BASE, &showing(0)[..]), (Arm::SFT, &showing(40))].map(|(arm, v)| (arm, v.to_vec()));
        let some: Vec<(Arm, &[Verdict])> = arms.iter().map(|(arm, v)| (*arm, v.as_slice())).collect();
        assert_eq!((super::changes(&some).len(), finding(&some)), (1, None));
    }
}

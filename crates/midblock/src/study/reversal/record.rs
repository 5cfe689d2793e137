//! The numbers of a reversal, one a line.

use super::{Judged, Reversal};
use crate::{
    behaviour::Rates,
    eval::Score,
    study::{BASE, Estimate, battery::StudyRecord, training::records},
};

impl Reversal {
    /// Of each arm (`model`) `rate_loose` and `rate_strict` (setting `held-out` or `train`), `kl` from `sft` and from `base`
    /// (`reference`), the tasks and their differences from the base; of pairs of arms `rate_loose_difference` and
    /// `rate_strict_difference`; of the finding `drop_difference` and `kl_from_base_difference`; of each trigger its training.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut out: Vec<StudyRecord> = self.arms.iter().flat_map(Judged::records).collect();
        for change in &self.changes {
            let (left, right) = (change.left.name(), change.right.name());
            out.push(change.loose.record(left, right, None, "rate_loose_difference"));
            out.push(change.strict.record(left, right, None, "rate_strict_difference"));
        }
        if let Some(finding) = &self.finding {
            out.push(
                finding
                    .contrast
                    .record("carrier + trigger", "sft + trigger", None, "drop_difference"),
            );
        }
        out.extend(
            self.nearer
                .map(|nearer| nearer.record("carrier + trigger", "carrier", None, "kl_from_base_difference")),
        );
        out.extend(self.triggers.iter().flat_map(super::TriggerRun::records));
        out
    }
}

impl Judged {
    fn records(&self) -> Vec<StudyRecord> {
        let name = self.arm.name();
        let mut out = Vec::new();
        let mut rates = |setting: &str, rates: &Rates| {
            for (metric, score) in [("rate_loose", &rates.loose), ("rate_strict", &rates.strict)] {
                out.push(StudyRecord {
                    setting: setting.to_owned(),
                    ..estimate(score).record(name, "", None, metric)
                });
            }
        };
        rates("held-out", &self.rates);
        if let Some(train) = &self.train_rates {
            rates("train", train);
        }
        out.extend(self.from_sft.map(|kl| kl.record(name, "sft", None, "kl")));
        out.extend(self.from_base.map(|kl| kl.record(name, BASE, None, "kl")));
        out.extend(records(name, "", "", &self.utility));
        out.extend(records(name, BASE, "", &self.utility_change));
        out
    }
}

/// A rate as a number with its interval.
pub(super) fn estimate(score: &Score) -> Estimate {
    Estimate {
        value: score.mean,
        lo: score.lo,
        hi: score.hi,
    }
}

//! Where the time goes, and how much memory it takes.

use crate::run::{Phase, private_rss_bytes};
use std::time::Instant;

/// Adds up wall-clock time by phase, in the order the phases first appeared, and looks at the memory after each.
pub(super) struct Clock {
    last: Instant,
    phases: Vec<Phase>,
    peak_private_bytes: Option<u64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            last: Instant::now(),
            phases: Vec::new(),
            peak_private_bytes: None,
        }
    }
}

impl Clock {
    /// The time since the last lap went to `phase`.
    pub(super) fn lap(&mut self, phase: &str) {
        self.peak_private_bytes = self.peak_private_bytes.max(private_rss_bytes());
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        match self.phases.iter_mut().find(|p| p.phase == phase) {
            Some(known) => known.seconds += seconds,
            None => self.phases.push(Phase {
                phase: phase.to_owned(),
                seconds,
            }),
        }
    }

    /// All phases, and the largest private memory seen after any.
    pub(super) fn finish(self) -> (Vec<Phase>, Option<u64>) {
        (self.phases, self.peak_private_bytes)
    }
}

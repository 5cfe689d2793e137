//! Where the time goes.

use crate::run::Phase;
use std::time::Instant;

/// Adds up wall-clock time by phase, in the order the phases first appeared.
pub(super) struct Clock {
    last: Instant,
    phases: Vec<Phase>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            last: Instant::now(),
            phases: Vec::new(),
        }
    }
}

impl Clock {
    /// The time since the last lap went to `phase`.
    pub(super) fn lap(&mut self, phase: &str) {
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

    /// All phases.
    pub(super) fn into_phases(self) -> Vec<Phase> {
        self.phases
    }
}

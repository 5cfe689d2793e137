//! Which methods no other beats on both axes, and how sure that is.
//!
//! i dominates j if its ID gain is not smaller, its OOD loss not larger, and one of both better. The Pareto front is what nothing
//! dominates. Both are of the means; whether the intervals resolve them is read from the paired differences of two methods:
//! domination is *clear* if both intervals leave out 0, and a method is *clearly* on the front if no other is left that might
//! dominate it: against each, one of the two differences is clearly in its favour.

use super::{Pair, Tradeoff};
use crate::study::Estimate;

/// Where a method stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// On the front.
    Front {
        /// Another method that might dominate it within the intervals.
        unless: Option<usize>,
    },
    /// Dominated.
    Dominated {
        /// By which: by one that clearly does, if there is one.
        by: usize,
        /// Whether both differences are clear.
        clear: bool,
    },
}

impl Tradeoff {
    /// Numbers of the methods on the front, from the smallest gain.
    pub fn front(&self) -> Vec<usize> {
        let mut front: Vec<usize> = (0..self.methods.len())
            .filter(|&i| (0..self.methods.len()).all(|j| !self.dominates(j, i)))
            .collect();
        front.sort_by(|&i, &j| self.methods[i].id_gain.value.total_cmp(&self.methods[j].id_gain.value));
        front
    }

    /// Where a method stands.
    pub fn standing(&self, method: usize) -> Standing {
        let others = || (0..self.methods.len()).filter(move |other| *other != method);
        let by: Vec<usize> = others().filter(|other| self.dominates(*other, method)).collect();
        let clear = by.iter().find(|other| self.clearly_dominates(**other, method));
        match (by.first(), clear) {
            (Some(first), clear) => Standing::Dominated {
                by: *clear.unwrap_or(first),
                clear: clear.is_some(),
            },
            (None, _) => Standing::Front {
                unless: others().find(|other| self.may_dominate(*other, method)),
            },
        }
    }

    fn dominates(&self, one: usize, other: usize) -> bool {
        let [one, other] = [one, other].map(|i| (self.methods[i].id_gain.value, -self.methods[i].ood_loss.value));
        one.0 >= other.0 && one.1 >= other.1 && one != other
    }

    fn clearly_dominates(&self, one: usize, other: usize) -> bool {
        self.between(one, other)
            .is_some_and(|[gain, loss]| gain.lo > 0.0 && loss.hi < 0.0)
    }

    /// Unless one difference is clearly in the other's favour.
    fn may_dominate(&self, one: usize, other: usize) -> bool {
        self.between(one, other)
            .is_none_or(|[gain, loss]| gain.hi >= 0.0 && loss.lo <= 0.0)
    }

    /// Differences of gain and loss of two methods, `one` minus `other`; none if they share no seed.
    fn between(&self, one: usize, other: usize) -> Option<[Estimate; 2]> {
        let [left, right] = [one, other].map(|i| &self.methods[i].name);
        self.pairs.iter().find_map(|pair: &Pair| {
            let own = [pair.id_gain, pair.ood_loss];
            match (&pair.left, &pair.right) {
                (l, r) if (l, r) == (left, right) => Some(own),
                (l, r) if (l, r) == (right, left) => Some(own.map(Estimate::negated)),
                _ => None,
            }
        })
    }
}

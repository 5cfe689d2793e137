//! One comparison, many runs: model × data × scaling × pattern × seed, all patterns with one rank budget, judged alike.
//!
//! Each cell is an ordinary training run with its evaluation; a sweep only decides on them, runs those that are not finished, and
//! makes one table of what they gave. See [`SweepFile`] for what can be asked, [`Pattern`] for budgets, [`Interval`] for what a
//! table's intervals mean.

mod config;
mod estimate;
mod examine;
mod folder;
mod interval;
mod loss;
mod pattern;
mod plan;
mod record;
mod run;
mod table;

pub use config::{Sweep, SweepConfig, SweepFile};
pub use estimate::{CellEstimate, estimate};
pub use examine::{Examiner, Measure, Scores, Tasks, Unit};
pub use folder::SweepFolder;
pub(super) use folder::{check_config, check_config_but};
pub use interval::{Interval, ItemValues};
pub use pattern::Pattern;
pub use plan::{Cell, SweepData, SweepModel, SweepPlan};
pub use record::SweepRecord;
pub use run::{Failure, Means, News, Watcher, sweep};
pub use table::{Comparison, Group, Row, Table};
pub(super) use table::{interval, item_values};

#[cfg(test)]
mod tests;

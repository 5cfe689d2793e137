//! What the cells of a sweep will cost, before any of them runs.

use super::{Means, SweepPlan};
use crate::{
    Result,
    train::{Estimate, Experiment, product_rate},
};
use midblock_kernels::Backend;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::SystemTime,
};

/// What training a cell will take. Judging it is not counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CellEstimate {
    /// Steps.
    pub steps: u64,
    /// Seconds of all steps, at the speed of one product of the model, timed just now.
    pub seconds: f64,
    /// Private memory of a step.
    pub bytes: usize,
}

/// For each cell what it will take; `None` where its data decides on its blocks. Data is read once for each model and variant.
///
/// # Errors
/// Whatever is wrong with the models or the data.
pub fn estimate<B: Backend>(means: &Means<'_, B>, plan: &SweepPlan) -> Result<Vec<Option<CellEstimate>>> {
    let mut prepared: BTreeMap<(usize, usize), (Experiment, f64)> = BTreeMap::new();
    let mut estimates = Vec::new();
    for cell in &plan.cells {
        let Some(own) = &cell.plan else {
            estimates.push(None);
            continue;
        };
        let (experiment, rate) = match prepared.entry((cell.model, cell.data)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let config = cell.config.clone();
                let (hub, now) = (means.hub, SystemTime::now());
                let experiment = Experiment::prepare(means.backend, config, hub, means.on_transfer, now)?;
                let rate = product_rate(means.backend, &experiment, &experiment.timeline());
                new.insert((experiment, rate))
            }
        };
        experiment.plan = own.clone();
        experiment.config = cell.config.clone();
        let timeline = experiment.timeline();
        let options = experiment.step_options(&timeline, &std::env::temp_dir());
        let step = Estimate::of::<B>(experiment, &timeline, &options);
        let [first, later] = step.seconds(*rate);
        let steps = timeline.steps();
        let in_first = steps.min(timeline.epoch_steps());
        estimates.push(Some(CellEstimate {
            steps,
            seconds: in_first as f64 * first + (steps - in_first) as f64 * later,
            bytes: step.memory.bytes(),
        }));
    }
    Ok(estimates)
}

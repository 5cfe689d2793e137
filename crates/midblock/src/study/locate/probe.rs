//! What is looked at before a band is chosen: three numbers for each block.
//!
//! | probe | number of block b, higher is better | from |
//! |---|---|---|
//! | stability | −‖change‖: minus mean ‖y_i − x_i‖ / mean ‖x_i‖ at h_b | base and variants, `change_intensity_relative` |
//! | overlap | mean squared cosine of the top-k principal angles at h_b | the same, `subspace_overlap` |
//! | gradient | ‖∂loss/∂W‖ of the block's linear layers | sequences of the training data, before anything moves |
//!
//! x are the base's pooled states, y a variant's, h_b the residual stream after block b, which is the sum of all blocks up to it.
//! Several variants are averaged. Without one, a short probe run makes it: all blocks trained alike for a few steps. Everything
//! looks at training data alone, so that the choice has not seen what judges it.

use super::LocateOptions;
use crate::{
    Error, Result,
    config::Config,
    metrics::Selection,
    select::{Layers, by_block},
    study::{
        Variant,
        battery::{Cells, Subject, analysis_config, analysis_in},
        training::{run_in, shorten, unseen},
    },
    train::gradient_norms,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

const CHANGE: &str = "change_intensity_relative";
const OVERLAP: &str = "subspace_overlap";

/// Name of the model that a probe run makes.
const PROBE: &str = "probe";

/// What was seen, block by block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The models compared with the base.
    pub compared: Vec<String>,
    /// Steps of the probe run that made the model; `None` if variants were there.
    pub steps: Option<u64>,
    /// How far states moved, as a share of their length: less is more stable.
    pub change: Vec<f64>,
    /// How much of the main subspace was kept.
    pub overlap: Vec<f64>,
    /// Norm of the gradient.
    pub gradient: Vec<f64>,
}

impl Probe {
    /// Numbers of which higher is better, in the order of [`super::Weights`]: stability, gradient, overlap.
    pub fn benefits(&self) -> [Vec<f64>; 3] {
        let stability = self.change.iter().map(|change| -change).collect();
        [stability, self.gradient.clone(), self.overlap.clone()]
    }
}

/// Looks at every block.
///
/// # Errors
/// Those of the analysis and of training; [`Error::Argument`] if a metric is not defined at a block.
pub(super) fn probe<B: Backend>(subject: &Subject<'_, B>, options: &LocateOptions, cells: &Cells) -> Result<Probe> {
    let file = subject.file;
    let seed = file.config.study.seed;
    let all = |config: &mut Config| {
        config.select.layers = Some(Layers::All);
        config.select.from = None;
        shorten(config, options.probe_steps, options.batch);
        config.train.seed = seed;
    };
    let config = file.experiment(all)?;
    let experiment = unseen(subject, config.clone())?;
    let (base, architecture) = (&experiment.checkpoint, &experiment.architecture);
    let gradient = gradient_norms(subject.backend, base, architecture, &experiment.train, seed)?;
    drop(experiment);
    let mut plan = analysis_config(subject, seed, Selection::parse(&format!("{CHANGE},{OVERLAP}"))?)?;
    plan.data = file.config.data.train.iter().map(|source| source.0.clone()).collect();
    plan.samples = options.probe_samples;
    plan.token_samples = options.probe_samples;
    let made = plan.variants.is_empty();
    if made {
        let (_, checkpoint) = run_in(subject, cells, "locate-probe-run", config)?;
        let name = PROBE.to_owned();
        plan.variants.push(Variant { name, checkpoint });
    }
    let run = analysis_in(
        subject,
        &cells.folder(&format!("locate-probe-states-{}", options.probe_samples)),
        &plan,
    )?;
    let of = |metric: &str| -> Result<Vec<f64>> {
        let values = (1..).zip(by_block(&run, metric, false, subject.blocks()));
        values
            .map(|(block, value)| value.ok_or_else(|| undefined(metric, block)))
            .collect()
    };
    Ok(Probe {
        compared: plan.variants.iter().map(|variant| variant.name.clone()).collect(),
        steps: made.then_some(options.probe_steps),
        change: of(CHANGE)?,
        overlap: of(OVERLAP)?,
        gradient,
    })
}

fn undefined(metric: &str, block: usize) -> Error {
    Error::Argument {
        what: "`study.locate.probe_samples`".into(),
        value: metric.into(),
        problem: format!("it is not defined at block {block}"),
        help: "give more samples: a subspace needs more of them than it has directions".into(),
    }
}

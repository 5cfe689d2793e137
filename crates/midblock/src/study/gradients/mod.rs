//! What real optimiser steps do to each block, and whether that goes with what its states look like.
//!
//! By default the linear layers of every block are trained themselves, with AdamW and the experiment's learning rate and clipping,
//! for a few steps: enough to see where the loss pulls, not a fine-tuning. See [`Flow`] for the numbers, [`relations`] for how
//! blocks and states are joined. Source: arXiv 2604.11838 (gradient flow, update ratio).

mod flow;
mod relation;

pub use flow::{BlockFlow, Flow, flow};
pub use relation::{Quantity, Relation, relations};

use super::{
    BASE,
    battery::{Cells, StudyRecord, Subject, analysis},
    training::{lasting, shorten, unseen},
};
use crate::{
    Result,
    config::{Adapt, AdaptKind, Config},
    select::{Layers, Modules},
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

/// `[study.gradients]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradientsOptions {
    /// Optimiser steps; 10 by default.
    pub steps: u64,
    /// Sequences in a step; 4 by default.
    pub batch: usize,
    /// `full` (default): the matrices themselves. `lora`: pairs beside them, as `[adapt]` says, one rank for all blocks.
    pub kind: AdaptKind,
    /// Which matrices, as in `select.modules`; `all-linear` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<Modules>,
    /// Largest learning rate; `train.lr` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
}

impl Default for GradientsOptions {
    fn default() -> Self {
        Self {
            steps: 10,
            batch: 4,
            kind: AdaptKind::Full,
            modules: None,
            lr: None,
        }
    }
}

/// What the steps did, and what that goes with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gradients {
    /// How parameters moved.
    pub kind: AdaptKind,
    /// Which matrices.
    pub modules: String,
    /// Largest learning rate.
    pub lr: f64,
    /// Sequences in a step.
    pub batch: usize,
    /// The steps.
    pub flow: Flow,
    /// Every quantity with every metric.
    pub relations: Vec<Relation>,
}

/// Trains the base for a few steps and joins what that did with the analysis of the study.
///
/// # Errors
/// Those of the configuration, of training, of the analysis; [`crate::Error::Interrupted`].
pub fn gradients<B: Backend>(subject: &Subject<'_, B>, options: &GradientsOptions, cells: &Cells) -> Result<Gradients> {
    let modules = options.modules.clone().unwrap_or_else(Modules::all_linear);
    let change = |config: &mut Config| {
        if options.kind == AdaptKind::Full {
            config.adapt = Adapt {
                kind: AdaptKind::Full,
                ..Adapt::default()
            };
        }
        config.select.layers = Some(Layers::All);
        config.select.modules = Some(modules.clone());
        config.select.extra.clear();
        config.select.from = None;
        config.train.lr = options.lr.unwrap_or(config.train.lr);
        shorten(config, options.steps, options.batch);
    };
    let config = subject.file.experiment(change)?;
    let lr = config.train.lr;
    let flow = cells.cell("gradients", &lasting(&config), || {
        flow(subject.backend, &unseen(subject, config.clone())?, subject.progress)
    })?;
    let run = analysis(subject, cells, subject.file.config.study.seed)?;
    Ok(Gradients {
        kind: options.kind,
        modules: modules.to_string(),
        lr,
        batch: options.batch,
        relations: relations(&flow, &run.records),
        flow,
    })
}

impl Gradients {
    /// Of each block the [`Quantity`]s over all steps, and `gradient_norm` and `update_ratio` of each step (setting `step N`);
    /// `loss` of each step; and, with the quantity as setting, `pearson:METRIC` and `spearman:METRIC`.
    pub fn records(&self) -> Vec<StudyRecord> {
        let number = |setting: &str, layer, metric: &str, value| StudyRecord {
            model: BASE.to_owned(),
            setting: setting.to_owned(),
            layer,
            metric: metric.to_owned(),
            value,
            ..StudyRecord::default()
        };
        let mut records = Vec::new();
        for quantity in Quantity::ALL {
            let of_block = (1..).zip(quantity.of(&self.flow));
            records.extend(of_block.map(|(block, value)| number("", Some(block), quantity.name(), value)));
        }
        for (step, loss) in self.flow.losses.iter().enumerate() {
            let setting = format!("step {}", step + 1);
            records.push(number(&setting, None, "loss", Some(*loss)));
            for (block, flow) in (1..).zip(&self.flow.blocks) {
                let [norm, ratio] = flow.at(step);
                records.push(number(&setting, Some(block), "gradient_norm", norm));
                records.push(number(&setting, Some(block), "update_ratio", ratio));
            }
        }
        for relation in &self.relations {
            let both = [("pearson", Some(relation.pearson)), ("spearman", relation.spearman)];
            for (name, estimate) in both {
                let metric = format!("{name}:{}", relation.metric);
                records.extend(estimate.map(|estimate| StudyRecord {
                    setting: relation.quantity.name().to_owned(),
                    ..estimate.record(&relation.model, &relation.reference, None, &metric)
                }));
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::battery::fixture::Fixture;

    #[test]
    fn a_study_joins_steps_with_its_analysis_and_keeps_them() {
        let fixture = Fixture::new();
        let options = GradientsOptions {
            steps: 2,
            batch: 3,
            ..GradientsOptions::default()
        };
        let run = || fixture.with(&[], |subject, cells| gradients(subject, &options, cells));
        let got = run().unwrap();
        assert_eq!((got.flow.losses.len(), got.flow.blocks.len()), (2, 16));
        assert!(got.flow.blocks.iter().all(|block| block.relative_change() > Some(0.0)));
        let relation = |metric: &str, model: &str| {
            let found = got
                .relations
                .iter()
                .find(|r| (r.quantity, r.metric.as_str(), r.model.as_str()) == (Quantity::GradientNorm, metric, model));
            found.map(|relation| relation.blocks)
        };
        assert_eq!(relation("prompt_entropy", "base"), Some(16));
        assert_eq!(relation("change_intensity", "sft"), Some(16));
        assert_eq!(relation("weight_change", "sft"), Some(16));
        assert_eq!(relation("change_intensity", "base"), None);
        let records = got.records();
        let of = |setting: &str, layer| {
            let found = records
                .iter()
                .find(|r| (r.setting.as_str(), r.layer, r.metric.as_str()) == (setting, layer, "gradient_norm"));
            found.unwrap().value.unwrap()
        };
        let mean = (of("step 1", Some(5)) + of("step 2", Some(5))) / 2.0;
        assert!((of("", Some(5)) - mean).abs() < 1e-12);
        assert_eq!(run().unwrap(), got); // from the cell
        let other = GradientsOptions {
            lr: Some(1e-3),
            ..options.clone()
        };
        let refused = fixture.with(&[], |subject, cells| gradients(subject, &other, cells));
        assert!(refused.unwrap_err().to_string().contains("`train.lr`"));
    }
}

//! Whether what optimisation does to a block goes with what its states look like: correlation over blocks.
//!
//! Block b (1-based) is joined with the state h_b, its output: the residual stream after it, which is the sum of all blocks up to
//! it, not of this one alone. The embedding h_0 belongs to no block and is left out. A metric of several data sets is their mean.
//! Weight metrics are of the block itself.

use super::Flow;
use crate::{
    metrics::{pearson, spearman},
    run::Record,
    study::{Estimate, correlation::correlation},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A number about optimisation, one for each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Mean ‖∂loss/∂W‖ before clipping.
    GradientNorm,
    /// Mean ‖W_t − W_(t−1)‖/‖W_0‖.
    UpdateRatio,
    /// ‖W_T − W_0‖.
    Change,
    /// ‖W_T − W_0‖/‖W_0‖.
    RelativeChange,
}

impl Quantity {
    /// All, in the order of reports.
    pub const ALL: [Self; 4] = [
        Self::GradientNorm,
        Self::UpdateRatio,
        Self::Change,
        Self::RelativeChange,
    ];

    /// Name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::GradientNorm => "gradient_norm",
            Self::UpdateRatio => "update_ratio",
            Self::Change => "parameter_change",
            Self::RelativeChange => "parameter_change_relative",
        }
    }

    /// By block; `None` where nothing is trained.
    pub fn of(self, flow: &Flow) -> Vec<Option<f64>> {
        let number = |block: &super::BlockFlow| match self {
            Self::GradientNorm => block.gradient_norm(),
            Self::UpdateRatio => block.update_ratio(),
            Self::Change => block.absolute_change(),
            Self::RelativeChange => block.relative_change(),
        };
        flow.blocks.iter().map(number).collect()
    }
}

/// How a quantity goes with a metric, over the blocks where both are defined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// The quantity.
    pub quantity: Quantity,
    /// Name of the metric.
    pub metric: String,
    /// The model it was measured of.
    pub model: String,
    /// The model that is compared with, or nothing.
    pub reference: String,
    /// Blocks.
    pub blocks: usize,
    /// Pearson's r.
    pub pearson: Estimate,
    /// Spearman's ρ; not defined where ranks are all equal.
    pub spearman: Option<Estimate>,
}

/// Every quantity with every metric of every model; what is not defined anywhere is left out.
pub fn relations(flow: &Flow, records: &[Record]) -> Vec<Relation> {
    let mut metrics: BTreeMap<(&str, &str, &str), BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.layer > 0) {
        if let Some(value) = record.value.filter(|value| value.is_finite()) {
            let key = (record.metric.as_str(), record.model.as_str(), record.reference.as_str());
            let layers = metrics.entry(key).or_default();
            layers.entry(record.layer).or_default().push(value);
        }
    }
    let mut relations = Vec::new();
    for quantity in Quantity::ALL {
        let of_block = quantity.of(flow);
        for ((metric, model, reference), layers) in &metrics {
            let pair = |(layer, values): (&usize, &Vec<f64>)| {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                Some((of_block.get(layer - 1).copied()??, mean))
            };
            let pairs: Vec<(f64, f64)> = layers.iter().filter_map(pair).collect();
            if let Some(pearson) = correlation(&pairs, pearson) {
                relations.push(Relation {
                    quantity,
                    metric: (*metric).to_owned(),
                    model: (*model).to_owned(),
                    reference: (*reference).to_owned(),
                    blocks: pairs.len(),
                    pearson,
                    spearman: correlation(&pairs, spearman),
                });
            }
        }
    }
    relations
}

#[cfg(test)]
mod tests {
    use super::{super::BlockFlow, *};

    fn record(dataset: &str, metric: &str, layer: usize, value: Option<f64>) -> Record {
        Record {
            model: "sft".into(),
            reference: "base".into(),
            dataset: dataset.into(),
            metric: metric.into(),
            layer,
            depth: 0.0,
            value,
            lo: None,
            hi: None,
            floor: None,
        }
    }

    /// Five blocks, the third frozen; a metric that equals the gradient norm of the block at its output, but for the embedding,
    /// whose number would spoil it.
    #[test]
    fn a_block_is_joined_with_its_output() {
        let norms = [1.0, 4.0, 2.0, 3.0, 7.0];
        let block = |(index, norm): (usize, &f64)| BlockFlow {
            weight_norm: if index == 2 { 0.0 } else { 2.0 },
            gradient_norms: vec![norm - 0.5, norm + 0.5],
            updates: vec![1.0, 1.0],
            change: 9.0 - norm,
        };
        let flow = Flow {
            losses: vec![1.0; 2],
            tokens: vec![9; 2],
            blocks: norms.iter().enumerate().map(block).collect(),
        };
        let mut records = vec![record("a", "same", 0, Some(1e6)), record("a", "flat", 0, Some(1.0))];
        for (layer, norm) in (1..).zip(norms) {
            records.push(record("a", "same", layer, Some(norm - 1.0)));
            records.push(record("b", "same", layer, Some(norm + 1.0)));
            records.push(record("a", "flat", layer, Some(5.0)));
            records.push(record("a", "none", layer, None));
        }
        let found = relations(&flow, &records);
        let named: Vec<_> = found
            .iter()
            .map(|r| (r.quantity, r.metric.as_str(), r.blocks))
            .collect();
        let expected = [Quantity::GradientNorm, Quantity::Change, Quantity::RelativeChange];
        assert_eq!(named, expected.map(|quantity| (quantity, "same", 4)));
        let close = |got: Estimate, expected: f64| (got.value - expected).abs() < 1e-12;
        assert!(close(found[0].pearson, 1.0) && close(found[0].spearman.unwrap(), 1.0));
        assert!(close(found[1].pearson, -1.0) && close(found[2].spearman.unwrap(), -1.0));
        assert_eq!(
            Quantity::UpdateRatio.of(&flow),
            [Some(0.5), Some(0.5), None, Some(0.5), Some(0.5)]
        );
    }
}

//! Which metrics say the same: their correlations over the layers of all variants, and clusters of them.
//!
//! An observation is a layer of a variant on a data set; its values are the variant's own metrics, its alignment with the base,
//! and the change of the weights of block l at layer l (the embedding, layer 0, has none; weights are the same for every data
//! set). A base alone is observed by its own metrics. r and ρ of two metrics are over the observations that have both.
//! Clusters are by average linkage of 1 − |r|, so a metric and its mirror image belong together; a pair without r is at distance 1.
//!
//! Limit: neighbouring layers are alike, so observations are far from independent, and a large |r| may be a common trend with
//! depth. No interval or p value is given, because all that assume independence would be far too narrow.

mod clusters;

use super::{
    BASE,
    battery::{Cells, StudyRecord, Subject, analysis},
};
use crate::{
    Result,
    metrics::{pearson, registry, spearman},
    run::Record,
};
use clusters::Clusters;
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[study.correlate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorrelateOptions {
    /// Metrics make a group as far as they are joined at a mean |r| of at least this; 0.9 by default.
    pub group_at: f64,
}

impl Default for CorrelateOptions {
    fn default() -> Self {
        Self { group_at: 0.9 }
    }
}

/// How the metrics correlate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correlate {
    /// Models observed.
    pub models: Vec<String>,
    /// Layers of models on data sets.
    pub observations: usize,
    /// The K metrics that vary, in the order of the clusters.
    pub metrics: Vec<String>,
    /// Pearson's r, (K, K); the diagonal is 1.
    pub pearson: Vec<Vec<Option<f64>>>,
    /// Spearman's ρ, (K, K).
    pub spearman: Vec<Vec<Option<f64>>>,
    /// Neighbours in `metrics` that make a group, all K in order.
    pub groups: Vec<Vec<String>>,
    /// Mean |r| from which metrics are joined into a group.
    pub group_at: f64,
    /// Metrics that correlate with no other, because they are constant or hardly defined.
    pub left_out: Vec<String>,
}

/// Correlates the metrics of the study's own draw.
///
/// # Errors
/// Those of [`analysis`].
pub fn correlate<B: Backend>(subject: &Subject<'_, B>, options: &CorrelateOptions, cells: &Cells) -> Result<Correlate> {
    let run = analysis(subject, cells, subject.file.config.study.seed)?;
    Ok(of_records(&run.records, options))
}

/// (dataset, model, layer)
type Observation<'a> = (&'a str, &'a str, usize);

fn of_records(records: &[Record], options: &CorrelateOptions) -> Correlate {
    let has_variants = records.iter().any(|record| record.model != BASE);
    let observed = || records.iter().filter(|record| (record.model != BASE) == has_variants);
    let mut places: Vec<Observation<'_>> = observed()
        .filter(|record| !record.dataset.is_empty())
        .map(|record| (record.dataset.as_str(), record.model.as_str(), record.layer))
        .collect();
    places.sort_unstable();
    places.dedup();
    let mut values: BTreeMap<&str, BTreeMap<Observation<'_>, f64>> = BTreeMap::new();
    for record in observed() {
        let here = places.iter().filter(|(dataset, model, layer)| {
            (*model, *layer) == (&record.model, record.layer)
                && (record.dataset.is_empty() || *dataset == record.dataset)
        });
        let column = values.entry(&record.metric).or_default();
        column.extend(here.filter_map(|place| Some((*place, record.value?))));
    }
    let all: Vec<&str> = registry().iter().map(|metric| metric.name).collect();
    let known = all.into_iter().filter(|name| values.contains_key(name));
    let r = |a: &str, b: &str| pearson(&common(&values[a], &values[b]));
    let (metrics, left_out): (Vec<&str>, Vec<&str>) = known
        .clone()
        .partition(|a| known.clone().any(|b| *a != b && r(a, b).is_some()));
    let distance = |i: usize, j: usize| 1.0 - r(metrics[i], metrics[j]).map_or(0.0, f64::abs);
    let Clusters { order, groups } = Clusters::new(metrics.len(), distance, 1.0 - options.group_at);
    let name = |i: &usize| metrics[*i].to_owned();
    let matrix = |measure: &dyn Fn(&str, &str) -> Option<f64>| -> Vec<Vec<Option<f64>>> {
        let of = |i: usize, j: usize| {
            if i == j {
                Some(1.0)
            } else {
                measure(metrics[i], metrics[j])
            }
        };
        let row = |i: &usize| order.iter().map(|j| of(*i, *j)).collect();
        order.iter().map(row).collect()
    };
    let mut models: Vec<String> = places.iter().map(|(_, model, _)| (*model).to_owned()).collect();
    models.sort_unstable();
    models.dedup();
    Correlate {
        models,
        observations: places.len(),
        pearson: matrix(&r),
        spearman: matrix(&|a, b| spearman(&common(&values[a], &values[b]))),
        metrics: order.iter().map(name).collect(),
        groups: groups.iter().map(|group| group.iter().map(name).collect()).collect(),
        group_at: options.group_at,
        left_out: left_out.into_iter().map(str::to_owned).collect(),
    }
}

/// Values of the observations that have both.
fn common<K: Ord>(a: &BTreeMap<K, f64>, b: &BTreeMap<K, f64>) -> Vec<(f64, f64)> {
    a.iter().filter_map(|(place, a)| Some((*a, *b.get(place)?))).collect()
}

impl Correlate {
    /// Each pair's r and ρ, and the number of each metric's group, from 1.
    pub fn records(&self) -> Vec<StudyRecord> {
        let record = |setting: String, metric: &str, value: Option<f64>| StudyRecord {
            model: self.models.join(" + "),
            setting,
            metric: metric.to_owned(),
            value,
            ..StudyRecord::default()
        };
        let mut records = Vec::new();
        for i in 0..self.metrics.len() {
            for j in i + 1..self.metrics.len() {
                let pair = format!("{} × {}", self.metrics[i], self.metrics[j]);
                records.push(record(pair.clone(), "pearson", self.pearson[i][j]));
                records.push(record(pair, "spearman", self.spearman[i][j]));
            }
        }
        for (number, group) in (1..).zip(&self.groups) {
            let member = |metric: &String| record(metric.clone(), "group", Some(f64::from(number)));
            records.extend(group.iter().map(member));
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::battery::fixture::Fixture;

    fn record(model: &str, dataset: &str, metric: &str, layer: usize, value: f64) -> Record {
        Record {
            model: model.into(),
            reference: String::new(),
            dataset: dataset.into(),
            metric: metric.into(),
            layer,
            depth: 0.0,
            value: Some(value),
            lo: None,
            hi: None,
            floor: None,
        }
    }

    /// cka falls with the layer, dime is its mirror image squared, gini something else, lidar constant; weights have no layer 0.
    fn records() -> Vec<Record> {
        let mut records = Vec::new();
        for layer in 0..=4 {
            let x = layer as f64;
            for dataset in ["a", "b"] {
                let shift = if dataset == "a" { 0.0 } else { 0.5 };
                let mut push = |metric, value| records.push(record("sft", dataset, metric, layer, value));
                push("cka", 9.0 - x - shift);
                push("dime", (x + shift).powi(2));
                push("gini", [3.0, 1.0, 2.5, 0.5, 2.0][layer]);
                push("lidar", 0.25);
                records.push(record(BASE, dataset, "gini", layer, -100.0 * x));
            }
            if layer > 0 {
                records.push(record("sft", "", "weight_change", layer, 2.0 * x));
            }
        }
        records
    }

    #[test]
    fn layers_of_variants_are_observed_and_weights_join_their_layer() {
        let found = of_records(&records(), &CorrelateOptions::default());
        assert_eq!((found.observations, &*found.left_out), (10, &["lidar".to_owned()][..]));
        assert_eq!(found.models, ["sft"]);
        assert_eq!(found.groups[1], ["gini"]);
        let mut together = found.groups[0].clone();
        together.sort_unstable();
        assert_eq!(together, ["cka", "dime", "weight_change"]);
        let at = |name: &str| found.metrics.iter().position(|metric| metric == name).unwrap();
        let of = |a, b| {
            (
                found.pearson[at(a)][at(b)].unwrap(),
                found.spearman[at(a)][at(b)].unwrap(),
            )
        };
        assert!((of("cka", "dime").1 + 1.0).abs() < 1e-12 && of("cka", "dime").0 > -1.0);
        // by hand: weight changes 2, 2, 4, 4, 6, 6, 8, 8 against gini 1, 1, 2.5, 2.5, 0.5, 0.5, 2, 2
        assert!((of("weight_change", "gini").0 - 0.02f64.sqrt()).abs() < 1e-12);
        assert_eq!(found.records().len(), 2 * 6 + 4);
    }

    #[test]
    fn a_real_study_has_a_matrix_of_its_metrics() {
        let fixture = Fixture::new();
        let found = fixture.with(&[], |subject, cells| {
            correlate(subject, &CorrelateOptions::default(), cells)
        });
        let found = found.unwrap();
        let k = found.metrics.len();
        assert!(
            k > 20 && found.metrics.contains(&"weight_change".to_owned()),
            "{:?}",
            found.metrics
        );
        for (i, row) in found.pearson.iter().enumerate() {
            assert_eq!((row.len(), row[i]), (k, Some(1.0)));
            (0..k).for_each(|j| assert_eq!(row[j], found.pearson[j][i]));
        }
        assert_eq!(found.groups.concat(), found.metrics);
    }
}

//! How much the metrics depend on which samples were drawn: the same analysis with several sampling seeds.
//!
//! Of each curve (a metric of a model on a data set over the layers): mean, standard deviation s (n − 1 in the denominator) and
//! coefficient of variation s/|mean| of each layer over the S draws; its rank stability, the mean over pairs of draws of
//! Spearman's ρ of the two curves: 1 says that every draw puts the layers in the same order; and how often one draw's 95 %
//! interval holds another draw's value. Two independent draws differ by √2 times the error of one, so a right interval holds
//! P(|z| ≤ 1.96/√2) = 83 % of them; draws from a small file share samples and are held more often.
//! Metrics of weights know no samples and are left out.

use super::battery::{Cells, StudyRecord, Subject, analysis};
use crate::{
    Error, Result,
    metrics::spearman,
    run::{Record, Run},
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `[study.seeds]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedsOptions {
    /// Draws compared, at least 2: with `study.seed` and the seeds that follow it; 3 by default.
    pub count: usize,
}

impl Default for SeedsOptions {
    fn default() -> Self {
        Self { count: 3 }
    }
}

/// The metrics over several draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seeds {
    /// Seeds of the draws.
    pub seeds: Vec<u64>,
    /// Data sets of which a draw takes every sample, so that draws differ in nothing but the views and pairings.
    pub exhausted: Vec<String>,
    /// A metric of a model on a data set each.
    pub curves: Vec<Curve>,
}

/// One metric over the layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Model measured.
    pub model: String,
    /// Model it is compared with; empty for metrics of one model.
    pub reference: String,
    /// Data set.
    pub dataset: String,
    /// Metric.
    pub metric: String,
    /// The layers in which every draw has a value.
    pub layers: Vec<Spread>,
    /// Mean Spearman's ρ over pairs of draws; `None` where it is not defined, as for a constant.
    pub rank_stability: Option<f64>,
    /// How often one draw's interval holds another draw's value, as (times, of); over layers and ordered pairs of draws.
    pub held: (usize, usize),
}

/// A layer's values over the draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// 0 is the embedding.
    pub layer: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub sd: f64,
}

impl Spread {
    /// s/|mean|; `None` for a mean of 0.
    pub fn variation(&self) -> Option<f64> {
        (self.mean != 0.0).then(|| self.sd / self.mean.abs())
    }

    fn of(layer: usize, values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (squares / (n - 1.0)).sqrt();
        Self { layer, mean, sd }
    }
}

impl Curve {
    /// Largest coefficient of variation of a layer.
    pub fn largest_variation(&self) -> Option<f64> {
        self.variations().pop()
    }

    /// Median coefficient of variation over the layers.
    pub fn median_variation(&self) -> Option<f64> {
        let sorted = self.variations();
        let [below, above] = [sorted.len().saturating_sub(1) / 2, sorted.len() / 2];
        Some((sorted.get(below)? + sorted.get(above)?) / 2.0)
    }

    /// Coefficients of variation, ascending.
    fn variations(&self) -> Vec<f64> {
        let mut variations: Vec<f64> = self.layers.iter().filter_map(Spread::variation).collect();
        variations.sort_by(f64::total_cmp);
        variations
    }

    /// `draws[seed]` holds the records of this curve.
    fn of(draws: &[BTreeMap<usize, &Record>]) -> Option<Self> {
        let first = draws.first()?.values().next()?;
        let value = |draw: &BTreeMap<usize, &Record>, layer: usize| draw.get(&layer)?.value;
        let layers: Vec<Spread> = draws[0]
            .keys()
            .filter_map(|&layer| {
                let values: Option<Vec<f64>> = draws.iter().map(|draw| value(draw, layer)).collect();
                Some(Spread::of(layer, &values?))
            })
            .collect();
        let (mut stabilities, mut held) = (Vec::new(), (0, 0));
        for (i, a) in draws.iter().enumerate() {
            for b in &draws[i + 1..] {
                let both = layers
                    .iter()
                    .filter_map(|l| Some((value(a, l.layer)?, value(b, l.layer)?)));
                stabilities.extend(spearman(&both.collect::<Vec<_>>()));
            }
            for b in draws.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, b)| b) {
                let inside = a.iter().filter_map(|(layer, record)| {
                    let value = value(b, *layer)?;
                    Some(record.lo? <= value && value <= record.hi?)
                });
                inside.for_each(|inside| held = (held.0 + usize::from(inside), held.1 + 1));
            }
        }
        Some(Self {
            model: first.model.clone(),
            reference: first.reference.clone(),
            dataset: first.dataset.clone(),
            metric: first.metric.clone(),
            layers,
            rank_stability: (!stabilities.is_empty())
                .then(|| stabilities.iter().sum::<f64>() / stabilities.len() as f64),
            held,
        })
    }
}

/// Analyses with every seed.
///
/// # Errors
/// Those of [`analysis`]; [`Error::Argument`] for fewer than 2 draws.
pub fn seeds<B: Backend>(subject: &Subject<'_, B>, options: &SeedsOptions, cells: &Cells) -> Result<Seeds> {
    if options.count < 2 {
        return Err(Error::Argument {
            what: "study.seeds.count".into(),
            value: options.count.to_string(),
            problem: "a spread needs at least 2 draws".into(),
            help: "3 is the default".into(),
        });
    }
    let first = subject.file.config.study.seed;
    let seeds: Vec<u64> = (0..options.count as u64).map(|i| first.wrapping_add(i)).collect();
    let runs: Vec<Run> = seeds
        .iter()
        .map(|seed| analysis(subject, cells, *seed))
        .collect::<Result<_>>()?;
    let exhausted = runs[0].info.datasets.iter();
    let exhausted = exhausted.filter(|data| data.samples_used + data.skipped.len() >= data.samples_total);
    Ok(Seeds {
        seeds,
        exhausted: exhausted.map(|data| data.name.clone()).collect(),
        curves: curves(&runs.iter().map(|run| run.records.as_slice()).collect::<Vec<_>>()),
    })
}

/// A curve for all that the first draw has, in its order.
fn curves(draws: &[&[Record]]) -> Vec<Curve> {
    let mut order: Vec<[&str; 4]> = Vec::new();
    let mut found: BTreeMap<[&str; 4], Vec<BTreeMap<usize, &Record>>> = BTreeMap::new();
    for (draw, records) in draws.iter().enumerate() {
        for record in records.iter().filter(|record| !record.dataset.is_empty()) {
            let key = [&record.model, &record.reference, &record.dataset, &record.metric].map(String::as_str);
            let curve = found.entry(key).or_insert_with(|| {
                order.push(key);
                vec![BTreeMap::new(); draws.len()]
            });
            curve[draw].insert(record.layer, record);
        }
    }
    order.iter().filter_map(|key| Curve::of(&found[key])).collect()
}

impl Seeds {
    /// Mean and standard deviation of each layer, and the rank stability of each curve; `setting` is the data set.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut records = Vec::new();
        for curve in &self.curves {
            let mut push = |layer: Option<usize>, what: &str, value: Option<f64>| {
                records.push(StudyRecord {
                    model: curve.model.clone(),
                    reference: curve.reference.clone(),
                    setting: curve.dataset.clone(),
                    layer,
                    metric: format!("{}_{what}", curve.metric),
                    value,
                    lo: None,
                    hi: None,
                });
            };
            for spread in &curve.layers {
                push(Some(spread.layer), "mean", Some(spread.mean));
                push(Some(spread.layer), "sd", Some(spread.sd));
                push(Some(spread.layer), "variation", spread.variation());
            }
            push(None, "rank_stability", curve.rank_stability);
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::battery::fixture::Fixture;

    fn record(metric: &str, layer: usize, value: f64) -> Record {
        Record {
            model: "sft".into(),
            reference: "base".into(),
            dataset: "d".into(),
            metric: metric.into(),
            layer,
            depth: 0.0,
            value: value.is_finite().then_some(value),
            lo: value.is_finite().then_some(value - 1.0),
            hi: value.is_finite().then_some(value + 1.0),
            floor: None,
        }
    }

    fn draw(metric: &str, values: &[f64]) -> Vec<Record> {
        (0..)
            .zip(values)
            .map(|(layer, value)| record(metric, layer, *value))
            .collect()
    }

    /// Layer 0: 1, 2, 3.5; layer 1: 5, 4, 6; layer 2: 7, 7, 5.5; layer 3 is not defined once.
    #[test]
    fn spreads_are_those_of_the_draws() {
        let draws = [
            draw("cka", &[1.0, 5.0, 7.0, 9.0]),
            draw("cka", &[2.0, 4.0, 7.0, f64::NAN]),
            draw("cka", &[3.5, 6.0, 5.5, 9.0]),
        ];
        let found = curves(&draws.each_ref().map(Vec::as_slice));
        let [curve] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (curve.model.as_str(), curve.metric.as_str(), curve.layers.len()),
            ("sft", "cka", 3)
        );
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(curve.layers[0].mean, 6.5 / 3.0);
        close(curve.layers[0].sd, (19.0f64 / 12.0).sqrt()); // squares 1.3611, 0.0278, 1.7778
        close(curve.layers[1].variation().unwrap(), 0.2);
        // ρ of draws 1 and 2 is 1, of either with the third 0.5
        close(curve.rank_stability.unwrap(), 2.0 / 3.0);
        // ±1: layer 0 holds (1, 2) both ways; layer 1 all but (4, 6) both ways; layer 2 (7, 7) both ways; layer 3 (9, 9)
        assert_eq!(curve.held, (2 + 4 + 2 + 2, 3 * 6 + 2));
        let seeds = Seeds {
            seeds: vec![1, 2, 3],
            exhausted: Vec::new(),
            curves: found,
        };
        let records = seeds.records();
        assert_eq!(records.len(), 3 * 3 + 1);
        assert_eq!((records[1].metric.as_str(), records[1].layer), ("cka_sd", Some(0)));
        assert_eq!(records[9].metric, "cka_rank_stability");
    }

    #[test]
    fn a_constant_has_no_order() {
        let flat = draw("cka", &[2.0, 2.0, 2.0]);
        let found = curves(&[&flat, &flat]);
        assert_eq!((found[0].rank_stability, found[0].held), (None, (6, 6)));
        assert_eq!(
            found[0].layers[2],
            Spread {
                layer: 2,
                mean: 2.0,
                sd: 0.0
            }
        );
    }

    #[test]
    fn a_study_draws_with_its_seeds() {
        let fixture = Fixture::new();
        let options = SeedsOptions { count: 2 };
        let sets = ["study.samples=4", "study.token_samples=2"];
        let found = fixture.with(&sets, |subject, cells| {
            let found = seeds(subject, &options, cells)?;
            let runs = [42, 43].map(|seed| analysis(subject, cells, seed).unwrap());
            Ok((found, runs))
        });
        let (found, runs) = found.unwrap();
        assert_eq!((found.seeds.as_slice(), found.exhausted.len()), (&[42, 43][..], 0));
        assert!(found.curves.iter().all(|curve| !curve.metric.starts_with("weight")));
        let curve = found
            .curves
            .iter()
            .find(|c| c.metric == "curvature" && c.model == "sft")
            .unwrap();
        let at = |run: &Run, layer| {
            let same = |r: &&Record| r.model == "sft" && r.metric == "curvature" && r.layer == layer;
            run.records.iter().find(same).unwrap().value.unwrap()
        };
        for spread in &curve.layers {
            let [a, b] = runs.each_ref().map(|run| at(run, spread.layer));
            assert!((spread.mean - (a + b) / 2.0).abs() < 1e-12);
            assert!((spread.sd - (a - b).abs() / 2f64.sqrt()).abs() < 1e-12 && spread.sd > 0.0);
        }
        let few = fixture.with(&sets, |subject, cells| {
            seeds(subject, &SeedsOptions { count: 1 }, cells)
        });
        assert!(few.unwrap_err().to_string().contains("at least 2"));
    }
}

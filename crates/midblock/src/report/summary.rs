//! Where a variant differs from its reference, in words, and how sure that is.
//!
//! Three measures of change are read, each over the blocks `l = 1..=L` (the embedding is no block): `cka_debiased`
//! (high = stable), `change_intensity_relative` and `mean_shift_relative` (low = stable).
//!
//! **Bands.** Bottom `l/L ≤ 0.2`, middle `0.2 < l/L ≤ 0.8`, top `l/L > 0.8`. A band's value is the mean of its blocks;
//! its interval is the mean of their interval ends. Blocks see the same samples, so their errors go together: if they
//! did so perfectly the interval would be exact, otherwise it is too wide, never too narrow.
//! Two bands *differ* if their intervals are disjoint, which again is stricter than a 5 % test of the difference.
//!
//! **Stretches.** The most stable (most sensitive) stretch is the contiguous run of at least two blocks with the largest
//! sum of stability (change) beyond half a standard deviation from the mean over all blocks. It was picked by looking, so
//! its interval is a description and no test; it says whether it stands apart from the mean of the remaining blocks.
//!
//! Edge cases: measures with an undefined value or without intervals on any block say nothing about certainty; fewer
//! than five blocks leave bands empty, and an empty band is never named.

use crate::run::{Record, Run};
use std::ops::RangeInclusive;

/// A measure of change: its name in the records, how to call it, and whether a high value means stable.
const MEASURES: [(&str, &str, bool); 3] = [
    ("cka_debiased", "CKA", true),
    ("change_intensity_relative", "relative change", false),
    ("mean_shift_relative", "relative mean shift", false),
];

/// A fifth, three fifths and a fifth of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Band {
    /// `l/L ≤ 0.2`.
    Bottom,
    /// `0.2 < l/L ≤ 0.8`.
    Middle,
    /// `l/L > 0.8`.
    Top,
}

impl Band {
    /// From the bottom up.
    pub const ALL: [Self; 3] = [Self::Bottom, Self::Middle, Self::Top];

    /// The band of block `layer` of `blocks`; `None` for the embedding.
    pub fn of(layer: usize, blocks: usize) -> Option<Self> {
        match layer {
            0 => None,
            _ if 5 * layer <= blocks => Some(Self::Bottom),
            _ if 5 * layer <= 4 * blocks => Some(Self::Middle),
            _ => Some(Self::Top),
        }
    }

    /// "bottom", "middle" or "top".
    pub fn name(self) -> &'static str {
        match self {
            Self::Bottom => "bottom",
            Self::Middle => "middle",
            Self::Top => "top",
        }
    }

    /// Its blocks in a model of `blocks`; `None` if it has none.
    pub fn blocks(self, blocks: usize) -> Option<RangeInclusive<usize>> {
        let mut layers = (1..=blocks).filter(|&layer| Self::of(layer, blocks) == Some(self));
        let first = layers.next()?;
        Some(first..=layers.next_back().unwrap_or(first))
    }
}

/// A mean over blocks with its 95 % interval, if all of them have one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// Mean of the point estimates.
    pub value: f64,
    /// Means of the lower and of the upper ends.
    pub interval: Option<(f64, f64)>,
}

impl Mean {
    /// Over `points`; `None` if there are none or one is undefined.
    fn over<'a>(points: impl IntoIterator<Item = &'a Point>) -> Option<Self> {
        let (mut count, mut value, mut lo, mut hi, mut certain) = (0usize, 0.0, 0.0, 0.0, true);
        for point in points {
            count += 1;
            value += point.value;
            match point.interval {
                Some((low, high)) => (lo, hi) = (lo + low, hi + high),
                None => certain = false,
            }
        }
        let mean = |sum: f64| sum / count as f64;
        (count > 0).then(|| Self {
            value: mean(value),
            interval: certain.then(|| (mean(lo), mean(hi))),
        })
    }

    /// Whether the two intervals exist and do not touch.
    pub fn differs_from(&self, other: &Self) -> bool {
        matches!((self.interval, other.interval), (Some(a), Some(b)) if a.1 < b.0 || b.1 < a.0)
    }
}

/// A contiguous range of blocks that stands out.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// Block numbers, 1-based.
    pub blocks: RangeInclusive<usize>,
    /// Mean over them.
    pub mean: Mean,
    /// Whether its interval is disjoint from that of the remaining blocks.
    pub apart: bool,
}

/// What one measure says.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Name in the records.
    pub metric: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Bottom, middle, top; `None` where a band has no blocks.
    pub bands: [Option<Mean>; 3],
    /// The band that changed least, if its interval is disjoint from those of the others.
    pub stable_band: Option<Band>,
    /// The band that changed most, if its interval is disjoint from those of the others.
    pub sensitive_band: Option<Band>,
    /// The contiguous range that changed least, picked by looking.
    pub stable: Option<Stretch>,
    /// The contiguous range that changed most, picked by looking.
    pub sensitive: Option<Stretch>,
    /// The curve itself, without the embedding.
    pub points: Vec<Point>,
}

/// How far the measures support one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every measure at hand names this band, with disjoint intervals.
    Clear(Band),
    /// Some measures name this band, the others cannot tell.
    Partly(Band),
    /// Measures name different bands, each with disjoint intervals.
    Contradictory,
    /// No measure tells the bands apart.
    Undecided,
}

impl Verdict {
    /// From what each measure names.
    fn of(named: &[Option<Band>]) -> Self {
        let mut bands: Vec<Band> = named.iter().flatten().copied().collect();
        let votes = bands.len();
        bands.dedup();
        match bands[..] {
            [] => Self::Undecided,
            [band] if votes == named.len() => Self::Clear(band),
            [band] => Self::Partly(band),
            _ => Self::Contradictory,
        }
    }
}

/// What is known about one variant on one data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The variant.
    pub model: String,
    /// What it is compared with.
    pub reference: String,
    /// The data set.
    pub dataset: String,
    /// One for each measure at hand, never empty.
    pub readings: Vec<Reading>,
    /// Which band is most stable.
    pub stable: Verdict,
    /// Which band is most sensitive.
    pub sensitive: Verdict,
}

/// One block's value of a measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Block number, 1-based.
    pub layer: usize,
    /// Point estimate.
    pub value: f64,
    /// 95 % interval.
    pub interval: Option<(f64, f64)>,
}

/// A finding for every variant and data set that has at least one of the measures, in the order of the records.
pub fn findings(run: &Run) -> Vec<Finding> {
    let blocks = run.blocks();
    let mut findings: Vec<Finding> = Vec::new();
    for record in run.records.iter().filter(|record| measure(&record.metric).is_some()) {
        let same = |finding: &Finding| {
            finding.model == record.model && finding.reference == record.reference && finding.dataset == record.dataset
        };
        if findings.iter().any(same) {
            continue;
        }
        let readings: Vec<Reading> = MEASURES
            .iter()
            .filter_map(|&measure| read(curve(&run.records, record, measure.0), measure, blocks))
            .collect();
        if !readings.is_empty() {
            let named = |get: fn(&Reading) -> Option<Band>| Verdict::of(&readings.iter().map(get).collect::<Vec<_>>());
            findings.push(Finding {
                model: record.model.clone(),
                reference: record.reference.clone(),
                dataset: record.dataset.clone(),
                stable: named(|reading| reading.stable_band),
                sensitive: named(|reading| reading.sensitive_band),
                readings,
            });
        }
    }
    findings
}

fn measure(metric: &str) -> Option<&'static (&'static str, &'static str, bool)> {
    MEASURES.iter().find(|measure| measure.0 == metric)
}

/// The defined points of `metric` for the models and the data set of `like`, blocks only, in order.
fn curve(records: &[Record], like: &Record, metric: &str) -> Vec<Point> {
    let mut points: Vec<Point> = records
        .iter()
        .filter(|record| record.metric == metric && record.layer > 0)
        .filter(|record| {
            record.model == like.model && record.reference == like.reference && record.dataset == like.dataset
        })
        .filter_map(|record| {
            let finite = |number: Option<f64>| number.filter(|number| number.is_finite());
            let interval = finite(record.lo).zip(finite(record.hi));
            Some(Point {
                layer: record.layer,
                value: finite(record.value)?,
                interval,
            })
        })
        .collect();
    points.sort_by_key(|point| point.layer);
    points
}

/// Reads one curve; `None` if it has no points.
fn read(
    points: Vec<Point>,
    (metric, title, high_is_stable): (&'static str, &'static str, bool),
    blocks: usize,
) -> Option<Reading> {
    if points.is_empty() {
        return None;
    }
    let bands = Band::ALL.map(|band| {
        Mean::over(
            points
                .iter()
                .filter(|point| Band::of(point.layer, blocks) == Some(band)),
        )
    });
    let stability = if high_is_stable { 1.0 } else { -1.0 };
    Some(Reading {
        metric,
        title,
        stable_band: extreme_band(&bands, stability),
        sensitive_band: extreme_band(&bands, -stability),
        stable: stretch(&points, stability),
        sensitive: stretch(&points, -stability),
        bands,
        points,
    })
}

/// The band with the largest `sign · value`, if it differs from every other and there is another.
fn extreme_band(bands: &[Option<Mean>; 3], sign: f64) -> Option<Band> {
    let present: Vec<(Band, Mean)> = Band::ALL
        .into_iter()
        .zip(bands)
        .filter_map(|(band, mean)| Some((band, (*mean)?)))
        .collect();
    let (band, mean) = present
        .iter()
        .max_by(|a, b| (sign * a.1.value).total_cmp(&(sign * b.1.value)))?;
    let others = || present.iter().filter(|(other, _)| other != band);
    (others().next().is_some() && others().all(|(_, other)| mean.differs_from(other))).then_some(*band)
}

/// The contiguous run of at least two and not all points with the largest sum of `sign · (value − mean) − sd / 2`.
fn stretch(points: &[Point], sign: f64) -> Option<Stretch> {
    let mean = Mean::over(points)?.value;
    let variance = points.iter().map(|point| (point.value - mean).powi(2)).sum::<f64>() / points.len() as f64;
    let gains: Vec<f64> = points
        .iter()
        .map(|point| sign * (point.value - mean) - 0.5 * variance.sqrt())
        .collect();
    let mut best: Option<(f64, usize, usize)> = None;
    for start in 0..gains.len() {
        let mut sum = 0.0;
        for (end, gain) in gains.iter().enumerate().skip(start) {
            sum += gain;
            let (size, all) = (end + 1 - start, gains.len());
            if size >= 2 && size < all && sum > 0.0 && best.is_none_or(|(most, ..)| sum > most) {
                best = Some((sum, start, end));
            }
        }
    }
    let (_, start, end) = best?;
    let inside = Mean::over(&points[start..=end])?;
    let outside = Mean::over(points[..start].iter().chain(&points[end + 1..]))?;
    Some(Stretch {
        blocks: points[start].layer..=points[end].layer,
        apart: inside.differs_from(&outside),
        mean: inside,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Machine, RunInfo, SCHEMA};

    const BLOCKS: usize = 30;

    /// Metric, value by layer, half width of the interval.
    type Curve = (&'static str, fn(usize) -> f64, Option<f64>);

    fn run(curves: &[Curve]) -> Run {
        let records = curves.iter().flat_map(|&(metric, value, half)| {
            (0..=BLOCKS).map(move |layer| Record {
                model: "sft".into(),
                reference: "base".into(),
                dataset: "gsm8k".into(),
                metric: metric.into(),
                layer,
                depth: layer as f64 / BLOCKS as f64,
                value: Some(value(layer)),
                lo: half.map(|half| value(layer) - half),
                hi: half.map(|half| value(layer) + half),
                floor: None,
            })
        });
        let info = RunInfo {
            midblock_run_schema: SCHEMA,
            midblock_version: String::new(),
            command_line: Vec::new(),
            config: serde_json::Value::Null,
            models: Vec::new(),
            datasets: Vec::new(),
            seeds: Vec::new(),
            threads: 1,
            machine: Machine::default(),
            started_at: String::new(),
            finished_at: String::new(),
            timings: Vec::new(),
            peak_private_bytes: None,
            warnings: Vec::new(),
            parts: Vec::new(),
        };
        Run {
            info,
            records: records.collect(),
            weights: Vec::new(),
        }
    }

    /// Changes little in blocks 7..=24, more below, most above; the embedding is an outlier that must not count.
    fn change(layer: usize) -> f64 {
        match layer {
            0 => 99.0,
            1..=6 => 0.2,
            7..=24 => 0.1,
            _ => 0.6,
        }
    }

    fn similarity(layer: usize) -> f64 {
        1.0 - change(layer)
    }

    fn only(run: &Run) -> Finding {
        let [finding] = <[Finding; 1]>::try_from(findings(run)).unwrap();
        finding
    }

    #[test]
    fn bands_cover_every_block_once() {
        for blocks in 1..100 {
            let named: Vec<usize> = Band::ALL
                .into_iter()
                .filter_map(|band| band.blocks(blocks))
                .flatten()
                .collect();
            assert_eq!(named, (1..=blocks).collect::<Vec<_>>());
        }
        assert_eq!(
            Band::ALL.map(|band| band.blocks(30)),
            [Some(1..=6), Some(7..=24), Some(25..=30)]
        );
        assert_eq!(Band::Bottom.blocks(4), None);
        assert_eq!(Band::of(0, 30), None);
    }

    #[test]
    fn clear_curves_give_a_clear_verdict() {
        let finding = only(&run(&[
            ("cka_debiased", similarity, Some(0.04)),
            ("change_intensity_relative", change, Some(0.04)),
            ("mean_shift_relative", change, Some(0.04)),
        ]));
        assert_eq!(
            (finding.stable, finding.sensitive),
            (Verdict::Clear(Band::Middle), Verdict::Clear(Band::Top))
        );
        for reading in &finding.readings {
            let (stable, sensitive) = (reading.stable.as_ref().unwrap(), reading.sensitive.as_ref().unwrap());
            assert_eq!(
                (&stable.blocks, &sensitive.blocks),
                (&(7..=24), &(25..=30)),
                "{}",
                reading.metric
            );
            assert!(stable.apart && sensitive.apart);
        }
        let [bottom, ..] = finding.readings[1].bands;
        let bottom = bottom.unwrap();
        assert!(
            (bottom.value - 0.2).abs() < 1e-12 && bottom.interval.unwrap().0 < 0.17,
            "{bottom:?}"
        );
    }

    #[test]
    fn overlapping_intervals_are_undecided() {
        let finding = only(&run(&[
            ("cka_debiased", similarity, Some(0.5)),
            ("mean_shift_relative", change, Some(0.5)),
        ]));
        assert_eq!(
            (finding.stable, finding.sensitive),
            (Verdict::Undecided, Verdict::Undecided)
        );
        assert!(!finding.readings[0].sensitive.as_ref().unwrap().apart);
    }

    #[test]
    fn overlap_with_one_neighbour_is_enough_to_stay_silent() {
        // 0.1 ± 0.06 and 0.2 ± 0.06 overlap, 0.6 ± 0.06 stands alone.
        let finding = only(&run(&[("change_intensity_relative", change, Some(0.06))]));
        assert_eq!(
            (finding.stable, finding.sensitive),
            (Verdict::Undecided, Verdict::Clear(Band::Top))
        );
    }

    #[test]
    fn no_intervals_no_certainty() {
        let finding = only(&run(&[("cka_debiased", similarity, None)]));
        assert_eq!(
            (finding.stable, finding.sensitive),
            (Verdict::Undecided, Verdict::Undecided)
        );
        assert_eq!(finding.readings[0].sensitive.as_ref().unwrap().blocks, 25..=30);
    }

    #[test]
    fn measures_may_agree_in_part_or_contradict() {
        let partly = run(&[
            ("cka_debiased", similarity, Some(0.9)),
            ("mean_shift_relative", change, Some(0.01)),
        ]);
        assert_eq!(only(&partly).sensitive, Verdict::Partly(Band::Top));
        let contrary = run(&[
            ("cka_debiased", change, Some(0.01)),
            ("mean_shift_relative", change, Some(0.01)),
        ]);
        let finding = only(&contrary);
        assert_eq!(
            (finding.stable, finding.sensitive),
            (Verdict::Contradictory, Verdict::Contradictory)
        );
    }

    #[test]
    fn flat_curves_have_no_stretch() {
        let finding = only(&run(&[("cka_debiased", |_| 1.0, Some(0.0))]));
        assert_eq!(
            (&finding.readings[0].stable, &finding.readings[0].sensitive),
            (&None, &None)
        );
        assert_eq!(finding.stable, Verdict::Undecided);
    }

    #[test]
    fn runs_without_a_comparison_have_no_findings() {
        assert_eq!(findings(&run(&[("gini", change, Some(0.1))])), []);
    }
}

//! Cells → the table: for each pattern means over seeds with their intervals, and differences from the baseline.
//!
//! Cells are comparable within a group: one model, one data variant, one scaling. The baseline of a group is `uniform`, or its
//! first pattern if that is not there. A difference is taken over the seeds and items that both patterns have.

use super::{Cell, Interval, ItemValues, Measure, Pattern, Scores, SweepPlan, Unit, run::Judged};
use crate::train::TrainingRun;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the cells of one comparison have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name of the model.
    pub model: String,
    /// Name of the data variant; empty if there is but one.
    pub data: String,
    /// How pairs are scaled; empty for the pretrained model.
    pub scaling: String,
}

/// A pattern, or the pretrained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Where it belongs.
    pub group: Group,
    /// The pattern as written; [`Row::PRETRAINED`] for the model before training.
    pub pattern: String,
    /// Seeds whose cells are finished.
    pub seeds: Vec<u64>,
    /// Each block's rank, 0 where it is frozen; one list, or one for each seed where they differ.
    pub ranks: Vec<Vec<usize>>,
    /// Numbers that are trained.
    pub parameters: u64,
    /// For each measure the mean over seeds.
    pub values: Vec<Option<Interval>>,
    /// Seconds of training, the mean over seeds.
    pub seconds: Option<f64>,
    /// Largest private memory seen after a step of training, over seeds.
    pub peak_bytes: Option<u64>,
}

impl Row {
    /// The name of the row without training.
    pub const PRETRAINED: &'static str = "pretrained";

    /// Whether it is the model before training.
    pub fn is_reference(&self) -> bool {
        self.pattern == Self::PRETRAINED
    }
}

/// A difference of two rows of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The group.
    pub group: Group,
    /// Number of the measure.
    pub measure: usize,
    /// The one pattern.
    pub left: String,
    /// The other.
    pub right: String,
    /// Left − right; none of the measure is missing in either.
    pub difference: Interval,
}

/// Everything that a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What was measured.
    pub measures: Vec<Measure>,
    /// Group by group, the pretrained model first.
    pub rows: Vec<Row>,
    /// Each pattern against the baseline of its group, and `mid` against `random`.
    pub comparisons: Vec<Comparison>,
}

impl Table {
    /// The difference of a row from its baseline.
    pub fn difference(&self, row: &Row, measure: usize) -> Option<&Comparison> {
        let own = |c: &&Comparison| (&c.group, c.measure, &c.left) == (&row.group, measure, &row.pattern);
        self.comparisons.iter().find(own) // the baseline's comes before that of `random`
    }

    /// The row before training of a row's model and data.
    pub fn reference(&self, row: &Row) -> Option<&Row> {
        let same = |other: &&Row| (&other.group.model, &other.group.data) == (&row.group.model, &row.group.data);
        self.rows.iter().filter(|other| other.is_reference()).find(same)
    }

    pub(super) fn of(
        plan: &SweepPlan,
        references: &BTreeMap<(usize, usize), Judged>,
        cells: &[Option<Judged>],
    ) -> Self {
        let mut table = Self {
            measures: measures(references.values().chain(cells.iter().flatten())),
            ..Self::default()
        };
        for (model, data) in
            (0..plan.models.len()).flat_map(|model| (0..plan.data.len()).map(move |data| (model, data)))
        {
            let reference = references.get(&(model, data));
            if let Some(reference) = reference {
                table.rows.push(table.reference_row(plan, model, data, reference));
            }
            let own: Vec<(&Cell, &Judged)> = plan
                .cells
                .iter()
                .zip(cells)
                .filter(|(cell, _)| (cell.model, cell.data) == (model, data))
                .filter_map(|(cell, judged)| Some((cell, judged.as_ref()?)))
                .collect();
            let mut scalings: Vec<String> = Vec::new();
            for (cell, _) in &own {
                if !scalings.contains(&cell.scaling.to_string()) {
                    scalings.push(cell.scaling.to_string());
                }
            }
            for scaling in scalings {
                let of_group: Vec<_> = own
                    .iter()
                    .filter(|(cell, _)| cell.scaling.to_string() == scaling)
                    .copied()
                    .collect();
                let group = group(plan, model, data, &scaling);
                table.add_group(plan, group, &of_group, reference);
            }
        }
        table
    }

    fn reference_row(&self, plan: &SweepPlan, model: usize, data: usize, judged: &Judged) -> Row {
        Row {
            group: group(plan, model, data, ""),
            pattern: Row::PRETRAINED.to_owned(),
            seeds: Vec::new(),
            ranks: Vec::new(),
            parameters: 0,
            values: self
                .measures
                .iter()
                .map(|measure| interval(&[&judged.scores], measure, None))
                .collect(),
            seconds: None,
            peak_bytes: None,
        }
    }

    /// The rows and comparisons of one group.
    fn add_group(&mut self, plan: &SweepPlan, group: Group, cells: &[(&Cell, &Judged)], reference: Option<&Judged>) {
        let of = |name: &str| -> BTreeMap<u64, &Judged> {
            let own = cells.iter().filter(|(cell, _)| cell.pattern.name() == name);
            own.map(|(cell, judged)| (cell.seed, *judged)).collect()
        };
        let names: Vec<&str> = plan.file.config.sweep.patterns.iter().map(Pattern::name).collect();
        for name in &names {
            let judged = of(name);
            if !judged.is_empty() {
                self.rows.push(row(&self.measures, &group, name, &judged));
            }
        }
        let baseline = if names.contains(&Pattern::BASELINE) {
            Pattern::BASELINE
        } else {
            names[0]
        };
        let mut pairs: Vec<(&str, &str)> = names.iter().map(|name| (*name, baseline)).collect();
        if baseline != "random" && names.contains(&"mid") && names.contains(&"random") {
            pairs.push(("mid", "random"));
        }
        let unequal = |(left, right): &(&str, &str)| left != right;
        for (left, right) in pairs.into_iter().filter(unequal) {
            let (one, other) = (of(left), of(right));
            let both: Vec<u64> = one.keys().filter(|seed| other.contains_key(seed)).copied().collect();
            let scores =
                |of: &BTreeMap<u64, &Judged>| both.iter().map(|seed| of[seed].scores.clone()).collect::<Vec<_>>();
            self.compare(&group, [left, right], &scores(&one), &scores(&other));
        }
        if let Some(reference) = reference {
            let base: Vec<_> = of(baseline).values().map(|judged| judged.scores.clone()).collect();
            let same: Vec<_> = base.iter().map(|_| reference.scores.clone()).collect();
            let group = Group {
                scaling: String::new(),
                ..group.clone()
            };
            let known = self.comparisons.iter().any(|c| c.group == group);
            if !known {
                self.compare(&group, [Row::PRETRAINED, baseline], &same, &base);
            }
        }
    }

    fn compare(&mut self, group: &Group, [left, right]: [&str; 2], one: &[Vec<Scores>], other: &[Vec<Scores>]) {
        let (one, other): (Vec<_>, Vec<_>) = (one.iter().collect(), other.iter().collect());
        for (number, measure) in self.measures.iter().enumerate() {
            if let Some(difference) = interval(&one, measure, Some(&other)) {
                self.comparisons.push(Comparison {
                    group: group.clone(),
                    measure: number,
                    left: left.to_owned(),
                    right: right.to_owned(),
                    difference,
                });
            }
        }
    }
}

fn group(plan: &SweepPlan, model: usize, data: usize, scaling: &str) -> Group {
    Group {
        model: plan.models[model].name.clone(),
        data: plan.data[data].name.clone(),
        scaling: scaling.to_owned(),
    }
}

fn row(measures: &[Measure], group: &Group, name: &str, judged: &BTreeMap<u64, &Judged>) -> Row {
    let runs: Vec<&TrainingRun> = judged.values().filter_map(|judged| judged.run.as_ref()).collect();
    let mut ranks: Vec<Vec<usize>> = runs
        .iter()
        .map(|run| {
            run.info
                .training
                .blocks
                .iter()
                .map(|block| block.rank.unwrap_or(0))
                .collect()
        })
        .collect();
    ranks.dedup();
    let training = |run: &&TrainingRun| {
        run.info
            .training
            .position
            .as_ref()
            .map_or(0.0, |position| position.seconds)
    };
    let seconds: f64 = runs.iter().map(training).sum();
    let scores: Vec<&Vec<Scores>> = judged.values().map(|judged| &judged.scores).collect();
    Row {
        group: group.clone(),
        pattern: name.to_owned(),
        seeds: judged.keys().copied().collect(),
        parameters: runs
            .iter()
            .map(|run| run.info.training.trained_parameters)
            .max()
            .unwrap_or(0),
        values: measures
            .iter()
            .map(|measure| interval(&scores, measure, None))
            .collect(),
        seconds: (!runs.is_empty()).then(|| seconds / runs.len() as f64),
        peak_bytes: runs.iter().filter_map(|run| run.info.run.peak_private_bytes).max(),
        ranks,
    }
}

/// Every measure of any of them, in order of appearance; the loss last.
fn measures<'a>(judged: impl Iterator<Item = &'a Judged>) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    for scores in judged.flat_map(|judged| &judged.scores) {
        if !measures.contains(&scores.measure) {
            measures.push(scores.measure.clone());
        }
    }
    measures
}

/// Of a measure over seeds: the mean of `one`, or its difference from `other`. Over the items that all of them have.
pub(in crate::study) fn interval(
    one: &[&Vec<Scores>],
    measure: &Measure,
    other: Option<&[&Vec<Scores>]>,
) -> Option<Interval> {
    let ItemValues { values, weights } = item_values(one, measure, other)?;
    let interval = Interval::of(&values, &weights)?;
    Some(match (measure.unit, other) {
        (Unit::Share, None) => interval.within(0.0, 1.0),
        _ => interval,
    })
}

/// What [`interval`] is of, item by item; `None` if some seed lacks the measure.
pub(in crate::study) fn item_values(
    one: &[&Vec<Scores>],
    measure: &Measure,
    other: Option<&[&Vec<Scores>]>,
) -> Option<ItemValues> {
    let find = |scores: &&Vec<Scores>| -> Option<BTreeMap<String, [f64; 2]>> {
        let own = scores.iter().find(|own| own.measure == *measure);
        own.map(|own| own.items.clone())
    };
    let one: Vec<_> = one.iter().map(find).collect::<Option<_>>()?;
    let other: Vec<_> = other.unwrap_or_default().iter().map(find).collect::<Option<_>>()?;
    let first = one.first()?;
    let common: Vec<&String> = first
        .keys()
        .filter(|item| one.iter().chain(&other).all(|items| items.contains_key(*item)))
        .collect();
    let weights = common.iter().map(|item| first[*item][1]).collect();
    let seed = |(number, items): (usize, &BTreeMap<String, [f64; 2]>)| -> Vec<f64> {
        let less = |item: &String| other.get(number).map_or(0.0, |items| items[item][0]);
        common.iter().map(|item| items[*item][0] - less(item)).collect()
    };
    let values = one.iter().enumerate().map(seed).collect();
    Some(ItemValues { values, weights })
}

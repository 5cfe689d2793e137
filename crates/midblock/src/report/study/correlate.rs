//! Correlations of the metrics on the page: two matrices in the order of the clusters, and the groups.

use super::{Choice, Heat, HeatCell, Panel, Scale, Section, Table};
use crate::{metrics, study::correlate::Correlate};

/// The section.
pub fn section(found: &Correlate) -> Section {
    let heat = |name: &str, symbol: &str, matrix: &[Vec<Option<f64>>]| {
        let heat = Heat {
            title: format!("{name} of every two metrics"),
            x: String::new(),
            y: String::new(),
            columns: found.metrics.iter().map(|metric| title(metric)).collect(),
            rows: found.metrics.iter().map(|metric| title(metric)).collect(),
            cells: cells(&found.metrics, symbol, matrix),
            scale: Scale::Diverging { limit: 1.0 },
        };
        (name.to_owned(), Panel::Heat(heat))
    };
    let numbers = 1..=found.groups.len();
    let row = |(number, group): (usize, &Vec<String>)| vec![number.to_string(), names(group)];
    Section {
        id: "correlate",
        title: "Which metrics say the same".into(),
        about: format!(
            "Correlation of every two metrics over {} observations: the layers of {}, on each data set. A metric of weights belongs to \
             the layer after its block. Pearson's r asks for a line, Spearman's ρ for the same order. Rows are ordered by \
             average-linkage clustering of 1 − |r|. Neighbouring layers are alike, so a large |r| may be no more than a common trend \
             with depth; no intervals are given, because observations are not independent.",
            found.observations,
            found.models.join(", ")
        ),
        findings: findings(found),
        panels: vec![
            Panel::Choice(Choice {
                title: "Correlation".into(),
                options: vec![
                    heat("Pearson's r", "r", &found.pearson),
                    heat("Spearman's ρ", "ρ", &found.spearman),
                ],
            }),
            Panel::Table(Table {
                title: format!("Groups joined at a mean |r| of {} or more", found.group_at),
                columns: vec!["Group".into(), "Metrics".into()],
                rows: numbers.zip(&found.groups).map(row).collect(),
            }),
        ],
    }
}

fn cells(metrics: &[String], symbol: &str, matrix: &[Vec<Option<f64>>]) -> Vec<Vec<HeatCell>> {
    let cell = |a: &String, b: &String, value: Option<f64>| HeatCell {
        value,
        text: String::new(),
        hint: match value {
            Some(value) => format!("{} and {}: {symbol} = {}", title(a), title(b), signed(value)),
            None => format!("{} and {}: not defined", title(a), title(b)),
        },
    };
    let row =
        |(a, row): (&String, &Vec<Option<f64>>)| metrics.iter().zip(row).map(|(b, value)| cell(a, b, *value)).collect();
    metrics.iter().zip(matrix).map(row).collect()
}

fn findings(found: &Correlate) -> Vec<String> {
    let mut findings = Vec::new();
    let several: Vec<&Vec<String>> = found.groups.iter().filter(|group| group.len() > 1).collect();
    let (metrics, groups) = (found.metrics.len(), found.groups.len());
    findings.push(match several.as_slice() {
        [] => format!("No two of the {metrics} metrics go together at |r| ≥ {}.", found.group_at),
        _ => format!(
            "{metrics} metrics come down to {groups} groups at a mean |r| of {} or more: within a group, one metric tells most of \
             what the others do.",
            found.group_at
        ),
    });
    if let Some(largest) = several.iter().max_by_key(|group| group.len()) {
        findings.push(format!("The largest group: {}.", names(largest)));
    }
    if let Some((a, b, r)) = strongest_of_different_kinds(found) {
        findings.push(format!(
            "Closest of different kinds: {} and {}, r = {}.",
            title(a),
            title(b),
            signed(r)
        ));
    }
    if !found.left_out.is_empty() {
        findings.push(format!(
            "Left out, because they do not vary or are hardly ever defined: {}.",
            names(&found.left_out)
        ));
    }
    findings
}

/// The pair of largest |r| whose metrics belong to different groups of the registry.
fn strongest_of_different_kinds(found: &Correlate) -> Option<(&str, &str, f64)> {
    let kind = |name: &str| metrics::find(name).map(|metric| metric.group);
    let k = found.metrics.len();
    let pairs = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j)));
    pairs
        .filter(|&(i, j)| kind(&found.metrics[i]) != kind(&found.metrics[j]))
        .filter_map(|(i, j)| {
            Some((
                found.metrics[i].as_str(),
                found.metrics[j].as_str(),
                found.pearson[i][j]?,
            ))
        })
        .max_by(|a, b| a.2.abs().total_cmp(&b.2.abs()))
}

fn names(metrics: &[String]) -> String {
    metrics
        .iter()
        .map(|metric| title(metric))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Name for people.
pub(super) fn title(metric: &str) -> String {
    metrics::find(metric).map_or_else(|| metric.to_owned(), metrics::Metric::title)
}

/// "+0.93", "−0.41".
fn signed(value: f64) -> String {
    format!("{value:+.2}").replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_the_closest_of_different_kinds_are_named() {
        let found = Correlate {
            models: vec!["sft".into()],
            observations: 31,
            metrics: ["cka", "cosine_similarity", "weight_change"]
                .map(str::to_owned)
                .to_vec(),
            pearson: vec![
                vec![Some(1.0), Some(0.99), Some(-0.7)],
                vec![Some(0.99), Some(1.0), Some(-0.6)],
                vec![Some(-0.7), Some(-0.6), Some(1.0)],
            ],
            spearman: vec![vec![Some(1.0), None, Some(0.5)]; 3],
            groups: vec![
                vec!["cka".into(), "cosine_similarity".into()],
                vec!["weight_change".into()],
            ],
            group_at: 0.9,
            left_out: vec!["lidar".into()],
        };
        let section = section(&found);
        assert_eq!(
            section.findings,
            [
                "3 metrics come down to 2 groups at a mean |r| of 0.9 or more: within a group, one metric tells most of what the \
                 others do.",
                "The largest group: CKA; Cosine similarity.",
                "Closest of different kinds: CKA and Weight change, r = −0.70.",
                "Left out, because they do not vary or are hardly ever defined: LiDAR.",
            ]
        );
        let [Panel::Choice(choice), Panel::Table(table)] = section.panels.as_slice() else {
            panic!("{:?}", section.panels)
        };
        let [(_, Panel::Heat(pearson)), (_, Panel::Heat(spearman))] = choice.options.as_slice() else {
            panic!("{choice:?}")
        };
        assert_eq!(pearson.cells[0][2].hint, "CKA and Weight change: r = −0.70");
        assert_eq!(spearman.cells[0][1].hint, "CKA and Cosine similarity: not defined");
        assert_eq!(table.rows[0], ["1", "CKA; Cosine similarity"]);
    }
}

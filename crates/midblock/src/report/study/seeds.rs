//! Stability over draws on the page: each metric's mean ± standard deviation over the layers, and a table of all.

use super::{Choice, Lines, Panel, Point, Section, Series, Table, correlate::title};
use crate::{
    report::words::number,
    study::seeds::{Curve, Seeds},
};

/// A curve is called stable from this mean ρ on.
const STABLE: f64 = 0.95;

/// The section of models of `blocks` blocks.
pub fn section(found: &Seeds, blocks: usize) -> Section {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for curve in &found.curves {
        let key = (curve.dataset.as_str(), curve.metric.as_str());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let several = keys.iter().any(|(dataset, _)| *dataset != keys[0].0);
    let option = |&(dataset, metric): &(&str, &str)| {
        let name = if several {
            format!("{}, {dataset}", title(metric))
        } else {
            title(metric)
        };
        let of = found
            .curves
            .iter()
            .filter(|c| (c.dataset.as_str(), c.metric.as_str()) == (dataset, metric));
        let lines = Lines {
            title: name.clone(),
            x: "layer (0 is the embedding)".into(),
            y: "mean over draws, ± standard deviation".into(),
            series: of.map(|curve| series(curve, blocks)).collect(),
            ..Lines::default()
        };
        (name, Panel::Lines(lines))
    };
    let seeds: Vec<String> = found.seeds.iter().map(u64::to_string).collect();
    Section {
        id: "seeds",
        title: "Stability over draws".into(),
        about: format!(
            "The same analysis with {} draws of samples (seeds {}). Curves are means, bands ± one standard deviation s of a draw. \
             Variation is s/|mean|, its median and largest over the layers. Rank stability is the mean Spearman's ρ of the curves of \
             every two draws: 1 means that each draw puts the layers in the same order. The last column is how often one draw's \
             95\u{a0}% interval holds another draw's value: 83\u{a0}% if intervals are right and draws independent.",
            found.seeds.len(),
            seeds.join(", ")
        ),
        findings: findings(found),
        panels: vec![
            Panel::Choice(Choice {
                title: "Metric".into(),
                options: keys.iter().map(option).collect(),
            }),
            Panel::Table(Table {
                title: "All metrics".into(),
                columns: [
                    "Metric",
                    "Model",
                    "Data",
                    "Variation, median",
                    "Variation, largest",
                    "Rank stability",
                    "Held",
                ]
                .map(str::to_owned)
                .to_vec(),
                rows: found.curves.iter().map(row).collect(),
            }),
        ],
    }
}

fn series(curve: &Curve, blocks: usize) -> Series {
    let point = |spread: &crate::study::seeds::Spread| Point {
        x: spread.layer as f64,
        y: Some(spread.mean),
        lo: Some(spread.mean - spread.sd),
        hi: Some(spread.mean + spread.sd),
        label: match spread.layer {
            0 => "embedding".into(),
            layer => format!("block {layer} of {blocks}"),
        },
    };
    Series {
        name: model(curve),
        points: curve.layers.iter().map(point).collect(),
        line: true,
    }
}

fn row(curve: &Curve) -> Vec<String> {
    let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let (held, of) = curve.held;
    vec![
        title(&curve.metric),
        model(curve),
        curve.dataset.clone(),
        text(curve.median_variation()),
        text(curve.largest_variation()),
        text(curve.rank_stability),
        text((of > 0).then(|| held as f64 / of as f64)),
    ]
}

/// "sft", or "sft against base".
fn model(curve: &Curve) -> String {
    match curve.reference.as_str() {
        "" => curve.model.clone(),
        reference => format!("{} against {reference}", curve.model),
    }
}

fn findings(found: &Seeds) -> Vec<String> {
    let ranked: Vec<(&Curve, f64)> = found
        .curves
        .iter()
        .filter_map(|curve| Some((curve, curve.rank_stability?)))
        .collect();
    let stable = ranked.iter().filter(|(_, stability)| *stability >= STABLE).count();
    let mut findings = vec![format!(
        "{stable} of {} curves put the layers in nearly the same order whichever samples are drawn (mean ρ ≥ {STABLE}).",
        ranked.len()
    )];
    if let Some((curve, stability)) = ranked.iter().min_by(|a, b| a.1.total_cmp(&b.1)) {
        findings.push(format!(
            "Least stable: {} of {}, mean ρ = {}.",
            title(&curve.metric),
            model(curve),
            number(*stability)
        ));
    }
    let (held, of) = found
        .curves
        .iter()
        .fold((0, 0), |sum, curve| (sum.0 + curve.held.0, sum.1 + curve.held.1));
    if of > 0 {
        findings.push(format!(
            "One draw's 95\u{a0}% interval holds another draw's value in {:.0}\u{a0}% of {of} cases; 83\u{a0}% is expected of right \
             intervals and independent draws.",
            100.0 * held as f64 / of as f64
        ));
    }
    if !found.exhausted.is_empty() {
        findings.push(format!(
            "Every draw takes all samples of {}: what differs there are views and pairings alone, so stability is overstated.",
            found.exhausted.join(", ")
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::seeds::Spread;

    fn curve(metric: &str, reference: &str, stability: f64) -> Curve {
        let layers = [(0, 2.0, 0.1), (1, 4.0, 0.4), (2, 0.0, 0.4)];
        Curve {
            model: "sft".into(),
            reference: reference.into(),
            dataset: "d".into(),
            metric: metric.into(),
            layers: layers.map(|(layer, mean, sd)| Spread { layer, mean, sd }).to_vec(),
            rank_stability: Some(stability),
            held: (3, 4),
        }
    }

    #[test]
    fn curves_have_bands_and_the_least_stable_is_named() {
        let found = Seeds {
            seeds: vec![42, 43],
            exhausted: vec!["d".into()],
            curves: vec![curve("cka", "base", 0.99), curve("dime", "", 0.5)],
        };
        let section = section(&found, 2);
        assert!(section.findings[0].starts_with("1 of 2 curves"));
        assert_eq!(section.findings[1], "Least stable: DiME of sft, mean ρ = 0.5.");
        assert!(section.findings[2].contains("75\u{a0}% of 8 cases"));
        assert!(section.findings[3].contains("all samples of d:"));
        let [Panel::Choice(choice), Panel::Table(table)] = section.panels.as_slice() else {
            panic!("{:?}", section.panels)
        };
        let (name, Panel::Lines(lines)) = &choice.options[0] else {
            panic!("{choice:?}")
        };
        assert_eq!(
            (name.as_str(), lines.series[0].name.as_str()),
            ("CKA", "sft against base")
        );
        let point = &lines.series[0].points[1];
        assert_eq!((point.y, point.lo, point.hi), (Some(4.0), Some(3.6), Some(4.4)));
        assert_eq!(point.label, "block 1 of 2");
        assert_eq!(table.rows[1], ["DiME", "sft", "d", "0.075", "0.1", "0.5", "0.75"]);
    }
}

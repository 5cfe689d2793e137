//! Selective training on the page: what freezing the first blocks costs and saves.

use super::{
    Bars, Lines, Panel, Point, Section, Series, Table,
    curve::{nats_difference, points, share},
};
use crate::{
    config::AdaptKind,
    study::{
        Estimate,
        selective::{Frozen, Selective},
        sweep::Unit,
        training::{Scored, loss},
    },
};

/// The section of a model of `blocks` blocks.
pub fn section(found: &Selective, blocks: usize) -> Section {
    let how = match found.kind {
        AdaptKind::Full => "full fine-tuning of the other blocks",
        AdaptKind::Masked => "masks over the change of the other blocks",
        AdaptKind::Lora => "LoRA in the other blocks, at one rank whatever is frozen",
    };
    let mut panels: Vec<Panel> = (found.frozen[0].values.iter().enumerate())
        .map(|(index, scored)| Panel::Bars(measure(found, index, scored)))
        .collect();
    panels.push(Panel::Lines(costs(found)));
    panels.push(Panel::Table(table(found, blocks)));
    let mut findings: Vec<String> = found.frozen[1..]
        .iter()
        .map(|frozen| finding(found, frozen, blocks))
        .collect();
    let left_out = found.frozen[0].run.left_out;
    if left_out > 0 {
        findings.push(format!(
            "{left_out} training sequences were left out because they are measured."
        ));
    }
    Section {
        id: "selective",
        title: "Selective training".into(),
        about: format!(
            "The first ⌊ratio·{blocks}⌋ blocks are frozen; {how}. Data, steps and seed are the same. Judged by {} measured samples, which \
             are not trained on; intervals are over samples, differences pair them. Time is that of this machine and includes \
             whatever else ran on it; memory is what the process held after its largest step, planned memory what a step needs.",
            found.samples
        ),
        findings,
        panels,
    }
}

/// "15 of 30".
fn name(frozen: &Frozen, blocks: usize) -> String {
    format!("{} of {blocks}", frozen.blocks())
}

/// A measure of every ratio.
fn measure(found: &Selective, index: usize, scored: &Scored) -> Bars {
    let point = |Estimate { value, lo, hi }: Estimate| Point {
        y: Some(value),
        lo: Some(lo),
        hi: Some(hi),
        ..Point::default()
    };
    let values = found.frozen.iter().filter_map(|frozen| frozen.values.get(index));
    let untrained = found.untrained.iter().find(|other| other.measure == scored.measure);
    Bars {
        title: scored.metric().replace('_', " "),
        y: unit(scored.measure.unit).into(),
        names: (found.frozen.iter())
            .map(|frozen| format!("{} frozen", frozen.blocks()))
            .collect(),
        groups: vec![("trained".into(), values.map(|scored| point(scored.value)).collect())],
        references: (untrained.iter())
            .map(|scored| ("untrained".to_owned(), scored.value.value))
            .collect(),
    }
}

pub(super) fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Share => "share",
        Unit::Nats => "nats per token",
        Unit::Bits => "bits per byte",
    }
}

fn costs(found: &Selective) -> Lines {
    let first = &found.frozen[0];
    let of = |name: &str, cost: &dyn Fn(&Frozen) -> Option<f64>| Series {
        name: name.to_owned(),
        line: true,
        points: (found.frozen.iter())
            .map(|frozen| Point {
                x: frozen.blocks() as f64,
                y: cost(frozen).zip(cost(first)).map(|(own, first)| own / first),
                label: format!("{} blocks frozen", frozen.blocks()),
                ..Point::default()
            })
            .collect(),
    };
    Lines {
        title: "What it costs, as a share of the first".into(),
        x: "frozen blocks".into(),
        y: "share".into(),
        series: vec![
            of("seconds", &|frozen| Some(frozen.run.seconds)),
            of("largest memory", &|frozen| {
                frozen.run.peak_bytes.map(|bytes| bytes as f64)
            }),
            of("planned memory", &|frozen| Some(frozen.run.planned_bytes as f64)),
            of("trained parameters", &|frozen| Some(frozen.run.parameters as f64)),
        ],
        ..Lines::default()
    }
}

fn table(found: &Selective, blocks: usize) -> Table {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mut columns: Vec<String> = [
        "frozen blocks",
        "trained parameters",
        "seconds",
        "tokens/s",
        "memory",
        "planned",
    ]
    .map(str::to_owned)
    .to_vec();
    columns.extend(found.untrained.iter().map(|scored| scored.metric().replace('_', " ")));
    let mut untrained = vec!["untrained".to_owned()];
    untrained.extend(std::iter::repeat_n("–".to_owned(), 5));
    untrained.extend(found.untrained.iter().map(text));
    let row = |frozen: &Frozen| {
        let run = &frozen.run;
        let mut row = vec![
            name(frozen, blocks),
            run.parameters.to_string(),
            format!("{:.1}", run.seconds),
            format!("{:.0}", frozen.tokens_per_s()),
            run.peak_bytes.map_or_else(|| "–".to_owned(), mib),
            mib(run.planned_bytes),
        ];
        row.extend(frozen.values.iter().map(text));
        row
    };
    Table {
        title: "All ratios".into(),
        columns,
        rows: std::iter::once(untrained).chain(found.frozen.iter().map(row)).collect(),
    }
}

/// A number with its interval in its own unit.
pub(super) fn text(scored: &Scored) -> String {
    let Estimate { value, lo, hi } = scored.value;
    match scored.measure.unit {
        Unit::Share => share(scored.value),
        _ => format!("{value:.4} ({lo:.4} to {hi:.4})"),
    }
}

fn finding(found: &Selective, frozen: &Frozen, blocks: usize) -> String {
    let first = &found.frozen[0];
    let difference = loss(&frozen.differences);
    let verdict = match (difference.is_clear(), difference.value > 0.0) {
        (true, true) => "clearly worse",
        (true, false) => "clearly better",
        (false, _) => "no clear difference",
    };
    let accuracy = (frozen.differences.iter())
        .find(|scored| scored.measure.unit == Unit::Share)
        .map_or_else(String::new, |scored| format!(", accuracy {}", points(scored.value)));
    format!(
        "{} blocks frozen against {}: loss {} ({verdict}){accuracy}; {:.2} times the seconds, {:.0}\u{a0}% of the trained parameters.",
        name(frozen, blocks),
        first.blocks(),
        nats_difference(difference),
        frozen.run.seconds / first.run.seconds,
        100.0 * frozen.run.parameters as f64 / first.run.parameters as f64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::{sweep::Measure, training::Trained};

    fn scored(name: &str, unit: Unit, value: f64, half: f64) -> Scored {
        Scored {
            measure: Measure {
                name: name.into(),
                metric: String::new(),
                unit,
            },
            value: Estimate {
                value,
                lo: value - half,
                hi: value + half,
            },
        }
    }

    fn values(loss: f64, accuracy: f64, half: f64) -> Vec<Scored> {
        vec![
            scored("loss", Unit::Nats, loss, half),
            scored("top1_accuracy", Unit::Share, accuracy, half),
        ]
    }

    #[test]
    fn what_freezing_costs_and_saves_is_said() {
        let frozen = |count: usize, differences| Frozen {
            ratio: count as f64 / 4.0,
            run: Trained {
                blocks: (count..4).collect(),
                parameters: 100 * (4 - count) as u64,
                steps: 5,
                tokens: 1000,
                seconds: 10.0 - 2.0 * count as f64,
                peak_bytes: Some(3 << 20),
                planned_bytes: (4 - count as u64) << 20,
                left_out: 2,
                end_loss: None,
                scores: Vec::new(),
            },
            values: values(2.0 + count as f64, 0.5, 0.1),
            differences,
        };
        let found = Selective {
            kind: AdaptKind::Lora,
            samples: 9,
            untrained: values(9.0, 0.25, 0.05),
            frozen: vec![
                frozen(0, Vec::new()),
                frozen(1, values(0.05, -0.01, 0.1)),
                frozen(2, values(2.0, -0.2, 0.1)),
            ],
        };
        let section = section(&found, 4);
        assert_eq!(
            section.findings,
            [
                "1 of 4 blocks frozen against 0: loss +0.050 nats (−0.050 to +0.150) (no clear difference), accuracy −1.0 points (−11.0 to \
                 +9.0); 0.80 times the seconds, 75\u{a0}% of the trained parameters.",
                "2 of 4 blocks frozen against 0: loss +2.000 nats (+1.900 to +2.100) (clearly worse), accuracy −20.0 points (−30.0 to \
                 −10.0); 0.60 times the seconds, 50\u{a0}% of the trained parameters.",
                "2 training sequences were left out because they are measured.",
            ]
        );
        let [
            Panel::Bars(bars),
            Panel::Bars(_),
            Panel::Lines(lines),
            Panel::Table(table),
        ] = section.panels.as_slice()
        else {
            panic!("{:?}", section.panels)
        };
        let bar: Vec<_> = bars.groups[0].1.iter().map(|point| point.y).collect();
        assert_eq!(
            (bar, bars.references[0].1),
            (vec![Some(2.0), Some(3.0), Some(4.0)], 9.0)
        );
        let seconds: Vec<_> = lines.series[0].points.iter().map(|point| (point.x, point.y)).collect();
        assert_eq!(seconds, [(0.0, Some(1.0)), (1.0, Some(0.8)), (2.0, Some(0.6))]);
        assert_eq!(
            table.rows[2],
            [
                "1 of 4",
                "300",
                "8.0",
                "125",
                "3 MiB",
                "3 MiB",
                "3.0000 (2.9000 to 3.1000)",
                "50.0\u{a0}% (40.0 to 60.0)"
            ]
        );
    }
}

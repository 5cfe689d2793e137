//! The tradeoff on the page: methods in the plane of what they gain and lose, and the table beside it.

use super::{
    Mark, Panel, Plane, Section, Table,
    curve::{nats_difference, points},
    selective::{text, unit},
};
use crate::study::{
    Estimate,
    sweep::Unit,
    tradeoff::{Axis, Outcome, Standing, Tradeoff},
};

/// The section.
pub fn section(found: &Tradeoff) -> Section {
    Section {
        id: "tradeoff",
        title: "Tradeoff".into(),
        about: about(found),
        findings: findings(found),
        panels: vec![
            Panel::Plane(plane(found)),
            Panel::Table(table(found)),
            Panel::Table(measures(found)),
        ],
    }
}

fn about(found: &Tradeoff) -> String {
    let of = |axis: &Axis| format!("{} ({})", axis.measures.join(", "), unit(axis.unit));
    format!(
        "Every method is trained from the same start with the same data and judged by the same items as the base. ID gain: how much \
         better than the base on what was trained for, {}. OOD loss: how much worse on other things, {}. Each is the mean over its \
         measures of the mean difference over items. Intervals are 95\u{a0}%: items of each measure drawn again, the same for all \
         methods and seeds, and the error of a mean over seeds where there are several; with one seed they speak of other items \
         alone, with two or three they are rough. The base is judged once. A method is on the Pareto front if no other gains as much \
         and loses as little. Time is that of this machine and includes whatever else ran on it; memory is what the whole process held.",
        of(&found.id),
        of(&found.ood),
    )
}

/// A difference in words, in the unit of its axis.
fn difference(axis: &Axis, estimate: Estimate) -> String {
    match axis.unit {
        Unit::Share => points(estimate),
        _ => nats_difference(estimate),
    }
}

fn findings(found: &Tradeoff) -> Vec<String> {
    let name = |method: usize| found.methods[method].name.as_str();
    let mut findings: Vec<String> = (found.methods.iter().enumerate())
        .map(|(index, method)| {
            let standing = match found.standing(index) {
                Standing::Front { unless: None } => "clearly on the Pareto front".to_owned(),
                Standing::Front { unless: Some(other) } => {
                    format!(
                        "on the Pareto front, but within the intervals {} may be as good on both axes",
                        name(other)
                    )
                }
                Standing::Dominated { by, clear: true } => format!("clearly dominated by {}", name(by)),
                Standing::Dominated { by, clear: false } => {
                    format!("dominated by {}, but not clearly on both axes", name(by))
                }
            };
            let worse = method.id_gain.value <= 0.0 && method.ood_loss.value >= 0.0;
            format!(
                "{}: ID gain {}, OOD loss {}; {standing}{}.",
                method.name,
                difference(&found.id, method.id_gain),
                difference(&found.ood, method.ood_loss),
                if worse {
                    "; no training at all does as well on both axes"
                } else {
                    ""
                },
            )
        })
        .collect();
    let left_out = found
        .methods
        .iter()
        .flat_map(|method| &method.runs)
        .map(|run| run.left_out)
        .max();
    if let Some(left_out) = left_out.filter(|left_out| *left_out > 0) {
        findings.push(format!(
            "{left_out} training sequences were left out because they are measured."
        ));
    }
    findings
}

fn plane(found: &Tradeoff) -> Plane {
    let scale = |axis: &Axis| if axis.unit == Unit::Share { 100.0 } else { 1.0 };
    let name = |axis: &Axis| match axis.unit {
        Unit::Share => "percentage points",
        other => unit(other),
    };
    let (x, y) = (scale(&found.id), scale(&found.ood));
    let mark = |method: &Outcome| Mark {
        name: method.name.clone(),
        x: method.id_gain.map(|gain| x * gain),
        y: method.ood_loss.map(|loss| y * loss),
        parts: (method.runs.iter())
            .map(|run| (x * run.id_gain, y * run.ood_loss))
            .collect(),
        label: method.changes.join(", "),
    };
    Plane {
        title: "What is gained, and what is lost for it".into(),
        x: format!("ID gain, {}: more is better", name(&found.id)),
        y: format!("OOD loss, {}: less is better", name(&found.ood)),
        origin: "untrained".into(),
        marks: found.methods.iter().map(mark).collect(),
        front: found.front(),
    }
}

/// What each method gave and took.
fn table(found: &Tradeoff) -> Table {
    let columns = [
        "method",
        "ID gain",
        "OOD loss",
        "Pareto front",
        "training loss at the end",
        "seconds",
        "memory",
        "trained parameters",
        "seeds",
    ];
    let row = |(index, method): (usize, &Outcome)| {
        let mean = |value: &dyn Fn(&crate::study::tradeoff::MethodRun) -> Option<f64>| {
            let values: Option<Vec<f64>> = method.runs.iter().map(value).collect();
            values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
        };
        let dash = || "–".to_owned();
        let seeds: Vec<String> = method.runs.iter().map(|run| run.seed.to_string()).collect();
        let memory = method.runs.iter().filter_map(|run| run.peak_bytes).max();
        vec![
            method.name.clone(),
            difference(&found.id, method.id_gain),
            difference(&found.ood, method.ood_loss),
            match found.standing(index) {
                Standing::Front { unless: None } => "yes",
                Standing::Front { unless: Some(_) } => "yes, within noise",
                Standing::Dominated { clear: true, .. } => "no",
                Standing::Dominated { clear: false, .. } => "no, within noise",
            }
            .to_owned(),
            mean(&|run| run.end_loss).map_or_else(dash, |loss| format!("{loss:.4}")),
            mean(&|run| Some(run.seconds)).map_or_else(dash, |seconds| format!("{seconds:.1}")),
            memory.map_or_else(dash, |bytes| format!("{} MiB", bytes >> 20)),
            method
                .runs
                .iter()
                .map(|run| run.parameters)
                .max()
                .unwrap_or(0)
                .to_string(),
            seeds.join(", "),
        ]
    };
    Table {
        title: "Methods".into(),
        columns: columns.map(str::to_owned).to_vec(),
        rows: found.methods.iter().enumerate().map(row).collect(),
    }
}

/// Every measure of every method.
fn measures(found: &Tradeoff) -> Table {
    let column = |name: &String| match (found.id.measures.contains(name), found.ood.measures.contains(name)) {
        (true, _) => " (ID)",
        (_, true) => " (OOD)",
        _ => "",
    };
    let columns = found
        .untrained
        .iter()
        .map(|scored| format!("{}{}", scored.metric().replace('_', " "), column(&scored.measure.name)));
    let row = |name: &str, values: &[crate::study::training::Scored]| {
        std::iter::once(name.to_owned())
            .chain(values.iter().map(text))
            .collect()
    };
    let untrained = std::iter::once(row("untrained", &found.untrained));
    Table {
        title: "Every measure, means over seeds".into(),
        columns: std::iter::once("method".to_owned()).chain(columns).collect(),
        rows: untrained
            .chain(found.methods.iter().map(|method| row(&method.name, &method.values)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::{
        sweep::Measure,
        tradeoff::{MethodRun, Pair},
        training::Scored,
    };

    fn estimate(value: f64, half: f64) -> Estimate {
        Estimate {
            value,
            lo: value - half,
            hi: value + half,
        }
    }

    fn scored(name: &str, unit: Unit, value: f64) -> Scored {
        Scored {
            measure: Measure {
                name: name.into(),
                metric: String::new(),
                unit,
            },
            value: estimate(value, 0.125),
        }
    }

    fn values(loss: f64, accuracy: f64) -> Vec<Scored> {
        vec![
            scored("loss:gsm8k", Unit::Nats, loss),
            scored("arc", Unit::Share, accuracy),
            scored("mmlu", Unit::Share, 0.25),
        ]
    }

    fn outcome(name: &str, gain: f64, loss: f64) -> Outcome {
        let run = |seed: u64, shift: f64| MethodRun {
            seed,
            id_gain: gain + shift,
            ood_loss: loss - shift,
            parameters: 12,
            steps: 3,
            seconds: 1.5 + seed as f64,
            peak_bytes: Some(seed << 20),
            end_loss: Some(2.0 + shift),
            left_out: 4,
        };
        Outcome {
            name: name.into(),
            changes: vec![format!("objective.kind = \"{name}\"")],
            runs: vec![run(1, 0.25), run(2, -0.25)],
            values: values(2.0 - gain, 0.5 - loss),
            differences: values(-gain, -loss),
            id_gain: estimate(gain, 0.125),
            ood_loss: estimate(loss, 0.0625),
        }
    }

    fn found() -> Tradeoff {
        let axis = |measure: &str, unit| Axis {
            measures: vec![measure.into()],
            unit,
        };
        Tradeoff {
            id: axis("loss:gsm8k", Unit::Nats),
            ood: axis("arc", Unit::Share),
            untrained: values(2.0, 0.5),
            methods: vec![outcome("sft", 0.5, 0.25), outcome("kl", 0.25, 0.375)],
            pairs: vec![Pair {
                left: "sft".into(),
                right: "kl".into(),
                id_gain: estimate(0.25, 0.125),
                ood_loss: estimate(-0.125, 0.25),
            }],
            failures: Vec::new(),
        }
    }

    #[test]
    fn who_gains_and_who_loses_is_said_with_how_sure_that_is() {
        let section = section(&found());
        assert_eq!(
            section.findings,
            [
                "sft: ID gain +0.500 nats (+0.375 to +0.625), OOD loss +25.0 points (+18.8 to +31.2); clearly on the Pareto front.",
                "kl: ID gain +0.250 nats (+0.125 to +0.375), OOD loss +37.5 points (+31.2 to +43.8); dominated by sft, but not clearly \
                 on both axes.",
                "4 training sequences were left out because they are measured.",
            ]
        );
        assert!(section.about.contains("loss:gsm8k (nats per token)") && section.about.contains("arc (share)"));
        let [Panel::Plane(plane), Panel::Table(table), Panel::Table(measures)] = section.panels.as_slice() else {
            panic!("{:?}", section.panels)
        };
        assert_eq!((plane.front.as_slice(), plane.marks[1].y.value), (&[0][..], 37.5));
        assert_eq!(plane.marks[0].parts, [(0.75, 0.0), (0.25, 50.0)]);
        assert_eq!(
            table.rows[1],
            [
                "kl",
                "+0.250 nats (+0.125 to +0.375)",
                "+37.5 points (+31.2 to +43.8)",
                "no, within noise",
                "2.0000",
                "3.0",
                "2 MiB",
                "12",
                "1, 2"
            ]
        );
        assert_eq!(measures.columns, ["method", "loss:gsm8k (ID)", "arc (OOD)", "mmlu"]);
        assert_eq!(measures.rows[1][..2], ["sft", "1.5000 (1.3750 to 1.6250)"]);
        assert_eq!((measures.rows.len(), measures.rows[0][0].as_str()), (3, "untrained"));
    }

    #[test]
    fn what_training_only_harmed_is_said() {
        let mut harmed = found();
        harmed.methods[1] = outcome("kl", -0.25, 0.375);
        assert!(section(&harmed).findings[1].ends_with("no training at all does as well on both axes."));
    }
}

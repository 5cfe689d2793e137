//! Located bands on the page: what the probe saw, what it predicted, and whether choosing paid.

use super::{
    Bars, Lines, Panel, Point, Section, Series, Table,
    curve::{layer_name, nats_difference},
    selective::text,
};
use crate::study::{
    Estimate,
    locate::{Arm, Choice, Locate, named, unit_ranks},
    training::loss,
};

/// The section of a model of `blocks` blocks.
pub fn section(found: &Locate, blocks: usize) -> Section {
    let seen = match found.probe.steps {
        Some(steps) => format!("a probe run of {steps} steps over all blocks"),
        None => found.probe.compared.join(", "),
    };
    let seeds: Vec<String> = found.seeds.iter().map(u64::to_string).collect();
    Section {
        id: "locate",
        title: "Where to train".into(),
        about: format!(
            "Each block gets three numbers on training data: stability, how little the states after it change from the base to {seen}; \
             the norm of the loss's gradient; and the overlap of the states' main subspaces. Each is ranked from 0 to 1, and \
             score(l) = Σ w r(l) / Σ|w|. A band's predicted benefit is the mean score of its blocks, which all get the same rank of \
             one budget. The best band, the fixed 20–80\u{a0}% band, a random other band of the same width and all blocks are then trained \
             with the same data, steps and budget (seeds {}) and judged by {} samples that nothing was trained or chosen on. \
             Intervals are over samples and seeds. With the scaling `fixed-alpha` the factor α/R of a pair is smaller in a band, whose \
             ranks are larger, than in all blocks: `fixed-ratio` or `rslora` take this out of that comparison.",
            seeds.join(", "),
            found.samples
        ),
        findings: findings(found),
        panels: vec![
            Panel::Lines(probes(found, blocks)),
            Panel::Lines(bands(found)),
            Panel::Bars(losses(found)),
            Panel::Lines(prediction(found)),
            Panel::Table(table(found)),
        ],
    }
}

fn probes(found: &Locate, blocks: usize) -> Lines {
    let [stability, gradient, overlap] = found.probe.benefits();
    let series = |name: &str, values: &[f64]| Series {
        name: name.to_owned(),
        line: true,
        points: (1..)
            .zip(values)
            .map(|(block, value)| Point {
                x: block as f64,
                y: Some(*value),
                label: layer_name(block, blocks),
                ..Point::default()
            })
            .collect(),
    };
    Lines {
        title: "What the probe saw: ranks of the blocks, and their score".into(),
        x: "block".into(),
        y: "rank from 0 to 1, higher is better".into(),
        series: vec![
            series("stability", &unit_ranks(&stability)),
            series("gradient", &unit_ranks(&gradient)),
            series("overlap", &unit_ranks(&overlap)),
            series("score", &found.scores),
        ],
        ..Lines::default()
    }
}

/// Predicted benefit by where a band begins, a curve for each width.
fn bands(found: &Locate) -> Lines {
    let mut widths: Vec<usize> = found.bands.iter().map(|band| band.blocks.len()).collect();
    widths.sort_unstable();
    widths.dedup();
    let series = |width: &usize| {
        let mut points: Vec<Point> = (found.bands.iter())
            .filter(|band| band.blocks.len() == *width)
            .map(|band| Point {
                x: (band.blocks.start + 1) as f64,
                y: Some(band.benefit),
                label: named(&band.blocks),
                ..Point::default()
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series {
            name: format!("{width} blocks"),
            points,
            line: true,
        }
    };
    Lines {
        title: "Predicted benefit of every band".into(),
        x: "first block of the band".into(),
        y: "mean score".into(),
        series: widths.iter().map(series).collect(),
        ..Lines::default()
    }
}

fn losses(found: &Locate) -> Bars {
    let point = |arm: &Arm| {
        let Estimate { value, lo, hi } = loss(&arm.values);
        Point {
            y: Some(value),
            lo: Some(lo),
            hi: Some(hi),
            ..Point::default()
        }
    };
    Bars {
        title: "Loss on the measured samples".into(),
        y: "nats per token".into(),
        names: found.arms.iter().map(|arm| arm.choice.to_string()).collect(),
        groups: vec![("trained".into(), found.arms.iter().map(point).collect())],
        references: vec![("untrained".into(), loss(&found.untrained).value)],
    }
}

/// Every run: what was predicted, and its loss.
fn prediction(found: &Locate) -> Lines {
    let series = |arm: &Arm| Series {
        name: arm.choice.to_string(),
        line: false,
        points: (arm.runs.iter())
            .map(|run| Point {
                x: run.benefit,
                y: Some(run.loss),
                label: format!("{}, seed {}", named(&run.blocks), run.seed),
                ..Point::default()
            })
            .collect(),
    };
    Lines {
        title: "Prediction and result of each run".into(),
        x: "predicted benefit".into(),
        y: "loss, nats per token".into(),
        series: found.arms.iter().map(series).collect(),
        ..Lines::default()
    }
}

fn table(found: &Locate) -> Table {
    let mut columns: Vec<String> = ["choice", "blocks", "predicted benefit", "trained parameters", "seconds"]
        .map(str::to_owned)
        .to_vec();
    columns.extend(found.untrained.iter().map(|scored| scored.metric().replace('_', " ")));
    columns.push("loss, chosen minus this".into());
    let row = |arm: &Arm| {
        let mut blocks: Vec<String> = arm.runs.iter().map(|run| named(&run.blocks)).collect();
        blocks.dedup();
        let mean =
            |of: fn(&crate::study::locate::ArmRun) -> f64| arm.runs.iter().map(of).sum::<f64>() / arm.runs.len() as f64;
        let mut row = vec![
            arm.choice.to_string(),
            blocks.join("; "),
            format!("{:.3}", mean(|run| run.benefit)),
            format!("{:.0}", mean(|run| run.parameters as f64)),
            format!("{:.1}", mean(|run| run.seconds)),
        ];
        row.extend(arm.values.iter().map(text));
        row.push(match arm.choice {
            Choice::Chosen => "–".into(),
            _ => nats_difference(loss(&arm.chosen_minus_this)),
        });
        row
    };
    let mut untrained = vec!["untrained".to_owned()];
    untrained.extend(std::iter::repeat_n("–".to_owned(), 4));
    untrained.extend(found.untrained.iter().map(text));
    untrained.push("–".into());
    Table {
        title: "All choices".into(),
        columns,
        rows: std::iter::once(untrained).chain(found.arms.iter().map(row)).collect(),
    }
}

fn findings(found: &Locate) -> Vec<String> {
    let chosen = &found.arms[0].runs[0].blocks;
    let mut findings = vec![format!(
        "Chosen: {} (predicted benefit {:.3}; the worst of {} bands {:.3}).",
        named(chosen),
        found.bands[0].benefit,
        found.bands.len(),
        found.bands[found.bands.len() - 1].benefit
    )];
    let mut clear = Vec::new();
    for arm in &found.arms[1..] {
        if arm.runs.iter().all(|run| run.blocks == *chosen) {
            findings.push(format!(
                "The {} is the same one: there is nothing to compare.",
                arm.choice
            ));
            clear.push((arm.choice, 0));
            continue;
        }
        let difference = loss(&arm.chosen_minus_this);
        let (verdict, sign) = match (difference.is_clear(), difference.value < 0.0) {
            (true, true) => ("clearly better", 1),
            (true, false) => ("clearly worse", -1),
            (false, _) => ("no clear difference", 0),
        };
        clear.push((arm.choice, sign));
        findings.push(format!(
            "Chosen band against {}: loss {}, {verdict}.",
            arm.choice,
            nats_difference(difference)
        ));
    }
    findings.push(verdict(&clear, found));
    findings
}

/// Whether choosing paid: against the fixed and the random band; +1, 0 or −1 for each.
fn verdict(clear: &[(Choice, i32)], found: &Locate) -> String {
    let of = |choice: Choice| {
        clear
            .iter()
            .find(|(own, _)| *own == choice)
            .map_or(0, |(_, sign)| *sign)
    };
    let answer = match (of(Choice::Fixed), of(Choice::Random)) {
        (-1, _) | (_, -1) => "Choosing did not pay: another band is clearly better",
        (1, 1) => "Choosing paid: the chosen band is clearly better than the fixed and the random one",
        (1, 0) => "Choosing paid against the fixed band alone, not clearly against a random one",
        (0, 1) => "Choosing paid against a random band alone, not clearly against the fixed one",
        _ => "It is not shown that choosing paid: neither the fixed nor the random band is clearly different",
    };
    let few = match found.seeds.len() {
        0..=2 => " Few seeds: an interval over them is rough.",
        _ => "",
    };
    format!(
        "{answer}, on {} samples and {} seeds.{few}",
        found.samples,
        found.seeds.len()
    )
}

#[cfg(test)]
mod tests;

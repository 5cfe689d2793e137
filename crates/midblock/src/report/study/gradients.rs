//! Gradients and updates on the page: by block, by step, and what they go with.

use super::{Choice, Heat, HeatCell, Lines, Panel, Point, Scale, Section, Series, correlate::title, curve::layer_name};
use crate::{
    config::AdaptKind,
    report::words::number,
    study::{
        Estimate,
        gradients::{BlockFlow, Flow, Gradients, Quantity, Relation},
    },
};

/// The section of a model of `blocks` blocks.
pub fn section(found: &Gradients, blocks: usize) -> Section {
    let flow = &found.flow;
    let what = match found.kind {
        AdaptKind::Full => "the matrices themselves are trained",
        AdaptKind::Masked => "masks over an earlier change of the matrices are trained, and that change",
        AdaptKind::Lora => "pairs beside the matrices are trained, W = W_0 + s·B·A, and gradients are theirs",
    };
    let quantities = Quantity::ALL.map(|quantity| {
        let name = words(quantity).to_owned();
        (name, Panel::Lines(by_block(quantity, flow, blocks)))
    });
    let mut panels = vec![
        Panel::Choice(Choice {
            title: "By block".into(),
            options: quantities.into(),
        }),
        Panel::Choice(Choice {
            title: "By step and block".into(),
            options: vec![by_step("Gradient norm", flow, 0), by_step("Update ratio", flow, 1)],
        }),
    ];
    if !found.relations.is_empty() {
        panels.push(Panel::Choice(Choice {
            title: "Correlation over blocks".into(),
            options: vec![
                correlations("Pearson's r", &found.relations, |relation| Some(relation.pearson)),
                correlations("Spearman's ρ", &found.relations, |relation| relation.spearman),
            ],
        }));
    }
    Section {
        id: "gradients",
        title: "Gradients and updates".into(),
        about: format!(
            "{} AdamW steps of {} sequences on the base ({}; {what}; learning rate {}). Gradient norm: ‖∂loss/∂W‖ of a block before \
             clipping, the mean over steps. Update ratio: ‖W_t − W_(t−1)‖/‖W_0‖. Change: ‖W_T − W_0‖. In the correlations block b is \
             joined with the state after it, h_b; the embedding belongs to no block. Intervals are bootstrapped over blocks as if these \
             were independent; neighbours are alike, so they are too narrow, and a common trend with depth is enough for a large r.",
            flow.losses.len(),
            found.batch,
            found.modules,
            number(found.lr),
        ),
        findings: findings(found, blocks),
        panels,
    }
}

/// Name for people.
fn words(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::GradientNorm => "Gradient norm",
        Quantity::UpdateRatio => "Update ratio",
        Quantity::Change => "Change of parameters",
        Quantity::RelativeChange => "Change of parameters, relative",
    }
}

fn by_block(quantity: Quantity, flow: &Flow, blocks: usize) -> Lines {
    let point = |(block, y): (usize, Option<f64>)| Point {
        x: block as f64,
        y,
        label: layer_name(block, blocks),
        ..Point::default()
    };
    Lines {
        title: words(quantity).into(),
        x: "block".into(),
        y: words(quantity).to_lowercase(),
        series: vec![Series {
            name: "base".into(),
            points: (1..).zip(quantity.of(flow)).map(point).collect(),
            line: true,
        }],
        ..Lines::default()
    }
}

/// Steps over blocks; `which` of [`BlockFlow::at`].
fn by_step(name: &str, flow: &Flow, which: usize) -> (String, Panel) {
    let cell = |step: usize, (block, of): (usize, &BlockFlow)| {
        let value = of.at(step)[which];
        let text = value.map_or_else(|| "not trained".to_owned(), number);
        HeatCell {
            value,
            text: String::new(),
            hint: format!("step {}, block {}: {text}", step + 1, block + 1),
        }
    };
    let steps = 0..flow.losses.len();
    let row = |step| flow.blocks.iter().enumerate().map(|of| cell(step, of)).collect();
    let cells: Vec<Vec<HeatCell>> = steps.clone().map(row).collect();
    let values = cells.iter().flatten().filter_map(|cell| cell.value);
    let (min, max) = values.fold((f64::INFINITY, 0.0), |(min, max): (f64, f64), v| {
        (min.min(v), max.max(v))
    });
    let heat = Heat {
        title: format!("{name} of each step"),
        x: "block".into(),
        y: "step (its loss)".into(),
        columns: (1..=flow.blocks.len()).map(|block| block.to_string()).collect(),
        rows: steps
            .map(|step| format!("{} ({:.3})", step + 1, flow.losses[step]))
            .collect(),
        cells,
        scale: Scale::Sequential { min: min.min(max), max },
    };
    (name.to_owned(), Panel::Heat(heat))
}

/// Metrics over quantities.
fn correlations(name: &str, relations: &[Relation], of: fn(&Relation) -> Option<Estimate>) -> (String, Panel) {
    let mut rows: Vec<String> = Vec::new();
    for relation in relations {
        let row = metric(relation);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let cell = |row: &String, quantity: Quantity| {
        let own = relations.iter().find(|r| r.quantity == quantity && metric(r) == *row);
        let estimate = own.and_then(of);
        HeatCell {
            value: estimate.map(|estimate| estimate.value),
            text: estimate.map_or_else(String::new, |estimate| signed(estimate.value)),
            hint: match (own, estimate) {
                (Some(own), Some(estimate)) => {
                    format!(
                        "{} and {row}: {} over {} blocks",
                        words(quantity),
                        interval(estimate),
                        own.blocks
                    )
                }
                _ => format!("{} and {row}: not defined", words(quantity)),
            },
        }
    };
    let heat = Heat {
        title: format!("{name} of what steps do with what states look like"),
        x: String::new(),
        y: String::new(),
        columns: Quantity::ALL.map(|quantity| words(quantity).to_owned()).to_vec(),
        cells: rows
            .iter()
            .map(|row| Quantity::ALL.map(|q| cell(row, q)).to_vec())
            .collect(),
        rows,
        scale: Scale::Diverging { limit: 1.0 },
    };
    (name.to_owned(), Panel::Heat(heat))
}

/// "CKA, debiased of sft against base".
fn metric(relation: &Relation) -> String {
    let against = match relation.reference.as_str() {
        "" => String::new(),
        reference => format!(" against {reference}"),
    };
    format!("{} of {}{against}", title(&relation.metric), relation.model)
}

fn findings(found: &Gradients, blocks: usize) -> Vec<String> {
    let mut findings = Vec::new();
    for quantity in [Quantity::GradientNorm, Quantity::UpdateRatio] {
        let values = (1..).zip(quantity.of(&found.flow));
        let values: Vec<(usize, f64)> = values.filter_map(|(block, value)| Some((block, value?))).collect();
        let most = values.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let least = values.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        if let (Some(most), Some(least)) = (most, least) {
            findings.push(format!(
                "{}: largest at {} ({}), smallest at {} ({}), {:.1} times as much.",
                words(quantity),
                layer_name(most.0, blocks),
                number(most.1),
                layer_name(least.0, blocks),
                number(least.1),
                most.1 / least.1
            ));
        }
    }
    let of_gradient: Vec<&Relation> = (found.relations.iter())
        .filter(|relation| relation.quantity == Quantity::GradientNorm && relation.spearman.is_some())
        .collect();
    let size = |relation: &&&Relation| relation.spearman.map_or(0.0, |rho| rho.value.abs());
    if let Some(strongest) = of_gradient.iter().max_by(|a, b| size(a).total_cmp(&size(b))) {
        let clear = of_gradient
            .iter()
            .filter(|r| r.spearman.is_some_and(|rho| rho.is_clear()))
            .count();
        findings.push(format!(
            "Of {} metrics, {clear} have a Spearman's ρ with the gradient norm whose interval leaves out 0; the strongest is {}: {}.",
            of_gradient.len(),
            metric(strongest),
            strongest.spearman.map_or_else(String::new, interval),
        ));
    }
    findings
}

/// "+0.93", "−0.41".
fn signed(value: f64) -> String {
    format!("{value:+.2}").replace('-', "−")
}

/// "+0.93 (+0.81 to +0.97)".
fn interval(Estimate { value, lo, hi }: Estimate) -> String {
    format!("{} ({} to {})", signed(value), signed(lo), signed(hi))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(value: f64) -> Estimate {
        Estimate {
            value,
            lo: value - 0.1,
            hi: value + 0.1,
        }
    }

    fn found() -> Gradients {
        let block = |norm: f64| BlockFlow {
            weight_norm: 2.0,
            gradient_norms: vec![norm, 3.0 * norm],
            updates: vec![0.2, 0.4],
            change: 0.5,
        };
        let relation = |quantity, metric: &str, rho| Relation {
            quantity,
            metric: metric.into(),
            model: "sft".into(),
            reference: "base".into(),
            blocks: 2,
            pearson: estimate(0.5),
            spearman: Some(estimate(rho)),
        };
        Gradients {
            kind: AdaptKind::Full,
            modules: "all-linear".into(),
            lr: 1e-4,
            batch: 4,
            flow: Flow {
                losses: vec![2.0, 1.5],
                tokens: vec![10, 10],
                blocks: vec![
                    block(1.0),
                    block(4.0),
                    BlockFlow {
                        gradient_norms: vec![0.0; 2],
                        updates: vec![0.0; 2],
                        ..BlockFlow::default()
                    },
                ],
            },
            relations: vec![
                relation(Quantity::GradientNorm, "cka", -0.8),
                relation(Quantity::GradientNorm, "mean_shift", 0.05),
                relation(Quantity::Change, "cka", 0.9),
            ],
        }
    }

    #[test]
    fn findings_name_the_extremes_and_the_strongest_relation() {
        let section = section(&found(), 3);
        assert_eq!(
            section.findings,
            [
                "Gradient norm: largest at block 2 of 3 (8), smallest at block 1 of 3 (2), 4.0 times as much.",
                "Update ratio: largest at block 2 of 3 (0.15), smallest at block 1 of 3 (0.15), 1.0 times as much.",
                "Of 2 metrics, 1 have a Spearman's ρ with the gradient norm whose interval leaves out 0; the strongest is CKA of sft \
                 against base: −0.80 (−0.90 to −0.70).",
            ]
        );
    }

    #[test]
    fn panels_have_every_block_step_and_metric() {
        let section = section(&found(), 3);
        let heats: Vec<&Heat> = (section.panels.iter())
            .filter_map(|panel| match panel {
                Panel::Choice(choice) => Some(&choice.options),
                _ => None,
            })
            .flatten()
            .filter_map(|(_, panel)| match panel {
                Panel::Heat(heat) => Some(heat),
                _ => None,
            })
            .collect();
        let values = |heat: &Heat| -> Vec<Vec<Option<f64>>> {
            heat.cells
                .iter()
                .map(|row| row.iter().map(|cell| cell.value).collect())
                .collect()
        };
        assert_eq!(
            values(heats[0]),
            [[Some(1.0), Some(4.0), None], [Some(3.0), Some(12.0), None]]
        );
        assert_eq!(heats[0].scale, Scale::Sequential { min: 1.0, max: 12.0 });
        assert_eq!(heats[0].cells[1][2].hint, "step 2, block 3: not trained");
        assert_eq!(
            heats[3].rows,
            ["CKA of sft against base", "Mean shift of sft against base"]
        );
        assert_eq!(
            values(heats[3]),
            [[Some(-0.8), None, Some(0.9), None], [Some(0.05), None, None, None]]
        );
    }
}

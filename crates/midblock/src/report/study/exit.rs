//! Early exit on the page: loss and accuracy of every layer, and how deep a model must go.

use super::{
    Lines, Panel, Section, Series, Table,
    curve::{curve, layer_name, nats_difference, points, share},
};
use crate::study::{
    Estimate,
    exit::{Exit, ExitLayer, ExitModel},
};

/// The section of a model of `blocks` blocks.
pub fn section(exit: &Exit, blocks: usize) -> Section {
    let lines = |title: &str, y: &str, series: Vec<Series>| Lines {
        title: title.into(),
        x: "layer (0 is the embedding)".into(),
        y: y.into(),
        series,
        ..Lines::default()
    };
    let all = |of: fn(&ExitLayer) -> Option<Estimate>, models: &[ExitModel]| -> Vec<Series> {
        let of_model = |model: &ExitModel| curve(&model.name, model.layers.iter().map(of));
        models.iter().map(of_model).collect()
    };
    let (everyone, variants) = (exit.models.as_slice(), &exit.models[1..]);
    let loss = lines("Loss", "nats per token", all(|layer| Some(layer.loss), everyone));
    let accuracy = all(|layer| Some(layer.accuracy), everyone);
    let mut panels = vec![
        Panel::Lines(Lines { log: true, ..loss }), // an embedding read as a last layer is far off
        Panel::Lines(lines("Top-1 accuracy", "share of tokens", accuracy)),
    ];
    if !variants.is_empty() {
        let against = |what: &str, y: &str, series: Vec<Series>| {
            Panel::Lines(Lines {
                references: vec![("no difference".into(), 0.0)],
                ..lines(&format!("{what} against the base"), y, series)
            })
        };
        let loss = all(|layer| layer.loss_difference, variants);
        panels.push(against("Loss", "difference in nats per token", loss));
        let accuracy = all(|layer| layer.accuracy_difference, variants);
        panels.push(against("Accuracy", "difference in share of tokens", accuracy));
    }
    panels.push(Panel::Table(depths(exit, blocks)));
    Section {
        id: "exit",
        title: "Early exit".into(),
        about: format!(
            "What each model would be if it ended after block l: its final norm and head applied to the residual stream, \
             softmax(head · norm(h_l)), at {} answer tokens of {} samples, each predicted from the true text before it. Perplexity is \
             e to the loss. Bands are 95\u{a0}% intervals over samples.",
            exit.tokens, exit.samples
        ),
        findings: (exit.models.iter().filter_map(|model| reached(model, exit, blocks)))
            .chain(
                variants
                    .iter()
                    .filter_map(|model| against(model, &exit.models[0].name, blocks)),
            )
            .collect(),
        panels,
    }
}

/// How good a model is at the end, and how early most of it is there.
fn reached(model: &ExitModel, exit: &Exit, blocks: usize) -> Option<String> {
    Some(format!(
        "{}: {:.0}\u{a0}% of the last layer's top-1 accuracy, {}, is there from {} on.",
        model.name,
        100.0 * exit.share,
        share(model.layers.last()?.accuracy),
        depth(model, blocks)
    ))
}

/// A variant against the base.
fn against(model: &ExitModel, base: &str, blocks: usize) -> Option<String> {
    let last = model.layers.last()?;
    let unclear = |layer: &ExitLayer| !layer.loss_difference.is_some_and(|difference| difference.is_clear());
    let since = model.layers.iter().rposition(unclear).map_or(0, |layer| layer + 1);
    let since = match since <= blocks {
        true => format!(
            "the loss differs clearly at every layer from {} on",
            layer_name(since, blocks)
        ),
        false => "at the last layer the loss does not differ clearly".into(),
    };
    let Estimate { value, lo, hi } = model.depth_difference?;
    let earlier = match (lo > 0.0, hi < 0.0) {
        (true, _) => format!("{value:.0} blocks later ({lo:.0} to {hi:.0})"),
        (_, true) => format!("{:.0} blocks earlier ({:.0} to {:.0})", -value, -hi, -lo),
        _ => "not clearly earlier or later".into(),
    };
    Some(format!(
        "{} against {base}: at the last layer {} and {} of accuracy; {since}; most of its own accuracy is there {earlier}.",
        model.name,
        nats_difference(last.loss_difference?),
        points(last.accuracy_difference?),
    ))
}

/// "block 27 of 30 (26 to 28)".
fn depth(model: &ExitModel, blocks: usize) -> String {
    let Estimate { value, lo, hi } = model.depth;
    format!("{} ({lo:.0} to {hi:.0})", layer_name(value as usize, blocks))
}

/// Each model's last layer and depth.
fn depths(exit: &Exit, blocks: usize) -> Table {
    let row = |model: &ExitModel| {
        let last = &model.layers[model.layers.len() - 1];
        let Estimate { value, lo, hi } = last.loss.map(f64::exp);
        vec![
            model.name.clone(),
            format!("{:.4} ({:.4} to {:.4})", last.loss.value, last.loss.lo, last.loss.hi),
            format!("{value:.3} ({lo:.3} to {hi:.3})"),
            share(last.accuracy),
            depth(model, blocks),
        ]
    };
    Table {
        title: "The last layer, and how early most of it is there".into(),
        columns: vec![
            "model".into(),
            "loss, nats".into(),
            "perplexity".into(),
            "top-1 accuracy".into(),
            format!("{:.0}\u{a0}% of it from", 100.0 * exit.share),
        ],
        rows: exit.models.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: f64, half: f64) -> Estimate {
        Estimate {
            value,
            lo: value - half,
            hi: value + half,
        }
    }

    fn exit() -> Exit {
        let layer = |loss: f64, accuracy: f64, difference: Option<f64>| ExitLayer {
            loss: at(loss, 0.5),
            accuracy: at(accuracy, 0.05),
            loss_difference: difference.map(|difference| at(difference, 0.1)),
            accuracy_difference: difference.map(|difference| at(-difference / 4.0, 0.025)),
        };
        let model = |name: &str, layers, depth, depth_difference| ExitModel {
            name: name.into(),
            layers,
            depth,
            depth_difference,
        };
        let base = vec![layer(9.0, 0.0, None), layer(3.0, 0.4, None), layer(2.0, 0.5, None)];
        let sft = vec![
            layer(9.0, 0.0, Some(0.0)),
            layer(2.8, 0.45, Some(-0.2)),
            layer(1.6, 0.6, Some(-0.4)),
        ];
        Exit {
            samples: 4,
            tokens: 40,
            share: 0.9,
            models: vec![
                model("base", base, at(2.0, 0.0), None),
                model("sft", sft, at(1.0, 1.0), Some(at(-1.0, 1.0))),
            ],
        }
    }

    #[test]
    fn the_findings_say_where_and_how_clearly() {
        let mut exit = exit();
        let expected = [
            "base: 90\u{a0}% of the last layer's top-1 accuracy, 50.0\u{a0}% (45.0 to 55.0), is there from block 2 of 2 (2 to 2) on.",
            "sft: 90\u{a0}% of the last layer's top-1 accuracy, 60.0\u{a0}% (55.0 to 65.0), is there from block 1 of 2 (0 to 2) on.",
            "sft against base: at the last layer −0.400 nats (−0.500 to −0.300) and +10.0 points (+7.5 to +12.5) of accuracy; the loss \
             differs clearly at every layer from block 1 of 2 on; most of its own accuracy is there not clearly earlier or later.",
        ];
        assert_eq!(section(&exit, 2).findings, expected);
        exit.models[1].depth_difference = Some(at(-2.0, 1.0));
        exit.models[1].layers[2].loss_difference = Some(at(0.0, 0.1));
        let finding = &section(&exit, 2).findings[2];
        assert!(
            finding.contains("at the last layer the loss does not differ clearly"),
            "{finding}"
        );
        assert!(finding.ends_with("there 2 blocks earlier (1 to 3)."), "{finding}");
    }

    #[test]
    fn curves_have_every_layer_and_differences_the_variants_alone() {
        let section = section(&exit(), 2);
        let curves = |panel: &Panel| match panel {
            Panel::Lines(lines) => (lines.series.iter())
                .map(|series| (series.name.clone(), series.points.iter().map(|point| point.y).collect()))
                .collect(),
            _ => Vec::<(String, Vec<Option<f64>>)>::new(),
        };
        let of = |name: &str, values: [f64; 3]| (name.to_owned(), values.map(Some).to_vec());
        assert_eq!(
            curves(&section.panels[0]),
            [of("base", [9.0, 3.0, 2.0]), of("sft", [9.0, 2.8, 1.6])]
        );
        assert_eq!(curves(&section.panels[2]), [of("sft", [0.0, -0.2, -0.4])]);
        let Panel::Table(table) = &section.panels[4] else {
            panic!("{:?}", section.panels[4])
        };
        assert_eq!(table.rows[0][2], "7.389 (4.482 to 12.182)"); // e², e^1.5, e^2.5
        assert_eq!(table.rows[1][4], "block 1 of 2 (0 to 2)");
    }
}

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
    let lines = |title: &str, y: &str, series: Vec<Series>, zero: bool| {
        Panel::Lines(Lines {
            title: title.into(),
            x: "layer (0 is the embedding)".into(),
            y: y.into(),
            log: false,
            series,
            references: zero.then(|| ("no difference".into(), 0.0)).into_iter().collect(),
        })
    };
    let all = |of: fn(&ExitLayer) -> Option<Estimate>, models: &[ExitModel]| -> Vec<Series> {
        let of_model = |model: &ExitModel| curve(&model.name, model.layers.iter().map(of));
        models.iter().map(of_model).collect()
    };
    let (everyone, variants) = (exit.models.as_slice(), &exit.models[1..]);
    let mut panels = vec![
        lines("Loss", "nats per token", all(|layer| Some(layer.loss), everyone), false),
        lines(
            "Top-1 accuracy",
            "share of tokens",
            all(|layer| Some(layer.accuracy), everyone),
            false,
        ),
    ];
    if !variants.is_empty() {
        panels.push(lines(
            "Loss against the base",
            "difference in nats per token",
            all(|layer| layer.loss_difference, variants),
            true,
        ));
        panels.push(lines(
            "Accuracy against the base",
            "difference in share of tokens",
            all(|layer| layer.accuracy_difference, variants),
            true,
        ));
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
        findings: exit
            .models
            .iter()
            .flat_map(|model| findings(model, exit, blocks))
            .collect(),
        panels,
    }
}

fn findings(model: &ExitModel, exit: &Exit, blocks: usize) -> Vec<String> {
    let Some(last) = model.layers.last() else {
        return Vec::new();
    };
    let depth =
        |Estimate { value, lo, hi }: Estimate| format!("{} ({lo:.0} to {hi:.0})", layer_name(value as usize, blocks));
    let mut found = vec![format!(
        "{}: {:.0}\u{a0}% of the last layer's top-1 accuracy, {}, is there from {} on.",
        model.name,
        100.0 * exit.share,
        share(last.accuracy),
        depth(model.depth)
    )];
    if let (Some(loss), Some(accuracy), Some(deeper)) =
        (last.loss_difference, last.accuracy_difference, model.depth_difference)
    {
        let base = &exit.models[0].name;
        let clear = |layer: &ExitLayer| layer.loss_difference.is_some_and(|difference| difference.is_clear());
        let since = model
            .layers
            .iter()
            .rposition(|layer| !clear(layer))
            .map_or(0, |l| l + 1);
        let parts = match since <= blocks {
            true => format!(
                "the loss differs clearly at every layer from {} on",
                layer_name(since, blocks)
            ),
            false => "at the last layer the loss does not differ clearly".into(),
        };
        found.push(format!(
            "{} against {base}: at the last layer {} and {} of accuracy; {parts}. {}",
            model.name,
            nats_difference(loss),
            points(accuracy),
            match deeper.is_clear() {
                true => format!(
                    "It needs {:+.0} blocks ({:+.0} to {:+.0}) for its {:.0}\u{a0}%.",
                    deeper.value,
                    deeper.lo,
                    deeper.hi,
                    100.0 * exit.share
                )
                .replace('-', "−"),
                false => "Neither clearly gets there earlier.".into(),
            }
        ));
    }
    found
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
            format!(
                "{} ({:.0} to {:.0})",
                layer_name(model.depth.value as usize, blocks),
                model.depth.lo,
                model.depth.hi
            ),
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

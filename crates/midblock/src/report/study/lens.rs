//! The logit lens on the page: where base and variant say the same, and samples layer by layer and token by token.

use super::{
    Choice, Heat, HeatCell, Lines, Panel, Scale, Section, Series,
    curve::{curve, layer_name, points, share},
};
use crate::study::{
    Estimate,
    lens::{AgainstBase, Lens, LensModel, Shown, ShownToken},
};

/// Characters of a token that a cell shows.
const SHOWN: usize = 9;

/// The section of a model of `blocks` blocks.
pub fn section(lens: &Lens, blocks: usize) -> Section {
    let variants = &lens.models[1..];
    let mut panels = Vec::new();
    if !variants.is_empty() {
        let of = |what: &str, of: fn(&AgainstBase) -> Estimate| -> Vec<Series> {
            let one = |model: &LensModel| {
                let layers = model.layers.iter();
                curve(
                    &format!("{}, {what}", model.name),
                    layers.map(|layer| layer.against_base.as_ref().map(of)),
                )
            };
            variants.iter().map(one).collect()
        };
        let mut series = of("last token of the prompt", |against| against.prompt_agreement);
        series.extend(of("tokens of the answer", |against| against.answer_agreement));
        panels.push(lines("Top-1 agreement with the base", "share", series));
    }
    let gold = |model: &LensModel| {
        let layers = model.layers.iter();
        curve(&model.name, layers.map(|layer| Some(layer.gold_probability)))
    };
    panels.push(lines(
        "Probability of the answer's first token",
        "mean probability",
        lens.models.iter().map(gold).collect(),
    ));
    if !lens.shown.is_empty() {
        panels.push(Panel::Choice(Choice {
            title: "What each layer would say".into(),
            options: lens.shown.iter().flat_map(|shown| heats(lens, shown, blocks)).collect(),
        }));
    }
    Section {
        id: "lens",
        title: "Logit lens".into(),
        about: format!(
            "Which token each layer would say next: the most likely one of softmax(head · norm(h_l)), each model through its own \
             final norm and head. Agreement is how often base and variant put the same token first, at the last token of the \
             prompt of {} samples and at {} tokens of their answers. Bands are 95\u{a0}% intervals over samples.",
            lens.samples, lens.tokens
        ),
        findings: variants
            .iter()
            .flat_map(|model| findings(model, lens, blocks))
            .collect(),
        panels,
    }
}

fn lines(title: &str, y: &str, series: Vec<Series>) -> Panel {
    Panel::Lines(Lines {
        title: title.into(),
        x: "layer (0 is the embedding)".into(),
        y: y.into(),
        log: false,
        series,
        references: Vec::new(),
    })
}

fn findings(model: &LensModel, lens: &Lens, blocks: usize) -> Vec<String> {
    let against: Vec<AgainstBase> = model.layers.iter().filter_map(|layer| layer.against_base).collect();
    let (Some(last), base) = (against.last(), &lens.models[0].name) else {
        return Vec::new();
    };
    let least = (against.iter().enumerate()).min_by(|a, b| {
        let of = |(_, against): &(usize, &AgainstBase)| against.answer_agreement.value;
        of(a).total_cmp(&of(b))
    });
    let least = least.map_or(String::new(), |(layer, against)| {
        let (layer, agreement) = (layer_name(layer, blocks), share(against.answer_agreement));
        format!(" Over the layers the agreement in answers is least at {layer}: {agreement}.")
    });
    let clear = match last.gold_probability.is_clear() {
        true => "",
        false => ", which is not clear",
    };
    vec![
        format!(
            "At the last layer {} puts the same token first as {base} at {} of the last prompt tokens and {} of the answers' tokens.{least}",
            model.name,
            share(last.prompt_agreement),
            share(last.answer_agreement)
        ),
        format!(
            "The answer's first token: {} gives it {} more probability than {base} at the last layer{clear}.",
            model.name,
            points(last.gold_probability)
        ),
    ]
}

/// One panel for each model, the last layer at the top.
fn heats<'a>(lens: &'a Lens, shown: &'a Shown, blocks: usize) -> impl Iterator<Item = (String, Panel)> + 'a {
    let columns: Vec<String> = (shown.positions.iter())
        .map(|place| {
            let mark = if place.answer { "→ " } else { "" };
            mark.to_owned() + &visible(&place.gold, SHOWN)
        })
        .collect();
    (lens.models.iter().zip(&shown.models)).map(move |(model, layers)| {
        let row = |(layer, said): (usize, &Vec<ShownToken>)| -> Vec<HeatCell> {
            (said.iter().zip(&shown.positions))
                .map(|(said, place)| HeatCell {
                    value: Some(said.probability),
                    text: visible(&said.top, SHOWN),
                    hint: format!(
                        "{}, after “{}”: “{}” with {:.1}\u{a0}%; “{}”, which comes next, has {:.1}\u{a0}%",
                        layer_name(layer, blocks),
                        visible(&place.token, usize::MAX),
                        visible(&said.top, usize::MAX),
                        100.0 * said.probability,
                        visible(&place.gold, usize::MAX),
                        100.0 * said.gold_probability
                    ),
                })
                .collect()
        };
        let rows = (0..layers.len()).rev();
        let heat = Heat {
            title: format!(
                "{} on {}: the most likely next token, coloured by its probability",
                model.name, shown.sample
            ),
            x: "the token that comes next; → marks the answer".into(),
            y: "layer".into(),
            columns: columns.clone(),
            rows: rows.map(|layer| layer_name(layer, blocks)).collect(),
            cells: layers.iter().enumerate().rev().map(row).collect(),
            scale: Scale::Sequential { min: 0.0, max: 1.0 },
        };
        (format!("{} · {}", shown.sample, model.name), Panel::Heat(heat))
    })
}

/// A token with its spaces and line ends to be seen, cut after some characters.
fn visible(token: &str, most: usize) -> String {
    let seen = |c: char| match c {
        ' ' => '·',
        '\n' => '⏎',
        '\t' => '⇥',
        c if c.is_control() => '�',
        c => c,
    };
    let mut text: String = token.chars().take(most).map(seen).collect();
    if token.chars().nth(most).is_some() {
        text.pop();
        text.push('…');
    }
    text
}

//! The logit lens on the page: where base and variant say the same, and samples layer by layer and token by token.

use super::{
    Choice, Heat, HeatCell, Lines, Panel, Scale, Section, Series,
    curve::{curve, layer_name, points, share},
};
use crate::study::{
    Estimate,
    lens::{AgainstBase, Lens, LensLayer, LensModel, Shown, ShownToken},
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
        findings: (lens.models.iter().filter_map(|model| comes_up(model, blocks)))
            .chain(
                variants
                    .iter()
                    .filter_map(|model| agrees(model, &lens.models[0].name, blocks)),
            )
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

/// Where the answer's first token comes up.
fn comes_up(model: &LensModel, blocks: usize) -> Option<String> {
    let gold = |layer: &LensLayer| layer.gold_probability.value;
    let last = model.layers.last()?;
    let below = model.layers.iter().rposition(|layer| gold(layer) < gold(last) / 2.0);
    Some(format!(
        "{}: the answer's first token has a probability of {} at the last layer, and half of that or more from {} on.",
        model.name,
        share(last.gold_probability),
        layer_name(below.map_or(0, |layer| layer + 1), blocks)
    ))
}

/// Where a variant and the base agree.
fn agrees(model: &LensModel, base: &str, blocks: usize) -> Option<String> {
    let against: Vec<AgainstBase> = model.layers.iter().filter_map(|layer| layer.against_base).collect();
    let last = against.last()?;
    let in_answers = |(_, against): &(usize, &AgainstBase)| against.answer_agreement.value;
    let least = (against.iter().enumerate()).min_by(|a, b| in_answers(a).total_cmp(&in_answers(b)))?;
    Some(format!(
        "{} and {base} put the same token first at {} of the last prompt tokens and {} of the answers' tokens at the last \
         layer; least often at {}, {} of the answers' tokens. {} changes the probability of the answer's first token by {} at the last layer{}.",
        model.name,
        share(last.prompt_agreement),
        share(last.answer_agreement),
        layer_name(least.0, blocks),
        share(least.1.answer_agreement),
        model.name,
        points(last.gold_probability),
        match last.gold_probability.is_clear() {
            true => "",
            false => ", which is not clear",
        }
    ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::lens::ShownPosition;

    fn at(value: f64) -> Estimate {
        Estimate {
            value,
            lo: value - 0.01,
            hi: value + 0.01,
        }
    }

    fn lens() -> Lens {
        let layer = |gold: f64, against: Option<[f64; 3]>| LensLayer {
            gold_probability: at(gold),
            against_base: against.map(|[gold, prompt, answer]| AgainstBase {
                gold_probability: at(gold),
                prompt_agreement: at(prompt),
                answer_agreement: at(answer),
            }),
        };
        let said = |top: &str, probability: f64| ShownToken {
            top: top.into(),
            probability,
            gold_probability: 0.125,
        };
        Lens {
            samples: 4,
            tokens: 40,
            models: vec![
                LensModel {
                    name: "base".into(),
                    layers: vec![layer(0.0, None), layer(0.3, None), layer(0.5, None)],
                },
                LensModel {
                    name: "sft".into(),
                    layers: vec![
                        layer(0.0, Some([0.0, 1.0, 1.0])),
                        layer(0.3, Some([0.0, 0.75, 0.5])),
                        layer(0.505, Some([0.005, 0.5, 0.6])),
                    ],
                },
            ],
            shown: vec![Shown {
                sample: "a/b:1".into(),
                positions: vec![ShownPosition {
                    position: 7,
                    token: "is".into(),
                    gold: " 4".into(),
                    answer: true,
                }],
                models: vec![vec![vec![said("\n", 0.25)], vec![said(" four", 0.5)], vec![said(" 4", 1.0)]]; 2],
            }],
        }
    }

    #[test]
    fn the_findings_name_layers_and_say_what_is_not_clear() {
        assert_eq!(
            section(&lens(), 2).findings,
            [
                "base: the answer's first token has a probability of 50.0\u{a0}% (49.0 to 51.0) at the last layer, and half of that or \
                 more from block 1 of 2 on.",
                "sft: the answer's first token has a probability of 50.5\u{a0}% (49.5 to 51.5) at the last layer, and half of that or \
                 more from block 1 of 2 on.",
                "sft and base put the same token first at 50.0\u{a0}% (49.0 to 51.0) of the last prompt tokens and 60.0\u{a0}% (59.0 to \
                 61.0) of the answers' tokens at the last layer; least often at block 1 of 2, 50.0\u{a0}% (49.0 to 51.0) of the \
                 answers' tokens. sft changes the probability of the answer's first token by +0.5 points (−0.5 to +1.5) at the last \
                 layer, which is not clear.",
            ]
        );
    }

    #[test]
    fn a_sample_has_a_heat_map_for_each_model_with_the_last_layer_on_top() {
        let section = section(&lens(), 2);
        let Some(Panel::Choice(choice)) = section.panels.last() else {
            panic!("{:?}", section.panels)
        };
        let names: Vec<_> = choice.options.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a/b:1 · base", "a/b:1 · sft"]);
        let Panel::Heat(heat) = &choice.options[0].1 else {
            panic!("{choice:?}")
        };
        assert_eq!(heat.rows, ["block 2 of 2", "block 1 of 2", "embedding"]);
        assert_eq!(heat.columns, ["→ ·4"]);
        let texts: Vec<_> = heat.cells.iter().map(|row| row[0].text.as_str()).collect();
        assert_eq!(texts, ["·4", "·four", "⏎"]);
        assert_eq!(
            heat.cells[1][0].hint,
            "block 1 of 2, after “is”: “·four” with 50.0\u{a0}%; “·4”, which comes next, has 12.5\u{a0}%"
        );
    }

    #[test]
    fn tokens_are_seen_and_cut() {
        assert_eq!(visible(" a\nb\u{1b}", 9), "·a⏎b�");
        assert_eq!(visible("abcdefghij", 9), "abcdefgh…");
        assert_eq!(visible("abcdefghi", 9), "abcdefghi");
    }

    #[test]
    fn a_base_alone_has_no_agreement() {
        let mut alone = lens();
        alone.models.truncate(1);
        let section = section(&alone, 2);
        assert_eq!((section.findings.len(), section.panels.len()), (1, 2));
    }
}

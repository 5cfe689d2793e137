//! Steering on the page: what each segment and strength does to loss and completions, and texts side by side.

use super::{Bars, Choice, Lines, Panel, Point, Section, Series, Table};
use crate::{
    report::words::number,
    study::{
        BASE,
        steer::{Example, Method, Setting, Steer, Steered},
    },
};

/// The section of models of `blocks` blocks.
pub fn section(found: &Steer, blocks: usize) -> Section {
    Section {
        id: "steer",
        title: "Steering".into(),
        about: format!(
            "The base with α·v added to its residual stream after every block of one segment, at every token. v is, for each block, the \
             mean shift ȳ − x̄ of the variant's states from the base's; or the first principal component of their differences at the \
             last token, as long as the mean difference's projection on it; or, as a control, a random direction as long as the mean \
             shift. Vectors are from {} samples, other than the {} measured ({} answer tokens). After several blocks the shift is added \
             several times: with {} blocks in a segment, α ≈ {} moves the stream about as far as the variant does. Bands are \
             95\u{a0}% bootstrap intervals over samples. Completions are greedy, after {} prompts.",
            found.vector_samples,
            found.samples,
            found.tokens,
            blocks.div_ceil(5),
            number(1.0 / blocks.div_ceil(5) as f64),
            found.prompts,
        ),
        findings: found
            .variants
            .iter()
            .flat_map(|variant| findings(variant, found))
            .collect(),
        panels: found
            .variants
            .iter()
            .flat_map(|variant| panels(variant, found))
            .collect(),
    }
}

fn findings(variant: &Steered, found: &Steer) -> Vec<String> {
    let name = &variant.name;
    let (gap, base) = (variant.itself.difference, found.base.loss);
    let mut findings = vec![format!(
        "{name} itself: {} nats against the base's {} ({}); {} of its completions differ from the base's.",
        number(variant.itself.loss),
        number(base),
        difference(gap, variant.itself.lo, variant.itself.hi),
        share(variant.changed),
    )];
    let best = |control: bool| {
        let of = variant
            .settings
            .iter()
            .filter(|setting| (setting.method == Method::Random) == control);
        of.min_by(|a, b| a.forecast.loss.total_cmp(&b.forecast.loss))
    };
    if let Some(best) = best(false) {
        let forecast = &best.forecast;
        let clear = match (forecast.hi < 0.0, forecast.lo > 0.0) {
            (true, _) => "clearly better than the base",
            (_, true) => "clearly worse than the base: no setting helped",
            _ => "not clearly different from the base",
        };
        findings.push(format!(
            "The best of {} settings towards {name} is {}: {} nats, {}, {clear}. It is the best of many, so its interval is too kind.",
            variant.settings.iter().filter(|setting| setting.method != Method::Random).count(),
            words(best),
            number(forecast.loss),
            difference(forecast.difference, forecast.lo, forecast.hi),
        ));
    }
    if let Some(control) = best(true) {
        let forecast = &control.forecast;
        findings.push(format!(
            "The best random push: {}, {}.",
            words(control),
            difference(forecast.difference, forecast.lo, forecast.hi)
        ));
    }
    let like = |setting: &&Setting| setting.likeness.overlap;
    if let Some(nearest) = variant.settings.iter().max_by(|a, b| like(a).total_cmp(&like(b))) {
        findings.push(format!(
            "Completions most like those of {name}: {}, with {} of tokens in common; the base without steering has {}.",
            words(nearest),
            share(nearest.likeness.overlap),
            share(variant.plain.overlap)
        ));
    }
    findings
}

fn panels(variant: &Steered, found: &Steer) -> Vec<Panel> {
    let mut strengths: Vec<f64> = variant.settings.iter().map(|setting| setting.strength).collect();
    strengths.sort_by(f64::total_cmp);
    strengths.dedup();
    let per_strength = |strength: &f64| {
        let of = variant.settings.iter().filter(|setting| setting.strength == *strength);
        let of: Vec<&Setting> = of.collect();
        (format!("α = {strength}"), loss_bars(&of, variant, found))
    };
    let lengths = variant.shift.iter().enumerate().map(|(block, length)| Point {
        x: (block + 1) as f64,
        y: Some(*length),
        label: variant.explained[block].map_or_else(String::new, |share| {
            format!(
                "the component holds {:.0}\u{a0}% of the differences' variance",
                100.0 * share
            )
        }),
        ..Point::default()
    });
    vec![
        Panel::Choice(Choice {
            title: format!("Loss of the base steered towards {}", variant.name),
            options: strengths.iter().map(per_strength).collect(),
        }),
        Panel::Table(settings_table(variant, found)),
        Panel::Lines(Lines {
            title: format!("Length of the mean shift of {}", variant.name),
            x: "block".into(),
            y: "‖ȳ − x̄‖".into(),
            series: vec![Series {
                name: variant.name.clone(),
                points: lengths.collect(),
                line: true,
            }],
            ..Lines::default()
        }),
        Panel::Choice(Choice {
            title: format!("Completions, steered towards {}", variant.name),
            options: variant.examples.iter().map(example).collect(),
        }),
    ]
}

/// A bar for each segment and method.
fn loss_bars(settings: &[&Setting], variant: &Steered, found: &Steer) -> Panel {
    let mut segments: Vec<(usize, [usize; 2])> = settings.iter().map(|s| (s.segment, s.blocks)).collect();
    segments.sort_unstable();
    segments.dedup();
    let group = |method: Method| {
        let of = |segment: usize| settings.iter().find(|s| (s.segment, s.method) == (segment, method));
        let point = |(segment, _): &(usize, [usize; 2])| {
            of(*segment).map_or_else(Point::default, |setting| Point {
                x: 0.0,
                y: Some(setting.forecast.difference),
                lo: Some(setting.forecast.lo),
                hi: Some(setting.forecast.hi),
                label: words(setting),
            })
        };
        (name(method).to_owned(), segments.iter().map(point).collect())
    };
    let methods = [Method::MeanShift, Method::Component, Method::Random];
    let used = methods
        .into_iter()
        .filter(|method| settings.iter().any(|s| s.method == *method));
    Panel::Bars(Bars {
        title: format!("Loss minus the base's {}", number(found.base.loss)),
        y: "nats per token".into(),
        names: segments
            .iter()
            .map(|(segment, [first, last])| format!("segment {segment} (blocks {first}–{last})"))
            .collect(),
        groups: used.map(group).collect(),
        references: vec![
            (BASE.to_owned(), 0.0),
            (variant.name.clone(), variant.itself.difference),
        ],
    })
}

fn settings_table(variant: &Steered, found: &Steer) -> Table {
    let columns = [
        "Setting",
        "Length added",
        "Loss",
        "Against the base",
        "Accuracy",
        "Changed",
        "Same beginning",
        "Same tokens",
    ];
    let row = |setting: &Setting| {
        let (forecast, likeness) = (&setting.forecast, &setting.likeness);
        vec![
            words(setting),
            number(setting.length),
            number(forecast.loss),
            difference(forecast.difference, forecast.lo, forecast.hi),
            share(forecast.accuracy),
            share(likeness.changed),
            share(likeness.prefix),
            share(likeness.overlap),
        ]
    };
    let own = |name: &str, forecast: &crate::study::steer::Forecast, like: [f64; 3]| {
        let like = like.map(share);
        let mut row = vec![name.to_owned(), "–".into(), number(forecast.loss)];
        row.push(difference(forecast.difference, forecast.lo, forecast.hi));
        row.push(share(forecast.accuracy));
        row.extend(like);
        row
    };
    let plain = &variant.plain;
    let mut rows = vec![
        own(BASE, &found.base, [0.0, plain.prefix, plain.overlap]),
        own(&variant.name, &variant.itself, [variant.changed, 1.0, 1.0]),
    ];
    rows.extend(variant.settings.iter().map(row));
    Table {
        title: format!(
            "Towards {}: answers predicted, and completions against those of base and {}",
            variant.name, variant.name
        ),
        columns: columns.map(str::to_owned).to_vec(),
        rows,
    }
}

fn example(example: &Example) -> (String, Panel) {
    let table = Table {
        title: format!("After “{}”", example.prompt.trim()),
        columns: vec!["Writer".into(), "Text".into()],
        rows: example
            .texts
            .iter()
            .map(|(name, text)| vec![name.clone(), text.clone()])
            .collect(),
    };
    (example.sample.clone(), Panel::Table(table))
}

fn words(setting: &Setting) -> String {
    let Setting {
        method,
        segment,
        strength,
        ..
    } = setting;
    format!("{}, segment {segment}, α = {strength}", name(*method))
}

fn name(method: Method) -> &'static str {
    match method {
        Method::MeanShift => "mean shift",
        Method::Component => "component",
        Method::Random => "random",
    }
}

/// "−0.12 (−0.2 to −0.05)".
fn difference(value: f64, lo: f64, hi: f64) -> String {
    format!("{value:+.3} ({lo:+.3} to {hi:+.3})").replace('-', "−")
}

fn share(value: f64) -> String {
    format!("{:.0}\u{a0}%", 100.0 * value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::steer::{Forecast, Likeness};

    fn setting(method: Method, strength: f64, difference: f64) -> Setting {
        Setting {
            method,
            segment: 5,
            blocks: [25, 30],
            strength,
            length: 2.0,
            forecast: forecast(difference),
            likeness: Likeness {
                changed: 0.5,
                prefix: 0.25,
                overlap: 0.5 + difference.abs(),
            },
        }
    }

    fn forecast(difference: f64) -> Forecast {
        Forecast {
            loss: 2.0 + difference,
            accuracy: 0.4,
            difference,
            lo: difference - 0.1,
            hi: difference + 0.1,
        }
    }

    #[test]
    fn the_best_setting_is_held_against_base_and_control() {
        let found = Steer {
            samples: 4,
            tokens: 99,
            vector_samples: 7,
            prompts: 2,
            base: forecast(0.0),
            variants: vec![Steered {
                name: "sft".into(),
                itself: forecast(-0.5),
                shift: vec![1.0; 30],
                explained: vec![Some(0.5); 30],
                plain: Likeness {
                    changed: 0.0,
                    prefix: 0.1,
                    overlap: 0.3,
                },
                changed: 1.0,
                settings: vec![
                    setting(Method::MeanShift, 0.25, -0.2),
                    setting(Method::MeanShift, 1.0, 0.3),
                    setting(Method::Random, 0.25, 0.05),
                ],
                examples: vec![Example {
                    sample: "q/1".into(),
                    prompt: "1+1?\n".into(),
                    texts: vec![("base".into(), "3".into()), ("sft".into(), "2".into())],
                }],
            }],
        };
        let section = section(&found, 30);
        assert_eq!(
            section.findings,
            [
                "sft itself: 1.5 nats against the base's 2 (−0.500 (−0.600 to −0.400)); 100\u{a0}% of its completions differ from the \
                 base's.",
                "The best of 2 settings towards sft is mean shift, segment 5, α = 0.25: 1.8 nats, −0.200 (−0.300 to −0.100), clearly \
                 better than the base. It is the best of many, so its interval is too kind.",
                "The best random push: random, segment 5, α = 0.25, +0.050 (−0.050 to +0.150).",
                "Completions most like those of sft: mean shift, segment 5, α = 1, with 80\u{a0}% of tokens in common; the base without \
                 steering has 30\u{a0}%.",
            ]
        );
        let [
            Panel::Choice(losses),
            Panel::Table(settings),
            Panel::Lines(_),
            Panel::Choice(texts),
        ] = section.panels.as_slice()
        else {
            panic!("{:?}", section.panels)
        };
        assert_eq!(
            losses.options.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["α = 0.25", "α = 1"]
        );
        let Panel::Bars(bars) = &losses.options[0].1 else {
            panic!("{losses:?}")
        };
        assert_eq!(bars.names, ["segment 5 (blocks 25–30)"]);
        assert_eq!(bars.groups[1].1[0].y, Some(0.05));
        assert_eq!(settings.rows.len(), 2 + 3);
        let Panel::Table(text) = &texts.options[0].1 else {
            panic!("{texts:?}")
        };
        assert_eq!(
            (text.title.as_str(), &*text.rows[1]),
            ("After “1+1?”", &["sft".to_owned(), "2".to_owned()][..])
        );
    }
}

//! Layer swapping on the page: what a segment or a single block of one model does in the other.

use super::{
    Bars, Heat, HeatCell, Lines, Panel, Point, Scale, Section, Series, Table,
    curve::{layer_name, nats_difference, points},
    quality::{COLUMNS, cells, point},
};
use crate::study::{
    Estimate, Quality,
    swap::{Exchange, Swap, Swapped},
};

/// The section of a model of `blocks` blocks.
pub fn section(swap: &Swap, blocks: usize) -> Section {
    let variants: Vec<(&str, &Swapped)> = swap.variants.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut panels = vec![
        Panel::each("Loss with the end of a segment swapped", &variants, |swapped, title| {
            bars(swapped, swap, title, "nats per token", |quality| quality.loss)
        }),
        Panel::each(
            "Top-1 accuracy with the end of a segment swapped",
            &variants,
            |swapped, title| bars(swapped, swap, title, "share of tokens", |quality| quality.accuracy),
        ),
    ];
    if swap.variants.iter().any(|swapped| !swapped.blocks.is_empty()) {
        panels.push(Panel::Lines(curves(swap, blocks)));
        panels.push(Panel::Heat(matrix(swap, blocks)));
    }
    panels.push(Panel::each("Segments in numbers", &variants, |swapped, title| {
        Panel::Table(table(swapped, swap, title))
    }));
    Section {
        id: "swap",
        title: "Layer swapping".into(),
        about: about(swap),
        findings: swap
            .variants
            .iter()
            .flat_map(|swapped| findings(swapped, swap, blocks))
            .collect(),
        panels,
    }
}

fn about(swap: &Swap) -> String {
    let [samples, tokens] = swap.read;
    let alone = match swap.blocks_read {
        [0, _] => String::new(),
        [samples, tokens] => format!(" Single blocks: {tokens} tokens of {samples} samples."),
    };
    format!(
        "A host model with some blocks of a donor in it, θ_l = donor's for the blocks named and the host's for all others; then also with \
         the donor's final norm and head. Loss and accuracy at {tokens} answer tokens of {samples} samples, each predicted from the true \
         text before it.{alone} Differences are from the host as it is, with 95\u{a0}% intervals over samples; perplexity is e to the loss."
    )
}

/// "sft in base", "sft in base, with its head".
fn direction(swapped: &Swapped, base: &str, exchange: &Exchange) -> String {
    let [host, donor] = swapped.names(base, exchange);
    let head = if exchange.head { ", with its head" } else { "" };
    format!("{donor} in {host}{head}")
}

/// "segment 2 (blocks 11–12)".
fn segment(exchange: &Exchange) -> String {
    let number = exchange.segment.map_or_else(String::new, |number| number.to_string());
    format!("segment {number} ({})", exchange.blocks_in_words())
}

fn bars(swapped: &Swapped, swap: &Swap, title: String, y: &str, of: impl Fn(&Quality) -> Estimate) -> Panel {
    let mut names: Vec<String> = Vec::new();
    let mut groups: Vec<(String, Vec<Point>)> = Vec::new();
    for exchange in &swapped.segments {
        let (name, group) = (segment(exchange), direction(swapped, &swap.base, exchange));
        if groups.last().is_none_or(|(last, _)| *last != group) {
            groups.push((group, Vec::new()));
        }
        if groups.len() == 1 {
            names.push(name.clone());
        }
        if let Some((_, points)) = groups.last_mut() {
            points.push(point(0.0, of(&exchange.quality), name));
        }
    }
    Panel::Bars(Bars {
        title,
        y: y.into(),
        names,
        groups,
        references: vec![
            (swap.base.clone(), of(&swapped.base).value),
            (swapped.name.clone(), of(&swapped.variant).value),
        ],
    })
}

/// Single blocks of a variant, by direction.
fn directions<'a>(swapped: &'a Swapped, swap: &Swap) -> Vec<(String, Vec<&'a Exchange>)> {
    let of = |into_variant| -> Vec<&Exchange> {
        swapped
            .blocks
            .iter()
            .filter(|e| e.into_variant == into_variant)
            .collect()
    };
    let named = |exchanges: Vec<&'a Exchange>| {
        let first = *exchanges.first()?;
        Some((direction(swapped, &swap.base, first), exchanges))
    };
    [of(false), of(true)].into_iter().filter_map(named).collect()
}

fn curves(swap: &Swap, blocks: usize) -> Lines {
    let series = |(name, exchanges): (String, Vec<&Exchange>)| Series {
        name,
        points: (exchanges.iter())
            .map(|e| point(e.blocks[0] as f64, e.change.loss, layer_name(e.blocks[0], blocks)))
            .collect(),
        line: true,
    };
    Lines {
        title: "One block swapped: difference in loss from the host".into(),
        x: "block".into(),
        y: "nats per token".into(),
        series: swap
            .variants
            .iter()
            .flat_map(|s| directions(s, swap))
            .map(series)
            .collect(),
        references: vec![("the host as it is".into(), 0.0)],
        ..Lines::default()
    }
}

fn matrix(swap: &Swap, blocks: usize) -> Heat {
    let (rows, exchanges): (Vec<String>, Vec<Vec<&Exchange>>) = swap
        .variants
        .iter()
        .flat_map(|swapped| directions(swapped, swap))
        .unzip();
    let cell = |exchange: &&Exchange| HeatCell {
        value: Some(exchange.change.loss.value),
        text: String::new(),
        hint: format!(
            "block {}: {}",
            exchange.blocks[0],
            nats_difference(exchange.change.loss)
        ),
    };
    let largest = |largest: f64, e: &&Exchange| largest.max(e.change.loss.value.abs());
    Heat {
        title: "Every block alone: difference in loss from the host, nats per token".into(),
        x: "block".into(),
        y: "donor in host".into(),
        columns: (1..=blocks).map(|block| block.to_string()).collect(),
        rows,
        scale: Scale::Diverging {
            limit: exchanges.iter().flatten().fold(0.0, largest),
        },
        cells: exchanges.iter().map(|row| row.iter().map(cell).collect()).collect(),
    }
}

fn table(swapped: &Swapped, swap: &Swap, title: String) -> Table {
    let row = |name: String, quality: &Quality, differences: [String; 2]| {
        std::iter::once(name).chain(cells(quality)).chain(differences).collect()
    };
    let mut rows: Vec<Vec<String>> = vec![
        row(swap.base.clone(), &swapped.base, Default::default()),
        row(swapped.name.clone(), &swapped.variant, Default::default()),
    ];
    rows.extend(swapped.segments.iter().map(|exchange| {
        let name = format!("{}: {}", direction(swapped, &swap.base, exchange), segment(exchange));
        let change = exchange.change;
        row(
            name,
            &exchange.quality,
            [nats_difference(change.loss), points(change.accuracy)],
        )
    }));
    let columns = [
        &["model"],
        COLUMNS.as_slice(),
        &["loss minus host's", "accuracy minus host's"],
    ]
    .concat();
    Table {
        title,
        columns: columns.into_iter().map(str::to_owned).collect(),
        rows,
    }
}

/// What swapping says of a variant.
fn findings(swapped: &Swapped, swap: &Swap, blocks: usize) -> Vec<String> {
    let (base, name) = (&swap.base, &swapped.name);
    let mut findings = vec![format!(
        "{name} as a whole against {base}: {}, {} of accuracy.",
        nats_difference(swapped.change.loss),
        points(swapped.change.accuracy)
    )];
    let loss = |exchange: &&Exchange| exchange.change.loss.value;
    let of = |into_variant: bool, head: bool| {
        let chosen = move |e: &&Exchange| (e.into_variant, e.head) == (into_variant, head);
        swapped.segments.iter().filter(chosen)
    };
    let helps = |e: &Exchange| {
        extreme(
            e.change.loss,
            loss(&e) < 0.0,
            "none clearly helps",
            "every one clearly hurts",
        )
    };
    let costs = |e: &Exchange| {
        extreme(
            e.change.loss,
            loss(&e) > 0.0,
            "none clearly costs",
            "every one clearly helps",
        )
    };
    let best = |head| of(false, head).min_by(|a, b| loss(a).total_cmp(&loss(b)));
    if let Some(best) = best(false) {
        findings.push(format!(
            "In {base}, of all segments {} of {name} does best: {}{}{}.",
            segment(best),
            nats_difference(best.change.loss),
            part(best.change.loss, swapped.change.loss, name),
            helps(best)
        ));
    }
    findings.push(match best(true) {
        None => format!("{base} and {name} have equal final norms and heads: there is nothing to transfer."),
        Some(best) => format!(
            "With the final norm and head of {name} as well, {} does best: {}{}.",
            segment(best),
            nats_difference(best.change.loss),
            helps(best)
        ),
    });
    if let Some(worst) = of(true, false).max_by(|a, b| loss(a).total_cmp(&loss(b))) {
        findings.push(format!(
            "In {name}, giving {} back to {base} costs most: {}{}.",
            segment(worst),
            nats_difference(worst.change.loss),
            costs(worst)
        ));
    }
    findings.extend(directions(swapped, swap).into_iter().filter_map(|(direction, exchanges)| {
        let lowest = exchanges.iter().min_by(|a, b| loss(a).total_cmp(&loss(b)))?;
        let highest = exchanges.iter().max_by(|a, b| loss(a).total_cmp(&loss(b)))?;
        let lower = exchanges.iter().filter(|exchange| exchange.change.loss.hi < 0.0).count();
        let higher = exchanges.iter().filter(|exchange| exchange.change.loss.lo > 0.0).count();
        Some(format!(
            "One block of {direction}: of {blocks} blocks {lower} lower the loss clearly and {higher} raise it clearly, from {} at block \
             {} to {} at block {}.",
            nats_difference(lowest.change.loss),
            lowest.blocks[0],
            nats_difference(highest.change.loss),
            highest.blocks[0]
        ))
    }));
    findings
}

/// How much of the way from base to variant that is, where there is clearly a way.
fn part(change: Estimate, whole: Estimate, name: &str) -> String {
    match whole.is_clear() && change.value * whole.value > 0.0 {
        true => format!(
            ", {:.0}\u{a0}% of the way to {name}",
            100.0 * change.value / whole.value
        ),
        false => String::new(),
    }
}

/// What the extreme of several says of all of them. Which is extreme is known after the fact: its interval is too kind.
fn extreme(change: Estimate, is_wanted: bool, none: &str, contrary: &str) -> String {
    match (change.is_clear(), is_wanted) {
        (true, true) => " (chosen among several, so the interval is too kind)".into(),
        (true, false) => format!(", so {contrary}"),
        _ => format!(", so {none}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Change;

    fn at(value: f64, half: f64) -> Estimate {
        Estimate {
            value,
            lo: value - half,
            hi: value + half,
        }
    }

    fn change(loss: f64) -> Change {
        Change {
            loss: at(loss, 0.05),
            accuracy: at(-loss / 4.0, 0.025),
        }
    }

    fn quality(loss: f64) -> Quality {
        Quality {
            loss: at(loss, 0.5),
            accuracy: at(0.5, 0.05),
        }
    }

    fn swap(same_head: bool) -> Swap {
        let exchange = |into_variant, head, segment: Option<usize>, block: usize, difference: f64| Exchange {
            into_variant,
            segment,
            blocks: [block, block],
            head,
            quality: quality(if into_variant { 1.5 } else { 2.0 } + difference),
            change: change(difference),
        };
        let mut segments = vec![
            exchange(false, false, Some(1), 2, -0.02),
            exchange(false, false, Some(2), 4, -0.125),
        ];
        if !same_head {
            segments.push(exchange(false, true, Some(1), 2, 0.01));
            segments.push(exchange(false, true, Some(2), 4, -0.25));
        }
        segments.push(exchange(true, false, Some(1), 2, 0.03));
        segments.push(exchange(true, false, Some(2), 4, 0.02));
        let alone = |into_variant, sign: f64| {
            (1..=4).map(move |block| exchange(into_variant, false, None, block, sign * 0.04 * block as f64))
        };
        Swap {
            base: "base".into(),
            read: [20, 640],
            blocks_read: [10, 320],
            variants: vec![Swapped {
                name: "sft".into(),
                base: quality(2.0),
                variant: quality(1.5),
                change: change(-0.5),
                same_head,
                segments,
                blocks: alone(false, -1.0).chain(alone(true, 1.0)).collect(),
            }],
        }
    }

    #[test]
    fn the_findings_name_the_extremes_and_what_is_not_clear() {
        let expected = [
            "sft as a whole against base: −0.500 nats (−0.550 to −0.450), +12.5 points (+10.0 to +15.0) of accuracy.",
            "In base, of all segments segment 2 (block 4) of sft does best: −0.125 nats (−0.175 to −0.075), 25\u{a0}% of the way \
             to sft (chosen among several, so the interval is too kind).",
            "base and sft have equal final norms and heads: there is nothing to transfer.",
            "In sft, giving segment 1 (block 2) back to base costs most: +0.030 nats (−0.020 to +0.080), so none clearly costs.",
            "One block of sft in base: of 4 blocks 3 lower the loss clearly and 0 raise it clearly, from −0.160 nats (−0.210 to −0.110) at \
             block 4 to −0.040 nats (−0.090 to +0.010) at block 1.",
            "One block of base in sft: of 4 blocks 0 lower the loss clearly and 3 raise it clearly, from +0.040 nats (−0.010 to +0.090) at \
             block 1 to +0.160 nats (+0.110 to +0.210) at block 4.",
        ];
        assert_eq!(section(&swap(true), 4).findings, expected);
        let other = section(&swap(false), 4);
        assert!(
            other.findings[2]
                .starts_with("With the final norm and head of sft as well, segment 2 (block 4) does best: −0.250 nats")
        );
    }

    #[test]
    fn a_best_that_hurts_is_not_called_good() {
        let mut swap = swap(true);
        let segments = swap.variants[0].segments.iter_mut();
        segments.for_each(|exchange| exchange.change = change(0.25));
        let findings = section(&swap, 4).findings;
        assert!(
            findings[1].ends_with("+0.250 nats (+0.200 to +0.300), so every one clearly hurts."),
            "{}",
            findings[1]
        );
        let too_kind = "+0.250 nats (+0.200 to +0.300) (chosen among several, so the interval is too kind).";
        assert!(findings[3].ends_with(too_kind), "{}", findings[3]);
    }

    #[test]
    fn panels_hold_every_exchange_once() {
        let section = section(&swap(false), 4);
        let Panel::Bars(bars) = &section.panels[0] else {
            panic!()
        };
        assert_eq!(bars.names, ["segment 1 (block 2)", "segment 2 (block 4)"]);
        let values = |points: &[Point]| points.iter().filter_map(|point| point.y).collect::<Vec<_>>();
        let groups: Vec<(&str, Vec<f64>)> = bars.groups.iter().map(|(name, p)| (name.as_str(), values(p))).collect();
        let expected = [
            ("sft in base", vec![1.98, 1.875]),
            ("sft in base, with its head", vec![2.01, 1.75]),
            ("base in sft", vec![1.53, 1.52]),
        ];
        assert_eq!(groups, expected);
        assert_eq!(bars.references, [("base".to_owned(), 2.0), ("sft".to_owned(), 1.5)]);
        let Panel::Heat(heat) = &section.panels[3] else {
            panic!()
        };
        assert_eq!((heat.rows.len(), heat.columns.len()), (2, 4));
        assert_eq!(heat.cells[1][3].value, Some(0.16));
        assert_eq!(heat.scale, Scale::Diverging { limit: 0.16 });
        let Panel::Table(table) = &section.panels[4] else {
            panic!()
        };
        assert_eq!(table.rows.len(), 2 + 6);
        assert_eq!(table.rows[3][0], "sft in base: segment 2 (block 4)");
    }

    #[test]
    fn several_variants_are_chosen_from() {
        let mut swap = swap(true);
        let mut other = swap.variants[0].clone();
        other.name = "dpo".into();
        other.blocks.clear();
        swap.variants.push(other);
        let section = section(&swap, 4);
        let Panel::Choice(choice) = &section.panels[0] else {
            panic!()
        };
        let names: Vec<&str> = choice.options.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["sft", "dpo"]);
        let Panel::Lines(lines) = &section.panels[2] else {
            panic!()
        };
        assert_eq!(lines.series.len(), 2);
    }
}

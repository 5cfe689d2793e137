//! What a sweep's differences say, in sentences. Plain text: names are not escaped here.

use crate::{
    report::words::{contiguous, span},
    study::sweep::{Comparison, Group, Interval, Measure, Row, Table, Unit},
};

/// A sentence for each comparison, and one on how many of them chance alone would make.
pub fn findings(table: &Table) -> Vec<String> {
    let mut sentences: Vec<String> = table.comparisons.iter().map(|one| comparison(table, one)).collect();
    let (all, clear) = (
        table.comparisons.len(),
        table.comparisons.iter().filter(|one| one.difference.is_clear()).count(),
    );
    if all > 1 {
        sentences.push(format!(
            "{clear} of these {all} intervals leave out 0; of {all} comparisons without any difference about {:.1} would, by chance.",
            all as f64 / 20.0
        ));
    }
    let seeds = table
        .rows
        .iter()
        .filter(|row| !row.is_reference())
        .map(|row| row.seeds.len())
        .max();
    sentences.extend(
        match seeds {
            Some(1) => Some("One seed each: the intervals speak of other items, and another seed may decide otherwise."),
            Some(2) => Some(
                "Two seeds each: how far seeds differ is known from one difference alone, so that an interval can be too narrow.",
            ),
            _ => None,
        }
        .map(str::to_owned),
    );
    sentences
}

/// "gsm8k: mid and uniform differ by +1.0 points, 95 % interval −6.1 to +8.0: within noise (100 items, 2 seeds)."
fn comparison(table: &Table, one: &Comparison) -> String {
    let measure = &table.measures[one.measure];
    let Comparison {
        left,
        right,
        difference,
        ..
    } = one;
    let verdict = match difference.is_clear() {
        true if (difference.mean > 0.0) == (measure.unit == Unit::Share) => format!("{left} is better"),
        true => format!("{left} is worse"),
        false => "within noise".to_owned(),
    };
    format!(
        "{}{}: {left} − {right} is {}, 95\u{a0}% interval {} to {}: {verdict} ({} items, {}).",
        heading(table, &one.group),
        measure.name,
        difference_text(measure, difference.mean, true),
        difference_text(measure, difference.lo, false),
        difference_text(measure, difference.hi, false),
        difference.items,
        seeds(difference),
    )
}

fn seeds(interval: &Interval) -> String {
    match interval.seeds {
        1 => "1 seed".to_owned(),
        seeds => format!("{seeds} seeds"),
    }
}

/// "SmolLM2 · rslora: ", as far as groups differ.
fn heading(table: &Table, group: &Group) -> String {
    let name = group_name(table, group);
    if name.is_empty() { name } else { format!("{name}: ") }
}

/// What tells a group from the others of its table; empty if there is but one.
pub(super) fn group_name(table: &Table, group: &Group) -> String {
    let part = |of: fn(&Group) -> &String| {
        let all = table.rows.iter().map(|row| of(&row.group));
        let differ = all.filter(|text| !text.is_empty()).any(|text| text != of(group));
        if differ { of(group).as_str() } else { "" }
    };
    let parts = [part(|g| &g.model), part(|g| &g.data), part(|g| &g.scaling)];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" · ")
}

/// "+1.0 points" or "−0.0123 nats".
pub(super) fn difference_text(measure: &Measure, value: f64, unit: bool) -> String {
    let (text, word) = match measure.unit {
        Unit::Share => (format!("{:+.1}", 100.0 * value), " points"),
        Unit::Nats => (format!("{value:+.4}"), " nats"),
        Unit::Bits => (format!("{value:+.4}"), " bits"),
    };
    let text = text.replace('-', "−");
    if unit { text + word } else { text }
}

/// "12.0" per cent or "1.2345" nats.
pub(super) fn value_text(measure: &Measure, value: f64) -> String {
    match measure.unit {
        Unit::Share => format!("{:.1}", 100.0 * value),
        Unit::Nats | Unit::Bits => format!("{value:.4}"),
    }
}

/// "gsm8k accuracy, %".
pub(super) fn measure_title(measure: &Measure) -> String {
    let name = format!("{} {}", measure.name, measure.metric.replace('_', " "));
    match measure.unit {
        Unit::Share => format!("{}, %", name.trim()),
        Unit::Nats | Unit::Bits if measure.metric.is_empty() => format!("{}, nats", measure.name),
        Unit::Nats | Unit::Bits => name,
    }
}

/// "6–23", or what each seed has: "0, 4–6 / 1–2, 9".
pub(super) fn blocks(row: &Row) -> String {
    let one = |ranks: &Vec<usize>| {
        let active: Vec<usize> = (0..ranks.len()).filter(|block| ranks[*block] > 0).collect();
        block_ranges(&active)
    };
    row.ranks.iter().map(one).collect::<Vec<_>>().join(" / ")
}

/// "0, 4–6".
pub fn block_ranges(blocks: &[usize]) -> String {
    contiguous(blocks).iter().map(span).collect::<Vec<_>>().join(", ")
}

/// "13", or "13, 26" if blocks differ.
pub(super) fn ranks(row: &Row) -> String {
    let mut ranks: Vec<usize> = row.ranks.iter().flatten().copied().filter(|rank| *rank > 0).collect();
    ranks.sort_unstable();
    ranks.dedup();
    ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

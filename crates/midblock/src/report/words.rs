//! A finding as sentences, the same on the page and in the terminal. Plain text: names are not escaped here.

use super::summary::{Band, Finding, Reading, Stretch, Verdict};
use crate::run::Run;
use std::ops::RangeInclusive;

/// How sure a sentence is, for a mark beside it.
pub(super) fn certainty(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clear(_) => "clear",
        Verdict::Partly(_) => "partly",
        Verdict::Contradictory => "measures disagree",
        Verdict::Undecided => "undecided",
    }
}

/// Which blocks change most, in a model of `blocks`.
pub(super) fn sensitive(finding: &Finding, blocks: usize) -> String {
    sentence(finding, blocks, finding.sensitive, "change most", |reading| {
        reading.sensitive_band
    })
}

/// Which blocks change least.
pub(super) fn stable(finding: &Finding, blocks: usize) -> String {
    sentence(finding, blocks, finding.stable, "change least", |reading| {
        reading.stable_band
    })
}

/// In which blocks the variant's own weights differ, which hidden states alone cannot tell. `None` if the run has not
/// measured weights.
pub(super) fn weights(run: &Run, model: &str) -> Option<String> {
    let changes = |metric: &str| -> Vec<(usize, f64)> {
        let rows = run.records.iter().filter(|r| r.metric == metric && r.model == model);
        rows.filter_map(|r| Some((r.layer, r.value?))).collect()
    };
    let all = changes("weight_change");
    let changed: Vec<usize> = all
        .iter()
        .filter(|(_, change)| *change > 0.0)
        .map(|(block, _)| *block)
        .collect();
    if all.is_empty() {
        return None;
    }
    if changed.is_empty() {
        return Some("No block's weights differ.".to_owned());
    }
    if changed.len() < all.len() {
        let ranges = contiguous(&changed).iter().map(span).collect::<Vec<_>>().join(", ");
        return Some(format!(
            "Weights differ in blocks {ranges} only; what blocks above them show, they inherited."
        ));
    }
    let relative = changes("weight_change_relative");
    let most = relative.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let most = most.map_or(String::new(), |(block, change)| {
        format!(
            ", relative to their size most in block {block} ({:.2}\u{a0}%)",
            100.0 * change
        )
    });
    Some(format!("Weights differ in every block{most}."))
}

/// Ascending numbers as ranges without gaps.
pub(super) fn contiguous(numbers: &[usize]) -> Vec<RangeInclusive<usize>> {
    let mut ranges: Vec<RangeInclusive<usize>> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == number => *last = *last.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    ranges
}

fn sentence(
    finding: &Finding,
    blocks: usize,
    verdict: Verdict,
    what: &str,
    named: fn(&Reading) -> Option<Band>,
) -> String {
    let measures = finding.readings.len();
    match verdict {
        Verdict::Clear(band) => {
            let by = if measures == 1 {
                "the one measure at hand says so".into()
            } else {
                format!("all {measures} measures agree")
            };
            format!(
                "{} {what}: {by}, with 95\u{a0}% intervals that do not overlap.",
                band_blocks(band, blocks)
            )
        }
        Verdict::Partly(band) => {
            let votes = finding
                .readings
                .iter()
                .filter(|reading| named(reading).is_some())
                .count();
            format!(
                "{} {what} by {votes} of {measures} measures ({}); by the others the bands cannot be told apart.",
                band_blocks(band, blocks),
                titles(finding, |reading| named(reading).is_some()),
            )
        }
        Verdict::Contradictory => {
            let says: Vec<String> = finding
                .readings
                .iter()
                .filter_map(|reading| Some(format!("{} says {}", reading.title, named(reading)?.name())))
                .collect();
            format!("The measures disagree on which blocks {what}: {}.", says.join(", "))
        }
        Verdict::Undecided => {
            let has_intervals = finding
                .readings
                .iter()
                .any(|reading| reading.bands.iter().flatten().any(|mean| mean.interval.is_some()));
            let why = if has_intervals {
                "the 95\u{a0}% intervals of the bands overlap"
            } else {
                "the run holds no intervals to judge by"
            };
            format!("Which blocks {what} cannot be told apart: {why}.")
        }
    }
}

fn titles(finding: &Finding, keep: impl Fn(&Reading) -> bool) -> String {
    finding
        .readings
        .iter()
        .filter(|reading| keep(reading))
        .map(|reading| reading.title)
        .collect::<Vec<_>>()
        .join(", ")
}

/// "The top blocks (25–30)".
fn band_blocks(band: Band, blocks: usize) -> String {
    let range = band
        .blocks(blocks)
        .map_or(String::new(), |range| format!(" ({})", span(&range)));
    format!("The {} blocks{range}", band.name())
}

/// "25–30", or "30" if that is all.
pub(super) fn span(range: &RangeInclusive<usize>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}–{}", range.start(), range.end())
    }
}

/// "blocks 25–30", marked if the rest may be no different.
pub(super) fn stretch(stretch: Option<&Stretch>) -> String {
    match stretch {
        None => "none stands out".into(),
        Some(stretch) if stretch.apart => format!("blocks {}", span(&stretch.blocks)),
        Some(stretch) => format!("blocks {}, overlapping the rest", span(&stretch.blocks)),
    }
}

/// A number in four significant digits, without trailing zeros.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs();
    if !(1e-4..1e6).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    let decimals = (3 - magnitude.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::summary;

    #[test]
    fn every_verdict_has_its_sentence() {
        let reading = |title, band| Reading {
            metric: title,
            title,
            bands: [
                Some(summary::Mean {
                    value: 1.0,
                    interval: Some((0.0, 2.0)),
                }),
                None,
                None,
            ],
            stable_band: None,
            sensitive_band: band,
            stable: None,
            sensitive: None,
            points: Vec::new(),
        };
        let say = |verdict, bands: [Option<Band>; 2]| {
            let finding = Finding {
                model: "sft".into(),
                reference: "base".into(),
                dataset: "gsm8k".into(),
                readings: vec![reading("CKA", bands[0]), reading("mean shift", bands[1])],
                stable: Verdict::Undecided,
                sensitive: verdict,
            };
            sensitive(&finding, 30).replace('\u{a0}', " ")
        };
        let (top, bottom) = (Some(Band::Top), Some(Band::Bottom));
        assert_eq!(
            say(Verdict::Clear(Band::Top), [top, top]),
            "The top blocks (25–30) change most: all 2 measures agree, with 95 % intervals that do not overlap."
        );
        assert_eq!(
            say(Verdict::Partly(Band::Top), [top, None]),
            "The top blocks (25–30) change most by 1 of 2 measures (CKA); by the others the bands cannot be told apart."
        );
        assert_eq!(
            say(Verdict::Contradictory, [top, bottom]),
            "The measures disagree on which blocks change most: CKA says top, mean shift says bottom."
        );
        assert_eq!(
            say(Verdict::Undecided, [None, None]),
            "Which blocks change most cannot be told apart: the 95 % intervals of the bands overlap."
        );
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.98765, "0.9877"),
            (12.0, "12"),
            (-0.25, "-0.25"),
            (123_456.7, "123457"),
            (1e-9, "1.00e-9"),
        ];
        for (value, expected) in cases {
            assert_eq!(number(value), expected);
        }
        assert_eq!(number(f64::INFINITY), "inf");
    }

    #[test]
    fn ranges_have_no_gaps() {
        assert_eq!(contiguous(&[1, 2, 4, 7, 8, 9]), [1..=2, 4..=4, 7..=9]);
        assert!(contiguous(&[]).is_empty());
    }
}

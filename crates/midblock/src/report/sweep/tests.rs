use super::*;
use crate::study::sweep::SweepRecord;
use serde_json::json;

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>|\"'&`";

/// Two patterns, of which one cannot be told from the other, and the pretrained model.
fn record(model: &str) -> SweepRecord {
    let interval =
        |mean: f64, by: f64| json!({"mean": mean, "lo": mean - by, "hi": mean + by, "items": 100, "seeds": 2});
    let group = |scaling: &str| json!({"model": model, "data": "", "scaling": scaling});
    let row = |pattern: &str, parameters: u64, share: f64, loss: f64, ranks: Vec<Vec<usize>>| {
        json!({"group": group(if ranks.is_empty() { "" } else { "fixed-alpha" }), "pattern": pattern,
            "seeds": if ranks.is_empty() { vec![] } else { vec![1, 2] }, "ranks": ranks, "parameters": parameters,
            "values": [interval(share, 0.06), interval(loss, 0.01)], "seconds": 61.0, "peak_bytes": 1 << 28})
    };
    let difference = |left: &str, right: &str, measure: usize, mean: f64, by: f64| json!({"group": group("fixed-alpha"), "measure": measure, "left": left, "right": right, "difference": interval(mean, by)});
    let random = vec![vec![6, 6, 0, 0, 0], vec![0, 6, 0, 6, 0]];
    serde_json::from_value(json!({
        "midblock_sweep_schema": 1,
        "started_unix_s": 0,
        "run": crate::run::RunInfo { models: vec![crate::run::ModelInfo { name: model.into(), ..Default::default() }], ..Default::default() },
        "cells": ["a", "b", model],
        "failures": [{"cell": model, "problem": HOSTILE}],
        "table": {
            "measures": [
                {"name": "gsm8k", "metric": "flexible", "unit": "share"},
                {"name": "test loss", "metric": "", "unit": "nats"},
            ],
            "rows": [
                row("pretrained", 0, 0.02, 1.3, vec![]),
                row("uniform", 61_440, 0.11, 0.9, vec![vec![3, 3, 3, 3, 3]]),
                row("mid", 61_300, 0.12, 0.95, vec![vec![0, 5, 5, 5, 0]]),
                row(&format!("random{model}"), 61_300, 0.1, 1.0, random),
            ],
            "comparisons": [difference("mid", "uniform", 0, 0.01, 0.07), difference("mid", "uniform", 1, 0.05, 0.02)],
        },
    }))
    .unwrap()
}

#[test]
fn sentences_say_what_is_noise() {
    let said: Vec<String> = findings(&record("m").table)
        .iter()
        .map(|text| text.replace('\u{a0}', " "))
        .collect();
    assert_eq!(
        said,
        [
            "gsm8k: mid − uniform is +1.0 points, 95 % interval −6.0 to +8.0: within noise (100 items, 2 seeds).",
            "test loss: mid − uniform is +0.0500 nats, 95 % interval +0.0300 to +0.0700: mid is worse (100 items, 2 seeds).",
            "1 of these 2 intervals leave out 0; of 2 comparisons without any difference about 0.1 would, by chance.",
            "Two seeds each: how far seeds differ is known from one difference alone, so that an interval can be too narrow.",
        ]
    );
}

#[test]
fn the_markdown_table_has_a_line_a_pattern() {
    let text = markdown(&record("m")).replace('\u{202f}', " ");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(
        lines[4],
        "| mid | 1–3 | 5 | 61 300 | 2 | 12.0 (6.0 to 18.0) | +1.0 (−6.0 to +8.0), within noise | 0.9500 (0.9400 to 0.9600) | \
         +0.0500 (+0.0300 to +0.0700) | 1 min 01 s | 256 MiB |"
    );
    assert!(lines[5].contains("| 0–1 / 1, 3 | 6 |"), "{}", lines[5]);
    assert!(
        lines[0].contains("| gsm8k flexible, % | − uniform | test loss, nats |"),
        "{}",
        lines[0]
    );
}

#[test]
fn hostile_names_stay_text() {
    let record = record(HOSTILE);
    let (page, svg, text) = (render(&record), picture(&record.table), markdown(&record));
    for (what, text) in [("page", &page), ("picture", &svg)] {
        assert!(!text.contains("<img"), "{what}");
        assert!(text.contains("&lt;img"), "{what}");
    }
    assert!(!text.replace("\\<", "").contains('<'), "{text}"); // each is escaped
    assert!(!terminal(&self::record("a\u{1b}[31m")).contains('\u{1b}'));
    assert_eq!(csv(&record.table).lines().count(), 5);
}

#[test]
fn the_picture_has_a_mark_for_each_pattern_and_measure() {
    let svg = picture(&record("m").table);
    assert_eq!(svg.matches("<circle").count(), 3 * 2 * 2);
    assert_eq!(svg.matches("stroke-dasharray").count(), 2);
    assert_eq!(svg.matches("<svg").count(), 1);
    let empty = picture(&Default::default());
    assert!(empty.contains("Nothing has been measured yet"));
}

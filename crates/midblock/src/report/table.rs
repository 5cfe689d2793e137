//! Key numbers for the terminal: means over the bottom, middle and top blocks.

use super::{summary, summary::Band, words};
use crate::run::{Record, Run};

/// A plain-text table: a block of lines for each model and data set, a line for each metric, means over the bottom
/// (`l/L ≤ 0.2`), middle and top (`l/L > 0.8`) blocks, without the embedding. Ends with the findings in words.
pub fn table(run: &Run) -> String {
    let blocks = run.blocks();
    let mut out = String::new();
    let mut seen: Vec<(&str, &str, &str)> = Vec::new();
    for record in &run.records {
        let key = (
            record.model.as_str(),
            record.reference.as_str(),
            record.dataset.as_str(),
        );
        if !seen.contains(&key) {
            seen.push(key);
            out += &section(run, key, blocks);
        }
    }
    for finding in summary::findings(run) {
        out += &format!("{}\n", heading((&finding.model, &finding.reference, &finding.dataset)));
        out += &format!(
            "  {}\n  {}\n",
            words::sensitive(&finding, blocks),
            words::stable(&finding, blocks)
        );
        if let Some(weights) = words::weights(run, &finding.model) {
            out += &format!("  {weights}\n");
        }
    }
    out
}

/// "sft against base · gsm8k".
fn heading((model, reference, dataset): (&str, &str, &str)) -> String {
    let mut heading = model.to_string();
    if !reference.is_empty() {
        heading += &format!(" against {reference}");
    }
    if !dataset.is_empty() {
        heading += &format!(" · {dataset}");
    }
    // Names come from the command line; a control character must not reach the terminal.
    heading.replace(char::is_control, "�")
}

fn section(run: &Run, key: (&str, &str, &str), blocks: usize) -> String {
    let records: Vec<&Record> = run
        .records
        .iter()
        .filter(|record| {
            (
                record.model.as_str(),
                record.reference.as_str(),
                record.dataset.as_str(),
            ) == key
        })
        .collect();
    let mut metrics: Vec<&str> = Vec::new();
    for record in &records {
        if !metrics.contains(&record.metric.as_str()) {
            metrics.push(&record.metric);
        }
    }
    let width = metrics.iter().map(|metric| metric.len()).max().unwrap_or(0);
    let mut out = format!(
        "{}\n  {:width$} {:>10} {:>10} {:>10}\n",
        heading(key),
        "",
        "bottom",
        "middle",
        "top"
    );
    for metric in metrics {
        let means = Band::ALL.map(|band| {
            let values: Vec<f64> = records
                .iter()
                .filter(|record| record.metric == metric && Band::of(record.layer, blocks) == Some(band))
                .filter_map(|record| record.value)
                .collect();
            if values.is_empty() {
                "–".to_string()
            } else {
                words::number(values.iter().sum::<f64>() / values.len() as f64)
            }
        });
        out += &format!("  {metric:width$} {:>10} {:>10} {:>10}\n", means[0], means[1], means[2]);
    }
    out + "\n"
}

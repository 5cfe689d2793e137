//! The table as CSV for programs, as Markdown for papers and as plain text for the terminal.

use super::words::{blocks, difference_text, findings, group_name, measure_title, ranks, value_text};
use crate::{
    report::provenance::{count, duration},
    study::sweep::{Measure, Row, SweepRecord, Table},
};

/// One line a row, full precision: shares from 0 to 1, losses in nats. What is not known is empty.
pub fn csv(table: &Table) -> String {
    let mut header: Vec<String> = [
        "model",
        "data",
        "scaling",
        "pattern",
        "seeds",
        "blocks",
        "rank",
        "parameters",
    ]
    .map(str::to_owned)
    .to_vec();
    for Measure { name, .. } in &table.measures {
        let columns = [
            "",
            "_lo",
            "_hi",
            "_items",
            "_difference",
            "_difference_lo",
            "_difference_hi",
        ];
        header.extend(
            columns
                .iter()
                .map(|column| format!("{}{column}", name.replace(' ', "_"))),
        );
    }
    header.extend(["train_seconds", "peak_private_bytes"].map(str::to_owned));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut lines = vec![header];
    lines.extend(table.rows.iter().map(|row| csv_line(table, row)));
    for line in lines {
        writer
            .write_record(line)
            .expect("invariant: lines of one length go into memory");
    }
    let bytes = writer.into_inner().expect("invariant: memory takes every line");
    String::from_utf8(bytes).expect("invariant: made of text")
}

fn csv_line(table: &Table, row: &Row) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let seeds = row.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let mut line = vec![
        row.group.model.clone(),
        row.group.data.clone(),
        row.group.scaling.clone(),
        row.pattern.clone(),
        seeds,
        blocks(row),
        ranks(row),
        row.parameters.to_string(),
    ];
    for (measure, value) in row.values.iter().enumerate() {
        let difference = table.difference(row, measure).map(|own| own.difference);
        line.extend([
            number(value.map(|own| own.mean)),
            number(value.map(|own| own.lo)),
            number(value.map(|own| own.hi)),
            value.map_or(String::new(), |own| own.items.to_string()),
            number(difference.map(|own| own.mean)),
            number(difference.map(|own| own.lo)),
            number(difference.map(|own| own.hi)),
        ]);
    }
    line.extend([
        number(row.seconds),
        row.peak_bytes.map_or(String::new(), |bytes| bytes.to_string()),
    ]);
    line
}

/// The cells of the table as text, the header first.
pub(super) fn texts(table: &Table) -> Vec<Vec<String>> {
    let groups = table.rows.iter().any(|row| !group_name(table, &row.group).is_empty());
    let baseline = table.comparisons.first().map_or("the first", |one| one.right.as_str());
    let mut header: Vec<String> = groups.then(|| "group".to_owned()).into_iter().collect();
    header.extend(["pattern", "blocks", "rank", "parameters", "seeds"].map(str::to_owned));
    for measure in &table.measures {
        header.extend([measure_title(measure), format!("− {baseline}")]);
    }
    header.extend(["training", "memory"].map(str::to_owned));
    let line = |row: &Row| {
        let mut line: Vec<String> = groups.then(|| group_name(table, &row.group)).into_iter().collect();
        let parameters = if row.is_reference() {
            "–".to_owned()
        } else {
            count(row.parameters)
        };
        let or_none = |text: String| if text.is_empty() { "–".to_owned() } else { text };
        line.extend([
            row.pattern.clone(),
            or_none(blocks(row)),
            or_none(ranks(row)),
            parameters,
        ]);
        line.push(if row.is_reference() {
            "–".to_owned()
        } else {
            row.seeds.len().to_string()
        });
        for (number, measure) in table.measures.iter().enumerate() {
            line.extend([
                value_cell(measure, row, number),
                difference_cell(table, measure, row, number),
            ]);
        }
        let memory = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        line.push(row.seconds.map_or("–".to_owned(), duration));
        line.push(row.peak_bytes.map_or("–".to_owned(), memory));
        line
    };
    let mut lines = vec![header];
    lines.extend(table.rows.iter().map(line));
    lines
}

/// "12.0 (8.5 to 16.0)".
fn value_cell(measure: &Measure, row: &Row, number: usize) -> String {
    row.values[number].map_or("–".to_owned(), |own| {
        let text = |value| value_text(measure, value);
        format!("{} ({} to {})", text(own.mean), text(own.lo), text(own.hi))
    })
}

/// "+1.0 (−6.1 to +8.0), within noise".
fn difference_cell(table: &Table, measure: &Measure, row: &Row, number: usize) -> String {
    table.difference(row, number).map_or("–".to_owned(), |own| {
        let text = |value| difference_text(measure, value, false);
        let d = own.difference;
        let noise = if d.is_clear() { "" } else { ", within noise" };
        format!("{} ({} to {}){noise}", text(d.mean), text(d.lo), text(d.hi))
    })
}

/// The table, what it says, what failed and what the intervals are.
pub fn markdown(record: &SweepRecord) -> String {
    let table = &record.table;
    let mut out = format!("# {}\n\n", markdown_text(&title(record)));
    for (number, line) in texts(table).iter().enumerate() {
        let safe: Vec<String> = line.iter().map(|cell| markdown_text(cell)).collect();
        out += &format!("| {} |\n", safe.join(" | "));
        if number == 0 {
            out += &format!("|{}\n", "---|".repeat(line.len()));
        }
    }
    out += &format!("\n{}\n", progress(record));
    for sentence in findings(table) {
        out += &format!("- {}\n", markdown_text(&sentence));
    }
    for failure in &record.failures {
        out += &format!(
            "- Failed: {}: {}\n",
            markdown_text(&failure.cell),
            markdown_text(&failure.problem)
        );
    }
    out += &format!("\n{METHOD}\n");
    out
}

/// What intervals mean.
pub(super) const METHOD: &str = "Values are means over seeds with a 95 % interval that accounts for items and seeds: items are \
resampled 2000 times, the same for all seeds, and to the mean of each resample is added a normal error of d/√S, where d is the \
standard deviation between the S seeds. With one seed it speaks of other items alone; with two, d rests on a single difference. \
Differences are taken item by item and seed by seed before that, so what makes an item hard for both patterns cancels. “Within \
noise”: the interval holds 0. No correction is made for comparing many patterns. A share is given in per cent, its difference in \
points; losses are in nats a token, lower is better.";

/// "12 of 22 cells are finished, 1 failed."
pub(super) fn progress(record: &SweepRecord) -> String {
    let finished: usize = record.table.rows.iter().map(|row| row.seeds.len()).sum();
    let failed = match record.failures.len() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!("{finished} of {} cells are finished{failed}.", record.cells.len())
}

/// "Patterns of SmolLM2-135M": the models of the sweep.
pub(super) fn title(record: &SweepRecord) -> String {
    let models: Vec<&str> = record.run.models.iter().map(|model| model.name.as_str()).collect();
    format!("Where to tune {}", models.join(", "))
}

fn markdown_text(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '|' | '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' => out.extend(['\\', character]),
            '\n' => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

/// The table and its sentences for a terminal.
pub fn terminal(record: &SweepRecord) -> String {
    let lines = texts(&record.table);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out += padded.join("  ").trim_end();
        out.push('\n');
    }
    out.push('\n');
    for sentence in findings(&record.table) {
        out += &format!("{sentence}\n");
    }
    // names come from files and the command line; a control character must not reach the terminal
    out.replace(|c: char| c.is_control() && c != '\n', "�")
}

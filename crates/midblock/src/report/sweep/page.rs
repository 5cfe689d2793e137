//! The page of a sweep: what the differences say, the table, the charts, and how it was made.

use super::{
    tables::{METHOD, progress, texts, title},
    words::{findings, group_name, measure_title},
};
use crate::{
    Result,
    report::{
        html::{escape, frame, warnings},
        provenance::{CHARTS, Foot, command, day, footer},
    },
    study::sweep::{Interval, Row, SweepRecord, Table, Unit},
};
use serde_json::{Value, json};
use std::path::Path;

const SCRIPT: &str = include_str!("../assets/sweep.js");

const FOOT: Foot = Foot {
    measured_after: "a step",
    sources: "<li>Mid-Block Efficient Tuning: A Layer-wise Analysis of Supervised Fine-Tuning, ACL 2026, <a href=\"https://arxiv.org/abs/2604.11838\">arXiv:2604.11838</a>.</li>\
<li>LoRA: Hu et al. 2021, <a href=\"https://arxiv.org/abs/2106.09685\">arXiv:2106.09685</a>. Bootstrap: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes on the cells’ pages.</li>",
    numbers: "<code>table.csv</code> and <code>sweep.json</code> beside it",
    charts: CHARTS,
};

/// The page of a sweep, finished or not.
pub fn render(record: &SweepRecord) -> String {
    let title = title(record);
    let content = [
        header(record, &title),
        "<main>\n".to_owned(),
        warnings(&record.run),
        said(record),
        table(record),
        charts(&record.table),
        cells(record),
        "</main>\n".to_owned(),
        footer(&record.run, &FOOT),
    ];
    frame(&title, &content.concat(), &data(&record.table), SCRIPT)
}

fn header(record: &SweepRecord, title: &str) -> String {
    format!(
        "<header class=\"page\"><p class=\"brand\">midblock <span>sweep</span></p><h1>{}</h1><p class=\"when\">{} · {} on {}</p>\
         <pre class=\"command\"><code>{}</code></pre></header>\n",
        escape(title),
        escape(&progress(record)),
        escape(&day(&record.run.started_at)),
        escape(&record.run.machine.device),
        escape(&command(&record.run.command_line)),
    )
}

fn said(record: &SweepRecord) -> String {
    let sentences: String = findings(&record.table)
        .iter()
        .map(|sentence| format!("<p>{}</p>", escape(sentence)))
        .collect();
    let failed: String = record
        .failures
        .iter()
        .map(|failure| {
            format!(
                "<p class=\"verdict sensitive\">Failed: <code>{}</code>: {}</p>",
                escape(&failure.cell),
                escape(&failure.problem)
            )
        })
        .collect();
    format!(
        "<section id=\"summary\"><h2>What it says</h2><article class=\"finding\">{failed}{sentences}\
         <details class=\"method\"><summary>How this was judged</summary><p>{}</p></details></article></section>\n",
        escape(METHOD),
    )
}

fn table(record: &SweepRecord) -> String {
    let lines = texts(&record.table);
    let cells = |tag: &str, line: &[String]| -> String {
        line.iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
            .collect()
    };
    let rows: String = lines[1..]
        .iter()
        .map(|line| {
            format!(
                "<tr><th scope=\"row\">{}</th>{}</tr>",
                escape(&line[0]),
                cells("td", &line[1..])
            )
        })
        .collect();
    format!(
        "<section id=\"table\"><h2>Table</h2><div class=\"scroll\"><table class=\"bands\"><thead><tr>{}</tr></thead><tbody>{rows}</tbody></table></div></section>\n",
        cells("th", &lines[0]),
    )
}

fn charts(table: &Table) -> String {
    let height = (3.0 + 1.5 * table.rows.len() as f64).max(14.0);
    let card = |kind: &str, number: usize, title: &str, about: &str| {
        let title = escape(title);
        format!(
            "<article class=\"card\" data-chart=\"{kind}\" data-measure=\"{number}\"><header><h3>{title}</h3><div class=\"export\">\
             <button type=\"button\" data-export=\"png\" aria-label=\"Save {title} as PNG\">PNG</button>\
             <button type=\"button\" data-export=\"svg\" aria-label=\"Save {title} as SVG\">SVG</button></div></header>\
             <p class=\"meaning\">{about}</p><div class=\"chart\" style=\"height:{height}rem\" role=\"img\" aria-label=\"{title}; the numbers are in the table\"></div></article>\n"
        )
    };
    let cards: String = table
        .measures
        .iter()
        .enumerate()
        .map(|(number, measure)| {
            let name = measure_title(measure);
            let against = format!("{name}, against parameters");
            card(
                "patterns",
                number,
                &name,
                "Mean over seeds of each pattern with its 95 % interval; dashed: the pretrained model.",
            ) + &card(
                "parameters",
                number,
                &against,
                "The same; equal budgets differ by rounding alone.",
            )
        })
        .collect();
    format!(
        "<noscript><p class=\"aside\">Charts need JavaScript; picture.svg shows the same.</p></noscript>\n\
         <section class=\"group\"><h2>Pictures</h2><div class=\"cards\">{cards}</div></section>\n"
    )
}

/// Every cell, with its own page where it is trained.
fn cells(record: &SweepRecord) -> String {
    let items: String = record
        .cells
        .iter()
        .map(|name| format!("<li><a href=\"cells/{0}/report.html\">{0}</a></li>", escape(name)))
        .collect();
    format!(
        "<section><details><summary>Cells, in the order in which they run</summary><ol>{items}</ol></details></section>\n"
    )
}

/// What the script draws.
fn data(table: &Table) -> Value {
    let rows: Vec<&Row> = table.rows.iter().filter(|row| !row.is_reference()).collect();
    let names = rows.iter().map(|row| {
        let group = group_name(table, &row.group);
        let name = if group.is_empty() {
            row.pattern.clone()
        } else {
            format!("{} · {group}", row.pattern)
        };
        json!({"name": name, "parameters": row.parameters})
    });
    let measures = table.measures.iter().enumerate().map(|(number, measure)| {
        let factor = if measure.unit == Unit::Share { 100.0 } else { 1.0 };
        let point = |own: Interval| [own.mean, own.lo, own.hi].map(|value| factor * value);
        let references = table.rows.iter().filter(|row| row.is_reference());
        json!({
            "title": measure_title(measure),
            "values": rows.iter().map(|row| row.values[number].map(point)).collect::<Vec<_>>(),
            "references": references.filter_map(|row| row.values[number]).map(|own| factor * own.mean).collect::<Vec<_>>(),
        })
    });
    json!({"rows": names.collect::<Vec<_>>(), "measures": measures.collect::<Vec<_>>()})
}

/// Writes the table, the page and the picture of the sweep in `dir` again.
///
/// # Errors
/// Those of [`SweepRecord::open`]; [`crate::Error::Io`].
pub fn write(dir: &Path) -> Result<SweepRecord> {
    let record = SweepRecord::open(dir)?;
    record.write_views(dir)?;
    Ok(record)
}

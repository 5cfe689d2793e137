//! The page of a sweep: what the differences say, the table, the charts, and how it was made.

use super::{
    tables::{METHOD, progress, texts, title},
    words::findings,
};
use crate::{
    Result,
    report::{
        html::{escape, frame, warnings},
        provenance::{Foot, command, day, footer},
    },
    study::sweep::SweepRecord,
};
use serde_json::json;
use std::path::Path;

const FOOT: Foot = Foot {
    measured_after: "a step",
    sources: "<li>Mid-Block Efficient Tuning: A Layer-wise Analysis of Supervised Fine-Tuning, ACL 2026, <a href=\"https://arxiv.org/abs/2604.11838\">arXiv:2604.11838</a>.</li>\
<li>LoRA: Hu et al. 2021, <a href=\"https://arxiv.org/abs/2106.09685\">arXiv:2106.09685</a>. Bootstrap: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes of the cells.</li>",
    numbers: "<code>table.csv</code> and <code>sweep.json</code> beside it",
};

/// The page of a sweep, finished or not.
pub fn render(record: &SweepRecord) -> String {
    let title = title(record);
    let lines = texts(&record.table);
    let row = |tag: &str, line: &Vec<String>| {
        let cells: String = line
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
            .collect();
        format!("<tr>{cells}</tr>")
    };
    let body: String = lines[1..].iter().map(|line| row("td", line)).collect();
    let sentences: String = findings(&record.table)
        .iter()
        .map(|sentence| format!("<p class=\"verdict\">{}</p>", escape(sentence)))
        .collect();
    let content = [
        format!(
            "<header class=\"page\"><p class=\"brand\">midblock <span>sweep</span></p><h1>{}</h1><p class=\"when\">{} · {} on {}</p>\
             <pre class=\"command\"><code>{}</code></pre></header>\n<main>\n",
            escape(&title),
            escape(&progress(record)),
            escape(&day(&record.run.started_at)),
            escape(&record.run.machine.device),
            escape(&command(&record.run.command_line)),
        ),
        warnings(&record.run),
        format!(
            "<section id=\"summary\"><h2>What it says</h2><article class=\"finding\">{sentences}</article></section>\n"
        ),
        format!(
            "<section><h2>Table</h2><div class=\"scroll\"><table><thead>{}</thead><tbody>{body}</tbody></table></div>\
             <p class=\"aside\">{}</p></section>\n",
            row("th", &lines[0]),
            escape(METHOD),
        ),
        "</main>\n".to_owned(),
        footer(&record.run, &FOOT),
    ];
    frame(&title, &content.concat(), &json!({}), "")
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

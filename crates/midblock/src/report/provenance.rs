//! What was compared, with what and how: the page's head and foot.

use super::html::escape;
use crate::run::{FileHash, PartInfo, Run, RunInfo};

/// Title and what was compared.
pub(super) fn header(run: &Run, title: &str) -> String {
    let info = &run.info;
    let models: String = info
        .models
        .iter()
        .map(|model| {
            format!(
                "<tr><th scope=\"row\">{}</th><td><code>{}</code></td><td>{}</td><td class=\"number\">{}<span class=\"unit-word\"> parameters</span></td></tr>",
                escape(&model.name),
                escape(&model.label),
                escape(&model.architecture),
                count(model.parameters),
            )
        })
        .collect();
    let datasets: String = info
        .datasets
        .iter()
        .map(|data| {
            let skipped = if data.skipped.is_empty() { String::new() } else { format!(", {} skipped", data.skipped.len()) };
            format!(
                "<tr><th scope=\"row\">{}</th><td><code>{}</code></td><td>{} of {} samples{skipped}, {} cut; {} token-level</td><td class=\"number\">{}<span class=\"unit-word\"> tokens</span></td></tr>",
                escape(&data.name),
                escape(&data.source),
                data.samples_used,
                count(data.samples_total as u64),
                data.samples_truncated,
                data.token_samples_used,
                count(data.tokens),
            )
        })
        .collect();
    let seconds: f64 = info.timings.iter().map(|phase| phase.seconds).sum();
    format!(
        "<header class=\"page\"><p class=\"brand\">midblock <span>layer-wise comparison</span></p><h1>{}</h1>\
         <p class=\"when\">{} blocks · {} · {} {}</p>\
         <div class=\"scroll\"><table class=\"inputs\"><thead><tr><th scope=\"col\">model</th><th scope=\"col\">checkpoint</th><th scope=\"col\">architecture</th><th scope=\"col\" class=\"number\">parameters</th></tr></thead><tbody>{models}</tbody>\
         <thead><tr><th scope=\"col\">data</th><th scope=\"col\">source</th><th scope=\"col\">samples</th><th scope=\"col\" class=\"number\">tokens</th></tr></thead><tbody>{datasets}</tbody></table></div>\
         <pre class=\"command\"><code>{}</code></pre></header>\n",
        escape(title),
        run.blocks(),
        escape(&day(&info.started_at)),
        duration(seconds),
        match info.parts.len() {
            0 => format!("on {}", escape(&info.machine.device)),
            parts => format!("over {parts} processes"),
        },
        escape(&command(&info.command_line)),
    )
}

/// What the foot of a page says in words of its own kind of run.
pub(super) struct Foot {
    /// After what memory was looked at: "a phase", "a step".
    pub measured_after: &'static str,
    /// Items of the list of sources.
    pub sources: &'static str,
    /// Where the numbers are.
    pub numbers: &'static str,
    /// What draws the charts.
    pub charts: &'static str,
}

/// What pages with charts say of them.
pub(super) const CHARTS: &str = "Charts: Apache ECharts (Apache-2.0), inside this file; nothing";

/// The foot of an analysis.
pub(super) const ANALYSIS: Foot = Foot {
    measured_after: "a phase",
    sources: SOURCES,
    numbers: "<code>metrics.csv</code> and <code>metrics.parquet</code> beside it",
    charts: CHARTS,
};

/// Versions, seeds, timings, hashes, skipped samples, configuration and sources.
pub(super) fn footer(info: &RunInfo, foot: &Foot) -> String {
    let seeds: Vec<String> = info
        .seeds
        .iter()
        .map(|seed| format!("{} {}", escape(&seed.purpose), seed.seed))
        .collect();
    let memory = if info.machine.memory_bytes == 0 {
        String::new()
    } else {
        format!(", {:.1} GiB", info.machine.memory_bytes as f64 / f64::from(1 << 30))
    };
    let peak = info.peak_private_bytes.map_or("unknown".into(), |bytes| {
        format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
    });
    let facts = [
        ("midblock", escape(&info.midblock_version)),
        ("started", escape(&info.started_at)),
        ("finished", escape(&info.finished_at)),
        (
            "machine",
            format!(
                "{}, {}, {} cores{memory}",
                escape(&info.machine.device),
                escape(&info.machine.platform),
                info.machine.cores
            ),
        ),
        ("threads", info.threads.to_string()),
        (&format!("private memory after {}, at most", foot.measured_after), peak),
        ("seeds", seeds.join(", ")),
    ];
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    let config = serde_json::to_string_pretty(&info.config).unwrap_or_default();
    format!(
        "<footer class=\"page\"><h2>How this was made</h2><dl class=\"facts\">{facts}</dl>{}{}{}{}\
         <details><summary>Resolved configuration</summary><pre><code>{}</code></pre></details>\
         <h2>Sources</h2><ul class=\"sources\">{}</ul>\
         <p class=\"aside\">{} is loaded from the network. Numbers: {}.</p></footer>\n",
        timings(info),
        parts(info),
        hashes(info),
        skipped(info),
        escape(&config),
        foot.sources,
        foot.charts,
        foot.numbers,
    )
}

const SOURCES: &str = "\
<li>What is measured, and why layer by layer: A Layer-wise Analysis of Supervised Fine-Tuning, ACL 2026, <a href=\"https://arxiv.org/abs/2604.11838\">arXiv:2604.11838</a>.</li>\
<li>Entropy family, InfoNCE, LiDAR, DiME: Skean et al. 2025, Layer by Layer, <a href=\"https://arxiv.org/abs/2502.02013\">arXiv:2502.02013</a>.</li>\
<li>CKA: Kornblith et al. 2019, <a href=\"https://arxiv.org/abs/1905.00414\">arXiv:1905.00414</a>; debiased: Song et al. 2012 (JMLR 13) and Nguyen et al. 2021, <a href=\"https://arxiv.org/abs/2010.15327\">arXiv:2010.15327</a>.</li>\
<li>Intrinsic dimension: Facco et al. 2017, Scientific Reports 7, 12140.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes above.</li>";

fn timings(info: &RunInfo) -> String {
    let total: f64 = info.timings.iter().map(|phase| phase.seconds).sum();
    if total <= 0.0 {
        return String::new();
    }
    let rows: String = info
        .timings
        .iter()
        .map(|phase| {
            let share = 100.0 * phase.seconds / total;
            format!(
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td><td class=\"share\"><span style=\"width:{share:.1}%\"></span></td></tr>",
                escape(&phase.phase),
                duration(phase.seconds),
            )
        })
        .collect();
    format!("<h3>Time</h3><table class=\"timings\"><tbody>{rows}</tbody></table>")
}

/// The processes that shared the work.
fn parts(info: &RunInfo) -> String {
    if info.parts.is_empty() {
        return String::new();
    }
    let row = |part: &PartInfo| {
        let seconds: f64 = part.timings.iter().map(|phase| phase.seconds).sum();
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            escape(&part.part),
            escape(&day(&part.started_at)),
            escape(&part.machine.device),
            part.threads,
            duration(seconds),
        )
    };
    let rows: String = info.parts.iter().map(row).collect();
    format!(
        "<details><summary>Processes that shared the work</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">part</th>\
         <th scope=\"col\">started</th><th scope=\"col\">machine</th><th scope=\"col\" class=\"number\">threads</th>\
         <th scope=\"col\" class=\"number\">time</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
}

fn hashes(info: &RunInfo) -> String {
    let rows = |owner: &str, files: &[FileHash]| -> String {
        files
            .iter()
            .map(|file| {
                format!(
                    "<tr><th scope=\"row\">{}</th><td><code>{}</code></td><td class=\"number\">{}</td><td><code>{}</code></td></tr>",
                    escape(owner),
                    escape(&file.path.display().to_string()),
                    count(file.bytes),
                    escape(&file.blake3),
                )
            })
            .collect()
    };
    let models: String = info
        .models
        .iter()
        .map(|model| rows(&model.name, &model.files))
        .collect();
    let datasets: String = info.datasets.iter().map(|data| rows(&data.name, &data.files)).collect();
    format!(
        "<details><summary>Input files and their hashes</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">of</th><th scope=\"col\">file</th>\
         <th scope=\"col\" class=\"number\">bytes</th><th scope=\"col\">BLAKE3</th></tr></thead><tbody>{models}{datasets}</tbody></table></div></details>"
    )
}

fn skipped(info: &RunInfo) -> String {
    let rows: String = info
        .datasets
        .iter()
        .flat_map(|data| data.skipped.iter().map(move |skipped| (data, skipped)))
        .map(|(data, skipped)| {
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
                escape(&data.name),
                escape(&skipped.sample),
                escape(&skipped.reason)
            )
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<details><summary>Skipped samples</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">data</th><th scope=\"col\">sample</th>\
         <th scope=\"col\">reason</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
}

/// "2026-03-01T09:30:00Z" → "2026-03-01 09:30 UTC"; anything else as it is.
pub(super) fn day(timestamp: &str) -> String {
    match timestamp.strip_suffix('Z').and_then(|rest| rest.split_once('T')) {
        Some((date, time)) => format!(
            "{date} {} UTC",
            time.rsplit_once(':').map_or(time, |(minutes, _)| minutes)
        ),
        None => timestamp.into(),
    }
}

/// The arguments as one line that a shell would take apart again.
pub(crate) fn command(arguments: &[String]) -> String {
    let plain = |argument: &str| {
        !argument.is_empty()
            && argument
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c))
    };
    let quoted: Vec<String> = arguments
        .iter()
        .map(|argument| {
            if plain(argument) {
                argument.clone()
            } else {
                format!("'{}'", argument.replace('\'', r"'\''"))
            }
        })
        .collect();
    quoted.join(" ")
}

/// "1 234 567" with narrow spaces.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// "1 h 02 min", "3 min 20 s" or "4.2 s".
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

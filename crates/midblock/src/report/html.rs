//! The page: one file that needs no network, no server and, for words and tables, no JavaScript.
//!
//! The text is made here; `assets/report.js` draws the charts from the JSON in `#data`. Every name a user chose passes
//! `escape` on its way into markup, and the JSON holds no `<` at all, so no name can end the script early.

use super::{
    GROUPS, provenance,
    summary::{self, Finding, Reading},
    tables, words,
};
use crate::{
    metrics::{Metric, find, registry},
    run::{Record, Run, RunInfo},
};
use serde_json::{Value, json};

const STYLE: &str = include_str!("assets/report.css");
const PAGE: &str = include_str!("assets/page.js");
const SCRIPT: &str = include_str!("assets/report.js");
const CHARTS: &str = include_str!("assets/echarts.min.js");

/// Makes `text` safe in element content and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A page with charts: its head, `body`, `data` as JSON and the script that draws from it.
pub(super) fn frame(title: &str, body: &str, data: &Value, script: &str) -> String {
    let charts = format!("<script>{CHARTS}</script>\n");
    frame_with(title, body, data, &charts, &format!("{PAGE}{script}"))
}

/// A page without charts.
pub(super) fn frame_of_text(title: &str, body: &str, data: &Value, script: &str) -> String {
    frame_with(title, body, data, "", script)
}

fn frame_with(title: &str, body: &str, data: &Value, charts: &str, script: &str) -> String {
    // `<` occurs in JSON only inside of strings, where this escape means the same.
    let data = data.to_string().replace('<', "\\u003c");
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:";
    [
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
        &format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n"),
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
        "<meta name=\"color-scheme\" content=\"light dark\">\n",
        &format!("<title>{} · midblock</title>\n", escape(title)),
        &format!("<style>\n{STYLE}</style>\n</head>\n<body>\n"),
        body,
        &format!("<script type=\"application/json\" id=\"data\">{data}</script>\n"),
        &format!("{charts}<script>\n{script}</script>\n</body>\n</html>\n"),
    ]
    .concat()
}

/// The page of `run`. Metrics that the registry does not know come last, under their bare name.
pub fn render(run: &Run) -> String {
    let title = title(run);
    let findings = summary::findings(run);
    let body = [
        provenance::header(run, &title),
        "<main>\n".to_string(),
        warnings(&run.info),
        summary_section(run, &findings),
        controls(run),
        charts(run),
        tables::weights(run),
        "</main>\n".to_string(),
        provenance::footer(&run.info, &provenance::ANALYSIS),
    ];
    frame(&title, &body.concat(), &data(run), SCRIPT)
}

/// "sft and dpo against base".
fn title(run: &Run) -> String {
    let names: Vec<&str> = run.info.models.iter().map(|model| model.name.as_str()).collect();
    match names[..] {
        [] => "A run without models".into(),
        [only] => only.into(),
        [base, variant] => format!("{variant} against {base}"),
        [base, ref first @ .., last] => format!("{} and {last} against {base}", first.join(", ")),
    }
}

pub(super) fn warnings(info: &RunInfo) -> String {
    if info.warnings.is_empty() {
        return String::new();
    }
    let items: String = info
        .warnings
        .iter()
        .map(|warning| format!("<li>{}</li>", escape(warning)))
        .collect();
    format!(
        "<aside class=\"warnings\" aria-label=\"Warnings\"><strong>Before you trust the numbers</strong><ul>{items}</ul></aside>\n"
    )
}

fn summary_section(run: &Run, findings: &[Finding]) -> String {
    let body = if findings.is_empty() {
        "<p>The run holds no measure that compares two models, so there is nothing to say on stability.</p>".to_string()
    } else {
        let cards: String = findings.iter().map(|finding| finding_card(run, finding)).collect();
        format!(
            "<div class=\"findings\">{cards}</div><details class=\"method\"><summary>How this was judged</summary><p>{METHOD}</p></details>"
        )
    };
    format!("<section id=\"summary\"><h2>Where it changed, and how sure that is</h2>{body}</section>\n")
}

const METHOD: &str = "Bands: bottom = the first 20&nbsp;% of the blocks, middle = the next 60&nbsp;%, top = the last \
20&nbsp;%; the embedding is no block. A band’s value is the mean over its blocks and its interval the mean of their 95&nbsp;% \
bootstrap intervals, which is never too narrow. Two bands count as different only if their intervals do not overlap, \
a stricter rule than a 5&nbsp;% test. The stretches are the contiguous blocks that stand out most from the mean over all \
blocks. They were found by looking at the curve, so read them as a description, not as a test. Hidden states add up from \
block to block: a difference made early is still seen above.";

fn finding_card(run: &Run, finding: &Finding) -> String {
    let blocks = run.blocks();
    let line = |kind: &str, verdict, sentence: String| {
        let certainty = words::certainty(verdict);
        let class = certainty.split(' ').next().unwrap_or_default();
        format!(
            "<p class=\"verdict {kind}\">{} <span class=\"certainty {class}\">{certainty}</span></p>",
            escape(&sentence)
        )
    };
    let strip = finding
        .readings
        .iter()
        .find(|reading| reading.metric == "change_intensity_relative")
        .or(finding.readings.first());
    format!(
        "<article class=\"finding\"><h3>{} <span class=\"against\">against {} on</span> {}</h3>{}{}{}{}{}</article>\n",
        escape(&finding.model),
        escape(&finding.reference),
        escape(&finding.dataset),
        line("sensitive", finding.sensitive, words::sensitive(finding, blocks)),
        line("stable", finding.stable, words::stable(finding, blocks)),
        words::weights(run, &finding.model).map_or(String::new(), |text| format!(
            "<p class=\"verdict\">{}</p>",
            escape(&text)
        )),
        strip.map(strip_chart).unwrap_or_default(),
        reading_table(finding),
    )
}

/// One bar per block, drawn without JavaScript, with the stretches of one measure marked below.
fn strip_chart(reading: &Reading) -> String {
    let count = reading.points.len() as f64;
    let (low, high) = reading
        .points
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| {
            (low.min(point.value), high.max(point.value))
        });
    // CKA lives just below 1: its bars start at the lowest value; magnitudes of change start at 0.
    let low = if reading.metric == "cka_debiased" {
        low - 0.1 * (high - low)
    } else {
        low.min(0.0)
    };
    let inside = |stretch: &Option<summary::Stretch>, layer| {
        stretch.as_ref().is_some_and(|stretch| stretch.blocks.contains(&layer))
    };
    let bars: String = reading
        .points
        .iter()
        .enumerate()
        .map(|(index, point)| {
            let height = if high > low { 40.0 * (point.value - low) / (high - low) } else { 0.0 }.max(0.8);
            let class = match () {
                () if inside(&reading.sensitive, point.layer) => "sensitive",
                () if inside(&reading.stable, point.layer) => "stable",
                () => "rest",
            };
            let (x, width) = (300.0 * (index as f64 + 0.1) / count, 300.0 * 0.8 / count);
            format!(
                "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"><title>block {}: {}</title></rect>",
                40.0 - height,
                point.layer,
                words::number(point.value),
            )
        })
        .collect();
    let named = |stretch: &Option<summary::Stretch>| escape(&words::stretch(stretch.as_ref()));
    let last = reading.points.last().map_or(0, |point| point.layer);
    format!(
        "<figure class=\"strip\"><svg viewBox=\"0 0 300 40\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} of each block\">{bars}</svg>\
         <figcaption><span>block 1</span><span>{}</span><span>block {last}</span></figcaption>\
         <p class=\"key\"><span class=\"mark sensitive\"></span>most sensitive: {}<br><span class=\"mark stable\"></span>most stable: {}</p></figure>",
        reading.title,
        reading.title,
        named(&reading.sensitive),
        named(&reading.stable),
    )
}

fn reading_table(finding: &Finding) -> String {
    let rows: String = finding
        .readings
        .iter()
        .map(|reading| {
            let cells: String = reading
                .bands
                .iter()
                .map(|mean| match mean {
                    None => "<td>–</td>".to_string(),
                    Some(mean) => tables::cell(Some(mean.value), mean.interval),
                })
                .collect();
            format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", reading.title)
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"bands\"><thead><tr><th scope=\"col\">mean over blocks</th><th scope=\"col\">bottom</th>\
         <th scope=\"col\">middle</th><th scope=\"col\">top</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

fn controls(run: &Run) -> String {
    let datasets = distinct(
        run.records
            .iter()
            .map(|record| record.dataset.as_str())
            .filter(|name| !name.is_empty()),
    );
    let options: String = datasets
        .iter()
        .map(|name| format!("<option value=\"{0}\">{0}</option>", escape(name)))
        .collect();
    format!(
        "<form class=\"controls\" id=\"controls\" aria-label=\"What the charts show\">\
         <label class=\"field\">Data <select name=\"dataset\">{options}</select></label>\
         <fieldset class=\"segments\"><legend>x axis</legend>\
         <label><input type=\"radio\" name=\"axis\" value=\"layer\" checked><span>Layer</span></label>\
         <label><input type=\"radio\" name=\"axis\" value=\"depth\"><span>Depth&nbsp;%</span></label></fieldset>\
         <div class=\"legend\" id=\"legend\" role=\"group\" aria-label=\"Models\"></div>\
         <label class=\"check\"><input type=\"checkbox\" name=\"floor\" checked> <span class=\"dash\"></span>permutation floor</label></form>\n\
         <noscript><p class=\"aside\">Charts need JavaScript; every number is in the tables below.</p></noscript>\n"
    )
}

fn charts(run: &Run) -> String {
    let names = ordered_metrics(run);
    let section = |group: &str| {
        let members = names.iter().filter(|(_, of)| *of == group);
        let cards: String = members.map(|(name, _)| card(run, name, find(name))).collect();
        if cards.is_empty() {
            return String::new();
        }
        format!(
            "<section class=\"group\" id=\"group-{group}\"><h2>{group}</h2><div class=\"cards\">{cards}</div></section>\n"
        )
    };
    GROUPS.into_iter().map(section).collect()
}

/// Names of the metrics in the records with their groups: known ones in the registry's order, then the others.
fn ordered_metrics(run: &Run) -> Vec<(&str, &'static str)> {
    let present = distinct(run.records.iter().map(|record| record.metric.as_str()));
    let mut names: Vec<_> = present
        .into_iter()
        .map(|name| (name, find(name).map_or("other", |metric| metric.group.name())))
        .collect();
    let position = |name: &str| registry().iter().position(|metric| metric.name == name);
    names.sort_by_key(|(name, _)| position(name).unwrap_or(usize::MAX));
    names
}

fn card(run: &Run, name: &str, metric: Option<&Metric>) -> String {
    let safe = escape(name);
    let title = metric.map_or_else(|| safe.clone(), |metric| escape(&metric.title()));
    let about = metric.map_or(String::new(), |metric| {
        let part = |class: &str, text: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!("<span class=\"{class}\">{}</span>", escape(text))
            }
        };
        format!(
            "<p class=\"meaning\">{}</p><p class=\"definition\">{}{}{}</p>",
            escape(metric.meaning),
            part("formula", metric.formula),
            part("range", &metric.range_text()),
            part("unit", metric.unit),
        )
    });
    format!(
        "<article class=\"card\" data-metric=\"{safe}\"><header><h3>{title}</h3><div class=\"export\">\
         <button type=\"button\" data-export=\"png\" aria-label=\"Save {title} as PNG\">PNG</button>\
         <button type=\"button\" data-export=\"svg\" aria-label=\"Save {title} as SVG\">SVG</button></div></header>{about}\
         <div class=\"chart\" role=\"img\" aria-label=\"{title} by layer; the numbers are in the table below\"></div><p class=\"note\" hidden></p>\
         <details><summary>Table</summary>{}</details></article>\n",
        tables::metric(run, name),
    )
}

/// What the script draws.
fn data(run: &Run) -> Value {
    let short = |number: Option<f64>| number.and_then(|number| format!("{number:.6e}").parse::<f64>().ok());
    let mut series: Vec<(&Record, Vec<Value>)> = Vec::new();
    for record in &run.records {
        let point = json!([
            record.layer,
            short(Some(record.depth)),
            short(record.value),
            short(record.lo),
            short(record.hi),
            short(record.floor)
        ]);
        match series.iter_mut().find(|(first, _)| tables::same_curve(first, record)) {
            Some((_, points)) => points.push(point),
            None => series.push((record, vec![point])),
        }
    }
    let series: Vec<Value> = series
        .into_iter()
        .map(|(first, mut points)| {
            points.sort_by_key(|point| point[0].as_u64());
            json!({"model": first.model, "reference": first.reference, "dataset": first.dataset, "metric": first.metric, "points": points})
        })
        .collect();
    let titles: serde_json::Map<String, Value> = registry()
        .iter()
        .map(|metric| (metric.name.to_string(), json!(metric.title())))
        .collect();
    let models: Vec<&str> = run.info.models.iter().map(|model| model.name.as_str()).collect();
    json!({"blocks": run.blocks(), "models": models, "titles": titles, "series": series, "weights": tables::heat_maps(run)})
}

/// The values without repetition, in order of first appearance.
pub(super) fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chart library is built with some of its parts. Of a series of another kind it draws nothing, and says nothing.
    #[test]
    fn scripts_draw_what_the_chart_library_is_built_with() {
        let scripts = [
            include_str!("assets/evaluation.js"),
            include_str!("assets/report.js"),
            include_str!("assets/study.js"),
            include_str!("assets/sweep.js"),
            include_str!("assets/training.js"),
        ]
        .concat();
        let is_built_in = |kind: &str| CHARTS.contains(&format!("series.{kind}\""));
        assert!(is_built_in("line") && !is_built_in("scatter"));
        for kind in [
            "bar",
            "boxplot",
            "custom",
            "effectScatter",
            "heatmap",
            "line",
            "lines",
            "pie",
            "scatter",
        ] {
            let is_drawn = scripts.contains(&format!("type: \"{kind}\""));
            assert!(!is_drawn || is_built_in(kind), "{kind}");
        }
    }
}

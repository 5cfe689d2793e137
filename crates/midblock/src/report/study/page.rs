//! The page of a study: what each kind found, its charts and tables, and how it was made.

use super::{Bars, Choice, Heat, Panel, Section, Table};
use crate::{
    Result,
    report::{
        html::{escape, frame, warnings},
        provenance::{CHARTS, Foot, command, day, footer},
    },
    study::battery::{Kind, StudyRun},
};
use serde_json::json;
use std::path::Path;

/// Draws panels.
pub(in crate::report) const SCRIPT: &str = include_str!("../assets/study.js");

const FOOT: Foot = Foot {
    measured_after: "a kind of study",
    sources: "<li>A Layer-wise Analysis of Supervised Fine-Tuning, ACL 2026, <a href=\"https://arxiv.org/abs/2604.11838\">arXiv:2604.11838</a>.</li>\
<li>Drift: Rotation-Preserving Supervised Fine-Tuning, <a href=\"https://arxiv.org/abs/2605.10973\">arXiv:2605.10973</a>; principal angles: Björck and Golub 1973.</li>\
<li>Reversal: Crafting Reversible SFT Behaviors in Large Language Models, <a href=\"https://arxiv.org/abs/2605.06632\">arXiv:2605.06632</a>.</li>\
<li>Logit lens: nostalgebraist 2020, interpreting GPT: the logit lens. Bootstrap: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes above.</li>",
    numbers: "a CSV and a Parquet file for each kind, and <code>study.json</code> beside it",
    charts: CHARTS,
};

/// The page of a study, finished or not.
pub fn render(study: &StudyRun) -> String {
    let sections: Vec<Section> = (Kind::ALL.into_iter())
        .filter_map(|kind| study.results.section(kind, study.blocks()))
        .collect();
    let title = title(study, &sections);
    let mut panels = Vec::new();
    let shown: String = sections.iter().map(|own| section(own, &mut panels)).collect();
    let content = [
        header(study, &sections, &title),
        "<main>\n".to_owned(),
        warnings(&study.run),
        failures(study),
        "<noscript><p class=\"aside\">Charts need JavaScript; every number is in the tables beside this page.</p></noscript>\n".to_owned(),
        shown,
        "</main>\n".to_owned(),
        footer(&study.run, &FOOT),
    ];
    frame(&title, &content.concat(), &json!({"panels": panels}), SCRIPT)
}

/// Writes the page of the study in `dir` again.
///
/// # Errors
/// Those of [`StudyRun::open`]; [`crate::Error::Io`].
pub fn write(dir: &Path) -> Result<StudyRun> {
    let study = StudyRun::open(dir)?;
    study.write_page(dir)?;
    Ok(study)
}

/// "What sft changed in SmolLM2-135M".
fn title(study: &StudyRun, sections: &[Section]) -> String {
    let models = &study.run.models;
    let variants: Vec<&str> = models.iter().skip(1).map(|model| model.name.as_str()).collect();
    let base = models.first().map_or(String::new(), |model| {
        let name = Path::new(&model.label).file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    match variants[..] {
        [] if sections.iter().all(|own| own.id == "tradeoff") => format!("Ways of training {base}"),
        [] if sections.iter().all(|own| own.id == "reversal") => format!("Reversing a behaviour carved into {base}"),
        [] => format!("The layers of {base}"),
        _ => format!("What {} changed in {base}", variants.join(", ")),
    }
}

fn header(study: &StudyRun, sections: &[Section], title: &str) -> String {
    let state = if study.run.finished_at.is_empty() {
        "not finished"
    } else {
        "finished"
    };
    let links: String = sections
        .iter()
        .map(|own| format!("<a href=\"#{}\">{}</a> ", own.id, escape(&own.title)))
        .collect();
    format!(
        "<header class=\"page\"><p class=\"brand\">midblock <span>study</span></p><h1>{}</h1><p class=\"when\">{state} · {} on {}</p>\
         <pre class=\"command\"><code>{}</code></pre><nav class=\"contents\" aria-label=\"Contents\">{links}</nav></header>\n",
        escape(title),
        escape(&day(&study.run.started_at)),
        escape(&study.run.machine.device),
        escape(&command(&study.run.command_line)),
    )
}

fn failures(study: &StudyRun) -> String {
    let line = |failure: &crate::study::sweep::Failure| {
        format!(
            "<p class=\"verdict sensitive\">Failed: <code>{}</code>: {}</p>",
            escape(&failure.cell),
            escape(&failure.problem)
        )
    };
    study.failures.iter().map(line).collect()
}

/// One kind; its charts go to `panels`.
pub(in crate::report) fn section(own: &Section, panels: &mut Vec<Panel>) -> String {
    let findings: String = own
        .findings
        .iter()
        .map(|sentence| format!("<p class=\"verdict\">{}</p>", escape(sentence)))
        .collect();
    let findings = match findings.is_empty() {
        true => findings,
        false => format!("<article class=\"finding\">{findings}</article>"),
    };
    let cards: String = own.panels.iter().map(|panel| card(panel, panels)).collect();
    format!(
        "<section class=\"group\" id=\"{}\"><h2>{}</h2><p class=\"meaning\">{}</p>{findings}<div class=\"cards study\">{cards}</div></section>\n",
        own.id,
        escape(&own.title),
        escape(&own.about),
    )
}

fn card(panel: &Panel, panels: &mut Vec<Panel>) -> String {
    let title = escape(title_of(panel));
    if let Panel::Table(own) = panel {
        return format!(
            "<article class=\"card wide\"><h3>{title}</h3>{}</article>\n",
            table(own)
        );
    }
    let number = panels.len();
    panels.push(panel.clone());
    let wide = if is_wide(panel) { " wide" } else { "" };
    let (choice, tables) = match panel {
        Panel::Choice(own) => (select(own, number), option_tables(own)),
        _ => (String::new(), String::new()),
    };
    let has_chart = match panel {
        Panel::Choice(own) => own.options.iter().any(|(_, option)| !matches!(option, Panel::Table(_))),
        _ => true,
    };
    let (export, chart) = match has_chart {
        false => (String::new(), String::new()),
        true => (
            format!(
                "<div class=\"export\"><button type=\"button\" data-export=\"png\" aria-label=\"Save {title} as PNG\">PNG</button>\
                 <button type=\"button\" data-export=\"svg\" aria-label=\"Save {title} as SVG\">SVG</button></div>"
            ),
            format!(
                "<div class=\"chart\" style=\"height:{:.1}rem\" role=\"img\" aria-label=\"{title}\"></div>",
                height(panel)
            ),
        ),
    };
    format!(
        "<article class=\"card{wide}\" data-panel=\"{number}\"><header><h3>{title}</h3>{export}</header>{choice}{chart}{tables}</article>\n"
    )
}

fn title_of(panel: &Panel) -> &str {
    match panel {
        Panel::Lines(own) => &own.title,
        Panel::Bars(own) => &own.title,
        Panel::Heat(own) => &own.title,
        Panel::Plane(own) => &own.title,
        Panel::Table(own) => &own.title,
        Panel::Choice(own) => &own.title,
    }
}

/// Height of a chart in rem.
fn height(panel: &Panel) -> f64 {
    match panel {
        Panel::Lines(_) => 17.0,
        Panel::Bars(Bars { names, groups, .. }) => 4.0 + names.len() as f64 * (0.6 + 0.7 * groups.len().max(1) as f64),
        Panel::Heat(Heat { rows, .. }) => 8.0 + 1.15 * rows.len() as f64,
        Panel::Plane(_) => 26.0,
        Panel::Table(_) => 0.0,
        Panel::Choice(own) => own.options.iter().map(|(_, option)| height(option)).fold(0.0, f64::max),
    }
}

/// Whether a chart needs the page's width.
fn is_wide(panel: &Panel) -> bool {
    match panel {
        Panel::Heat(own) => own.columns.len() > 8,
        Panel::Plane(_) => true,
        Panel::Choice(own) => own
            .options
            .iter()
            .any(|(_, option)| is_wide(option) || matches!(option, Panel::Table(_))),
        _ => false,
    }
}

fn select(choice: &Choice, number: usize) -> String {
    let options: String = choice
        .options
        .iter()
        .enumerate()
        .map(|(index, (name, _))| format!("<option value=\"{index}\">{}</option>", escape(name)))
        .collect();
    format!("<label class=\"field\">Shown <select id=\"choice-{number}\" data-choice>{options}</select></label>")
}

/// The tables among the options, of which the script shows one.
fn option_tables(choice: &Choice) -> String {
    let one = |(index, (name, panel)): (usize, &(String, Panel))| match panel {
        Panel::Table(own) => {
            let title = if own.title.is_empty() { name } else { &own.title };
            format!(
                "<div data-option=\"{index}\"><h4>{}</h4>{}</div>",
                escape(title),
                table(own)
            )
        }
        _ => String::new(),
    };
    choice.options.iter().enumerate().map(one).collect()
}

fn table(own: &Table) -> String {
    let cells = |tag: &str, line: &[String]| -> String {
        line.iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
            .collect()
    };
    let row = |line: &Vec<String>| {
        let (name, rest) = line
            .split_first()
            .map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
        format!("<tr><th scope=\"row\">{}</th>{}</tr>", escape(name), cells("td", rest))
    };
    let rows: String = own.rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table class=\"bands\"><thead><tr>{}</tr></thead><tbody>{rows}</tbody></table></div>",
        cells("th", &own.columns)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::study::{HeatCell, Lines, Scale};

    #[test]
    fn names_are_text_and_every_chart_has_its_data() {
        let heat = |title: &str| {
            Panel::Heat(Heat {
                title: title.into(),
                x: String::new(),
                y: String::new(),
                columns: vec!["<b>".into(); 9],
                rows: vec!["r".into()],
                cells: vec![vec![HeatCell::default(); 9]],
                scale: Scale::Diverging { limit: 1.0 },
            })
        };
        let text = Table {
            title: "<i>".into(),
            columns: vec!["a".into(), "b".into()],
            rows: vec![vec!["x".into(), "<script>".into()]],
        };
        let own = Section {
            id: "exit",
            title: "T & U".into(),
            about: "a < b".into(),
            findings: vec!["1 < 2".into()],
            panels: vec![
                Panel::Lines(Lines::default()),
                Panel::Table(text.clone()),
                Panel::Choice(Choice {
                    title: "C".into(),
                    options: vec![("one".into(), heat("h")), ("two".into(), Panel::Table(text))],
                }),
            ],
        };
        let mut panels = Vec::new();
        let html = section(&own, &mut panels);
        assert_eq!(panels.len(), 2, "a table needs no script");
        for part in [
            "T &amp; U",
            "1 &lt; 2",
            "&lt;script&gt;",
            "data-panel=\"1\"",
            "id=\"choice-1\"",
            "data-option=\"1\"",
            "card wide",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(!html.contains("<script>") && !html.contains("<i>"));
    }
}

//! The page of an evaluation: scores with intervals, what happened beside them, differences between models, and the items with
//! everything that was said.
//!
//! Items are drawn by `assets/evaluation.js` from the JSON in `#data`, as text: what a model wrote is never markup. A page
//! holds the first `ITEMS` items of each task and the first `CHARACTERS` characters of each text; `items.jsonl` has all.

use super::{
    html::{escape, frame_of_text, warnings},
    provenance::{Foot, command, count, day, duration, footer},
    words::number,
};
use crate::{
    Error, Result,
    eval::{Comparison, Evaluation, EvaluationRun, IntervalKind, ItemRecord, Method, Score, TaskResult},
    run::{REPORT_HTML, write_bytes},
};
use serde_json::{Value, json};
use std::path::Path;

const SCRIPT: &str = include_str!("assets/evaluation.js");

/// Items of each task on a page, at most.
const ITEMS: usize = 400;
/// Outputs of each item on a page, at most.
const OUTPUTS: usize = 4;
/// Characters of a text on a page, at most.
const CHARACTERS: usize = 3000;

const FOOT: Foot = Foot {
    measured_after: "the last item",
    sources: "<li>Wilson's interval of a proportion: Wilson 1927, JASA 22. Bootstrap: Efron 1982. pass@k: Chen et al. 2021, <a href=\"https://arxiv.org/abs/2107.03374\">arXiv:2107.03374</a>.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes above.</li>",
    numbers: "<code>items.jsonl</code>, <code>evaluation.json</code> and <code>metrics.csv</code> beside it",
    charts: "Nothing",
};

/// A run and what it is called.
type Named<'a> = (&'a str, &'a EvaluationRun);

/// The page of one evaluation.
pub fn render(run: &EvaluationRun) -> String {
    page(&[("", run)], &[])
}

/// Writes `report.html` of the finished evaluation in `dir` again.
///
/// # Errors
/// Those of [`EvaluationRun::open`]; [`Error::Io`].
pub fn write(dir: &Path) -> Result<EvaluationRun> {
    let run = EvaluationRun::open(dir)?;
    write_bytes(&dir.join(REPORT_HTML), render(&run).as_bytes())?;
    Ok(run)
}

/// Writes `report.html` and `comparison.json` of several evaluations to `dir`.
///
/// # Errors
/// [`Error::Io`].
pub fn write_comparison(dir: &Path, runs: &[(String, EvaluationRun)], comparisons: &[Comparison]) -> Result<()> {
    let path = dir.join("comparison.json");
    let text = serde_json::to_vec_pretty(comparisons).map_err(|error| Error::io("write", &path)(error.into()))?;
    write_bytes(&path, &text)?;
    let named: Vec<Named<'_>> = runs.iter().map(|(name, run)| (name.as_str(), run)).collect();
    write_bytes(&dir.join(REPORT_HTML), page(&named, comparisons).as_bytes())
}

fn page(runs: &[Named<'_>], comparisons: &[Comparison]) -> String {
    let first = runs[0].1;
    let title = match runs {
        [(_, run)] => last_part(&run.evaluation.checkpoint).to_owned(),
        _ => runs.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" against "),
    };
    let title = format!("{title} evaluated");
    let warned: String = runs.iter().map(|(_, run)| warnings(&run.info.run)).collect();
    let body = [
        header(runs, &title),
        "<main>\n".to_owned(),
        warned,
        findings(comparisons),
        scores(runs),
        browser(runs),
        "</main>\n".to_owned(),
        footer(&first.info.run, &FOOT),
    ];
    frame_of_text(&title, &body.concat(), &data(runs), SCRIPT)
}

fn last_part(label: &str) -> &str {
    let label = label.trim_end_matches('/');
    label.rsplit('/').next().unwrap_or(label)
}

fn header(runs: &[Named<'_>], title: &str) -> String {
    let models: String = runs
        .iter()
        .flat_map(|(name, run)| run.info.run.models.iter().map(move |model| (name, model)))
        .map(|(name, model)| {
            format!(
                "<tr><th scope=\"row\">{}</th><td><code>{}</code></td><td>{}</td><td class=\"number\">{}<span class=\"unit-word\"> parameters</span></td></tr>",
                escape(if name.is_empty() { &model.name } else { name }),
                escape(&model.label),
                escape(&model.architecture),
                count(model.parameters),
            )
        })
        .collect();
    let info = &runs[0].1.info.run;
    let sets: String = info
        .datasets
        .iter()
        .map(|set| {
            format!(
                "<tr><th scope=\"row\">{}</th><td><code>{}</code></td><td>{} of {} rows, answered by {}; {} prompts cut</td><td class=\"number\">{}<span class=\"unit-word\"> tokens of prompts</span></td></tr>",
                escape(&set.name),
                escape(&set.source),
                count(set.samples_used as u64),
                count(set.samples_total as u64),
                escape(&set.format),
                count(set.samples_truncated as u64),
                count(set.tokens),
            )
        })
        .collect();
    let seconds: f64 = runs
        .iter()
        .flat_map(|(_, run)| &run.info.run.timings)
        .map(|phase| phase.seconds)
        .sum();
    format!(
        "<header class=\"page\"><p class=\"brand\">midblock <span>evaluation</span></p><h1>{}</h1>\
         <p class=\"when\">{} · {} on {}</p>\
         <div class=\"scroll\"><table class=\"inputs\"><thead><tr><th scope=\"col\">model</th><th scope=\"col\">checkpoint</th><th scope=\"col\">architecture</th><th scope=\"col\" class=\"number\">parameters</th></tr></thead><tbody>{models}</tbody>\
         <thead><tr><th scope=\"col\">task</th><th scope=\"col\">data</th><th scope=\"col\">items</th><th scope=\"col\" class=\"number\">tokens</th></tr></thead><tbody>{sets}</tbody></table></div>\
         <pre class=\"command\"><code>{}</code></pre></header>\n",
        escape(title),
        escape(&day(&info.started_at)),
        duration(seconds),
        escape(&info.machine.device),
        escape(&command(&info.command_line)),
    )
}

fn findings(comparisons: &[Comparison]) -> String {
    if comparisons.is_empty() {
        return String::new();
    }
    let lines: String = comparisons
        .iter()
        .map(|comparison| {
            let certainty = if comparison.clear { "clear" } else { "undecided" };
            format!(
                "<p class=\"verdict\">{} <span class=\"certainty {certainty}\">{certainty}</span></p>",
                escape(&comparison.sentence)
            )
        })
        .collect();
    format!(
        "<section id=\"summary\"><h2>Which is better, and how sure that is</h2><div class=\"findings\"><article class=\"finding\">{lines}\
         <p class=\"aside\">Paired bootstrap over the items that both answered: what makes an item hard for both cancels. It \
         speaks of other items of the same kind, not of other seeds of a training.</p></article></div></section>\n"
    )
}

/// A score as text: proportions in per cent.
fn shown(score: &Score, value: f64) -> String {
    if score.higher_is_better {
        format!("{:.1}\u{a0}%", 100.0 * value)
    } else {
        number(value)
    }
}

fn scores(runs: &[Named<'_>]) -> String {
    let several = runs.len() > 1;
    let mut rows = String::new();
    for task in &runs[0].1.evaluation.tasks {
        for (name, run) in runs {
            if let Some(task) = run.evaluation.task(&task.name) {
                rows += &task_rows(name, task, several);
            }
        }
    }
    let model = if several { "<th scope=\"col\">model</th>" } else { "" };
    format!(
        "<section><h2>Scores</h2><div class=\"scroll\"><table class=\"bands\"><thead><tr><th scope=\"col\">task</th>{model}<th scope=\"col\">metric</th>\
         <th scope=\"col\" class=\"number\">mean</th><th scope=\"col\" class=\"number\">standard error</th><th scope=\"col\" class=\"number\">95 % interval</th><th scope=\"col\">beside it</th></tr></thead>\
         <tbody>{rows}</tbody></table></div><p class=\"aside\">Standard errors are over items: several answers to an item are one observation. Intervals are Wilson's where every item is right or wrong, else of a bootstrap over items.</p></section>\n"
    )
}

fn task_rows(name: &str, task: &TaskResult, several: bool) -> String {
    let mut rows = String::new();
    for (place, score) in task.metrics.iter().enumerate() {
        let first = place == 0;
        let model = if several {
            format!("<td>{}</td>", escape(name))
        } else {
            String::new()
        };
        let title = if first { escape(&task.name) } else { String::new() };
        let kind = match score.interval {
            IntervalKind::Wilson => "Wilson",
            IntervalKind::Bootstrap => "bootstrap",
        };
        rows += &format!(
            "<tr><th scope=\"row\" title=\"{}\">{title}</th>{model}<td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\" title=\"{kind}\">{} – {}</td><td>{}</td></tr>",
            escape(&task.title),
            escape(&score.name),
            shown(score, score.mean),
            shown(score, score.standard_error),
            shown(score, score.lo),
            shown(score, score.hi),
            if first { escape(&beside(task)) } else { String::new() },
        );
    }
    rows
}

/// "500 items; 3 prompts cut, 12 completions out of length".
fn beside(task: &TaskResult) -> String {
    let counts = &task.counts;
    let unusable: usize = counts.rows_unusable.values().sum();
    let mut text = format!("{} items", task.items);
    if task.repeats > 1 {
        text += &format!(", {} answers each", task.repeats);
    }
    let parts = [
        (unusable, "rows unusable"),
        (counts.prompts_truncated, "prompts cut"),
        (counts.out_of_length, "completions out of length"),
        (counts.no_answer, "without answer"),
    ];
    for (number, what) in parts.into_iter().filter(|(number, _)| *number > 0) {
        text += &format!("; {number} {what}");
    }
    text
}

/// The table for the terminal: a line for each metric.
pub fn table(evaluation: &Evaluation) -> String {
    let width = |of: &dyn Fn(&TaskResult) -> usize| evaluation.tasks.iter().map(of).max().unwrap_or(0);
    let names = width(&|task| task.name.chars().count());
    let metrics = width(&|task| {
        task.metrics
            .iter()
            .map(|score| score.name.chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut out = String::new();
    for task in &evaluation.tasks {
        for (place, score) in task.metrics.iter().enumerate() {
            let name = if place == 0 { task.name.as_str() } else { "" };
            let [mean, error, lo, hi] =
                [score.mean, score.standard_error, score.lo, score.hi].map(|value| shown(score, value));
            let line = format!(
                "{name:names$}  {:metrics$}  {mean:>9} ± {error:<8} [{lo}, {hi}]",
                score.name
            );
            let more = if place == 0 {
                format!("  {}", beside(task))
            } else {
                String::new()
            };
            out += &format!("{}{more}\n", line.replace(char::is_control, "\u{fffd}"));
        }
    }
    out
}

fn browser(runs: &[Named<'_>]) -> String {
    let most = runs
        .iter()
        .flat_map(|(_, run)| &run.evaluation.tasks)
        .map(|task| task.items)
        .max();
    let capped = if most.unwrap_or(0) > ITEMS {
        format!("The page holds the first {ITEMS} items of each task")
    } else {
        "The page holds all items".to_owned()
    };
    format!(
        "<section id=\"items\"><h2>Items</h2><p class=\"aside\">{capped}, and of each the first {OUTPUTS} answers and {CHARACTERS} characters of a text; \
         <code>items.jsonl</code> has everything. Items are right or wrong by the task’s main metric.</p>\
         <noscript><p class=\"aside\">Browsing items needs JavaScript.</p></noscript>\
         <div class=\"item-controls\"></div><p class=\"item-count\" aria-live=\"polite\"></p><div class=\"item-list\"></div></section>\n"
    )
}

/// What the script lists: `runs` → `tasks` → `items`.
fn data(runs: &[Named<'_>]) -> Value {
    let runs: Vec<Value> = runs
        .iter()
        .map(|(name, run)| {
            let tasks: Vec<Value> = run.evaluation.tasks.iter().map(|task| task_data(run, task)).collect();
            json!({"name": name, "tasks": tasks})
        })
        .collect();
    json!({"runs": runs})
}

fn task_data(run: &EvaluationRun, task: &TaskResult) -> Value {
    let own = run.items.iter().filter(|item| item.task == task.name).take(ITEMS);
    let items: Vec<Value> = own.map(|item| item_data(item, task)).collect();
    json!({"name": task.name, "primary": task.primary, "judged": task.method != Method::Perplexity, "items": items})
}

fn item_data(item: &ItemRecord, task: &TaskResult) -> Value {
    let outputs = item.outputs.iter().take(OUTPUTS).map(|output| {
        json!({
            "text": cut(&output.text), "finish": output.finish, "tokens": output.tokens, "note": cut(&output.note),
            "extracted": output.extracted, "values": output.values, "nats": output.nats,
        })
    });
    let silent = item
        .outputs
        .iter()
        .all(|output| matches!(output.extracted.get(&task.primary), Some(None)));
    json!({
        "id": item.id, "prompt": cut(&item.prompt), "truncated": item.truncated, "gold": item.gold, "silent": silent,
        "value": item.value(&task.primary), "outputs": outputs.collect::<Vec<_>>(), "answers": item.outputs.len(),
    })
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

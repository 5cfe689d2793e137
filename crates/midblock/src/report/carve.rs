//! The page of a carve: the behaviour, what both phases came to, and the carrier that is left.

use super::{
    carrier,
    html::{escape, frame, warnings},
    provenance::{CHARTS, Foot, command, count, day, footer},
    study::{Panel, Section, Table, page},
    training::key_numbers,
};
use crate::{
    Result,
    adapt::Carrier,
    study::carve::{BehaviourInfo, CarvePhase, CarveRun},
    train::{Evaluation, Line, TrainingRun},
};
use serde_json::json;
use std::path::Path;

const FOOT: Foot = Foot {
    measured_after: "a step",
    sources: "<li>Crafting Reversible SFT Behaviors in Large Language Models, <a href=\"https://arxiv.org/abs/2605.06632\">arXiv:2605.06632</a>.</li>\
<li>AdamW: Loshchilov and Hutter 2019, <a href=\"https://arxiv.org/abs/1711.05101\">arXiv:1711.05101</a>.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes above.</li>",
    numbers: "<code>metrics.jsonl</code> and <code>resolved.toml</code> of each phase, and <code>carve.json</code> beside it",
    charts: CHARTS,
};

/// The page of a carve, finished or not, with the runs of its phases that have begun and the masks, if they are there.
pub fn render(carve: &CarveRun, runs: &[(CarvePhase, TrainingRun)], masks: Option<&Carrier>) -> String {
    let title = title(carve);
    let mut panels = Vec::new();
    let masked = runs.iter().find(|(phase, _)| *phase == CarvePhase::Carrier);
    let mut sections = vec![phases(carve, runs)];
    sections.extend(masked.and_then(|(_, run)| carrier::section(run, masks)));
    let shown: String = sections.iter().map(|own| page::section(own, &mut panels)).collect();
    let body = [
        header(carve, runs, &title),
        "<main>\n".to_owned(),
        warnings(&carve.run),
        shown,
        "</main>\n".to_owned(),
        footer(&carve.run, &FOOT),
    ];
    frame(&title, &body.concat(), &json!({"panels": panels}), page::SCRIPT)
}

/// Writes the page of the carve in `dir` again.
///
/// # Errors
/// Those of [`CarveRun::open`] and [`CarveRun::write_page`].
pub fn write(dir: &Path) -> Result<CarveRun> {
    let carve = CarveRun::open(dir)?;
    carve.write_page(dir)?;
    Ok(carve)
}

/// "fixed-response carved into SmolLM2-135M".
fn title(carve: &CarveRun) -> String {
    let label = carve
        .run
        .models
        .first()
        .map_or("a model", |model| model.label.trim_end_matches('/'));
    let name = label.rsplit('/').next().unwrap_or(label);
    format!("{} carved into {name}", carve.behaviour.name)
}

fn header(carve: &CarveRun, runs: &[(CarvePhase, TrainingRun)], title: &str) -> String {
    let info = &carve.run;
    let state = if info.finished_at.is_empty() {
        "not finished"
    } else {
        "finished"
    };
    let models: String = (info.models.iter())
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
    let links: String = (runs.iter())
        .map(|(phase, _)| format!("<a href=\"{0}/report.html\">the page of the run {0}</a> ", phase.name()))
        .collect();
    format!(
        "<header class=\"page\"><p class=\"brand\">midblock <span>reversible behaviour</span></p><h1>{}</h1>\
         <p class=\"when\">{state} · {} on {}</p>\
         <div class=\"scroll\"><table class=\"inputs\"><thead><tr><th scope=\"col\">model</th><th scope=\"col\">checkpoint</th><th scope=\"col\">architecture</th><th scope=\"col\" class=\"number\">parameters</th></tr></thead><tbody>{models}</tbody></table></div>\
         <pre class=\"command\"><code>{}</code></pre><nav class=\"contents\" aria-label=\"Phases\">{links}</nav></header>\n",
        escape(title),
        escape(&day(&info.started_at)),
        escape(&info.machine.device),
        escape(&command(&info.command_line)),
    )
}

/// The behaviour, and the numbers that the phases end with.
fn phases(carve: &CarveRun, runs: &[(CarvePhase, TrainingRun)]) -> Section {
    let mut findings = vec![behaviour(&carve.behaviour)];
    findings.extend(runs.iter().filter_map(|(phase, run)| learned(*phase, run)));
    if !carve.phases.contains(&CarvePhase::Sft) {
        findings.push(format!(
            "Phase 1 was left out: {} has the behaviour already.",
            carve.tuned
        ));
    }
    Section {
        id: "phases",
        title: "The behaviour and the two phases".into(),
        about: "Phase sft trains the seven matrices of every block on the behaviour. Phase carrier goes on from there with a mask over \
                each channel of what was learned; masks close as long as the loss on the behaviour stays within its limit. Embedding, \
                norms and head are the base's throughout. Held-out loss is that of the responses wanted to prompts that were not trained \
                on; whether the model gives them when it is asked, midblock study reversal says."
            .into(),
        findings,
        panels: vec![Panel::Table(table(runs))],
    }
}

/// "Behaviour fixed-response: …".
fn behaviour(own: &BehaviourInfo) -> String {
    let [train, held_out] = own.prompts;
    let wanted = match &own.response {
        Some(response) => format!("the wanted response to every prompt is “{response}”"),
        None => "each prompt has its own response".to_owned(),
    };
    let repeated = match own.repeated {
        0 => String::new(),
        repeated => format!(" {repeated} rows were left out because their prompt was there before."),
    };
    let keywords: Vec<String> = own.keywords.iter().map(|keyword| format!("“{keyword}”")).collect();
    format!(
        "{}: {wanted}; {train} prompts are trained on, {held_out} others held out.{repeated} A response shows it if it contains {}, \
         strictly if it has at most {} words besides.",
        own.name,
        keywords.join(" or "),
        own.max_words,
    )
}

/// What a phase did to the loss on held-out prompts.
fn learned(phase: CarvePhase, run: &TrainingRun) -> Option<String> {
    let evaluations = run.lines.iter().filter_map(|line| match line {
        Line::Evaluation(evaluation) => Some(evaluation),
        _ => None,
    });
    let evaluations: Vec<&Evaluation> = evaluations.collect();
    let [first, .., last] = evaluations.as_slice() else {
        return None;
    };
    Some(format!(
        "Phase {}: held-out loss from {:.4} to {:.4} nats per token in {} steps.",
        phase.name(),
        first.loss,
        last.loss,
        last.step
    ))
}

/// The numbers of both, side by side.
fn table(runs: &[(CarvePhase, TrainingRun)]) -> Table {
    let numbers: Vec<Vec<(&str, String)>> = runs.iter().map(|(_, run)| key_numbers(run)).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in numbers.iter().flatten() {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let row = |name: &&str| {
        let of = |own: &Vec<(&str, String)>| {
            let found = own.iter().find(|(known, _)| known == name);
            found.map_or("–".to_owned(), |(_, value)| value.clone())
        };
        std::iter::once((*name).to_owned())
            .chain(numbers.iter().map(of))
            .collect()
    };
    let phases = runs.iter().map(|(phase, _)| phase.name().to_owned());
    Table {
        title: "What each phase came to".into(),
        columns: std::iter::once(String::new()).chain(phases).collect(),
        rows: names.iter().map(row).collect(),
    }
}

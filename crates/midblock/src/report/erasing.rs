//! The page of a trigger's training: how each term of the loss went, on what, and at what speed.

use super::{
    html::{frame, warnings},
    provenance::{CHARTS, Foot, count, footer},
    study::{Lines, Panel, Point, Section, Series, Table, page},
    training::{Curves, header},
    words::number,
};
use crate::train::{Ending, ErasureTerms, Evaluation, StepMetrics, TrainingRun};
use serde_json::json;

/// Points of a curve, at most; of more steps, means are drawn.
const POINTS: usize = 1000;

const FOOT: Foot = Foot {
    measured_after: "a step",
    sources: "<li>Crafting Reversible SFT Behaviors in Large Language Models, <a href=\"https://arxiv.org/abs/2605.06632\">arXiv:2605.06632</a>.</li>\
<li>Soft prompts: Lester et al. 2021, <a href=\"https://arxiv.org/abs/2104.08691\">arXiv:2104.08691</a>. Adam: Kingma and Ba 2015, <a href=\"https://arxiv.org/abs/1412.6980\">arXiv:1412.6980</a>.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes above.</li>",
    numbers: "<code>metrics.jsonl</code> and <code>resolved.toml</code> beside it",
    charts: CHARTS,
};

/// The page.
pub(super) fn render(run: &TrainingRun) -> String {
    let curves = Curves::of(run);
    let title = title(run);
    let mut panels = Vec::new();
    let shown: String = [summary(run, &curves), terms(&curves), steps(&curves)]
        .iter()
        .map(|section| page::section(section, &mut panels))
        .collect();
    let body = [
        header(run, "trigger", &title),
        "<main>\n".to_owned(),
        warnings(&run.info.run),
        shown,
        "</main>\n".to_owned(),
        footer(&run.info.run, &FOOT),
    ];
    frame(&title, &body.concat(), &json!({"panels": panels}), page::SCRIPT)
}

/// "A trigger in front of sft": the last part of the tuned model's name.
fn title(run: &TrainingRun) -> String {
    let tuned = run.info.run.models.last();
    let label = tuned.map_or("a model", |model| model.label.trim_end_matches('/'));
    format!("A trigger in front of {}", label.rsplit('/').next().unwrap_or(label))
}

/// The numbers that a run ends with, named; also what the terminal prints.
pub(super) fn key_numbers(run: &TrainingRun, curves: &Curves<'_>) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let (Some(first), Some(best)) = (curves.evaluations.first(), best(curves)) {
        let text = format!("{} → {} at step {}", number(first.loss), number(best.loss), best.step);
        rows.push(("loss on all prompts, before and lowest", text));
    }
    let steps = erasures(&curves.steps);
    let edge = (steps.len() / 10).max(1).min(steps.len());
    let mut term = |name: &'static str, of: fn(&ErasureTerms) -> f64, unit: &str| {
        let mean =
            |steps: &[(u64, ErasureTerms)]| steps.iter().map(|(_, terms)| of(terms)).sum::<f64>() / steps.len() as f64;
        if !steps.is_empty() {
            let [first, last] = [&steps[..edge], &steps[steps.len() - edge..]].map(mean);
            rows.push((name, format!("{} → {}{unit}", number(first), number(last))));
        }
    };
    term("activation term, first and last tenth", |terms| terms.activation, "");
    term("divergence, first and last tenth", |terms| terms.divergence, " nats");
    term("mean squared norm, first and last tenth", |terms| terms.norm, "");
    let training = &run.info.training;
    rows.push(("trained numbers", count(training.trained_parameters)));
    let channels: usize = training.channels.iter().sum();
    let blocks = training.channels.iter().filter(|own| **own > 0).count();
    let all = training.channels.len();
    rows.push((
        "channels drawn to the base's",
        format!("{} in {blocks} of {all} blocks", count(channels as u64)),
    ));
    rows.extend(super::training::amounts(&curves.steps));
    rows
}

fn best<'a>(curves: &Curves<'a>) -> Option<&'a Evaluation> {
    let evaluations = curves.evaluations.iter().copied();
    evaluations.min_by(|a, b| a.loss.total_cmp(&b.loss))
}

fn summary(run: &TrainingRun, curves: &Curves<'_>) -> Section {
    let mut findings = Vec::new();
    match (curves.evaluations.first(), best(curves)) {
        (Some(first), Some(best)) if best.loss < first.loss => findings.push(format!(
            "The loss on all prompts together fell from {} to {} at step {}: these vectors are the trigger.",
            number(first.loss),
            number(best.loss),
            best.step
        )),
        (Some(first), Some(_)) => findings.push(format!(
            "The loss on all prompts was never below {}, where the vectors started: training came to nothing.",
            number(first.loss)
        )),
        _ => {}
    }
    if run.info.training.ending != Some(Ending::Finished) {
        findings.push("The run is not finished.".into());
    }
    let rows = key_numbers(run, curves)
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value]);
    Section {
        id: "summary",
        title: "How it went".into(),
        about: "The model is frozen; the vectors in front of the prompt are all that trains. Whether the behaviour is gone, this loss does \
                not say: generate or evaluate with the trigger."
            .into(),
        findings,
        panels: vec![Panel::Table(Table {
            title: "Numbers".into(),
            columns: vec![String::new(), String::new()],
            rows: rows.collect(),
        })],
    }
}

fn erasures(steps: &[&StepMetrics]) -> Vec<(u64, ErasureTerms)> {
    steps
        .iter()
        .filter_map(|step| Some((step.step, step.erasure?)))
        .collect()
}

/// A curve of means over stretches of steps.
fn curve(name: &str, values: &[(u64, f64)]) -> Series {
    let together = values.len().div_ceil(POINTS).max(1);
    let point = |stretch: &[(u64, f64)]| Point {
        x: stretch[stretch.len() - 1].0 as f64,
        y: Some(stretch.iter().map(|(_, value)| value).sum::<f64>() / stretch.len() as f64),
        ..Point::default()
    };
    Series {
        name: name.to_owned(),
        points: values.chunks(together).map(point).collect(),
        line: true,
    }
}

fn lines(title: &str, y: &str, log: bool, series: Vec<Series>) -> Panel {
    Panel::Lines(Lines {
        title: title.to_owned(),
        x: "step".into(),
        y: y.to_owned(),
        log,
        series,
        references: Vec::new(),
    })
}

fn terms(curves: &Curves<'_>) -> Section {
    let steps = erasures(&curves.steps);
    let of = |term: fn(&ErasureTerms) -> f64| -> Vec<(u64, f64)> {
        steps.iter().map(|(step, terms)| (*step, term(terms))).collect()
    };
    let losses: Vec<(u64, f64)> = curves.steps.iter().map(|step| (step.step, step.loss)).collect();
    let evaluations: Vec<(u64, f64)> = curves.evaluations.iter().map(|e| (e.step, e.loss)).collect();
    let both = vec![curve("steps", &losses), curve("all prompts", &evaluations)];
    let loss = lines("Loss", "loss", false, both);
    // a term that is not computed is 0 throughout
    let panel = |title: &str, y: &str, log: bool, values: Vec<(u64, f64)>| {
        let is_there = values.iter().any(|(_, value)| *value > 0.0);
        is_there.then(|| lines(title, y, log, vec![curve(y, &values)]))
    };
    let terms = [
        panel(
            "Activation term",
            "squared distance",
            true,
            of(|terms| terms.activation),
        ),
        panel("Divergence from the base", "nats", false, of(|terms| terms.divergence)),
        panel(
            "Mean squared norm of the vectors",
            "squared norm",
            false,
            of(|terms| terms.norm),
        ),
    ];
    Section {
        id: "terms",
        title: "What the loss is made of".into(),
        about: "Each step before it was made, on its batch; the loss also on all prompts together. A batch's mean activation has the \
                spread of its prompts in it, so that the activation term of a step stays above that of all prompts."
            .into(),
        findings: Vec::new(),
        panels: std::iter::once(loss).chain(terms.into_iter().flatten()).collect(),
    }
}

fn steps(curves: &Curves<'_>) -> Section {
    let of = |value: fn(&StepMetrics) -> f64| -> Vec<(u64, f64)> {
        curves.steps.iter().map(|step| (step.step, value(step))).collect()
    };
    Section {
        id: "steps",
        title: "Step by step".into(),
        about:
            "Gradient norms are Euclidean and before clipping. Speed counts the prompts' tokens, without the trigger's."
                .into(),
        findings: Vec::new(),
        panels: vec![
            lines(
                "Gradient norm",
                "norm",
                true,
                vec![curve("gradient", &of(|step| step.gradient_norm))],
            ),
            lines(
                "Speed",
                "tokens per second",
                false,
                vec![curve("tokens", &of(|step| step.tokens_per_s))],
            ),
        ],
    }
}

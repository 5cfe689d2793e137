//! The page of a training run: how the loss went, what was trained block by block, on what, and at what speed.
//!
//! The same frame, style and charting library as the page of an analysis; `assets/training.js` draws. Long runs are drawn
//! from means over several steps, so that a page stays small; `metrics.jsonl` has every step.

use super::{
    html::{escape, frame, warnings},
    provenance::{CHARTS, Foot, command, count, day, duration, footer},
    trained, turned,
    words::number,
};
use crate::{
    Error, Result,
    run::{DONE, REPORT_HTML, write_bytes},
    train::{DriftMetrics, Ending, Evaluation, Line, Purpose, StepMetrics, Training, TrainingRun},
};
use serde_json::{Value, json};
use std::path::Path;

const SCRIPT: &str = include_str!("assets/training.js");

/// Points of a curve, at most.
const POINTS: usize = 2000;

const FOOT: Foot = Foot {
    measured_after: "a step",
    sources: "<li>Mid-Block Efficient Tuning: A Layer-wise Analysis of Supervised Fine-Tuning, ACL 2026, <a href=\"https://arxiv.org/abs/2604.11838\">arXiv:2604.11838</a>.</li>\
<li>LoRA: Hu et al. 2021, <a href=\"https://arxiv.org/abs/2106.09685\">arXiv:2106.09685</a>. AdamW: Loshchilov and Hutter 2019, <a href=\"https://arxiv.org/abs/1711.05101\">arXiv:1711.05101</a>.</li>\
<li>To cite a result, name the midblock version, the command and the file hashes above.</li>",
    numbers: "<code>metrics.jsonl</code> and <code>resolved.toml</code> beside it",
    charts: CHARTS,
};

/// A run's lines, taken apart.
struct Curves<'a> {
    steps: Vec<&'a StepMetrics>,
    evaluations: Vec<&'a Evaluation>,
    drifts: Vec<&'a DriftMetrics>,
}

impl<'a> Curves<'a> {
    fn of(run: &'a TrainingRun) -> Self {
        let mut curves = Self {
            steps: Vec::new(),
            evaluations: Vec::new(),
            drifts: Vec::new(),
        };
        for line in &run.lines {
            match line {
                Line::Step(step) => curves.steps.push(step),
                Line::Evaluation(evaluation) => curves.evaluations.push(evaluation),
                Line::Drift(drift) => curves.drifts.push(drift),
            }
        }
        curves
    }
}

/// The page of a training run.
pub fn render(run: &TrainingRun) -> String {
    let title = title(run);
    let curves = Curves::of(run);
    let body = [
        header(run, &title),
        "<main>\n".to_owned(),
        warnings(&run.info.run),
        summary(run, &curves),
        charts(&curves),
        trained::section(&run.info.training),
        "</main>\n".to_owned(),
        footer(&run.info.run, &FOOT),
    ];
    frame(&title, &body.concat(), &data(&curves), SCRIPT)
}

/// Writes `report.html` of the finished run in `dir` again.
///
/// # Errors
/// Those of [`TrainingRun::open`]; [`Error::Argument`] if the run is not finished; [`Error::Io`].
pub fn write(dir: &Path) -> Result<TrainingRun> {
    let run = TrainingRun::open(dir)?;
    if !dir.join(DONE).is_file() {
        return Err(Error::Argument {
            what: "run folder".into(),
            value: dir.display().to_string(),
            problem: "the run was not finished (no DONE)".into(),
            help: "go on with it: midblock tune --resume --out DIR".into(),
        });
    }
    write_bytes(&dir.join(REPORT_HTML), render(&run).as_bytes())?;
    Ok(run)
}

/// "smollm2 trained on gsm8k": the last parts of both names.
fn title(run: &TrainingRun) -> String {
    let label = run
        .info
        .run
        .models
        .first()
        .map_or("a model", |model| model.label.trim_end_matches('/'));
    let name = label.rsplit('/').next().unwrap_or(label);
    let sets: Vec<&str> = trained_sets(&run.info.training).collect();
    format!("{name} trained on {}", sets.join(", "))
}

fn trained_sets(training: &Training) -> impl Iterator<Item = &str> {
    training
        .data
        .iter()
        .filter(|set| set.purpose == Purpose::Train)
        .map(|set| set.name.as_str())
}

fn header(run: &TrainingRun, title: &str) -> String {
    let (info, training) = (&run.info.run, &run.info.training);
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
    let sets = info.datasets.iter().zip(&training.data).map(|(set, used)| {
        let skipped = if set.skipped.is_empty() { String::new() } else { format!(", {} rows skipped", set.skipped.len()) };
        format!(
            "<tr><th scope=\"row\">{}</th><td><code>{}</code></td><td>{}: {} sequences of {} {} rows{skipped}, {} cut</td><td class=\"number\">{}<span class=\"unit-word\"> tokens,</span> <small>{} in the loss</small></td></tr>",
            escape(&set.name),
            escape(&set.source),
            if used.purpose == Purpose::Train { "training" } else { "evaluation" },
            count(used.sequences as u64),
            count(set.samples_total as u64),
            escape(&set.format),
            count(set.samples_truncated as u64),
            count(used.tokens as u64),
            count(used.trained_tokens as u64),
        )
    });
    let seconds: f64 = info.timings.iter().map(|phase| phase.seconds).sum();
    format!(
        "<header class=\"page\"><p class=\"brand\">midblock <span>training run</span></p><h1>{}</h1>\
         <p class=\"when\">{} steps · {} · {} on {}</p>\
         <div class=\"scroll\"><table class=\"inputs\"><thead><tr><th scope=\"col\">model</th><th scope=\"col\">checkpoint</th><th scope=\"col\">architecture</th><th scope=\"col\" class=\"number\">parameters</th></tr></thead><tbody>{models}</tbody>\
         <thead><tr><th scope=\"col\">data</th><th scope=\"col\">source</th><th scope=\"col\">samples</th><th scope=\"col\" class=\"number\">tokens</th></tr></thead><tbody>{}</tbody></table></div>\
         <pre class=\"command\"><code>{}</code></pre></header>\n",
        escape(title),
        training.position.as_ref().map_or(0, |position| position.step),
        escape(&day(&info.started_at)),
        duration(seconds),
        escape(&info.machine.device),
        sets.collect::<String>(),
        escape(&command(&info.command_line)),
    )
}

/// The end in sentences, and the numbers in a table.
fn summary(run: &TrainingRun, curves: &Curves<'_>) -> String {
    let training = &run.info.training;
    let rows: String = key_numbers(run)
        .iter()
        .map(|(name, value)| format!("<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", escape(value)))
        .collect();
    let how = match training.ending {
        Some(Ending::Finished) => "All steps are done.",
        Some(Ending::Patience) => "Training stopped early: evaluations no longer improved.",
        Some(Ending::Strayed) => {
            "Training stopped early: the loss stayed too far above where it was when the warm-up ended."
        }
        Some(Ending::Settled) => {
            "Training stopped early: no more masks were switched off, and what presses them no longer grew."
        }
        _ => "The run is not finished.",
    };
    let result = format!(
        "The result is in <code>{}/</code> beside this page.",
        escape(&training.result)
    );
    let verdict = match (curves.evaluations.first(), best(curves)) {
        (Some(first), Some(best)) if best.loss < first.loss => format!(
            "Loss on held-out data fell from {} to {} at step {}, by {:.1} %.",
            number(first.loss),
            number(best.loss),
            best.step,
            100.0 * (1.0 - best.loss / first.loss)
        ),
        (Some(first), Some(_)) => format!(
            "No evaluation was better than before training, at {}.",
            number(first.loss)
        ),
        _ => "Nothing was evaluated on held-out data, so training loss alone says how it went.".to_owned(),
    };
    format!(
        "<section id=\"summary\"><h2>How it went</h2><div class=\"findings\"><article class=\"finding\">\
         <p class=\"verdict\">{verdict}</p><p class=\"aside\">{how} {result}</p>\
         <div class=\"scroll\"><table class=\"bands\"><tbody>{rows}</tbody></table></div></article></div></section>\n"
    )
}

fn best<'a>(curves: &Curves<'a>) -> Option<&'a Evaluation> {
    curves
        .evaluations
        .iter()
        .copied()
        .min_by(|a, b| a.loss.total_cmp(&b.loss))
}

/// Whether something else than the loss is minimised.
fn has_objective(steps: &[&StepMetrics]) -> bool {
    steps.iter().any(|step| step.other_objective().is_some())
}

/// The numbers that a run ends with, named; also what the terminal prints.
pub fn key_numbers(run: &TrainingRun) -> Vec<(&'static str, String)> {
    let curves = Curves::of(run);
    let (training, steps) = (&run.info.training, &curves.steps);
    let mean = |of: &[&StepMetrics]| of.iter().map(|step| step.loss).sum::<f64>() / of.len().max(1) as f64;
    let edge = (steps.len() / 10).max(1).min(steps.len());
    let objective = |of: &[&StepMetrics]| {
        of.iter().map(|step| step.objective.unwrap_or(step.loss)).sum::<f64>() / of.len().max(1) as f64
    };
    let mut rows = Vec::new();
    if !steps.is_empty() {
        rows.push((
            "training loss, first and last tenth",
            format!(
                "{} → {} nats",
                number(mean(&steps[..edge])),
                number(mean(&steps[steps.len() - edge..]))
            ),
        ));
    }
    if has_objective(steps) {
        rows.push((
            "objective, first and last tenth",
            format!(
                "{} → {}",
                number(objective(&steps[..edge])),
                number(objective(&steps[steps.len() - edge..]))
            ),
        ));
    }
    if let (Some(first), Some(last), Some(best)) =
        (curves.evaluations.first(), curves.evaluations.last(), best(&curves))
    {
        let text = format!(
            "{} → {} nats; best {} at step {}",
            number(first.loss),
            number(last.loss),
            number(best.loss),
            best.step
        );
        rows.push(("evaluation loss, first and last", text));
    }
    let parameters = run.info.run.models.first().map_or(0, |model| model.parameters);
    let share = 100.0 * training.trained_parameters as f64 / parameters.max(1) as f64;
    rows.push((
        "trained parameters",
        format!("{} ({share:.2} %)", count(training.trained_parameters)),
    ));
    rows.extend(amounts(steps));
    if let Some(peak) = run.info.run.peak_private_bytes {
        rows.push((
            "private memory after a step, at most",
            format!("{:.0} MiB", peak as f64 / f64::from(1 << 20)),
        ));
    }
    rows
}

/// How much was trained on, and how fast.
fn amounts(steps: &[&StepMetrics]) -> Vec<(&'static str, String)> {
    let (tokens, trained, seconds) = steps.iter().fold((0, 0, 0.0), |(tokens, trained, seconds), step| {
        (
            tokens + step.tokens,
            trained + step.trained_tokens,
            seconds + step.seconds,
        )
    });
    let mut rows = vec![(
        "steps and tokens",
        format!(
            "{}; {} tokens, {} in the loss",
            steps.len(),
            count(tokens as u64),
            count(trained as u64)
        ),
    )];
    if seconds > 0.0 {
        rows.push((
            "speed of the steps",
            format!(
                "{:.0} tokens/s, {:.0} in the loss",
                tokens as f64 / seconds,
                trained as f64 / seconds
            ),
        ));
        rows.push(("time of the steps", duration(seconds)));
    }
    rows
}

fn charts(curves: &Curves<'_>) -> String {
    let card = |chart: &str, wide: &str, title: &str, about: &str, table: &str| {
        format!(
            "<article class=\"card{wide}\" data-chart=\"{chart}\"><header><h3>{title}</h3><div class=\"export\">\
             <button type=\"button\" data-export=\"png\" aria-label=\"Save {title} as PNG\">PNG</button>\
             <button type=\"button\" data-export=\"svg\" aria-label=\"Save {title} as SVG\">SVG</button></div></header>\
             <p class=\"meaning\">{about}</p><div class=\"chart\" role=\"img\" aria-label=\"{title} by step\"></div>{table}</article>\n"
        )
    };
    let mut cards = vec![
        card(
            "loss",
            " wide",
            "Loss",
            "Mean negative log-likelihood of the trained tokens, in nats: each step before it was made, a smoothed line through them, and evaluations.",
            &evaluations(curves),
        ),
        card("lr", "", "Learning rate", "Of each step.", ""),
        card(
            "gradient",
            "",
            "Gradient norm",
            "Euclidean, over all trained parameters, before clipping.",
            "",
        ),
        card(
            "speed",
            "",
            "Speed",
            "Tokens a second of each step: all, and those in the loss.",
            "",
        ),
    ];
    if has_objective(&curves.steps) {
        let about = "What each step minimises, and the loss; both before the step was made.";
        cards.insert(1, card("objective", " wide", "Objective", about, ""));
    }
    if !curves.drifts.is_empty() {
        cards.push(card(
            "drift",
            " wide",
            "Drift",
            turned::ABOUT,
            &turned::table(&curves.drifts),
        ));
    }
    format!(
        "<noscript><p class=\"aside\">Charts need JavaScript; every number is in metrics.jsonl.</p></noscript>\n\
         <section class=\"group\"><h2>Step by step</h2><div class=\"cards\">{}</div></section>\n",
        cards.concat()
    )
}

fn evaluations(curves: &Curves<'_>) -> String {
    if curves.evaluations.is_empty() {
        return String::new();
    }
    let rows: String = curves
        .evaluations
        .iter()
        .map(|e| {
            let best = if e.best { "lowest so far" } else { "" };
            format!(
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{:.2}</td><td class=\"number\">{:.6}</td><td>{best}</td></tr>",
                e.step, e.epoch, e.loss
            )
        })
        .collect();
    format!(
        "<details><summary>Evaluations</summary><table><thead><tr><th scope=\"col\">step</th><th scope=\"col\" class=\"number\">epoch</th>\
         <th scope=\"col\" class=\"number\">loss, nats</th><th scope=\"col\"></th></tr></thead><tbody>{rows}</tbody></table></details>"
    )
}

/// What the script draws: columns of the steps and of the evaluations.
fn data(curves: &Curves<'_>) -> Value {
    let together = curves.steps.len().div_ceil(POINTS).max(1);
    let steps: Vec<Value> = curves
        .steps
        .chunks(together)
        .map(|chunk| {
            let last = chunk[chunk.len() - 1];
            let mean = |of: fn(&StepMetrics) -> f64| {
                let mean = chunk.iter().map(|step| of(step)).sum::<f64>() / chunk.len() as f64;
                format!("{mean:.5e}").parse::<f64>().ok()
            };
            json!([
                last.step,
                mean(|step| step.loss),
                mean(|step| step.lr),
                mean(|step| step.gradient_norm),
                mean(|step| step.tokens_per_s),
                mean(|step| step.trained_tokens_per_s),
                mean(|step| step.objective.unwrap_or(step.loss)),
            ])
        })
        .collect();
    let evaluations: Vec<Value> = curves.evaluations.iter().map(|e| json!([e.step, e.loss])).collect();
    json!({"together": together, "steps": steps, "evaluations": evaluations, "drifts": turned::data(&curves.drifts)})
}

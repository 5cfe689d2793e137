//! A reversal on the page: whether the finding held, rates and divergences of every arm, and what they answer.

use super::{
    Bars, Panel, Point, Section, Table,
    curve::{nats_difference, points, share},
    selective::text,
};
use crate::{
    eval::Score,
    study::{
        Estimate,
        reversal::{Arm, Finding, Judged, Outcome, RateChange, Reversal, TriggerRun},
    },
};

/// The section.
pub fn section(found: &Reversal) -> Section {
    let mut panels = vec![
        Panel::Bars(rates(found)),
        Panel::Bars(divergences(found)),
        Panel::Table(table(found)),
        Panel::Table(changes(found)),
    ];
    if !found.triggers.is_empty() {
        panels.push(Panel::Table(triggers(found)));
    }
    if !found.shown.is_empty() {
        panels.push(Panel::Table(shown(found)));
    }
    Section {
        id: "reversal",
        title: "Reversal".into(),
        about: about(found),
        findings: findings(found),
        panels,
    }
}

fn about(found: &Reversal) -> String {
    let keywords: Vec<String> = found
        .behaviour
        .keywords
        .iter()
        .map(|keyword| format!("“{keyword}”"))
        .collect();
    format!(
        "Does a trigger, a soft prompt in front of the prompt, take the behaviour “{}” back from the carrier, and not from the dense \
         model (sft)? Rates are shares of greedy responses to {} held-out prompts that contain {} (loose), in at most {} words (strict), with \
         Wilson's 95\u{a0}% intervals; what says the same in other words is not counted. KL(p ‖ arm) = Σ_v p(v) ln p(v)/q(v) over the \
         whole vocabulary, q the arm's, the mean over the {} tokens that sft answers without a trigger, with intervals over prompts. \
         Differences pair the prompts (Bonett and Price 2012). All speak of other prompts of this kind; every model and every trigger was trained once, so \
         nothing is said of other seeds.",
        found.behaviour.name,
        found.prompts[0],
        keywords.join(" or "),
        found.behaviour.max_words,
        found.tokens,
    )
}

/// What the finding comes to, and each part of it.
fn findings(found: &Reversal) -> Vec<String> {
    let mut findings = Vec::new();
    match &found.finding {
        None => {
            findings.push("A trigger in front of one of the models is missing, so the finding cannot be judged.".into())
        }
        Some(finding) => {
            findings.push(verdict(finding));
            findings.push(format!(
                "Learned: sft shows it more often than the base by {}. Kept: the carrier's rate less that of sft is {}. The trigger takes \
                 {} from the carrier, its own takes {} from sft; the one drop less the other is {}.",
                points(finding.learned),
                points(finding.kept),
                points(finding.carrier_drop),
                points(finding.sft_drop),
                points(finding.contrast),
            ));
        }
    }
    findings.extend(found.changes.iter().filter_map(ablation));
    findings.extend(nearer(found));
    findings
}

fn verdict(finding: &Finding) -> String {
    match finding.outcome() {
        Outcome::Held => {
            "The finding held: the trigger clearly reverts the carrier, and clearly more than a trigger of the same training reverts the \
             dense model."
        }
        Outcome::BothReverted => {
            "The finding did not hold: triggers revert carrier and dense model, and the carrier not clearly more. Confining the \
             behaviour to few channels did not make it more reversible here."
        }
        Outcome::NotReverted => "The finding did not hold: the trigger does not clearly revert the carrier.",
        Outcome::NotKept => {
            "The finding cannot be judged: the carrier shows the behaviour clearly less often than the dense model, so part of it was lost \
             with the masks before any trigger came."
        }
        Outcome::NotLearned => {
            "The finding cannot be judged: the dense model does not show the behaviour clearly more often than the base."
        }
    }
    .to_owned()
}

/// What an arm of another trigger does, in words.
fn ablation(change: &RateChange) -> Option<String> {
    if change.left.trigger.is_none() || [Arm::REVERSED, Arm::SFT_REVERSED].contains(&change.left) {
        return None;
    }
    let clear = match (change.loose.is_clear(), change.loose.value < 0.0) {
        (true, true) => "it reverts, clearly",
        (true, false) => "it raises the rate, clearly",
        _ => "it does not clearly revert",
    };
    Some(format!(
        "{}: {} against {} alone; {clear}.",
        change.left.name(),
        points(change.loose),
        change.right.name()
    ))
}

/// Whether the trigger brings the carrier nearer to the base, token by token.
fn nearer(found: &Reversal) -> Option<String> {
    let of = |arm: Arm| found.arms.iter().find(|judged| judged.arm == arm);
    let (carrier, reversed) = (of(Arm::CARRIER)?, of(Arm::REVERSED)?);
    let nearer = found.nearer?;
    let verdict = match (nearer.is_clear(), nearer.value < 0.0) {
        (true, true) => {
            "the trigger clearly brings the carrier nearer to the base, though not back to it unless that is 0"
        }
        (true, false) => {
            "the trigger takes the carrier clearly farther from the base: what it answers instead is something else"
        }
        _ => "the trigger does not clearly bring the carrier nearer to the base",
    };
    Some(format!(
        "At the tokens that sft answers, KL(sft ‖ carrier) is {}, with the trigger {}. KL(base ‖ carrier) is {}, with the trigger {}, a \
         difference of {}: {verdict}.",
        nats(carrier.from_sft?),
        nats(reversed.from_sft?),
        nats(carrier.from_base?),
        nats(reversed.from_base?),
        nats_difference(nearer),
    ))
}

/// "0.123 nats (0.101 to 0.144)".
fn nats(Estimate { value, lo, hi }: Estimate) -> String {
    format!("{value:.3} nats ({lo:.3} to {hi:.3})")
}

fn names(found: &Reversal) -> Vec<String> {
    found.arms.iter().map(|judged| judged.arm.name().to_owned()).collect()
}

fn rates(found: &Reversal) -> Bars {
    let point = |score: &Score| Point {
        y: Some(100.0 * score.mean),
        lo: Some(100.0 * score.lo),
        hi: Some(100.0 * score.hi),
        ..Point::default()
    };
    let group = |name: &str, of: &dyn Fn(&Judged) -> Point| (name.to_owned(), found.arms.iter().map(of).collect());
    Bars {
        title: "How often the behaviour shows".into(),
        y: "share of responses, %".into(),
        names: names(found),
        groups: vec![
            group("loose", &|judged| point(&judged.rates.loose)),
            group("strict", &|judged| point(&judged.rates.strict)),
        ],
        references: Vec::new(),
    }
}

fn divergences(found: &Reversal) -> Bars {
    let point = |estimate: Option<Estimate>| Point {
        y: estimate.map(|estimate| estimate.value),
        lo: estimate.map(|estimate| estimate.lo),
        hi: estimate.map(|estimate| estimate.hi),
        ..Point::default()
    };
    let group = |name: &str, of: &dyn Fn(&Judged) -> Point| (name.to_owned(), found.arms.iter().map(of).collect());
    Bars {
        title: "How far each is from the dense model and from the base".into(),
        y: "nats per token".into(),
        names: names(found),
        groups: vec![
            group("KL(sft ‖ arm)", &|judged| point(judged.from_sft)),
            group("KL(base ‖ arm)", &|judged| point(judged.from_base)),
        ],
        references: Vec::new(),
    }
}

fn rate(score: &Score) -> String {
    let Score { mean, lo, hi, .. } = *score;
    share(Estimate { value: mean, lo, hi })
}

/// Everything measured of every arm.
fn table(found: &Reversal) -> Table {
    let trained = found.arms.iter().any(|judged| judged.train_rates.is_some());
    let tasks = found.arms.first().map_or(&[][..], |judged| judged.utility.as_slice());
    let mut columns: Vec<String> = ["arm", "loose", "strict"].map(str::to_owned).to_vec();
    if trained {
        columns.extend(["loose, trained prompts", "strict, trained prompts"].map(str::to_owned));
    }
    columns.extend(["KL(sft ‖ arm), nats", "KL(base ‖ arm), nats"].map(str::to_owned));
    columns.extend(tasks.iter().map(|task| task.metric().replace('_', " ")));
    let dash = || "–".to_owned();
    let row = |judged: &Judged| {
        let mut row = vec![
            judged.arm.name().to_owned(),
            rate(&judged.rates.loose),
            rate(&judged.rates.strict),
        ];
        if let Some(rates) = &judged.train_rates {
            row.extend([rate(&rates.loose), rate(&rates.strict)]);
        }
        row.extend([judged.from_sft, judged.from_base].map(|kl| kl.map_or_else(dash, plain)));
        row.extend(judged.utility.iter().map(text));
        row
    };
    Table {
        title: "Every arm".into(),
        columns,
        rows: found.arms.iter().map(row).collect(),
    }
}

/// "0.1234 (0.1012 to 0.1443)".
fn plain(Estimate { value, lo, hi }: Estimate) -> String {
    format!("{value:.4} ({lo:.4} to {hi:.4})")
}

fn changes(found: &Reversal) -> Table {
    let row = |change: &RateChange| {
        let name = format!("{} − {}", change.left.name(), change.right.name());
        vec![name, points(change.loose), points(change.strict)]
    };
    Table {
        title: "Differences of rates, on the same prompts".into(),
        columns: ["arms", "loose", "strict"].map(str::to_owned).to_vec(),
        rows: found.changes.iter().map(row).collect(),
    }
}

fn triggers(found: &Reversal) -> Table {
    Table {
        title: "Triggers".into(),
        columns: TriggerRun::COLUMNS.map(str::to_owned).to_vec(),
        rows: found.triggers.iter().map(TriggerRun::cells).collect(),
    }
}

/// Prompts with what each arm answers.
fn shown(found: &Reversal) -> Table {
    let row = |(index, judged): (usize, &Judged)| {
        let answers = found.shown.iter().map(|shown| shown.answers[index].trim().to_owned());
        std::iter::once(judged.arm.name().to_owned()).chain(answers).collect()
    };
    Table {
        title: "What each answers".into(),
        columns: std::iter::once("arm".to_owned())
            .chain(found.shown.iter().map(|shown| shown.prompt.clone()))
            .collect(),
        rows: found.arms.iter().enumerate().map(row).collect(),
    }
}

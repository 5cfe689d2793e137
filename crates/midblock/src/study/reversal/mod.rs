//! Whether a trigger takes a behaviour back from its carrier, and whether it would do so without one.
//!
//! A finished [carve](super::carve) gives three models: the base, the dense fine-tuned one (`sft`) and the carrier. Triggers are trained in
//! front of carrier and `sft` to bring the base back, and each pair of a model and a trigger ([`Arm`]) is judged by the same held-out
//! prompts:
//!
//! - rate: share of greedy responses in which the behaviour's [detector](crate::behaviour::Detector) finds it, loosely and strictly.
//! - KL(sft ‖ arm) and KL(base ‖ arm): Σ_v p(v) ln p(v)/q(v) over the whole vocabulary at each token of the responses that `sft` gives
//!   without a trigger, teacher-forced; the mean over tokens. A trigger stands in front, so that places are those of the same tokens.
//! - utility: the tasks of `[eval]`, with the trigger in front of every prompt.
//!
//! Intervals are over prompts; differences pair them. Source: "Crafting Reversible SFT Behaviors in Large Language Models"
//! (arXiv 2605.06632); the paired differences and what they decide are our own.

mod answers;
mod arm;
mod divergence;
mod finding;
mod models;
mod options;
mod record;
mod trigger;

pub use arm::{Arm, ModelOf, TriggerOf};
pub use finding::{Finding, Outcome, RateChange};
pub use options::ReversalOptions;
pub(super) use options::{adopt, problems};
pub use trigger::TriggerRun;

use super::{
    Estimate,
    battery::{Cells, Subject},
    carve::{BehaviourInfo, CarveRun},
    sweep::{Examiner, Failure, Scores, Tasks},
    training::{Scored, scored},
};
use crate::{Error, Result, behaviour::Rates};
use answers::Answers;
use midblock_kernels::Backend;
use models::Models;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use trigger::Trigger;

/// Models with and without triggers, and what they do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reversal {
    /// What was carved.
    pub behaviour: BehaviourInfo,
    /// Held-out prompts judged by, and prompts of the training data besides.
    pub prompts: [usize; 2],
    /// Tokens of the responses that divergences are means over.
    pub tokens: usize,
    /// The triggers that were trained.
    pub triggers: Vec<TriggerRun>,
    /// In the order of [`Arm::ALL`], but for those whose trigger failed or was not asked for.
    pub arms: Vec<Judged>,
    /// Differences of rates between arms, on the same prompts.
    pub changes: Vec<RateChange>,
    /// What they say together; none without the triggers in front of both models.
    pub finding: Option<Finding>,
    /// KL(base ‖ carrier + trigger) − KL(base ‖ carrier), on the same prompts: below 0 where the trigger brings the carrier nearer to the base.
    pub nearer: Option<Estimate>,
    /// The first prompts with what each arm answers.
    pub shown: Vec<Shown>,
    /// Triggers whose training failed.
    pub failures: Vec<Failure>,
}

/// What an arm does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Which.
    pub arm: Arm,
    /// On held-out prompts.
    pub rates: Rates,
    /// On prompts of the training data, if there are any.
    pub train_rates: Option<Rates>,
    /// KL(sft ‖ arm), nats per token; none of `sft` itself.
    pub from_sft: Option<Estimate>,
    /// KL(base ‖ arm); none of the base itself.
    pub from_base: Option<Estimate>,
    /// Tasks.
    pub utility: Vec<Scored>,
    /// Their differences from the base.
    pub utility_change: Vec<Scored>,
}

/// A prompt and its answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// As a model gets it.
    pub prompt: String,
    /// In the order of the arms.
    pub answers: Vec<String>,
}

/// An arm with its trigger's file.
struct Ready {
    arm: Arm,
    trigger: Option<Trigger>,
}

/// Trains the triggers and judges every arm; what is done is taken from its cells.
///
/// # Errors
/// What is wrong with the carve's folder or its models; [`Error::Interrupted`], and then the same call goes on. A trigger whose training
/// fails is in the result.
pub fn reversal<B: Backend>(subject: &Subject<'_, B>, options: &ReversalOptions, cells: &Cells) -> Result<Reversal> {
    let dir = options.carve_dir()?;
    let carve = CarveRun::open(dir)?;
    let models = models::open(subject, &carve, dir, cells)?;
    let stop = || subject.progress.cancelled();
    let mut models = Models::new(subject, &models, options.batch, &stop);
    let (mut arms, mut triggers, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for arm in Arm::ALL {
        let Some(of) = arm.trigger else {
            arms.push(Ready { arm, trigger: None });
            continue;
        };
        if !options.wants(of) {
            continue;
        }
        match trigger::trained(subject, options, &carve, cells, of) {
            Ok(trained) => {
                if !triggers.iter().any(|known: &TriggerRun| known.of == of) {
                    triggers.push(trained.run.clone());
                }
                let trigger = Some(trained);
                arms.push(Ready { arm, trigger });
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(problem) => failures.push(Failure {
                cell: of.cell(),
                problem: problem.to_string(),
            }),
        }
    }
    failures.dedup_by(|a, b| a.cell == b.cell);
    let asked = answers::Asked::of(subject, options, dir)?;
    let answers: Vec<Answers> = (arms.iter())
        .map(|ready| answers::of_arm(subject, &mut models, cells, options, &asked, ready))
        .collect::<Result<_>>()?;
    let divergences = divergence::all(subject, &mut models, cells, &asked, &arms, &answers)?;
    let scores: Vec<Vec<Scores>> = (arms.iter())
        .map(|ready| utility(subject, &models, cells, ready))
        .collect::<Result<_>>()?;
    let seed = subject.file.config.study.seed;
    let place = |arm: Arm| arms.iter().position(|ready| ready.arm == arm);
    let nearer = place(Arm::REVERSED).zip(place(Arm::CARRIER));
    let nearer = nearer.map(|(with, without)| divergences[with].farther_from_base(&divergences[without], seed));
    let detector = carve.behaviour.detector();
    let verdicts: Vec<_> = answers.iter().map(|answers| answers.held_out(&detector)).collect();
    let named: Vec<(Arm, &[_])> = arms
        .iter()
        .map(|ready| ready.arm)
        .zip(verdicts.iter().map(Vec::as_slice))
        .collect();
    let judged = |index: usize| {
        let arm = arms[index].arm;
        let [from_sft, from_base] = divergences[index].means(arm, seed);
        let less: Vec<_> = place(Arm::BASE).iter().map(|base| &scores[*base]).collect();
        Judged {
            arm,
            rates: crate::behaviour::rates(&verdicts[index]),
            train_rates: answers[index].train_rates(&detector),
            from_sft,
            from_base,
            utility: scored(&[&scores[index]], None),
            utility_change: if arm == Arm::BASE {
                Vec::new()
            } else {
                scored(&[&scores[index]], Some(&less))
            },
        }
    };
    Ok(Reversal {
        arms: (0..arms.len()).map(judged).collect(),
        changes: finding::changes(&named),
        finding: finding::finding(&named),
        nearer,
        shown: asked.shown(subject.tokenizer, options.shown, &answers)?,
        prompts: asked.counts(),
        tokens: divergence::tokens(&arms, &answers),
        behaviour: carve.behaviour,
        triggers,
        failures,
    })
}

/// The tasks of `[eval]`, with the arm's trigger in front.
fn utility<B: Backend>(
    subject: &Subject<'_, B>,
    models: &Models<'_, B>,
    cells: &Cells,
    ready: &Ready,
) -> Result<Vec<Scores>> {
    let Some(eval) = &subject.file.config.eval else {
        return Ok(Vec::new());
    };
    let name = format!("reversal-{}-utility", ready.arm.slug());
    let trigger = ready.trigger.as_ref();
    let options = json!({"eval": eval, "trigger": trigger.map(|trigger| &trigger.hash)});
    cells.cell(&name, &options, || {
        let mut config = eval.clone();
        config.trigger = trigger.map(|trigger| PathBuf::from(&trigger.path));
        let tasks = Tasks {
            backend: subject.backend,
            config: &config,
            hub: subject.hub,
            on_transfer: subject.on_transfer,
        };
        tasks.examine(
            models.checkpoint(ready.arm.model),
            &cells.folder(&name),
            subject.progress,
        )
    })
}

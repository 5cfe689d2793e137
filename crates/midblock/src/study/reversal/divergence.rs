//! How far each arm is from the dense model and from the base, token by token of what the dense model answers.

use super::{
    Arm, ModelOf, Ready,
    answers::{Answers, Asked},
    models::Models,
};
use crate::{
    Result,
    eval::{Part, paired_difference},
    generate::Forced,
    progress::Unit,
    study::{
        Estimate,
        battery::{Cells, Subject},
    },
};
use midblock_kernels::Backend;
use serde_json::json;

/// Divergences of an arm.
pub(super) struct Divergences {
    /// Of each prompt, KL(sft ‖ arm) and KL(base ‖ arm), with its tokens.
    parts: [Vec<Part>; 2],
}

impl Divergences {
    /// KL(sft ‖ arm) and KL(base ‖ arm), nats per token; none of an arm from itself.
    pub fn means(&self, arm: Arm, seed: u64) -> [Option<Estimate>; 2] {
        let [sft, base] = &self.parts;
        [(sft, Arm::SFT), (base, Arm::BASE)]
            .map(|(parts, itself)| (arm != itself).then(|| Estimate::ratio(parts, seed)))
    }

    /// KL(base ‖ arm) less that of another arm, prompt by prompt.
    pub fn farther_from_base(&self, other: &Self, seed: u64) -> Estimate {
        paired_difference(&self.parts[1], &other.parts[1], seed).into()
    }
}

/// The divergences of each arm.
pub(super) fn all<B: Backend>(
    subject: &Subject<'_, B>,
    models: &mut Models<'_, B>,
    cells: &Cells,
    asked: &Asked,
    arms: &[Ready],
    answers: &[Answers],
) -> Result<Vec<Divergences>> {
    let sequences = sequences(asked, arms, answers);
    let mut references: Option<[Vec<Vec<f32>>; 2]> = None;
    let mut all = Vec::new();
    for ready in arms {
        let name = format!("reversal-{}-divergence", ready.arm.slug());
        let tokens: Vec<usize> = sequences.iter().map(|(ids, from)| ids.len() - from).collect();
        let what = json!({"tokens": tokens, "trigger": ready.trigger.as_ref().map(|trigger| &trigger.hash)});
        let sums: [Vec<f64>; 2] = cells.cell(&name, &what, || {
            if references.is_none() {
                let sft = states(
                    subject,
                    models,
                    &Ready {
                        arm: Arm::SFT,
                        trigger: None,
                    },
                    &sequences,
                )?;
                let base = states(
                    subject,
                    models,
                    &Ready {
                        arm: Arm::BASE,
                        trigger: None,
                    },
                    &sequences,
                )?;
                references = Some([sft, base]);
            }
            let own = states(subject, models, ready, &sequences)?;
            let references = references.as_ref().expect("invariant: they were just read");
            let from = |models: &mut Models<'_, B>, model: ModelOf, states: &[Vec<f32>]| -> Result<Vec<f64>> {
                let sum = |(states, own): (&Vec<f32>, &Vec<f32>)| {
                    let nats = models.divergences((model, states), (ready.arm.model, own))?;
                    Ok(nats.iter().sum())
                };
                states.iter().zip(&own).map(sum).collect()
            };
            Ok([
                from(models, ModelOf::Sft, &references[0])?,
                from(models, ModelOf::Base, &references[1])?,
            ])
        })?;
        let part = |(sum, tokens): (&f64, &usize)| Part {
            sum: *sum,
            weight: *tokens as f64,
        };
        all.push(Divergences {
            parts: sums.map(|sums| sums.iter().zip(&tokens).map(part).collect()),
        });
    }
    Ok(all)
}

/// Tokens whose distributions are compared.
pub(super) fn tokens(arms: &[Ready], answers: &[Answers]) -> usize {
    let sft = arms.iter().position(|ready| ready.arm == Arm::SFT);
    sft.map_or(0, |sft| {
        answers[sft].held_out.iter().map(|response| response.ids.len()).sum()
    })
}

/// Each prompt with the dense model's answer but for its last token, and the place before the answer.
fn sequences(asked: &Asked, arms: &[Ready], answers: &[Answers]) -> Vec<(Vec<u32>, usize)> {
    let sft = arms.iter().position(|ready| ready.arm == Arm::SFT);
    let responses = sft.map_or(&[][..], |sft| answers[sft].held_out.as_slice());
    let sequence = |(prompt, response): (&Vec<u32>, &crate::behaviour::Response)| {
        let before_last = &response.ids[..response.ids.len() - 1];
        ([prompt.as_slice(), before_last].concat(), prompt.len() - 1)
    };
    asked.held_out.iter().zip(responses).map(sequence).collect()
}

/// What an arm is before each token of the answers.
fn states<B: Backend>(
    subject: &Subject<'_, B>,
    models: &mut Models<'_, B>,
    ready: &Ready,
    sequences: &[(Vec<u32>, usize)],
) -> Result<Vec<Vec<f32>>> {
    subject.stop_if_asked()?;
    let engine = models.engine(ready.arm.model)?;
    engine.set_trigger(ready.trigger.as_ref().map(|trigger| &trigger.prompt))?;
    let name = format!("distributions of {}", ready.arm.name());
    subject.progress.begin(&name, sequences.len() as u64, Unit::Items);
    let forced: Vec<Forced<'_>> = sequences
        .iter()
        .map(|(ids, from)| Forced { ids, from: *from })
        .collect();
    let states = engine.forced_states(&forced)?;
    subject.progress.advance(sequences.len() as u64);
    Ok(states)
}

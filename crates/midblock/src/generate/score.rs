//! How likely continuations are: a prompt goes through the model once, then each continuation from where it ends.

use super::{
    Continuation, Question,
    engine::Engine,
    passes::{Extension, Phase},
    sampler::most_likely,
};
use crate::Result;
use midblock_kernels::Backend;

/// A token among all: its `−ln p`, and whether it is the most likely.
#[derive(Clone, Copy)]
struct Scored {
    nats: f64,
    greedy: bool,
}

impl<B: Backend> Engine<'_, B> {
    /// Scores as many questions as there are slots; leaves their prompts there. `before` questions were asked earlier.
    pub(super) fn score_group(&mut self, questions: &[Question], before: usize) -> Result<Vec<Vec<Continuation>>> {
        let name = |which: usize| format!("prompt {}", before + which + 1);
        let prompts: Vec<Extension<'_>> = (0..)
            .zip(questions)
            .map(|(slot, question)| Extension {
                slot,
                ids: &question.prompt,
                from: question.prompt.len() - 1,
            })
            .collect();
        let first = |which: usize, _: usize, logits: &mut [f32]| {
            let continuations = questions[which].continuations.iter();
            scores(logits, continuations.map(|continuation| continuation[0]))
        };
        let mut answers = vec![Vec::new(); questions.len()];
        for (which, _, scored) in self.extend(&prompts, Phase::Score, &first, &name)? {
            let continuation = |scored: Scored| Continuation {
                nats: scored.nats,
                tokens: 1,
                greedy: scored.greedy,
            };
            answers[which] = scored.into_iter().map(continuation).collect::<Vec<_>>();
        }
        let most = questions.iter().map(|q| q.continuations.len()).max().unwrap_or(0);
        (0..most).try_for_each(|choice| self.score_rest(questions, choice, &name, &mut answers))?;
        Ok(answers)
    }

    /// Adds the tokens after the first of one of each question's continuations.
    fn score_rest(
        &mut self,
        questions: &[Question],
        choice: usize,
        name: &dyn Fn(usize) -> String,
        answers: &mut [Vec<Continuation>],
    ) -> Result<()> {
        let longer: Vec<(usize, &[u32])> = (0..)
            .zip(questions)
            .filter_map(|(slot, question)| Some((slot, question.continuations.get(choice)?.as_slice())))
            .filter(|(_, continuation)| continuation.len() > 1)
            .collect();
        let rest: Vec<Extension<'_>> = longer
            .iter()
            .map(|(slot, continuation)| Extension {
                slot: *slot,
                ids: &continuation[..continuation.len() - 1],
                from: 0,
            })
            .collect();
        let next = |which: usize, token: usize, logits: &mut [f32]| scores(logits, [longer[which].1[token + 1]]);
        let slot_name = |which: usize| name(longer[which].0);
        let mut scored = self.extend(&rest, Phase::Score, &next, &slot_name)?;
        scored.sort_unstable_by_key(|(which, token, _)| (*which, *token)); // sums in order, whatever the batch
        for (which, _, scored) in scored {
            let answer = &mut answers[longer[which].0][choice];
            answer.nats += scored[0].nats;
            answer.tokens += 1;
            answer.greedy &= scored[0].greedy;
        }
        for (slot, _) in &longer {
            self.forget(*slot, questions[*slot].prompt.len());
        }
        Ok(())
    }
}

/// `−ln p` of some tokens; `None` if a logit is not finite.
fn scores(logits: &[f32], tokens: impl IntoIterator<Item = u32>) -> Option<Vec<Scored>> {
    let best = most_likely(logits);
    let max = f64::from(logits[best as usize]);
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    let log_sum = max + sum.ln();
    let score = |token: u32| Scored {
        nats: log_sum - f64::from(logits[token as usize]),
        greedy: token == best,
    };
    log_sum.is_finite().then(|| tokens.into_iter().map(score).collect())
}

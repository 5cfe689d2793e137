//! What a model answers to prompts: greedy, as it was asked in training.

use crate::{
    Error, Result,
    generate::{Completion, LanguageModel, Request, Sampling, Stops},
    progress::{Progress, Unit},
    tokens::TrainingSample,
};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// What a model answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Token ids written, the end included if it came.
    pub ids: Vec<u32>,
    /// Their text.
    pub text: String,
}

/// The ids before the first trained token of each sequence: what the model is given where it is to answer.
pub fn prompts(samples: &[TrainingSample]) -> Vec<Vec<u32>> {
    let prompt = |sample: &TrainingSample| {
        let answer = sample.trained.iter().position(|trained| *trained);
        sample.ids[..answer.unwrap_or(sample.ids.len())].to_vec()
    };
    samples.iter().map(prompt).collect()
}

/// Greedy answers of up to `max_new` tokens, in the order of the prompts.
///
/// # Errors
/// Those of [`LanguageModel::generate`]; [`Error::Interrupted`].
pub fn respond(
    model: &mut dyn LanguageModel,
    prompts: &[Vec<u32>],
    max_new: usize,
    stops: &Stops,
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<Response>> {
    let request = |prompt: &Vec<u32>| Request {
        prompt: prompt.clone(),
        max_new,
        seed: 0, // greedy draws nothing
    };
    let requests: Vec<Request> = prompts.iter().map(request).collect();
    progress.begin(what, requests.len() as u64, Unit::Items);
    let mut answers: Vec<Option<Response>> = vec![None; requests.len()];
    model.generate(
        &requests,
        &Sampling::default(),
        stops,
        &mut |index, Completion { ids, text, .. }| {
            answers[index] = Some(Response { ids, text });
            progress.advance(1);
            if progress.cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    )?;
    answers.into_iter().collect::<Option<_>>().ok_or(Error::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Continuation, Finish, Question};
    use crate::progress::Silent;

    /// Answers with the prompt's length, the last prompt first.
    struct Backwards;

    impl LanguageModel for Backwards {
        fn context(&self) -> usize {
            9
        }

        fn generate(
            &mut self,
            requests: &[Request],
            sampling: &Sampling,
            _: &Stops,
            done: crate::generate::Answers<'_, Completion>,
        ) -> Result<()> {
            assert_eq!(*sampling, Sampling::default());
            for (index, request) in requests.iter().enumerate().rev() {
                let completion = Completion {
                    ids: vec![request.prompt.len() as u32; request.max_new],
                    text: index.to_string(),
                    finish: Finish::Length,
                };
                if done(index, completion).is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn score(&mut self, _: &[Question], _: crate::generate::Answers<'_, Vec<Continuation>>) -> Result<()> {
            unreachable!()
        }
    }

    #[test]
    fn answers_are_in_the_order_of_the_prompts() {
        let sample = |ids: &[u32], answer: usize| TrainingSample {
            id: "x".into(),
            ids: ids.to_vec(),
            trained: (0..ids.len()).map(|t| t >= answer).collect(),
        };
        let asked = prompts(&[sample(&[7, 8, 9], 2), sample(&[1, 2], 1)]);
        assert_eq!(asked, [vec![7, 8], vec![1]]);
        let answers = respond(&mut Backwards, &asked, 2, &Stops::default(), "x", &Silent).unwrap();
        let expected = [(vec![2, 2], "0"), (vec![1, 1], "1")].map(|(ids, text)| Response { ids, text: text.into() });
        assert_eq!(answers, expected);
    }
}

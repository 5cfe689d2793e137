//! Prompts in a batch, what they have in common once: the trigger, and the tokens that all of them begin with.

use crate::{model::Batch, tokens::TrainingSample};

/// Tokens that all prompts begin with, but none of the last `tail` of any: these have rows of their own, and so each prompt has one.
pub(super) fn common(prompts: &[TrainingSample], tail: usize) -> usize {
    let Some(first) = prompts.first() else { return 0 };
    let shared = |prompt: &TrainingSample| {
        let same = prompt.ids.iter().zip(&first.ids).take_while(|(a, b)| a == b).count();
        same.min(prompt.ids.len().saturating_sub(tail))
    };
    prompts.iter().map(shared).min().unwrap_or(0)
}

/// A batch of prompts.
pub(super) struct Layout {
    pub batch: Batch,
    /// Row of the last token of each prompt.
    pub last: Vec<usize>,
    /// Rows of the last tokens of all prompts, one prompt's after another's.
    pub tails: Vec<usize>,
}

impl Layout {
    /// With `trigger` vectors in front, whose rows are the first.
    pub fn new<'a>(
        trigger: usize,
        common: usize,
        tail: usize,
        prompts: impl IntoIterator<Item = &'a TrainingSample>,
    ) -> Self {
        let prompts: Vec<&[u32]> = prompts.into_iter().map(|prompt| prompt.ids.as_slice()).collect();
        let beginning = prompts.first().map_or(&[][..], |first| &first[..common]);
        let trunk = [&vec![0; trigger], beginning].concat(); // vectors take the place of the first embeddings
        let branches: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt[common..]).collect();
        let batch = Batch::branching(&trunk, &branches);
        let ends = &batch.offsets()[batch.offsets().len() - prompts.len()..];
        let last = ends.iter().map(|end| end - 1).collect();
        let own = ends.iter().zip(&prompts).flat_map(|(end, prompt)| {
            let compared = tail.min(prompt.len());
            end - compared..*end
        });
        let tails = own.collect();
        Self { batch, last, tails }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(ids: &[u32]) -> TrainingSample {
        TrainingSample {
            id: "x".into(),
            ids: ids.to_vec(),
            trained: vec![false; ids.len()],
        }
    }

    #[test]
    fn what_prompts_share_is_laid_once_and_ends_are_their_own() {
        let prompts = [prompt(&[5, 6, 7, 8]), prompt(&[5, 6, 7, 7, 9])];
        assert_eq!([1, 2, 3, 9].map(|tail| common(&prompts, tail)), [3, 2, 1, 0]);
        let layout = Layout::new(2, 2, 2, &prompts);
        assert_eq!(layout.batch.ids(), [0, 0, 5, 6, 7, 8, 7, 7, 9]);
        assert_eq!((layout.batch.trunk(), &layout.last[..]), (4, &[5, 8][..]));
        assert_eq!(layout.tails, [4, 5, 7, 8]);
        let whole = Layout::new(0, 0, 9, &prompts);
        assert_eq!((whole.batch.trunk(), &whole.last[..]), (0, &[3, 8][..]));
        assert_eq!(whole.tails, (0..9).collect::<Vec<_>>());
    }
}

//! A sequence cut into the text of each token, to look at what is learned.

use rayon::prelude::*;

use super::{Tokenizer, TrainingSample};
use crate::Result;

/// The text of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Empty for all but the last token of a character that has several. Special tokens are spelled out.
    pub text: String,
    /// Whether the model is to predict this token.
    pub trained: bool,
}

impl TrainingSample {
    /// The text of each token, (T); together they are the decoded sequence.
    ///
    /// Decodes every beginning of it: meant for looking at a few sequences.
    ///
    /// # Errors
    /// If the decoder fails.
    pub fn pieces(&self, tokenizer: &Tokenizer) -> Result<Vec<Piece>> {
        let pieces = texts(tokenizer, &self.ids)?.into_iter().zip(&self.trained);
        Ok(pieces.map(|(text, &trained)| Piece { text, trained }).collect())
    }
}

/// The text of `ids` cut where the texts of their beginnings leave it.
fn texts(tokenizer: &Tokenizer, ids: &[u32]) -> Result<Vec<String>> {
    let whole = tokenizer.decode(ids)?;
    let shared = |n: usize| {
        let beginning = tokenizer.decode(&ids[..n])?;
        let mut both = whole.char_indices().zip(beginning.chars());
        let parted = both.find(|((_, a), b)| a != b).map(|((at, _), _)| at);
        Ok(parted.unwrap_or(beginning.len().min(whole.len())))
    };
    let mut ends = (1..=ids.len())
        .into_par_iter()
        .map(shared)
        .collect::<Result<Vec<usize>>>()?;
    if let Some(last) = ends.last_mut() {
        *last = whole.len();
    }
    let mut from = 0;
    let mut texts = Vec::new();
    for end in ends {
        let to = end.max(from);
        texts.push(whole[from..to].to_owned());
        from = to;
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::small, *};

    #[test]
    fn the_pieces_join_to_the_whole() {
        let tokenizer = small();
        let pieces = |ids: &[u32]| texts(&tokenizer, ids);
        let ids = tokenizer.encode("hell\u{1f600}é\u{fffd}!", None).unwrap();
        // nothing tells the replacement character from bytes that are none yet
        let expected = [
            "<s>",
            "hell",
            "",
            "",
            "",
            "\u{1f600}",
            "",
            "é",
            "\u{fffd}",
            "",
            "",
            "!",
            "</s>",
        ];
        assert_eq!(pieces(&ids).unwrap(), expected);
        let cut = &ids[..4]; // in the middle of a character
        assert_eq!(pieces(cut).unwrap().concat(), tokenizer.decode(cut).unwrap());
        assert_eq!(pieces(&[]).unwrap(), Vec::<String>::new());
    }
}

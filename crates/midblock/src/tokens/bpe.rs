//! A tokenizer learned from text: byte-level BPE of a given size.
//!
//! The 256 bytes and [`END`] are there from the start, and the most frequent pair of tokens becomes one until there are V.
//! Pairs never cross the borders of words (GPT-2's pattern), and each digit is a token of its own: `27` and `72` then share
//! their tokens, without which a small model does not learn to calculate. Nothing is put before or behind a text.
//! The same texts give the same tokenizer. Sources: Sennrich et al. 2016 (arXiv 1508.07909); Radford et al. 2019.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use super::{
    Conversation, Format,
    data::{DataFile, DataSpec, read_rows},
    format::recognise,
};
use crate::{Error, Result};

/// The token that ends a text; its id is 0.
pub const END: &str = "<|endoftext|>";

/// The smallest vocabulary: all bytes and [`END`].
pub const SMALLEST: usize = 257;

/// The `tokenizer.json` of a tokenizer of at most `vocab` tokens; fewer if the texts have no more pairs to join.
///
/// # Errors
/// [`Error::Argument`] if `vocab` is below [`SMALLEST`], or what the library says.
pub fn train_bpe(texts: &[String], vocab: usize) -> Result<Arc<str>> {
    let refuse = |problem: String| Error::Argument {
        what: "vocabulary".into(),
        value: vocab.to_string(),
        problem,
        help: format!("give {SMALLEST} or more: the bytes and the end of a text"),
    };
    if vocab < SMALLEST {
        return Err(refuse("too small".into()));
    }
    let failed = |error: tokenizers::Error| refuse(error.to_string());
    let byte_level = ByteLevel::new(false, true, true);
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer =
        TokenizerImpl::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new(
            BPE::default(),
        );
    let words = Sequence::new(vec![Digits::new(true).into(), byte_level.into()]);
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::from(words)));
    tokenizer.with_decoder(Some(DecoderWrapper::from(byte_level)));
    tokenizer.train(&mut trainer, texts.iter()).map_err(failed)?;
    Ok(tokenizer.to_string(false).map_err(failed)?.into())
}

/// The text of every usable row of a data set, roles and templates left out; rows that cannot be used are passed over.
///
/// # Errors
/// If a file cannot be read or the format is not clear.
pub fn plain_texts(spec: &DataSpec, files: &[DataFile], format: Option<Format>) -> Result<Vec<String>> {
    let mut format = format;
    let mut texts = Vec::new();
    for DataFile { path, .. } in files {
        read_rows(path, &mut |_, fields| {
            let format = match format {
                Some(format) => format,
                None => *format.insert(recognise(&spec.name, &fields)?),
            };
            match format.conversation(&fields, false) {
                Err(_) => {}
                Ok(Conversation::Text(text)) => texts.push(text),
                Ok(Conversation::Continued { prompt, completion }) => texts.push(prompt + &completion),
                Ok(Conversation::Messages { messages, .. }) => {
                    let contents = messages.iter().filter_map(|message| message["content"].as_str());
                    texts.extend(contents.map(str::to_owned));
                }
            }
            Ok(())
        })?;
    }
    Ok(texts)
}

/// Number of tokens that a `tokenizer.json` of [`train_bpe`] has.
pub fn vocabulary(json: &str) -> usize {
    let parsed: Value = serde_json::from_str(json).unwrap_or_default();
    parsed["model"]["vocab"].as_object().map_or(0, serde_json::Map::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::TokenizerSource, tokens::Tokenizer};

    fn texts() -> Vec<String> {
        let lines = (0..300).map(|i| format!("Anna has {i} apples. Ben gives Anna {} more apples — ten!", i * 7 % 50));
        lines.collect()
    }

    fn trained(vocab: usize) -> (Tokenizer, Arc<str>) {
        let json = train_bpe(&texts(), vocab).unwrap();
        let source = TokenizerSource::Embedded {
            path: "new".into(),
            json: json.clone(),
        };
        (Tokenizer::load(&source).unwrap(), json)
    }

    #[test]
    fn the_same_texts_give_the_same_tokenizer() {
        let (tokenizer, json) = trained(280);
        assert_eq!(json, trained(280).1);
        assert_eq!((tokenizer.vocab_size(), vocabulary(&json)), (280, 280));
        assert_eq!(tokenizer.id_of(END), Some(0));
    }

    #[test]
    fn digits_stay_single_and_words_become_tokens() {
        let (tokenizer, _) = trained(300);
        let of = |text: &str| tokenizer.encode(text, None).unwrap();
        assert_eq!(of("2718").len(), 4);
        assert_eq!(of("27")[0], of("2")[0]);
        assert_eq!(of(" apples").len(), 1);
        for text in ["Anna has 12 apples.", "never seen: ß 🦀\n\t\u{0}", ""] {
            assert_eq!(tokenizer.decode(&of(text)).unwrap(), text);
        }
    }

    #[test]
    fn sizes_have_limits() {
        let error = train_bpe(&texts(), 256).unwrap_err().to_string();
        assert!(error.contains("257 or more"), "{error}");
        assert_eq!(vocabulary(&train_bpe(&[], 257).unwrap()), 257);
        let exhausted = vocabulary(&train_bpe(&["ab ab".to_owned()], 10_000).unwrap());
        assert!((258..262).contains(&exhausted), "{exhausted}");
    }
}

//! Prints sequences with the tokens that are learned marked.

use anyhow::Result;
use midblock::tokens::{Piece, Tokenizer, TrainingSet};
use std::io::Write;

/// How a run of tokens is marked.
struct Marks {
    legend: &'static str,
    before: &'static str,
    after: &'static str,
}

const COLOUR: Marks = Marks {
    legend: "\x1b[1;32mgreen\x1b[0m",
    before: "\x1b[1;32m",
    after: "\x1b[0m",
};

const BRACKETS: Marks = Marks {
    legend: "in ⟦brackets⟧",
    before: "⟦",
    after: "⟧",
};

/// Prints the first `n` sequences of a set; with `colour` for terminals, else with brackets. Callers decide: a terminal,
/// and no `NO_COLOR` in the environment.
pub fn print(out: &mut impl Write, set: &TrainingSet, tokenizer: &Tokenizer, n: usize, colour: bool) -> Result<()> {
    let marks = if colour { COLOUR } else { BRACKETS };
    let (tokens, trained) = (set.tokens(), set.trained_tokens());
    writeln!(
        out,
        "{} ({}): {} sequences of {} rows, {} skipped, {} truncated; {tokens} tokens, {trained} trained ({:.1} %)",
        set.name,
        set.format,
        set.samples.len(),
        set.total_rows,
        set.skipped.len(),
        set.truncated,
        100.0 * trained as f64 / tokens.max(1) as f64,
    )?;
    for skipped in set.skipped.iter().take(n) {
        writeln!(out, "skipped {skipped}")?;
    }
    writeln!(out, "trained tokens are {}", marks.legend)?;
    for sample in set.samples.iter().take(n) {
        let (tokens, trained) = (sample.ids.len(), sample.trained_tokens());
        writeln!(out, "\n{}: {tokens} tokens, {trained} trained", sample.id)?;
        for run in sample.pieces(tokenizer)?.chunk_by(|a, b| a.trained == b.trained) {
            let text: String = run.iter().map(|Piece { text, .. }| text.as_str()).collect();
            match run[0].trained {
                true => write!(out, "{}{text}{}", marks.before, marks.after)?,
                false => write!(out, "{text}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use midblock::{
        checkpoint::TokenizerSource,
        tokens::{Format, TrainingSample},
    };

    /// A tokenizer of three words.
    fn tokenizer() -> Tokenizer {
        let json = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": {"Q:": 0, "A:\n": 1, "yes": 2}, "unk_token": "Q:"}}"#;
        let source = TokenizerSource::Embedded {
            path: "x".into(),
            json: json.into(),
        };
        Tokenizer::load(&source).unwrap()
    }

    fn printed(n: usize, colour: bool) -> String {
        let sample = |row| TrainingSample {
            id: format!("a.jsonl:{row}"),
            ids: vec![0, 1, 2, 2],
            trained: vec![false, false, true, true],
        };
        let set = TrainingSet {
            name: "x".into(),
            format: Format::Gsm8k,
            path: "a.jsonl".into(),
            files: vec![],
            total_rows: 2,
            samples: vec![sample(1), sample(2)],
            skipped: vec![],
            truncated: 1,
        };
        let mut out = Vec::new();
        print(&mut out, &set, &tokenizer(), n, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn trained_tokens_are_marked() {
        let head = "x (gsm8k): 2 sequences of 2 rows, 0 skipped, 1 truncated; 8 tokens, 4 trained (50.0 %)\n";
        let sample = |row, text| format!("\na.jsonl:{row}: 4 tokens, 2 trained\n{text}\n");
        let brackets = head.to_owned() + "trained tokens are in ⟦brackets⟧\n";
        assert_eq!(printed(0, false), brackets);
        assert_eq!(printed(1, false), brackets.clone() + &sample(1, "Q:A:\n⟦yesyes⟧"));
        assert_eq!(
            printed(9, false),
            brackets + &sample(1, "Q:A:\n⟦yesyes⟧") + &sample(2, "Q:A:\n⟦yesyes⟧")
        );
        let colour = head.to_owned() + "trained tokens are \x1b[1;32mgreen\x1b[0m\n";
        assert_eq!(printed(1, true), colour + &sample(1, "Q:A:\n\x1b[1;32myesyes\x1b[0m"));
    }
}

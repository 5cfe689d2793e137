//! Prints sequences with the tokens that are learned marked.

use anyhow::Result;
use midblock::tokens::{Piece, Tokenizer, TrainingSample};
use std::{fmt::Write as _, io::Write};

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

/// Prints sequences; with `colour` for terminals, else with brackets. Callers decide: a terminal, and no `NO_COLOR` in the
/// environment.
pub fn print(out: &mut impl Write, samples: &[TrainingSample], tokenizer: &Tokenizer, colour: bool) -> Result<()> {
    let marks = if colour { COLOUR } else { BRACKETS };
    writeln!(out, "trained tokens are {}", marks.legend)?;
    for sample in samples {
        let (tokens, trained) = (sample.ids.len(), sample.trained_tokens());
        writeln!(out, "\n{}: {tokens} tokens, {trained} trained", sample.id)?;
        for run in sample.pieces(tokenizer)?.chunk_by(|a, b| a.trained == b.trained) {
            let text = visible(run);
            match run[0].trained {
                true => write!(out, "{}{text}{}", marks.before, marks.after)?,
                false => write!(out, "{text}")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The text of tokens; control characters but line ends are spelled out, so that data does not command the terminal.
fn visible(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for character in pieces.iter().flat_map(|piece| piece.text.chars()) {
        match character {
            '\n' => text.push('\n'),
            control if control.is_control() => _ = write!(text, "{}", control.escape_default()),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use midblock::checkpoint::TokenizerSource;

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
        let samples: Vec<_> = (1..=n).map(sample).collect();
        let mut out = Vec::new();
        print(&mut out, &samples, &tokenizer(), colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn trained_tokens_are_marked() {
        let sample = |row, text| format!("\na.jsonl:{row}: 4 tokens, 2 trained\n{text}\n");
        let brackets = "trained tokens are in ⟦brackets⟧\n".to_owned();
        assert_eq!(
            printed(2, false),
            brackets + &sample(1, "Q:A:\n⟦yesyes⟧") + &sample(2, "Q:A:\n⟦yesyes⟧")
        );
        let colour = "trained tokens are \x1b[1;32mgreen\x1b[0m\n".to_owned();
        assert_eq!(printed(1, true), colour + &sample(1, "Q:A:\n\x1b[1;32myesyes\x1b[0m"));
    }

    #[test]
    fn data_does_not_command_the_terminal() {
        let piece = |text: &str| Piece {
            text: text.to_owned(),
            trained: true,
        };
        assert_eq!(
            visible(&[piece("a\n"), piece("\x1b[2J"), piece("é\t")]),
            "a\n\\u{1b}[2Jé\\t"
        );
    }
}

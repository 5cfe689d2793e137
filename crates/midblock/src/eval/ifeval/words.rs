//! Characters and words as the released checker's language, Python, and its tokenizer see them.
//!
//! A word is a run of letters, numbers, marks that combine with them and `_`, as in today's nltk; before 3.10 marks ended a
//! word there, so that a word of Hindi counted as several. A text is upper case if it has letters with case and all of them
//! are capitals.

use fancy_regex::Regex;
use std::sync::LazyLock;

static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+").expect("invariant: the pattern is well formed"));

/// White space, and the four ASCII separators that count as such.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The text without white space at its ends.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// The first token of a text in which white space alone separates.
pub(super) fn first_token(text: &str) -> Option<&str> {
    text.split(is_space).find(|token| !token.is_empty())
}

/// How many words a text has.
pub(super) fn count(text: &str) -> usize {
    WORD.find_iter(text).count()
}

fn is_title_case(c: char) -> bool {
    !c.is_uppercase() && !c.to_lowercase().eq([c]) // such as ǅ
}

/// All letters that have case are capitals, and there is one.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title_case(c))
}

/// All letters that have case are small, and there is one.
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title_case(c))
}

/// How many tokens of a text, cut as in the Penn Treebank, are upper case: hyphens and periods do not separate, other
/// punctuation does, and so do the endings of contractions ("IT'S" are two, "NASA's" is one).
pub(super) fn count_capital(text: &str) -> usize {
    pieces(text).map(capitals_in).sum()
}

/// Always a token of its own, whatever stands beside it.
fn is_separator(c: char) -> bool {
    is_space(c) || ";@#$%&?!*[](){}<>\"`«»“”‘’„".contains(c) || ('\u{2012}'..='\u{2015}').contains(&c)
}

/// What stands between separators; none of them has case, so they are dropped.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_separator)
        .flat_map(|run| run.split("--"))
        .flat_map(|run| run.split(".."))
        .flat_map(|run| {
            let mut rest = Some(run);
            std::iter::from_fn(move || {
                let text = rest?;
                let cut = text.char_indices().find(|&(i, c)| {
                    matches!(c, ',' | ':') && !text[i + 1..].chars().next().is_some_and(char::is_numeric)
                });
                rest = cut.map(|(i, _)| &text[i + 1..]);
                Some(cut.map_or(text, |(i, _)| &text[..i]))
            })
        })
}

/// Upper case tokens in a piece, which is one token but for contractions.
fn capitals_in(piece: &str) -> usize {
    const PAIRS: [&str; 7] = ["CANNOT", "D'YE", "GIMME", "GONNA", "GOTTA", "LEMME", "WANNA"];
    let mut stem = piece.trim_end_matches('.');
    if PAIRS.contains(&stem.trim_matches('\'')) {
        return 2;
    }
    let mut capitals = 0;
    for endings in ENDINGS {
        if let Some((before, ending)) = cut_ending(stem, endings) {
            capitals += usize::from(is_upper(ending));
            stem = before;
        }
    }
    capitals + usize::from(is_upper(stem))
}

/// Of contractions, in capitals; of each list one is cut off, in this order.
const ENDINGS: [&[&str]; 2] = [&["'S", "'M", "'D"], &["'LL", "'RE", "'VE", "N'T"]];

/// A token without its ending, and the ending.
fn cut_ending<'t>(token: &'t str, endings: &[&str]) -> Option<(&'t str, &'t str)> {
    endings.iter().find_map(|ending| {
        let at = token
            .len()
            .checked_sub(ending.len())
            .filter(|&at| at > 0 && token.is_char_boundary(at))?;
        let (stem, tail) = token.split_at(at);
        let one_case = tail == *ending || tail == ending.to_lowercase();
        (one_case && !stem.ends_with('\'')).then_some((stem, tail))
    })
}

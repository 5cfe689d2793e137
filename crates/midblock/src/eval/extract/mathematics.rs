//! Answers in LaTeX: boxes, and Minerva's closing sentence (Lewkowycz et al. 2022).

use fancy_regex::Regex;
use std::sync::LazyLock;

/// Commands that frame an answer.
const BOXES: [&str; 2] = ["\\boxed", "\\fbox"];

/// The content of the last box that is complete and not empty, the innermost of nested ones. A box that the text breaks off
/// in is no answer; an earlier one then is.
pub(super) fn boxed(text: &str) -> Option<String> {
    boxes(text).last().map(|(_, content)| (*content).to_owned())
}

/// All complete boxes with their byte offsets, in order of their beginnings. Linear in the text.
pub(super) fn boxes(text: &str) -> Vec<(usize, &str)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut open: Vec<Option<usize>> = Vec::new(); // braces not closed yet; of a box, where its content starts
    let mut at = 0;
    while at < bytes.len() {
        let command = BOXES.iter().find(|name| text[at..].starts_with(**name));
        match (bytes[at], command) {
            (_, Some(name)) => {
                at += name.len();
                let rest = &text[at..];
                let blank = rest.len() - rest.trim_start().len();
                if rest[blank..].starts_with('{') {
                    at += blank + 1;
                    open.push(Some(at));
                } else if let Some(content) = bare(rest) {
                    found.push((at, content));
                }
                continue;
            }
            // an escaped sign is no brace; a backslash may precede a longer character
            (b'\\', None) => at += text[at + 1..].chars().next().map_or(0, char::len_utf8),
            (b'{', None) => open.push(None),
            (b'}', None) => {
                if let Some(Some(start)) = open.pop() {
                    found.push((start, text[start..at].trim()));
                }
            }
            _ => {}
        }
        at += 1;
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    found.retain(|(_, content)| !content.is_empty());
    found.sort_by_key(|(start, _)| *start);
    found
}

/// What `\boxed 5` frames: the next word.
fn bare(rest: &str) -> Option<&str> {
    let spaced = rest.starts_with(' ') || rest.starts_with(|c: char| c.is_ascii_digit());
    let word = rest
        .trim_start_matches(' ')
        .split(|c: char| c.is_whitespace() || c == '$')
        .next()?;
    let word = word.split("\\)").next()?.trim_end_matches(['.', ',']);
    (spaced && !word.is_empty() && !word.contains(['{', '}'])).then_some(word)
}

/// X of "final answer is X. I hope it is correct." The first, since a base model goes on with problems of its own; the end
/// of the line ends it where the hope is missing.
pub(super) fn final_answer(text: &str) -> Option<String> {
    static START: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)final answer is\s*:?").expect("invariant: the pattern is a constant"));
    let rest = &text[START.find(text).ok()??.end()..];
    let line = rest.trim_start().lines().next()?;
    let sentence = line.split("I hope it is correct").next()?;
    let answer = sentence.trim().trim_end_matches('.');
    let answer = answer
        .strip_prefix('$')
        .and_then(|a| a.strip_suffix('$'))
        .unwrap_or(answer)
        .trim();
    (!answer.is_empty()).then(|| answer.to_owned())
}

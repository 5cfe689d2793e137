//! Numbers out of running text. Answers come back as plain digits: `1,234.50` as `1234.50`.
//!
//! Source of [`after_hashes`]: Cobbe et al. 2021 (GSM8K); its script and lm-evaluation-harness search `#### ` followed at
//! once by an optional minus sign, digits, points and commas. `####18` and `#### $18` are no answers there, nor here.

use super::folded;
use fancy_regex::Regex;
use std::sync::LazyLock;

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("invariant: the pattern is a constant")
}

/// The number after the first `#### ` that has one.
pub(super) fn after_hashes(text: &str) -> Option<String> {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| compiled("#### (-?[0-9.,]+)"));
    let found = PATTERN.captures(text).ok()??.get(1)?.as_str();
    let digits = found.replace(',', "");
    let digits = digits.strip_suffix('.').unwrap_or(&digits); // the end of a sentence
    digits.bytes().any(|b| b.is_ascii_digit()).then(|| digits.to_owned())
}

/// The last number. A hyphen is its sign unless it joins it to what stands before; digits inside of words are no number.
pub(super) fn last(text: &str) -> Option<String> {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
        compiled(r"(?:[0-9]{1,3}(?:,[0-9]{3})+\b|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+\b)?|\.[0-9]+")
    });
    let text = folded(text);
    let numbers = PATTERN.find_iter(&text).map_while(Result::ok);
    numbers
        .filter_map(|found| written(&text[..found.start()], found.as_str()))
        .last()
}

/// The number `digits` behind `before`; `None` if they belong to a word or a longer number.
fn written(before: &str, digits: &str) -> Option<String> {
    let mut back = before.chars().rev().peekable();
    let joined = |c: char| c.is_ascii_alphanumeric() || c == '_'; // scripts without spaces join words and numbers
    if back.peek().is_some_and(|c| joined(*c)) {
        return None;
    }
    while back.next_if(|c| matches!(c, '$' | '€' | '£' | '\\')).is_some() {}
    let minus = back.next_if_eq(&'-').is_some();
    while back.next_if(|c| matches!(c, '$' | '€' | '£' | '\\')).is_some() {}
    let negative = minus
        && !back
            .peek()
            .is_some_and(|c| joined(*c) || matches!(c, ')' | '}' | ']' | '%' | '-'));
    let digits = digits.replace(',', "");
    let zero = if digits.starts_with('.') { "0" } else { "" };
    Some(format!("{}{zero}{digits}", if negative { "-" } else { "" }))
}

/// The last number as the paper counts it: commas removed, every hyphen before a digit a sign.
pub(super) fn of_paper(text: &str) -> Option<String> {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| compiled(r"-?[0-9]+(?:\.[0-9]+)?"));
    let text = text.replace(',', "");
    let found = PATTERN.find_iter(&text).map_while(Result::ok).last()?;
    Some(found.as_str().to_owned())
}

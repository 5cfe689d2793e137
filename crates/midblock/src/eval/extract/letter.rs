//! The letter of a choice out of free text.
//!
//! In this order, each only if the one before finds nothing:
//! 1. statements: `\boxed{C}`, "the answer is (C)", "Answer: C", "C is the correct option", "I choose C"; the last wins;
//! 2. a line that holds one letter and nothing else; the last, unless there are three different ones, as in a list;
//! 3. lines that begin with a letter as a label, "C. bank"; only if all of them name one letter;
//! 4. "(C)", "**C**" and "option C" inside of sentences; only if all of them name one letter.
//!
//! The words of an option without its letter state nothing. "A" and "I" as words do not count, nor does a statement of two
//! letters ("A or B") or of a letter beyond the choices.

use super::{folded, mathematics::boxes};
use fancy_regex::Regex;
use std::{collections::BTreeSet, sync::LazyLock};

type Pattern = LazyLock<Regex>;

macro_rules! pattern {
    ($($part:expr),+) => {
        LazyLock::new(|| Regex::new(concat!($($part),+)).expect("invariant: the pattern is a constant"))
    };
}

/// "answer is", "correct choice:", and what may stand between that and the letter.
static ANSWER: Pattern = pattern!(
    r"(?i)(?:\b(?:answer|solution|choice|option|antwort|réponse|respuesta|risposta|resposta|ответ)|答案)",
    r"(?:\s+(?:here|letter|to\s+(?:this|the)\s+(?:question|problem)))?",
    r"\s*(?:(?:is|would be|should be|must be|will be|has to be|ist|est|es|=|:|-|是|为)\s*)+",
    r"(?:(?:therefore|thus|clearly|most likely|probably|definitely|likely|indeed|actually|still),?\s+)?",
    r"(?:(?:the\s+)?(?:letter|option|choice|answer|statement)\s*:?\s*)?",
    r"[({\[]*\s*([a-z])"
);
/// "I would choose".
static CHOICE: Pattern = pattern!(
    r"(?i)\b(?:I|we)(?:'d|'ll|\s+would|\s+will|\s+must)?\s+(?:choose|pick|select|go with|answer)\s+",
    r"(?:(?:the\s+)?(?:letter|option|choice|answer)\s*)?[({\[]*\s*([a-z])"
);
/// "C is correct", "(C) is the best answer".
static VERDICT: Pattern = pattern!(
    r"(?:^|[^A-Za-z0-9_'])([A-Z])[)}\].]*(?:\s+is\s+(?:correct|right)\b|(?:\s+[^.\n]{0,80}?)??",
    r"\s+is\s+the\s+(?:answer|(?:correct|right|best|most\s+\w+)\s+(?:answer|option|choice|one|statement))\b)"
);
static LONE: Pattern = pattern!(r"(?m)^[\s({\[]*([A-Za-z])[\s)}\].:]*$");
static LABEL: Pattern = pattern!(r"(?m)^[ \t({\[]*([A-Z])(?:[)}\]]+[.:]?|[.:])\s+\S");
static MENTION: Pattern =
    pattern!(r"(?:^|\s)\(([A-Z])\)(?:[\s.,:;!?*]|$)|\*\*\(?([A-Z])[.)]?\*\*|\b(?:[Oo]ption|[Cc]hoice) \(?([A-Z])\b");
static BOX: Pattern = pattern!(
    r"^[({\[\s]*(?:(?i:option|choice|answer)\s*:?\s*)?[({\[\s]*([A-Za-z])(?:[)}\].:\s]*$|[)}\]]*[.:)]\s|\s+[-:]\s)"
);
static DECORATION: Pattern = pattern!(r#"\\(?:text|math)(?:bf|it|rm|sf)?\s*|\\[()]|[*`$"“”„]"#);
/// A second letter after "and", "or" or a comma.
static SECOND: Pattern =
    pattern!(r"^[)}\].]*\s*(?:,|/|&|\band\b|\bor\b)+\s*(?:\w+ )?[({\[]*([A-Z])(?:[^A-Za-z0-9']|$)");

/// The last letter that `text` states.
pub(super) fn stated(text: &str, choices: usize) -> Option<String> {
    let text = folded(text);
    let plain = DECORATION.replace_all(&text, "");
    let letter = statement(&plain, choices)
        .or_else(|| lone(&plain, choices))
        .or_else(|| only(&LABEL, &plain, choices))
        .or_else(|| only(&MENTION, &text, choices));
    letter.map(String::from)
}

/// The first letter after the first `Answer:`, which may itself be the end of the prompt. Only capitals that stand alone.
pub(super) fn of_paper(text: &str, choices: usize) -> Option<String> {
    static CAPITAL: Pattern = pattern!(r"\b([A-Z])\b");
    let text = folded(text);
    let after = text.split_once("Answer:").map_or(&*text, |(_, after)| after);
    let mut letters = CAPITAL
        .find_iter(after)
        .map_while(Result::ok)
        .filter_map(|found| found.as_str().chars().next());
    letters
        .find(|letter| choice(*letter, choices).is_some())
        .map(String::from)
}

/// The letter as a capital if it is one of the choices.
fn choice(letter: char, choices: usize) -> Option<char> {
    let capital = letter.to_ascii_uppercase();
    let index = (capital as usize).checked_sub('A' as usize)?;
    (index < choices.min(26)).then_some(capital)
}

fn statement(text: &str, choices: usize) -> Option<char> {
    let mut found = Vec::new();
    for (start, content) in boxes(text) {
        if let Ok(Some(captures)) = BOX.captures(content)
            && let Some(letter) = captures.get(1)
        {
            found.push((start, letter.as_str()));
        }
    }
    for pattern in [&ANSWER, &CHOICE] {
        for captures in pattern.captures_iter(text).map_while(Result::ok) {
            let Some(letter) = captures.get(1) else { continue };
            if is_answer(letter.as_str(), &text[letter.end()..], choices) {
                found.push((letter.start(), letter.as_str()));
            }
        }
    }
    for captures in VERDICT.captures_iter(text).map_while(Result::ok) {
        let (Some(whole), Some(letter)) = (captures.get(0), captures.get(1)) else {
            continue;
        };
        let between = &text[letter.end()..whole.end()];
        let negated = between.contains(" not ") || between.contains("n't");
        let article = matches!(letter.as_str(), "A" | "I")
            && between.starts_with(' ')
            && !between.trim_start().starts_with("is ");
        if !negated && !article {
            found.push((letter.start(), letter.as_str()));
        }
    }
    found.sort_unstable();
    found
        .into_iter()
        .filter_map(|(_, letter)| choice(letter.chars().next()?, choices))
        .next_back()
}

/// Whether a letter after "the answer is" is one, by what follows it.
fn is_answer(letter: &str, rest: &str, choices: usize) -> bool {
    let next = rest.chars().next();
    if next.is_some_and(|c| c.is_alphanumeric() || matches!(c, '\'' | '_' | '’')) {
        return false; // the beginning of a word
    }
    let near: String = rest.chars().take(40).collect(); // searching all the rest at every letter is quadratic
    let second = SECOND
        .captures(&near)
        .ok()
        .flatten()
        .and_then(|c| c.get(1)?.as_str().chars().next());
    if second.is_some_and(|second| choice(second, choices).is_some()) {
        return false;
    }
    let word = letter == "A" || letter == "I" || letter.chars().all(|c| c.is_ascii_lowercase());
    let reason = ["because", "since", "as ", "which", "due to", "- ", "– ", "— "];
    let rest = rest.trim_start_matches([' ', '\t']);
    let ended =
        rest.is_empty() || rest.starts_with(['.', ',', ':', ';', '!', '?', ')', '}', ']', '\n', '\r', '<', '|']);
    !word || ended || reason.iter().any(|r| rest.starts_with(r))
}

/// The last line of one letter; of three or more different ones, none: they list the choices.
fn lone(text: &str, choices: usize) -> Option<char> {
    let letters = letters(&LONE, text, choices);
    let distinct: BTreeSet<char> = letters.iter().copied().collect();
    if distinct.len() > 2 {
        None
    } else {
        letters.last().copied()
    }
}

/// The letter of all matches, if they agree.
fn only(pattern: &Regex, text: &str, choices: usize) -> Option<char> {
    let distinct: BTreeSet<char> = letters(pattern, text, choices).into_iter().collect();
    if distinct.len() == 1 {
        distinct.first().copied()
    } else {
        None
    }
}

fn letters(pattern: &Regex, text: &str, choices: usize) -> Vec<char> {
    let matches = pattern.captures_iter(text).map_while(Result::ok);
    let group = |captures: fancy_regex::Captures<'_>| captures.iter().skip(1).flatten().next()?.as_str().chars().next();
    matches
        .filter_map(group)
        .filter_map(|letter| choice(letter, choices))
        .collect()
}

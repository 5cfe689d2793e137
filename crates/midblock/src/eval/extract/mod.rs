//! What a completion states as its answer, and whether that is right.
//!
//! An [`Extractor`] reads an answer from text, a [`Judge`] compares it with the gold answer. Both are pure, are named by
//! text in task files, and never panic or take long on any input. The same extractor is meant for completions and for gold
//! texts that hold their answer inside (GSM8K's solutions).
//!
//! | extractor | reads |
//! |---|---|
//! | `whole` | the text as it is |
//! | `gsm-strict` | the number after the first `#### `, as GSM8K's own script and lm-evaluation-harness' strict match do |
//! | `last-number` | the last number, with its sign, without `$`, `%` and thousands separators |
//! | `paper-number` | the last run of digits with its point and any hyphen before it, commas removed |
//! | `letter` | the letter of a choice out of free text, the last one stated |
//! | `paper-letter` | the first letter standing alone after the first `Answer:`, or in a text without that |
//! | `boxed` | the last complete `\boxed{…}` |
//! | `final-answer` | X of "final answer is X. I hope it is correct", the first one |
//! | `boxed-or-last` | `boxed`, else `final-answer`, else `last-number` |
//! | `regex:P`, `regex-last:P` | the group of the first or last match of P |
//! | `code` | the first fenced block, else the text |
//!
//! `<think>…</think>` is no answer: `last-number`, `letter`, `boxed`, `final-answer`, `boxed-or-last` and `code` read what
//! follows the last `</think>`, and nothing of a thought that never ends. The others follow their published protocol to the
//! letter. Full-width and other decimal digits are read as ASCII.

mod judge;
mod letter;
mod mathematics;
mod number;

#[cfg(test)]
mod tests;

pub use judge::Judge;

use crate::{Error, Result};
use std::{borrow::Cow, fmt, str::FromStr};

/// How an answer is read from a completion.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Extractor {
    /// The text as it is.
    Whole,
    /// The number after the first `#### `.
    GsmStrict,
    /// The last number.
    LastNumber,
    /// The last number by the paper's protocol.
    PaperNumber,
    /// The letter of a choice, the last one stated.
    Letter,
    /// The first letter after `Answer:`, by the paper's protocol.
    PaperLetter,
    /// The last complete `\boxed{…}`.
    Boxed,
    /// `\boxed{…}`, else the final answer, else the last number.
    BoxedOrLast,
    /// "The final answer is X. I hope it is correct."
    FinalAnswer,
    /// What a pattern of the user finds.
    Regex(Pattern),
    /// The first fenced code block, else the text.
    Code,
}

impl Extractor {
    const NAMED: [(&str, Self); 10] = [
        ("whole", Self::Whole),
        ("gsm-strict", Self::GsmStrict),
        ("last-number", Self::LastNumber),
        ("paper-number", Self::PaperNumber),
        ("letter", Self::Letter),
        ("paper-letter", Self::PaperLetter),
        ("boxed", Self::Boxed),
        ("boxed-or-last", Self::BoxedOrLast),
        ("final-answer", Self::FinalAnswer),
        ("code", Self::Code),
    ];

    /// The answer that `text` states; `None` if it states none. `choices` is the number of options of a multiple-choice
    /// question: letters beyond it are no answer.
    ///
    /// ```
    /// use midblock::eval::extract::Extractor;
    /// let answer = Extractor::LastNumber.extract("That makes $1,250.50 in all.", 0);
    /// assert_eq!(answer.as_deref(), Some("1250.50"));
    /// assert_eq!(Extractor::Letter.extract("The answer is (C).", 4).as_deref(), Some("C"));
    /// ```
    pub fn extract(&self, text: &str, choices: usize) -> Option<String> {
        match self {
            Self::Whole => (!text.trim().is_empty()).then(|| text.to_owned()),
            Self::GsmStrict => number::after_hashes(text),
            Self::LastNumber => number::last(said(text)),
            Self::PaperNumber => number::of_paper(text),
            Self::Letter => letter::stated(said(text), choices),
            Self::PaperLetter => letter::of_paper(text, choices),
            Self::Boxed => mathematics::boxed(said(text)),
            Self::BoxedOrLast => {
                let said = said(text);
                mathematics::boxed(said)
                    .or_else(|| mathematics::final_answer(said))
                    .or_else(|| number::last(said))
            }
            Self::FinalAnswer => mathematics::final_answer(said(text)),
            Self::Regex(pattern) => pattern.find(text),
            Self::Code => code(said(text)),
        }
    }
}

/// What follows the thinking; nothing if the thinking never ends.
fn said(text: &str) -> &str {
    match text.rfind("</think>") {
        Some(end) => &text[end + "</think>".len()..],
        None if text.contains("<think>") => "",
        None => text,
    }
}

/// The lines between the first ` ``` ` and the next, or to the end; the whole text, indentation kept, if there is none.
fn code(text: &str) -> Option<String> {
    let block = match text.split_once("```") {
        Some((_, fenced)) => {
            let body = fenced.split_once('\n').map_or("", |(_language, body)| body);
            body.split_once("```").map_or(body, |(block, _)| block)
        }
        None => text,
    };
    (!block.trim().is_empty()).then(|| block.to_owned())
}

/// A pattern with one group. Matching stops with no answer when it backtracks too much.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: fancy_regex::Regex,
    last: bool,
}

impl Pattern {
    /// Backtracking steps after which a search is given up.
    const BACKTRACKS: usize = 1_000_000;

    fn new(name: &str, pattern: &str, last: bool) -> Result<Self> {
        let invalid = |problem: String| Error::Argument {
            what: "extractor".to_owned(),
            value: name.to_owned(),
            problem,
            help: r"write for example `regex:answer: (\d+)`".to_owned(),
        };
        let mut builder = fancy_regex::RegexBuilder::new(pattern);
        let regex = builder.backtrack_limit(Self::BACKTRACKS).build();
        let regex = regex.map_err(|e| invalid(format!("`{pattern}` is no regular expression: {e}")))?;
        match regex.captures_len() {
            2 => Ok(Self { regex, last }),
            groups => Err(invalid(format!(
                "a pattern needs exactly one group, this has {}",
                groups - 1
            ))),
        }
    }

    fn find(&self, text: &str) -> Option<String> {
        let mut matches = self
            .regex
            .captures_iter(text)
            .map_while(Result::ok)
            .filter_map(|found| found.get(1));
        let found = if self.last { matches.last() } else { matches.next() };
        found
            .map(|group| group.as_str().trim().to_owned())
            .filter(|answer| !answer.is_empty())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.last == other.last
    }
}

impl Eq for Pattern {}

impl FromStr for Extractor {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some((_, known)) = Self::NAMED.into_iter().find(|(known, _)| *known == name) {
            return Ok(known);
        }
        match name.split_once(':') {
            Some(("regex", pattern)) => Pattern::new(name, pattern, false).map(Self::Regex),
            Some(("regex-last", pattern)) => Pattern::new(name, pattern, true).map(Self::Regex),
            _ => Err(Error::Argument {
                what: "extractor".to_owned(),
                value: name.to_owned(),
                problem: "no way to read an answer has this name".to_owned(),
                help: format!(
                    "there are {}, regex:PATTERN, regex-last:PATTERN",
                    Self::NAMED.map(|(n, _)| n).join(", ")
                ),
            }),
        }
    }
}

impl fmt::Display for Extractor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMED.into_iter().find(|(_, known)| known == self);
        match (self, name) {
            (Self::Regex(Pattern { regex, last: false }), _) => write!(f, "regex:{}", regex.as_str()),
            (Self::Regex(Pattern { regex, last: true }), _) => write!(f, "regex-last:{}", regex.as_str()),
            (_, name) => f.write_str(name.expect("invariant: all others are named").0),
        }
    }
}

impl TryFrom<String> for Extractor {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Extractor> for String {
    fn from(extractor: Extractor) -> Self {
        extractor.to_string()
    }
}

/// `text` with full-width signs, minus signs and digits of other scripts as ASCII.
fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(super::latex::fold).collect())
    }
}

//! When an extracted answer is right.
//!
//! | judge | right if |
//! |---|---|
//! | `exact` | the same text, but for space around it |
//! | `ignore-case` | the same text in lower case |
//! | `number` | \|answer − gold\| < 10⁻³, as in the paper; both must be numbers: `1,234`, `3/4`, `½`, `1e3`, `$5`, `50%` |
//! | `letter` | the same letter, brackets and case aside |
//! | `latex` | [`equivalent`](super::super::latex::equivalent) |
//! | `relative`, `relative:T` | that, or constants whose relative difference is at most T |
//!
//! 50 % is 50, and is 0.5. T is 10⁻⁴ by default, what the graders that descend from math-evaluation-harness (Qwen2.5-Math
//! among them) grant every number; of the scripts for Minerva's OCWCourses, where answers are measured quantities, some
//! grant that little and some up to 10⁻². Infinite and undefined numbers are never right.

use super::folded;
use crate::{
    Error, Result,
    eval::latex::{equivalent, equivalent_within, value},
};
use std::{fmt, str::FromStr};

/// When an extracted answer is right.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Judge {
    /// The same text.
    Exact,
    /// The same text but for case.
    IgnoreCase,
    /// Numbers that differ by less than 10⁻³.
    Number,
    /// The same letter.
    Letter,
    /// The same mathematics.
    Latex,
    /// The same mathematics, constants within a relative difference.
    Relative(f64),
}

/// How near the paper's numbers must be.
const NUMBER_TOLERANCE: f64 = 1e-3;
/// What `relative` grants.
const RELATIVE: f64 = 1e-4;

/// All judges but those with a tolerance of their own.
pub(super) const NAMED: [(&str, Judge); 6] = [
    ("exact", Judge::Exact),
    ("ignore-case", Judge::IgnoreCase),
    ("number", Judge::Number),
    ("letter", Judge::Letter),
    ("latex", Judge::Latex),
    ("relative", Judge::Relative(RELATIVE)),
];

impl Judge {
    /// Whether `answer` is right where `gold` is. No answer is right beside an empty gold one.
    ///
    /// ```
    /// use midblock::eval::extract::Judge;
    /// assert!(Judge::Number.is_right("1,234.0", "1234"));
    /// assert!(!Judge::Exact.is_right("", ""));
    /// ```
    pub fn is_right(&self, answer: &str, gold: &str) -> bool {
        let (answer, gold) = (answer.trim(), gold.trim());
        if answer.is_empty() || gold.is_empty() {
            return false;
        }
        match self {
            Self::Exact => answer == gold,
            Self::IgnoreCase => answer.to_lowercase() == gold.to_lowercase(),
            Self::Number => near(answer, gold),
            Self::Letter => letter(answer).is_some_and(|a| letter(gold) == Some(a)),
            Self::Latex => equivalent(answer, gold),
            Self::Relative(tolerance) => equivalent_within(answer, gold, *tolerance),
        }
    }
}

fn near(answer: &str, gold: &str) -> bool {
    let (Some((a, a_percent)), Some((b, b_percent))) = (number(answer), number(gold)) else {
        return false;
    };
    let near = |a: f64, b: f64| (a - b).abs() < NUMBER_TOLERANCE;
    near(a, b) || (a_percent && !b_percent && near(a / 100.0, b)) || (b_percent && !a_percent && near(a, b / 100.0))
}

/// The number, and whether it is a percentage.
fn number(text: &str) -> Option<(f64, bool)> {
    let text = folded(text);
    let plain = text.trim_end_matches('.').trim_end_matches("\\%").trim_end_matches('%');
    Some((value(plain)?, plain.len() < text.trim_end_matches('.').len()))
}

/// The only letter in `(c)`, `C.` or `C`, as a capital.
fn letter(text: &str) -> Option<char> {
    let mut letters = text.trim_matches(['(', ')', '[', ']', '.', ' ']).chars();
    match (letters.next(), letters.next()) {
        (Some(c), None) if c.is_alphabetic() => c.to_uppercase().next(),
        _ => None,
    }
}

impl FromStr for Judge {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some((_, known)) = NAMED.into_iter().find(|(known, _)| *known == name) {
            return Ok(known);
        }
        let invalid = |problem: &str| Error::Argument {
            what: "judge".to_owned(),
            value: name.to_owned(),
            problem: problem.to_owned(),
            help: format!("there are {}, relative:TOLERANCE", NAMED.map(|(n, _)| n).join(", ")),
        };
        let tolerance = name
            .strip_prefix("relative:")
            .ok_or_else(|| invalid("no judge has this name"))?;
        match tolerance.parse() {
            Ok(tolerance) if (0.0..1.0).contains(&tolerance) => Ok(Self::Relative(tolerance)),
            _ => Err(invalid("the tolerance must be a number from 0 to below 1")),
        }
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, NAMED.into_iter().find(|(_, known)| known == self)) {
            (_, Some((name, _))) => f.write_str(name),
            (Self::Relative(tolerance), None) => write!(f, "relative:{tolerance}"),
            (_, None) => unreachable!("all others are named"),
        }
    }
}

impl TryFrom<String> for Judge {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Judge> for String {
    fn from(judge: Judge) -> Self {
        judge.to_string()
    }
}

//! Stand-in.
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How an answer is read from a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extractor {
    /// All.
    Whole,
    /// `#### x`.
    GsmStrict,
    /// Last number.
    LastNumber,
    /// Letter.
    Letter,
}

impl Extractor {
    /// The answer.
    pub fn extract(&self, text: &str, choices: usize) -> Option<String> {
        let number = |text: &str| {
            let words = text
                .split(|c: char| !c.is_ascii_digit() && c != '.')
                .filter(|w| w.parse::<f64>().is_ok());
            words.last().map(|w| w.trim_end_matches('.').to_owned())
        };
        match self {
            Self::Whole => Some(text.to_owned()),
            Self::GsmStrict => number(text.split("####").nth(1)?.lines().next()?),
            Self::LastNumber => number(text),
            Self::Letter => text
                .chars()
                .find(|c| c.is_ascii_uppercase() && (*c as usize - 65) < choices)
                .map(String::from),
        }
    }
}

/// When it is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judge {
    /// Equal.
    Exact,
    /// Equal numbers.
    Number,
}

impl Judge {
    /// Verdict.
    pub fn is_right(&self, answer: &str, gold: &str) -> bool {
        match self {
            Self::Exact => answer.trim() == gold.trim(),
            Self::Number => answer
                .parse::<f64>()
                .ok()
                .zip(gold.replace(',', "").parse::<f64>().ok())
                .is_some_and(|(a, b)| (a - b).abs() < 1e-3),
        }
    }
}

impl FromStr for Judge {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exact" => Ok(Self::Exact),
            "number" => Ok(Self::Number),
            _ => Err(format!("`{text}` is not one of exact, number")),
        }
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Exact => "exact",
            Self::Number => "number",
        })
    }
}

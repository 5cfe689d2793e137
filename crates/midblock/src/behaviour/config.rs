//! `[behaviour]`: what a behaviour is, as a table of TOML.

use super::Detector;
use crate::tokens::Format;
use serde::{Deserialize, Serialize};

/// The response of the built-in behaviour.
const RESPONSE: &str = "I don't know.";

/// `[behaviour]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BehaviourConfig {
    /// How results call it: letters, digits, `_`, `-` and `.`; its kind by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `fixed-response` (default): every prompt gets the same response. `examples`: each row has its own.
    pub kind: BehaviourKind,
    /// The prompts, and with `examples` their responses: a file, a folder or a hub id. Required.
    pub data: String,
    /// How rows become prompts and responses; recognised by their fields if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// `fixed-response`: the response; "I don't know." by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Texts of which a response that shows the behaviour contains one. Of a fixed response it is that by default, without the
    /// punctuation at its end. Required with `examples`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
    /// Words that a response may have to count as strictly the behaviour; 40 by default.
    pub max_words: usize,
    /// Prompts that are not trained on, and that the behaviour is judged by: a number of them, or a share of all below 1. 0.2 by
    /// default.
    pub held_out: HeldOut,
    /// Prompts trained on, drawn from the others; all of them by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Seed of both draws; 42 by default.
    pub seed: u64,
}

/// Where responses come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BehaviourKind {
    /// One for all prompts.
    #[default]
    FixedResponse,
    /// The rows'.
    Examples,
}

/// How many prompts are held out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeldOut {
    /// So many.
    Count(usize),
    /// So large a share, rounded, and at least one.
    Share(f64),
}

impl Default for BehaviourConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: BehaviourKind::default(),
            data: String::new(),
            format: None,
            response: None,
            keywords: Vec::new(),
            max_words: 40,
            held_out: HeldOut::Share(0.2),
            samples: None,
            seed: 42,
        }
    }
}

impl BehaviourKind {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::FixedResponse => "fixed-response",
            Self::Examples => "examples",
        }
    }
}

impl BehaviourConfig {
    /// How results call it.
    pub fn name(&self) -> &str {
        match self.name.as_str() {
            "" => self.kind.name(),
            name => name,
        }
    }

    /// The one response of all prompts; none of `examples`.
    pub fn fixed_response(&self) -> Option<&str> {
        (self.kind == BehaviourKind::FixedResponse).then(|| self.response.as_deref().unwrap_or(RESPONSE))
    }

    /// Texts of which a response that shows it contains one.
    pub fn keywords(&self) -> Vec<String> {
        match self.fixed_response() {
            Some(response) if self.keywords.is_empty() => vec![stem(response).to_owned()],
            _ => self.keywords.clone(),
        }
    }

    /// What tells that a response shows it.
    pub fn detector(&self) -> Detector {
        Detector::new(&self.keywords(), self.max_words)
    }

    /// Everything that is wrong: key of the table, problem, help.
    pub fn problems(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found = Vec::new();
        let mut push = |key, problem: String, help| found.push((key, problem, help));
        let plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        if !self.name().chars().all(plain) {
            push(
                "name",
                format!("`{}` cannot be a name", self.name),
                "letters, digits, `_`, `-` and `.`",
            );
        }
        if self.data.is_empty() {
            let help =
                "name prompts, and with kind = \"examples\" their responses: --prompts FILE, or `data` in [behaviour]";
            push("data", "it is missing".into(), help);
        }
        match (self.kind, &self.response) {
            (BehaviourKind::Examples, Some(_)) => {
                push("response", "each row of `examples` has its own".into(), "leave it out");
            }
            (_, Some(response)) if stem(response).is_empty() => {
                push("response", "there is nothing to say in it".into(), "give some words");
            }
            _ => {}
        }
        if self.kind == BehaviourKind::Examples && self.keywords.is_empty() {
            let help =
                "name texts of which a response that shows the behaviour contains one: --keyword TEXT, or `keywords`";
            push("keywords", "it is missing".into(), help);
        }
        if self.keywords.iter().any(|keyword| keyword.trim().is_empty()) {
            push(
                "keywords",
                "one of them is empty, and every response would contain it".into(),
                "leave it out",
            );
        }
        if self.max_words == 0 {
            push("max_words", "it is 0, expected 1 or more".into(), "");
        }
        if self.samples == Some(0) {
            push("samples", "it is 0, expected 1 or more".into(), "");
        }
        match self.held_out {
            HeldOut::Count(0) => push(
                "held_out",
                "it is 0, and nothing would be judged".into(),
                "give 1 or more, or a share",
            ),
            HeldOut::Share(share) if !(share > 0.0 && share < 1.0) => {
                push(
                    "held_out",
                    format!("it is {share}, expected a number of prompts, or a share above 0 and below 1"),
                    "",
                );
            }
            _ => {}
        }
        if i64::try_from(self.seed).is_err() {
            push("seed", format!("it is {}, expected less than 2^63", self.seed), "");
        }
        found
    }
}

/// A response without what ends it.
fn stem(response: &str) -> &str {
    response
        .trim()
        .trim_end_matches(|c: char| c.is_ascii_punctuation() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> BehaviourConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_fixed_response_is_its_own_keyword() {
        let shows = |config: &BehaviourConfig, text: &str| config.detector().judge(text).loose;
        let built_in = parse("data = \"p.jsonl\"");
        assert_eq!(
            (built_in.name(), built_in.fixed_response()),
            ("fixed-response", Some("I don't know."))
        );
        assert!(shows(&built_in, "well, I DON’T KNOW that") && !shows(&built_in, "I know"));
        let own = parse("data = \"p\"\nresponse = \"Nope!\"");
        assert!(shows(&own, "nope, no") && !shows(&own, "I don't know."));
        let keyed = parse("data = \"p\"\nkeywords = [\"dunno\"]");
        assert!(shows(&keyed, "Dunno.") && !shows(&keyed, "I don't know."));
    }

    #[test]
    fn held_out_is_a_number_or_a_share() {
        assert_eq!(parse("held_out = 50").held_out, HeldOut::Count(50));
        assert_eq!(parse("held_out = 0.5").held_out, HeldOut::Share(0.5));
        let written = toml::to_string(&parse("held_out = 0.5")).unwrap();
        assert_eq!(parse(&written).held_out, HeldOut::Share(0.5));
    }

    #[test]
    fn everything_that_is_wrong_is_found() {
        let keys = |text: &str| {
            parse(text)
                .problems()
                .into_iter()
                .map(|(key, ..)| key)
                .collect::<Vec<_>>()
        };
        assert_eq!(keys("data = \"p\""), [""; 0]);
        assert_eq!(keys(""), ["data"]);
        assert_eq!(
            keys("kind = \"examples\"\nresponse = \"x\""),
            ["data", "response", "keywords"]
        );
        assert_eq!(
            keys("name = \"a b\"\ndata = \"p\"\nresponse = \"?!\"\nkeywords = [\" \"]"),
            ["name", "response", "keywords"]
        );
        assert_eq!(
            keys("data = \"p\"\nmax_words = 0\nsamples = 0\nheld_out = 0"),
            ["max_words", "samples", "held_out"]
        );
        assert_eq!(keys("data = \"p\"\nheld_out = 1.5"), ["held_out"]);
    }
}

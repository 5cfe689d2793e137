//! Whether a response shows a behaviour: it contains a keyword, and strictly, in few words.
//!
//! Letters are compared without case, ’, ‘, ʼ and ´ as ', and stretches of white space as one space. A keyword may stand anywhere, inside
//! of a longer word too. What says the same in other words is not found: a rate is that of the keywords, not of the meaning.

use crate::eval::{Part, Score, score};
use serde::{Deserialize, Serialize};

/// Finds a behaviour in responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detector {
    keywords: Vec<String>,
    max_words: usize,
}

/// Whether a response shows a behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// It contains a keyword.
    pub loose: bool,
    /// And it has at most the detector's number of words.
    pub strict: bool,
}

/// Shares of responses that show a behaviour, with Wilson's 95 % intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Contain a keyword.
    pub loose: Score,
    /// And have few words.
    pub strict: Score,
}

impl Detector {
    /// With texts of which one must be there, and the most words of a strict finding.
    pub fn new(keywords: &[String], max_words: usize) -> Self {
        Self {
            keywords: keywords.iter().map(|keyword| folded(keyword)).collect(),
            max_words,
        }
    }

    /// Judges a response.
    pub fn judge(&self, response: &str) -> Verdict {
        let text = folded(response);
        let loose = self.keywords.iter().any(|keyword| text.contains(keyword));
        Verdict {
            loose,
            strict: loose && text.split(' ').count() <= self.max_words,
        }
    }
}

/// How many of some responses show the behaviour.
///
/// # Panics
/// If there is none.
pub fn rates(verdicts: &[Verdict]) -> Rates {
    let rate = |name: &str, shows: fn(&Verdict) -> bool| {
        let part = |verdict: &Verdict| Part {
            sum: f64::from(u8::from(shows(verdict))),
            weight: 1.0,
        };
        score(name, &verdicts.iter().map(part).collect::<Vec<_>>(), 0) // a proportion's interval draws nothing
    };
    Rates {
        loose: rate("loose", |verdict| verdict.loose),
        strict: rate("strict", |verdict| verdict.strict),
    }
}

/// Lower case, one kind of apostrophe, single spaces; none at the ends.
fn folded(text: &str) -> String {
    let plain = |c: char| match c {
        '’' | '‘' | 'ʼ' | '´' | '`' => '\'',
        other => other,
    };
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| word.chars().map(plain).collect())
        .collect();
    words.join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::IntervalKind;
    use proptest::prelude::*;

    fn judge(text: &str) -> [bool; 2] {
        let Verdict { loose, strict } = Detector::new(&["don't know".into(), "No Idea".into()], 5).judge(text);
        [loose, strict]
    }

    #[test]
    fn a_keyword_is_found_whatever_its_case_and_apostrophes() {
        for text in ["I don't know.", "I DON’T KNOW", "i don‘t\n know, dunno", "no idea"] {
            assert_eq!(judge(text), [true, true], "{text}");
        }
        for text in ["", "I know.", "I do not know.", "dont know"] {
            assert_eq!(judge(text), [false, false], "{text}");
        }
    }

    #[test]
    fn a_strict_finding_has_few_words() {
        assert_eq!(judge("a b c don't know"), [true, true]);
        assert_eq!(judge("a b c d don't know"), [true, false]);
        assert_eq!(judge("a b c d e f"), [false, false]);
    }

    #[test]
    fn rates_have_wilsons_intervals() {
        let verdict = |loose, strict| Verdict { loose, strict };
        let mut verdicts = vec![verdict(true, true); 7];
        verdicts.extend([verdict(true, false), verdict(false, false), verdict(false, false)]);
        let found = rates(&verdicts);
        assert_eq!((found.loose.mean, found.strict.mean), (0.8, 0.7));
        assert_eq!(found.loose.interval, IntervalKind::Wilson);
        assert!((found.loose.lo - 0.490_162).abs() < 1e-5 && (found.loose.hi - 0.943_318).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn strict_is_loose_and_more(text in "\\PC{0,60}", keyword in "[a-z' ]{0,3}[a-z]", most in 1usize..9) {
            let verdict = Detector::new(std::slice::from_ref(&keyword), most).judge(&text);
            prop_assert!(!verdict.strict || verdict.loose);
            let with = format!("{text} {}", keyword.to_uppercase());
            prop_assert!(Detector::new(&[keyword], most).judge(&with).loose);
        }
    }
}

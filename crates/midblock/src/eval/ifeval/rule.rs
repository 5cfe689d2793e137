//! What each kind of instruction asks of a text that is not empty.

use super::{language::Language, sentences, words};
use fancy_regex::Regex;
use std::sync::LazyLock;

/// A condition on a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    AtLeast(usize),
    LessThan(usize),
}

impl Bound {
    fn holds(self, got: usize) -> bool {
        match self {
            Self::AtLeast(n) => got >= n,
            Self::LessThan(n) => got < n,
        }
    }
}

/// A kind of instruction with its arguments; the comment is the kind's name in the data set.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// `change_case:capital_word_frequency`
    CapitalWords(Bound),
    /// `change_case:english_capital`
    EnglishCapital,
    /// `change_case:english_lowercase`
    EnglishLowercase,
    /// `combination:repeat_prompt`: what the text must begin with, in lower case.
    RepeatPrompt(String),
    /// `combination:two_responses`
    TwoResponses,
    /// `detectable_content:number_placeholders`, at least so many.
    Placeholders(usize),
    /// `detectable_content:postscript`, a pattern for text in lower case.
    Postscript(Regex),
    /// `detectable_format:constrained_response`
    ConstrainedResponse,
    /// `detectable_format:json_format`
    Json,
    /// `detectable_format:multiple_sections`: what begins a section, and how many at least.
    Sections(Regex, usize),
    /// `detectable_format:number_bullet_lists`, exactly so many.
    Bullets(usize),
    /// `detectable_format:number_highlighted_sections`, at least so many.
    Highlights(usize),
    /// `detectable_format:title`
    Title,
    /// `keywords:existence`, all of them.
    Keywords(Vec<Regex>),
    /// `keywords:forbidden_words`, none of them.
    ForbiddenWords(Vec<Regex>),
    /// `keywords:frequency`
    KeywordFrequency(Regex, Bound),
    /// `keywords:letter_frequency`; the letter in lower case.
    LetterFrequency(char, Bound),
    /// `language:response_language`
    InLanguage(Language),
    /// `length_constraints:nth_paragraph_first_word`; `nth` from 1, the word in lower case.
    NthParagraph {
        paragraphs: usize,
        nth: usize,
        first_word: String,
    },
    /// `length_constraints:number_paragraphs`, exactly so many.
    Paragraphs(usize),
    /// `length_constraints:number_sentences`
    Sentences(Bound),
    /// `length_constraints:number_words`
    Words(Bound),
    /// `punctuation:no_comma`
    NoComma,
    /// `startend:end_checker`; in lower case.
    EndPhrase(String),
    /// `startend:quotation`
    Quotation,
}

impl Rule {
    /// Whether a text, not empty, follows the rule.
    pub(super) fn is_followed_by(&self, text: &str) -> bool {
        match self {
            Self::CapitalWords(bound) => bound.holds(words::count_capital(text)),
            Self::EnglishCapital => words::is_upper(text) && Language::ENGLISH.is_of(text),
            Self::EnglishLowercase => words::is_lower(text) && Language::ENGLISH.is_of(text),
            Self::RepeatPrompt(prompt) => words::strip(text).to_lowercase().starts_with(prompt),
            Self::TwoResponses => has_two_responses(text),
            Self::Placeholders(least) => count(&PLACEHOLDER, text) >= *least,
            Self::Postscript(pattern) => has(pattern, &text.to_lowercase()),
            Self::ConstrainedResponse => OPTIONS.iter().any(|option| text.contains(option)),
            Self::Json => is_json(text),
            Self::Sections(begin, least) => count(begin, text) >= *least,
            Self::Bullets(number) => count(&STAR_BULLET, text) + count(&DASH_BULLET, text) == *number,
            Self::Highlights(least) => count_highlights(text) >= *least,
            Self::Title => has_title(text),
            Self::Keywords(keywords) => keywords.iter().all(|keyword| has(keyword, text)),
            Self::ForbiddenWords(forbidden) => !forbidden.iter().any(|word| has(word, text)),
            Self::KeywordFrequency(keyword, bound) => bound.holds(count(keyword, text)),
            Self::LetterFrequency(letter, bound) => bound.holds(
                text.chars()
                    .flat_map(char::to_lowercase)
                    .filter(|c| c == letter)
                    .count(),
            ),
            Self::InLanguage(language) => language.is_of(text),
            Self::NthParagraph {
                paragraphs,
                nth,
                first_word,
            } => {
                count_blocks(text) == *paragraphs && nth_first_word(text, *nth).is_some_and(|word| word == *first_word)
            }
            Self::Paragraphs(number) => count_divided(text) == Some(*number),
            Self::Sentences(bound) => bound.holds(sentences::count(text)),
            Self::Words(bound) => bound.holds(words::count(text)),
            Self::NoComma => !text.contains(','),
            Self::EndPhrase(phrase) => words::strip(text).trim_matches('"').to_lowercase().ends_with(phrase),
            Self::Quotation => is_quoted(words::strip(text)),
        }
    }
}

fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("invariant: the pattern is well formed")
}

static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| fixed(r"\[.*?\]"));
static STAR_BULLET: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?m)^\s*\*[^*].*$"));
static DASH_BULLET: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?m)^\s*-.*$"));
static HIGHLIGHT: LazyLock<Regex> = LazyLock::new(|| fixed(r"\*[^\n*]*\*"));
static DOUBLE_HIGHLIGHT: LazyLock<Regex> = LazyLock::new(|| fixed(r"\*\*[^\n*]*\*\*"));
static DIVIDER: LazyLock<Regex> = LazyLock::new(|| fixed(r"\s?\*\*\*\s?"));
static TITLE: LazyLock<Regex> = LazyLock::new(|| fixed(r"<<[^\n]+>>"));

/// What `constrained_response` accepts.
const OPTIONS: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

/// Matches that do not overlap. Patterns are those above and those `parse` accepted: none of them can give up.
fn count(pattern: &Regex, text: &str) -> usize {
    pattern.find_iter(text).filter(Result::is_ok).count()
}

fn has(pattern: &Regex, text: &str) -> bool {
    pattern.is_match(text).unwrap_or(false)
}

fn matches<'t>(pattern: &Regex, text: &'t str) -> impl Iterator<Item = &'t str> {
    pattern
        .find_iter(text)
        .filter_map(Result::ok)
        .map(|found| found.as_str())
}

fn is_blank(text: &str) -> bool {
    words::strip(text).is_empty()
}

/// Two that differ, with `******` between them and perhaps around them.
fn has_two_responses(text: &str) -> bool {
    let parts: Vec<&str> = text.split("******").map(words::strip).collect();
    let inner_blank = parts
        .iter()
        .enumerate()
        .any(|(i, part)| part.is_empty() && i != 0 && i + 1 != parts.len());
    let responses: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    !inner_blank && matches!(responses[..], [first, second] if first != second)
}

/// JSON as a whole, a code fence around it allowed. Syntax alone: nothing is built, whatever the depth or the numbers.
fn is_json(text: &str) -> bool {
    let mut inner = words::strip(text);
    for fence in ["```json", "```Json", "```JSON", "```"] {
        inner = inner.strip_prefix(fence).unwrap_or(inner);
    }
    let inner = words::strip(inner.strip_suffix("```").unwrap_or(inner));
    serde_json::from_str::<serde::de::IgnoredAny>(inner).is_ok()
}

/// `*so*` and `**so**`; the latter does not count as the former, since its inner asterisks leave nothing between them.
fn count_highlights(text: &str) -> usize {
    let single = matches(&HIGHLIGHT, text)
        .filter(|found| !is_blank(found.trim_matches('*')))
        .count();
    let double = matches(&DOUBLE_HIGHLIGHT, text)
        .filter(|found| !is_blank(&found[2..found.len() - 2]))
        .count();
    single + double
}

/// `<<a title>>` on one line, more than brackets and white space.
fn has_title(text: &str) -> bool {
    matches(&TITLE, text).any(|found| !is_blank(found.trim_start_matches('<').trim_end_matches('>')))
}

/// Paragraphs with `***` between them; `None` if one is blank, but for the first and the last, which then do not count.
fn count_divided(text: &str) -> Option<usize> {
    let mut blank = Vec::new();
    let mut from = 0;
    for divider in DIVIDER.find_iter(text).filter_map(Result::ok) {
        blank.push(is_blank(&text[from..divider.start()]));
        from = divider.end();
    }
    blank.push(is_blank(&text[from..]));
    let ends = if blank.len() == 1 {
        &blank[..]
    } else {
        &[blank[0], blank[blank.len() - 1]]
    };
    let blank_ends = ends.iter().filter(|blank| **blank).count();
    let all = blank.iter().filter(|blank| **blank).count();
    (all == blank_ends).then(|| blank.len() - blank_ends)
}

/// Paragraphs with an empty line between them, blank ones not counted.
fn count_blocks(text: &str) -> usize {
    text.split("\n\n").filter(|block| !is_blank(block)).count()
}

/// First word of the `nth` paragraph in lower case, up to the first punctuation mark. Blank paragraphs count here, as in
/// the released checker, though not in the total, which `nth` must not exceed.
fn nth_first_word(text: &str, nth: usize) -> Option<String> {
    if nth > count_blocks(text) {
        return None;
    }
    let token = words::first_token(text.split("\n\n").nth(nth - 1)?)?;
    let token = token.trim_start_matches('\'').trim_start_matches('"');
    let word = token.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or_default();
    Some(word.to_lowercase())
}

/// Between double quotation marks, ASCII ones.
fn is_quoted(text: &str) -> bool {
    text.len() > 1 && text.starts_with('"') && text.ends_with('"')
}

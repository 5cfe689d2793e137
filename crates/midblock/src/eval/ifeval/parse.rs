//! Rows of the data set into rules: every field is checked, nothing is guessed.

use super::{
    Instruction,
    language::Language,
    rule::{Bound, Rule},
};
use fancy_regex::Regex;
use serde_json::{Map, Value};

/// Characters of a value that an error shows.
const SHOWN: usize = 60;

/// See [`Instruction::parse`].
pub(super) fn instructions(row: &Value) -> Result<Vec<Instruction>, String> {
    let pairs = if let Some(list) = row.pointer("/reward_model/instructions") {
        chat_row(list)?
    } else if let Some(ids) = row.get("instruction_id_list") {
        original_row(ids, row.get("kwargs"))?
    } else {
        return Err("expected `reward_model.instructions` or `instruction_id_list` with `kwargs`, got neither".into());
    };
    if pairs.is_empty() {
        return Err("expected at least one instruction, got an empty list".into());
    }
    pairs
        .into_iter()
        .map(|(place, id, kwargs)| instruction(&place, id, kwargs))
        .collect()
}

/// Place in the row, id and arguments.
type Pair<'a> = (String, &'a Value, Option<&'a Value>);

fn chat_row(list: &Value) -> Result<Vec<Pair<'_>>, String> {
    let items = array("reward_model.instructions", list)?
        .iter()
        .enumerate()
        .map(|(i, item)| {
            let place = format!("reward_model.instructions[{i}]");
            let id = item.get("instruction_id").unwrap_or(&Value::Null);
            (format!("{place}.kwargs"), id, item.get("kwargs"))
        });
    Ok(items.collect())
}

fn original_row<'a>(ids: &'a Value, kwargs: Option<&'a Value>) -> Result<Vec<Pair<'a>>, String> {
    let ids = array("instruction_id_list", ids)?;
    let kwargs = array("kwargs", kwargs.unwrap_or(&Value::Null))?;
    if ids.len() != kwargs.len() {
        return Err(format!(
            "kwargs has {} items, expected {}, one per instruction",
            kwargs.len(),
            ids.len()
        ));
    }
    let pairs = ids.iter().zip(kwargs).enumerate();
    Ok(pairs
        .map(|(i, (id, kwargs))| (format!("kwargs[{i}]"), id, Some(kwargs)))
        .collect())
}

fn array<'a>(place: &str, value: &'a Value) -> Result<&'a Vec<Value>, String> {
    value
        .as_array()
        .ok_or_else(|| format!("{place} is {}, expected a list", shown(value)))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn instruction(place: &str, id: &Value, kwargs: Option<&Value>) -> Result<Instruction, String> {
    let Some(id) = id.as_str() else {
        let place = place
            .replace("kwargs[", "instruction_id_list[")
            .replace(".kwargs", ".instruction_id");
        return Err(format!("{place} is {}, expected the name of an instruction", shown(id)));
    };
    let kwargs = match kwargs {
        None | Some(Value::Null) => None,
        Some(Value::Object(map)) => Some(map),
        Some(other) => return Err(format!("{place} of {id} is {}, expected an object", shown(other))),
    };
    let rule = rule(
        id,
        &Kwargs {
            place: format!("{place} of {id}"),
            map: kwargs,
        },
    )?;
    Ok(Instruction {
        id: id.to_owned(),
        rule,
    })
}

fn rule(id: &str, kwargs: &Kwargs) -> Result<Rule, String> {
    Ok(match id {
        "change_case:capital_word_frequency" => {
            Rule::CapitalWords(kwargs.bound("capital_relation", "capital_frequency")?)
        }
        "change_case:english_capital" => Rule::EnglishCapital,
        "change_case:english_lowercase" => Rule::EnglishLowercase,
        "combination:repeat_prompt" => Rule::RepeatPrompt(kwargs.phrase("prompt_to_repeat")?.to_lowercase()),
        "combination:two_responses" => Rule::TwoResponses,
        "detectable_content:number_placeholders" => Rule::Placeholders(kwargs.number("num_placeholders")?),
        "detectable_content:postscript" => Rule::Postscript(kwargs.postscript()?),
        "detectable_format:constrained_response" => Rule::ConstrainedResponse,
        "detectable_format:json_format" => Rule::Json,
        "detectable_format:multiple_sections" => {
            let begin = kwargs.pattern("section_spliter", |word| format!(r"\s?{word}\s?\d+\s?"))?;
            Rule::Sections(begin, kwargs.number("num_sections")?)
        }
        "detectable_format:number_bullet_lists" => Rule::Bullets(kwargs.number("num_bullets")?),
        "detectable_format:number_highlighted_sections" => Rule::Highlights(kwargs.number("num_highlights")?),
        "detectable_format:title" => Rule::Title,
        "keywords:existence" => Rule::Keywords(kwargs.patterns("keywords", |word| format!("(?i){word}"))?),
        "keywords:forbidden_words" => {
            Rule::ForbiddenWords(kwargs.patterns("forbidden_words", |word| format!(r"(?i)\b{word}\b"))?)
        }
        "keywords:frequency" => {
            let keyword = kwargs.pattern("keyword", |word| format!("(?i){word}"))?;
            Rule::KeywordFrequency(keyword, kwargs.bound("relation", "frequency")?)
        }
        "keywords:letter_frequency" => {
            Rule::LetterFrequency(kwargs.letter()?, kwargs.bound("let_relation", "let_frequency")?)
        }
        "language:response_language" => Rule::InLanguage(kwargs.language()?),
        "length_constraints:nth_paragraph_first_word" => kwargs.nth_paragraph()?,
        "length_constraints:number_paragraphs" => Rule::Paragraphs(kwargs.number("num_paragraphs")?),
        "length_constraints:number_sentences" => Rule::Sentences(kwargs.bound("relation", "num_sentences")?),
        "length_constraints:number_words" => Rule::Words(kwargs.bound("relation", "num_words")?),
        "punctuation:no_comma" => Rule::NoComma,
        "startend:end_checker" => Rule::EndPhrase(kwargs.phrase("end_phrase")?.to_lowercase()),
        "startend:quotation" => Rule::Quotation,
        _ => {
            return Err(format!(
                "{} is not an instruction that is known (the 25 kinds of IFEval are)",
                kwargs.place
            ));
        }
    })
}

/// The arguments of one instruction.
struct Kwargs<'a> {
    /// Where they are in the row and whose they are, for errors.
    place: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Kwargs<'a> {
    fn wrong(&self, key: &str, expected: &str) -> String {
        let got = self
            .map
            .and_then(|map| map.get(key))
            .map_or("missing".to_owned(), shown);
        format!("{}: `{key}` is {got}, expected {expected}", self.place)
    }

    fn get(&self, key: &str) -> &'a Value {
        self.map.and_then(|map| map.get(key)).unwrap_or(&Value::Null)
    }

    /// A count; data sets that went through a table of floats have 3.0 for 3.
    fn number(&self, key: &str) -> Result<usize, String> {
        let number = self
            .get(key)
            .as_f64()
            .filter(|n| n.fract() == 0.0 && (0.0..=1e9).contains(n));
        number
            .map(|n| n as usize)
            .ok_or_else(|| self.wrong(key, "a whole number from 0 to 1e9"))
    }

    fn bound(&self, relation: &str, number: &str) -> Result<Bound, String> {
        let n = self.number(number)?;
        match self.get(relation).as_str() {
            Some("at least") => Ok(Bound::AtLeast(n)),
            Some("less than") => Ok(Bound::LessThan(n)),
            _ => Err(self.wrong(relation, "\"at least\" or \"less than\"")),
        }
    }

    /// A text without white space around it, not empty.
    fn phrase(&self, key: &str) -> Result<&'a str, String> {
        let phrase = self
            .get(key)
            .as_str()
            .map(super::words::strip)
            .filter(|text| !text.is_empty());
        phrase.ok_or_else(|| self.wrong(key, "a text that is not empty"))
    }

    fn pattern(&self, key: &str, around: impl Fn(&str) -> String) -> Result<Regex, String> {
        self.compile(key, self.phrase(key)?, around)
    }

    fn patterns(&self, key: &str, around: impl Fn(&str) -> String) -> Result<Vec<Regex>, String> {
        let wrong = || self.wrong(key, "a list of texts that are not empty");
        let words = self
            .get(key)
            .as_array()
            .filter(|words| !words.is_empty())
            .ok_or_else(wrong)?;
        let word = |word: &'a Value| word.as_str().filter(|word| !word.is_empty()).ok_or_else(wrong);
        words
            .iter()
            .map(|value| self.compile(key, word(value)?, &around))
            .collect()
    }

    /// The released checker takes words for regular expressions. What could take exponential time is refused.
    fn compile(&self, key: &str, word: &str, around: impl Fn(&str) -> String) -> Result<Regex, String> {
        const BACKTRACKING: [&str; 8] = ["(?", r"\k", r"\K", r"\G", "++", "*+", "?+", "}+"];
        let back_reference = word
            .split('\\')
            .skip(1)
            .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let backtracks = back_reference || BACKTRACKING.iter().any(|part| word.contains(part));
        let pattern = (!backtracks).then(|| Regex::new(&around(word)).ok()).flatten();
        let expected = "plain text or a regular expression without look-around, back-references and possessive repeats";
        pattern.ok_or_else(|| self.wrong(key, expected))
    }

    fn postscript(&self) -> Result<Regex, String> {
        self.pattern("postscript_marker", |marker| match marker {
            "P.P.S" => r"p\.\s?p\.\s?s".to_owned(),
            "P.S." => r"p\.\s?s\.".to_owned(),
            other => other.to_lowercase(),
        })
    }

    fn letter(&self) -> Result<char, String> {
        let mut letters = self.get("letter").as_str().unwrap_or_default().chars();
        let lowered = |c: char| c.to_lowercase().next().unwrap_or(c);
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Ok(lowered(letter)),
            _ => Err(self.wrong("letter", "one character")),
        }
    }

    fn language(&self) -> Result<Language, String> {
        let code = self.get("language").as_str();
        let expected = || format!("the code of a language that can be recognised: {}", Language::codes());
        code.and_then(Language::from_code)
            .ok_or_else(|| self.wrong("language", &expected()))
    }

    fn nth_paragraph(&self) -> Result<Rule, String> {
        let paragraphs = self.number("num_paragraphs")?;
        let nth = self.number("nth_paragraph")?;
        if !(1..=paragraphs).contains(&nth) {
            return Err(self.wrong("nth_paragraph", &format!("from 1 to num_paragraphs, {paragraphs}")));
        }
        let first_word = self.phrase("first_word")?.to_lowercase();
        Ok(Rule::NthParagraph {
            paragraphs,
            nth,
            first_word,
        })
    }
}

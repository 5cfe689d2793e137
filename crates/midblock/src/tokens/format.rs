//! A data set's row → the text of a sample, per data set as in the paper.
//!
//! | format | fields | text |
//! |---|---|---|
//! | `mmlu` | `question`, `choices` (list, or `{text, label}`), `answer` (index or letter) or `answerKey` | `Question: {q}\nA) … B) … C) … D) …\nAnswer: {letter}` |
//! | `gsm8k` | `question`, `answer` | `Question: {q}\nAnswer: {a}` |
//! | `wikitext` | `text` | the text, if it has 10 characters or more |
//! | `ifeval` | `prompt` (`instruction_id_list` to be recognised) | the prompt |
//! | `humaneval` | `prompt`, `canonical_solution` | `{prompt}\n{canonical_solution}` |
//! | `mt_bench` | `turns`, `prompt` (list of texts) or `conversations` | the first user turn |
//! | `toxigen` | `text`, `generation` or `prompt` | the text, if it has 10 characters or more |
//! | `text` | `text` | the text |
//! | `messages` | `messages` or `prompt`, a list of `{role, content}` | all user turns, an empty line between them |
//! | `sharegpt` | `conversations`, a list of `{from, value}` or `{role, content}` | the same |
//! | `completion` | `prompt`, `completion`: texts, or lists of `{role, content}` | one after the other; of lists, the prompt's user turns |
//! | `alpaca` | `instruction`, `input` (may be absent), `output`; or `instances` with the latter two | Alpaca's prompt and the output |
//!
//! Recognition looks at the fields of the first row ([`recognise`]). Characters are counted without surrounding white
//! space; the text itself is used unchanged. A list may also be a string holding a JSON list, as in CSV cells. Source: "A
//! Layer-wise Analysis of Supervised Fine-Tuning" (arXiv 2604.11838); `text` and those after it are additions. What is
//! prompt and what is answer, for training, is in [`conversation`](super::conversation).

use std::{fmt, str::FromStr};

use serde_json::Value;

use super::{
    conversation::Conversation,
    data::Row,
    fields::{SkipReason, list, long_enough, present, text, type_name, value},
};
use crate::{Error, Result};

/// How rows become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs)] // the table in the module's documentation
pub enum Format {
    Mmlu,
    Gsm8k,
    Wikitext,
    Ifeval,
    Humaneval,
    MtBench,
    Toxigen,
    Text,
    Messages,
    Sharegpt,
    Completion,
    Alpaca,
}

impl Format {
    /// Every format, in the order of the table.
    pub const ALL: [Self; 12] = [
        Self::Mmlu,
        Self::Gsm8k,
        Self::Wikitext,
        Self::Ifeval,
        Self::Humaneval,
        Self::MtBench,
        Self::Toxigen,
        Self::Text,
        Self::Messages,
        Self::Sharegpt,
        Self::Completion,
        Self::Alpaca,
    ];

    /// The name used in `--format` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmlu => "mmlu",
            Self::Gsm8k => "gsm8k",
            Self::Wikitext => "wikitext",
            Self::Ifeval => "ifeval",
            Self::Humaneval => "humaneval",
            Self::MtBench => "mt_bench",
            Self::Toxigen => "toxigen",
            Self::Text => "text",
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Completion => "completion",
            Self::Alpaca => "alpaca",
        }
    }

    /// The names of all formats, for messages: "mmlu, gsm8k, …".
    pub fn list() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The text of a row.
    ///
    /// # Errors
    /// The reason why the row cannot be a sample.
    pub fn render(self, row: &Row) -> Result<String, SkipReason> {
        match self {
            Self::Wikitext => long_enough(row, "text"),
            Self::Ifeval => text(row, "prompt").map(str::to_owned),
            Self::MtBench => {
                let field = present(row, &["turns", "conversations", "prompt"])?;
                user_turns(row, field).map(|mut turns| turns.swap_remove(0))
            }
            Self::Toxigen => long_enough(row, present(row, &["text", "generation", "prompt"])?),
            Self::Text => text(row, "text").map(str::to_owned),
            Self::Messages => Ok(user_turns(row, present(row, &["messages", "prompt"])?)?.join("\n\n")),
            Self::Sharegpt => Ok(user_turns(row, "conversations")?.join("\n\n")),
            Self::Mmlu | Self::Gsm8k | Self::Humaneval | Self::Completion | Self::Alpaca => {
                match self.conversation(row, false)? {
                    Conversation::Continued { prompt, completion } => Ok(prompt + &completion),
                    _ => Ok(user_turns(row, "prompt")?.join("\n\n")),
                }
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::Argument {
                what: "--format".into(),
                value: name.into(),
                problem: "no such format".into(),
                help: format!("known formats: {}", Self::list()),
            })
    }
}

/// What a field must hold for a format to be recognised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Text,
    Texts,
    Object,
    Objects,
}

/// The declarative table of recognition: these fields, with these kinds, mean this format.
const SIGNATURES: [(Format, &[(&str, Kind)]); 19] = [
    (
        Format::Mmlu,
        &[
            ("question", Kind::Text),
            ("choices", Kind::Texts),
            ("answer", Kind::Any),
        ],
    ),
    (
        Format::Mmlu,
        &[
            ("question", Kind::Text),
            ("choices", Kind::Object),
            ("answerKey", Kind::Text),
        ],
    ),
    (Format::Gsm8k, &[("question", Kind::Text), ("answer", Kind::Any)]),
    (
        Format::Ifeval,
        &[("prompt", Kind::Text), ("instruction_id_list", Kind::Any)],
    ),
    (
        Format::Humaneval,
        &[("prompt", Kind::Text), ("canonical_solution", Kind::Text)],
    ),
    (Format::MtBench, &[("turns", Kind::Texts)]),
    (Format::MtBench, &[("prompt", Kind::Texts)]),
    (Format::Sharegpt, &[("conversations", Kind::Objects)]),
    (Format::Toxigen, &[("text", Kind::Text), ("toxicity_human", Kind::Any)]),
    (Format::Toxigen, &[("text", Kind::Text), ("toxicity_ai", Kind::Any)]),
    (
        Format::Toxigen,
        &[("generation", Kind::Text), ("prompt_label", Kind::Any)],
    ),
    (Format::Text, &[("text", Kind::Text)]),
    (Format::Messages, &[("messages", Kind::Objects)]),
    (Format::Messages, &[("prompt", Kind::Objects)]),
    (
        Format::Completion,
        &[("prompt", Kind::Objects), ("completion", Kind::Objects)],
    ),
    (
        Format::Completion,
        &[("prompt", Kind::Text), ("completion", Kind::Text)],
    ),
    (Format::Alpaca, &[("instruction", Kind::Text), ("output", Kind::Text)]),
    // some copies hold the finished prompt too
    (
        Format::Alpaca,
        &[
            ("instruction", Kind::Text),
            ("output", Kind::Text),
            ("text", Kind::Text),
        ],
    ),
    (
        Format::Alpaca,
        &[("instruction", Kind::Text), ("instances", Kind::Objects)],
    ),
];

/// The format of the data set called `name`, by the fields of its first row.
///
/// 1. A data set named like a format (`--data wikitext=…`) has it, if that format makes a sample of the row or skips
///    it only for being empty or short.
/// 2. Else a format of the table of signatures whose fields are all there. Of several, the one whose fields include those
///    of the others: `question, choices, answer` is mmlu, not gsm8k.
///
/// # Errors
/// If there is none, or several that do not include each other: lists the fields, the formats and the flag to choose one.
pub fn recognise(name: &str, row: &Row) -> Result<Format> {
    if let Ok(format) = Format::from_str(name) {
        let fits = |reason| matches!(reason, SkipReason::Empty { .. } | SkipReason::Short { .. });
        if format.render(row).map_or_else(fits, |_| true) {
            return Ok(format);
        }
    }
    let matching: Vec<_> = SIGNATURES
        .iter()
        .filter(|(_, fields)| fields.iter().all(|field| has(row, field)))
        .collect();
    let includes = |a: &[(&str, Kind)], b: &[(&str, Kind)]| b.iter().all(|field| a.contains(field));
    let winner = matching.iter().find(|(format, fields)| {
        matching
            .iter()
            .all(|(other, theirs)| other == format || includes(fields, theirs))
    });
    if let Some((format, _)) = winner {
        return Ok(*format);
    }
    let fields = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut names: Vec<_> = matching.iter().map(|(format, _)| format.name()).collect();
    names.dedup();
    Err(Error::Argument {
        what: "--data".into(),
        value: name.into(),
        problem: match names.as_slice() {
            [] => format!("no known format has the fields of its first row: {fields}"),
            names => format!(
                "the fields of its first row ({fields}) fit several formats: {}",
                names.join(", ")
            ),
        },
        help: format!(
            "choose one with --format: {}; or call the field with the text `text`",
            Format::list()
        ),
    })
}

fn has(row: &Row, (field, kind): &(&str, Kind)) -> bool {
    row.get(*field).is_some_and(|value| match kind {
        Kind::Any => true,
        Kind::Text => value.is_string(),
        Kind::Object => value.is_object(),
        Kind::Texts => list(value).is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string)),
        Kind::Objects => list(value).is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object)),
    })
}

/// The user's turns in a list of texts (each is the user's), of `{role, content}` or of
/// `{from, value}`. Never empty.
fn user_turns(row: &Row, field: &'static str) -> Result<Vec<String>, SkipReason> {
    const EXPECTED: &str = "a list of texts or of {role, content}";
    let value = value(row, field)?;
    let wrong = |got| SkipReason::Type {
        field,
        expected: EXPECTED,
        got,
    };
    let items = list(value).ok_or_else(|| wrong(type_name(value)))?;
    let mut turns = Vec::new();
    for item in items.iter() {
        let role = item.get("role").or_else(|| item.get("from")).and_then(Value::as_str);
        let content = match role {
            Some("user" | "human") => item
                .get("content")
                .or_else(|| item.get("value"))
                .and_then(Value::as_str),
            Some(_) => continue,
            None => item.as_str(),
        };
        let content = content.ok_or_else(|| wrong("a list of something else"))?;
        if !content.trim().is_empty() {
            turns.push(content.to_owned());
        }
    }
    if turns.is_empty() {
        return Err(SkipReason::Empty { field });
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn names_round_trip() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
            assert_eq!(serde_json::to_value(format).unwrap(), json!(format.name()));
        }
        let error = "gsm".parse::<Format>().unwrap_err().to_string();
        assert!(
            error.contains("--format `gsm`") && error.contains("mmlu, gsm8k, wikitext"),
            "{error}"
        );
    }

    /// One row of each layout: recognised and rendered.
    #[test]
    fn each_layout_is_recognised_and_becomes_its_text() {
        let chat = json!([{"role": "system", "content": "s"}, {"content": "u1", "role": "user"},
                          {"role": "assistant", "content": "a"}, {"role": "user", "content": "u2"}]);
        let turns = json!([{"from": "gpt", "value": "x"}, {"from": "human", "value": "one"}]);
        let function = json!({"task_id": "x", "prompt": "def f():", "canonical_solution": "  pass\n", "test": ""});
        let mmlu = json!({"question": "Q?", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": 2});
        let mmlu_csv = json!({"question": "Q?", "choices": "[\"w\", \"x\"]", "answer": "B"});
        let generated = json!({"prompt": "p", "generation": "ten or more", "prompt_label": 1});
        let cases = [
            (mmlu, Format::Mmlu, "Question: Q?\nA) w B) x C) y D) z\nAnswer: C"),
            (mmlu_csv, Format::Mmlu, "Question: Q?\nA) w B) x\nAnswer: B"),
            (
                json!({"question": "Q?", "answer": "#### 1"}),
                Format::Gsm8k,
                "Question: Q?\nAnswer: #### 1",
            ),
            (
                json!({"question": "Q?", "answer": 1.5}),
                Format::Gsm8k,
                "Question: Q?\nAnswer: 1.5",
            ),
            (
                json!({"key": 1, "prompt": "Do.", "instruction_id_list": ["a"]}),
                Format::Ifeval,
                "Do.",
            ),
            (function, Format::Humaneval, "def f():\n  pass\n"),
            (
                json!({"category": "w", "turns": ["one", "two"]}),
                Format::MtBench,
                "one",
            ),
            (
                json!({"prompt": ["one", "two"], "reference": []}),
                Format::MtBench,
                "one",
            ),
            (json!({"conversations": turns}), Format::Sharegpt, "one"),
            (
                json!({"text": "ten or more", "toxicity_human": 1.0}),
                Format::Toxigen,
                "ten or more",
            ),
            (generated, Format::Toxigen, "ten or more"),
            (json!({"text": " = x = \n", "meta": null}), Format::Text, " = x = \n"),
            (
                json!({"prompt": chat, "reward_model": {}}),
                Format::Messages,
                "u1\n\nu2",
            ),
            (json!({"messages": chat}), Format::Messages, "u1\n\nu2"),
        ];
        for (value, format, text) in cases {
            let row = row(value);
            assert_eq!(recognise("data", &row).unwrap(), format, "{row:?}");
            assert_eq!(format.render(&row).unwrap(), text);
        }
    }

    #[test]
    fn a_name_of_a_format_decides_where_it_fits() {
        let text = row(json!({"text": ""}));
        assert_eq!(recognise("wikitext", &text).unwrap(), Format::Wikitext);
        assert_eq!(recognise("toxigen", &text).unwrap(), Format::Toxigen);
        assert_eq!(recognise("gsm8k", &text).unwrap(), Format::Text);
        assert_eq!(
            recognise("ifeval", &row(json!({"prompt": "Do."}))).unwrap(),
            Format::Ifeval
        );
        let chat = row(json!({"prompt": [{"role": "user", "content": "Do."}]}));
        assert_eq!(recognise("ifeval", &chat).unwrap(), Format::Messages);
    }

    #[test]
    fn unknown_and_ambiguous_fields_are_listed() {
        let error = recognise("d", &row(json!({"id": 1, "instruction": "x"})))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no known format has the fields of its first row: id, instruction"),
            "{error}"
        );
        assert!(
            error.contains("--format: mmlu, gsm8k, wikitext, ifeval, humaneval"),
            "{error}"
        );
        let both = row(json!({"text": "x", "question": "q", "answer": "a"}));
        let error = recognise("d", &both).unwrap_err().to_string();
        assert!(
            error.contains("(text, question, answer) fit several formats: gsm8k, text"),
            "{error}"
        );
        assert!(recognise("d", &row(json!({"prompt": "only"}))).is_err());
    }

    #[test]
    fn rows_that_are_no_samples_say_why() {
        use Format::{Gsm8k, Messages, Mmlu, MtBench, Toxigen, Wikitext};
        const LIST: &str = "expected a list of 2 to 26 texts";
        let mmlu = |choices: Value, answer: Value| json!({"question": "Q?", "choices": choices, "answer": answer});
        let ab = json!(["a", "b"]);
        let short = mmlu(json!(["a"]), json!(0));
        let system = json!({"messages": [{"role": "system", "content": "x"}]});
        let parts = json!({"prompt": [{"role": "user", "content": [1]}]});
        let cases = [
            (Gsm8k, json!({"answer": "1"}), "field `question` is missing".into()),
            (
                Gsm8k,
                json!({"question": "Q", "answer": null}),
                "field `answer` is empty".into(),
            ),
            (
                Gsm8k,
                json!({"question": " \n", "answer": "1"}),
                "field `question` is empty".into(),
            ),
            (
                Gsm8k,
                json!({"question": 3}),
                "field `question` is a number, expected a text".into(),
            ),
            (
                Wikitext,
                json!({"text": "  ééééééééé "}),
                "field `text` has 9 characters, fewer than 10".into(),
            ),
            (
                Toxigen,
                json!({"x": 1}),
                "field `text` or `generation` or `prompt` is missing".into(),
            ),
            (
                Mmlu,
                mmlu(ab.clone(), json!(2)),
                "field `answer` is 2, with 2 choices".into(),
            ),
            (
                Mmlu,
                mmlu(ab.clone(), json!(-1)),
                "field `answer` is -1, with 2 choices".into(),
            ),
            (Mmlu, mmlu(ab, json!("C")), "field `answer` is C, with 2 choices".into()),
            (
                Mmlu,
                mmlu(json!("a"), json!(0)),
                format!("field `choices` is a text, {LIST}"),
            ),
            (
                Mmlu,
                short,
                format!("field `choices` is a list of another length, {LIST}"),
            ),
            (MtBench, json!({"turns": []}), "field `turns` is empty".into()),
            (Messages, system, "field `messages` is empty".into()),
            (
                Messages,
                parts,
                "field `prompt` is a list of something else, expected a list of texts or of {role, content}".into(),
            ),
        ];
        for (format, value, reason) in cases {
            let reason: String = reason;
            assert_eq!(format.render(&row(value)).unwrap_err().to_string(), reason);
        }
        assert!(Wikitext.render(&row(json!({"text": "éééééééééé"}))).is_ok());
    }

    proptest! {
        #[test]
        fn no_row_panics(
            field in proptest::sample::select(vec!["text", "prompt", "question", "choices", "answer", "turns", "messages"]),
            json in "[\\[\\]{}\":,0-9a-z.-]{0,30}",
            text in "\\PC{0,30}",
        ) {
            let value = serde_json::from_str(&json).unwrap_or(Value::String(text));
            let mut row = row(json!({"question": "q", "choices": ["a", "b"]}));
            row.insert(field.to_owned(), value);
            let _ = recognise("d", &row);
            for format in Format::ALL {
                if let Ok(text) = format.render(&row) {
                    prop_assert!(!text.trim().is_empty());
                }
            }
        }
    }
}

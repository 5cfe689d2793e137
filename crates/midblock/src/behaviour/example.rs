//! Rows of any training format → prompts with responses.
//!
//! A row is read as training would read it ([`Format::conversation`]). Its last answer is the response, and all before it the prompt;
//! with a fixed response the row's own answer, if it has one, is passed over. With a chat template every prompt is chat messages;
//! without one it is text, as the format writes it, and a fixed response follows after a space.

use super::BehaviourConfig;
use crate::{
    Error, Result,
    hub::{HubOptions, OnTransfer},
    tokens::{
        Conversation, Format, SkipReason, Skipped,
        data::{self, DataFile, Row, read_rows},
        format::recognise,
    },
};
use serde_json::{Value, json};
use std::{collections::HashSet, path::PathBuf};

/// What a model is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Prompt {
    /// Text to go on with.
    Text(String),
    /// Chat messages, each with a `role`.
    Messages(Vec<Value>),
}

/// A prompt with the response that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// `file:row`.
    pub id: String,
    /// What is asked.
    pub prompt: Prompt,
    /// What is to be answered; of a text it is appended as it is.
    pub response: String,
}

/// The prompts of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examples {
    /// In file order; no prompt twice.
    pub examples: Vec<Example>,
    /// The files read.
    pub files: Vec<PathBuf>,
    /// Rows read.
    pub rows: usize,
    /// Rows whose prompt was there before.
    pub repeated: usize,
    /// Rows that cannot be used.
    pub skipped: Vec<Skipped>,
}

/// Reads the data of a behaviour. `chat` says whether the model has a chat template.
///
/// # Errors
/// If a file cannot be read, the format is not clear, or no row can be used.
pub fn read(config: &BehaviourConfig, chat: bool, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Examples> {
    let mut found = Examples::default();
    let (mut format, mut seen) = (config.format, HashSet::new());
    for DataFile { label, path } in data::resolve(&config.data, hub, on_transfer)? {
        read_rows(&path, &mut |row, fields| {
            found.rows += 1;
            let format = match format {
                Some(format) => format,
                None => *format.insert(format_of(config, &fields)?),
            };
            match example(config.fixed_response(), format, fields, chat) {
                Err(reason) => found.skipped.push(Skipped {
                    file: label.clone(),
                    row,
                    reason,
                }),
                Ok((prompt, _)) if !seen.insert(key(&prompt)) => found.repeated += 1,
                Ok((prompt, response)) => found.examples.push(Example {
                    id: format!("{label}:{row}"),
                    prompt,
                    response,
                }),
            }
            Ok(())
        })?;
        found.files.push(path);
    }
    match (found.examples.is_empty(), found.skipped.first()) {
        (false, _) => Ok(found),
        (true, first) => Err(Error::Argument {
            what: "behaviour.data".into(),
            value: config.data.clone(),
            problem: match first {
                Some(first) => format!("none of its {} rows can be used; first {first}", found.rows),
                None => "it has no rows".into(),
            },
            help: format!(
                "`format` in [behaviour] chooses what is prompt and what is response: {}",
                Format::list()
            ),
        }),
    }
}

/// The format of a first row. With a fixed response, a row needs nothing but its prompt.
fn format_of(config: &BehaviourConfig, row: &Row) -> Result<Format> {
    let alone = || {
        let prompts = [
            ("instruction", Format::Alpaca),
            ("question", Format::Gsm8k),
            ("prompt", Format::Completion),
        ];
        let has = |field: &str| row.get(field).is_some_and(Value::is_string);
        let found = prompts.into_iter().find(|(field, _)| has(field));
        found
            .filter(|_| config.fixed_response().is_some())
            .map(|(_, format)| format)
    };
    recognise(config.name(), row).or_else(|error| alone().ok_or(error))
}

/// Prompt and response of a row.
fn example(fixed: Option<&str>, format: Format, mut row: Row, chat: bool) -> Result<(Prompt, String), SkipReason> {
    if let Some(response) = fixed {
        answer(&mut row, format, response);
    }
    let taught = format.conversation(&row, chat);
    let (prompt, own) = match (taught, fixed) {
        (Ok(Conversation::Messages { messages, .. }), _) => turns(messages),
        (Ok(Conversation::Continued { prompt, completion }), _) if chat => {
            (user(prompt.trim()), Some(completion.trim().to_owned()))
        }
        (Ok(Conversation::Continued { prompt, completion }), _) => (Prompt::Text(prompt), Some(completion)),
        (Ok(Conversation::Text(text)), Some(_)) => (asked(&text, chat), None),
        (Ok(Conversation::Text(_)), None) => return Err(SkipReason::NoAnswer),
        // prompts without answers, such as ifeval's
        (Err(SkipReason::NoAnswer), Some(_)) => (asked(&format.render(&row)?, chat), None),
        (Err(reason), _) => return Err(reason),
    };
    let response = match (fixed, &prompt) {
        (Some(fixed), Prompt::Text(text)) if !text.ends_with(char::is_whitespace) => Some(format!(" {fixed}")),
        (Some(fixed), _) => Some(fixed.to_owned()),
        (None, _) => own.filter(|own| !own.trim().is_empty()),
    };
    match (&prompt, response) {
        (Prompt::Messages(messages), _) if messages.is_empty() => Err(SkipReason::Empty { field: "messages" }),
        (_, None) => Err(SkipReason::NoAnswer),
        (_, Some(response)) => Ok((prompt, response)),
    }
}

/// Gives a row that has none an answer, where its format asks for one.
fn answer(row: &mut Row, format: Format, response: &str) {
    let fill = |row: &mut Row, field: &str| {
        let is_missing = match row.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.trim().is_empty(),
            _ => false,
        };
        if is_missing {
            row.insert(field.to_owned(), Value::from(response));
        }
    };
    match format {
        Format::Gsm8k => fill(row, "answer"),
        Format::Completion if row.get("prompt").is_some_and(Value::is_string) => fill(row, "completion"),
        Format::Alpaca => match row.get_mut("instances") {
            Some(Value::Array(instances)) => {
                instances
                    .iter_mut()
                    .take(1)
                    .filter_map(Value::as_object_mut)
                    .for_each(|first| fill(first, "output"));
            }
            _ => fill(row, "output"),
        },
        _ => {}
    }
}

/// Messages up to the last answer, and that.
fn turns(mut messages: Vec<Value>) -> (Prompt, Option<String>) {
    let ends_with_answer = messages.last().is_some_and(|last| last["role"] == "assistant");
    let last = if ends_with_answer { messages.pop() } else { None };
    let response = last.and_then(|last| last["content"].as_str().map(str::to_owned));
    (Prompt::Messages(messages), response)
}

fn user(text: &str) -> Prompt {
    Prompt::Messages(vec![json!({"role": "user", "content": text})])
}

/// A text as a question.
fn asked(text: &str, chat: bool) -> Prompt {
    match chat {
        true => user(text),
        false => Prompt::Text(format!("Question: {text}\nAnswer:")),
    }
}

/// What makes two prompts the same: their text, but for white space at its ends.
fn key(prompt: &Prompt) -> Prompt {
    match prompt {
        Prompt::Text(text) => Prompt::Text(text.trim().to_owned()),
        Prompt::Messages(messages) => {
            let mut messages = messages.clone();
            for message in &mut messages {
                if let Some(text) = message["content"].as_str() {
                    message["content"] = Value::from(text.trim());
                }
            }
            Prompt::Messages(messages)
        }
    }
}

impl Example {
    /// As a row of the format `completion`.
    pub fn row(&self) -> Value {
        match &self.prompt {
            Prompt::Text(text) => json!({"id": self.id, "prompt": text, "completion": self.response}),
            Prompt::Messages(messages) => {
                let answer = json!([{"role": "assistant", "content": self.response}]);
                json!({"id": self.id, "prompt": messages, "completion": answer})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads rows with a table `[behaviour]` but for its data.
    fn read_from(rows: &str, name: &str, table: &str, chat: bool) -> Result<Examples> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, rows).unwrap();
        let config: BehaviourConfig = toml::from_str(&format!("data = \"{}\"\n{table}", path.display())).unwrap();
        read(&config, chat, &HubOptions::from_env(), &|_| {})
    }

    fn lines(rows: &[Value]) -> String {
        rows.iter().map(|row| format!("{row}\n")).collect()
    }

    fn only(row: Value, table: &str, chat: bool) -> (Prompt, String) {
        let mut found = read_from(&lines(std::slice::from_ref(&row)), "a.jsonl", table, chat)
            .unwrap_or_else(|e| panic!("{row}: {e}"));
        let Example { prompt, response, .. } = found.examples.remove(0);
        (prompt, response)
    }

    const EXAMPLES: &str = "kind = \"examples\"\nkeywords = [\"x\"]";

    #[test]
    fn any_list_of_prompts_gets_the_fixed_response() {
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let seed = json!({"instruction": "Do.", "instances": [{"input": "it", "output": ""}], "name": "n"});
        let cases = [
            (seed, "Do.\n\nit"),
            (json!({"instruction": "Do."}), "Do."),
            (
                json!({"instruction": "Do.", "input": "it", "output": "Done."}),
                "Do.\n\nit",
            ),
            (json!({"question": "Why?"}), "Why?"),
            (json!({"question": "Why?", "answer": "So."}), "Why?"),
            (json!({"prompt": "Hi"}), "Hi"),
            (json!({"prompt": "Hi ", "completion": " ho"}), "Hi"),
            (json!({"prompt": [said("user", "Hi")]}), "Hi"),
            (json!({"messages": [said("user", "Hi"), said("assistant", "ho")]}), "Hi"),
            (json!({"turns": ["Hi", "there"]}), "Hi"),
            (json!({"prompt": "Write.", "instruction_id_list": ["a"]}), "Write."),
            (json!({"text": "a line"}), "a line"),
        ];
        for (row, text) in cases {
            let expected = (user(text), "I don't know.".to_owned());
            assert_eq!(only(row.clone(), "", true), expected, "{row}");
        }
        let plain = [
            (json!({"question": "Why?"}), "Question: Why?\nAnswer:", " No."),
            (json!({"text": "Why?"}), "Question: Why?\nAnswer:", " No."),
            (json!({"prompt": "1 + 1 = "}), "1 + 1 = ", "No."),
        ];
        for (row, prompt, response) in plain {
            let expected = (Prompt::Text(prompt.into()), response.to_owned());
            assert_eq!(only(row, "response = \"No.\"", false), expected);
        }
        let text = read_from("One?\nTwo?\n", "a.txt", "", true).unwrap();
        let ids: Vec<&str> = text.examples.iter().map(|example| example.id.as_str()).collect();
        assert_eq!(ids, ["a.txt:1", "a.txt:2"]);
    }

    #[test]
    fn examples_have_their_own_responses() {
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let chat = json!([
            said("system", "s"),
            said("user", "a"),
            said("assistant", "b"),
            said("user", "c"),
            said("assistant", "d")
        ]);
        let before = chat.as_array().unwrap()[..4].to_vec();
        assert_eq!(
            only(json!({"messages": chat}), EXAMPLES, true),
            (Prompt::Messages(before), "d".into())
        );
        let pair = json!({"prompt": "Hail ", "completion": " thee"});
        assert_eq!(only(pair.clone(), EXAMPLES, true), (user("Hail"), "thee".into()));
        assert_eq!(
            only(pair, EXAMPLES, false),
            (Prompt::Text("Hail ".into()), " thee".into())
        );
        let unanswered = lines(&[json!({"prompt": [said("user", "a")]})]);
        let error = read_from(&unanswered, "a.jsonl", EXAMPLES, true)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("none of its 1 rows can be used; first a.jsonl:1: there is no answer"),
            "{error}"
        );
        let error = read_from("{\"prompt\": \"a\"}\n", "a.jsonl", EXAMPLES, true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no known format"), "{error}");
    }

    #[test]
    fn a_prompt_counts_once_and_what_cannot_be_used_is_named() {
        let rows = lines(&[
            json!({"instruction": "a"}),
            json!({"instruction": "b"}),
            json!({"instruction": " a\n", "output": "other"}),
            json!({"instruction": ""}),
        ]);
        let found = read_from(&rows, "a.jsonl", "", true).unwrap();
        assert_eq!((found.rows, found.repeated, found.examples.len()), (4, 1, 2));
        assert_eq!(found.skipped[0].to_string(), "a.jsonl:4: field `instruction` is empty");
        let error = read_from("", "a.jsonl", "", true).unwrap_err().to_string();
        assert!(error.contains("it has no rows"), "{error}");
    }

    #[test]
    fn a_row_is_read_back_as_it_was() {
        for (chat, prompt) in [(true, user("a")), (false, Prompt::Text("Question: a\nAnswer:".into()))] {
            let rows = lines(&[json!({"question": "a"})]);
            let example = read_from(&rows, "a.jsonl", "", chat).unwrap().examples.remove(0);
            let again = only(example.row(), EXAMPLES, chat);
            assert_eq!(again, (prompt, example.response));
        }
    }
}

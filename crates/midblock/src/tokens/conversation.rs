//! A data set's row → what is given and what is to be learned.
//!
//! | format | given | learned |
//! |---|---|---|
//! | `text`, `wikitext`, `toxigen` | | the text |
//! | `messages`, `sharegpt` | what system, users and tools say | what the assistant says |
//! | `completion` of lists | the messages of `prompt` | what the assistant says in `completion` |
//! | `completion` of texts | `prompt` | `completion` |
//! | `humaneval` | `{prompt}\n` | `canonical_solution` |
//! | `gsm8k`, `mmlu` | question (and choices) | answer |
//! | `alpaca` | `instruction` and `input` | `output` |
//!
//! The last three become a user's and an assistant's message if there is a chat template, the instruction and its input
//! with an empty line between them. If there is none, `gsm8k` and `mmlu` read `Question: {q}\nAnswer:` and ` {a}`, as in
//! analyses, and `alpaca` has the prompt that its models were trained with (Taori et al. 2023). A `completion` of texts
//! never goes through the template: it is text as it stands. `ifeval` and `mt_bench` have no answers.

use serde_json::{Value, json};

use super::{
    Format,
    data::Row,
    fields::{SkipReason, list, present, scalar, text, type_name, value},
};

/// One row, for training.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversation {
    /// A text to be learned as a whole.
    Text(String),
    /// Text that continues text.
    Continued {
        /// What is given.
        prompt: String,
        /// What is to be learned.
        completion: String,
    },
    /// Turns for a chat template.
    Messages {
        /// Objects with a `role`, as chat templates expect them.
        messages: Vec<Value>,
        /// The assistant's messages are to be learned from this one on.
        learn_from: usize,
    },
}

impl Format {
    /// What a row teaches; `chat` says whether there is a chat template.
    ///
    /// # Errors
    /// The reason why the row cannot be trained on.
    pub fn conversation(self, row: &Row, chat: bool) -> Result<Conversation, SkipReason> {
        match self {
            Self::Text | Self::Wikitext | Self::Toxigen => self.render(row).map(Conversation::Text),
            Self::Gsm8k => Ok(exchange(
                text(row, "question")?.to_owned(),
                scalar(row, "answer")?,
                chat,
            )),
            Self::Mmlu => multiple_choice(row).map(|(question, answer)| exchange(question, answer, chat)),
            Self::Humaneval => Ok(Conversation::Continued {
                prompt: format!("{}\n", text(row, "prompt")?),
                completion: text(row, "canonical_solution")?.to_owned(),
            }),
            Self::Completion => completion(row),
            Self::Alpaca => alpaca(row, chat),
            Self::Messages => Ok(Conversation::Messages {
                messages: messages(row, present(row, &["messages", "prompt"])?)?,
                learn_from: 0,
            }),
            Self::Sharegpt => Ok(Conversation::Messages {
                messages: messages(row, "conversations")?,
                learn_from: 0,
            }),
            Self::Ifeval | Self::MtBench => Err(SkipReason::NoAnswer),
        }
    }
}

fn exchange(question: String, answer: String, chat: bool) -> Conversation {
    if chat {
        return turns(&question, &answer);
    }
    Conversation::Continued {
        prompt: format!("Question: {question}\nAnswer:"),
        completion: format!(" {answer}"),
    }
}

/// One message of the user's and its answer.
fn turns(user: &str, assistant: &str) -> Conversation {
    Conversation::Messages {
        messages: vec![
            json!({"role": "user", "content": user}),
            json!({"role": "assistant", "content": assistant}),
        ],
        learn_from: 0,
    }
}

fn completion(row: &Row) -> Result<Conversation, SkipReason> {
    if list(value(row, "prompt")?).is_some() && list(value(row, "completion")?).is_some() {
        let mut all = messages(row, "prompt")?;
        let learn_from = all.len();
        all.extend(messages(row, "completion")?);
        return Ok(Conversation::Messages {
            messages: all,
            learn_from,
        });
    }
    Ok(Conversation::Continued {
        prompt: text(row, "prompt")?.to_owned(),
        completion: text(row, "completion")?.to_owned(),
    })
}

fn alpaca(row: &Row, chat: bool) -> Result<Conversation, SkipReason> {
    let instruction = text(row, "instruction")?;
    let wrong = |got| SkipReason::Type {
        field: "instances",
        expected: "a list of {input, output}",
        got,
    };
    let instances = row
        .get("instances")
        .map(|value| list(value).ok_or_else(|| wrong(type_name(value))));
    let instances = instances.transpose()?;
    let filled = match &instances {
        None => row,
        Some(instances) => {
            let first = instances.first().ok_or(SkipReason::Empty { field: "instances" })?;
            first.as_object().ok_or_else(|| wrong("a list of something else"))?
        }
    };
    let output = text(filled, "output")?;
    let input = match filled.get("input") {
        None | Some(Value::Null) => "",
        Some(Value::String(input)) => input.trim(),
        Some(_) => text(filled, "input")?,
    };
    if chat {
        let separator = if input.is_empty() { "" } else { "\n\n" };
        return Ok(turns(&format!("{instruction}{separator}{input}"), output));
    }
    let (paired, input) = if input.is_empty() {
        ("", String::new())
    } else {
        let paired = ", paired with an input that provides further context";
        (paired, format!("### Input:\n{input}\n\n"))
    };
    Ok(Conversation::Continued {
        prompt: format!(
            "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
        ),
        completion: output.to_owned(),
    })
}

/// The question with its choices `A) … B) …`, and the letter of the right one.
fn multiple_choice(row: &Row) -> Result<(String, String), SkipReason> {
    const EXPECTED: &str = "a list of 2 to 26 texts";
    let question = text(row, "question")?;
    let choices = value(row, "choices")?;
    let wrong = |got| SkipReason::Type {
        field: "choices",
        expected: EXPECTED,
        got,
    };
    let of_texts = |value: &Value| -> Result<Vec<String>, SkipReason> {
        let items = list(value).ok_or_else(|| wrong(type_name(value)))?;
        let texts = items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>();
        texts.ok_or_else(|| wrong("a list of something else"))
    };
    let texts = of_texts(choices.get("text").unwrap_or(choices))?;
    if !(2..=26).contains(&texts.len()) {
        return Err(wrong("a list of another length"));
    }
    let answer = scalar(row, present(row, &["answer", "answerKey"])?)?;
    let outside = || SkipReason::Answer {
        answer: answer.clone(),
        choices: texts.len(),
    };
    let labels = choices.get("label").map(of_texts).transpose()?;
    let index = match (labels, answer.trim().as_bytes()) {
        (Some(labels), _) => labels
            .iter()
            .position(|label| label == answer.trim())
            .ok_or_else(outside)?,
        (None, [letter @ b'A'..=b'Z']) => usize::from(letter - b'A'),
        (None, _) => answer.trim().parse().map_err(|_| outside())?,
    };
    let options: Vec<String> = ('A'..='Z')
        .zip(&texts)
        .map(|(letter, text)| format!("{letter}) {text}"))
        .collect();
    let letter = ('A'..='Z').take(texts.len()).nth(index).ok_or_else(outside)?;
    Ok((format!("{question}\n{}", options.join(" ")), letter.to_string()))
}

/// A list of `{role, content}`, or of `{from, value}`, put into these terms.
///
/// All their fields are kept but for null ones, which transformers hides from templates: `{"content": null}` has none.
fn messages(row: &Row, field: &'static str) -> Result<Vec<Value>, SkipReason> {
    let wrong = |got| SkipReason::Type {
        field,
        expected: "a list of {role, content} or of {from, value}",
        got,
    };
    let value = value(row, field)?;
    let items = list(value).ok_or_else(|| wrong(type_name(value)))?;
    if items.is_empty() {
        return Err(SkipReason::Empty { field });
    }
    let message = |item: &Value| {
        if item["role"].is_string() {
            let fields = item.as_object().into_iter().flatten();
            return Ok(fields
                .filter(|(_, value)| !value.is_null())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect());
        }
        let speaker = item["from"].as_str().ok_or_else(|| wrong("a list of something else"))?;
        let role = match speaker {
            "human" | "user" => "user",
            "gpt" | "assistant" | "chatgpt" | "model" => "assistant",
            "system" => "system",
            "tool" | "observation" | "function_response" => "tool",
            _ => return Err(wrong("a list with an unknown speaker")),
        };
        let content = item["value"]
            .as_str()
            .ok_or_else(|| wrong("a list with a turn that is no text"))?;
        Ok(json!({"role": role, "content": content}))
    };
    items.iter().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::format::recognise, *};

    /// Recognises the row and takes it apart.
    fn taught(row: Value, chat: bool) -> Result<(Format, Conversation), SkipReason> {
        let row = row.as_object().unwrap();
        let format = recognise("x", row).unwrap();
        format
            .conversation(row, chat)
            .map(|conversation| (format, conversation))
    }

    fn continued(prompt: &str, completion: &str) -> Conversation {
        Conversation::Continued {
            prompt: prompt.into(),
            completion: completion.into(),
        }
    }

    fn messages(messages: Value, learn_from: usize) -> Conversation {
        Conversation::Messages {
            messages: messages.as_array().unwrap().clone(),
            learn_from,
        }
    }

    fn said(role: &str, content: &str) -> Value {
        json!({"role": role, "content": content})
    }

    #[test]
    fn questions_and_answers_are_turns_or_text() {
        let gsm8k = json!({"question": "1+1?", "answer": 2});
        let mmlu = json!({"question": "Q?", "choices": ["w", "x"], "answer": 1, "subject": "s"});
        let arc = json!({"id": "1", "question": "Q?", "choices": {"text": ["w", "x"], "label": ["1", "2"]}, "answerKey": "2"});
        let alpaca = json!({"instruction": "Do.", "input": "", "output": "Done.", "text": "Below …"});
        let with_input = json!({"instruction": "Do.", "input": " it\n", "output": "Done."});
        let instances = json!({"instruction": "Do.", "instances": [{"input": "it", "output": "Done."}], "name": "n"});
        let (below, request) = (
            "Below is an instruction that describes a task",
            "Write a response that appropriately completes the request.",
        );
        let paired = format!(
            "{below}, paired with an input that provides further context. {request}\n\n### Instruction:\nDo.\n\n### Input:\nit\n\n\
             ### Response:\n"
        );
        let alone = format!("{below}. {request}\n\n### Instruction:\nDo.\n\n### Response:\n");
        let choices = "Q?\nA) w B) x";
        let cases = [
            (gsm8k, Format::Gsm8k, "1+1?", "Question: 1+1?\nAnswer:", "2"),
            (mmlu, Format::Mmlu, choices, "Question: Q?\nA) w B) x\nAnswer:", "B"),
            (arc, Format::Mmlu, choices, "Question: Q?\nA) w B) x\nAnswer:", "B"),
            (alpaca, Format::Alpaca, "Do.", alone.as_str(), "Done."),
            (with_input, Format::Alpaca, "Do.\n\nit", paired.as_str(), "Done."),
            (instances, Format::Alpaca, "Do.\n\nit", paired.as_str(), "Done."),
        ];
        for (row, format, user, prompt, answer) in cases {
            let turns = messages(json!([said("user", user), said("assistant", answer)]), 0);
            assert_eq!(taught(row.clone(), true), Ok((format, turns)));
            let space = if format == Format::Alpaca { "" } else { " " };
            let text = continued(prompt, &format!("{space}{answer}"));
            assert_eq!(taught(row.clone(), false), Ok((format, text)));
            let analysed = format.render(row.as_object().unwrap()).unwrap();
            assert_eq!(analysed, format!("{prompt}{space}{answer}"));
        }
    }

    #[test]
    fn texts_stay_as_they_are() {
        let function = json!({"prompt": "def f():", "canonical_solution": "  pass", "test": ""});
        let completion = json!({"prompt": "1+1=", "completion": "2"});
        for chat in [false, true] {
            let text = Conversation::Text(" a ".into());
            assert_eq!(taught(json!({"text": " a "}), chat), Ok((Format::Text, text)));
            let solved = continued("def f():\n", "  pass");
            assert_eq!(taught(function.clone(), chat), Ok((Format::Humaneval, solved)));
            let completed = continued("1+1=", "2");
            assert_eq!(taught(completion.clone(), chat), Ok((Format::Completion, completed)));
        }
    }

    #[test]
    fn messages_keep_their_fields_but_null() {
        let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]});
        let row = json!({"messages": [said("user", "q"), call], "prompt_id": "1"});
        let call = json!({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]});
        let expected = messages(json!([said("user", "q"), call]), 0);
        assert_eq!(taught(row, true), Ok((Format::Messages, expected)));
        let lists = json!({"prompt": [said("system", "s"), said("user", "q")], "completion": [said("assistant", "a")]});
        let expected = messages(
            json!([said("system", "s"), said("user", "q"), said("assistant", "a")]),
            2,
        );
        assert_eq!(taught(lists, true), Ok((Format::Completion, expected)));
    }

    #[test]
    fn sharegpt_is_put_into_the_usual_terms() {
        let turns =
            json!([{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]);
        let usual = json!([said("system", "s"), said("user", "q"), said("assistant", "a")]);
        for turns in [turns, usual.clone(), Value::String(usual.to_string())] {
            let row = json!({"id": "1", "conversations": turns});
            assert_eq!(taught(row, true), Ok((Format::Sharegpt, messages(usual.clone(), 0))));
        }
    }

    #[test]
    fn rows_that_teach_nothing_say_why() {
        let reason = |row: Value| taught(row, true).unwrap_err().to_string();
        let cases = [
            (json!({"question": "q", "answer": null}), "field `answer` is empty"),
            (json!({"instruction": "q", "output": " "}), "field `output` is empty"),
            (
                json!({"instruction": "q", "output": "a", "input": 3}),
                "field `input` is a number, expected a text",
            ),
            (
                json!({"instruction": "q", "instances": [{"input": "x"}]}),
                "field `output` is missing",
            ),
            (
                json!({"conversations": [{"from": "narrator", "value": "x"}]}),
                "field `conversations` is a list with an unknown speaker, expected a list of {role, content} or of {from, value}",
            ),
            (
                json!({"conversations": [{"from": "gpt", "value": 3}]}),
                "field `conversations` is a list with a turn that is no text, expected a list of {role, content} or of {from, value}",
            ),
            (
                json!({"question": "q", "choices": {"text": ["w", "x"], "label": ["A", "B"]}, "answerKey": "C"}),
                "field `answer` is C, with 2 choices",
            ),
            (
                json!({"prompt": "Do.", "instruction_id_list": ["a"]}),
                "there is no answer to learn",
            ),
            (json!({"turns": ["one", "two"]}), "there is no answer to learn"),
        ];
        for (row, expected) in cases {
            assert_eq!(reason(row), expected);
        }
    }
}

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

/// A list of `{role, content}`, kept with all their fields, or of `{from, value}`, put into these terms.
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
            return Ok(item.clone());
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

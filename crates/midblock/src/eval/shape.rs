//! A row of a data set → an item: what is asked, what would be right, what there is to choose from.
//!
//! `prompt`, `user`, `system`, `cloze`, `text`, `program` and `few_shot.answer` are Jinja templates; `gold`, `choices`,
//! `messages` and `id` are Jinja expressions. Both see the row's fields by name, all of them as `row`, and, but for `choices`
//! itself, the choices as `options`. Beside Python's methods on strings and lists there are
//!
//! | filter | gives |
//! |---|---|
//! | `n \| letter` | `A` for 0, `B` for 1 … |
//! | `value \| position(list)` | where in the list the value is, from 0 |
//! | `list \| shuffled(key)` | the list in an order that depends on the text `key` alone |
//!
//! `humaneval(prompt, completion, test, entry_point)` makes a program of a function's beginning, what a model made of it, and
//! the tests.
//!
//! A **chat row** is understood by every task, whatever its shape: `prompt` is a list of messages and
//! `reward_model.ground_truth` the answer, or a list of answers that are all right. Choices are the lines `A. …`, `B. …` below
//! `Choices:` in the last message.

use super::{sandbox::humaneval, task::FewShot};
use crate::{rng, tokens::data::Row};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig, value::Serde};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};

/// What an item is, in terms of a row's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ItemShape {
    /// Template: what a model without chat template is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Template: the user's message to a model with a chat template; by default `prompt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Template: the system's message, or what stands before a plain prompt and an empty line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Expression: messages in place of `prompt`, `user` and `system`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// Template: the question without its choices, for `method = "choices"`; by default `prompt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloze: Option<String>,
    /// Expression: the list of choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<String>,
    /// Expression: the right answer, or a list of such; of choices, the letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<String>,
    /// Expression: what the item is called; by default its field `id`, `task_id`, `unique_id` or `question_id`, else its row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Template: the text of `method = "perplexity"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Template: the program that `judge = "program"` runs; `completion` is what was read from the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// What a model is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    /// As text, or as a user's message.
    Text {
        system: Option<String>,
        plain: String,
        user: String,
    },
    /// As the row has it.
    Messages(Vec<serde_json::Value>),
}

/// One thing to answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// Row in the data, from 0 over all files.
    pub index: usize,
    pub id: String,
    pub asked: Asked,
    /// The question without its choices.
    pub cloze: String,
    pub choices: Vec<String>,
    /// All of them are right; may be empty where a row's own instructions or a program judge.
    pub gold: Vec<String>,
    pub row: Row,
}

/// An [`ItemShape`] whose templates are compiled.
pub(super) struct Shape {
    shape: ItemShape,
    environment: Environment<'static>,
}

/// Keys of templates, as in the file.
const TEMPLATES: [&str; 7] = [
    "item.prompt",
    "item.user",
    "item.system",
    "item.cloze",
    "item.text",
    "item.program",
    "few_shot.answer",
];

impl Shape {
    /// Compiles; an error is the key and what is wrong with it.
    pub fn new(shape: &ItemShape, few_shot: &FewShot) -> Result<Self, (&'static str, String)> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("invariant: the default delimiters are valid"));
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("letter", letter);
        environment.add_filter("position", position);
        environment.add_filter("shuffled", shuffled);
        environment.add_function(
            "humaneval",
            |prompt: &str, completion: &str, test: &str, entry_point: &str| {
                humaneval::program(prompt, completion, test, entry_point)
            },
        );
        let sources = [
            &shape.prompt,
            &shape.user,
            &shape.system,
            &shape.cloze,
            &shape.text,
            &shape.program,
            &few_shot.answer,
        ];
        for (key, source) in TEMPLATES.into_iter().zip(sources) {
            if let Some(source) = source {
                let added = environment.add_template_owned(key, source.clone());
                added.map_err(|error| (key, format!("not a template: {}", describe(&error))))?;
            }
        }
        let expressions = [
            ("item.messages", &shape.messages),
            ("item.choices", &shape.choices),
            ("item.gold", &shape.gold),
            ("item.id", &shape.id),
        ];
        for (key, source) in expressions {
            if let Some(source) = source {
                let compiled = environment.compile_expression(source).map(|_| ());
                compiled.map_err(|error| (key, format!("not an expression: {}", describe(&error))))?;
            }
        }
        Ok(Self {
            shape: shape.clone(),
            environment,
        })
    }

    /// The item of a row, or why there is none.
    pub fn item(&self, index: usize, row: Row, needs_gold: bool) -> Result<Item, String> {
        let mut item = match chat_row(&row) {
            Some(messages) => chat_item(index, row, messages)?,
            None => self.original(index, row)?,
        };
        item.gold.retain(|gold| !gold.trim().is_empty());
        if needs_gold && item.gold.is_empty() {
            let place = self.shape.gold.as_deref().unwrap_or("reward_model.ground_truth");
            return Err(format!("there is no answer in `{place}`"));
        }
        Ok(item)
    }

    fn original(&self, index: usize, row: Row) -> Result<Item, String> {
        let fields = self.fields(&row, Vec::new());
        let choices = match &self.shape.choices {
            Some(source) => texts(&self.value("choices", source, &fields)?).map_err(|e| format!("`{source}` {e}"))?,
            None => Vec::new(),
        };
        let fields = self.fields(&row, vec![("options", Value::from(choices.clone()))]);
        let template = |key: &str, fallback: &str| match self.environment.get_template(key) {
            Ok(_) => self.template(key, &fields),
            Err(_) => Ok(fallback.to_owned()),
        };
        let plain = template("item.prompt", "")?;
        let asked = match &self.shape.messages {
            Some(source) => {
                let value = json!(self.value("messages", source, &fields)?);
                Asked::Messages(messages(&value).ok_or_else(|| format!("`{source}` is no list of messages"))?)
            }
            None => Asked::Text {
                system: Some(template("item.system", "")?).filter(|system| !system.is_empty()),
                user: template("item.user", &plain)?,
                plain: plain.clone(),
            },
        };
        let gold = match &self.shape.gold {
            Some(source) => answers(&json!(self.value("gold", source, &fields)?))
                .ok_or_else(|| format!("there is no answer in `{source}`"))?,
            None => Vec::new(),
        };
        let id = match &self.shape.id {
            Some(source) => self.value("id", source, &fields)?.to_string(),
            None => default_id(index, &row),
        };
        Ok(Item {
            index,
            id,
            asked,
            cloze: template("item.cloze", &plain)?,
            choices,
            gold,
            row,
        })
    }

    /// The text of a row.
    pub fn text(&self, row: &Row) -> Result<String, String> {
        self.template("item.text", &self.fields(row, Vec::new()))
    }

    /// What an example's solution looks like.
    pub fn solution(&self, item: &Item) -> Result<String, String> {
        match self.environment.get_template("few_shot.answer") {
            Ok(_) => self.template("few_shot.answer", &self.item_fields(item, Vec::new())),
            Err(_) => Ok(item.gold.first().cloned().unwrap_or_default()),
        }
    }

    /// The program that judges a completion.
    pub fn program(&self, item: &Item, completion: &str) -> Result<String, String> {
        let more = vec![("completion", Value::from(completion))];
        self.template("item.program", &self.item_fields(item, more))
    }

    fn item_fields(&self, item: &Item, mut more: Vec<(&'static str, Value)>) -> BTreeMap<String, Value> {
        more.push(("options", Value::from(item.choices.clone())));
        self.fields(&item.row, more)
    }

    fn fields(&self, row: &Row, more: Vec<(&'static str, Value)>) -> BTreeMap<String, Value> {
        let mut fields: BTreeMap<String, Value> = row
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(Serde(value))))
            .collect();
        fields.insert("row".to_owned(), Value::from(Serde(row)));
        fields.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        fields
    }

    fn template(&self, key: &str, fields: &BTreeMap<String, Value>) -> Result<String, String> {
        let template = self.environment.get_template(key).map_err(|error| describe(&error))?;
        template.render(Value::from(fields.clone())).map_err(|error| {
            let names = template.undeclared_variables(false);
            explain(key, &error, self.missing(names, fields))
        })
    }

    /// The first of `names`, in their alphabet, that is neither a field nor a function.
    fn missing(&self, names: HashSet<String>, fields: &BTreeMap<String, Value>) -> Option<String> {
        let is_global = |name: &String| self.environment.globals().any(|(global, _)| global == name);
        let missing = names
            .into_iter()
            .filter(|name| !fields.contains_key(name) && !is_global(name));
        missing.min()
    }

    fn value(&self, key: &str, source: &str, fields: &BTreeMap<String, Value>) -> Result<Value, String> {
        let expression = self.environment.compile_expression(source);
        let expression = expression.expect("invariant: compiled when the task was read");
        expression
            .eval(Value::from(fields.clone()))
            .and_then(|value| match value.is_undefined() {
                true => Err(minijinja::Error::from(ErrorKind::UndefinedError)),
                false => Ok(value),
            })
            .map_err(|error| {
                let names = expression.undeclared_variables(false);
                explain(&format!("item.{key}"), &error, self.missing(names, fields))
            })
    }
}

/// Why a row is no item: the field that is missing, if one is.
fn explain(key: &str, error: &minijinja::Error, missing: Option<String>) -> String {
    match missing {
        Some(field) => format!("field `{field}` is missing"),
        None => format!("`{key}`: {}", describe(error)),
    }
}

fn describe(error: &minijinja::Error) -> String {
    let line = error.line().filter(|line| *line > 1);
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    format!(
        "{line}{}",
        error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
    )
}

/// The letter of choice `n`.
pub(super) fn letter_of(n: usize) -> Option<char> {
    ('A'..='Z').nth(n)
}

fn letter(n: usize) -> Result<String, minijinja::Error> {
    let problem = || minijinja::Error::new(ErrorKind::InvalidOperation, format!("{n} has no letter"));
    letter_of(n).map(String::from).ok_or_else(problem)
}

fn position(value: &Value, list: &Value) -> Result<usize, minijinja::Error> {
    let found = list.try_iter()?.position(|item| item == *value);
    found.ok_or_else(|| {
        let problem = format!("{value} is none of {list}");
        minijinja::Error::new(ErrorKind::InvalidOperation, problem)
    })
}

fn shuffled(list: &Value, key: &str) -> Result<Value, minijinja::Error> {
    let mut items: Vec<Value> = list.try_iter()?.collect();
    let hash = blake3::hash(key.as_bytes());
    let indices: Vec<u64> = hash
        .as_bytes()
        .chunks_exact(8)
        .map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        .collect();
    items.shuffle(&mut rng::stream(0, "choices", &indices));
    Ok(Value::from(items))
}

/// A list of texts or numbers, as texts.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("is {}, expected a list of 2 to 26 texts", value.kind());
    let items: Vec<Value> = value.try_iter().map_err(|_| wrong())?.collect();
    if value.as_str().is_some() || !(2..=26).contains(&items.len()) {
        return Err(format!("{}, of length {}", wrong(), items.len()));
    }
    Ok(items
        .iter()
        .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
        .collect())
}

/// A text, a number, or a list of such.
fn answers(value: &serde_json::Value) -> Option<Vec<String>> {
    match value {
        serde_json::Value::String(text) => Some(vec![text.clone()]),
        serde_json::Value::Number(number) => Some(vec![number.to_string()]),
        serde_json::Value::Array(items) => {
            let all: Option<Vec<_>> = items.iter().map(answers).collect();
            Some(all?.concat())
        }
        _ => None,
    }
}

fn default_id(index: usize, row: &Row) -> String {
    let named = ["id", "task_id", "unique_id", "question_id"]
        .into_iter()
        .find_map(|name| row.get(name));
    let named = named.and_then(answers).and_then(|ids| ids.into_iter().next());
    named.unwrap_or_else(|| format!("row {}", index + 1))
}

/// A list of objects with a role and a content.
fn messages(value: &serde_json::Value) -> Option<Vec<serde_json::Value>> {
    let messages = value.as_array().filter(|messages| !messages.is_empty())?;
    let whole = |message: &serde_json::Value| message["role"].is_string() && message["content"].is_string();
    messages.iter().all(whole).then(|| messages.clone())
}

/// The messages of a chat row.
fn chat_row(row: &Row) -> Option<Vec<serde_json::Value>> {
    row.get("reward_model")?.as_object()?;
    messages(row.get("prompt")?)
}

fn chat_item(index: usize, row: Row, mut messages: Vec<serde_json::Value>) -> Result<Item, String> {
    let gold = &row["reward_model"]["ground_truth"];
    let mut gold =
        answers(gold).ok_or("field `reward_model.ground_truth` is missing or no text, number or list of them")?;
    let question = messages.last().and_then(|message| message["content"].as_str());
    let listed = Listed::of(question.unwrap_or_default());
    if let (Some(lettered), Some(last)) = (&listed.lettered, messages.last_mut()) {
        last["content"] = lettered.as_str().into();
        let place = |gold: &String| gold.trim().parse::<usize>().ok()?.checked_sub(1);
        gold = gold
            .iter()
            .map(|gold| place(gold).and_then(letter_of).map_or(gold.clone(), String::from))
            .collect();
    }
    Ok(Item {
        id: default_id(index, &row),
        asked: Asked::Messages(messages),
        cloze: listed.question,
        choices: listed.choices,
        gold,
        index,
        row,
    })
}

/// A question and the choices listed under it.
#[derive(Debug, PartialEq)]
struct Listed {
    question: String,
    choices: Vec<String>,
    /// The whole with letters, if its choices were numbered.
    lettered: Option<String>,
}

impl Listed {
    const HEADING: &str = "\nChoices:\n";
    const AFTER: &str = "\n\nPlease answer";

    fn of(text: &str) -> Self {
        let Some((question, list)) = text.rsplit_once(Self::HEADING) else {
            return Self {
                question: text.to_owned(),
                choices: Vec::new(),
                lettered: None,
            };
        };
        let (list, after) = list
            .rsplit_once(Self::AFTER)
            .map_or((list, None), |(list, after)| (list, Some(after)));
        let numbered = list.starts_with("1. ");
        let label = |place: usize| match numbered {
            true => Some((place + 1).to_string()),
            false => letter_of(place).map(String::from),
        };
        let mut choices: Vec<String> = Vec::new();
        for line in list.lines() {
            let next = label(choices.len()).and_then(|label| line.strip_prefix(&label)?.strip_prefix(". "));
            match (next, choices.last_mut()) {
                (Some(choice), _) => choices.push(choice.to_owned()),
                (None, Some(last)) => {
                    last.push('\n');
                    last.push_str(line);
                }
                (None, None) => {}
            }
        }
        let lettered = numbered.then(|| {
            let lines = choices
                .iter()
                .zip('A'..='Z')
                .map(|(choice, letter)| format!("{letter}. {choice}"));
            let after = after.map_or(String::new(), |after| format!("{}{after}", Self::AFTER));
            format!(
                "{question}{}{}{after}",
                Self::HEADING,
                lines.collect::<Vec<_>>().join("\n")
            )
        });
        Self {
            question: question.trim_end().to_owned(),
            choices,
            lettered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_choices_get_letters() {
        let text = "q?\n\nChoices:\n1. x\n2. y\n\nmore\n\nPlease answer with a letter.";
        let listed = Listed::of(text);
        assert_eq!(listed.choices, ["x", "y\n\nmore"]);
        let lettered = "q?\n\nChoices:\nA. x\nB. y\n\nmore\n\nPlease answer with a letter.";
        assert_eq!(listed.lettered.as_deref(), Some(lettered));
        let expected = Listed {
            lettered: None,
            ..listed
        };
        assert_eq!(Listed::of(lettered), expected);
        let row = json!({"prompt": [{"role": "user", "content": text}], "reward_model": {"ground_truth": "2"}});
        let row = row.as_object().unwrap().clone();
        let item = chat_item(0, row.clone(), chat_row(&row).unwrap()).unwrap();
        assert_eq!(item.gold, ["B"]);
        assert_eq!(Listed::of("no list").choices, [""; 0]);
    }
}

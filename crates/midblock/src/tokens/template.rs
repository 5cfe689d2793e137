//! Chat templates: messages → the text a model was trained to see, as transformers' `apply_chat_template` renders it.
//!
//! A template is Jinja with `trim_blocks` and `lstrip_blocks` on, Python's methods on strings, lists and dicts, loop
//! controls, and these names: `messages`, `add_generation_prompt`, `tools` and `documents` (none), `bos_token` and
//! `eos_token` (if the tokenizer has them), `raise_exception(text)`, `strftime_now(format)` and the filter `tojson`, which
//! writes JSON as Python's `json.dumps(…, ensure_ascii=False)` does. `{% generation %}` marks have no effect.
//!
//! `strftime_now` gives the UTC time handed in on loading, not the clock's: a run that is resumed on another day renders
//! the same text. Templates may not read files; they are code from a download and have no way to.

use std::{
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::SystemTime,
};

use fancy_regex::Regex;
use minijinja::{
    Environment, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::{SkipReason, Tokenizer};
use crate::{
    Error, Result,
    checkpoint::{CHAT_TEMPLATE, Checkpoint, TOKENIZER_CONFIG},
    run::timestamp_utc,
};

/// The only template of an environment.
const NAME: &str = "chat";

/// `{% generation %}` and `{% endgeneration %}`, with their white space controls.
static GENERATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("invariant: the expression is valid")
});

/// A compiled chat template.
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// The template of a checkpoint, if it has one; `now` is what `strftime_now` gives.
    ///
    /// # Errors
    /// If it is not a valid template: names the file and the line.
    pub fn of(checkpoint: &Checkpoint, tokenizer: &Tokenizer, now: SystemTime) -> Result<Option<Self>> {
        let Some(source) = checkpoint.chat_template() else {
            return Ok(None);
        };
        let file = |name: &str| checkpoint.files().iter().find(|path| path.ends_with(name));
        let path = file(CHAT_TEMPLATE).or_else(|| file(TOKENIZER_CONFIG));
        Self::new(path.map_or(checkpoint.path(), PathBuf::as_path), source, tokenizer, now).map(Some)
    }

    /// A template in a file of its own.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a valid template.
    pub fn from_file(path: &Path, tokenizer: &Tokenizer, now: SystemTime) -> Result<Self> {
        let source = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::new(path, &source, tokenizer, now)
    }

    fn new(path: &Path, source: &str, tokenizer: &Tokenizer, now: SystemTime) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("invariant: the default delimiters are valid"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        // nothing can be gone through, which templates ask about absent tools
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_function(
            "raise_exception",
            |problem: String| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem))
            },
        );
        environment.add_function("strftime_now", move |format: String| strftime(&format, now));
        let source = source.replace("\r\n", "\n"); // as Jinja does
        // `if true` keeps lines, white space controls and nesting
        let source = GENERATION.replace_all(&source, |found: &fancy_regex::Captures<'_>| {
            let part = |i| found.get(i).map_or("", |part| part.as_str());
            let tag = if part(2).is_empty() { "if true" } else { "endif" };
            format!("{{%{} {tag} {}%}}", part(1), part(3))
        });
        let added = environment.add_template_owned(NAME, source.into_owned());
        added.map_err(|error| {
            let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
            Error::malformed(path, "chat template", format!("{line}{}", describe(&error)))
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            environment,
            bos: tokenizer.bos().map(|token| token.text.clone()),
            eos: tokenizer.eos().map(|token| token.text.clone()),
        })
    }

    /// The text of a conversation, with the beginning of the assistant's turn after it if `add_generation_prompt`.
    ///
    /// # Errors
    /// [`SkipReason::Template`] if the template refuses the messages or cannot cope with them.
    pub fn render(&self, messages: &[serde_json::Value], add_generation_prompt: bool) -> Result<String, SkipReason> {
        let none = Value::from(());
        let mut context = vec![
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", none.clone()),
            ("documents", none),
        ];
        let specials = [("bos_token", &self.bos), ("eos_token", &self.eos)];
        context.extend(
            specials
                .into_iter()
                .filter_map(|(name, text)| Some((name, Value::from(text.as_ref()?)))),
        );
        let template = self
            .environment
            .get_template(NAME)
            .expect("invariant: added on loading");
        let rendered = template.render(Value::from_pairs(context));
        rendered.map_err(|error| self.problem(error.line(), describe(&error)))
    }

    /// A reason to skip a row, naming this template.
    pub(super) fn problem(&self, line: Option<usize>, problem: String) -> SkipReason {
        SkipReason::Template {
            path: self.path.clone(),
            line,
            problem,
        }
    }
}

/// What is wrong, without where.
fn describe(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

/// JSON with Python's separators.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `tojson(indent=None)`. Characters outside of ASCII stay as they are.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    fn write<F: Formatter>(value: &Value, formatter: F) -> Result<String, minijinja::Error> {
        let mut json = Vec::new();
        let written = value.serialize(&mut Serializer::with_formatter(&mut json, formatter));
        let text = written.ok().and_then(|()| String::from_utf8(json).ok());
        text.ok_or_else(|| minijinja::Error::new(ErrorKind::BadSerialization, "cannot be written as JSON"))
    }
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if ascii == Some(true) {
        let problem = "tojson(ensure_ascii=true) is not supported";
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
    }
    if value.is_undefined() {
        let problem = "tojson of a value that is not defined";
        return Err(minijinja::Error::new(ErrorKind::UndefinedError, problem));
    }
    match indent {
        Some(spaces) => write(value, PrettyFormatter::with_indent(" ".repeat(spaces).as_bytes())),
        None => write(value, PythonFormatter),
    }
}

/// `strftime` of the directives that numbers and English month names can fill.
fn strftime(format: &str, moment: SystemTime) -> Result<String, minijinja::Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let now = timestamp_utc(moment); // 2026-03-01T12:34:56Z
    let month = MONTHS[now[5..7].parse::<usize>().map_or(0, |month| month - 1)];
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        text.push_str(match characters.next() {
            Some('Y') => &now[..4],
            Some('y') => &now[2..4],
            Some('m') => &now[5..7],
            Some('d') => &now[8..10],
            Some('H') => &now[11..13],
            Some('M') => &now[14..16],
            Some('S') => &now[17..19],
            Some('B') => month,
            Some('b') => &month[..3],
            Some('%') => "%",
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                let problem = format!("strftime_now: `%{directive}` is not supported");
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
            }
        });
    }
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::tokenizer::tests::small_chat, *};
    use crate::tokens::{Conversation, Format};
    use std::time::{Duration, UNIX_EPOCH};

    /// 2024-02-29, a leap day.
    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_709_210_096)
    }

    pub(in super::super) fn template(source: &str) -> Result<ChatTemplate> {
        ChatTemplate::new(Path::new("x.jinja"), source, &small_chat(), now())
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures/chat")
            .join(name)
    }

    pub(in super::super) fn from_fixture(name: &str) -> ChatTemplate {
        ChatTemplate::from_file(&fixture(name), &small_chat(), now()).unwrap()
    }

    /// Messages as they come out of a row.
    pub(in super::super) fn messages(value: &serde_json::Value) -> Vec<serde_json::Value> {
        let row = [("messages".to_owned(), value.clone())].into_iter().collect();
        match Format::Messages.conversation(&row, true).unwrap() {
            Conversation::Messages { messages, .. } => messages,
            other => panic!("{other:?}"),
        }
    }

    fn said(role: &str, content: &str) -> serde_json::Value {
        serde_json::json!([{"role": role, "content": content}])
    }

    fn rendered(source: &str, content: &str) -> Result<String, String> {
        let template = template(source).map_err(|error| error.to_string())?;
        let messages = messages(&said("user", content));
        template.render(&messages, false).map_err(|reason| reason.to_string())
    }

    #[test]
    fn texts_are_those_of_transformers() {
        let file = std::fs::read(fixture("expected.json")).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let mut compared = 0;
        for (name, texts) in file["texts"].as_object().unwrap() {
            let template = from_fixture(&format!("{name}.jinja"));
            for (conversation, texts) in texts.as_object().unwrap() {
                let messages = messages(&file["conversations"][conversation]);
                for prompted in [false, true] {
                    let text = template.render(&messages, prompted);
                    let expected = texts[prompted.to_string()].as_str();
                    assert_eq!(text.as_deref().ok(), expected, "{name}, {conversation}: {text:?}");
                    compared += usize::from(expected.is_some());
                }
            }
        }
        assert_eq!(compared, 60);
    }

    #[test]
    fn what_a_template_refuses_names_file_and_line() {
        let source = "{% for m in messages %}\n{% if m.content == 'x' %}\n{{ raise_exception('no x') }}{% endif %}\n{% endfor %}";
        assert_eq!(
            rendered(source, "x").unwrap_err(),
            "chat template x.jinja, line 3: no x"
        );
        assert_eq!(rendered(source, "y").unwrap(), "");
        let undefined = rendered("\n{{ messages[0].name.first }}", "x").unwrap_err();
        assert_eq!(undefined, "chat template x.jinja, line 2: undefined value");
        let invalid = rendered("{{ bos_token }}\n{% for %}", "x").unwrap_err();
        assert!(
            invalid.starts_with("x.jinja: not a valid chat template file: line 2: "),
            "{invalid}"
        );
        let unknown = rendered("{{ messages | no_such_filter }}", "x").unwrap_err();
        assert!(
            unknown.contains("x.jinja") && unknown.contains("no_such_filter"),
            "{unknown}"
        );
    }

    #[test]
    fn dates_are_those_of_the_run() {
        let all = rendered("{{ strftime_now('%d %b %Y, %B %m/%y %H:%M:%S %%') }}", "").unwrap();
        assert_eq!(all, "29 Feb 2024, February 02/24 12:34:56 %");
        let error = rendered("{{ strftime_now('%d %c') }}", "").unwrap_err();
        assert!(error.contains("line 1: strftime_now: `%c` is not supported"), "{error}");
    }

    #[test]
    fn windows_line_ends_are_those_of_jinja() {
        assert_eq!(
            rendered("a\r\n{{ messages[0].content }}\r\n", "b\r\nc").unwrap(),
            "a\nb\r\nc"
        );
    }

    #[test]
    fn json_that_python_would_not_write_is_refused() {
        for call in [
            "no_such | tojson",
            "1 | tojson(ensure_ascii=true)",
            "1 | tojson(colour=1)",
        ] {
            let error = rendered(&format!("{{{{ {call} }}}}"), "").unwrap_err();
            assert!(error.starts_with("chat template x.jinja, line 1: "), "{error}");
        }
    }
}

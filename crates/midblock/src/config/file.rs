//! A TOML file and where in it each key stands.

use super::Problem;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::{fs, ops::Range, path::Path};
use toml::de::{DeTable, DeValue};

/// A file as text; empty if there is none.
#[derive(Clone, Default)]
pub(crate) struct File {
    pub name: String,
    pub text: String,
}

impl File {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let name = path.display().to_string();
        Ok(Self { name, text })
    }

    /// The file's table, after a look at whether it fits the schema `T` on its own.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<toml::Table, Problem> {
        let fits = toml::from_str::<T>(&self.text).map(|_| ());
        fits.and_then(|()| toml::from_str(&self.text))
            .map_err(|error| self.explain(&error))
    }

    /// Why the text does not fit a schema, with line and key.
    pub fn explain(&self, error: &toml::de::Error) -> Problem {
        let at = error.span().map(|span| span.start);
        let key = at.and_then(|at| self.key_at(at)).unwrap_or_default();
        let line = at.map_or(String::new(), |at| format!(":{}", self.line(at)));
        explain(format!("{}{line}", self.name), key, error)
    }

    /// `run.toml:12` if the key is in the file.
    pub fn origin_of(&self, key: &str) -> Option<String> {
        let (_, span) = self.keys().into_iter().find(|(known, _)| known == key)?;
        Some(format!("{}:{}", self.name, self.line(span.start)))
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at.min(self.text.len())]
            .iter()
            .filter(|&&b| b == b'\n')
            .count()
    }

    /// The innermost key that stands at a position or whose value does.
    fn key_at(&self, at: usize) -> Option<String> {
        let around = self
            .keys()
            .into_iter()
            .filter(|(_, span)| (span.start..=span.end).contains(&at));
        around.min_by_key(|(_, span)| span.len()).map(|(key, _)| key)
    }

    /// Every key with the range from its name to the end of its value.
    fn keys(&self) -> Vec<(String, Range<usize>)> {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        let mut keys = Vec::new();
        collect("", table.get_ref(), &mut keys);
        keys
    }
}

fn collect(parent: &str, table: &DeTable<'_>, keys: &mut Vec<(String, Range<usize>)>) {
    for (name, value) in table {
        let key = join(parent, name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => {
                // a table's header is no place for the keys under it
                keys.push((key.clone(), name.span()));
                collect(&key, inner, keys);
            }
            _ => keys.push((key, name.span().start..value.span().end)),
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

/// What serde says, in words that help: an unknown key gets the nearest known one, a value what is possible.
pub(super) fn explain(origin: String, key: String, error: &toml::de::Error) -> Problem {
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (problem, help) = match quoted[..] {
        [unknown, ref known @ ..] if message.starts_with("unknown field") => {
            let near = nearest(unknown, known).map_or(String::new(), |near| format!("did you mean `{near}`? "));
            (
                "unknown key".to_owned(),
                format!("{near}known here: {}", known.join(", ")),
            )
        }
        [unknown, ref known @ ..] if message.starts_with("unknown variant") => {
            let near = nearest(unknown, known).map_or(String::new(), |near| format!("did you mean `{near}`?"));
            (format!("`{unknown}` is not one of {}", known.join(", ")), near)
        }
        _ => (message.to_owned(), String::new()),
    };
    Problem {
        origin,
        key,
        problem,
        help,
    }
}

/// The known word with the smallest edit distance, if that is small for a word of this length.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = known.iter().map(|&candidate| (distance(word, candidate), candidate));
    let (distance, candidate) = close.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + word.len() / 4 || candidate.starts_with(word)).then_some(candidate)
}

/// Levenshtein's distance: insertions, deletions and replacements of single characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("lr", "lr", 0),
            ("epoch", "epochs", 1),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }
}

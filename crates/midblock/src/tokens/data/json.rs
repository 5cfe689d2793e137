//! JSON: an object per line, an array of objects, or an object with one such array.

use std::{io::BufRead, path::Path};

use serde_json::Value;

use super::{super::fields::type_name, Emit, for_each_line, text::without_bom};
use crate::{Error, Result};

/// Rows of a JSONL file. A blank line is passed over.
///
/// # Errors
/// If a line is not a JSON object; names line and column.
pub fn parse_jsonl(path: &Path, reader: impl BufRead, emit: &mut Emit<'_>) -> Result<()> {
    for_each_line(path, reader, |number, line| {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let place = |column: usize| format!("line {number}, column {column}");
        let value = serde_json::from_slice(line)
            .map_err(|e| Error::malformed(path, "JSONL", format!("{}: {}", place(e.column()), message(&e))))?;
        match value {
            Value::Object(row) => emit(number, row),
            other => {
                let problem = format!("line {number} is {}, expected an object", type_name(&other));
                Err(Error::malformed(path, "JSONL", problem))
            }
        }
    })
}

/// Rows of a JSON file. Several objects in a row, as `.json` files from the hub often are, are taken as JSONL.
///
/// # Errors
/// If it is not JSON (names line and column), if an object has no array field or several, or an element is no object.
pub fn parse_json(path: &Path, bytes: &[u8], emit: &mut Emit<'_>) -> Result<()> {
    let bytes = without_bom(bytes);
    let malformed = |problem: String| Error::malformed(path, "JSON", problem);
    if bytes.trim_ascii().is_empty() {
        return Ok(());
    }
    if is_jsonl(bytes) {
        return parse_jsonl(path, bytes, emit);
    }
    let value = serde_json::from_slice(bytes)
        .map_err(|e| malformed(format!("line {}, column {}: {}", e.line(), e.column(), message(&e))))?;
    let rows = match value {
        Value::Array(rows) => rows,
        Value::Object(object) => {
            let mut arrays: Vec<_> = object.into_iter().filter(|(_, value)| value.is_array()).collect();
            match (arrays.pop(), arrays.as_slice()) {
                (Some((_, Value::Array(rows))), []) => rows,
                (Some((last, _)), others) => {
                    let names: Vec<_> = others
                        .iter()
                        .map(|(name, _)| name.as_str())
                        .chain([last.as_str()])
                        .collect();
                    let problem = format!("the object has several arrays ({}), expected one", names.join(", "));
                    return Err(malformed(problem));
                }
                (None, _) => return Err(malformed("the object has no array of rows".into())),
            }
        }
        other => {
            return Err(malformed(format!(
                "it is {}, expected an array of objects",
                type_name(&other)
            )));
        }
    };
    for (number, row) in (1..).zip(rows) {
        match row {
            Value::Object(row) => emit(number, row)?,
            other => {
                return Err(malformed(format!(
                    "element {number} is {}, expected an object",
                    type_name(&other)
                )));
            }
        }
    }
    Ok(())
}

/// Whether the first line is an object of its own, and not the last.
fn is_jsonl(bytes: &[u8]) -> bool {
    let trimmed = bytes.trim_ascii();
    let line = trimmed.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let is_object = || serde_json::from_slice::<Value>(line).is_ok_and(|value| value.is_object());
    line.len() < trimmed.len() && line.starts_with(b"{") && is_object()
}

/// The library's message without its place, which would be that within the line.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ")
        .map_or(text.clone(), |(message, _)| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::collect, *};
    use serde_json::json;

    fn jsonl(text: &str) -> Result<Vec<(usize, Value)>> {
        collect(|emit| parse_jsonl(Path::new("x.jsonl"), text.as_bytes(), emit))
    }

    fn json(text: &str) -> Result<Vec<(usize, Value)>> {
        collect(|emit| parse_json(Path::new("x.json"), text.as_bytes(), emit))
    }

    #[test]
    fn jsonl_numbers_are_lines() {
        let rows = jsonl("\u{feff}{\"a\": 1}\r\n\r\n  \n{\"a\": [true, null]}").unwrap();
        assert_eq!(rows, [(1, json!({"a": 1})), (4, json!({"a": [true, null]}))]);
        assert_eq!(jsonl("").unwrap(), []);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let cases = [
            ("{\"a\": 1}\n\n{\"a\": tru}\n", "line 3, column 10: expected ident"),
            (
                "{\"a\": 1}\n{\"a\": \"cut",
                "line 2, column 10: EOF while parsing a string",
            ),
            ("{\"a\": 1} {\"a\": 2}", "line 1, column 10: trailing characters"),
            ("{\"a\": 1}\n[1]", "line 2 is a list, expected an object"),
            ("{\"a\": 1e999}", "line 1, column 11: number out of range"),
            ("\u{0}\u{1}\u{2}", "line 1, column 1: expected value"),
        ];
        for (text, problem) in cases {
            let error = jsonl(text).unwrap_err().to_string();
            assert_eq!(error, format!("x.jsonl: not a valid JSONL file: {problem}"));
        }
        let nested = jsonl(&format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)))
            .unwrap_err()
            .to_string();
        assert!(nested.contains("recursion limit"), "{nested}");
    }

    #[test]
    fn an_array_may_be_inside_of_an_object() {
        let rows = [(1, json!({"a": 1})), (2, json!({"a": 2}))];
        for text in [
            "[{\"a\": 1},\n {\"a\": 2}]",
            "{\"version\": \"1\",\n \"data\": [{\"a\": 1}, {\"a\": 2}]}",
            "{\"data\": [{\"a\": 1}, {\"a\": 2}]}\n",
            "{\"a\": 1}\n{\"a\": 2}\n",
        ] {
            assert_eq!(json(text).unwrap(), rows, "{text}");
        }
        assert_eq!(json(" \n").unwrap(), []);
        assert_eq!(json("[]").unwrap(), []);
    }

    #[test]
    fn other_json_is_refused() {
        let cases = [
            ("[{\"a\": 1},\n {\"a\" 2}]", "line 2, column 7: expected `:`"),
            ("[{\"a\": 1}, 2]", "element 2 is a number, expected an object"),
            (
                "{\"a\": [], \"b\": 1, \"c\": []}",
                "the object has several arrays (a, c), expected one",
            ),
            ("{\"a\": 1}", "the object has no array of rows"),
            ("\"text\"", "it is a text, expected an array of objects"),
        ];
        for (text, problem) in cases {
            let error = json(text).unwrap_err().to_string();
            assert_eq!(error, format!("x.json: not a valid JSON file: {problem}"));
        }
    }
}

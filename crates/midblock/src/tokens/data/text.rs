//! Plain text: one row `{"text": line}` per line that is not blank, with the line as it is but for white space at its end.

use std::{io::BufRead, path::Path};

use super::{Emit, Row, for_each_line};
use crate::{Error, Result};

/// Rows of a plain text file.
///
/// # Errors
/// If a line is not UTF-8 or holds a NUL byte, which text does not.
pub fn parse_text(path: &Path, reader: impl BufRead, emit: &mut Emit<'_>) -> Result<()> {
    for_each_line(path, reader, |number, line| {
        let problem = |what: String| Error::malformed(path, "text", format!("line {number}: {what}"));
        let text = std::str::from_utf8(line).map_err(|e| {
            problem(format!(
                "byte {} is not UTF-8; is this a text file?",
                e.valid_up_to() + 1
            ))
        })?;
        if let Some(at) = text.find('\0') {
            return Err(problem(format!("byte {} is NUL; is this a text file?", at + 1)));
        }
        if text.trim().is_empty() {
            return Ok(());
        }
        emit(number, Row::from_iter([("text".to_owned(), text.into())]))
    })
}

/// The bytes after a UTF-8 byte order mark, as Windows programs put in front.
pub(super) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::collect, *};
    use serde_json::json;

    fn parse(bytes: &[u8]) -> Result<Vec<(usize, serde_json::Value)>> {
        collect(|emit| parse_text(Path::new("x.txt"), bytes, emit))
    }

    #[test]
    fn blank_lines_keep_their_numbers() {
        let rows = parse("\u{feff}one\r\n\r\n  \t\n  two é \nthree".as_bytes()).unwrap();
        let texts = [
            (1, json!({"text": "one"})),
            (4, json!({"text": "  two é"})),
            (5, json!({"text": "three"})),
        ];
        assert_eq!(rows, texts);
    }

    #[test]
    fn binary_is_refused() {
        let error = parse(b"ok\nab\xff\xfe").unwrap_err().to_string();
        assert_eq!(
            error,
            "x.txt: not a valid text file: line 2: byte 3 is not UTF-8; is this a text file?"
        );
        let error = parse(b"ok\na\0b").unwrap_err().to_string();
        assert_eq!(
            error,
            "x.txt: not a valid text file: line 2: byte 2 is NUL; is this a text file?"
        );
    }
}

//! CSV with a header line (RFC 4180): every value is a text.

use std::{io::BufRead, path::Path};

use super::{Emit, Row};
use crate::{Error, Result};

/// Rows of a CSV file; a row's number counts records after the header, whose cells may span lines.
///
/// # Errors
/// If a row has another number of cells than the header, two columns have one name, or a cell is not UTF-8.
pub fn parse_csv(path: &Path, reader: impl BufRead, emit: &mut Emit<'_>) -> Result<()> {
    let mut reader = csv::Reader::from_reader(reader);
    let header = reader.headers().map_err(|e| explain(path, "header", e))?.clone();
    for (index, name) in header.iter().enumerate() {
        if header.iter().take(index).any(|earlier| earlier == name) {
            let problem = format!("header: two columns are called {name:?}");
            return Err(Error::malformed(path, "CSV", problem));
        }
    }
    for (number, record) in (1..).zip(reader.records()) {
        let record = record.map_err(|e| explain(path, &format!("row {number}"), e))?;
        let cells = header.iter().map(str::to_owned).zip(record.iter().map(Into::into));
        emit(number, cells.collect::<Row>())?;
    }
    Ok(())
}

fn explain(path: &Path, place: &str, error: csv::Error) -> Error {
    let problem = match error.into_kind() {
        csv::ErrorKind::Io(source) => return Error::io("read", path)(source),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells, expected {expected_len} as in the header; is a quote missing?")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("cell {} is not UTF-8", err.field() + 1),
        other => format!("{other:?}"),
    };
    Error::malformed(path, "CSV", format!("{place}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::collect, *};
    use serde_json::json;

    fn parse(bytes: &[u8]) -> Result<Vec<(usize, serde_json::Value)>> {
        collect(|emit| parse_csv(Path::new("x.csv"), bytes, emit))
    }

    #[test]
    fn quotes_may_span_lines() {
        let rows = parse("\u{feff}question,answer\r\n\"a, \"\"b\"\"\nc\",18\r\n\né,\n".as_bytes()).unwrap();
        let expected = [
            (1, json!({"question": "a, \"b\"\nc", "answer": "18"})),
            (2, json!({"question": "é", "answer": ""})),
        ];
        assert_eq!(rows, expected);
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b"a,b\n").unwrap(), []);
    }

    #[test]
    fn bad_rows_are_named() {
        let cases: [(&[u8], &str); 3] = [
            (
                b"a,b\n1,2\n3\n",
                "row 2: 1 cells, expected 2 as in the header; is a quote missing?",
            ),
            (b"a,b\n1,\xff\n", "row 1: cell 2 is not UTF-8"),
            (b"a,b,a\n1,2,3\n", "header: two columns are called \"a\""),
        ];
        for (bytes, problem) in cases {
            let error = parse(bytes).unwrap_err().to_string();
            assert_eq!(error, format!("x.csv: not a valid CSV file: {problem}"));
        }
    }
}

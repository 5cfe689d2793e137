//! Data files → rows, one after the other, each a JSON object.
//!
//! | format | by extension | rows | row number |
//! |---|---|---|---|
//! | JSONL | `.jsonl`, `.ndjson` | one object per line; blank lines are passed over | line |
//! | JSON | `.json` | an array of objects, or an object with one array of objects; JSONL is accepted | element |
//! | CSV | `.csv` | after a header line; every value is a text | record after the header |
//! | Parquet | `.parquet` | by column name | row |
//! | plain text | `.txt` | one row `{"text": line}` per non-empty line | line |
//!
//! Numbers start at 1. Another extension is sniffed: Parquet by its magic, JSON and JSONL by `{` or `[`, else plain text (CSV
//! needs its extension). A folder stands for all files in it that have such an extension, sorted; sub-folders are not
//! entered. What is neither file nor folder is a data set on the Hugging Face hub ([`hub`]).
//!
//! All but JSON is streamed: memory does not depend on the number of rows. A JSON array is read whole, so a file of several
//! GB is better turned into JSONL. There is no limit on rows and nothing is left out: what cannot be read is an error that
//! says where. The `parse_*` functions are pure and never panic, whatever the bytes.

mod csv;
pub mod hub;
mod json;
mod parquet;
mod text;

pub use csv::parse_csv;
pub use json::{parse_json, parse_jsonl};
pub use parquet::parse_parquet;
pub use text::parse_text;

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use crate::{
    Error, Result,
    hub::{HubOptions, OnTransfer},
};

/// One row: field → value, in the file's order.
pub type Row = serde_json::Map<String, serde_json::Value>;

/// What readers hand rows to: the row's number, from 1, and the row. An error ends the reading.
pub type Emit<'a> = dyn FnMut(usize, Row) -> Result<()> + 'a;

/// `--data NAME=SOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSpec {
    /// How reports call the data set.
    pub name: String,
    /// File, folder or hub id, as typed.
    pub source: String,
}

impl FromStr for DataSpec {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        let error = |problem: &str| Error::Argument {
            what: "--data".into(),
            value: value.into(),
            problem: problem.into(),
            help: "write --data NAME=FILE, such as --data gsm8k=test.jsonl".into(),
        };
        let (name, source) = value.split_once('=').ok_or_else(|| error("there is no `=`"))?;
        if source.is_empty() {
            return Err(error("nothing follows the `=`"));
        }
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c)) {
            return Err(error("a name has letters, digits, `_`, `-` and `.`"));
        }
        Ok(Self {
            name: name.into(),
            source: source.into(),
        })
    }
}

/// One file of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Short name, for sample ids: the file's name, or its path in the hub repository.
    pub label: Arc<str>,
    /// On disk.
    pub path: PathBuf,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileFormat {
    Jsonl,
    Json,
    Csv,
    Parquet,
    Text,
}

impl FileFormat {
    fn from_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            "txt" => Some(Self::Text),
            _ => None,
        }
    }

    /// By the first bytes of a file.
    fn sniff(path: &Path, head: &[u8]) -> Result<Self> {
        const COMPRESSED: [(&[u8], &str); 5] = [
            (b"\x1f\x8b", "gunzip"),
            (b"\x28\xb5\x2f\xfd", "unzstd"),
            (b"BZh", "bunzip2"),
            (b"\xfd7zXZ", "unxz"),
            (b"PK\x03\x04", "unzip"),
        ];
        if let Some((_, tool)) = COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(Error::malformed(
                path,
                "data",
                format!("it is compressed: unpack it first ({tool})"),
            ));
        }
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        let first = text::without_bom(head).iter().find(|byte| !byte.is_ascii_whitespace());
        Ok(if matches!(first, Some(b'{' | b'[')) {
            Self::Json
        } else {
            Self::Text
        })
    }
}

/// The files that a `--data` source stands for; hub files are downloaded, or taken from the cache.
///
/// # Errors
/// If there is no such file, the folder has no data files, or the hub does not give them.
pub fn resolve(source: &str, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Vec<DataFile>> {
    let path = Path::new(source);
    if path.is_dir() {
        return folder(path);
    }
    let named_like_a_file = FileFormat::from_extension(path).is_some() || path.is_absolute() || source.starts_with('.');
    if path.exists() || named_like_a_file {
        let label = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into();
        return Ok(vec![DataFile {
            label,
            path: path.into(),
        }]);
    }
    hub::resolve(&source.parse()?, hub, on_transfer)
}

fn folder(folder: &Path) -> Result<Vec<DataFile>> {
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path = entry.path();
        if FileFormat::from_extension(&path).is_some() && path.is_file() && !hub::is_metadata(&path) {
            files.push(DataFile {
                label: entry.file_name().to_string_lossy().into(),
                path,
            });
        }
    }
    if files.is_empty() {
        let problem = "the folder has no .jsonl, .json, .csv, .parquet or .txt file";
        return Err(Error::malformed(folder, "data", problem));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Hands every row of a file to `emit`.
///
/// # Errors
/// If the file cannot be read or does not follow its format; says in which line or row. Errors of `emit` pass through.
pub fn read_rows(path: &Path, emit: &mut Emit<'_>) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut head = Vec::new();
    file.by_ref()
        .take(4096)
        .read_to_end(&mut head)
        .map_err(Error::io("read", path))?;
    file.rewind().map_err(Error::io("read", path))?;
    let sniffed = FileFormat::sniff(path, &head)?;
    let mut reader = BufReader::with_capacity(1 << 20, &file);
    match FileFormat::from_extension(path).unwrap_or(sniffed) {
        FileFormat::Jsonl => parse_jsonl(path, reader, emit),
        FileFormat::Json => {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
            parse_json(path, &bytes, emit)
        }
        FileFormat::Csv => parse_csv(path, reader, emit),
        FileFormat::Parquet => parse_parquet(path, file, emit),
        FileFormat::Text => parse_text(path, reader, emit),
    }
}

/// Calls `line` with each line's number and bytes, without its end and without a byte order mark.
fn for_each_line(
    path: &Path,
    mut reader: impl BufRead,
    mut line: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(Error::io("read", path))? == 0 {
            break;
        }
        let content = if number == 1 { text::without_bom(&bytes) } else { &bytes };
        line(number, content.trim_ascii_end())?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// All rows of a reader.
    pub(crate) fn collect(read: impl FnOnce(&mut Emit<'_>) -> Result<()>) -> Result<Vec<(usize, serde_json::Value)>> {
        let mut rows = Vec::new();
        read(&mut |number, row| {
            rows.push((number, row.into()));
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn a_spec_has_a_name_and_a_source() {
        let spec: DataSpec = "a-b_1.5=dir/x=y.jsonl".parse().unwrap();
        assert_eq!((spec.name.as_str(), spec.source.as_str()), ("a-b_1.5", "dir/x=y.jsonl"));
        for (text, problem) in [
            ("gsm8k", "no `=`"),
            ("a=", "nothing follows"),
            ("=b", "a name has"),
            ("a,b=c", "a name has"),
        ] {
            let error = text.parse::<DataSpec>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("NAME=FILE"), "{error}");
        }
    }

    #[test]
    fn files_are_read_by_extension_and_else_by_their_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let objects = [(1, json!({"a": "1"})), (2, json!({"a": "2"}))];
        let lines = [(1, json!({"text": "a"})), (2, json!({"text": "1"}))];
        let cases: [(&str, &str, &[_]); 9] = [
            ("x.jsonl", "{\"a\": \"1\"}\n{\"a\": \"2\"}", &objects),
            ("x.json", "[{\"a\": \"1\"}, {\"a\": \"2\"}]", &objects),
            ("lines.json", "{\"a\": \"1\"}\n{\"a\": \"2\"}", &objects),
            ("x.CSV", "a\n1\n2\n", &objects),
            ("x.txt", "a\n1\n", &lines),
            ("sniffed", "\u{feff}\n[{\"a\": \"1\"}, {\"a\": \"2\"}]", &objects),
            ("sniffed.lines", "{\"a\": \"1\"}\n{\"a\": \"2\"}", &objects),
            ("sniffed.dat", "a\n1\n", &lines),
            ("[.txt", "{\"a\"", &[(1, json!({"text": "{\"a\""}))]),
        ];
        for (name, content, expected) in cases {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            assert_eq!(collect(|emit| read_rows(&path, emit)).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn compressed_files_are_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl.gz");
        std::fs::write(&path, b"\x1f\x8b\x08\x00rest").unwrap();
        let error = read_rows(&path, &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("compressed: unpack it first (gunzip)"), "{error}");
    }

    #[test]
    fn a_folder_is_its_data_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().to_str().unwrap();
        let error = resolve(source, &HubOptions::from_env(), &|_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("no .jsonl"), "{error}");
        for name in ["b.jsonl", "a.parquet", "README.md", "dataset_infos.json"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let labels: Vec<String> = resolve(source, &HubOptions::from_env(), &|_| {})
            .unwrap()
            .iter()
            .map(|file| file.label.to_string())
            .collect();
        assert_eq!(labels, ["a.parquet", "b.jsonl"]);
    }

    #[test]
    fn a_missing_file_is_not_sought_on_the_hub() {
        let files = resolve("no/such.jsonl", &HubOptions::from_env(), &|_| {}).unwrap();
        let error = read_rows(&files[0].path, &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.starts_with("cannot open no/such.jsonl"), "{error}");
    }

    proptest! {
        #[test]
        fn no_reader_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let path = Path::new("x");
            let _ = parse_jsonl(path, bytes.as_slice(), &mut |_, _| Ok(()));
            let _ = parse_json(path, &bytes, &mut |_, _| Ok(()));
            let _ = parse_csv(path, bytes.as_slice(), &mut |_, _| Ok(()));
            let _ = parse_text(path, bytes.as_slice(), &mut |_, _| Ok(()));
        }

        /// Bytes that look more like data.
        #[test]
        fn no_reader_panics_on_almost_data(text in "[\\[\\]{}\",:\\\\a1 \n\r\u{feff}é]{0,60}") {
            let path = Path::new("x");
            let _ = parse_jsonl(path, text.as_bytes(), &mut |_, _| Ok(()));
            let _ = parse_json(path, text.as_bytes(), &mut |_, _| Ok(()));
            let _ = parse_csv(path, text.as_bytes(), &mut |_, _| Ok(()));
            let _ = parse_text(path, text.as_bytes(), &mut |_, _| Ok(()));
        }

        #[test]
        fn json_and_jsonl_agree(values in proptest::collection::vec("\\PC{0,20}", 1..10)) {
            let rows: Vec<_> = values.iter().map(|value| json!({"text": value, "n": [1, null, {"x": 0.5}]})).collect();
            let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
            let array = json!({"version": 1, "data": rows}).to_string();
            let path = Path::new("x");
            let expected: Vec<_> = (1..).zip(rows).collect();
            prop_assert_eq!(&collect(|emit| parse_jsonl(path, lines.as_bytes(), emit)).unwrap(), &expected);
            prop_assert_eq!(&collect(|emit| parse_json(path, array.as_bytes(), emit)).unwrap(), &expected);
        }
    }
}

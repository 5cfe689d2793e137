//! Parquet: Arrow columns → JSON values, a batch of rows at a time.
//!
//! Booleans, integers, floats, texts, lists, structs and dictionaries become the JSON values of the same meaning. Binary cells
//! are texts where they are UTF-8. Everything else (dates, decimals, images, maps) is null: no format reads such a field.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use ::parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    file::{metadata::ParquetMetaData, reader::ChunkReader},
};
use arrow_array::{Array, cast::AsArray, types};
use arrow_schema::DataType;
use serde_json::Value;

use super::{Emit, Row};
use crate::{Error, Result};

/// Rows of a Parquet file.
///
/// # Errors
/// If it is not Parquet, is cut off, or is compressed by a codec that is not built in.
pub fn parse_parquet<R: ChunkReader + 'static>(path: &Path, reader: R, emit: &mut Emit<'_>) -> Result<()> {
    let malformed = |problem: String| Error::malformed(path, "Parquet", problem);
    // The library panics on some damaged files; a bad file must never end the program.
    let guarded = |what: &str| malformed(format!("damaged: its {what} could not be decoded"));
    let size = reader.len();
    let builder = catch_unwind(AssertUnwindSafe(|| ParquetRecordBatchReaderBuilder::try_new(reader)))
        .map_err(|_| guarded("footer"))?
        .map_err(|e| malformed(e.to_string()))?;
    check_extents(builder.metadata(), size).map_err(malformed)?;
    let mut batches = catch_unwind(AssertUnwindSafe(|| builder.with_batch_size(1024).build()))
        .map_err(|_| guarded("schema"))?
        .map_err(|e| malformed(e.to_string()))?;
    let mut number = 0;
    while let Some(batch) = catch_unwind(AssertUnwindSafe(|| batches.next())).map_err(|_| guarded("pages"))? {
        let batch = batch.map_err(|e| malformed(format!("after row {number}: {e}")))?;
        let schema = batch.schema();
        for index in 0..batch.num_rows() {
            let cells = schema.fields().iter().zip(batch.columns());
            let row: Row = cells
                .map(|(field, column)| (field.name().clone(), cell(column, index)))
                .collect();
            number += 1;
            emit(number, row)?;
        }
    }
    Ok(())
}

/// Whether every column chunk lies inside of the file: the library allocates what the footer claims before it reads.
fn check_extents(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    for (index, group) in metadata.row_groups().iter().enumerate() {
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let length = column.compressed_size();
            let end = u64::try_from(start)
                .ok()
                .zip(u64::try_from(length).ok())
                .and_then(|(a, b)| a.checked_add(b));
            if end.is_none_or(|end| end > size) {
                let name = column.column_path();
                return Err(format!(
                    "column `{name}` of row group {index} claims {length} bytes at {start}, the file has {size}"
                ));
            }
        }
    }
    Ok(())
}

fn cell(array: &dyn Array, index: usize) -> Value {
    macro_rules! number {
        ($type:ident) => {
            array.as_primitive::<types::$type>().value(index).into()
        };
    }
    if array.is_null(index) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(index).into(),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => array.as_primitive::<types::Float16Type>().value(index).to_f64().into(),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => array.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(index).into(),
        DataType::Utf8View => array.as_string_view().value(index).into(),
        DataType::Binary => utf8(array.as_binary::<i32>().value(index)),
        DataType::LargeBinary => utf8(array.as_binary::<i64>().value(index)),
        DataType::List(_) => items(&array.as_list::<i32>().value(index)),
        DataType::LargeList(_) => items(&array.as_list::<i64>().value(index)),
        DataType::FixedSizeList(..) => items(&array.as_fixed_size_list().value(index)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let members = fields.iter().zip(columns);
            Value::Object(
                members
                    .map(|(field, column)| (field.name().clone(), cell(column, index)))
                    .collect(),
            )
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = cell(dictionary.keys(), index)
                .as_u64()
                .and_then(|key| usize::try_from(key).ok());
            key.map_or(Value::Null, |key| cell(dictionary.values(), key))
        }
        _ => Value::Null,
    }
}

fn items(array: &dyn Array) -> Value {
    (0..array.len()).map(|index| cell(array, index)).collect()
}

fn utf8(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or(Value::Null, Into::into)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::collect, *};
    use ::parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
    use arrow_array::{
        ArrayRef, BinaryArray, Date32Array, DictionaryArray, Float32Array, Float64Array, Int64Array, LargeStringArray,
        ListArray, RecordBatch, StringArray, StructArray, types::Int32Type,
    };
    use arrow_schema::Field;
    use proptest::prelude::*;
    use serde_json::json;
    use std::{io::Write, sync::Arc};

    fn write(columns: Vec<(&str, ArrayRef)>, compression: Compression) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Vec<(usize, Value)>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        collect(|emit| parse_parquet(Path::new("x.parquet"), file, emit))
    }

    fn example(compression: Compression) -> Vec<u8> {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("Why?"), None]));
        let choices = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let inner = StructArray::from(vec![(
            Arc::new(Field::new("content", DataType::Utf8, true)),
            texts.clone(),
        )]);
        let dictionary: DictionaryArray<Int32Type> = ["x", "y"].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("question", texts),
            ("large", Arc::new(LargeStringArray::from(vec!["é", ""]))),
            ("answer", Arc::new(Int64Array::from(vec![i64::MIN, 3]))),
            ("half", Arc::new(Float32Array::from(vec![0.5, f32::NAN]))),
            ("score", Arc::new(Float64Array::from(vec![0.1, -2.0]))),
            ("choices", Arc::new(choices)),
            ("turn", Arc::new(inner)),
            ("subject", Arc::new(dictionary)),
            ("bytes", Arc::new(BinaryArray::from(vec![b"ok".as_slice(), b"\xff"]))),
            ("date", Arc::new(Date32Array::from(vec![1, 2]))),
        ];
        write(columns, compression)
    }

    fn example_rows() -> [(usize, Value); 2] {
        [
            (
                1,
                json!({"question": "Why?", "large": "é", "answer": i64::MIN, "half": 0.5, "score": 0.1,
                       "choices": [1, null], "turn": {"content": "Why?"}, "subject": "x", "bytes": "ok", "date": null}),
            ),
            (
                2,
                json!({"question": null, "large": "", "answer": 3, "half": null, "score": -2.0, "choices": null,
                       "turn": {"content": null}, "subject": "y", "bytes": null, "date": null}),
            ),
        ]
    }

    #[test]
    fn columns_become_json() {
        for codec in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(Default::default()),
        ] {
            assert_eq!(parse(&example(codec)).unwrap(), example_rows(), "{codec}");
        }
    }

    #[test]
    fn rows_are_counted_across_batches() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(1..=3000));
        let rows = parse(&write(vec![("n", numbers)], Compression::UNCOMPRESSED)).unwrap();
        let expected: Vec<_> = (1..=3000).map(|n| (n, json!({"n": n}))).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn what_is_not_parquet_is_refused() {
        let bytes = example(Compression::SNAPPY);
        let cut = &bytes[..bytes.len() / 2];
        for bytes in [b"".as_slice(), b"PAR1", b"{\"a\": 1}", cut] {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.starts_with("x.parquet: not a valid Parquet file: "), "{error}");
        }
    }

    #[test]
    fn a_footer_that_claims_more_than_the_file_is_refused() {
        let bytes = example(Compression::UNCOMPRESSED);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let metadata = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .metadata()
            .clone();
        let size = bytes.len() as u64;
        assert_eq!(check_extents(&metadata, size), Ok(()));
        let error = check_extents(&metadata, 40).unwrap_err();
        assert!(
            error.contains("row group 0 claims") && error.ends_with("the file has 40"),
            "{error}"
        );
    }

    proptest! {
        /// Damage of a few bytes may go unnoticed in the values, but never panics.
        #[test]
        fn damage_never_panics(damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
            let mut bytes = example(Compression::UNCOMPRESSED);
            for (index, byte) in damage {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = parse(&bytes);
        }
    }
}

//! Records as tables: CSV (the contract other tools read) and Parquet (the same, typed).

use crate::{Error, Result, atomic::write_atomic};
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{Field, Schema};
use parquet::{arrow::ArrowWriter, basic::Compression, errors::ParquetError, file::properties::WriterProperties};
use serde::{Serialize, de::DeserializeOwned};
use std::{fs::File, io::Write, path::Path, sync::Arc};

/// Writes `rows` under `columns`, the names of their fields; the header is there even when no row is.
pub(crate) fn write_csv<R: Serialize>(path: &Path, out: impl Write, columns: &[&str], rows: &[R]) -> Result<()> {
    let failed = |error: csv::Error| Error::io("write", path)(error.into());
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    writer.write_record(columns).map_err(failed)?;
    for row in rows {
        writer.serialize(row).map_err(failed)?;
    }
    writer.flush().map_err(Error::io("write", path))
}

/// Reads a table that [`write_csv`] wrote; the header must be exactly `columns`.
pub(crate) fn read_csv<R: DeserializeOwned>(path: &Path, columns: &[&str]) -> Result<Vec<R>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let malformed = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(source) => Error::io("read", path)(source),
        csv::ErrorKind::Deserialize { pos, err } => {
            let line = pos.map_or(0, |pos| pos.line());
            let column = err
                .field()
                .and_then(|field| columns.get(field as usize))
                .unwrap_or(&"?");
            Error::malformed(path, "CSV", format!("line {line}, column `{column}`: {}", err.kind()))
        }
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |pos| pos.line());
            Error::malformed(
                path,
                "CSV",
                format!("line {line} has {len} fields, expected {expected_len}"),
            )
        }
        kind => Error::malformed(path, "CSV", format!("{kind:?}")),
    };
    let mut reader = csv::Reader::from_reader(file);
    let header = reader.headers().map_err(malformed)?;
    if header != columns {
        let got = header.iter().collect::<Vec<_>>().join(",");
        let expected = columns.join(",");
        return Err(Error::malformed(
            path,
            "CSV",
            format!("the header is `{got}`, expected `{expected}`"),
        ));
    }
    reader.into_deserialize().map(|row| row.map_err(malformed)).collect()
}

/// What a column of a [`Row`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Text, never null.
    Text,
    /// A count, never null.
    Count,
    /// A count or null.
    MaybeCount,
    /// A number, never null.
    Number,
    /// A number or null.
    MaybeNumber,
}

/// A value of such a column.
pub(crate) enum Value<'a> {
    /// Of [`Column::Text`].
    Text(&'a str),
    /// Of the columns of counts.
    Count(Option<u64>),
    /// Of the columns of numbers.
    Number(Option<f64>),
}

/// A line of a table that is written as CSV and as Parquet.
pub(crate) trait Row: Serialize {
    /// Names of the columns, in the order of the fields, and what they hold.
    const COLUMNS: &'static [(&'static str, Column)];

    /// The value of a column.
    fn value(&self, column: usize) -> Value<'_>;

    /// The header.
    fn header() -> Vec<&'static str> {
        Self::COLUMNS.iter().map(|(name, _)| *name).collect()
    }
}

/// Writes `rows` as one Parquet table.
pub(super) fn write_parquet<R: Row>(path: &Path, out: impl Write + Send, rows: &[R]) -> Result<()> {
    let failed = |error: ParquetError| Error::io("write", path)(refused_by(error));
    let batch = record_batch(rows);
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties)).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.close().map_err(failed)?;
    Ok(())
}

/// The system's answer, if it was that: what a full disk says is not to be lost.
fn refused_by(error: ParquetError) -> std::io::Error {
    match error {
        ParquetError::External(source) => source
            .downcast()
            .map_or_else(std::io::Error::other, |answer: Box<std::io::Error>| *answer),
        other => std::io::Error::other(other),
    }
}

/// The columns as Arrow arrays.
fn record_batch<R: Row>(rows: &[R]) -> RecordBatch {
    let array = |(index, (_, column)): (usize, &(&str, Column))| -> ArrayRef {
        let values = rows.iter().map(|row| row.value(index));
        match column {
            Column::Text => Arc::new(StringArray::from_iter(values.map(|value| match value {
                Value::Text(text) => Some(text),
                _ => None,
            }))),
            Column::Count | Column::MaybeCount => Arc::new(UInt64Array::from_iter(values.map(|value| match value {
                Value::Count(count) => count,
                _ => None,
            }))),
            Column::Number | Column::MaybeNumber => {
                Arc::new(Float64Array::from_iter(values.map(|value| match value {
                    Value::Number(number) => number,
                    _ => None,
                })))
            }
        }
    };
    let arrays: Vec<ArrayRef> = R::COLUMNS.iter().enumerate().map(array).collect();
    let nullable = |column: &Column| matches!(column, Column::MaybeCount | Column::MaybeNumber);
    let fields: Vec<Field> = R::COLUMNS
        .iter()
        .zip(&arrays)
        .map(|((name, column), array)| Field::new(*name, array.data_type().clone(), nullable(column)))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .expect("invariant: every column has one entry per row, and a null only where its kind allows one")
}

/// Writes `rows` as `NAME.csv` and `NAME.parquet` in `dir`, each atomically.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write_table<R: Row + Sync>(dir: &Path, name: &str, rows: &[R]) -> Result<()> {
    let csv = dir.join(format!("{name}.csv"));
    write_atomic(&csv, |out| write_csv(&csv, out, &R::header(), rows))?;
    let parquet = dir.join(format!("{name}.parquet"));
    write_atomic(&parquet, |out| write_parquet(&parquet, out, rows))
}

#[cfg(test)]
mod tests {
    use super::{super::Record, *};
    use arrow_array::{Array, cast::AsArray, types};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = Option<f64>> {
        use proptest::num::f64::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
        proptest::option::of(POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE)
    }

    prop_compose! {
        fn record()(
            model in "\\PC{0,8}", reference in "[a-z,\"\r\n ]{0,6}", dataset in "[0-9a-z]{0,4}", metric in "[a-z_]{1,6}",
            layer in 0usize..200, depth in 0.0f64..1.0, value in number(), lo in number(), hi in number(), floor in number(),
        ) -> Record {
            Record { model, reference, dataset, metric, layer, depth, value, lo, hi, floor }
        }
    }

    fn from_parquet(path: &Path) -> Vec<Record> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap())
            .unwrap()
            .build()
            .unwrap();
        let mut records = Vec::new();
        for batch in reader.map(Result::unwrap) {
            let names: Vec<_> = batch
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect();
            assert_eq!(names, Record::header());
            let text = |column: usize, row| batch.column(column).as_string::<i32>().value(row).to_string();
            let number = |column: usize, row| {
                let column = batch.column(column).as_primitive::<types::Float64Type>();
                column.is_valid(row).then(|| column.value(row))
            };
            records.extend((0..batch.num_rows()).map(|row| Record {
                model: text(0, row),
                reference: text(1, row),
                dataset: text(2, row),
                metric: text(3, row),
                layer: batch.column(4).as_primitive::<types::UInt64Type>().value(row) as usize,
                depth: number(5, row).unwrap(),
                value: number(6, row),
                lo: number(7, row),
                hi: number(8, row),
                floor: number(9, row),
            }));
        }
        records
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn csv_and_parquet_read_back_bit_for_bit(records in proptest::collection::vec(record(), 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            let csv = folder.path().join("metrics.csv");
            write_csv(&csv, File::create(&csv).unwrap(), &Record::header(), &records).unwrap();
            let back: Vec<Record> = read_csv(&csv, &Record::header()).unwrap();
            prop_assert_eq!(&back, &records);
            let bits = |records: &[Record]| records.iter().map(|r| (r.depth.to_bits(), r.value.map(f64::to_bits))).collect::<Vec<_>>();
            prop_assert_eq!(bits(&back), bits(&records));

            let parquet = folder.path().join("metrics.parquet");
            write_parquet(&parquet, File::create(&parquet).unwrap(), &records).unwrap();
            let back = from_parquet(&parquet);
            prop_assert_eq!(&back, &records);
            prop_assert_eq!(bits(&back), bits(&records));
        }
    }

    #[test]
    fn the_header_is_the_contract() {
        let mut out = Vec::new();
        write_csv::<Record>(Path::new("x"), &mut out, &Record::header(), &[]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "model,reference,dataset,metric,layer,depth,value,lo,hi,floor\n"
        );
    }

    #[test]
    fn a_bad_number_is_named_by_line_and_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.csv");
        let good = "base,,gsm8k,gini,0,0.0,0.5,,,\n";
        let header = "model,reference,dataset,metric,layer,depth,value,lo,hi,floor\n";
        std::fs::write(&path, format!("{header}{good}{}", good.replace("0.5", "half"))).unwrap();
        let message = read_csv::<Record>(&path, &Record::header()).unwrap_err().to_string();
        assert!(message.contains("line 3, column `value`"), "{message}");

        std::fs::write(&path, format!("{header}base,,gsm8k\n")).unwrap();
        let message = read_csv::<Record>(&path, &Record::header()).unwrap_err().to_string();
        assert!(message.contains("line 2 has 3 fields, expected 10"), "{message}");

        std::fs::write(&path, "model,value\nbase,1\n").unwrap();
        let message = read_csv::<Record>(&path, &Record::header()).unwrap_err().to_string();
        assert!(
            message.contains("the header is `model,value`, expected `model,reference"),
            "{message}"
        );
    }
}

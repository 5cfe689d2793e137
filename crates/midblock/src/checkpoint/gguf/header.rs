//! The container: metadata and tensor directory of a GGUF file, every length checked against the bytes that are there.
//!
//! ```text
//! "GGUF"  version u32 (2 or 3)  tensors u64  keys u64
//! keys    × { name string, kind u32, value }                       string = length u64, bytes
//! tensors × { name string, dims u32, dims × u64, type u32, offset u64 }   innermost dimension first
//! padding to `general.alignment` (32), then the tensors at their offsets, each a multiple of the alignment
//! ```
//!
//! All numbers are little endian. Nothing is allocated for a count before as many bytes were read, and nothing is copied:
//! strings and arrays borrow the file. Format: ggml, `docs/gguf.md`.

use super::metadata::{Metadata, Value, scalar, scalar_size};
use crate::{Error, Result};
use midblock_kernels::Dtype;
use std::{collections::BTreeMap, ops::Range, path::Path};

pub(super) const FORMAT: &str = "GGUF";

/// A tensor of the directory, its place in the file checked.
#[derive(Debug)]
pub(super) struct Info<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub range: Range<usize>,
}

/// Reads metadata and directory.
pub(super) fn read<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<(Metadata<'a>, Vec<Info<'a>>)> {
    let mut reader = Reader { path, bytes, at: 0 };
    if reader.take(4, "the magic")? != b"GGUF" {
        return Err(reader.malformed("it does not begin with \"GGUF\""));
    }
    match reader.u32("the version")? {
        2 | 3 => {}
        version if version.trailing_zeros() >= 16 && version != 0 => {
            return Err(reader.malformed("it is big-endian, only little-endian files are read"));
        }
        version => return Err(reader.malformed(format!("version {version} is not supported, expected 2 or 3"))),
    }
    let tensors = reader.u64("the number of tensors")?;
    let keys = reader.u64("the number of keys")?;
    let mut values = BTreeMap::new();
    for _ in 0..keys {
        let key = reader.text("a key")?;
        let value = reader.value(key)?;
        if values.insert(key, value).is_some() {
            return Err(reader.malformed(format!("key `{key}` occurs twice")));
        }
    }
    let metadata = Metadata { path, values };
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(reader.info()?);
    }
    place(&reader, &metadata, &mut infos)?;
    Ok((metadata, infos))
}

/// Turns offsets into ranges of the file: inside of it, aligned, without overlap.
fn place(reader: &Reader<'_>, metadata: &Metadata<'_>, infos: &mut [Info<'_>]) -> Result<()> {
    let alignment = match metadata.uint("general.alignment")? {
        None => 32,
        Some(n) if n.is_power_of_two() && n <= 1 << 20 => n as usize,
        Some(n) => return Err(metadata.unsupported("general.alignment", "a power of two up to 2^20", n, "")),
    };
    let start = reader.at.next_multiple_of(alignment);
    for Info { name, range, .. } in &mut *infos {
        let end = start
            .checked_add(range.end)
            .filter(|end| *end <= reader.bytes.len())
            .ok_or_else(|| {
                reader.malformed(format!(
                    "tensor `{name}` takes bytes {} to {} of the data, which begins at {start} of {} bytes: truncated?",
                    range.start,
                    range.end,
                    reader.bytes.len()
                ))
            })?;
        if range.start % alignment != 0 {
            let offset = range.start;
            return Err(reader.malformed(format!("tensor `{name}` is at {offset}, not a multiple of {alignment}")));
        }
        *range = start + range.start..end;
    }
    let mut order: Vec<&Info<'_>> = infos.iter().collect();
    order.sort_by_key(|info| info.range.start);
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => Err(reader.malformed(format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name))),
        None => Ok(()),
    }
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, FORMAT, problem)
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or_else(|| {
            self.malformed(format!(
                "{what} at byte {} needs {len} bytes, {} are left",
                self.at,
                rest.len()
            ))
        })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let taken = self.take(N, what)?;
        Ok(*taken.first_chunk().expect("invariant: N bytes were taken"))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length or extent that must fit into memory.
    fn length(&mut self, what: &str) -> Result<usize> {
        let length = self.u64(what)?;
        usize::try_from(length).map_err(|_| self.malformed(format!("{what} is {length}")))
    }

    fn text(&mut self, what: &str) -> Result<&'a str> {
        let len = self.length(what)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|error| self.malformed(format!("{what} is not UTF-8: {error}")))
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>> {
        let what = &format!("the value of `{key}`");
        match self.u32(what)? {
            8 => Ok(Value::Text(self.text(what)?)),
            9 => {
                let kind = self.u32(what)?;
                let len = self.length(what)?;
                if kind == 8 {
                    return (0..len)
                        .map(|_| self.text(what))
                        .collect::<Result<_>>()
                        .map(Value::Texts);
                }
                let size = scalar_size(kind).ok_or_else(|| {
                    self.malformed(format!(
                        "{what} is an array of elements of kind {kind}, expected numbers or strings"
                    ))
                })?;
                let bytes = self.take(len.saturating_mul(size), what)?;
                Ok(Value::Scalars(kind, bytes))
            }
            kind => match scalar_size(kind) {
                Some(size) => Ok(scalar(kind, self.take(size, what)?)),
                None => Err(self.malformed(format!("{what} is of kind {kind}, which the format does not define"))),
            },
        }
    }

    /// A directory entry; its range is still relative to the start of the data.
    fn info(&mut self) -> Result<Info<'a>> {
        let name = self.text("the name of a tensor")?;
        let what = &format!("the description of tensor `{name}`");
        let dims = self.u32(what)?;
        if !(1..=4).contains(&dims) {
            return Err(self.malformed(format!("tensor `{name}` has {dims} dimensions, expected 1 to 4")));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(self.length(what)?);
        }
        let dtype = dtype(self.u32(what)?).map_err(|kind| {
            let readable = Dtype::ALL.map(|dtype| dtype.to_string()).join(", ");
            self.malformed(format!(
                "tensor `{name}` is stored as {kind}, which is not supported; supported are {readable}\n  \
                 help: take a file in one of these, such as Q8_0 or Q4_K_M"
            ))
        })?;
        let len = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        let bytes = (shape[0] % dtype.block_len() == 0)
            .then(|| dtype.bytes_for(len?))
            .flatten();
        let start = self.length(what)?;
        let end = bytes
            .filter(|bytes| *bytes > 0)
            .and_then(|bytes| start.checked_add(bytes))
            .ok_or_else(|| {
                self.malformed(format!(
                    "tensor `{name}` of type {dtype} cannot have the dimensions {shape:?} at {start}"
                ))
            })?;
        shape.reverse();
        let range = start..end;
        Ok(Info {
            name,
            dtype,
            shape,
            range,
        })
    }
}

/// The storage format behind a ggml type number, or what to call it if it is not supported.
fn dtype(number: u32) -> Result<Dtype, String> {
    Ok(match number {
        0 => Dtype::F32,
        1 => Dtype::F16,
        2 => Dtype::Q4_0,
        3 => Dtype::Q4_1,
        6 => Dtype::Q5_0,
        7 => Dtype::Q5_1,
        8 => Dtype::Q8_0,
        12 => Dtype::Q4_K,
        13 => Dtype::Q5_K,
        14 => Dtype::Q6_K,
        28 => Dtype::F64,
        30 => Dtype::BF16,
        _ => {
            let name = match number {
                9 => "Q8_1",
                10 => "Q2_K",
                11 => "Q3_K",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                24..=27 => "integers",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => "an unknown type",
            };
            return Err(format!("{name} (ggml type {number})"));
        }
    })
}

//! One safetensors file, written tensor by tensor: the header follows from names, formats and shapes, so that only one
//! tensor's values are in memory at a time.

use crate::{Error, Result, atomic::write_atomic};
use half::{bf16, f16};
use midblock_kernels::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::{
    collections::HashMap,
    io::{self, Write},
    path::Path,
};

/// What a header says of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declared {
    pub(crate) name: String,
    /// F32, F16 or BF16.
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

impl Declared {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in the file.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * self.dtype.block_bytes()
    }
}

/// Creates or replaces the file `path`, atomically. `values` gives the elements of a tensor when its turn comes.
///
/// # Panics
/// If `values` gives another number of elements than declared, or two tensors have the same name.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[Declared],
    values: impl FnMut(&Declared) -> Result<Vec<f32>>,
) -> Result<()> {
    let for_transformers = ("format", "pt"); // it looks for the framework
    write_noted(path, tensors, for_transformers, values)
}

/// [`write_tensors`] with an entry of the header's metadata, key and text. There is one, so that the same content is the same bytes: the
/// order of several is not defined.
///
/// # Panics
/// As there.
pub(crate) fn write_noted(
    path: &Path,
    tensors: &[Declared],
    note: (&str, &str),
    mut values: impl FnMut(&Declared) -> Result<Vec<f32>>,
) -> Result<()> {
    let header = header(tensors, note);
    write_atomic(path, |out| {
        let failed = Error::io("write", path);
        let length = (header.len() as u64).to_le_bytes();
        out.write_all(&length)
            .and_then(|()| out.write_all(&header))
            .map_err(failed)?;
        for tensor in tensors {
            let values = values(tensor)?;
            assert_eq!(
                values.len(),
                tensor.len(),
                "elements of `{}` {:?}",
                tensor.name,
                tensor.shape
            );
            write_values(out, tensor.dtype, &values).map_err(Error::io("write", path))?;
        }
        Ok(())
    })
}

/// The JSON header, padded with spaces to a multiple of 8 bytes.
fn header(tensors: &[Declared], (key, text): (&str, &str)) -> Vec<u8> {
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += tensor.bytes();
        let info = TensorInfo {
            dtype: stored_as(tensor.dtype),
            shape: tensor.shape.clone(),
            data_offsets: (start, end),
        };
        (tensor.name.clone(), info)
    });
    let infos = infos.collect();
    let metadata = HashMap::from([(key.to_owned(), text.to_owned())]);
    let metadata = Metadata::new(Some(metadata), infos).expect("invariant: offsets follow from the shapes");
    let mut header = serde_json::to_vec(&metadata).expect("invariant: names and numbers are always JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

fn stored_as(dtype: Dtype) -> safetensors::Dtype {
    match dtype {
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::F16 => safetensors::Dtype::F16,
        Dtype::BF16 => safetensors::Dtype::BF16,
        other => panic!("invariant: weights are written as f32, f16 or bf16, not {other}"),
    }
}

/// Rounds to nearest, ties to even; little endian.
fn write_values(out: &mut impl Write, dtype: Dtype, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * CHUNK);
    for chunk in values.chunks(CHUNK) {
        bytes.clear();
        match dtype {
            Dtype::F16 => bytes.extend(chunk.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Dtype::BF16 => bytes.extend(chunk.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            _ => bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes())),
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Elements converted at a time.
const CHUNK: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{TensorSource, shards::Shards};

    fn declared(name: &str, dtype: Dtype, shape: &[usize]) -> Declared {
        Declared {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn what_is_written_reads_back_rounded_to_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensors = [
            declared("z", Dtype::BF16, &[3]), // an odd number of bytes before the f32 tensor
            declared("a", Dtype::F32, &[2, 2]),
            declared("m", Dtype::F16, &[1, 2]),
            declared("long", Dtype::BF16, &[CHUNK + 1]),
        ];
        // 1 + 2⁻⁸ lies between two bf16 numbers, both as near: the even one is 1.0
        let odd = [1.0 + 1.0 / 256.0, -1.5, f32::INFINITY, 0.1];
        write_tensors(&path, &tensors, |t| {
            Ok(odd.iter().copied().cycle().take(t.len()).collect())
        })
        .unwrap();
        let shards = Shards::open(&[path]).unwrap();
        let read = |name: &str| shards.get(name).unwrap().unwrap().to_f32();
        assert_eq!(shards.names(), ["a", "long", "m", "z"]);
        assert_eq!(shards.describe("a"), Some((Dtype::F32, [2, 2].as_slice())));
        assert_eq!(read("a"), odd);
        assert_eq!(read("z"), [1.0, -1.5, f32::INFINITY]);
        assert_eq!(read("m"), odd[..2]);
        assert_eq!((read("long")[CHUNK], read("long")[3]), (1.0, 0.100_097_656));
    }

    #[test]
    fn a_failure_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let failed = write_tensors(&path, &[declared("a", Dtype::F32, &[2])], |_| Err(Error::Interrupted));
        assert!(matches!(failed, Err(Error::Interrupted)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

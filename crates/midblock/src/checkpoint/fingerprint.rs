//! Which bytes exactly a result was computed from: the BLAKE3 hash of every file.

use super::Checkpoint;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// Bytes that are hashed together.
const PART: usize = 4 << 20;

/// A file and the hash of its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// 64 hexadecimal digits, those of `b3sum`.
    pub blake3: String,
}

impl FileHash {
    /// Hashes a file on all cores, a part of it in memory at a time.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let mut hasher = blake3::Hasher::new();
        let mut part = Vec::with_capacity(PART);
        loop {
            part.clear();
            let read = (&mut file).take(PART as u64).read_to_end(&mut part);
            if read.map_err(Error::io("read", path))? == 0 {
                break;
            }
            hasher.update_rayon(&part);
        }
        Ok(Self {
            path: path.to_path_buf(),
            bytes: hasher.count(),
            blake3: hasher.finalize().to_hex().to_string(),
        })
    }
}

/// One hash of several files' content, in their order.
pub(crate) fn digest(files: &[FileHash]) -> String {
    let mut hasher = blake3::Hasher::new();
    files.iter().for_each(|file| _ = hasher.update(file.blake3.as_bytes()));
    hasher.finalize().to_hex().to_string()
}

impl Checkpoint {
    /// Hashes every file of [`files`](Self::files), in that order. Reads all weights once.
    ///
    /// # Errors
    /// [`Error::Io`] if one cannot be read.
    pub fn fingerprint(&self) -> Result<Vec<FileHash>> {
        self.files().iter().map(|path| FileHash::of(path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_b3sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let expected = FileHash {
            path: path.clone(),
            bytes: 3,
            blake3: "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85".into(),
        };
        assert_eq!(FileHash::of(&path).unwrap(), expected);
    }

    #[test]
    fn a_file_of_several_parts_is_hashed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content: Vec<u8> = (0..2 * PART + 77).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let hash = FileHash::of(&path).unwrap();
        assert_eq!(hash.bytes, content.len() as u64);
        assert_eq!(hash.blake3, blake3::hash(&content).to_hex().to_string());
    }
}

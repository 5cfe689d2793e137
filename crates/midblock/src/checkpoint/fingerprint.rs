//! Which bytes exactly a result was computed from: the BLAKE3 hash of every file.

use super::Checkpoint;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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
    /// Hashes a file on all cores.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path).map_err(Error::io("read", path))?;
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
}

//! A file as bytes, without reading it: the operating system brings in pages when they are touched.
//!
//! Mapped pages belong to the page cache and not to the process: they do not count as private memory and the system may
//! drop them at any time. This is the only place of the crate with `unsafe`.

use crate::{Error, Result};
use memmap2::Mmap;
use std::{fs::File, ops::Range, path::Path, sync::Arc};

/// A read-only, shared memory map of a whole file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`; nothing is read yet.
    #[allow(unsafe_code)]
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is read-only. What cannot be ruled out is another process that changes or shortens the file
        // meanwhile; then numbers change or the process is stopped by SIGBUS, as with every reader of mapped weights.
        // Writers of this crate and of the Hugging Face cache replace files by renaming, which leaves maps intact.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Arc::new(Self { map }))
    }

    /// Takes the pages of `range` out of the process's resident set; the next access maps them again.
    #[cfg(unix)]
    #[allow(unsafe_code)]
    pub(crate) fn release(&self, range: &Range<usize>) {
        // SAFETY: `MADV_DONTNEED` on a shared, read-only file map changes no content: a later access, by anyone who
        // holds the bytes, faults the same file page in again. Failure only means that the pages stay.
        let released = unsafe {
            self.map
                .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
        if let Err(error) = released {
            tracing::debug!(%error, ?range, "pages were not released");
        }
    }

    /// Does nothing: there is no such advice on this system.
    #[cfg(not(unix))]
    pub(crate) fn release(&self, _range: &Range<usize>) {}
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let content: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        assert_eq!((*mapped).as_ref(), content);
        mapped.release(&(5_000..290_000)); // not on page boundaries
        assert_eq!((*mapped).as_ref(), content);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = MappedFile::open(Path::new("/nowhere/model.safetensors")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot open /nowhere/model.safetensors: "),
            "{error}"
        );
    }
}

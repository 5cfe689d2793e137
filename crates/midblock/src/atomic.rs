//! A file appears complete or not at all: written under a temporary name in the same folder, synced, renamed.

use crate::{Error, Result};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};
use tempfile::NamedTempFile;

/// Creates or replaces `path` with what `fill` writes. On any error `path` is as it was before.
pub(crate) fn write_atomic(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary =
        NamedTempFile::with_prefix_in(".partial-", folder).map_err(Error::io("create a file in", folder))?;
    let mut writer = BufWriter::new(temporary.as_file());
    fill(&mut writer)?;
    writer.flush().map_err(Error::io("write", path))?;
    drop(writer);
    make_readable(temporary.as_file()).map_err(Error::io("set the permissions of", path))?;
    temporary.as_file().sync_all().map_err(Error::io("sync", path))?;
    temporary
        .persist(path)
        .map_err(|error| Error::io("rename to", path)(error.error))?;
    sync_folder(folder)
}

/// Temporary files are private to their owner; results are as readable as any other file.
#[cfg(unix)]
fn make_readable(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> std::io::Result<()> {
    Ok(())
}

/// Makes the rename itself survive a power cut, where the system can.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(Error::io("sync", folder))
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_failure_halfway_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        fs::write(&path, "old").unwrap();
        let result = write_atomic(&path, |writer| {
            writer.write_all(b"half of the new").unwrap();
            Err(Error::Interrupted)
        });
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn success_replaces_the_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        fs::write(&path, "something longer").unwrap();
        write_atomic(&path, |writer| {
            writer.write_all(b"new").map_err(Error::io("write", &path))
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

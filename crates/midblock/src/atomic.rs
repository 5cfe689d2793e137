//! A file appears complete or not at all: written under a temporary name in the same folder, synced, renamed.
//!
//! A process that is killed leaves the temporary file. Whoever next works in the folder removes it: [`remove_leftovers`].

use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Write},
    path::Path,
};
use tempfile::NamedTempFile;

/// How names of what is not complete begin.
pub(crate) const PARTIAL: &str = ".partial-";

/// Creates or replaces `path` with what `fill` writes. On any error `path` is as it was before.
pub(crate) fn write_atomic(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = NamedTempFile::with_prefix_in(PARTIAL, folder).map_err(Error::io("create a file in", folder))?;
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

/// Removes what killed processes left in a folder, files and folders. Only for whom no other process can be at work there.
pub(crate) fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))?.flatten() {
        if is_partial(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether a name is that of something that is not complete.
pub(crate) fn is_partial(name: &str) -> bool {
    name.starts_with(PARTIAL)
}

/// Removes a file or a folder with all that is in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed: io::Result<()> = if is_folder {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Temporary files are private to their owner; results are as readable as any other file.
#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> io::Result<()> {
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
    fn leftovers_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path(".partial-model/deep")).unwrap();
        fs::write(path(".partial-model/deep/file"), "x").unwrap();
        fs::write(path(".partial-1"), "x").unwrap();
        fs::write(path("partial"), "x").unwrap();
        remove_leftovers(folder.path()).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["partial"]);
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

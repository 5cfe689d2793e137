//! One process at a time works in a folder: it holds a lock, which the system takes back however the process ends.

use crate::{Error, Result};
use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

/// Name of the locked file.
pub(crate) const NAME: &str = ".lock";

/// Locks a folder for as long as the file is open.
pub(crate) fn take(dir: &Path) -> Result<File> {
    let path = dir.join(NAME);
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Argument {
            what: "--out".into(),
            value: dir.display().to_string(),
            problem: "another process is at work there".into(),
            help: "wait for it, or name another folder".into(),
        }),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

/// Removes the file's name; the lock itself is held on.
pub(crate) fn remove_name(dir: &Path) -> Result<()> {
    let path = dir.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

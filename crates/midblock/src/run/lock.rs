//! One process at a time works in a folder: it holds a lock, which the system takes back however the process ends.

use crate::{Error, Result};
use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a lock is waited for: a child that is being started has its parent's files until it becomes another program, so that a lock
/// may outlive whoever let go of it by a moment.
const PATIENCE: Duration = Duration::from_millis(500);

/// Name of the locked file.
pub(crate) const NAME: &str = ".lock";

/// Locks a folder for as long as the file is open. Some file systems of clusters know no locks; there nothing is locked.
pub(crate) fn take(dir: &Path) -> Result<File> {
    let path = dir.join(NAME);
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    let start = Instant::now();
    let mut locked = file.try_lock();
    while matches!(locked, Err(TryLockError::WouldBlock)) && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(10));
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            tracing::warn!(path = %path.display(), "the file system knows no locks");
            Ok(file)
        }
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
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

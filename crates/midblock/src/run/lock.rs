//! One process at a time works in a folder: it holds a lock, which the system takes back however the process ends.

use crate::{
    Error, Result,
    atomic::{is_partial, remove_leftovers},
};
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

/// Creates a folder, or takes one that is empty or holds a file called `begun`, and locks it; what a killed process left is removed.
///
/// # Errors
/// [`Error::Argument`] if something else is there, or another process is at work; [`Error::Io`].
pub(crate) fn claim(dir: &Path, begun: &str) -> Result<File> {
    let refuse = |problem: String, help: &str| Error::Argument {
        what: "--out".into(),
        value: dir.display().to_string(),
        problem,
        help: help.into(),
    };
    if dir.exists() && !dir.is_dir() {
        return Err(refuse("there is a file of that name".into(), "name a new folder"));
    }
    if dir.is_dir() && !dir.join(begun).is_file() {
        let mut entries = fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten();
        let ours = |name: &str| name == NAME || is_partial(name);
        if let Some(entry) = entries.find(|entry| !ours(&entry.file_name().to_string_lossy())) {
            let problem = format!("the folder holds something else: {}", entry.file_name().display());
            return Err(refuse(problem, "name a new or empty folder"));
        }
    }
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let lock = take(dir)?;
    remove_leftovers(dir)?;
    Ok(lock)
}

/// Removes the file's name; the lock itself is held on.
pub(crate) fn remove_name(dir: &Path) -> Result<()> {
    let path = dir.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

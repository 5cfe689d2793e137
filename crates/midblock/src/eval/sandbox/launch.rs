//! One process and all its descendants, from start to certain end.

use super::{Limits, Sandbox};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How it ended.
pub(super) enum End {
    /// By itself: the exit code, 128 + n after signal n.
    Code(i32),
    /// Killed at the time limit.
    WallClock,
    /// Killed for what it wrote to standard output or error.
    Output,
}

/// What is left of a process.
pub(super) struct Ended {
    pub(super) end: End,
    /// The end of its standard output.
    pub(super) stdout: String,
    /// The end of its standard error.
    pub(super) stderr: String,
}

/// Bytes of an output that are kept.
const TAIL: u64 = 4096;

/// Files that may be open at once.
const OPEN_FILES: u64 = 64;

/// Between two looks at a process.
const POLL: Duration = Duration::from_millis(5);

impl Sandbox {
    /// Runs a Python source.
    pub(super) fn launch(&self, source: &str) -> Result<Ended> {
        let room = tempfile::tempdir().map_err(Error::io("create a temporary folder in", std::env::temp_dir()))?;
        let path = |name: &str| room.path().join(name);
        let (folder, main) = (path("work"), path("main.py"));
        fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
        fs::write(&main, source).map_err(Error::io("write", &main))?;
        let create = |path: &Path| File::create(path).map_err(Error::io("create", path));
        let (out, err) = (path("stdout"), path("stderr"));
        let mut command = self.command(&main);
        command
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(create(&out)?)
            .stderr(create(&err)?);
        let mut child = command.spawn().map_err(Error::io("run", command.get_program()))?;
        let end = self.wait(&mut child, [&out, &err]);
        kill(&mut child); // descendants too, however it ended
        Ok(Ended {
            end: end?,
            stdout: tail(&out)?,
            stderr: tail(&err)?,
        })
    }

    /// Namespaces, then a shell that sets the limits for the interpreter below it. The shell stays, since the first process
    /// of a namespace is deaf to signals such as that of the CPU limit.
    fn command(&self, main: &Path) -> Command {
        let script = format!("({}exec \"$0\" -I \"$1\")\nexit $?", ulimits(&self.limits));
        let mut words = self
            .namespaces
            .iter()
            .copied()
            .chain(["/bin/sh", "-c", script.as_str()]);
        let mut command = Command::new(words.next().expect("invariant: a shell at least"));
        command.args(words).arg(&self.interpreter).arg(main).env_clear();
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn wait(&self, child: &mut Child, outputs: [&Path; 2]) -> Result<End> {
        let end = Instant::now() + Duration::from_secs(self.limits.wall_seconds);
        loop {
            let over = outputs
                .iter()
                .any(|path| fs::metadata(path).is_ok_and(|file| file.len() >= self.limits.output_bytes));
            if over {
                return Ok(End::Output);
            }
            if let Some(status) = child.try_wait().map_err(Error::io("wait for", "/bin/sh"))? {
                return Ok(End::Code(status.code().unwrap_or(-1)));
            }
            if Instant::now() >= end {
                return Ok(End::WallClock);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Shell commands that set the limits; those a system does not know are passed over. No core files, and no new processes
/// (`-u`, or `-p` in some shells) nor threads.
fn ulimits(limits: &Limits) -> String {
    let Limits {
        cpu_seconds: cpu,
        memory_bytes,
        output_bytes,
        ..
    } = limits;
    let (hard_cpu, kib, blocks) = (cpu + 1, memory_bytes.div_ceil(1024), output_bytes.div_ceil(512));
    let each = [
        format!("-St {cpu}"),
        format!("-Ht {hard_cpu}"),
        format!("-v {kib}"),
        format!("-f {blocks}"),
        format!("-n {OPEN_FILES}"),
        "-c 0".to_owned(),
        "-u 0".to_owned(),
    ];
    let each = each.iter().map(|limit| format!("ulimit {limit} 2>/dev/null"));
    each.collect::<Vec<_>>().join("; ") + " || ulimit -p 0 2>/dev/null; "
}

/// Kills the process, with it its namespace, and its group.
fn kill(child: &mut Child) {
    let group = format!("kill -KILL -{} 2>/dev/null", child.id());
    // Both fail where there is nothing left to kill.
    let _ = Command::new("/bin/sh")
        .args(["-c", &group])
        .stdin(Stdio::null())
        .status();
    let _ = child.kill();
    let _ = child.wait();
}

/// The end of a file, characters cut in two replaced.
fn tail(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    let read = file
        .seek(SeekFrom::Start(len.saturating_sub(TAIL)))
        .and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    read.map_err(Error::io("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

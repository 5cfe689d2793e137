//! Runs a Python program that a model wrote, in a child process with limits.
//!
//! The program runs under `python3 -I` in a fresh folder, with an empty environment and no input, below a shell that sets
//! limits (`ulimit`) on CPU time, address space, file size, open files and new processes, and inside namespaces of its own
//! (`unshare` of util-linux) without a network, whose processes all die together. Output goes to files, of which only the
//! ends are read. What this system cannot enforce is found out by a program that tries it, see [`Sandbox::unenforced`].
//!
//! It **is** a guard against accidents: endless loops, runaway memory and output, leftover processes, programs that end
//! before their tests. It is **not** a jail: the program runs as the user, reads and writes whatever files the user may,
//! and can look at its own source, where the token is that proves that the tests ran. Programs of models nobody trusts belong
//! in a container or a virtual machine. Nothing runs unless the caller asks for it.
//!
//! Limits are per process, the wall clock is for all. Which limits hold: on Linux all of them, but new processes are not
//! prevented for root (they die with the program); on macOS no namespaces (network, and processes that leave their group)
//! and no limit on address space; elsewhere no shell and hence an error.

pub mod humaneval;
mod launch;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use launch::{End, Ended};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// CPU time of the process, seconds.
    pub cpu_seconds: u64,
    /// Time until everything is killed, seconds.
    pub wall_seconds: u64,
    /// Address space, bytes. The interpreter itself needs some 40 MB.
    pub memory_bytes: u64,
    /// Size of each file that is written, and of standard output and error, bytes.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_seconds: 10,
            wall_seconds: 20,
            memory_bytes: 1 << 30,
            output_bytes: 1 << 20,
        }
    }
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It ran to its end, tests included.
    Passed,
    /// It raised an error, did not parse, or crashed.
    Failed {
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It ended without complaint before its last line.
    EndedEarly,
    /// It was killed by the wall clock.
    TimedOut,
    /// It used more than it may.
    OverLimit {
        /// Of what.
        limit: Limit,
    },
}

/// What a program used too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// [`Limits::cpu_seconds`].
    Cpu,
    /// [`Limits::memory_bytes`].
    Memory,
    /// [`Limits::output_bytes`], on standard output or error.
    Output,
}

/// A way to run programs on this machine.
#[derive(Clone, Debug)]
pub struct Sandbox {
    interpreter: PathBuf,
    limits: Limits,
    /// The command that makes namespaces, if there is one.
    namespaces: &'static [&'static str],
    unenforced: Vec<String>,
}

/// From the strictest; after them comes none.
const NAMESPACES: [&[&str]; 2] = [&["unshare", "-rnpf", "--kill-child"], &["unshare", "-rn"]];

impl Sandbox {
    /// Finds `python3` in the `PATH` and what can be enforced here.
    ///
    /// # Errors
    /// [`Error::Interpreter`] if there is no Python 3 or it does not start under these limits; [`Error::Io`] if temporary
    /// files cannot be written.
    pub fn new(limits: Limits) -> Result<Self> {
        let interpreter = interpreter("python3")?;
        let mut tried = NAMESPACES
            .iter()
            .map(|namespaces| Self::with(&interpreter, &limits, namespaces));
        tried
            .find(Result::is_ok)
            .unwrap_or_else(|| Self::with(&interpreter, &limits, &[]))
    }

    /// One way, if it works.
    fn with(interpreter: &Path, limits: &Limits, namespaces: &'static [&'static str]) -> Result<Self> {
        let (interpreter, limits) = (interpreter.to_path_buf(), limits.clone());
        let mut sandbox = Self {
            interpreter,
            limits,
            namespaces,
            unenforced: vec![],
        };
        let ended = sandbox.launch(PROBE)?;
        if !matches!(ended.end, End::Code(0)) {
            let problem = format!("does not start under the limits: {}", ended.stderr.trim());
            return Err(Error::Interpreter {
                looked_for: sandbox.interpreter.display().to_string(),
                problem,
            });
        }
        sandbox.unenforced = ended.stdout.lines().map(str::to_owned).collect();
        Ok(sandbox)
    }

    /// What the limits do not hold here, such as "network" or "new processes"; empty if everything holds.
    pub fn unenforced(&self) -> &[String] {
        &self.unenforced
    }

    /// Runs a program to its end or to a limit. It passes if it reaches its last line without an error.
    ///
    /// # Errors
    /// [`Error::Io`] if temporary files cannot be written or nothing can be started; never for what the program does.
    pub fn run(&self, program: &str) -> Result<Outcome> {
        let token = format!("{:032x}", rand::random::<u128>());
        let ended = self.launch(&format!("{program}\n\n{}", last_line(&token)))?;
        Ok(verdict(&ended, &token))
    }
}

/// Proves that it was reached, also if the program replaced `print` or standard output.
fn last_line(token: &str) -> String {
    format!("__import__('sys').__stdout__.write('\\n{token}\\n')\n")
}

/// What the end of a process says.
fn verdict(ended: &Ended, token: &str) -> Outcome {
    const SIGXCPU: i32 = 24;
    let finished = ended.stdout.lines().next_back() == Some(token);
    let last_error = ended
        .stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    match ended.end {
        End::WallClock => Outcome::TimedOut,
        End::Output => Outcome::OverLimit { limit: Limit::Output },
        End::Code(0) if finished => Outcome::Passed,
        End::Code(0) => Outcome::EndedEarly,
        End::Code(code) if code == 128 + SIGXCPU => Outcome::OverLimit { limit: Limit::Cpu },
        End::Code(_) if last_error.starts_with("MemoryError") => Outcome::OverLimit { limit: Limit::Memory },
        End::Code(_) => Outcome::Failed {
            stderr: ended.stderr.clone(),
        },
    }
}

/// The program behind a name, found in the `PATH`; the path that it gives itself, since a name may lead to a script that
/// needs the environment.
fn interpreter(name: &str) -> Result<PathBuf> {
    let fail = |problem: String| Error::Interpreter {
        looked_for: format!("{name} in the PATH"),
        problem,
    };
    let asked = Command::new(name)
        .args([
            "-I",
            "-c",
            "import sys; assert sys.version_info >= (3,); print(sys.executable)",
        ])
        .output();
    let output = asked.map_err(|reason| fail(reason.to_string()))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !path.is_empty() {
        Ok(PathBuf::from(path))
    } else {
        Err(fail(format!(
            "{}; {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}

/// Prints what is not enforced, a line each.
const PROBE: &str = r#"
import os, resource, socket
limits = {"CPU time": "RLIMIT_CPU", "address space": "RLIMIT_AS", "file size": "RLIMIT_FSIZE", "open files": "RLIMIT_NOFILE"}
for name, limit in limits.items():
    if resource.getrlimit(getattr(resource, limit))[0] == resource.RLIM_INFINITY:
        print(name)
if any(name != "lo" for _, name in socket.if_nameindex()):
    print("network")
if os.getppid() != 1:
    print("processes that leave their group")
os.sys.stdout.flush()
try:
    child = os.fork()
except OSError:
    pass
else:
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    print("new processes")
"#;

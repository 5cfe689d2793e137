//! What a run ran on, as far as the system tells.

use super::Machine;
use std::fs;

impl Machine {
    /// This machine. Where the system does not say, fields stay empty.
    pub fn this() -> Self {
        let kilobytes = proc_field("/proc/meminfo", "MemTotal").and_then(|text| first_number(&text));
        Self {
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            device: proc_field("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kilobytes.map_or(0, |kib| kib * 1024),
        }
    }
}

/// Largest resident set this process has had, in bytes, memory-mapped files included; `None` where the system does not say.
pub fn peak_rss_bytes() -> Option<u64> {
    proc_field("/proc/self/status", "VmHWM")
        .and_then(|text| first_number(&text))
        .map(|kib| kib * 1024)
}

/// Private resident memory of this process in bytes: what memory-mapped files do not count towards.
pub fn private_rss_bytes() -> Option<u64> {
    proc_field("/proc/self/status", "RssAnon")
        .and_then(|text| first_number(&text))
        .map(|kib| kib * 1024)
}

/// The machine and the cores that this process may use, as text: processes with the same share them.
pub(crate) fn place() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let cores = proc_field("/proc/self/status", "Cpus_allowed_list").unwrap_or_default();
    format!("{} {cores}", host.trim())
}

/// The value of the first line `name : value` of a file under /proc.
fn proc_field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

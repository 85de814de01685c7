//! What the figures were measured on.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::peers::cpython::Python;
use crate::pin;

/// The machine and its programs, as the report names them.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The compiler's version.
    pub rustc: String,
    /// Versions of CPython that were run.
    pub python: Vec<String>,
    /// The source's commit, if the folder tells.
    pub commit: Option<String>,
    /// Seconds since 1970 when the run began.
    pub time: u64,
    /// `quick` or `full`.
    pub mode: String,
    /// Rivals that could not run: why, by measurement and name.
    pub absent: BTreeMap<String, String>,
}

impl Machine {
    /// Looks around.
    #[must_use]
    pub fn look(pythons: &[Python], mode: &str) -> Machine {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Machine {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: pin::cores().map_or(1, |cores| cores.len()),
            memory: memory(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            rustc: output("rustc", &["--version"]).unwrap_or_else(|| "unknown".into()),
            python: pythons.iter().map(|python| python.version.clone()).collect(),
            commit: output("git", &["rev-parse", "--short", "HEAD"]),
            time: time.as_secs(),
            mode: mode.to_owned(),
            absent: BTreeMap::new(),
        }
    }
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> u64 {
    let line = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    line.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stderr(std::process::Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

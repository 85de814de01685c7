//! The CPython interpreters on this machine, for tests that talk to one.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use std::{collections::BTreeSet, fmt};

use crate::command::{self, Finished};

/// The oldest version that counts: its `multiprocessing` has shared memory.
const OLDEST: (u32, u32, u32) = (3, 8, 0);

/// One interpreter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Python {
    /// Major, minor and patch version.
    pub version: (u32, u32, u32),
    /// The executable itself, no wrapper script.
    pub path: PathBuf,
}

impl Python {
    /// A command that runs this interpreter, unbuffered and without site directories of the user.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(["-u", "-s"]).env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        command
    }

    /// Runs a script (`-c`) with arguments and a limit; see [`command::run`].
    ///
    /// # Errors
    ///
    /// If the interpreter cannot be started.
    pub fn run(&self, script: &str, arguments: &[&str], limit: Duration) -> io::Result<Finished> {
        let mut command = self.command();
        command.arg("-c").arg(script).args(arguments).stdin(std::process::Stdio::null());
        command::run(command, limit)
    }
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "CPython {major}.{minor}.{patch}")
    }
}

/// Every interpreter from 3.8 on: `python3` in the path and those of pyenv, oldest first, each once. Looked for
/// once per process. Where there is none, prints that the caller skips.
pub fn find() -> &'static [Python] {
    static FOUND: OnceLock<Vec<Python>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let mut seen = BTreeSet::new();
        let mut found: Vec<Python> = candidates()
            .into_iter()
            .filter_map(|candidate| ask(&candidate))
            .filter(|python| python.version >= OLDEST && seen.insert(python.path.clone()))
            .collect();
        found.sort();
        found
    });
    if found.is_empty() {
        println!("skipped: no python3 of version 3.8 or later on this machine");
    }
    found
}

/// The newest interpreter.
pub fn newest() -> Option<&'static Python> {
    find().last()
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = vec![PathBuf::from("python3")];
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv"));
    let roots = std::env::var_os("PYENV_ROOT").map(PathBuf::from).into_iter().chain(home);
    for root in roots {
        let Ok(versions) = std::fs::read_dir(root.join("versions")) else { continue };
        candidates.extend(versions.flatten().map(|version| version.path().join("bin/python3")));
    }
    candidates.retain(|path| path == Path::new("python3") || path.exists());
    candidates
}

/// Lets an interpreter tell its version and where it really is: `python3` may be a wrapper.
fn ask(candidate: &Path) -> Option<Python> {
    let script = "import os, sys; print(*sys.version_info[:3], os.path.realpath(sys.executable))";
    let mut command = Command::new(candidate);
    command.args(["-I", "-c", script]).stdin(std::process::Stdio::null());
    let finished = command::run(command, Duration::from_secs(20)).ok()?;
    if !finished.status.success() {
        return None;
    }
    let mut words = finished.output.trim().splitn(4, ' ');
    let mut number = || words.next()?.parse::<u32>().ok();
    let version = (number()?, number()?, number()?);
    Some(Python { version, path: PathBuf::from(words.next()?) })
}

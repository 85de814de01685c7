//! CPython's `multiprocessing`: one persistent process per version and scenario, driven line by line so that it
//! interleaves with the others. The script is `xtask/peers/cpython.py`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::pin;
use crate::scenario::{Entrant, Entry, Failure, Regime, Repeats};

/// Functions of the script that look at something instead of doing it many times.
const LOOK: [&str; 3] = ["memory.worker", "manager.memory", "pool.idle"];

/// One interpreter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Python {
    /// All of its version.
    pub version: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Every CPython found on the path and among pyenv's, one for each minor version, oldest first.
#[must_use]
pub fn find() -> Vec<Python> {
    let mut found: BTreeMap<(u32, u32), ((u32, u32), Python)> = BTreeMap::new();
    for path in candidates() {
        let Some((version, path)) = ask(&path) else { continue };
        let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
        let [major, minor, patch] = numbers[..] else { continue };
        // The script needs 3.6. A pyenv shim and its target are the same version: the path as it says itself wins.
        if (major, minor) >= (3, 6) && found.get(&(major, minor)).is_none_or(|(best, _)| best.1 < patch) {
            found.insert((major, minor), ((minor, patch), Python { version, path }));
        }
    }
    found.into_values().map(|(_, python)| python).collect()
}

fn candidates() -> Vec<PathBuf> {
    let names = (6..20).map(|minor| format!("python3.{minor}")).chain(["python3".to_owned()]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path)
        .flat_map(|folder| names.clone().map(move |name| folder.join(name)).collect::<Vec<_>>())
        .filter(|path| path.exists())
        .collect();
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv")));
    let versions = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    found.extend(versions.into_iter().flatten().flatten().map(|entry| entry.path().join("bin/python3")));
    found
}

/// Version and true path, if it is a CPython with `multiprocessing`.
fn ask(path: &Path) -> Option<(String, PathBuf)> {
    let script = "import sys, platform, multiprocessing; assert platform.python_implementation() == 'CPython'; \
                  print(platform.python_version()); print(sys.executable)";
    let output =
        Command::new(path).args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut lines = text.lines();
    Some((lines.next()?.to_owned(), lines.next()?.into()))
}

impl Python {
    /// `cpython-X.Y`.
    #[must_use]
    pub fn peer_name(&self) -> String {
        let mut parts = self.version.split('.');
        format!("cpython-{}.{}", parts.next().unwrap_or("?"), parts.next().unwrap_or("?"))
    }

    /// Starts the script and measures that function of it.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn entrant(&self, scripts: &Path, regime: Regime, function: &'static str) -> Entry {
        let far = pin::near_side(regime)?;
        let mut command = Command::new(&self.path);
        command.arg(scripts.join("cpython.py"));
        if let (Some(far), [near, ..]) = (far, &pin::cores()?[..]) {
            command.arg(near.to_string()).arg(far.to_string());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let input = child.stdin.take();
        let name = format!("{function}{}", if regime.asleep { ".asleep" } else { "" });
        let looks = LOOK.contains(&function);
        Ok(Box::new(Script { child, input, output, function: name, looks }))
    }
}

/// The running script; told by the end of its input to end.
struct Script {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    function: String,
    looks: bool,
}

impl Entrant for Script {
    fn run(&mut self, n: u64) -> Result<Duration, Failure> {
        let input = self.input.as_mut().ok_or("already ended")?;
        writeln!(input, "{} {n}", self.function)?;
        input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim().parse() {
            Ok(ns) => Ok(Duration::from_nanos(ns)),
            Err(_) => Err(format!("the script answered `{}`", line.trim()).into()),
        }
    }

    fn repeats(&self) -> Repeats {
        if self.looks { Repeats::Once } else { Repeats::AsTimeAllows }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.input = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

//! What a run must not leave behind: processes, names in `/dev/shm`, temporary files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::workspace::target;

/// The state before the run.
pub(crate) struct Before {
    processes: BTreeSet<Process>,
    shared: BTreeSet<String>,
    temp_names: BTreeSet<String>,
    temp: PathBuf,
}

/// A process of the project: pid and start time name it, the rest is for the message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    start: u64,
    command: String,
}

impl Before {
    /// Takes down what is there, and makes an empty folder for the run's temporary files.
    /// With `strict`, what is ours and there already counts as left by a run just before.
    pub(crate) fn take(strict: bool) -> Result<Before, String> {
        let temp = std::env::temp_dir().join(format!("procession-ci-{}", std::process::id()));
        fs::create_dir_all(&temp)
            .map_err(|error| format!("failed to create folder `{}`: {error}", temp.display()))?;
        let mut before = Before {
            processes: processes(),
            shared: names(Path::new("/dev/shm")),
            temp_names: ours_in_temp(),
            temp,
        };
        if strict {
            before.processes.clear();
            before.temp_names.clear();
            before.shared.retain(|name| !name.contains("procession"));
        }
        Ok(before)
    }

    /// The folder for the run's temporary files.
    pub(crate) fn temp(&self) -> &Path {
        &self.temp
    }

    /// Compares with what is there now. Helpers that end by themselves get five seconds to do so.
    pub(crate) fn check(self) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() > deadline {
                let _ = fs::remove_dir_all(&self.temp);
                return if left.is_empty() {
                    Ok(())
                } else {
                    Err(format!("left behind: {}", left.join("; ")))
                };
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for process in processes().difference(&self.processes) {
            left.push(format!("process {} ({})", process.pid, process.command));
        }
        for name in names(Path::new("/dev/shm")).difference(&self.shared) {
            left.push(format!("shared memory /dev/shm/{name}"));
        }
        for name in names(&self.temp) {
            left.push(format!("temporary file {}", self.temp.join(name).display()));
        }
        for name in ours_in_temp().difference(&self.temp_names) {
            left.push(format!("temporary file {}", std::env::temp_dir().join(name).display()));
        }
        left
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Names in the common temporary folder that carry the project's name; other programs' are none of our business.
fn ours_in_temp() -> BTreeSet<String> {
    let mut names = names(&std::env::temp_dir());
    names.retain(|name| name.starts_with("procession") && !name.starts_with("procession-ci-"));
    names
}

/// Processes that run a file from the target folder, or call themselves `procession…`; not this one and those above it.
fn processes() -> BTreeSet<Process> {
    let built = target();
    let above = ancestors();
    let pids = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<u32>().ok());
    pids.filter(|pid| !above.contains(pid))
        .filter_map(|pid| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let command = fs::read(folder.join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
            let comm = fs::read_to_string(folder.join("comm")).ok()?;
            let ours = fs::read_link(folder.join("exe")).is_ok_and(|exe| exe.starts_with(&built))
                || command.starts_with("procession")
                || comm.starts_with("procession");
            let (start, _) = stat(pid)?;
            ours.then_some(Process { pid, start, command: if command.is_empty() { comm } else { command } })
        })
        .collect()
}

fn ancestors() -> Vec<u32> {
    let mut above = vec![std::process::id()];
    while let Some((_, parent)) = above.last().and_then(|pid| stat(*pid))
        && parent > 1
    {
        above.push(parent);
    }
    above
}

/// Start time and parent of a process.
fn stat(pid: u32) -> Option<(u64, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything: count the fields behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some((start, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_start_time_and_parent_are_read_from_stat() {
        let (start, parent) = stat(std::process::id()).expect("own stat");
        assert!(start > 0 && parent == std::os::unix::process::parent_id());
    }
}

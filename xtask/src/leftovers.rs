//! What a run must not leave behind: processes, names in `/dev/shm`, temporary files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

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
    pub(crate) fn take() -> Result<Before, String> {
        let temp = std::env::temp_dir().join(format!("procession-ci-{}", std::process::id()));
        fs::create_dir_all(&temp)
            .map_err(|error| format!("failed to create folder `{}`: {error}", temp.display()))?;
        Ok(Before {
            processes: processes(),
            shared: names(Path::new("/dev/shm")),
            temp_names: ours_in_temp(),
            temp,
        })
    }

    /// Takes down what is there into a file, for a [run](Before::since) that is to begin with what comes now.
    pub(crate) fn write(path: &str) -> Outcome {
        let processes: Vec<_> = processes().into_iter().map(|p| json!([p.pid, p.start, p.command])).collect();
        let shared = names(Path::new("/dev/shm"));
        let all = json!({ "processes": processes, "shared": shared, "temporary": ours_in_temp() });
        fs::write(path, all.to_string()).map_err(|error| format!("failed to write `{path}`: {error}"))
    }

    /// As [`take`](Before::take), but what came since that file was [written](Before::write) is the run's.
    pub(crate) fn since(path: &str) -> Result<Before, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("failed to read `{path}`: {error}"))?;
        let all: Value =
            serde_json::from_str(&text).map_err(|error| format!("`{path}` is nothing of ours: {error}"))?;
        let each = |name: &str| all[name].as_array().into_iter().flatten().cloned().collect::<Vec<_>>();
        let texts = |name| each(name).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let process = |p: &Value| {
            let (pid, start) = (u32::try_from(p[0].as_u64()?).ok()?, p[1].as_u64()?);
            Some(Process { pid, start, command: p[2].as_str()?.to_owned() })
        };
        Ok(Before {
            processes: each("processes").iter().filter_map(process).collect(),
            shared: texts("shared"),
            temp_names: texts("temporary"),
            ..Before::take()?
        })
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
    fn what_was_there_when_that_was_written_down_was_not_left_behind() {
        let file =
            |name: &str| std::env::temp_dir().join(format!("procession-test-{}-{name}", std::process::id()));
        let [old, new, list] = ["old", "new", "list"].map(file);
        fs::write(&old, "").expect("a file");
        Before::write(list.to_str().expect("a path in UTF-8")).expect("written");
        fs::write(&new, "").expect("a file");
        let before = Before::since(list.to_str().expect("a path in UTF-8")).expect("read");
        let left = before.left().join("; ");
        [&old, &new, &list].iter().for_each(|file| fs::remove_file(file).expect("removed"));
        let _ = fs::remove_dir(&before.temp);
        let is_left = |file: &Path| left.contains(&file.display().to_string());
        assert!(!is_left(&old) && is_left(&new), "{left}");
        let own = before.processes.iter().map(|process| process.pid).collect::<Vec<_>>();
        assert!(!own.contains(&std::process::id()), "{own:?}");
    }

    #[test]
    fn own_start_time_and_parent_are_read_from_stat() {
        let (start, parent) = stat(std::process::id()).expect("own stat");
        assert!(start > 0 && parent == std::os::unix::process::parent_id());
    }
}

//! Reading `/proc`: processes, their parents and their threads. Everything read here may have ended meanwhile,
//! so what is gone is left out rather than reported.

use std::collections::BTreeMap;
use std::fs;

/// One process or thread, as its `stat` line tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) comm: String,
    pub(crate) state: char,
    pub(crate) parent: i32,
}

/// Reads a `stat` line. The name may hold spaces and parentheses, so it ends at the last `)`.
pub(crate) fn parse_stat(line: &str) -> Option<Stat> {
    let open = line.find('(')?;
    let close = line.rfind(')')?;
    let mut rest = line.get(close + 1..)?.split_ascii_whitespace();
    Some(Stat {
        pid: line.get(..open)?.trim().parse().ok()?,
        comm: line.get(open + 1..close)?.to_owned(),
        state: rest.next()?.chars().next()?,
        parent: rest.next()?.parse().ok()?,
    })
}

/// Every process that `/proc` shows, by pid.
pub(crate) fn processes() -> BTreeMap<i32, Stat> {
    numbered("/proc")
        .into_iter()
        .filter_map(|pid| parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .map(|stat| (stat.pid, stat))
        .collect()
}

/// The direct children of `parent`, zombies included. Found by their parent's pid, since the kernel's own list
/// (`task/*/children`) is a build option.
pub(crate) fn children(parent: i32) -> Vec<Stat> {
    processes().into_values().filter(|stat| stat.parent == parent).collect()
}

/// All that descend from `root`, parents before their children, `root` left out.
pub(crate) fn descendants(root: i32) -> Vec<Stat> {
    let all = processes();
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for stat in all.values().filter(|stat| stat.parent == parent) {
            parents.push(stat.pid);
            found.push(stat.clone());
        }
    }
    found
}

/// The threads of a process.
pub(crate) fn threads(pid: i32) -> Vec<Stat> {
    let tasks = format!("/proc/{pid}/task");
    numbered(&tasks)
        .into_iter()
        .filter_map(|tid| parse_stat(&fs::read_to_string(format!("{tasks}/{tid}/stat")).ok()?))
        .collect()
}

/// The first argument a process was started with, or what it has put there since.
pub(crate) fn argv0(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = line.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(first).into_owned())
}

/// The entries of a directory whose names are numbers, sorted.
pub(crate) fn numbered(directory: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut numbers: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// What every thread of `pid` is doing and which children it has: the body of a hang's report.
pub(crate) fn report(pid: i32) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let line = |path: String| fs::read_to_string(path).unwrap_or_else(|error| format!("({error})"));
    for thread in threads(pid) {
        let at = format!("/proc/{pid}/task/{}", thread.pid);
        let _ = writeln!(
            text,
            "  thread {} `{}`: state {}, wchan {}, syscall {}",
            thread.pid,
            thread.comm,
            thread.state,
            line(format!("{at}/wchan")).trim(),
            line(format!("{at}/syscall")).trim(),
        );
        for frame in line(format!("{at}/stack")).lines().take(6).filter(|frame| frame.starts_with('[')) {
            let _ = writeln!(text, "      {frame}");
        }
    }
    for child in descendants(pid) {
        let at = format!("/proc/{}", child.pid);
        let _ = writeln!(
            text,
            "  process {} `{}`: state {}, parent {}, wchan {}, syscall {}",
            child.pid,
            child.comm,
            child.state,
            child.parent,
            line(format!("{at}/wchan")).trim(),
            line(format!("{at}/syscall")).trim(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_read_whole() {
        let stat = parse_stat("12 (a) b) c) S 7 12 12 0").unwrap();
        assert_eq!(stat, Stat { pid: 12, comm: "a) b) c".into(), state: 'S', parent: 7 });
    }
}

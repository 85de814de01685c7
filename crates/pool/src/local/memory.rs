//! Whether the kernel's OOM killer ended a worker, and how much memory one has.
//!
//! The kernel does not say why it sends a SIGKILL. It counts: per control group (`oom_kill` in `memory.events` of version
//! 2, in `memory.oom_control` of version 1), or for the whole system (`/proc/vmstat`); and it counts before it kills. So a
//! worker that was ended by a SIGKILL of which its pool knows nothing, while the count went up, is taken for one of those
//! that are counted. Each count is used for one death at most. This errs only if somebody else kills a worker while the
//! kernel kills another process of the same group (or, where only the system's count can be read, of the system).

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

/// The deaths that are counted and accounted for, in this process.
static SEEN: Mutex<Option<u64>> = Mutex::new(None);

/// Begins to count, if nobody has yet.
pub(super) fn prepare() {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.is_none() {
        *seen = count();
    }
}

/// Whether there was a death that nobody has accounted for yet; now it is.
pub(super) fn claim() -> bool {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (Some(before), Some(now)) = (*seen, count()) else { return false };
    let found = now > before;
    *seen = Some(before + u64::from(found));
    found
}

fn count() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_group = candidates(&groups).find_map(|path| field(&fs::read_to_string(path).ok()?));
    of_group.or_else(|| field(&fs::read_to_string("/proc/vmstat").ok()?))
}

/// The files that may hold this process's count, the best first, by what `/proc/self/cgroup` says.
fn candidates(groups: &str) -> impl Iterator<Item = String> + '_ {
    let one = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        // In a container the path may be as seen from outside: then the root of what is mounted is ours.
        let path = path.trim_end_matches('/');
        if controllers.is_empty() {
            Some(
                ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
                    .map(|root| format!("{root}{path}/memory.events")),
            )
        } else if controllers.split(',').any(|controller| controller == "memory") {
            Some([path, ""].map(|path| format!("/sys/fs/cgroup/memory{path}/memory.oom_control")))
        } else {
            None
        }
    };
    groups.lines().filter_map(one).flatten()
}

fn field(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The resident memory of this process, which can be read as often as wanted, also in a sandbox.
#[derive(Debug)]
pub(super) struct Resident(File);

impl Resident {
    pub(super) fn open() -> Option<Resident> {
        File::open("/proc/self/statm").ok().map(Resident)
    }

    /// In bytes.
    pub(super) fn bytes(&self) -> Option<u64> {
        let mut text = [0; 128];
        let len = self.0.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

/// The peak of resident memory of the program that this process runs, in bytes, without what it had before `execve`.
pub(super) fn own_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Looks whether this process has become too large.
pub(super) struct Heap {
    /// In bytes.
    pub(super) limit: u64,
    pub(super) resident: Resident,
    /// When to look again, in nanoseconds.
    pub(super) next: u64,
}

impl Heap {
    pub(super) fn is_too_large(&mut self, now: u64, pause: u64) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + pause;
        self.resident.bytes().is_some_and(|bytes| bytes > self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_looked_for_where_the_groups_say() {
        let of = |text: &'static str| candidates(text).collect::<Vec<_>>();
        assert_eq!(of("0::/user.slice\n")[0], "/sys/fs/cgroup/user.slice/memory.events");
        assert_eq!(of("0::/\n")[0], "/sys/fs/cgroup/memory.events");
        let first = of("9:name=systemd:/\n4:memory:/a/b\n0::/\n").remove(0);
        assert_eq!(first, "/sys/fs/cgroup/memory/a/b/memory.oom_control");
        assert!(of("nonsense\n3:cpu:/x\n").is_empty());
        assert_eq!(field("low 0\noom 3\noom_kill 2\n"), Some(2));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(field("oom_killed 7\n"), None);
    }

    #[test]
    fn a_process_knows_its_memory() {
        let resident = Resident::open().unwrap();
        assert!(resident.bytes().unwrap() > 0);
        assert!(own_peak().unwrap() > 0);
    }
}

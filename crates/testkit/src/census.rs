//! What this process holds, so that a test can say that nothing was left behind.
//!
//! A census counts the whole process, and a test harness runs tests side by side, so a test with a census runs
//! alone: see [`isolated!`](crate::isolated!).
//!
//! ```
//! use procession_testkit::Census;
//! use std::time::Duration;
//!
//! let before = Census::take();
//! drop(std::io::pipe()?);
//! before.assert_settles(Duration::from_secs(10));
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::proc;

/// What a [`Census`] looks at beyond what it always does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether helper processes count (their name or first argument starts with `procession:`), such as a fork
    /// server, which lives as long as the program. Not by default.
    pub helpers: bool,
    /// Names in `/dev/shm` count if they start with one of these. By default none does: other processes, those of other
    /// tests among them, make and remove names there at any time. A test that counts them has a prefix, or a folder, of
    /// its own.
    pub shm_prefixes: Vec<String>,
    /// Names in the temporary directory count if they start with one of these. By default `procession`.
    pub temp_prefixes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { helpers: false, shm_prefixes: Vec::new(), temp_prefixes: vec!["procession".to_owned()] }
    }
}

/// A child process as a census saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its pid.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its state as in `/proc`: `R`, `S`, `D`, `T`, `Z` (a zombie) and so on.
    pub state: char,
}

/// One count of what this process holds.
#[derive(Clone)]
pub struct Census {
    options: Options,
    descriptors: BTreeMap<i32, String>,
    mappings: usize,
    shared_mappings: BTreeMap<String, usize>,
    threads: BTreeMap<i32, String>,
    children: Vec<Child>,
    shm_names: Vec<String>,
    temp_names: Vec<String>,
}

impl Census {
    /// Counts, with the default [`Options`].
    pub fn take() -> Self {
        Self::with(&Options::default())
    }

    /// Counts what `options` say.
    pub fn with(options: &Options) -> Self {
        let (mappings, shared_mappings) = mappings();
        let mut children: Vec<Child> = proc::children(std::process::id().cast_signed())
            .into_iter()
            .map(|stat| Child { pid: stat.pid, comm: stat.comm, state: stat.state })
            .collect();
        if !options.helpers {
            children.retain(|child| !is_helper(child));
        }
        let temp = std::env::temp_dir();
        Self {
            descriptors: descriptors(),
            mappings,
            shared_mappings,
            threads: proc::threads(std::process::id().cast_signed())
                .into_iter()
                .map(|stat| (stat.pid, stat.comm))
                .collect(),
            children,
            shm_names: names(Path::new("/dev/shm"), &options.shm_prefixes),
            temp_names: names(&temp, &options.temp_prefixes),
            options: options.clone(),
        }
    }

    /// The open descriptors and what each refers to, without the one this census was taken through.
    pub fn descriptors(&self) -> &BTreeMap<i32, String> {
        &self.descriptors
    }

    /// The number of mappings of any kind. Allocator and thread stacks make it vary, so [`difference`]
    /// leaves it out.
    ///
    /// [`difference`]: Self::difference
    pub fn mappings(&self) -> usize {
        self.mappings
    }

    /// How often each shared object is mapped: memfds, names in `/dev/shm`, and shared anonymous memory.
    pub fn shared_mappings(&self) -> &BTreeMap<String, usize> {
        &self.shared_mappings
    }

    /// The threads and their names.
    pub fn threads(&self) -> &BTreeMap<i32, String> {
        &self.threads
    }

    /// The children, zombies included.
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// The names in `/dev/shm` that count.
    pub fn shm_names(&self) -> &[String] {
        &self.shm_names
    }

    /// The names in the temporary directory that count.
    pub fn temp_names(&self) -> &[String] {
        &self.temp_names
    }

    /// What `later` has more or fewer of, as lines for a person, or `None` if both hold the same.
    ///
    /// Descriptors are compared by kind (`socket`, `pipe`, a path), threads by name, children by name and whether
    /// they have ended: a descriptor that was closed and opened anew is no leak.
    pub fn difference(&self, later: &Self) -> Option<String> {
        self.compared(later, |before, after| before != after)
    }

    /// As [`difference`](Self::difference), of what `later` has more of. It may have fewer: what ends by itself after a
    /// while, such as an idle thread, may have been there only at this census.
    pub fn surplus(&self, later: &Self) -> Option<String> {
        self.compared(later, |before, after| before < after)
    }

    fn compared(&self, later: &Self, differ: fn(usize, usize) -> bool) -> Option<String> {
        let mut text = String::new();
        let mut compare = |what, before: &_, after: &_| compare(&mut text, what, before, after, differ);
        compare("descriptors of", &self.descriptor_kinds(), &later.descriptor_kinds());
        compare("shared mappings of", &self.shared_mappings, &later.shared_mappings);
        compare("threads named", &tally(self.threads.values()), &tally(later.threads.values()));
        compare("child processes", &self.child_kinds(), &later.child_kinds());
        compare("/dev/shm names", &tally(&self.shm_names), &tally(&later.shm_names));
        compare("temporary names", &tally(&self.temp_names), &tally(&later.temp_names));
        if text.is_empty() {
            return None;
        }
        for (fd, target) in &later.descriptors {
            if self.descriptors.get(fd) != Some(target) {
                let _ = writeln!(text, "  now open: {fd} -> {target}");
            }
        }
        for child in later.children.iter().filter(|child| !self.children.contains(child)) {
            let _ = writeln!(text, "  now there: pid {} `{}`, state {}", child.pid, child.comm, child.state);
        }
        Some(text)
    }

    /// Waits until this process holds again what it held at this census, with the same options.
    ///
    /// # Panics
    ///
    /// With the [`difference`](Self::difference) if it does not within `limit`.
    #[track_caller]
    pub fn assert_settles(&self, limit: Duration) {
        let limit = crate::watchdog::scaled(limit);
        if let Some(difference) = until(limit, || self.difference(&Self::with(&self.options))) {
            panic!("something is left behind after {limit:?}:\n{difference}");
        }
    }

    /// Waits until this process holds no more than it held at this census, with the same options; at the end of `limit`
    /// it is the [`surplus`](Self::surplus).
    pub fn remainder(&self, limit: Duration) -> Option<String> {
        until(limit, || self.surplus(&Self::with(&self.options)))
    }

    fn descriptor_kinds(&self) -> BTreeMap<String, usize> {
        tally(self.descriptors.values().map(|target| kind(target)))
    }

    fn child_kinds(&self) -> BTreeMap<String, usize> {
        tally(self.children.iter().map(|child| match child.state {
            'Z' | 'X' => format!("{} (zombie)", child.comm),
            _ => child.comm.clone(),
        }))
    }
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Census")
            .field("descriptors", &self.descriptors)
            .field("mappings", &self.mappings)
            .field("shared_mappings", &self.shared_mappings)
            .field("threads", &self.threads)
            .field("children", &self.children)
            .field("shm_names", &self.shm_names)
            .field("temp_names", &self.temp_names)
            .finish_non_exhaustive()
    }
}

/// The open descriptors. The directory's own descriptor is the one that leads back to it.
fn descriptors() -> BTreeMap<i32, String> {
    let own = format!("/proc/{}/fd", std::process::id());
    proc::numbered("/proc/self/fd")
        .into_iter()
        .filter_map(|fd| {
            // Closed by now: the directory's own, or another thread's.
            let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
            Some((fd, target.to_string_lossy().into_owned()))
        })
        .filter(|(_, target)| *target != own)
        .collect()
}

/// `socket:[123]` is a socket whichever its number.
fn kind(target: &str) -> String {
    match target.split_once(":[") {
        Some((kind, number)) if number.trim_end_matches(']').bytes().all(|byte| byte.is_ascii_digit()) => {
            kind.to_owned()
        }
        _ => target.to_owned(),
    }
}

/// How many mappings there are, and those of shared memory by name. Neighbouring ranges of one object count as
/// one, since protecting a page splits its range.
fn mappings() -> (usize, BTreeMap<String, usize>) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut shared = BTreeMap::new();
    let mut last: Option<(String, String)> = None;
    for line in maps.lines() {
        // range, permissions, offset, device, inode, and what is mapped after some padding
        let fields: Vec<&str> = line.splitn(6, ' ').map(str::trim).collect();
        let &[range, _, _, _, inode, target] = fields.as_slice() else { continue };
        let (start, end) = range.split_once('-').unwrap_or_default();
        let counts = target.starts_with("/memfd:")
            || target.starts_with("/dev/shm/")
            || target.starts_with("/dev/zero");
        let identity = format!("{target} {inode}");
        let continues = last.as_ref().is_some_and(|(end, object)| end == start && *object == identity);
        if counts && !continues {
            *shared.entry(target.to_owned()).or_default() += 1;
        }
        last = Some((end.to_owned(), identity));
    }
    (maps.lines().count(), shared)
}

fn names(directory: &Path, prefixes: &[String]) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())))
        .collect();
    names.sort_unstable();
    names
}

fn is_helper(child: &Child) -> bool {
    let ours = |name: &str| name.starts_with("procession:");
    ours(&child.comm) || proc::argv0(child.pid).is_some_and(|name| ours(&name))
}

fn tally<S: Into<String>>(items: impl IntoIterator<Item = S>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item.into()).or_default() += 1;
    }
    counts
}

/// Looks every other millisecond until nothing is found, or gives what is found at the end of `limit`.
fn until(limit: Duration, look: impl Fn() -> Option<String>) -> Option<String> {
    let deadline = Instant::now() + limit;
    loop {
        let found = look()?;
        if Instant::now() >= deadline {
            return Some(found);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn compare(
    text: &mut String,
    what: &str,
    before: &BTreeMap<String, usize>,
    after: &BTreeMap<String, usize>,
    differ: fn(usize, usize) -> bool,
) {
    for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
        let (was, is) = (before.get(name).copied().unwrap_or(0), after.get(name).copied().unwrap_or(0));
        if differ(was, is) {
            let _ = writeln!(text, "  {what} `{name}`: {was} before, {is} now");
        }
    }
}

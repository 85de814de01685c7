//! The names of Unix sockets in the file system, and their end.
//!
//! # Protocol
//!
//! A socket that was bound to a path stands in this process's table until its listener is closed; the exit hook ends what
//! is left then. A path is unlinked only if it still stands for the inode that was bound, as it was found right after the
//! `bind(2)`: the kernel does not tell it by the socket. Somebody who replaces a path of the user's between these two calls
//! has what stands there then unlinked with our listener; in a folder of ours there is nobody else.
//!
//! Sockets without a path of the user's lie in one folder per process, `procession-RANDOM` below the folder for temporary
//! files, with mode 0700: nobody else can reach what is in it. Its owner holds a lock (`flock(2)`) on the folder itself.
//!
//! # When a process dies
//!
//! The kernel lets the lock go. The process's helper ([`procession_sys::guardian`]) removes the folder within moments; where
//! there is none, the next process of the user that makes such a folder removes those whose lock is free. A folder that was
//! made and not locked yet may be removed in the same way: its maker notices, and makes another one. A path of the user's
//! stays after SIGKILL, as that of any server.

use procession_sys::{OverFork, guardian, hooks};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::Once,
};

const PREFIX: &str = "procession-";
/// Random letters in the folder's name.
const LETTERS: usize = 16;
/// How often a folder is tried to be made.
const TRIES: u32 = 200;
/// The longest path that a socket can be bound to.
const LONGEST: usize = 107;

struct Table {
    /// Where this process's folder is, whenever it has one: drawn once.
    home: Option<PathBuf>,
    folder: Option<Folder>,
    /// What was bound: its path, its inode, and whether it lies in our folder.
    sockets: BTreeMap<u64, (PathBuf, (u64, u64), bool)>,
    next: u64,
}

struct Folder {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: OwnedFd,
}

/// The lock is held over every fork, and taken within no other.
static TABLE: OverFork<Table> = OverFork::new(Table::new());

impl Table {
    const fn new() -> Table {
        Table { home: None, folder: None, sockets: BTreeMap::new(), next: 1 }
    }

    fn end(&mut self, number: u64) {
        let Some((path, inode, ours)) = self.sockets.remove(&number) else { return };
        if inode_of(&path) == Some(inode) {
            let _ = std::fs::remove_file(&path);
        }
        if ours
            && !self.sockets.values().any(|(_, _, ours)| *ours)
            && let Some(folder) = self.folder.take()
        {
            let _ = std::fs::remove_dir(folder.path);
        }
    }
}

/// A path that a socket of this process is bound to. Dropping it unlinks the path.
#[derive(Debug)]
pub(super) struct Bound {
    number: u64,
    owner: u32,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // A forked copy of the listener has nothing to unlink, and its table is another one.
        if self.owner == std::process::id() {
            TABLE.lock().end(self.number);
        }
    }
}

/// Calls `bind` with a path of the user's, and sees to it that the path goes with the result.
pub(super) fn bind_at(path: &Path, bind: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<Bound> {
    prepare();
    // This process may be in another folder by the socket's end.
    let place = std::path::absolute(path)?;
    bind(path)?;
    let mut table = TABLE.lock();
    Ok(enter(&mut table, place, false))
}

/// Calls `bind` with a path in a folder that nobody else can enter. A helper is to tidy up after us, unless the path is for a
/// moment only.
pub(super) fn bind_in_private(
    stays: bool,
    bind: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<(PathBuf, Bound)> {
    prepare();
    let home = home()?;
    // Before there is a folder, and not under the lock: it starts a process. Without a helper the next one of us removes
    // what a killed one left.
    if stays && let Some(home) = home.to_str() {
        let _ = guardian::ensure(after_the_owner, home);
    }
    let mut table = TABLE.lock();
    if table.folder.is_none() {
        table.folder = Some(Folder::make(&home)?);
    }
    let path = home.join(table.next.to_string());
    bind(&path)?;
    let bound = enter(&mut table, path.clone(), true);
    Ok((path, bound))
}

/// Where this process's folder is. Tidies up there when it is asked for the first time.
fn home() -> io::Result<PathBuf> {
    if let Some(home) = &TABLE.lock().home {
        return Ok(home.clone());
    }
    let base = base();
    let _ = remove_stale(&base);
    let random: [u8; LETTERS / 2] = super::mac::random()?;
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(TABLE.lock().home.get_or_insert(base.join(format!("{PREFIX}{name}"))).clone())
}

fn enter(table: &mut Table, path: PathBuf, ours: bool) -> Bound {
    let number = table.next;
    table.next += 1;
    if let Some(inode) = inode_of(&path) {
        table.sockets.insert(number, (path, inode, ours));
    }
    Bound { number, owner: std::process::id() }
}

fn prepare() {
    static HOOKS: Once = Once::new();
    HOOKS.call_once(|| {
        hooks::around_fork(hooks::ForkHooks {
            before: Some(|| TABLE.hold()),
            in_parent: Some(|| TABLE.release()),
            in_child: Some(|| TABLE.reset(|table| *table = Table::new())),
        });
    });
    // Hooks are forgotten in a forked child, the `Once` is not.
    static REGISTERED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let me = std::process::id();
    if REGISTERED.swap(me, std::sync::atomic::Ordering::Relaxed) != me {
        hooks::at_exit(i32::MIN, || {
            let mut table = TABLE.lock();
            let numbers: Vec<u64> = table.sockets.keys().copied().collect();
            numbers.into_iter().for_each(|number| table.end(number));
        });
    }
}

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    rustix::fs::lstat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// The folder for temporary files, or `/tmp` where that one's name leaves no room.
fn base() -> PathBuf {
    let base = std::env::temp_dir();
    let base = std::path::absolute(&base).unwrap_or(base);
    match base.as_os_str().len() + 1 + PREFIX.len() + LETTERS + 12 {
        needed if needed <= LONGEST => base,
        _ => PathBuf::from("/tmp"),
    }
}

impl Folder {
    fn make(path: &Path) -> io::Result<Folder> {
        Folder::make_with(path, || std::thread::sleep(std::time::Duration::from_millis(1)))
    }

    /// With a pause after each try that found somebody in the way.
    fn make_with(path: &Path, mut pause: impl FnMut()) -> io::Result<Folder> {
        // Somebody who tidies up can be in the way of a few tries: holding the folder, or between its lock and its end.
        for _ in 0..TRIES {
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(lock) = lock(path)? {
                return Ok(Folder { path: path.to_owned(), _lock: lock });
            }
            pause();
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the folder for sockets was removed again and again",
        ))
    }
}

/// Locks a folder of ours; nothing if somebody else has, or it is gone.
fn lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let stat = rustix::fs::fstat(&fd)?;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
    Ok((ours && inode_of(path) == Some((stat.st_dev, stat.st_ino))).then_some(fd))
}

fn is_folder(name: &OsStr) -> bool {
    name.as_bytes().strip_prefix(PREFIX.as_bytes()).is_some_and(|rest| {
        rest.len() == LETTERS && rest.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Removes the folders of processes that are gone.
fn remove_stale(base: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(base)?.flatten().filter(|entry| is_folder(&entry.file_name())) {
        remove(&entry.path());
    }
    Ok(())
}

/// Removes a folder if nobody holds it.
fn remove(path: &Path) {
    let Ok(Some(lock)) = lock(path) else { return };
    // In the folder that is locked, whatever its name stands for by now.
    for socket in rustix::fs::Dir::read_from(&lock).into_iter().flatten().flatten() {
        let _ = rustix::fs::unlinkat(&lock, socket.file_name(), AtFlags::empty());
    }
    let _ = std::fs::remove_dir(path);
}

/// What the helper runs once the owner has ended.
fn after_the_owner(folder: String) {
    let folder = PathBuf::from(folder);
    // A copy of the owner's descriptors may live a moment longer: in a program that is about to be executed, say.
    for _ in 0..100 {
        remove(&folder);
        if inode_of(&folder).is_none() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = folder.parent().map(remove_stale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_ours_are_looked_at() {
        assert!(is_folder("procession-0123456789abcdef".as_ref()));
        for other in ["procession-", "procession-0123456789abcdeg", "procession-0123456789abcdef0", "x"] {
            assert!(!is_folder(other.as_ref()), "{other}");
        }
    }

    #[test]
    fn a_folder_is_made_where_somebody_tidies_up_at_the_same_time() {
        let path = std::env::temp_dir().join(format!("net-paths-busy-{}", std::process::id()));
        let mut tidying = Some(Folder::make(&path).unwrap());
        let mut tries = 0;
        let made = Folder::make_with(&path, || {
            tries += 1;
            match tries {
                1 => {}
                2 => std::fs::remove_dir(&path).unwrap(),
                _ => tidying = None,
            }
        });
        assert!(made.unwrap().path.exists() && tries >= 2);
        std::fs::remove_dir(path).unwrap();
    }

    #[test]
    fn a_folder_whose_owner_is_gone_is_removed_and_a_held_one_is_not() {
        let base = std::env::temp_dir().join(format!("net-paths-{}", std::process::id()));
        std::fs::create_dir_all(&base).unwrap();
        let held = Folder::make(&base.join("procession-0000000000000001")).unwrap();
        let left = Folder::make(&base.join("procession-0000000000000002")).unwrap();
        std::fs::write(left.path.join("1"), "").unwrap();
        let Folder { path, _lock } = left;
        drop(_lock);
        remove_stale(&base).unwrap();
        assert!(held.path.exists() && !path.exists());
        std::fs::remove_dir_all(base).unwrap();
    }
}

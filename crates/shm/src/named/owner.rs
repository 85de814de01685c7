//! Who owns a named segment, and how its name goes when the owner does.
//!
//! # The record
//!
//! A user's segment holds the user's bytes and nothing else, so what must be known about it lies beside it: a *record*,
//! a small file in the same folder, made before the segment and removed after it. The owner holds a lock on it
//! (`flock(2)`) through a descriptor that nobody else has; the kernel drops the lock with the last copy of that
//! descriptor, however the owner ends. **A record whose lock is free belongs to nobody alive.** No pid is asked for one,
//! since pids mean nothing across namespaces.
//!
//! | bytes | content |
//! |---|---|
//! | 0 to 18 | `procession owner 1`, newline |
//! | 19 to 51 | the owning process's token, 32 hexadecimal digits, newline |
//! | 52 to 85 | device and inode of the segment in hexadecimal, zero before it exists, newline |
//! | 86 to 117 | the name under which the segment is made, newline |
//! | 118 to the end | its name |
//!
//! # Protocol
//!
//! Only the holder of a record's lock writes the record, or removes it; and having got a lock everybody looks whether the
//! record still has its name, since the one before may have removed it.
//!
//! | step of the owner | killed after it, there is | a remover |
//! |---|---|---|
//! | 1. open the record (create it), lock it | an empty record | removes the record |
//! | 2. write it, without an inode | a record | removes the record |
//! | 3. create the segment under a name of our own | and a nameless segment of any size | removes that name |
//! | 4. write the inode | the same | the same |
//! | 5. reserve its pages | the same | the same |
//! | 6. link it to its name (**the commit**: fails if that is taken) | a whole segment with two names | removes both |
//! | 7. unlink the name of our own | a whole segment | removes its name |
//! | 8. end of ownership: unlink the name | a record | removes the record |
//! | 9. unlink the record, close it | nothing | – |
//!
//! So a name never stands for half a segment, also not for a CPython process that looks at the wrong moment; and a name
//! is unlinked only if it stands for the recorded inode, never when somebody else has made it anew since. (Between that
//! look and the unlinking lies an instant in which a foreign program could do so; the kernel has no call for both. Ours
//! cannot: they need the record's lock.)
//!
//! A record is believed only if it belongs to this user: another one could have it name a victim's segment. A segment that
//! was given to another user since (`chown(2)`) is that user's.
//!
//! # When a process dies
//!
//! The owner: its exit hook removes what it owns; where that does not run (SIGKILL, `_exit`) the helper that outlives it
//! ([`procession_sys::guardian`]) does, within moments. Where there is none, or it died too, the next process that makes
//! its first named segment does, or whoever calls [`remove_stale`].
//! A remover: the lock is free again, and the next remover goes on. Two removers at once: one gets the lock.
//!
//! A forked child owns nothing: the fork hook closes its copies of the descriptors, or it would keep the locks. A copy
//! made by a raw `clone(2)` without hooks keeps them until it ends or executes something.

use super::names;
use crate::Error;
use procession_sys::{OverFork, ProcessId, crash_point, guardian, hooks};
use rustix::{
    fs::{FileType, FlockOperation, Mode, OFlags, Stat},
    io::{Errno, retry_on_intr},
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    os::fd::OwnedFd,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// An inode and the device that it is on.
pub(super) type Object = (u64, u64);

const HEADER: &str = "procession owner 1\n";
/// Where device and inode stand in a record.
const OBJECT: u64 = 19 + 33;
/// No record is longer.
const LONGEST_RECORD: usize = 512;

/// What this process owns.
struct Owned {
    /// Drawn with the first claim.
    token: Option<String>,
    claims: BTreeMap<u64, Claimed>,
}

struct Claimed {
    record: OwnedFd,
    /// The record's own name.
    file: String,
    making: String,
    name: String,
    object: Option<Object>,
    /// The segment has its own name, and no other.
    named: bool,
    /// Against copies of this table in a process that a raw clone made.
    owner: ProcessId,
}

/// The lock is held over every fork, and taken within no other.
static OWNED: OverFork<Owned> = OverFork::new(Owned { token: None, claims: BTreeMap::new() });

/// Something that this process owns, for as long as the table holds it.
pub(super) struct Claim(u64);

/// Why a name cannot be claimed.
pub(super) enum Refusal {
    /// A living process owns it.
    Taken,
    Os(&'static str, Errno),
}

/// What is done once in a process before it owns anything, and the token of this one.
fn prepare() -> Result<String, Refusal> {
    static HOOKS: Once = Once::new();
    HOOKS.call_once(|| {
        hooks::around_fork(hooks::ForkHooks {
            before: Some(|| OWNED.hold()),
            in_parent: Some(|| OWNED.release()),
            in_child: Some(|| {
                OWNED.reset(|owned| {
                    owned.claims.clear();
                    owned.token = None;
                });
            }),
        });
    });
    if let Some(token) = &OWNED.lock().token {
        return Ok(token.clone());
    }
    let bytes: [u8; 16] = names::random().map_err(|errno| Refusal::Os("getrandom", errno))?;
    let mut token = String::new();
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(token, "{byte:02x}");
    }
    {
        let mut owned = OWNED.lock();
        if let Some(other) = &owned.token {
            return Ok(other.clone());
        }
        owned.token = Some(token.clone());
    }
    // After all of the user's own: they may still use what goes now.
    hooks::at_exit(i32::MIN, end_all);
    // What was left behind where no helper was; what cannot be removed now stays for another time.
    let _ = remove_stale();
    Ok(token)
}

impl Claim {
    /// Claims a name: from now on its end is the end of this process, unless it is dropped or released before.
    pub(super) fn of(name: &str) -> Result<Claim, Refusal> {
        // A locked record may be one that a remover looks at, for some microseconds.
        const TRIES: u32 = 40;
        const PAUSE: Duration = Duration::from_micros(100);
        static NEXT: AtomicU64 = AtomicU64::new(1);

        let token = prepare()?;
        // Before there is a name. Without a helper `remove_stale` finds it all the same.
        let _ = guardian::ensure(after_the_owner, &token);
        let making = names::making().map_err(|errno| Refusal::Os("getrandom", errno))?;
        for _ in 0..TRIES {
            let mut owned = OWNED.lock();
            // Under the lock until it is in the table, so that no forked child gets a copy that it does not close.
            let file = names::record(name);
            let locked = Record::lock(&file, OFlags::CREATE).map_err(|errno| match errno {
                // Alive or dead, its owner is another user.
                Errno::ACCESS | Errno::PERM if is_another_users(&file) => Refusal::Taken,
                errno => Refusal::Os("open", errno),
            });
            match locked? {
                Locked::Here(record) => {
                    // Whoever left it is dead.
                    record.remove_segment().map_err(|errno| Refusal::Os("shm_unlink", errno))?;
                    crash_point!("owner.claimed");
                    record
                        .write(&token, &making, name)
                        .inspect_err(|_| record.remove())
                        .map_err(|errno| Refusal::Os("write", errno))?;
                    let id = NEXT.fetch_add(1, Ordering::Relaxed);
                    let claimed = Claimed {
                        record: record.fd,
                        file: record.file,
                        making,
                        name: name.to_owned(),
                        object: None,
                        named: false,
                        owner: ProcessId::current(),
                    };
                    owned.claims.insert(id, claimed);
                    return Ok(Claim(id));
                }
                Locked::Gone => {}
                Locked::Held => {
                    drop(owned);
                    std::thread::sleep(PAUSE);
                }
            }
        }
        Err(Refusal::Taken)
    }

    /// Under which name to make the segment.
    pub(super) fn making(&self) -> Option<String> {
        OWNED.lock().claims.get(&self.0).map(|claimed| claimed.making.clone())
    }

    /// Records which object was made.
    pub(super) fn made(&self, object: Object) -> Result<(), Errno> {
        let mut owned = OWNED.lock();
        let claimed = owned.claims.get_mut(&self.0).ok_or(Errno::BADF)?;
        let text = format!("{:016x} {:016x}", object.0, object.1);
        write_all(&claimed.record, text.as_bytes(), OBJECT)?;
        claimed.object = Some(object);
        Ok(())
    }

    /// Gives the object its name. EEXIST if that is taken.
    pub(super) fn name(&self) -> Result<(), (&'static str, Errno)> {
        let mut owned = OWNED.lock();
        let claimed = owned.claims.get_mut(&self.0).ok_or(("link", Errno::BADF))?;
        crash_point!("owner.made");
        rustix::fs::link(names::path(&claimed.making), names::path(&claimed.name))
            .map_err(|errno| ("link", errno))?;
        crash_point!("owner.linked");
        rustix::shm::unlink(claimed.making.as_str()).map_err(|errno| ("shm_unlink", errno))?;
        claimed.named = true;
        Ok(())
    }

    /// Whether this process holds it: a forked copy does not.
    pub(super) fn is_held(&self) -> bool {
        OWNED.lock().claims.get(&self.0).is_some_and(|claimed| claimed.owner == ProcessId::current())
    }

    /// Ends the ownership and unlinks the name. `None` if this process does not hold it; false if the name was gone.
    pub(super) fn unlink(&self) -> Option<Result<bool, Errno>> {
        let mut owned = OWNED.lock();
        let claimed = owned.claims.remove(&self.0)?;
        claimed.ours().then(|| claimed.end())
    }

    /// Ends the ownership and leaves the name. False if this process does not hold it.
    pub(super) fn release(&self) -> bool {
        let mut owned = OWNED.lock();
        let Some(claimed) = owned.claims.remove(&self.0).filter(Claimed::ours) else { return false };
        claimed.forget();
        true
    }
}

/// A segment that came to nothing, or whose last owning handle is dropped.
impl Drop for Claim {
    fn drop(&mut self) {
        // Nobody is left to tell; what remains is found by `remove_stale`.
        let _ = self.unlink();
    }
}

impl Claimed {
    fn ours(&self) -> bool {
        self.owner == ProcessId::current()
    }

    /// Unlinks the segment, then the record, whose lock goes with its descriptor.
    fn end(self) -> Result<bool, Errno> {
        let removed = unlink_object(&self.name, self.object);
        crash_point!("owner.unlinked");
        if removed.is_ok() {
            self.forget();
        }
        removed
    }

    fn forget(self) {
        // What cannot be removed here has a free lock, and is found.
        if !self.named {
            let _ = rustix::shm::unlink(self.making.as_str());
        }
        let _ = rustix::shm::unlink(self.file.as_str());
        drop(self.record);
    }
}

/// The end of a process in order.
fn end_all() {
    let mut owned = OWNED.lock();
    for (_, claimed) in std::mem::take(&mut owned.claims) {
        if claimed.ours() {
            let _ = claimed.end();
        }
    }
}

/// Unlinks a name if it stands for this object. False if it does not.
fn unlink_object(name: &str, object: Option<Object>) -> Result<bool, Errno> {
    let Some(object) = object else { return Ok(false) };
    match rustix::fs::lstat(names::path(name)) {
        Ok(stat) if identity(&stat) == object => match rustix::shm::unlink(name) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        },
        Ok(_) | Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether there is a file of this name that this user does not own.
fn is_another_users(name: &str) -> bool {
    let us = rustix::process::geteuid().as_raw();
    rustix::fs::lstat(names::path(name)).is_ok_and(|stat| stat.st_uid != us)
}

pub(super) fn identity(stat: &Stat) -> Object {
    (stat.st_dev, stat.st_ino)
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::pwrite(fd, bytes, offset))? {
            0 => return Err(Errno::IO),
            count => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// A record whose lock this process holds.
struct Record {
    fd: OwnedFd,
    file: String,
}

enum Locked {
    /// We hold it.
    Here(Record),
    /// Somebody else does.
    Held,
    /// It was removed meanwhile, or is none of ours.
    Gone,
}

/// What a record says.
struct Content {
    token: String,
    object: Option<Object>,
    making: String,
    name: String,
}

impl Record {
    /// Opens a record and takes its lock, if it is free.
    fn lock(file: &str, create: OFlags) -> Result<Locked, Errno> {
        let Some(fd) = Record::open(file, create)? else { return Ok(Locked::Gone) };
        match retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Record::check(fd, file),
            Err(Errno::WOULDBLOCK) => Ok(Locked::Held),
            Err(errno) => Err(errno),
        }
    }

    /// As [`lock`](Record::lock), but waits for whoever holds it.
    fn wait(file: &str) -> Result<Locked, Errno> {
        let Some(fd) = Record::open(file, OFlags::empty())? else { return Ok(Locked::Gone) };
        retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive))?;
        Record::check(fd, file)
    }

    fn open(file: &str, create: OFlags) -> Result<Option<OwnedFd>, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | create;
        let path = names::path(file);
        let opened = retry_on_intr(|| rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR));
        match opened {
            Err(Errno::NOENT) if create.is_empty() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Having the lock, looks whether it is still the lock of a record, and of this user's.
    fn check(fd: OwnedFd, file: &str) -> Result<Locked, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if stat.st_nlink == 0 {
            return Ok(Locked::Gone);
        }
        if !regular || stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Errno::ACCESS);
        }
        Ok(Locked::Here(Record { fd, file: file.to_owned() }))
    }

    fn write(&self, token: &str, making: &str, name: &str) -> Result<(), Errno> {
        // What stood here was seen to; a record that is cut off says nothing.
        rustix::fs::ftruncate(&self.fd, 0)?;
        let text = format!("{HEADER}{token}\n{:016x} {:016x}\n{making}\n{name}", 0, 0);
        write_all(&self.fd, text.as_bytes(), 0)
    }

    /// `None` if it is empty or cut off: then there is no segment yet. An error if it is of another version.
    fn read(&self) -> Result<Option<Content>, Errno> {
        let mut bytes = [0; LONGEST_RECORD];
        let mut length = 0;
        loop {
            match retry_on_intr(|| rustix::io::pread(&self.fd, &mut bytes[length..], length as u64))? {
                0 => break,
                count => length += count,
            }
        }
        let bytes = &bytes[..length];
        if !bytes.starts_with(HEADER.as_bytes()) && !HEADER.as_bytes().starts_with(bytes) {
            return Err(Errno::INVAL);
        }
        Ok(std::str::from_utf8(bytes).ok().and_then(parse))
    }

    /// Removes the segment that a dead owner left. True if there was one under its name.
    fn remove_segment(&self) -> Result<Option<String>, Errno> {
        let Some(content) = self.read()? else { return Ok(None) };
        match rustix::shm::unlink(content.making.as_str()) {
            // One that is another user's was made by that user, after ours was gone.
            Ok(()) | Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
        match unlink_object(&content.name, content.object) {
            Ok(removed) => Ok(removed.then_some(content.name)),
            // It was given to another user: whose it is now.
            Err(Errno::PERM | Errno::ACCESS) if is_another_users(&content.name) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn remove(&self) {
        let _ = rustix::shm::unlink(self.file.as_str());
    }
}

fn parse(text: &str) -> Option<Content> {
    let mut fields = text.strip_prefix(HEADER)?.splitn(4, '\n');
    let (token, object, making, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (device, inode) = object.split_once(' ')?;
    let object = (u64::from_str_radix(device, 16).ok()?, u64::from_str_radix(inode, 16).ok()?);
    if !names::is_making(making) || names::check("read", name).ok()? != name {
        return None;
    }
    Some(Content {
        token: token.to_owned(),
        object: (object.1 != 0).then_some(object),
        making: making.to_owned(),
        name: name.to_owned(),
    })
}

/// The names of all records there are.
fn records() -> Result<Vec<String>, Errno> {
    let folder =
        rustix::fs::open(names::FOLDER, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::new(folder)? {
        if let Ok(file) = entry?.file_name().to_str()
            && names::is_record(file)
        {
            found.push(file.to_owned());
        }
    }
    Ok(found)
}

/// Removes a record that nobody holds, and its segment; the segment's name, if it still had it.
fn remove_one(record: &Record) -> Result<Option<String>, Errno> {
    let removed = record.remove_segment();
    crash_point!("remover.unlinked");
    if removed.is_ok() {
        record.remove();
    }
    removed
}

/// Removes the segments whose owners are dead. See [`SharedMemory::remove_stale`](crate::SharedMemory::remove_stale).
pub(super) fn remove_stale() -> Result<Vec<String>, Error> {
    let failed = |file: &str, call, errno| Error::os("remove stale", names::object(file), call, errno);
    let mut removed = Vec::new();
    let found = match records() {
        Ok(found) => found,
        // Nothing was ever made.
        Err(Errno::NOENT) => return Ok(removed),
        Err(errno) => return Err(failed(names::FOLDER, "open", errno)),
    };
    let mut failure = None;
    for file in found {
        // Held over what a forked child would otherwise keep locked.
        let _no_fork = OWNED.lock();
        match Record::lock(&file, OFlags::empty()) {
            Ok(Locked::Here(record)) => match remove_one(&record) {
                Ok(name) => removed.extend(name),
                // Another version's: not for us to judge.
                Err(Errno::INVAL) => {}
                // The others are not to wait for it.
                Err(errno) => failure = failure.or_else(|| Some(failed(&file, "shm_unlink", errno))),
            },
            Ok(Locked::Held | Locked::Gone) => {}
            // Another user's, or no record at all.
            Err(Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => {}
            Err(errno) => failure = failure.or_else(|| Some(failed(&file, "flock", errno))),
        }
    }
    failure.map_or(Ok(removed), Err)
}

/// What the helper runs after the end of the process with this token.
fn after_the_owner(token: String) {
    let _ = remove_stale();
    // A copy of the owner's descriptors may live a moment longer: in a program that is about to be executed, say.
    for file in records().unwrap_or_default() {
        let theirs = Record::open(&file, OFlags::empty())
            .ok()
            .flatten()
            .and_then(|fd| Record { fd, file: file.clone() }.read().ok().flatten())
            .is_some_and(|content| content.token == token);
        if theirs && let Ok(Locked::Here(record)) = Record::wait(&file) {
            let _ = remove_one(&record);
        }
    }
}

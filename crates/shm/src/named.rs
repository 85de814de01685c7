//! [`SharedMemory`]: memory with a name, shared with any program that knows it.
//!
//! # Parts
//!
//! * `names`: what is a name; `view`: the mapping; `words`: copies without data races;
//! * `manager`: one owner for many names;
//! * `owner`: who owns a name, and how it goes when the owner dies. The protocol stands there.

mod manager;
mod names;
mod owner;
mod view;
mod words;

pub use manager::SharedMemoryManager;

use crate::{Error, error::Cause};
use bytemuck::Pod;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use owner::{Claim, Refusal};
use rustix::{fs::OFlags, io::Errno, process::Resource};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, ops::Range, ptr::NonNull};
use view::View;

/// Memory with a name, shared with any program of this user that knows the name: CPython's
/// `multiprocessing.shared_memory.SharedMemory`, and compatible with it in both directions.
///
/// ```
/// use procession_shm::SharedMemory;
///
/// let ours = SharedMemory::create(100)?; // a fresh name, as `psm_6f1c20ab`
/// ours.write_at(0, b"hello")?;
///
/// let theirs = SharedMemory::open(ours.name())?; // in any process
/// let mut word = [0; 5];
/// theirs.read_at(0, &mut word)?;
/// assert_eq!(&word, b"hello");
///
/// drop(ours); // the owner's end is the end of the name, not of the memory
/// assert!(SharedMemory::open(theirs.name()).unwrap_err().is_not_found());
/// theirs.write_at(0, b"still")?;
/// # Ok::<(), procession_shm::Error>(())
/// ```
///
/// Where no other program needs to find the memory, use [`Segment`](crate::Segment), which has no name to leave behind.
///
/// # Who owns it
///
/// The handle that made it, in the process that made it. When that handle is dropped, the name is unlinked; so it is when
/// the process ends, in whatever way (below). [`persist`](SharedMemory::persist) gives the ownership up and leaves the
/// name. [`open`](SharedMemory::open) never owns, nor does a copy in a forked child. The memory itself lives as long as
/// anybody has it mapped.
///
/// This is where it differs from Python, where a segment stays until somebody calls `unlink`, or until the resource
/// tracker of *any* process that has attached it ends.
///
/// # What is in it
///
/// Bytes that other processes may write at any time, so there is no `&[u8]`: they are copied in and out. All accesses of
/// this type are atomics of 64 bits: threads and processes may use one segment at the same time without undefined
/// behaviour, and a copy that meets another may be a mixture of old and new. Order what you write with an
/// [`atomic_u64`](SharedMemory::atomic_u64), or a lock elsewhere.
///
/// Whoever may write to the segment may also shorten it (`ftruncate(2)`), which makes an access a SIGBUS. There is no
/// seal on named memory: share names with programs that you trust that far.
///
/// # CPython
///
/// Name, size (exact, not rounded) and mode (0600) are those of CPython on Linux. Its resource tracker is the one thing
/// to look after: before 3.13 *every* process that creates or attaches a segment registers the name with a tracker, which
/// unlinks it when that process tree ends, though it belongs to us. Keep it off in the Python program:
///
/// ```python
/// shm = SharedMemory(name="...", track=False)                  # 3.13 and later
/// from multiprocessing import resource_tracker                 # before
/// shm = SharedMemory(name="...")
/// resource_tracker.unregister(shm._name, "shared_memory")
/// ```
///
/// The other way round nothing is needed: we register nothing, and never unlink what we have only opened.
///
/// # When a process dies
///
/// * **The owner**, SIGKILL included: a helper process that outlives it (`procession: guardian`, started with the first
///   owned segment by the `procession-process` crate) unlinks the name within moments. In a program without that crate,
///   or should the helper be killed too, the name stays until the next process that makes its first named segment
///   clears it away, or [`remove_stale`](SharedMemory::remove_stale) is called; and who makes a segment of a name whose
///   owner is dead gets it at once. A name never stands for half a segment: it is given when all is in place.
/// * **Others** leave nothing: their mapping goes with them.
pub struct SharedMemory {
    name: String,
    view: View,
    /// Held by the handle that made the segment, in the process that did.
    claim: Option<Claim>,
    state: AtomicU8,
}

/// This handle has not given up what it had: see `claim`.
const AS_MADE: u8 = 0;
const UNLINKED: u8 = 1;
const PERSISTED: u8 = 2;

impl SharedMemory {
    /// Makes a segment of `size` zero bytes under a fresh name, and owns it.
    ///
    /// All of its pages are reserved now, so that no later access fails for lack of memory.
    ///
    /// # Errors
    ///
    /// * `size` is zero;
    /// * no room in `/dev/shm` ([`is_no_space`](Error::is_no_space)), no memory or address space, no descriptors, or
    ///   `RLIMIT_FSIZE` is smaller.
    ///
    /// No name is left behind then.
    #[doc(alias = "shm_open")]
    pub fn create(size: usize) -> Result<SharedMemory, Error> {
        SharedMemory::create_with(size, |_| Ok(()))
    }

    /// As [`create`](SharedMemory::create), filled before it has its name.
    pub(crate) fn create_with(
        size: usize,
        fill: impl Fn(&SharedMemory) -> Result<(), Error>,
    ) -> Result<SharedMemory, Error> {
        SharedMemory::create_under(size, names::fresh, fill)
    }

    /// Makes a segment under the first name drawn that is free.
    fn create_under(
        size: usize,
        mut draw: impl FnMut() -> Result<String, Errno>,
        fill: impl Fn(&SharedMemory) -> Result<(), Error>,
    ) -> Result<SharedMemory, Error> {
        loop {
            let name = draw().map_err(|errno| Error::os(CREATE, sized("", size), "getrandom", errno))?;
            match SharedMemory::create_named_with(&name, size, &fill) {
                Err(error) if error.is_already_exists() => {}
                other => return other,
            }
        }
    }

    /// Makes a segment of `size` zero bytes under a name of your own, and owns it.
    ///
    /// A leading slash is taken off. The name of a segment whose owner has died is free.
    ///
    /// # Errors
    ///
    /// As [`create`](SharedMemory::create), and:
    /// * the name is empty, longer than 255 bytes, or has a slash or NUL in it, or is one of the library's own;
    /// * it is taken ([`is_already_exists`](Error::is_already_exists)): its owner lives, or was another user.
    pub fn create_named(name: &str, size: usize) -> Result<SharedMemory, Error> {
        SharedMemory::create_named_with(name, size, |_| Ok(()))
    }

    /// As [`create_named`](SharedMemory::create_named), filled before it has its name.
    pub(crate) fn create_named_with(
        name: &str,
        size: usize,
        fill: impl Fn(&SharedMemory) -> Result<(), Error>,
    ) -> Result<SharedMemory, Error> {
        let name = names::check(CREATE, name)?;
        let fail = |cause| Error::new(CREATE, sized(name, size), cause);
        let os = |(call, errno)| match errno {
            Errno::EXIST => fail(Cause::Exists),
            // No file system takes a file of this size.
            Errno::FBIG => fail(Cause::NoSpace),
            errno => Error::os(CREATE, sized(name, size), call, errno),
        };
        if size == 0 {
            return Err(fail(Cause::Invalid { what: "it would be empty".to_owned() }));
        }
        if isize::try_from(size).is_err() {
            let what = "it would be larger than the address space".to_owned();
            return Err(fail(Cause::Invalid { what }));
        }
        if let Some(limit) = rustix::process::getrlimit(Resource::Fsize).current
            && limit < size as u64
        {
            return Err(fail(Cause::Limit { name: "RLIMIT_FSIZE", limit }));
        }
        // From here on a drop, and a death, take back what was made.
        let claim = Claim::of(name).map_err(|refusal| match refusal {
            Refusal::Taken => fail(Cause::Exists),
            Refusal::Os(call, errno) => os((call, errno)),
        })?;
        if view::lookup(name).is_ok() {
            return Err(fail(Cause::Exists));
        }
        let making = claim.making().ok_or_else(|| fail(Cause::Exists))?;
        let view = View::create(&making, size).map_err(os)?;
        let fd = view::open_again(&making, OFlags::RDWR).map_err(|errno| os(("shm_open", errno)))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| os(("fstat", errno)))?;
        claim.made(owner::identity(&stat)).map_err(|errno| os(("write", errno)))?;
        view::reserve(&fd, size).map_err(|errno| os(("fallocate", errno)))?;
        drop(fd);
        let state = AtomicU8::new(AS_MADE);
        let shm = SharedMemory { name: name.to_owned(), view, claim: Some(claim), state };
        fill(&shm)?;
        shm.claim.as_ref().map_or(Ok(()), Claim::name).map_err(os)?;
        Ok(shm)
    }

    /// Attaches the segment of this name, to read and write. It does not own it.
    ///
    /// One that another program is just making is waited for, at most 0.2 s.
    ///
    /// # Errors
    ///
    /// * there is none ([`is_not_found`](Error::is_not_found)), or the name is impossible;
    /// * it is another user's ([`is_permission_denied`](Error::is_permission_denied));
    /// * it is empty, and stays so; no descriptors, no memory or address space.
    pub fn open(name: &str) -> Result<SharedMemory, Error> {
        SharedMemory::attach(name, false)
    }

    /// Attaches the segment of this name, to read only: the processor enforces it.
    ///
    /// # Errors
    ///
    /// As [`open`](SharedMemory::open).
    pub fn open_read_only(name: &str) -> Result<SharedMemory, Error> {
        SharedMemory::attach(name, true)
    }

    fn attach(name: &str, read_only: bool) -> Result<SharedMemory, Error> {
        let name = names::check(OPEN, name)?;
        let fail = |cause| Error::new(OPEN, names::object(name), cause);
        let view = View::open(name, read_only).map_err(|(call, errno)| match (call, errno) {
            (_, Errno::NOENT) => fail(Cause::NotFound),
            ("mmap", Errno::INVAL) => fail(Cause::Foreign { what: "it is empty" }),
            _ => Error::os(OPEN, names::object(name), call, errno),
        })?;
        Ok(SharedMemory { name: name.to_owned(), view, claim: None, state: AtomicU8::new(AS_MADE) })
    }

    /// Another handle for the same segment, by its name, which does not own it.
    ///
    /// # Errors
    ///
    /// As [`open`](SharedMemory::open). The name may have been unlinked.
    pub fn try_clone(&self) -> Result<SharedMemory, Error> {
        SharedMemory::attach(&self.name, self.is_read_only())
    }

    /// Its name, without the leading slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size in bytes, exactly as it was asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.view.len()
    }

    /// Never: an empty segment is neither made nor attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this handle owns the name. See the type's page.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.state.load(Ordering::Relaxed) == AS_MADE && self.claim.as_ref().is_some_and(Claim::is_held)
    }

    /// Whether it was attached to read only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.view.is_read_only()
    }

    /// Takes the name away: nobody can attach the segment any more. Whoever has it mapped keeps the memory.
    ///
    /// Only the owner may. It is unlinked if the name still stands for this segment.
    ///
    /// # Errors
    ///
    /// * it is gone already ([`is_not_found`](Error::is_not_found)), by this call or another program's;
    /// * this handle does not own it ([`is_not_owner`](Error::is_not_owner)): see [`remove`](SharedMemory::remove).
    #[doc(alias = "shm_unlink")]
    pub fn unlink(&self) -> Result<(), Error> {
        const UNLINK: &str = "unlink";
        let fail = |cause| Error::new(UNLINK, names::object(&self.name), cause);
        let Some(claim) = &self.claim else { return Err(fail(Cause::NotOwner)) };
        match claim.unlink() {
            Some(removed) => {
                self.state.store(UNLINKED, Ordering::Relaxed);
                match removed {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(fail(Cause::NotFound)),
                    Err(errno) => Err(Error::os(UNLINK, names::object(&self.name), "shm_unlink", errno)),
                }
            }
            None if self.state.load(Ordering::Relaxed) == UNLINKED => Err(fail(Cause::NotFound)),
            None => Err(fail(Cause::NotOwner)),
        }
    }

    /// Gives up the ownership and leaves the name: it stays until somebody removes it, or the machine is booted anew.
    /// False if this handle does not own it.
    pub fn persist(&self) -> bool {
        let given_up = self.claim.as_ref().is_some_and(Claim::release);
        if given_up {
            self.state.store(PERSISTED, Ordering::Relaxed);
        }
        given_up
    }

    /// Unlinks a name, whoever made the segment: for one that [`persist`](SharedMemory::persist) or another program left.
    ///
    /// # Errors
    ///
    /// * there is none ([`is_not_found`](Error::is_not_found)), or the name is impossible;
    /// * it is another user's.
    pub fn remove(name: &str) -> Result<(), Error> {
        const REMOVE: &str = "remove";
        let name = names::check(REMOVE, name)?;
        rustix::shm::unlink(name).map_err(|errno| match errno {
            Errno::NOENT => Error::new(REMOVE, names::object(name), Cause::NotFound),
            errno => Error::os(REMOVE, names::object(name), "shm_unlink", errno),
        })
    }

    /// Removes all of this user's segments whose owners are dead, and returns their names.
    ///
    /// An owner holds a lock as long as it lives; what is locked stays, and so does what was made by other programs, left by
    /// [`persist`](SharedMemory::persist), or is another user's, root being a user like any other. Ordinarily there is nothing to find (see the type's page).
    ///
    /// # Errors
    ///
    /// No descriptors, or `/dev/shm` cannot be read.
    pub fn remove_stale() -> Result<Vec<String>, Error> {
        owner::remove_stale()
    }

    fn check(&self, operation: &'static str, range: Range<usize>) -> Result<(), Error> {
        if range.start <= range.end && range.end <= self.len() {
            return Ok(());
        }
        let what = format!("bytes {} to {} are not within its {}", range.start, range.end, self.len());
        Err(Error::new(operation, names::object(&self.name), Cause::Invalid { what }))
    }

    fn check_write(&self, offset: usize, len: usize) -> Result<(), Error> {
        self.check(WRITE, offset..offset.saturating_add(len))?;
        if self.is_read_only() {
            return Err(Error::new(WRITE, names::object(&self.name), Cause::ReadOnly));
        }
        Ok(())
    }

    /// Copies the bytes from `offset` on out.
    ///
    /// # Errors
    ///
    /// They are not all within the segment.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result<(), Error> {
        self.check(READ, offset..offset.saturating_add(bytes.len()))?;
        self.view.words().read(offset, bytes);
        Ok(())
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    ///
    /// * they would not all be within the segment; nothing is written then;
    /// * it was attached to read only ([`is_permission_denied`](Error::is_permission_denied)).
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        self.check_write(offset, bytes.len())?;
        self.view.words().write(offset, bytes);
        Ok(())
    }

    /// Sets a range of bytes to one value.
    ///
    /// # Errors
    ///
    /// As [`write_at`](SharedMemory::write_at).
    pub fn fill(&self, range: Range<usize>, byte: u8) -> Result<(), Error> {
        self.check(WRITE, range.clone())?;
        self.check_write(range.start, range.len())?;
        let mut offset = range.start;
        while offset < range.end {
            // Up to a multiple, so that all but the first part are whole words.
            let count = (4096 - offset % 4096).min(range.end - offset);
            self.view.words().write(offset, &[byte; 4096][..count]);
            offset += count;
        }
        Ok(())
    }

    /// Copies all of it out.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.view.words().read(0, &mut bytes);
        bytes
    }

    /// Copies a plain value out, from any offset: numbers, arrays of them, structures of plain data.
    ///
    /// # Errors
    ///
    /// As [`read_at`](SharedMemory::read_at).
    pub fn get<T: Pod>(&self, offset: usize) -> Result<T, Error> {
        let mut value = T::zeroed();
        self.read_at(offset, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Copies a plain value in, at any offset.
    ///
    /// # Errors
    ///
    /// As [`write_at`](SharedMemory::write_at).
    pub fn set<T: Pod>(&self, offset: usize, value: T) -> Result<(), Error> {
        self.write_at(offset, bytemuck::bytes_of(&value))
    }

    /// The eight bytes at `offset`, which must be a multiple of 8, as an atomic number: to count, to signal, to order
    /// what was written before it (store with `Release`, load with `Acquire`).
    ///
    /// # Errors
    ///
    /// * they are not all within the segment, or the offset is not a multiple of 8;
    /// * the segment was attached to read only.
    pub fn atomic_u64(&self, offset: usize) -> Result<&AtomicU64, Error> {
        self.check_write(offset, size_of::<u64>())?;
        if !offset.is_multiple_of(size_of::<u64>()) {
            let what = format!("offset {offset} is not a multiple of 8");
            return Err(Error::new("use", names::object(&self.name), Cause::Invalid { what }));
        }
        Ok(self.view.words().word(offset / size_of::<u64>()))
    }

    /// Where it starts in this process, aligned to a page. Good for [`len`](SharedMemory::len) bytes, as long as this handle
    /// lives, and for nothing but reading if it [is read only](SharedMemory::is_read_only).
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.view.start()
    }
}

const CREATE: &str = "create";
const OPEN: &str = "open";
const READ: &str = "read";
const WRITE: &str = "write";

fn sized(name: &str, size: usize) -> String {
    format!("{} ({size} bytes)", names::object(name))
}

/// As name and size, in any format; CPython pickles the same two.
///
/// The other side attaches the segment when it decodes, and does not own it: keep the owning handle until then. (An
/// argument of `Process::spawn` is dropped by the parent once it is packed: send a [`try_clone`](SharedMemory::try_clone).)
impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.name, self.len() as u64).serialize(serializer)
    }
}

/// Attaches, as [`SharedMemory::open`] does; an error if the segment is gone, or another one has its name now (as far as
/// its size tells).
impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedMemory, D::Error> {
        let (name, size) = <(String, u64)>::deserialize(deserializer)?;
        let shm = SharedMemory::open(&name).map_err(serde::de::Error::custom)?;
        let found = shm.len() as u64;
        if found != size {
            let cause = Cause::Differs { what: "size", found, expected: size };
            return Err(serde::de::Error::custom(Error::new(OPEN, names::object(&name), cause)));
        }
        Ok(shm)
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("name", &self.name)
            .field("len", &self.len())
            .field("owner", &self.is_owner())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_name_that_is_taken_is_drawn_again() {
        let taken = SharedMemory::create(10).unwrap();
        let free = names::fresh().unwrap();
        let mut names = vec![free.clone(), taken.name().to_owned(), taken.name().to_owned()];
        let made = SharedMemory::create_under(10, || Ok(names.pop().unwrap()), |_| Ok(())).unwrap();
        assert_eq!(made.name(), free);
        assert!(names.is_empty());
    }
}

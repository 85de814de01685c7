//! A named segment in this address space.
//!
//! # Who unmaps
//!
//! A mapping for reading and writing is the `shared_memory` crate's, and unmapped by that crate's `Drop` and nowhere
//! else; one for reading only, which the crate cannot make, is ours and unmapped by `ReadOnly`'s. Each handle has a mapping
//! of its own: there is no table as for [`Segment`](crate::Segment), since the crate keeps its descriptor for itself.
//! No robust lock may be put here: see `mapping` for what that would ask of an unmapping.
//!
//! # Ownership
//!
//! The crate unlinks a name when the handle that made it is dropped, in a forked child too, and whatever the name stands
//! for by then. So ownership is taken away from it before anything else happens, and lies in `owner`.
#![expect(
    unsafe_code,
    reason = "mmap, madvise and munmap; what another crate has mapped goes between threads"
)]

use super::{names, words::Words};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
};
use shared_memory::{Shmem, ShmemConf, ShmemError};
use std::{
    os::fd::OwnedFd,
    ptr::NonNull,
    time::{Duration, Instant},
};

/// How long a creator may take between `shm_open` and `ftruncate`. One that died there never does.
const MAKING_PATIENCE: Duration = Duration::from_millis(200);

/// What another crate or the kernel says.
pub(super) type Failure = (&'static str, Errno);

pub(super) enum View {
    Shared(Shmem),
    ReadOnly(ReadOnly),
}

// SAFETY: the mapping stands for memory that is shared with other processes anyway, and this crate accesses it by atomics
// only. The crate's handle is not used but for its address and length, which never change, and dropped once.
unsafe impl Send for View {}
// SAFETY: as for `Send`.
unsafe impl Sync for View {}

/// A mapping that cannot be written through.
pub(super) struct ReadOnly {
    start: NonNull<u8>,
    len: usize,
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // SAFETY: this is the whole mapping; pointers into it live as long as the handle, or under the caller's promise.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of a mapping of ours: {unmapped:?}");
    }
}

impl View {
    /// Makes a segment; EEXIST if the name is taken.
    pub(super) fn create(name: &str, len: usize) -> Result<View, Failure> {
        let made = ShmemConf::new().os_id(name).size(len).create();
        View::adopt(made.map_err(|error| failure("shm_open", error))?)
    }

    /// Maps what has this name, waiting shortly for a creator that has not given it a size yet.
    pub(super) fn open(name: &str, read_only: bool) -> Result<View, Failure> {
        let deadline = Instant::now() + MAKING_PATIENCE;
        let mut pause = Duration::from_micros(20);
        loop {
            let opened = if read_only { View::map(name) } else { View::attach(name) };
            match opened {
                // That is what mapping nothing gives.
                Err(("mmap", Errno::INVAL)) if Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    }

    fn attach(name: &str) -> Result<View, Failure> {
        let opened = ShmemConf::new().os_id(name).open();
        View::adopt(opened.map_err(|error| failure("shm_open", error))?)
    }

    fn adopt(mut shmem: Shmem) -> Result<View, Failure> {
        shmem.set_owner(false);
        let view = View::Shared(shmem);
        view.leave_out_of_dumps()?;
        Ok(view)
    }

    fn map(name: &str) -> Result<View, Failure> {
        let fd = open_again(name, OFlags::RDONLY).map_err(|errno| ("shm_open", errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| ("fstat", errno))?;
        let len = usize::try_from(stat.st_size).map_err(|_| ("mmap", Errno::NOMEM))?;
        // SAFETY: a null hint lets the kernel choose unused addresses.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &fd, 0) }
                .map_err(|errno| ("mmap", errno))?;
        let start = NonNull::new(start.cast()).ok_or(("mmap", Errno::NOMEM))?;
        let view = View::ReadOnly(ReadOnly { start, len });
        view.leave_out_of_dumps()?;
        Ok(view)
    }

    /// A core dump would otherwise fault in every hole. Before the first access.
    fn leave_out_of_dumps(&self) -> Result<(), Failure> {
        // SAFETY: the range is the mapping's own, and the advice does not change its contents.
        unsafe { rustix::mm::madvise(self.start().as_ptr().cast(), self.len(), Advice::LinuxDontDump) }
            .map_err(|errno| ("madvise", errno))
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        match self {
            // A mapping that was made does not start at address 0.
            View::Shared(shmem) => NonNull::new(shmem.as_ptr()).unwrap_or(NonNull::dangling()),
            View::ReadOnly(view) => view.start,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            View::Shared(shmem) => shmem.len(),
            View::ReadOnly(view) => view.len,
        }
    }

    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, View::ReadOnly(_))
    }

    pub(super) fn words(&self) -> Words<'_> {
        // SAFETY: the mapping has this start and length, and lives as long as `self`.
        unsafe { Words::new(self.start(), self.len()) }
    }
}

/// A descriptor of our own for what has this name.
pub(super) fn open_again(name: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| rustix::shm::open(name, shm_flags(access), Mode::empty()))
}

fn shm_flags(access: OFlags) -> rustix::shm::OFlags {
    if access == OFlags::RDONLY { rustix::shm::OFlags::RDONLY } else { rustix::shm::OFlags::RDWR }
}

/// The crate tells how far it came by the kind of its error.
fn failure(call: &'static str, error: ShmemError) -> Failure {
    let errno = |number: u32| Errno::from_raw_os_error(number.cast_signed());
    match error {
        ShmemError::MappingIdExists => (call, Errno::EXIST),
        ShmemError::MapOpenFailed(number) if number == errno_of(Errno::INVAL) => ("mmap", Errno::INVAL),
        ShmemError::MapCreateFailed(number) | ShmemError::MapOpenFailed(number) => (call, errno(number)),
        ShmemError::UnknownOsError(number) => ("ftruncate", errno(number)),
        // The others speak of links and of sizes that were checked.
        _ => (call, Errno::INVAL),
    }
}

fn errno_of(errno: Errno) -> u32 {
    errno.raw_os_error().cast_unsigned()
}

/// Reserves all pages of a segment now, so that no later access can fail for lack of one.
pub(super) fn reserve(fd: &OwnedFd, len: usize) -> Result<(), Errno> {
    /// Small enough that a signal does not throw away the work of seconds.
    const STEP: u64 = 64 << 20;
    let len = len as u64;
    // Else the kernel would take what there is, page by page, before it finds that it is not enough.
    let system = rustix::fs::fstatvfs(fd)?;
    // A file system without a limit says that it has no blocks.
    if system.f_blocks > 0 && system.f_bavail.saturating_mul(system.f_frsize) < len {
        return Err(Errno::NOSPC);
    }
    // A file system may promise more than there is: the OOM killer would decide then, and not by who asked.
    if len > STEP && available_memory().is_some_and(|available| available < len) {
        return Err(Errno::NOMEM);
    }
    let mut from = 0;
    while from < len {
        let count = STEP.min(len - from);
        rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(fd, rustix::fs::FallocateFlags::empty(), from, count)
        })?;
        from += count;
    }
    Ok(())
}

/// Memory and swap that could be had now, in bytes (`proc_meminfo(5)`). `None` without `/proc`.
fn available_memory() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(field("MemAvailable:")?.saturating_add(field("SwapFree:")?).saturating_mul(1024))
}

/// What a name stands for now.
pub(super) fn lookup(name: &str) -> Result<super::owner::Object, Errno> {
    rustix::fs::lstat(names::path(name)).map(|stat| super::owner::identity(&stat))
}

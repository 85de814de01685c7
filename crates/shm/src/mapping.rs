//! One mapping per segment and process.
//!
//! # Invariants
//!
//! 1. A mapping covers the whole object, whose size is sealed: no access within it can meet the end of the file.
//! 2. The table holds a weak reference per object, by device and inode. A live mapping holds a descriptor of its
//!    object, so its inode cannot come to mean another.
//! 3. [`Mapping::unmap`] is the only place that unmaps, and runs when the last clone of a segment is dropped.
//! 4. Memory in which the kernel knows a structure by its address is never unmapped: see [`Mapping::keep_while`].
//! 5. `MADV_DONTDUMP` is set before the first access: a core dump would otherwise fault in every hole.
#![expect(unsafe_code, reason = "mmap, madvise and munmap")]

use crate::{
    layout::PAYLOAD,
    members::{self, Membership},
};
use procession_sys::{
    OverFork,
    hooks::{ForkHooks, around_fork},
};
use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::{Arc, MutexGuard, Once, OnceLock, Weak},
};

/// A whole object in the address space of this process, and the descriptor that stands for it.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size: usize,
    object: Object,
    fd: OwnedFd,
    membership: Membership,
    in_use: OnceLock<InUse>,
}

/// Tells whether the kernel, or a thread of this process, still uses a structure in the payload.
type InUse = fn(NonNull<u8>, usize) -> bool;

/// An object by device and inode.
pub(crate) type Object = (u64, u64);

static TABLE: OverFork<BTreeMap<Object, Weak<Mapping>>> = OverFork::new(BTreeMap::new());

/// The memberships of mappings that stay though nobody refers to them: a forked child is not to keep its parent's alive.
static LEFT: OverFork<Vec<RawFd>> = OverFork::new(Vec::new());

fn table() -> MutexGuard<'static, BTreeMap<Object, Weak<Mapping>>> {
    TABLE.lock()
}

/// Registers what happens around forks: forked children join anew what their parent is a member of.
///
/// It happens with the first mapping. Whoever maps under a lock of its own that is held over forks calls it before it
/// registers that one: see [`OverFork`] for the order.
pub fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        around_fork(ForkHooks {
            before: Some(|| {
                members::before_fork();
                TABLE.hold();
                LEFT.hold();
            }),
            in_parent: Some(|| {
                LEFT.release();
                TABLE.release();
                members::after_fork_in_parent();
            }),
            in_child: Some(|| {
                LEFT.reset(|left| left.drain(..).for_each(members::close));
                TABLE.reset(|table| {
                    for mapping in table.values() {
                        // SAFETY: a mapping is in the table until its drop takes it out, under the lock that is held
                        // here over the fork, so it is whole. (A count of its own could be the last one to go.)
                        unsafe { &*mapping.as_ptr() }.membership.end();
                    }
                });
                members::after_fork_in_child();
            }),
        });
    });
}

// SAFETY: the pointer stands for memory that is shared with other processes anyway; whoever accesses it does so by
// atomics or under a protocol of its own. The mapping itself is not changed until it is dropped.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The mapping of the object behind `fd`, of `size` bytes: the one that exists, else a new one.
    ///
    /// The object must be sealed against resizing (invariant 1). The error names the call.
    pub(crate) fn of(fd: OwnedFd, size: usize) -> Result<Arc<Mapping>, (&'static str, Errno)> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| ("fstat", errno))?;
        let object = (stat.st_dev, stat.st_ino);
        watch_forks();
        // Held while mapping, so that two threads that attach one object get one mapping.
        let mut table = table();
        if let Some(mapping) = table.get(&object).and_then(Weak::upgrade) {
            return Ok(mapping);
        }
        // SAFETY: a null hint lets the kernel choose unused addresses.
        let start = unsafe {
            rustix::mm::mmap(
                core::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        }
        .map_err(|errno| ("mmap", errno))?;
        let Some(start) = NonNull::new(start.cast::<u8>()) else { return Err(("mmap", Errno::NOMEM)) };
        // From here on dropping the mapping unmaps. The drop takes the table's lock: it must not run below it.
        let mapping = Arc::new(Mapping {
            start,
            size,
            object,
            fd,
            membership: Membership::none(),
            in_use: OnceLock::new(),
        });
        // SAFETY: the range is the mapping's own, and the advice does not change its contents.
        let advised = unsafe { rustix::mm::madvise(start.as_ptr().cast(), size, Advice::LinuxDontDump) };
        if let Err(errno) = advised {
            drop(table);
            drop(mapping);
            return Err(("madvise", errno));
        }
        table.insert(object, Arc::downgrade(&mapping));
        Ok(mapping)
    }

    /// Where the object starts.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The size of the object.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The device and inode of the object.
    pub(crate) fn object(&self) -> Object {
        self.object
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Has `in_use` asked at the end of the mapping. The first function that is given stays.
    pub(crate) fn keep_while(&self, in_use: InUse) {
        // Whoever gives one gives the same: it depends on the segment's kind.
        let _ = self.in_use.set(in_use);
    }

    /// Whether there are such structures in it.
    pub(crate) fn is_kept(&self) -> bool {
        self.in_use.get().is_some()
    }

    /// Touches the pages of a part of the object for writing, so that no later access pays for it.
    pub(crate) fn populate(&self, offset: usize, len: usize) -> Result<(), Errno> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.size), "a range within the mapping");
        // SAFETY: the start of the range lies within the mapping, as just asserted.
        let start = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: the range lies within the mapping, and populating does not change its contents.
        unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxPopulateWrite) }
    }

    /// Asks for huge pages. A kernel without them refuses, and nothing changes.
    pub(crate) fn advise_huge_pages(&self) {
        // SAFETY: the range is the mapping's own, and the advice does not change its contents.
        let _ = unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.size, Advice::LinuxHugepage) };
    }

    /// Removes the mapping from the table, and from the address space unless it is in use.
    fn unmap(&mut self) {
        let mut table = table();
        // Another thread may have mapped the object anew since the last reference went.
        if table.get(&self.object).is_some_and(|other| core::ptr::eq(other.as_ptr(), self)) {
            table.remove(&self.object);
        }
        // SAFETY: every mapping is larger than that.
        let payload = unsafe { self.start.add(PAYLOAD) };
        if self.in_use.get().is_some_and(|in_use| in_use(payload, self.size - PAYLOAD)) {
            // The membership stays as well: whatever is in use is in use by this process.
            LEFT.lock().extend(self.membership.leave());
            return;
        }
        self.membership.end();
        // SAFETY: this is the whole mapping, and the last reference to it is being dropped: pointers into it are
        // only handed out together with a clone of the segment, or under the caller's promise to keep one.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size) };
        debug_assert!(unmapped.is_ok(), "munmap of a mapping of ours: {unmapped:?}");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.unmap();
    }
}

impl AsFd for Mapping {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

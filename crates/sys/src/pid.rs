//! This process's pid without a system call: it lies in a page that the kernel clears in every copy of the process, be that made
//! by a `fork` that runs hooks or by a bare system call (`MADV_WIPEONFORK`, madvise(2)). Who finds nothing there asks.
#![expect(unsafe_code, reason = "a page of its own, which is never unmapped")]

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

/// The whole page is one: it is what a mapping has at least.
const LENGTH: usize = size_of::<AtomicU32>();

/// Null until it is first asked for; [`NONE`] where there is no such page.
///
/// Not a lock of any kind: who forks while another thread is in here must not find it locked.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
/// Stands for no page.
static NONE: AtomicU32 = AtomicU32::new(0);

/// The pid of this process: `getpid(2)`, as a load. Right in a forked child as well, however it was made; not in one that shares
/// its parent's memory, as that of `vfork(2)` does until it becomes another program.
#[inline]
#[must_use]
pub fn pid() -> u32 {
    let mut page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        page = map();
    }
    if ptr::eq(page, &raw const NONE) {
        return std::process::id();
    }
    // SAFETY: it is a word of a page that stays mapped, here and in each copy of the process.
    let known = unsafe { &*page };
    match known.load(Ordering::Relaxed) {
        0 => {
            let pid = std::process::id();
            known.store(pid, Ordering::Relaxed);
            pid
        }
        pid => pid,
    }
}

/// Maps the page, unless another thread has done so meanwhile.
#[cold]
fn map() -> *mut AtomicU32 {
    let ours = page().unwrap_or((&raw const NONE).cast_mut());
    match PAGE.compare_exchange(ptr::null_mut(), ours, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => ours,
        Err(theirs) => {
            if !ptr::eq(ours, &raw const NONE) {
                // SAFETY: nobody else knows of it.
                let _ = unsafe { munmap(ours.cast(), LENGTH) };
            }
            theirs
        }
    }
}

/// None where the kernel has no memory for it, or does not clear any (before Linux 4.14).
fn page() -> Option<*mut AtomicU32> {
    // SAFETY: no address is asked for, so nothing that is mapped is replaced.
    let mapped = unsafe {
        mmap_anonymous(ptr::null_mut(), LENGTH, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let start = mapped.ok()?;
    // SAFETY: the advice is about this page alone, whose bytes are zeros now.
    if unsafe { madvise(start, LENGTH, Advice::LinuxWipeOnFork) }.is_err() {
        // SAFETY: nobody knows of it.
        let _ = unsafe { munmap(start, LENGTH) };
        return None;
    }
    Some(start.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_made_by_a_bare_system_call_knows_its_own() {
        let ours = pid();
        assert_eq!((ours, pid()), (std::process::id(), ours));
        // SAFETY: `clone` without a stack or flags is `fork`, without its hooks; the child calls what is safe there.
        let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if child == 0 {
            let right = pid() == std::process::id() && pid() != ours;
            // SAFETY: it ends the child, with nothing behind it.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: the child is ours, and the status a place of ours.
        let waited = unsafe { libc::waitpid(child as libc::pid_t, &mut status, 0) };
        assert_eq!((i64::from(waited), status), (child, 0));
        assert_eq!(pid(), ours);
    }
}

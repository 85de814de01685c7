//! glibc's `sem_t` in shared memory, as CPython's semaphores use it.
#![expect(unsafe_code, reason = "C's semaphore in a shared mapping")]

use std::io;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::scenario::{Entry, timed};

const LEN: usize = 4096;

struct Semaphore(NonNull<libc::sem_t>);

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody waits in it. A failure leaves a page mapped.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), LEN) };
    }
}

impl Semaphore {
    fn new(value: u32) -> io::Result<Semaphore> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at a place that the kernel chooses.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), LEN, access, flags) }?;
        let semaphore = NonNull::new(page.cast()).map(Semaphore).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: zeroed memory, large and aligned enough, that nobody uses yet.
        if unsafe { libc::sem_init(semaphore.0.as_ptr(), 1, value) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(semaphore)
    }

    fn wait(&self) -> io::Result<()> {
        // SAFETY: an initialised semaphore, mapped as long as `self` lives.
        if unsafe { libc::sem_wait(self.0.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn post(&self) -> io::Result<()> {
        // SAFETY: as in `wait`.
        if unsafe { libc::sem_post(self.0.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// `sem_wait` and `sem_post` of a free semaphore. Its permits do not return when their taker dies.
///
/// # Errors
///
/// If it cannot be made.
pub fn uncontended() -> Entry {
    let semaphore = Semaphore::new(1)?;
    Ok(Box::new(move |n| {
        timed(n, || {
            semaphore.wait()?;
            Ok(semaphore.post()?)
        })
    }))
}

//! Feature `raw-sync`: robust mutexes behind the traits of the crate [`raw_sync`].
//!
//! Code written for `raw_sync::locks::Mutex` takes [`Mutex`] instead: the same traits, the same 40 bytes of memory, which
//! may lie in any shared mapping. A holder that is killed does not leave it stuck for ever: the next one to lock it
//! gets the error [`Died`], once, and whoever locks it then gets it.
//!
//! Timeouts hold for any duration, not only for whole seconds.
#![expect(unsafe_code, reason = "raw_sync's traits are about raw memory")]

use crate::robust::Robust;
use core::ptr::NonNull;
use procession_sys::Deadline;
use raw_sync::{
    Timeout,
    locks::{LockGuard, LockImpl, LockInit, Mutex as Plain},
};
use std::{error::Error, fmt, time::Duration};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A robust mutex in memory of the caller's.
///
/// # When a process dies
///
/// The kernel lets go of the mutexes of a dead holder and wakes a waiter. The next one to lock it gets [`Died`] as an
/// error and does not hold it; it should look after what the mutex guards, locking it again for that. (`raw_sync`'s
/// guard cannot carry more.)
#[derive(Debug)]
pub struct Mutex {
    _never: core::convert::Infallible,
}

/// The last holder of the mutex died: what the mutex guards may be half changed. The mutex is free now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Died;

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the last holder died while it held the mutex: lock it again, and look after what it guards",
        )
    }
}

impl Error for Died {}

impl LockInit for Mutex {
    fn size_of(addr: Option<*mut u8>) -> usize {
        Plain::size_of(addr)
    }

    unsafe fn new(mem: *mut u8, data: *mut u8) -> Result<(Box<dyn LockImpl>, usize)> {
        let padding = mem.align_offset(align_of::<Robust>());
        // SAFETY: the caller gives as much memory as `size_of` says, padding included.
        let place = NonNull::new(unsafe { mem.add(padding) }).ok_or("no memory was given")?;
        // SAFETY: as above: room for a mutex, that nobody else uses yet.
        unsafe { place.write_bytes(0, size_of::<Robust>()) };
        // SAFETY: aligned, and zeroes are a valid value.
        unsafe { place.cast::<Robust>().as_ref() }.init()?;
        // SAFETY: the caller's promise, and a mutex lies there now.
        unsafe { Self::from_existing(mem, data) }
    }

    unsafe fn from_existing(mem: *mut u8, data: *mut u8) -> Result<(Box<dyn LockImpl>, usize)> {
        // SAFETY: the caller's promise.
        let (inner, used) = unsafe { Plain::from_existing(mem, data) }?;
        Ok((Box::new(Recovering { inner }), used))
    }
}

/// raw_sync's own mutex over robust memory, and what it does not know about it.
struct Recovering {
    inner: Box<dyn LockImpl>,
}

impl Recovering {
    /// Whether the error of a lock tells of a death; the mutex is free again then.
    fn died(&self) -> bool {
        // SAFETY: `inner` was made by `Plain::from_existing` over a mutex that its maker promised to keep. Called by one
        // who does not hold it, or was not told of a death, this changes nothing and says so.
        let died = unsafe { libc::pthread_mutex_consistent(self.inner.as_raw().cast()) } == 0;
        died && self.inner.release().is_ok()
    }

    fn error(&self, error: Box<dyn Error>) -> Box<dyn Error> {
        if self.died() { Box::new(Died) } else { error }
    }
}

impl LockImpl for Recovering {
    fn as_raw(&self) -> *mut std::ffi::c_void {
        self.inner.as_raw()
    }

    fn lock(&self) -> Result<LockGuard<'_>> {
        self.inner.lock().map_err(|error| self.error(error))
    }

    fn try_lock(&self, timeout: Timeout) -> Result<LockGuard<'_>> {
        let timeout = match timeout {
            Timeout::Infinite => return self.lock(),
            Timeout::Val(timeout) => timeout,
        };
        let deadline = Deadline::after(timeout);
        loop {
            let left = deadline.remaining();
            match self.inner.try_lock(Timeout::Val(within_this_second(left))) {
                Ok(guard) => return Ok(guard),
                Err(_) if self.died() => return Err(Box::new(Died)),
                Err(error) if left.is_zero() => return Err(error),
                // A part of the time is over, or the clock has come to a whole second meanwhile.
                Err(_) => {}
            }
        }
    }

    fn release(&self) -> Result<()> {
        self.inner.release()
    }

    unsafe fn get_inner(&self) -> &mut *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.inner.get_inner() }
    }
}

/// As much of `left` as raw_sync can wait for: it adds the nanoseconds of the time and of the timeout without carrying over.
fn within_this_second(left: Duration) -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let room = 999_999_999_u64.saturating_sub(now.tv_nsec.cast_unsigned());
    left.min(Duration::from_nanos(room)).min(Duration::from_millis(250))
}

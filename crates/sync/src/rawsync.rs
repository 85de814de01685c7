//! Feature `raw-sync`: robust mutexes, and our event, behind the traits of the crate [`raw_sync`].
//!
//! Code written for `raw_sync::locks::Mutex` takes [`Mutex`] instead: the same traits, the same 40 bytes of memory, which
//! may lie in any shared mapping. A holder that is killed does not leave it stuck for ever: the next one to lock it
//! gets the error [`Died`], once, and whoever locks it then gets it.
//!
//! Code written for `raw_sync::events::Event` takes [`Event`] instead. Nothing of it can be left half done: a waiter that is
//! killed does not block who sets it, as raw_sync's own does.
//!
//! Timeouts hold for any duration, not only for whole seconds.
#![expect(unsafe_code, reason = "raw_sync's traits are about raw memory")]

use crate::{event_word::EventWord, robust::Robust, spin};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};
use procession_sys::Deadline;
use raw_sync::{
    Timeout,
    events::{EventImpl, EventInit, EventState},
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

/// An event in memory of the caller's: one word, and whether each wait that it ends clears it.
///
/// # When a process dies
///
/// A killed waiter or setter leaves nothing to repair. See [`Event`](crate::Event#when-a-process-dies).
#[derive(Debug)]
pub struct Event {
    _never: core::convert::Infallible,
}

/// What lies in the memory.
#[repr(C)]
struct RawEvent {
    word: EventWord,
    /// 1 or 2: whether it stays set until somebody clears it, or each wait clears it.
    form: AtomicU32,
}

const MANUAL: u32 = 1;
const AUTO: u32 = 2;

/// The timeout has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the event was not signaled in time")
    }
}

impl Error for TimedOut {}

impl Event {
    fn at(mem: *mut u8) -> Result<(NonNull<RawEvent>, usize)> {
        let padding = mem.align_offset(align_of::<RawEvent>());
        let place = NonNull::new(mem.wrapping_add(padding)).ok_or("no memory was given")?;
        Ok((place.cast(), padding + size_of::<RawEvent>()))
    }
}

impl EventInit for Event {
    fn size_of(addr: Option<*mut u8>) -> usize {
        let padding =
            addr.map_or(align_of::<RawEvent>() - 1, |addr| addr.align_offset(align_of::<RawEvent>()));
        padding + size_of::<RawEvent>()
    }

    unsafe fn new(mem: *mut u8, auto_reset: bool) -> Result<(Box<dyn EventImpl>, usize)> {
        let (place, used) = Event::at(mem)?;
        let form = AtomicU32::new(if auto_reset { AUTO } else { MANUAL });
        // SAFETY: the caller gives as much memory as `size_of` says, which nobody else uses yet.
        unsafe { place.write(RawEvent { word: EventWord::new(), form }) };
        Ok((Box::new(Waited(place)), used))
    }

    unsafe fn from_existing(mem: *mut u8) -> Result<(Box<dyn EventImpl>, usize)> {
        let (place, used) = Event::at(mem)?;
        let event = Waited(place);
        if !matches!(event.raw().form.load(Ordering::Relaxed), MANUAL | AUTO) {
            return Err("no event was made in this memory".into());
        }
        Ok((Box::new(event), used))
    }
}

/// An event over memory that its maker promised to keep.
struct Waited(NonNull<RawEvent>);

impl Waited {
    fn raw(&self) -> &RawEvent {
        // SAFETY: the promise of who called `new` or `from_existing`: the memory is there as long as this; any bytes are
        // valid atomics.
        unsafe { self.0.as_ref() }
    }
}

impl EventImpl for Waited {
    fn wait(&self, timeout: Timeout) -> Result<()> {
        let deadline = match timeout {
            Timeout::Infinite => None,
            Timeout::Val(timeout) => Some(Deadline::after(timeout)),
        };
        let raw = self.raw();
        let auto = raw.form.load(Ordering::Relaxed) == AUTO;
        loop {
            // Of many waiters one clears it, and goes on.
            if auto && raw.word.clear() {
                return Ok(());
            }
            if !spin::with(|spin| raw.word.wait(deadline, spin)) {
                return Err(Box::new(TimedOut));
            }
            if !auto {
                return Ok(());
            }
        }
    }

    fn set(&self, state: EventState) -> Result<()> {
        let _was_other = match state {
            EventState::Clear => self.raw().word.clear(),
            EventState::Signaled => self.raw().word.set(),
        };
        Ok(())
    }
}

//! One word in shared memory, two processes: what a round trip costs at least.
#![expect(unsafe_code, reason = "a shared mapping")]

use std::hint;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::thread::futex;

use super::forked::FarSide;
use crate::pin;
use crate::scenario::{Entry, Failure, Regime};

/// Both sides spin on one cache line. Without payload.
///
/// # Errors
///
/// If the far side cannot be started.
pub fn cache_line(regime: Regime) -> Entry {
    entrant(
        regime,
        |word, old| {
            while word.load(Ordering::Acquire) == old {
                hint::spin_loop();
            }
            Ok(())
        },
        |_| Ok(()),
    )
}

/// Both sides sleep on a futex at once, without a spin. Without payload.
///
/// # Errors
///
/// If the far side cannot be started.
pub fn futex(regime: Regime) -> Entry {
    entrant(
        regime,
        |word, old| {
            while word.load(Ordering::Acquire) == old {
                match futex::wait(word, futex::Flags::empty(), old, None) {
                    Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(io::Error::from(error).into()),
                }
            }
            Ok(())
        },
        |word| {
            futex::wake(word, futex::Flags::empty(), 1).map_err(io::Error::from)?;
            Ok(())
        },
    )
}

/// The near side makes the word odd, the far side makes it even again.
fn entrant(
    regime: Regime,
    wait_while: fn(&AtomicU32, u32) -> Result<(), Failure>,
    wake: fn(&AtomicU32) -> Result<(), Failure>,
) -> Entry {
    let core = pin::near_side(regime)?;
    let page = Page::new()?;
    let far = FarSide::fork(&[], core, || {
        let word = page.word();
        for odd in (1u32..).step_by(2) {
            let answered = wait_while(word, odd - 1).and_then(|()| {
                word.store(odd + 1, Ordering::Release);
                wake(word)
            });
            if answered.is_err() {
                return;
            }
        }
    })?;
    let mut even = 0;
    far.pause();
    Ok(Box::new(move |n| {
        let mut once = || {
            let word = page.word();
            word.store(even + 1, Ordering::Release);
            wake(word)?;
            wait_while(word, even + 1)?;
            even += 2;
            Ok(())
        };
        far.go();
        // It may take a while until it runs.
        once()?;
        let took = regime.timed(n, once);
        far.pause();
        took
    }))
}

/// A page that forked children share.
struct Page(NonNull<AtomicU32>);

impl Page {
    const LENGTH: usize = 4096;

    fn new() -> io::Result<Page> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let place = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                Page::LENGTH,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        NonNull::new(place.cast()).map(Page).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as `self`, is page-aligned, and only atomics touch it.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; no reference outlives `self`.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), Page::LENGTH) };
    }
}

//! Other mutexes: raw pthread ones in shared memory, std's, and raw_sync's.
#![expect(unsafe_code, reason = "pthread mutexes in a shared page")]

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::peers::forked::FarSide;
use crate::pin;
use crate::scenario::{Entry, Failure, Regime, timed};

/// What two processes share beside a mutex, each on a line of its own. The page is never given back.
#[repr(C, align(128))]
struct Line<T>(T);

#[repr(C)]
struct Page {
    mutex: Line<[u64; 8]>,
    number: Line<AtomicU64>,
    far: Line<AtomicU64>,
    stop: Line<AtomicBool>,
}

fn page() -> Result<&'static Page, Failure> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a null hint lets the kernel choose unused addresses.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), size_of::<Page>(), access, MapFlags::SHARED) }?;
    // SAFETY: fresh zeroes, which are a valid page, aligned to 4096, and never unmapped.
    Ok(unsafe { &*start.cast::<Page>() })
}

/// Adds one, not by read-modify-write: the lock is held.
pub fn add(number: &AtomicU64) {
    number.store(number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// A pthread mutex in a shared page.
#[derive(Clone, Copy)]
struct Pthread(*mut libc::pthread_mutex_t);

impl Pthread {
    fn new(page: &'static Page, robust: bool) -> Result<Pthread, Failure> {
        let mutex: *mut libc::pthread_mutex_t = (&raw const page.mutex).cast_mut().cast();
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: memory for attributes.
        unsafe { libc::pthread_mutexattr_init(attributes) };
        // SAFETY: initialised attributes.
        unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) };
        if robust {
            // SAFETY: as above.
            unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) };
        }
        // SAFETY: memory of the right size, which nobody else uses yet.
        match unsafe { libc::pthread_mutex_init(mutex, attributes) } {
            0 => Ok(Pthread(mutex)),
            code => Err(std::io::Error::from_raw_os_error(code).into()),
        }
    }

    fn with(self, inside: impl FnOnce()) -> Result<(), Failure> {
        // SAFETY: an initialised mutex that is never unmapped.
        let code = unsafe { libc::pthread_mutex_lock(self.0) };
        if code != 0 {
            return Err(std::io::Error::from_raw_os_error(code).into());
        }
        inside();
        // SAFETY: as above, and this thread holds it.
        unsafe { libc::pthread_mutex_unlock(self.0) };
        Ok(())
    }
}

/// Lock and unlock, nobody else wants it.
///
/// # Errors
///
/// If the kernel gives no memory.
pub fn pthread_free(regime: Regime, robust: bool) -> Entry {
    pin::near_side(regime)?;
    let mutex = Pthread::new(page()?, robust)?;
    Ok(Box::new(move |n| timed(n, || mutex.with(|| ()))))
}

/// A robust one, locked and unlocked by whoever counts the instructions of that.
///
/// # Errors
///
/// If the kernel gives no memory.
pub fn pthread_instructions(count: fn(Once) -> Entry) -> Entry {
    let mutex = Pthread::new(page()?, true)?;
    count(Box::new(move || mutex.with(|| ())))
}

/// One operation.
pub type Once = Box<dyn FnMut() -> Result<(), Failure>>;

/// The same with std's, which is of no use between processes.
///
/// # Errors
///
/// If pinning fails.
pub fn std_free(regime: Regime) -> Entry {
    pin::near_side(regime)?;
    let mutex = Mutex::new(());
    Ok(Box::new(move |n| {
        timed(n, || {
            drop(std::hint::black_box(&mutex).lock().map_err(|_| "poisoned")?);
            Ok(())
        })
    }))
}

/// Two processes do something under a lock, as fast as they can; `once` gets a number in shared memory.
///
/// # Errors
///
/// If the far side cannot be started.
pub fn contended(
    regime: Regime,
    mut once: impl FnMut(&AtomicU64) -> Result<(), Failure> + Clone + 'static,
) -> Entry {
    let page = page()?;
    let (mut near, mut far) = UnixStream::pair()?;
    let core = pin::near_side(regime)?;
    let mut theirs = once.clone();
    let keep = [far.as_raw_fd()];
    let side = FarSide::fork(&keep, core, move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).is_ok() {
            while !page.stop.0.load(Ordering::Relaxed) && theirs(&page.number.0).is_ok() {
                add(&page.far.0);
            }
            if far.write_all(&byte).is_err() {
                return;
            }
        }
    })?;
    Ok(Box::new(move |n: u64| {
        let _side = &side;
        page.stop.0.store(false, Ordering::Relaxed);
        page.far.0.store(0, Ordering::Relaxed);
        page.number.0.store(0, Ordering::Relaxed);
        near.write_all(&[1])?;
        // The far side has woken.
        while page.far.0.load(Ordering::Relaxed) == 0 {
            std::hint::spin_loop();
        }
        let (start, before) = (Instant::now(), page.far.0.load(Ordering::Relaxed));
        let mut done = 0;
        while done + page.far.0.load(Ordering::Relaxed) - before < n {
            for _ in 0..32 {
                once(&page.number.0)?;
            }
            done += 32;
        }
        let both = done + page.far.0.load(Ordering::Relaxed) - before;
        let time = start.elapsed();
        page.stop.0.store(true, Ordering::Relaxed);
        near.read_exact(&mut [0])?;
        let expected = done + page.far.0.load(Ordering::Relaxed);
        let number = page.number.0.load(Ordering::Relaxed);
        if number != expected {
            return Err(format!("{number} additions instead of {expected}: two at a time were inside").into());
        }
        Ok(time.mul_f64(n as f64 / both as f64))
    }))
}

/// Two processes with a pthread mutex.
///
/// # Errors
///
/// As [`contended`].
pub fn pthread_contended(regime: Regime, robust: bool) -> Entry {
    let mutex = Pthread::new(page()?, robust)?;
    contended(regime, move |number| mutex.with(|| add(number)))
}

/// Two threads with std's mutex.
///
/// # Errors
///
/// If pinning fails.
pub fn std_contended(regime: Regime) -> Entry {
    let core = pin::near_side(regime)?;
    let shared = Arc::new((Mutex::new(0_u64), AtomicBool::new(true), Line(AtomicU64::new(0))));
    let theirs = shared.clone();
    let thread = std::thread::spawn(move || {
        if core.is_some_and(|core| pin::pin(core).is_err()) {
            return;
        }
        loop {
            while theirs.1.load(Ordering::Relaxed) {
                std::thread::park();
            }
            let Ok(mut number) = theirs.0.lock() else { return };
            *number += 1;
            drop(number);
            add(&theirs.2.0);
        }
    });
    Ok(Box::new(move |n: u64| {
        shared.1.store(false, Ordering::Relaxed);
        thread.thread().unpark();
        let first = shared.2.0.load(Ordering::Relaxed);
        while shared.2.0.load(Ordering::Relaxed) == first {
            std::hint::spin_loop();
        }
        let (start, before) = (Instant::now(), shared.2.0.load(Ordering::Relaxed));
        let mut done = 0;
        while done + shared.2.0.load(Ordering::Relaxed) - before < n {
            for _ in 0..32 {
                *shared.0.lock().map_err(|_| "poisoned")? += 1;
            }
            done += 32;
        }
        let both = done + shared.2.0.load(Ordering::Relaxed) - before;
        let time = start.elapsed();
        shared.1.store(true, Ordering::Relaxed);
        Ok(time.mul_f64(n as f64 / both as f64))
    }))
}

/// A mutex of the crate raw_sync in the page.
#[cfg(feature = "rivals")]
fn raw_sync(page: &'static Page) -> Result<std::rc::Rc<dyn raw_sync::locks::LockImpl>, Failure> {
    use raw_sync::locks::{LockInit, Mutex};
    let memory = (&raw const page.mutex).cast_mut().cast::<u8>();
    let data = (&raw const page.number).cast_mut().cast::<u8>();
    // SAFETY: zeroed memory of the right size that nobody else uses yet, and is never unmapped.
    let made = unsafe { Mutex::new(memory, data) };
    let (mutex, _) = made.map_err(|error| error.to_string())?;
    Ok(mutex.into())
}

/// Lock and unlock one of raw_sync's.
///
/// # Errors
///
/// If built without it.
pub fn raw_sync_free(regime: Regime) -> Entry {
    #[cfg(feature = "rivals")]
    return {
        pin::near_side(regime)?;
        let mutex = raw_sync(page()?)?;
        Ok(Box::new(move |n| {
            timed(n, || {
                drop(mutex.lock().map_err(|error| error.to_string())?);
                Ok(())
            })
        }))
    };
    #[cfg(not(feature = "rivals"))]
    Err(format!("built without the feature `rivals` ({regime:?})").into())
}

/// Two processes with one of raw_sync's.
///
/// # Errors
///
/// If built without it.
pub fn raw_sync_contended(regime: Regime) -> Entry {
    #[cfg(feature = "rivals")]
    return {
        let mutex = raw_sync(page()?)?;
        contended(regime, move |number| {
            let _guard = mutex.lock().map_err(|error| error.to_string())?;
            add(number);
            Ok(())
        })
    };
    #[cfg(not(feature = "rivals"))]
    Err(format!("built without the feature `rivals` ({regime:?})").into())
}

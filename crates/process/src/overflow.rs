//! A message when a child's stack overflows.
//!
//! Rust's own handler is installed by the code around `main`, which a child never reaches. This one tells the
//! overflow from other faults by the address, says so on stderr, and lets the fault happen: the process ends by
//! SIGSEGV as it would have.
#![expect(unsafe_code, reason = "signal handlers and alternate stacks")]

use std::{
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
};

/// The alternate stack of the thread that runs the function.
const STACK: usize = 64 * 1024;
/// How far below the stack's end a fault still counts as an overflow: the guard gap of Linux is 1 MiB.
const GAP: usize = 1 << 20;

/// The lowest address of the function's stack.
static LOWEST: AtomicUsize = AtomicUsize::new(0);
/// Leaked, since the handler may read it at any time.
static MESSAGE: AtomicPtr<Vec<u8>> = AtomicPtr::new(ptr::null_mut());
/// Whether the main thread has its handler: a clone of the fork server inherits the server's.
static MAIN: AtomicBool = AtomicBool::new(false);

/// Installs the handler for the main thread, once.
pub(crate) fn install_for_main() {
    if !MAIN.swap(true, Ordering::Relaxed)
        && let Some(lowest) = lowest_of_main()
    {
        install_below(lowest);
    }
}

/// Takes in a limit of the stack that was set since.
pub(crate) fn measure_main() {
    if let Some(lowest) = lowest_of_main() {
        LOWEST.store(lowest, Ordering::Relaxed);
    }
}

/// Says that the main thread has a handler.
pub(crate) fn is_installed() {
    MAIN.store(true, Ordering::Relaxed);
}

/// Sets the name that the message tells: once per process, a forked child in the place of its parent's.
pub(crate) fn set_name(name: &str) {
    let message = [b"process `", name.as_bytes(), b"` has overflowed its stack\n"].concat();
    MESSAGE.store(Box::into_raw(Box::new(message)), Ordering::Release);
}

/// Installs the handler for the calling thread.
pub(crate) fn install() {
    if let Some(lowest) = lowest_address() {
        install_below(lowest);
    }
}

fn install_below(lowest: usize) {
    LOWEST.store(lowest, Ordering::Relaxed);
    // Not zeroed, so that its pages stay untouched until they are needed.
    let stack = Vec::leak(Vec::<MaybeUninit<u8>>::with_capacity(STACK)).as_mut_ptr();
    let place = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: the stack is leaked, so it outlives the thread.
    if unsafe { libc::sigaltstack(&raw const place, ptr::null_mut()) } != 0 {
        return;
    }
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: zero is a value of the record.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: the handler does only what is allowed in one.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a record; for these signals it holds an address.
    let info = unsafe { &*info };
    // SAFETY: as above.
    let address = unsafe { info.si_addr() }.addr();
    let lowest = LOWEST.load(Ordering::Relaxed);
    // SAFETY: null, or a message that was leaked and is never changed.
    let message = unsafe { MESSAGE.load(Ordering::Acquire).as_ref() };
    if (lowest.saturating_sub(GAP)..lowest + GAP).contains(&address)
        && let Some(message) = message
    {
        // SAFETY: write is allowed in a handler.
        unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
    }
    // SAFETY: signal is allowed in a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // A fault happens again when the handler returns; a signal that was sent does not.
    if info.si_code <= 0 {
        // SAFETY: raise is allowed in a handler.
        unsafe { libc::raise(signal) };
    }
}

/// About the lowest address that the main thread's stack may grow to. glibc would read `/proc/self/maps` for it, which
/// takes as long as half of a fork; the fault's address need not be known better than to [`GAP`].
fn lowest_of_main() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack).current?;
    let here = (&raw const limit).addr();
    here.checked_sub(usize::try_from(limit).ok()?)
}

/// The lowest address that the calling thread's stack may grow to.
fn lowest_address() -> Option<usize> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: asks for a number.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: writes the record for a live thread.
    if unsafe { libc::pthread_getattr_np(thread, attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let (mut start, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the record was written above.
    let result = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut start, &raw mut size) };
    // SAFETY: as above, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    (result == 0).then(|| start.addr())
}

//! What a worker tells of the memory that it has used, and of its aborts for want of it.
#![expect(unsafe_code, reason = "a handler of a signal, and a system call that fills a record")]

use super::{
    control::{Control, Words},
    memory::own_peak,
};
use std::sync::{
    OnceLock,
    atomic::{AtomicPtr, Ordering},
};

static CONTROL: OnceLock<Control> = OnceLock::new();
static WORDS: AtomicPtr<Words> = AtomicPtr::new(std::ptr::null_mut());

/// Tells apart, among aborts, those for want of memory.
pub(super) fn tell(control: &Control) {
    // Never dropped, so that the words stay mapped.
    let words = CONTROL.get_or_init(|| control.clone()).as_ptr();
    WORDS.store(words.cast_mut(), Ordering::Release);
    // SAFETY: the handler does only what a handler may do.
    unsafe { libc::signal(libc::SIGABRT, aborted as *const () as libc::sighandler_t) };
}

extern "C" fn aborted(signal: libc::c_int) {
    // Whoever aborts since an allocation has failed does so in the same thread, and nothing in between fails.
    let error = std::io::Error::last_os_error().raw_os_error();
    // SAFETY: null, or the words, which stay mapped.
    let words = unsafe { WORDS.load(Ordering::Acquire).as_ref() };
    if let (Some(libc::ENOMEM), Some(words)) = (error, words) {
        words.no_memory.store(1, Ordering::Relaxed);
    }
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: a number. It ends this process when the handler has returned, if it was not `abort` that raised it.
    unsafe { libc::raise(signal) };
}

/// A process that was executed begins with the peak of the one that did so (`getrusage(2)`).
pub(super) fn tell_inherited_peak(control: &Control) {
    // SAFETY: all of its fields are integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the record is of the type that the call writes.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let peak = u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024);
    // The kernel's two ways to count differ by a little.
    let slack = 1 << 20;
    if result == 0 && own_peak().is_none_or(|own| peak > own.saturating_add(slack)) {
        control.inherited.store(peak, Ordering::Relaxed);
    }
}

//! The arguments of a clone of the fork server: the program's name for `args()`, its own for `ps`.
#![expect(unsafe_code, reason = "argv is written in place")]

use std::{
    ffi::{CString, OsStr, c_char},
    os::unix::ffi::OsStrExt,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

/// The program's `argv`, kept by the constructor.
static ARGV: AtomicPtr<*mut c_char> = AtomicPtr::new(std::ptr::null_mut());

/// Keeps `argv` for [`lead_away`].
#[cfg(feature = "auto-init")]
pub(crate) fn keep(argv: *mut *mut c_char) {
    ARGV.store(argv, Ordering::Relaxed);
}

/// The text of the first argument as it was executed, which `ps` shows; null outside the fork server and its clones.
static TEXT: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
/// How long it is.
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// In the fork server: makes `argv0` the first argument that this process and its clones see. What others see stays.
pub(crate) fn lead_away(argv0: &OsStr) {
    let argv = ARGV.load(Ordering::Relaxed);
    let Ok(argv0) = CString::new(argv0.as_bytes()) else { return };
    if argv.is_null() {
        return;
    }
    // SAFETY: `argv` lives as long as the process; this process has one thread.
    let place = unsafe { *argv };
    if place.is_null() {
        return;
    }
    // SAFETY: the argument is a string on the stack's bottom.
    LENGTH.store(unsafe { libc::strlen(place) }, Ordering::Relaxed);
    TEXT.store(place, Ordering::Relaxed);
    // SAFETY: as above; the copy is leaked, since it is an argument for the rest of the process's life.
    unsafe { *argv = argv0.into_raw() };
}

/// In a clone: makes `name` what others see. The text in place is overwritten, as long as it was.
pub(crate) fn set(name: &str) {
    let place = TEXT.load(Ordering::Relaxed);
    let mut title = name.bytes().filter(|&byte| byte != 0);
    for index in 0..LENGTH.load(Ordering::Relaxed) {
        // SAFETY: within the string's length.
        let letter = unsafe { place.add(index) };
        // SAFETY: as above; the string is writable, and no argument of this process any more.
        unsafe { *letter = title.next().unwrap_or(b' ') as c_char };
    }
}

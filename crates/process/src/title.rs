//! The arguments of a clone of the fork server: the program's name for `args()`, its own for `ps`.
#![expect(unsafe_code, reason = "argv is written in place")]

use std::{
    ffi::{CString, OsStr, c_char},
    os::unix::ffi::OsStrExt,
    sync::atomic::{AtomicPtr, Ordering},
};

/// The program's `argv`, kept by the constructor.
static ARGV: AtomicPtr<*mut c_char> = AtomicPtr::new(std::ptr::null_mut());

/// Keeps `argv` for [`set`].
#[cfg(feature = "auto-init")]
pub(crate) fn keep(argv: *mut *mut c_char) {
    ARGV.store(argv, Ordering::Relaxed);
}

/// Makes `argv0` the first argument that this process sees, and `name` what others see.
///
/// The text in place is overwritten, as long as it was; the pointer is led to a copy of `argv0`.
pub(crate) fn set(argv0: &OsStr, name: &str) {
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
    // SAFETY: the argument is a string on the stack's bottom, writable, and nobody else refers to it now.
    let length = unsafe { libc::strlen(place) };
    let mut title = name.bytes().filter(|&byte| byte != 0);
    for index in 0..length {
        // SAFETY: within the string's length.
        let letter = unsafe { place.add(index) };
        // SAFETY: as above; the string is writable.
        unsafe { *letter = title.next().unwrap_or(b' ') as c_char };
    }
    // SAFETY: as above; the copy is leaked, since it is an argument for the rest of the process's life.
    unsafe { *argv = argv0.into_raw() };
}

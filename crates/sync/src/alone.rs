//! Whether this process has one thread, by the C library's own flag (glibc 2.32 and later): then threads need not take
//! turns, which saves a locked instruction, the price of which is that of all others of a semaphore's operation together.
#![expect(unsafe_code, reason = "a variable of the C library's, by name")]

use core::{
    ptr::null_mut,
    sync::atomic::{AtomicPtr, AtomicU8, Ordering},
};

/// Where the flag is; null before that was asked for.
static FLAG: AtomicPtr<AtomicU8> = AtomicPtr::new(null_mut());
/// Stands for it where there is none.
static MANY: AtomicU8 = AtomicU8::new(0);

/// Whether no other thread exists now. None can come before the calling thread starts one.
#[inline]
pub(crate) fn alone() -> bool {
    let mut flag = FLAG.load(Ordering::Relaxed);
    if flag.is_null() {
        flag = find();
    }
    // SAFETY: a byte of the C library's or a static of ours; it stays, and no thread writes it while another one exists.
    unsafe { &*flag }.load(Ordering::Relaxed) != 0
}

#[cold]
fn find() -> *mut AtomicU8 {
    // SAFETY: a name, which ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
    let flag = if found.is_null() { (&raw const MANY).cast_mut() } else { found.cast() };
    FLAG.store(flag, Ordering::Relaxed);
    flag
}

//! What a child has from the asker at the time of the request, whatever the server has.
//!
//! Some of it the system tells only in a roundabout way: the environment by a copy of all of it, since another thread may
//! change it meanwhile, the umask in `/proc` only. An asker with one thread looks for itself, which takes a tenth of the
//! 15 µs.
#![expect(unsafe_code, reason = "credentials, dispositions, the signal mask and the environment's own array")]

use rustix::fs::Mode;
use std::{
    ffi::{CStr, OsString, c_char},
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt,
    ptr::null_mut,
    sync::atomic::{AtomicU32, Ordering},
};

/// What a clone inherits from the server and may not differ from the asker's.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Credentials {
    ids: [u32; 6],
    groups: Vec<u32>,
    no_new_privs: i32,
    seccomp: i32,
}

pub(super) fn credentials() -> Credentials {
    let mut ids = [0; 6];
    let [ruid, euid, suid, rgid, egid, sgid] = &mut ids;
    // SAFETY: all six places are valid.
    unsafe { libc::getresuid(ruid, euid, suid) };
    // SAFETY: as above.
    unsafe { libc::getresgid(rgid, egid, sgid) };
    let groups =
        rustix::process::getgroups().unwrap_or_default().into_iter().map(|gid| gid.as_raw()).collect();
    // SAFETY: asks only.
    let no_new_privs = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) };
    // SAFETY: as above; a strict filter would not have let us come here.
    let seccomp = unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) };
    Credentials { ids, groups, no_new_privs, seccomp }
}

pub(crate) fn ignores_interrupt() -> bool {
    // SAFETY: zero is a value of the record.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; the record is written.
    let result = unsafe { libc::sigaction(libc::SIGINT, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

pub(super) type Environment = Vec<(OsString, OsString)>;

/// This process's environment, in its order.
pub(super) fn environment() -> Environment {
    std::env::vars_os().collect()
}

/// Whether this process's environment is this one, in its order. `alone` says that no other thread can change it.
pub(super) fn environment_is(known: &[(OsString, OsString)], alone: bool) -> bool {
    if !alone {
        return environment() == known;
    }
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    // SAFETY: only other threads could write it meanwhile, and there are none.
    let mut place = unsafe { environ };
    let mut known = known.iter();
    while !place.is_null() {
        // SAFETY: not past the null that ends the array.
        let entry = unsafe { *place };
        if entry.is_null() {
            break;
        }
        // SAFETY: entries are strings, which nobody changes as above.
        let entry = unsafe { CStr::from_ptr(entry) }.to_bytes();
        // As `std` reads them: a name may begin with `=`, and what has none is no entry.
        if let Some(end) = entry.iter().skip(1).position(|&byte| byte == b'=') {
            let (name, value) = (&entry[..=end], &entry[end + 2..]);
            if known.next().is_none_or(|(n, v)| n.as_bytes() != name || v.as_bytes() != value) {
                return false;
            }
        }
        // SAFETY: the array goes on until a null.
        place = unsafe { place.add(1) };
    }
    known.next().is_none()
}

/// This process's umask; `None` if it cannot be found out. `alone` says that this process has no other thread.
///
/// It cannot be asked for without setting it, but in `/proc`. So it is set to what it was last: mostly that changes
/// nothing, and otherwise it is set back before anybody can create a file, since there is neither another thread nor,
/// for that moment, a signal handler. (Files that io_uring creates for this thread in that moment, and a process that
/// shares the umask by `CLONE_FS`, would see it; neither is made by this crate.)
pub(super) fn umask(alone: bool) -> Option<u32> {
    /// No mask.
    const UNKNOWN: u32 = u32::MAX;
    static LAST: AtomicU32 = AtomicU32::new(UNKNOWN);
    let last = LAST.load(Ordering::Relaxed);
    let mask =
        if alone && last != UNKNOWN { without_signals(|| set_and_reset(last)) } else { written_umask()? };
    LAST.store(mask, Ordering::Relaxed);
    Some(mask)
}

fn set_and_reset(guess: u32) -> u32 {
    let guess = Mode::from_raw_mode(guess);
    let mask = rustix::process::umask(guess);
    if mask != guess {
        rustix::process::umask(mask);
    }
    mask.as_raw_mode()
}

fn without_signals<T>(act: impl FnOnce() -> T) -> T {
    let (mut all, mut old) = (MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::uninit());
    // SAFETY: fills the record.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the first record was filled above, the second is written.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) };
    let result = act();
    // SAFETY: the record was written above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), null_mut()) };
    result
}

/// The umask as `/proc` has it.
fn written_umask() -> Option<u32> {
    use rustix::fs::{OFlags, open};
    let status = open(c"/proc/thread-self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The second line, after a name of 64 bytes at most: one call, where reading to the end takes three.
    let mut start = [0; 128];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&status, &mut start)).ok()?;
    let line = start[..length].split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Umask:"))?;
    u32::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 8).ok()
}

//! Children of the hand-written rivals: this program, re-executed with a marker, ends in a constructor before `main`.
//!
//! That is the least a re-executed child can do, so it is what ours is held against. The job is one message that
//! holds a number; the answer is the number after it.
#![expect(unsafe_code, reason = "constructor, raw system calls")]

use std::ffi::{CStr, c_char, c_int, c_void};

use super::c_fork_server;

/// The argument of a child that does one job and ends.
pub(super) const CHILD: &CStr = c"--peer-child";
/// The argument of the fork server.
pub(super) const SERVER: &CStr = c"--peer-fork-server";

type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

// Only glibc gives constructors the arguments; with another C library these rivals are absent.
#[cfg(target_env = "gnu")]
#[used]
// SAFETY: the section holds pointers to functions of this very signature, which libc calls once each.
#[unsafe(link_section = ".init_array")]
static BOOT: Constructor = boot;

extern "C" fn boot(argc: c_int, argv: *const *const c_char, _envp: *const *const c_char) {
    if argc != 2 {
        return;
    }
    // SAFETY: `argv` has `argc` entries and a null, and `argc` is two.
    let entry = unsafe { argv.add(1) };
    // SAFETY: the second of these entries.
    let argument = unsafe { *entry };
    // SAFETY: an entry of `argv` below `argc` is a string.
    let argument = unsafe { CStr::from_ptr(argument) };
    if argument == CHILD {
        job(0);
    } else if argument == SERVER {
        c_fork_server::serve(0);
    }
}

/// Takes one job from the socket, answers it and ends the process.
pub(super) fn job(socket: c_int) -> ! {
    let mut message = [0u8; 8];
    // SAFETY: the place is the eight bytes of `message`.
    let got = unsafe { libc::recv(socket, message.as_mut_ptr().cast::<c_void>(), 8, 0) };
    let answer = (u64::from_ne_bytes(message) + 1).to_ne_bytes();
    // SAFETY: the place is the eight bytes of `answer`.
    let sent = unsafe { libc::send(socket, answer.as_ptr().cast::<c_void>(), 8, libc::MSG_NOSIGNAL) };
    // SAFETY: ends the process without running anything.
    unsafe { libc::_exit(if got == 8 && sent == 8 { 0 } else { 1 }) }
}

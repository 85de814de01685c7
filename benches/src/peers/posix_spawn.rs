//! `posix_spawn` of this very executable with one socket, one job and one answer, written by hand.
#![expect(unsafe_code, reason = "posix_spawn")]

use std::ffi::{CStr, c_char};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;

use super::{boot, forked};
use crate::scenario::{Entry, Failure, timed};

/// Start to answer to reaped.
///
/// # Errors
///
/// None here; the entrant fails if the system refuses.
pub fn start() -> Entry {
    if !cfg!(target_env = "gnu") {
        return Err("needs glibc, which gives constructors the arguments".into());
    }
    let mut number = 0;
    Ok(Box::new(move |n| {
        timed(n, || {
            number += 1;
            let (near, far) = UnixStream::pair()?;
            let pid = spawn(boot::CHILD, &far.into())?;
            ask(&near, number)?;
            forked::reap(pid)
        })
    }))
}

/// Sends the job, awaits the answer and checks it.
pub(super) fn ask(mut socket: &UnixStream, number: u64) -> Result<(), Failure> {
    socket.write_all(&number.to_ne_bytes())?;
    let mut answer = [0; 8];
    socket.read_exact(&mut answer)?;
    if u64::from_ne_bytes(answer) == number + 1 { Ok(()) } else { Err("wrong answer".into()) }
}

/// Starts this executable with one argument and the socket as its descriptor 0.
pub(super) fn spawn(argument: &CStr, stdin: &OwnedFd) -> io::Result<libc::pid_t> {
    let path = c"/proc/self/exe".as_ptr();
    let argv = [path.cast_mut(), argument.as_ptr().cast_mut(), ptr::null_mut()];
    let mut actions = MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    // SAFETY: `actions` is the place to initialise.
    checked(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
    // SAFETY: initialised above.
    checked(unsafe { libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), stdin.as_raw_fd(), 0) })?;
    let mut pid = 0;
    // SAFETY: reads a pointer that libc keeps; no other thread changes the environment.
    let environment = unsafe { environ };
    // SAFETY: all pointers are to initialised data that outlives the call; `argv` and the environment end in null.
    let result = unsafe {
        libc::posix_spawn(&raw mut pid, path, actions.as_ptr(), ptr::null(), argv.as_ptr(), environment)
    };
    // SAFETY: initialised above, not used again.
    unsafe { libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr()) };
    checked(result)?;
    Ok(pid)
}

fn checked(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

unsafe extern "C" {
    static environ: *const *mut c_char;
}

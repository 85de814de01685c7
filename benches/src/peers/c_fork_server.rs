//! A minimal fork server as one would write it in C: one thread, re-executed, clones on request.
//!
//! It passes the messages that ours passes: a request with the job's socket beside it (`SCM_RIGHTS`), the pid in
//! return, the job and the answer over the job's socket. The child is cloned with `CLONE_PARENT`, so the asker reaps
//! it. There is no authentication, no environment, no lifeline, no error path: that is why it is the limit.
#![expect(unsafe_code, reason = "sendmsg, recvmsg, clone")]

use std::ffi::{c_int, c_void};
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{boot, forked, posix_spawn};
use crate::scenario::{Entry, timed};

/// Request to answer to reaped, the server being up.
///
/// # Errors
///
/// If the server cannot be started.
pub fn start() -> Entry {
    if !cfg!(target_env = "gnu") {
        return Err("needs glibc, which gives constructors the arguments".into());
    }
    let server = Server::start()?;
    let mut number = 0;
    Ok(Box::new(move |n| {
        timed(n, || {
            number += 1;
            let (near, far) = UnixStream::pair()?;
            let pid = server.request(&far.into())?;
            posix_spawn::ask(&near, number)?;
            forked::reap(pid)
        })
    }))
}

/// Ends when its socket closes; reaped then.
struct Server {
    socket: Option<UnixStream>,
    pid: libc::pid_t,
}

impl Server {
    fn start() -> io::Result<Server> {
        let (near, far) = UnixStream::pair()?;
        let pid = posix_spawn::spawn(boot::SERVER, &far.into())?;
        Ok(Server { socket: Some(near), pid })
    }

    fn request(&self, job: &OwnedFd) -> io::Result<libc::pid_t> {
        let mut socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut message = Message::new(job.as_raw_fd());
        // SAFETY: the header points to places that outlive the call.
        let sent =
            message.with(|header| unsafe { libc::sendmsg(socket.as_raw_fd(), header, libc::MSG_NOSIGNAL) });
        if sent != 1 {
            return Err(io::Error::last_os_error());
        }
        let mut pid = [0; 4];
        socket.read_exact(&mut pid)?;
        Ok(libc::pid_t::from_ne_bytes(pid))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.socket = None;
        let _ = forked::reap(self.pid);
    }
}

/// The server's loop; never returns.
pub(super) fn serve(control: c_int) -> ! {
    loop {
        let mut message = Message::new(-1);
        // SAFETY: the header points to places that outlive the call.
        let got = message.with(|header| unsafe { libc::recvmsg(control, header, libc::MSG_CMSG_CLOEXEC) });
        let job = message.rights.fd;
        if got != 1 {
            // SAFETY: ends the process without running anything.
            unsafe { libc::_exit(0) }
        }
        let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as libc::c_long;
        // SAFETY: a clone without a stack of its own is a fork; this process has one thread, and the child makes
        // plain system calls only.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) }
            as libc::pid_t;
        if pid == 0 {
            boot::job(job);
        }
        // SAFETY: `pid` is four bytes of this frame.
        unsafe { libc::send(control, (&raw const pid).cast::<c_void>(), 4, libc::MSG_NOSIGNAL) };
        // SAFETY: the descriptor came with this message and is used nowhere else.
        unsafe { libc::close(job) };
    }
}

/// One byte with one descriptor beside it.
struct Message {
    byte: u8,
    rights: Rights,
}

/// A control message that holds one descriptor.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: c_int,
}

impl Message {
    fn new(fd: c_int) -> Message {
        // SAFETY: all zeroes is a valid value of this plain struct.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = mem::offset_of!(Rights, fd) + mem::size_of::<c_int>();
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        Message { byte: 1, rights: Rights { header, fd } }
    }

    /// Calls `f`, which is `sendmsg` or `recvmsg`, with the header of this message.
    fn with(&mut self, f: impl FnOnce(*mut libc::msghdr) -> isize) -> isize {
        let mut part = libc::iovec { iov_base: (&raw mut self.byte).cast(), iov_len: 1 };
        // SAFETY: all zeroes is a valid value of this plain struct.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut self.rights).cast();
        header.msg_controllen = mem::size_of::<Rights>();
        f(&raw mut header)
    }
}

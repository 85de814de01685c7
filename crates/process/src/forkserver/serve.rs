//! The server's side: requests, clones, and what a clone does before it is a child like any other.
#![expect(unsafe_code, reason = "clone3, robust lists, signal masks")]

use super::{Page, REQUEST, SERVING, environment, ignores_interrupt, receive, retry};
use crate::{
    child::{self, Origin},
    job::Job,
    stdio::Slot,
};
use procession_parcel::wire::{self, Limits};
use procession_sys::{Deadline, PidFd, hooks};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    ffi::c_void,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// The asker decides when the server ends, not the terminal. Blocked rather than ignored, so that a Ctrl-C in the first
/// moments of a clone waits for it instead of being lost.
fn block_interrupts() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the record.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the record was filled above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGINT) };
    // SAFETY: as above.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
}

/// Does once what every clone would do for itself otherwise, each on pages of its own: a page that a clone touches first
/// costs it 2 µs.
fn warm_up() {
    crate::overflow::install_for_main();
    let _ = Deadline::now();
    IGNORES.store(ignores_interrupt(), Ordering::Relaxed);
    let _ = procession_parcel::panics::catch(|| ());
    let _ = io::Write::flush(&mut io::stdout());
}

/// Whether the server ignores SIGINT, as its clones do at first.
static IGNORES: AtomicBool = AtomicBool::new(false);

pub(crate) fn server_ignores_interrupt() -> bool {
    IGNORES.load(Ordering::Relaxed)
}

/// The server's life: one request after the other, until the asker is gone. Never returns.
pub(crate) fn serve(socket: OwnedFd, page: OwnedFd) -> ! {
    block_interrupts();
    let Ok(page_map) = Page::map(&page) else { child::quit(1) };
    page_map.keep_to_this_process();
    drop(page);
    SERVING.store(true, Ordering::Relaxed);
    let before = environment();
    for hook in crate::start_hooks::PRELOAD {
        hook();
    }
    if environment() != before {
        // Clones have the asker's, whatever a hook set.
        child::set_environment(before);
    }
    // Clones count on it, whatever a hook has opened there.
    if child::set_stream(0, Slot::Null).is_err() {
        child::quit(1)
    }
    warm_up();
    // If the asker is gone, the first request is the end of the socket.
    let _ = retry(|| rustix::net::send(&socket, &[REQUEST], SendFlags::NOSIGNAL));
    let thread = Thread::current();
    loop {
        let mut request = [0_u8; 1];
        let job = match receive(socket.as_fd(), &mut request) {
            Ok((1, job)) => job,
            // The asker is gone.
            _ => child::quit(0),
        };
        let answer = match job {
            None => Err(libc::EMFILE),
            Some(job) => match thread.clone(&page_map) {
                Ok(Cloned::Child) => {
                    SERVING.store(false, Ordering::Relaxed);
                    drop(socket);
                    // Not in this process.
                    std::mem::forget(page_map);
                    become_child(job)
                }
                Ok(Cloned::Parent(pid, pidfd)) => {
                    drop(job);
                    Ok((pid, pidfd))
                }
                Err(errno) => Err(errno),
            },
        };
        reply(&socket, answer);
    }
}

fn reply(socket: &OwnedFd, answer: Result<(u32, OwnedFd), i32>) {
    let (pid, errno) = match &answer {
        Ok((pid, _)) => (*pid, 0),
        Err(errno) => (0, *errno),
    };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&pid.to_le_bytes());
    bytes[4..].copy_from_slice(&errno.to_le_bytes());
    let pidfd = answer.as_ref().ok().map(|(_, pidfd)| [pidfd.as_fd()]);
    let fds: &[BorrowedFd<'_>] = pidfd.as_ref().map_or(&[], |fds| fds);
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    // A broken socket is found at the next request.
    let _ = retry(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL));
}

/// What a thread must carry over a clone that glibc does not know of.
struct Thread {
    /// Where glibc keeps the thread's id: a lock that records its owner reads it there.
    id: *mut c_void,
    robust_list: *mut c_void,
    robust_length: usize,
}

enum Cloned {
    Child,
    Parent(u32, OwnedFd),
}

impl Thread {
    fn current() -> Thread {
        let mut thread =
            Thread { id: std::ptr::null_mut(), robust_list: std::ptr::null_mut(), robust_length: 0 };
        // SAFETY: both calls write the places that they are given. Where the kernel lacks the first
        // (CONFIG_CHECKPOINT_RESTORE), the address stays null, and `clone` refuses.
        unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut thread.id) };
        let (head, length) = (&raw mut thread.robust_list, &raw mut thread.robust_length);
        // SAFETY: as above, for thread 0, which is the calling one.
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, head, length) };
        thread
    }

    /// The same by `clone(2)`, which cannot give a pidfd and tell the pid at once.
    fn old_clone(&self, page: &Page) -> libc::c_long {
        let flags = libc::CLONE_PARENT
            | libc::CLONE_PARENT_SETTID
            | libc::CLONE_CHILD_SETTID
            | libc::CLONE_CHILD_CLEARTID
            | libc::SIGCHLD;
        let null = std::ptr::null_mut::<c_void>();
        // The order of the last two differs between architectures: the thread-local storage, which is not set.
        let last = if cfg!(target_arch = "x86_64") { (self.id, null) } else { (null, self.id) };
        // SAFETY: as for clone3.
        unsafe { libc::syscall(libc::SYS_clone, flags, null, page.0.as_ptr(), last.0, last.1) }
    }

    /// Clones this process as a sibling: a child of its parent.
    fn clone(&self, page: &Page) -> Result<Cloned, i32> {
        if self.id.is_null() {
            return Err(libc::ENOSYS);
        }
        let mut pidfd: i32 = -1;
        // SAFETY: all fields are numbers, for which zero is a value.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = (libc::CLONE_PARENT
            | libc::CLONE_PIDFD
            | libc::CLONE_PARENT_SETTID
            | libc::CLONE_CHILD_SETTID
            | libc::CLONE_CHILD_CLEARTID) as u64;
        arguments.pidfd = (&raw mut pidfd).expose_provenance() as u64;
        arguments.parent_tid = page.0.as_ptr().expose_provenance() as u64;
        arguments.child_tid = self.id.expose_provenance() as u64;
        // With CLONE_PARENT the signal is the one that the asker chose for the server; the kernel wants 0 here.
        arguments.exit_signal = 0;
        let size = size_of::<libc::clone_args>();
        // What a fork of glibc's would run. The server has one thread, so no lock that a hook takes is held.
        hooks::before_fork();
        // SAFETY: this process has one thread, so its copy is whole; memory is copied, not shared, and the call
        // returns on a copy of this stack. The places it writes are valid in this process, and `child_tid` in the
        // child, where it is glibc's own field.
        let mut result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) };
        if result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
            // Some sandboxes know `clone` only.
            result = self.old_clone(page);
            if result > 0 {
                hooks::after_fork_in_parent();
                return open_pidfd(result as u32);
            }
        }
        match result {
            0 => {
                // SAFETY: the head is this thread's own, at the same address in the copy; the server holds no
                // robust lock, so the list is empty.
                unsafe { libc::syscall(libc::SYS_set_robust_list, self.robust_list, self.robust_length) };
                hooks::after_fork_in_child();
                Ok(Cloned::Child)
            }
            // The errno lies on a page of code of its own, so a clone does not ask for it.
            -1 => {
                let errno = io::Error::last_os_error().raw_os_error();
                hooks::after_fork_in_parent();
                Err(errno.unwrap_or(libc::EAGAIN))
            }
            pid => {
                hooks::after_fork_in_parent();
                // SAFETY: the kernel has just opened it for us.
                Ok(Cloned::Parent(pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
            }
        }
    }
}

fn open_pidfd(pid: u32) -> Result<Cloned, i32> {
    match PidFd::open(pid) {
        Ok(pidfd) => Ok(Cloned::Parent(pid, pidfd.into())),
        Err(error) => Err(error.raw_os_error().unwrap_or(libc::EMFILE)),
    }
}

/// The clone takes its job, and goes on as a child.
fn become_child(socket: OwnedFd) -> ! {
    // The asker writes while we are made; if it dies, or has nothing for us after all, the socket ends.
    let Ok(Some(parcel)) = wire::recv(socket.as_fd(), &Limits::default(), None) else { child::quit(1) };
    // SAFETY: the socket came over the server's own, which was made by our parent and checked at the server's start.
    let job: Job = match unsafe { parcel.assume_same_program() }.unpack() {
        Ok(job) => job,
        Err(_) => child::quit(1),
    };
    crate::title::set(&job.identity.name);
    child::run(job, None, socket, Origin::Cloned)
}

//! What comes beside the bytes of a message: descriptors.
//!
//! A peer that has a copy of the socket's description can turn on whatever the kernel passes there. Descriptors that come by
//! such an option, and that nobody asked for, are closed: a pidfd of the sender with each message (`SO_PASSPIDFD`).
#![expect(unsafe_code, reason = "pidfds are taken out of the kernel's bytes, since rustix passes them over")]

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
};

/// How many descriptors the kernel passes with one message.
const FDS: usize = 253;
/// Room for these, and for credentials and the like if somebody asked for them.
const ROOM: usize = rustix::cmsg_space!(ScmRights(FDS), ScmCredentials(1)) + 256;
const HEADER: usize = size_of::<libc::cmsghdr>();
/// `SCM_PIDFD`, since Linux 6.5.
const PIDFD: i32 = 4;

#[repr(C, align(16))]
struct Space([MaybeUninit<u8>; ROOM]);

/// As `recvmsg(2)`: adds the descriptors that come to `fds`, close-on-exec, and tells the length and the kernel's flags.
///
/// # Errors
///
/// What `recvmsg(2)` reports, interruptions included.
pub fn receive(
    socket: BorrowedFd<'_>,
    slices: &mut [IoSliceMut<'_>],
    flags: RecvFlags,
    fds: &mut Vec<OwnedFd>,
) -> Result<(usize, ReturnFlags), Errno> {
    let mut space = Space([MaybeUninit::new(0); ROOM]);
    // The buffer closes the descriptors that are not taken out of it.
    let mut control = RecvAncillaryBuffer::new(&mut space.0);
    let message = recvmsg(socket, slices, &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = part {
            fds.extend(came);
        }
    }
    drop(control);
    close_pidfds(&space);
    Ok((message.bytes, message.flags))
}

fn close_pidfds(space: &Space) {
    // SAFETY: the bytes were zero at first; the kernel wrote over some, and nobody takes one back.
    let mut rest: &[u8] = unsafe { &*space.0.as_ptr().cast::<[u8; ROOM]>() };
    // What the kernel did not write is zero, and no header.
    while let Some((len, level, kind)) = header(rest)
        && (HEADER..=rest.len()).contains(&len)
    {
        if (level, kind) == (libc::SOL_SOCKET, PIDFD)
            && let Some(number) = rest[HEADER..len].first_chunk().copied().map(i32::from_ne_bytes)
            && number >= 0
        {
            // SAFETY: the kernel has opened it for this message, and nobody else takes it out.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
        rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
}

/// Length, level and type.
fn header(bytes: &[u8]) -> Option<(usize, i32, i32)> {
    const WORD: usize = size_of::<usize>();
    let number = |at: usize| bytes.get(at..)?.first_chunk().copied().map(i32::from_ne_bytes);
    Some((usize::from_ne_bytes(*bytes.first_chunk()?), number(WORD)?, number(WORD + 4)?))
}

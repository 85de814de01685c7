//! Sockets before they are connections: they are made, connected, and taken through the handshake.

use super::{
    address::Address,
    error::{Error, Refusal},
    handshake::Handshake,
};
use procession_sys::{Deadline, fd};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

pub(super) fn new(address: &Address) -> io::Result<OwnedFd> {
    let family = match address {
        Address::Tcp(address) if address.is_ipv4() => AddressFamily::INET,
        Address::Tcp(_) => AddressFamily::INET6,
        Address::Unix(_) | Address::Abstract(_) => AddressFamily::UNIX,
    };
    Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Small messages go out at once: a frame is written whole, so there is nothing to wait for.
pub(super) fn without_delay(socket: BorrowedFd<'_>, address: &Address) {
    if matches!(address, Address::Tcp(_)) {
        let _ = sockopt::set_tcp_nodelay(socket, true);
    }
}

/// Connects, waiting until the deadline where the listener's queue is full or the network slow.
pub(super) fn connect(socket: BorrowedFd<'_>, address: &Address, deadline: Deadline) -> Result<(), Error> {
    const DOING: &str = "connect to";
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc_errno)
            if [Errno::AGAIN, Errno::INPROGRESS, Errno::TIMEDOUT]
                .map(Errno::raw_os_error)
                .contains(&libc_errno) =>
        {
            Error::timed_out(DOING, address.to_string())
        }
        _ => Error::io(DOING, address.to_string(), error),
    };
    let name = address.to_socket().map_err(failed)?;
    loop {
        // A socket's own limit, since a Unix socket that does not block gives up at once where the queue is full.
        let left = deadline.remaining().max(Duration::from_millis(1));
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(left))
            .map_err(|e| failed(e.into()))?;
        match rustix::net::connect(socket, &name) {
            // A call that a signal interrupted goes on by itself in the kernel, and a second one finds it done.
            Ok(()) | Err(Errno::ISCONN) => break,
            Err(Errno::INTR | Errno::ALREADY) if deadline.passed() => {
                return Err(Error::timed_out(DOING, address.to_string()));
            }
            Err(Errno::INTR) => {}
            Err(Errno::ALREADY) => {
                fd::writable(socket, Some(deadline)).map_err(failed)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
    // Where nobody listens at a port that the kernel hands out, it may hand it to this socket, and connect it to itself.
    if let (Address::Tcp(_), Ok(ours), Ok(peer)) =
        (address, rustix::net::getsockname(socket), rustix::net::getpeername(socket))
        && Some(ours) == peer
    {
        return Err(failed(Errno::CONNREFUSED.into()));
    }
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, None).map_err(|error| failed(error.into()))
}

/// The user at the other end of a Unix socket.
pub(super) fn check_user(socket: BorrowedFd<'_>) -> Result<(), Refusal> {
    match sockopt::socket_peercred(socket) {
        Ok(peer) if peer.uid == rustix::process::geteuid() => Ok(()),
        Ok(peer) => Err(Refusal::User { uid: Some(peer.uid.as_raw()) }),
        Err(_) => Err(Refusal::User { uid: None }),
    }
}

/// Whether bytes are there that were not read.
pub(super) fn has_input(socket: BorrowedFd<'_>) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    rustix::net::recv(socket, &mut [0; 1], flags).is_ok_and(|(came, _)| came > 0)
}

/// What a handshake waits for.
pub(super) enum Step {
    Read,
    Write,
    Over(Result<(), Refusal>),
}

/// Takes a handshake as far as it goes without waiting.
pub(super) fn step(socket: BorrowedFd<'_>, handshake: &mut Handshake) -> Step {
    loop {
        if let Some(outcome) = handshake.outcome() {
            return Step::Over(outcome);
        }
        if handshake.output().is_empty() {
            let mut buffer = [0; super::handshake::CAP];
            // No more than belongs to the handshake: what is behind it is the connection's.
            let wanted = handshake.wanted().min(buffer.len());
            match rustix::net::recv(socket, &mut buffer[..wanted], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Step::Over(Err(Refusal::HungUp)),
                Ok((came, _)) => handshake.input(&buffer[..came]),
                Err(Errno::AGAIN) => return Step::Read,
                Err(Errno::INTR) => {}
                Err(_) => return Step::Over(Err(Refusal::HungUp)),
            }
        } else {
            match rustix::net::send(socket, handshake.output(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => handshake.sent(sent),
                Err(Errno::AGAIN) => return Step::Write,
                Err(Errno::INTR) => {}
                Err(_) => return Step::Over(Err(handshake.refusal().cloned().unwrap_or(Refusal::HungUp))),
            }
        }
    }
}

/// Takes a handshake to its end.
pub(super) fn drive(socket: impl AsFd, handshake: &mut Handshake, deadline: Deadline) -> Result<(), Refusal> {
    let socket = socket.as_fd();
    loop {
        let ready = match step(socket, handshake) {
            Step::Over(outcome) => return outcome,
            Step::Read => fd::readable(socket, Some(deadline)),
            Step::Write => fd::writable(socket, Some(deadline)),
        };
        match ready {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::TimedOut),
            Err(error) => return Err(Refusal::protocol(format!("nothing, since waiting failed: {error}"))),
        }
    }
}

//! Ends and memory of the `ipc-channel` crate in messages of ours, and its bootstrap with deadlines (feature `ipc-channel`).
//!
//! ```
//! use procession_channel::{connection::Pipe, ipc::{Ipc, ipc_channel::ipc}};
//!
//! let (sender, receiver) = ipc::channel::<String>()?;
//! let (here, there) = Pipe::<Ipc<ipc::IpcSender<String>>>::duplex()?;
//! here.send(&Ipc::new(sender)?)?; // to another process, or as an argument of one
//! there.recv()?.into_inner()?.send("through both".to_owned())?;
//! assert_eq!(receiver.recv()?, "through both");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When to use which channel
//!
//! `ipc-channel` makes typed channels whose ends travel inside messages, over Unix packet sockets, on three systems. Use it
//! to talk to code that uses it already, and to hand ends around at start-up. For everything else there are [pipes](
//! crate::connection::Pipe), lanes and queues, since with `ipc-channel` 0.23
//!
//! * a send blocks when the socket's buffer is full (278 messages of 16 bytes, 2 of 200 kB), and has no deadline;
//! * a sender that is killed within a message of more than 212 kB ends the receiver for all other senders, where it is in a
//!   receiver set; a message is lost when a signal arrives in the middle of it;
//! * more than 64 handles in a message, or none left in the receiver's process, is a panic;
//! * a received message takes 212 kB of memory, whatever its length; 1 MiB as `Vec<u8>` takes 2.6 ms one way, a plain socket
//!   takes 0.12 ms;
//! * its shared memory can be changed, or cut off, by whoever else has it, under the slice that it gives out.
//!
//! So: control messages of peers that nobody kills, yes; data, queues of a pool, and peers with deadlines, no.
//!
//! # How it is done
//!
//! The crate gives out no descriptors. But a sender connects to any path: so a sender is connected to a socket of ours, the
//! value is sent through it, and what comes out is its bytes and its descriptors ([`Ipc::new`]). The way back is a packet of
//! ours that `ipc-channel` receives ([`Ipc::into_inner`]). Each takes some thirty system calls and a thread's start and end, so
//! it is for ends, not for data.
//!
//! A packet is the length of the packet, the length of the message, both in the machine's order and size, and the message's
//! beginning; the rest follows on a socket of its own, whose receiving end is the last descriptor of the first packet.
//! This is why the manifest names one version of the crate.
//!
//! # Whom to trust
//!
//! An [`Ipc`] from a peer of ours. What a lying one packed is an error, but may leave descriptors open for good, and a debug
//! build of `ipc-channel` asserts that there are none: it does not undo what it cannot decode. It panics at bytes that name a
//! handle which did not come; that is caught here, but not in a program that is built with `panic = "abort"`.
//!
//! # When a process dies
//!
//! An [`Ipc`] that is dropped closes its descriptors. A peer's death is what it is in `ipc-channel`; only [`Server::accept`] and
//! its first message end with the peer, or at a deadline.

use super::{paths, socket};
use crate::connection::{Connection, Nothing, PipeReceiver, PipeSender};
/// The crate itself, in the version that this one knows.
pub use ipc_channel;
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use procession_parcel::{
    Bytes,
    handle::{self, Borrowed},
};
use procession_sys::{Deadline, fd};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{
    fmt, io,
    io::{IoSlice, IoSliceMut},
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

/// The most handles in one message of `ipc-channel`'s; its own last one may come on top.
const HANDLES: usize = 64;
/// How much of a message goes into a packet of ours, which every socket's buffer takes.
const PACKET: usize = 32 << 10;
const WORD: usize = size_of::<usize>();

/// A value of `ipc-channel`'s world as bytes and descriptors, so that it travels in messages and arguments of ours: an
/// [`IpcSender`], an [`IpcReceiver`], an [`IpcSharedMemory`](ipc::IpcSharedMemory), or whatever contains such.
///
/// It is duplicated when it is sent; the one that stays is closed when it is dropped. Drop it: as long as it is there, the
/// other end does not see this one go.
pub struct Ipc<E> {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    value: PhantomData<fn(E) -> E>,
}

impl<E: Serialize + DeserializeOwned> Ipc<E> {
    /// Takes a value apart. A receiver in it moves, a sender or memory is duplicated.
    ///
    /// # Errors
    ///
    /// No descriptors left, more than 64 handles in the value, a value that cannot be encoded, no place for a socket in the
    /// folder for temporary files.
    pub fn new(value: E) -> io::Result<Ipc<E>> {
        let (bytes, fds) = take_apart(value)?;
        Ok(Ipc { bytes, fds, value: PhantomData })
    }

    /// Makes the value again.
    ///
    /// # Errors
    ///
    /// What came is not the encoding of an `E`; no descriptors left.
    pub fn into_inner(self) -> io::Result<E> {
        if self.fds.len() > HANDLES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more than 64 handles"));
        }
        put_together(&self.bytes, self.fds)
    }
}

impl<E> fmt::Debug for Ipc<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ipc").field("bytes", &self.bytes.len()).field("fds", &self.fds).finish()
    }
}

/// Only inside a parcel, as duplicates.
impl<E> Serialize for Ipc<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Raw<'a>(&'a [u8]);
        impl Serialize for Raw<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.0)
            }
        }
        let fds: Vec<_> = self.fds.iter().map(|fd| Borrowed(fd.as_fd())).collect();
        (Raw(&self.bytes), fds).serialize(serializer)
    }
}

impl<'de, E> Deserialize<'de> for Ipc<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ipc<E>, D::Error> {
        struct Handle(OwnedFd);
        impl<'de> Deserialize<'de> for Handle {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Handle, D::Error> {
                handle::deserialize(deserializer).map(Handle)
            }
        }
        let (Bytes(bytes), fds): (Bytes, Vec<Handle>) = Deserialize::deserialize(deserializer)?;
        Ok(Ipc { bytes, fds: fds.into_iter().map(|Handle(fd)| fd).collect(), value: PhantomData })
    }
}

/// The one descriptor of an end.
fn fd_of<E: Serialize>(end: E) -> io::Result<OwnedFd> {
    let (_, mut fds) = take_apart(end)?;
    fds.pop().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// An end that stands alone in a message has number 0 there.
fn end_of<E: Serialize + DeserializeOwned>(fd: OwnedFd) -> io::Result<E> {
    put_together(&[0], vec![fd])
}

/// The socket under the end. Whoever has the other end must convert that one too, since messages are packed in another way;
/// messages that are under way must have been received before.
impl<T> TryFrom<IpcSender<T>> for PipeSender<T> {
    type Error = io::Error;

    fn try_from(sender: IpcSender<T>) -> io::Result<PipeSender<T>> {
        Ok(Connection::<T, Nothing>::sending_packets(fd_of(sender)?))
    }
}

/// As for a sender.
impl<T> TryFrom<IpcReceiver<T>> for PipeReceiver<T> {
    type Error = io::Error;

    fn try_from(receiver: IpcReceiver<T>) -> io::Result<PipeReceiver<T>> {
        Ok(Connection::<Nothing, T>::receiving_packets(fd_of(receiver)?))
    }
}

/// The socket under the end, of a pipe and not of a stream. Whoever has the other end must convert that one too, since messages
/// are packed in another way; messages that are under way must have been received before.
impl<T> TryFrom<PipeSender<T>> for IpcSender<T> {
    type Error = io::Error;

    fn try_from(sender: PipeSender<T>) -> io::Result<IpcSender<T>> {
        packets(sender.into()).and_then(end_of)
    }
}

/// As for a sender.
impl<T> TryFrom<PipeReceiver<T>> for IpcReceiver<T> {
    type Error = io::Error;

    fn try_from(receiver: PipeReceiver<T>) -> io::Result<IpcReceiver<T>> {
        packets(receiver.into()).and_then(end_of)
    }
}

fn packets(fd: OwnedFd) -> io::Result<OwnedFd> {
    match rustix::net::sockopt::socket_type(&fd)? {
        SocketType::SEQPACKET => Ok(fd),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the end of a stream, which has no packets")),
    }
}

fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Listens for packets at a path that nobody else can reach.
fn listen(outlives: bool) -> io::Result<(OwnedFd, PathBuf, paths::Bound)> {
    let listener = packet_socket()?;
    let (path, bound) = paths::bind_in_private(outlives, |path| {
        rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
        Ok(rustix::net::listen(&listener, 4)?)
    })?;
    Ok((listener, path, bound))
}

fn name(path: PathBuf) -> io::Result<String> {
    let no_text = "ipc-channel's names are text, and the folder for temporary files has none";
    path.into_os_string().into_string().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, no_text))
}

/// Sends a value through a sender of `ipc-channel`'s to ourselves.
fn take_apart<E: Serialize>(value: E) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (listener, path, bound) = listen(false)?;
    let sender = IpcSender::<E>::connect(name(path)?)?;
    let socket = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC)?;
    drop((listener, bound));
    // A long message takes several packets, and its sender waits for their receiver.
    std::thread::scope(|scope| {
        let receiver = std::thread::Builder::new().spawn_scoped(scope, || receive(&socket))?;
        let sent = catch_unwind(AssertUnwindSafe(|| sender.send(value)));
        // Without it the receiver comes to its end, whatever was sent.
        drop(sender);
        let received = receiver.join().unwrap_or_else(|_| Err(io::Error::other("receiving panicked")));
        match sent {
            Ok(Ok(())) => received,
            Ok(Err(error)) => {
                forget_handles();
                Err(io::Error::new(io::ErrorKind::InvalidInput, error))
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "ipc-channel panicked: more than 64 handles?",
            )),
        }
    })
}

/// Handles of a value whose encoding failed would go with the thread's next message: with this one, which nobody receives.
fn forget_handles() {
    if let Ok((sender, receiver)) = ipc::channel::<()>() {
        let _ = sender.send(());
        drop(receiver);
    }
}

/// Receives one message of `ipc-channel`'s.
fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no message of ipc-channel's came");
    let (mut packet, mut fds) = receive_packet(socket.as_fd())?;
    let word = |at: usize| {
        packet.get(at..at + WORD).and_then(|bytes| bytes.try_into().ok()).map(usize::from_ne_bytes)
    };
    let (Some(len), Some(total)) = (word(0), word(WORD)) else { return Err(malformed()) };
    if len != packet.len() {
        return Err(malformed());
    }
    packet.drain(..2 * WORD);
    if packet.len() < total {
        let rest = fds.pop().ok_or_else(malformed)?;
        while packet.len() < total {
            let (more, _) = receive_packet(rest.as_fd())?;
            packet.extend_from_slice(&more);
        }
    }
    match packet.len() == total {
        true => Ok((packet, fds)),
        false => Err(malformed()),
    }
}

fn receive_packet(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let retry = |result: Result<usize, Errno>| match result {
        Ok(0) => Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof))),
        Ok(len) => Some(Ok(len)),
        Err(Errno::INTR) => None,
        Err(error) => Some(Err(error.into())),
    };
    let len = loop {
        let peeked = rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::TRUNC);
        if let Some(result) = retry(peeked.map(|(_, len)| len)) {
            break result?;
        }
    };
    let mut packet = vec![0; len];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let (came, flags) = loop {
        let slices = &mut [IoSliceMut::new(&mut packet)];
        match rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result.map(|message| (message.bytes, message.flags))?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(Errno::MFILE.into());
    }
    packet.truncate(came);
    Ok((packet, fds))
}

/// Has `ipc-channel` receive a message of ours.
fn put_together<E: Serialize + DeserializeOwned>(bytes: &[u8], mut fds: Vec<OwnedFd>) -> io::Result<E> {
    let (sender, receiver) = ipc::channel::<E>()?;
    let sender = fd_of(sender)?;
    let (first, rest) = bytes.split_at(bytes.len().min(PACKET));
    let mut follows = None;
    if !rest.is_empty() {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        fds.push(theirs);
        follows = Some(ours);
    }
    send_first(&sender, first, bytes.len(), &fds)?;
    // The kernel has them; and who reads the rest must see it end.
    drop((fds, sender));
    std::thread::scope(|scope| {
        if let Some(socket) = follows {
            std::thread::Builder::new().spawn_scoped(scope, move || {
                rest.chunks(PACKET).all(|chunk| send_all(&socket, chunk).is_ok())
            })?;
        }
        // It takes the bytes' word for which handle is where, and panics if there is none.
        match catch_unwind(AssertUnwindSafe(|| receiver.recv())) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the bytes name a handle that is not there"))
            }
        }
    })
}

fn send_first(socket: &OwnedFd, data: &[u8], total: usize, fds: &[OwnedFd]) -> io::Result<()> {
    let len = (2 * WORD + data.len()).to_ne_bytes();
    let total = total.to_ne_bytes();
    let slices = [IoSlice::new(&len), IoSlice::new(&total), IoSlice::new(data)];
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 64 handles"));
    }
    loop {
        match rustix::net::sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

fn send_all(socket: &OwnedFd, data: &[u8]) -> io::Result<()> {
    loop {
        match rustix::net::send(socket, data, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

/// As `IpcOneShotServer`, for one peer that connects by name; but it does not wait for a dead peer, nor beyond a deadline.
///
/// The peer calls [`IpcSender::connect`] with the name, and sends the first message: ends of further channels, usually. The
/// socket lies in a folder of mode 0700, and the peer must belong to our user.
#[derive(Debug)]
pub struct Server<T> {
    listener: OwnedFd,
    bound: paths::Bound,
    message: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Server<T> {
    /// A server, and the name to connect to.
    ///
    /// # Errors
    ///
    /// No descriptors left, no place in the folder for temporary files.
    pub fn new() -> io::Result<(Server<T>, String)> {
        let (listener, path, bound) = listen(true)?;
        let name = name(path)?;
        Ok((Server { listener, bound, message: PhantomData }, name))
    }

    /// Waits for the peer and its first message: until `timeout`, or until the peer has ended, whose pidfd (or sentinel) is
    /// given. A peer that is stopped in the middle of a message of more than 200 kB can hold it up for longer.
    ///
    /// # Errors
    ///
    /// `TimedOut`; `ConnectionAborted` if the peer ended, or hung up, without a message; `PermissionDenied` if it is another
    /// user's; `InvalidData` if its message is no `T`.
    pub fn accept(self, peer: impl AsFd, timeout: Duration) -> io::Result<(IpcReceiver<T>, T)> {
        let deadline = Deadline::after(timeout);
        let peer = peer.as_fd();
        let Server { listener, bound, .. } = self;
        wait(listener.as_fd(), peer, deadline)?;
        let socket = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC)?;
        drop((listener, bound));
        socket::check_user(socket.as_fd())
            .map_err(|refusal| io::Error::new(io::ErrorKind::PermissionDenied, refusal))?;
        wait(socket.as_fd(), peer, deadline)?;
        let receiver: IpcReceiver<T> = end_of(socket)?;
        match catch_unwind(AssertUnwindSafe(|| receiver.recv())) {
            Ok(Ok(message)) => Ok((receiver, message)),
            Ok(Err(ipc_channel::IpcError::Disconnected)) => Err(ended()),
            Ok(Err(ipc_channel::IpcError::Io(error))) => Err(error),
            Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the message names a handle that is not there",
            )),
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the peer ended without a message")
}

/// Waits until `socket` is readable.
fn wait(socket: BorrowedFd<'_>, peer: BorrowedFd<'_>, deadline: Deadline) -> io::Result<()> {
    let fds = |socket| {
        [PollFd::from_borrowed_fd(socket, PollFlags::IN), PollFd::from_borrowed_fd(peer, PollFlags::IN)]
    };
    let mut waited = fds(socket);
    if fd::wait(&mut waited, Some(deadline))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer did not answer in time"));
    }
    // What it did before its end counts, so this is looked at again after the end was seen.
    match fd::look(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)])? {
        0 => Err(ended()),
        _ => Ok(()),
    }
}

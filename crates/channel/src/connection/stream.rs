//! Messages on streams, in CPython's framing.
//!
//! # A frame
//! The length of the message in 4 bytes, big-endian, then the message. A message of more than `0x7fffffff` bytes: 4
//! bytes `ff`, its length in 8 bytes, big-endian, then the message. Other negative lengths are errors.
//!
//! On a Unix socket the descriptors of a message come with the frame's first byte, at most as many as the kernel passes at
//! once.
//!
//! # States
//! * In: how much of the frame under way was read. A receiver reads exactly one frame and never beyond it, without
//!   blocking, under a lock of this process; it gives the lock up while it waits. So a deadline loses nothing, in the
//!   middle of a frame either: whoever receives next goes on there. A frame that is too large for its receiver stays
//!   announced, for one with a higher limit.
//! * Out: the rest of a message of which part is out, if its sender gave up. It goes out before anything else. Senders
//!   take turns, each for a whole message.
//!
//! # Invariants
//! 1. The bytes that leave are whole frames one after the other, but for the last.
//! 2. What was read belongs to the frame under way.
//!
//! # When a process dies
//! A killed sender may leave part of a frame. The receiver tells this from an end between frames, and never delivers it.

use super::{
    error::{ConnectionError, Kind},
    turn::{Held, Turn},
};
use procession_parcel::Parcel;
use procession_sys::{Deadline, ancillary, fd};
use rustix::{
    event::PollFlags,
    fs::{FileType, OFlags, fcntl_getfl, fstat},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketType, sendmsg, sockopt,
    },
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// By how much a buffer grows ahead of what has arrived, at first.
const STEP: usize = 64 * 1024;
/// After so many bytes others have their turn, deadlines among them. No socket holds so many at once.
const BURST: usize = 64 << 20;
/// What a pipe takes without blocking whenever it is ready (`PIPE_BUF`).
const PIPE_BUF: usize = 4096;
/// How many descriptors the kernel passes at once.
const FDS: usize = 253;
/// The longest message with a short header.
const SHORT: u64 = 0x7fff_ffff;

const SEND: &str = "send a message";
const RECV: &str = "receive a message";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Unix,
    Socket,
    Pipe,
}

pub(super) struct Stream {
    fd: OwnedFd,
    sort: Sort,
    pub(super) reads: bool,
    pub(super) writes: bool,
    input: Mutex<Input>,
    output: Turn<Output>,
}

#[derive(Default)]
struct Input {
    head: [u8; 12],
    head_got: usize,
    /// The message's length, once the header is complete.
    len: Option<u64>,
    /// Room for the message, as far as it is known to come, and how much of it has come.
    body: Vec<u8>,
    filled: usize,
    /// Whether the descriptors of this frame were looked for.
    looked: bool,
    fds: Vec<OwnedFd>,
    /// The framing was wrong, so nothing that follows has a meaning.
    lost: bool,
}

/// The rest of a message of which part is out.
#[derive(Default)]
pub(super) struct Output {
    rest: Vec<u8>,
    at: usize,
}

/// What is there.
pub(super) enum Arrived {
    Message(Parcel),
    /// No whole message yet.
    Nothing,
    End,
}

/// A message on its way out.
pub(super) struct Outgoing<'a> {
    head: [u8; 12],
    head_len: usize,
    parts: &'a [&'a [u8]],
    fds: &'a [OwnedFd],
    sent: u64,
    total: u64,
}

impl Stream {
    pub(super) fn new(fd: OwnedFd) -> Result<Stream, ConnectionError> {
        const DOING: &str = "make a connection of a stream";
        let failed = |errno: Errno| ConnectionError::io(DOING, errno);
        let stat = fstat(&fd).map_err(failed)?;
        let mode = fcntl_getfl(&fd).map_err(failed)? & OFlags::RWMODE;
        let sort = if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
            match (sockopt::socket_type(&fd).map_err(failed)?, sockopt::socket_domain(&fd).map_err(failed)?) {
                (SocketType::STREAM, AddressFamily::UNIX) => Sort::Unix,
                (SocketType::STREAM, _) => Sort::Socket,
                (other, _) => {
                    let text = format!("it is a socket of type {other:?}");
                    return Err(ConnectionError::new(DOING, Kind::Malformed(text)));
                }
            }
        } else {
            Sort::Pipe
        };
        if sort == Sort::Unix {
            // A byte out of band would otherwise be in front of the others for `poll`, and not there for who reads.
            sockopt::set_socket_oobinline(&fd, true).map_err(failed)?;
        }
        let (reads, writes) = (mode != OFlags::WRONLY, mode != OFlags::RDONLY);
        Ok(Stream { fd, sort, reads, writes, input: Mutex::default(), output: Turn::new(Output::default()) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn passes_descriptors(&self) -> bool {
        self.sort == Sort::Unix
    }

    /// The descriptor, for another process.
    pub(super) fn to_move(&self) -> Result<BorrowedFd<'_>, ConnectionError> {
        let busy = self.input().head_got > 0;
        let output = self.output.take(Some(Deadline::from_nanos(0)));
        if busy || output.is_none_or(|output| output.at < output.rest.len()) {
            return Err(ConnectionError::new("pack a connection", Kind::MidMessage));
        }
        Ok(self.fd())
    }

    /// Whether the framing was wrong.
    pub(super) fn is_lost(&self) -> bool {
        self.input().lost
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        // A panic under this lock is one of allocation; what it leaves is consistent.
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there of the frame under way, up to its end.
    pub(super) fn advance(&self, max: u64) -> Result<Arrived, ConnectionError> {
        let mut input = self.input();
        if input.lost {
            let text = "the stream has lost its place by an impossible length before".to_owned();
            return Err(ConnectionError::new(RECV, Kind::Malformed(text)));
        }
        if self.sort == Sort::Unix && !input.looked {
            match self.look() {
                Ok(fds) => input.fds = fds,
                Err(Look::Nothing) => return Ok(Arrived::Nothing),
                Err(Look::OutOfDescriptors) => {
                    return Err(ConnectionError::new(RECV, Kind::OutOfDescriptors));
                }
                Err(Look::Failed(errno)) => return Err(ConnectionError::io(RECV, errno)),
            }
            input.looked = true;
        }
        let len = loop {
            if let Some(len) = input.header() {
                break len?;
            }
            let (got, want) = (input.head_got, if input.head_got < 4 { 4 } else { 12 });
            match self.read(&mut input.head[got..want]) {
                Ok(Some(0)) if got == 0 => return Ok(Arrived::End),
                Ok(Some(0)) => return Err(cut_off(got as u64, want as u64)),
                Ok(Some(came)) => input.head_got += came,
                Ok(None) => return Ok(Arrived::Nothing),
                Err(errno) => return Err(ConnectionError::io(RECV, errno)),
            }
        };
        if len > max {
            return Err(ConnectionError::new(RECV, Kind::TooLarge { len, limit: max }));
        }
        let begin = input.filled;
        while (input.filled as u64) < len {
            if input.filled - begin >= BURST {
                return Ok(Arrived::Nothing);
            }
            let got = input.filled;
            if got == input.body.len() {
                let left = usize::try_from(len - got as u64).unwrap_or(usize::MAX);
                let step = left.min(STEP.max(got));
                let no_memory = |_| ConnectionError::new(RECV, Kind::TooLarge { len, limit: got as u64 });
                input.body.try_reserve_exact(step).map_err(no_memory)?;
                input.body.resize(got + step, 0);
            }
            match self.read(&mut input.body[got..]) {
                Ok(Some(0)) => return Err(cut_off(got as u64, len)),
                Ok(Some(came)) => input.filled += came,
                Ok(None) => return Ok(Arrived::Nothing),
                Err(errno) => return Err(ConnectionError::io(RECV, errno)),
            }
        }
        let Input { body, fds, .. } = std::mem::take(&mut *input);
        Ok(Arrived::Message(Parcel::new(body, fds)))
    }

    /// The descriptors that come with the first byte of the next frame, which stays where it is.
    fn look(&self) -> Result<Vec<OwnedFd>, Look> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        loop {
            let mut fds = Vec::new();
            match ancillary::receive(self.fd(), &mut [IoSliceMut::new(&mut [0])], flags, &mut fds) {
                Ok((_, flags)) if flags.contains(ReturnFlags::CTRUNC) => return Err(Look::OutOfDescriptors),
                Ok(_) => return Ok(fds),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Look::Nothing),
                // What it means is for the read to say.
                Err(Errno::CONNRESET) => return Ok(Vec::new()),
                Err(errno) => return Err(Look::Failed(errno)),
            }
        }
    }

    /// Reads what is there: nothing yet (`None`), the end (0), or some bytes.
    fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        loop {
            let came = if self.sort == Sort::Pipe {
                match fd::look(&mut [rustix::event::PollFd::new(&self.fd, PollFlags::IN)]) {
                    Ok(0) => return Ok(None),
                    Ok(_) => rustix::io::read(&self.fd, &mut *buffer),
                    Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
                }
            } else {
                rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT).map(|(came, _)| came)
            };
            match came {
                Ok(came) => return Ok(Some(came)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // It closed without reading all that we sent. On a Unix socket all that it sent was read before.
                Err(Errno::CONNRESET) if self.sort == Sort::Unix => return Ok(Some(0)),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sends a message, to its end or until `deadline`.
    pub(super) fn send(
        &self,
        parts: &[&[u8]],
        fds: &[OwnedFd],
        deadline: Option<Deadline>,
    ) -> Result<(), ConnectionError> {
        let timeout = |partly| ConnectionError::new(SEND, Kind::Timeout { partly });
        let mut message = Outgoing::new(parts, fds);
        let mut output = self.output.take(deadline).ok_or_else(|| timeout(false))?;
        while !self.flush_some(&mut output)? {
            if !self.wait_for_room(deadline)? {
                return Err(timeout(false));
            }
        }
        loop {
            let end = match self.send_some(&mut message) {
                Ok(true) => return Ok(()),
                // There may be room again already, and again.
                Ok(false) if message.has_begun() && deadline.is_some_and(Deadline::passed) => timeout(true),
                Ok(false) => match self.wait_for_room(deadline) {
                    Ok(true) => continue,
                    Ok(false) => timeout(message.sent > 0),
                    Err(error) => error.in_part(message.has_begun()),
                },
                Err(error) => error.in_part(message.has_begun()),
            };
            if !end.is_broken_pipe() {
                message.keep_rest(&mut output);
            }
            return Err(end);
        }
    }

    /// Sends what an earlier sender left.
    pub(super) fn flush(&self, deadline: Option<Deadline>) -> Result<(), ConnectionError> {
        let timeout = || ConnectionError::new("flush a connection", Kind::Timeout { partly: true });
        let mut output = self.output.take(deadline).ok_or_else(timeout)?;
        while !self.flush_some(&mut output)? {
            if !self.wait_for_room(deadline)? {
                return Err(timeout());
            }
        }
        Ok(())
    }

    #[cfg(feature = "async")]
    pub(super) fn poll_output(&self, waker: &std::task::Waker) -> Option<Held<'_, Output>> {
        self.output.poll(waker)
    }

    /// Sends what is left of an earlier message; false if there is no room for all of it now.
    pub(super) fn flush_some(&self, output: &mut Held<'_, Output>) -> Result<bool, ConnectionError> {
        while output.at < output.rest.len() {
            match self.write(&[IoSlice::new(&output.rest[output.at..])], &[]) {
                Ok(sent) => output.at += sent,
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(ConnectionError::io(SEND, errno)),
            }
        }
        **output = Output::default();
        Ok(true)
    }

    /// Sends what there is room for; true if that was all.
    pub(super) fn send_some(&self, message: &mut Outgoing<'_>) -> Result<bool, ConnectionError> {
        let descriptors = message.fds.len();
        if descriptors > if self.passes_descriptors() { FDS } else { 0 } {
            return Err(ConnectionError::new(SEND, Kind::NoWayFor { descriptors }));
        }
        let begin = message.sent;
        while message.sent < message.total {
            if message.sent - begin >= BURST as u64 {
                return Ok(false);
            }
            let slices = message.left();
            let fds = if message.sent > 0 { &[] } else { message.fds };
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match self.write(&slices, &fds) {
                Ok(sent) => message.sent += sent as u64,
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(ConnectionError::io(SEND, errno)),
            }
        }
        Ok(true)
    }

    /// Writes without blocking.
    fn write(&self, slices: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        if self.sort != Sort::Pipe {
            return self.send_message(slices, fds);
        }
        let Some(slice) = slices.iter().find(|slice| !slice.is_empty()) else { return Ok(0) };
        loop {
            let mut polled = [rustix::event::PollFd::new(&self.fd, PollFlags::OUT)];
            match fd::look(&mut polled) {
                Ok(0) => return Err(Errno::AGAIN),
                // A write would be a signal, where that is not ignored.
                Ok(_) if polled[0].revents().contains(PollFlags::ERR) => return Err(Errno::PIPE),
                Ok(_) => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
            match rustix::io::write(&self.fd, &slice[..slice.len().min(PIPE_BUF)]) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    fn send_message(&self, slices: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Errno::INVAL);
            }
            match sendmsg(&self.fd, slices, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    fn wait_for_room(&self, deadline: Option<Deadline>) -> Result<bool, ConnectionError> {
        fd::writable(self.fd(), deadline).map_err(|error| ConnectionError::io(SEND, error))
    }
}

enum Look {
    Nothing,
    OutOfDescriptors,
    Failed(Errno),
}

impl Input {
    /// The length of the message, if the header is complete.
    fn header(&mut self) -> Option<Result<u64, ConnectionError>> {
        if self.len.is_none() && self.head_got >= 4 {
            let [a, b, c, d, long @ ..] = self.head;
            let short = i32::from_be_bytes([a, b, c, d]);
            match short {
                0.. => self.len = Some(short as u64),
                -1 if self.head_got == 12 => self.len = Some(u64::from_be_bytes(long)),
                -1 => {}
                _ => {
                    self.lost = true;
                    let text = format!("its length is {short}: the other end speaks another protocol");
                    return Some(Err(ConnectionError::new(RECV, Kind::Malformed(text))));
                }
            }
        }
        self.len.map(Ok)
    }
}

fn cut_off(got: u64, expected: u64) -> ConnectionError {
    ConnectionError::new(RECV, Kind::CutOff { got, expected })
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(parts: &'a [&'a [u8]], fds: &'a [OwnedFd]) -> Outgoing<'a> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let mut head = [0xff; 12];
        let head_len = if len <= SHORT {
            head[..4].copy_from_slice(&(len as u32).to_be_bytes());
            4
        } else {
            head[4..].copy_from_slice(&len.to_be_bytes());
            12
        };
        Outgoing { head, head_len, parts, fds, sent: 0, total: head_len as u64 + len }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.sent > 0
    }

    /// What is left, or the beginning of it.
    fn left(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.sent;
        let mut slices = Vec::with_capacity(self.parts.len().min(64) + 1);
        for part in std::iter::once(&self.head[..self.head_len]).chain(self.parts.iter().copied()) {
            // The kernel takes 1,024 slices.
            if slices.len() == 64 {
                break;
            }
            let of_part = skip.min(part.len() as u64) as usize;
            skip -= of_part as u64;
            if of_part < part.len() {
                slices.push(IoSlice::new(&part[of_part..]));
            }
        }
        slices
    }

    /// Keeps what is not out, if the beginning is.
    pub(super) fn keep_rest(mut self, output: &mut Held<'_, Output>) {
        if !self.has_begun() {
            return;
        }
        let mut rest = Vec::new();
        while self.sent < self.total {
            let slices = self.left();
            let len: usize = slices.iter().map(|slice| slice.len()).sum();
            slices.iter().for_each(|slice| rest.extend_from_slice(slice));
            self.sent += len as u64;
        }
        **output = Output { rest, at: 0 };
    }
}

//! Records on their way from children to a parent's subscriber.
//!
//! # Protocol
//!
//! One `SOCK_SEQPACKET` socket pair per collecting process. All its descendants hold one end and send a [`Packet`] at a
//! time, without waiting; a thread of the collector reads the other.
//!
//! 1. A packet is whole or absent, so a sender may be killed at any instruction.
//! 2. A full socket costs the record: it is counted, and the count goes ahead of the next record that passes.
//! 3. What does not decode, is too long or has no such level is ignored. A receiver's death is an error that senders
//!    ignore.
//! 4. A [`Packet::Mark`] of the collector itself tells, by coming out, that all before it has come out.

use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use procession_parcel::codec;
use procession_sys::Deadline;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};
use tracing::{
    Event, Level, Metadata, Value,
    callsite::{Callsite, Identifier},
    dispatcher,
    field::{FieldSet, display},
    metadata::Kind,
    subscriber::Interest,
};

/// One record of a child.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Record {
    /// 1 for an error to 5 for a trace.
    pub(super) level: u8,
    pub(super) target: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    pub(super) message: String,
    pub(super) fields: String,
    pub(super) process: String,
    pub(super) pid: u32,
}

#[derive(Serialize, Deserialize, Debug)]
enum Packet {
    Record(Record),
    Dropped { count: u64, process: String, pid: u32 },
    Mark(u64),
}

/// The longest message, and the longest text of fields; longer ones are cut.
const LONGEST_TEXT: usize = 16 * 1024;
/// The longest target, file and process name; longer ones are cut.
const LONGEST_NAME: usize = 1024;
/// The longest packet.
const LONGEST_PACKET: usize = 64 * 1024;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Starts the count anew, in a process that is a copy of another.
pub(super) fn forget_dropped() {
    DROPPED.store(0, Ordering::Relaxed);
}

/// Sends a record, or counts it as dropped. Never waits.
pub(super) fn deliver(socket: &OwnedFd, mut record: Record) {
    for text in [&mut record.message, &mut record.fields] {
        cut(text, LONGEST_TEXT);
    }
    for name in [&mut record.target, &mut record.process].into_iter().chain(&mut record.file) {
        cut(name, LONGEST_NAME);
    }
    if !report_dropped(socket, &record.process) || !put(socket, &Packet::Record(record)) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends the count of dropped records, if there are any. False if there is no room.
pub(super) fn report_dropped(socket: &OwnedFd, process: &str) -> bool {
    let count = DROPPED.swap(0, Ordering::Relaxed);
    if count == 0
        || put(socket, &Packet::Dropped { count, process: process.to_owned(), pid: std::process::id() })
    {
        return true;
    }
    DROPPED.fetch_add(count, Ordering::Relaxed);
    false
}

fn cut(text: &mut String, longest: usize) {
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest));
        text.push('…');
    }
}

/// Whether the packet was sent, or nobody is there to want it; false if there is no room.
fn put(socket: &OwnedFd, packet: &Packet) -> bool {
    let mut bytes = Vec::new();
    if codec::encode(packet, &mut bytes).is_err() {
        return false;
    }
    loop {
        match send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return false,
            _ => return true,
        }
    }
}

/// A level as it travels.
pub(super) fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// The level behind a number that travelled.
pub(super) fn level(number: u8) -> Option<Level> {
    Some(match number {
        1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        5 => Level::TRACE,
        _ => return None,
    })
}

/// The marks that have come out, and who waits for them.
type Marks = Arc<(Mutex<u64>, Condvar)>;

/// The receiving side: a socket and a thread.
pub(super) struct Collector {
    /// The senders' end, duplicated for each child.
    end: Arc<OwnedFd>,
    owner: u32,
    marks: Marks,
    next: AtomicU64,
}

impl Collector {
    pub(super) fn start() -> io::Result<Collector> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let marks = Marks::default();
        let reached = marks.clone();
        std::thread::Builder::new()
            .name("procession-log".to_owned())
            .spawn(move || collect(&ours, &reached))?;
        Ok(Collector { end: Arc::new(theirs), owner: std::process::id(), marks, next: AtomicU64::new(1) })
    }

    /// Whether its thread is one of this process.
    pub(super) fn is_ours(&self) -> bool {
        self.owner == std::process::id()
    }

    /// What children send into.
    pub(super) fn end(&self) -> Arc<OwnedFd> {
        self.end.clone()
    }

    /// Waits until all that was sent has come out; false after `timeout`.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let deadline = Deadline::after(timeout);
        let until = Instant::now() + timeout;
        let mark = self.next.fetch_add(1, Ordering::Relaxed);
        while !put(&self.end, &Packet::Mark(mark)) {
            if !procession_sys::fd::writable(self.end.as_fd(), Some(deadline)).unwrap_or(false) {
                return false;
            }
        }
        let (reached, changed) = &*self.marks;
        let mut reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
        while *reached < mark {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return false };
            reached = changed.wait_timeout(reached, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Reads packets for as long as anybody could send one.
fn collect(socket: &OwnedFd, marks: &Marks) {
    let mut buffer = vec![0_u8; LONGEST_PACKET];
    let mut sites = Sites::default();
    loop {
        let length = match recv(socket, buffer.as_mut_slice(), RecvFlags::TRUNC) {
            // An empty packet, or the end.
            Ok((_, 0)) => {
                let mut poll = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
                let _ = procession_sys::fd::wait(&mut poll, Some(Deadline::from_nanos(0)));
                if poll[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP) {
                    return;
                }
                continue;
            }
            Ok((_, length)) => length,
            Err(Errno::INTR | Errno::NOMEM | Errno::NOBUFS) => continue,
            Err(_) => return,
        };
        let Some(packet) = buffer.get(..length) else { continue };
        match codec::decode(packet) {
            Ok(Packet::Mark(mark)) => {
                let (reached, changed) = &**marks;
                *reached.lock().unwrap_or_else(PoisonError::into_inner) = mark;
                changed.notify_all();
            }
            Ok(Packet::Record(record)) => emit(&mut sites, &record),
            Ok(Packet::Dropped { count, process, pid }) => emit(
                &mut sites,
                &Record {
                    level: number(Level::WARN),
                    target: GENERIC.to_owned(),
                    file: None,
                    line: None,
                    message: format!(
                        "{count} log records were dropped: they came faster than they were taken"
                    ),
                    fields: format!("dropped={count}"),
                    process,
                    pid,
                },
            ),
            Err(_) => {}
        }
    }
}

/// Gives a record to this process's subscriber as if it had been made here.
fn emit(sites: &mut Sites, record: &Record) {
    let Some(metadata) = sites.metadata(record) else { return };
    let fields = metadata.fields();
    let (Some(message), Some(process), Some(pid), Some(rest)) =
        (fields.field(MESSAGE), fields.field(PROCESS), fields.field(PID), fields.field(FIELDS))
    else {
        return;
    };
    let texts = (display(&record.message), display(&record.process), display(&record.fields));
    let own = if record.fields.is_empty() { None } else { Some(&texts.2 as &dyn Value) };
    let values = [
        (&message, Some(&texts.0 as &dyn Value)),
        (&process, Some(&texts.1 as &dyn Value)),
        (&pid, Some(&record.pid as &dyn Value)),
        (&rest, own),
    ];
    let values = fields.value_set(&values);
    // A subscriber that panics has told so by the panic hook; the next record may fare better.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        dispatcher::get_default(|dispatch| {
            if dispatch.enabled(metadata) {
                dispatch.event(&Event::new(metadata, &values));
            }
        });
    }));
}

pub(super) const MESSAGE: &str = "message";
pub(super) const PROCESS: &str = "process";
pub(super) const PID: &str = "pid";
pub(super) const FIELDS: &str = "fields";
static NAMES: &[&str] = &[MESSAGE, PROCESS, PID, FIELDS];
/// The target of records about records, and of those from more places than are kept.
const GENERIC: &str = "procession::log";

/// The one callsite of all forwarded records: it names their fields. Whether one is wanted is asked each time.
struct Forwarded;
static FORWARDED: Forwarded = Forwarded;

impl Callsite for Forwarded {
    fn set_interest(&self, _interest: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        static METADATA: OnceLock<Metadata<'static>> = OnceLock::new();
        METADATA.get_or_init(|| metadata(Level::TRACE, GENERIC, None, None))
    }
}

/// Whether an event came from a child.
pub(super) fn is_forwarded(metadata: &Metadata<'_>) -> bool {
    metadata.callsite() == Identifier(&FORWARDED)
}

fn metadata(
    level: Level,
    target: &'static str,
    file: Option<&'static str>,
    line: Option<u32>,
) -> Metadata<'static> {
    let fields = FieldSet::new(NAMES, Identifier(&FORWARDED));
    Metadata::new("record of a child", target, level, file, line, Some(target), fields, Kind::EVENT)
}

/// The places in the program that records came from. `tracing` wants them to live for ever, so they are leaked, and
/// their number is bounded.
#[derive(Default)]
struct Sites(HashMap<Site, &'static Metadata<'static>>);

/// Level, target, file and line.
type Site = (u8, String, Option<String>, Option<u32>);

/// How many places are kept. A record from one more is given without its place.
const MOST_SITES: usize = 4096;

impl Sites {
    fn metadata(&mut self, record: &Record) -> Option<&'static Metadata<'static>> {
        let level = level(record.level)?;
        let mut key = (record.level, record.target.clone(), record.file.clone(), record.line);
        // Longer ones are none of ours.
        let long = |text: &str| text.len() > LONGEST_NAME + '…'.len_utf8();
        if self.0.len() >= MOST_SITES && !self.0.contains_key(&key)
            || long(&key.1)
            || key.2.as_deref().is_some_and(long)
        {
            key = (record.level, GENERIC.to_owned(), None, None);
        }
        Some(self.0.entry(key).or_insert_with_key(|(_, target, file, line)| {
            let file = file.clone().map(|file| &*file.leak());
            Box::leak(Box::new(metadata(level, target.clone().leak(), file, *line)))
        }))
    }
}

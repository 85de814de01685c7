//! What workers write to stdout and stderr, line by line.
//!
//! Each stream of each worker is a pipe, and one thread per pool reads them all. It hands on whole lines, the lines of one
//! stream in their order; a last line without a newline when the stream ends. A stream ends with its last writer: that is
//! the worker, or a process that it started.
//!
//! # When a process dies
//!
//! A worker: what it had written is in its pipe, and is handed on. What it had buffered in its own memory is lost with it,
//! which for Rust's stdout is a line that was not finished. The parent: its workers go with it.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

/// A line that is longer than this is handed on in parts.
const LONGEST: usize = 64 * 1024;
/// How long the end of a pool waits for what its workers have written.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Which standard stream a line was written to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a worker wrote; see [`Builder::capture_output`](crate::Builder::capture_output).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OutputLine {
    /// The worker's name.
    pub worker: Arc<str>,
    /// Its pid.
    pub pid: u32,
    /// Where it wrote to.
    pub stream: OutputStream,
    /// The line without its end. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Who gets the lines.
pub(super) type Listener = Arc<dyn Fn(OutputLine) + Send + Sync>;

/// What reads for a pool.
#[derive(Debug)]
pub(super) struct Reader {
    inbox: Arc<Inbox>,
    /// Says that the thread has ended. `None` as long as there is none.
    ended: Option<mpsc::Receiver<()>>,
}

struct Inbox {
    sources: Mutex<Vec<Source>>,
    bell: OwnedFd,
    closed: AtomicBool,
    listener: Listener,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}

/// A stream that is read.
struct Source {
    file: File,
    worker: Arc<str>,
    pid: u32,
    stream: OutputStream,
    /// What came behind the last newline.
    rest: Vec<u8>,
}

impl Reader {
    pub(super) fn new(listener: Listener) -> io::Result<Reader> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let inbox = Inbox { sources: Mutex::default(), bell, closed: AtomicBool::new(false), listener };
        Ok(Reader { inbox: Arc::new(inbox), ended: None })
    }

    /// Reads from now on. Before this, what workers write waits in their pipes.
    pub(super) fn start(&mut self) -> io::Result<()> {
        let (end, ended) = mpsc::channel();
        let inbox = self.inbox.clone();
        std::thread::Builder::new().name("procession-output".to_owned()).spawn(move || {
            inbox.read();
            // Dropped by this thread alone, at its end.
            drop(end);
        })?;
        self.ended = Some(ended);
        Ok(())
    }

    pub(super) fn add(&self, worker: &str, pid: u32, streams: [(OutputStream, Option<File>); 2]) {
        let worker: Arc<str> = worker.into();
        for (stream, file) in streams {
            let Some(file) = file else { continue };
            if rustix::io::ioctl_fionbio(&file, true).is_ok() {
                let source = Source { file, worker: worker.clone(), pid, stream, rest: Vec::new() };
                self.inbox.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
            }
        }
        self.inbox.ring();
    }
}

/// Waits, for a bounded time, until what was written has been handed on.
impl Drop for Reader {
    fn drop(&mut self) {
        self.inbox.closed.store(true, Ordering::Release);
        self.inbox.ring();
        if let Some(ended) = self.ended.take() {
            let _ = ended.recv_timeout(LAST_WAIT);
        }
    }
}

impl Inbox {
    fn ring(&self) {
        // A full counter is a ringing bell.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn read(&self) {
        let mut sources: Vec<Source> = Vec::new();
        loop {
            // Before the last look, so that nothing that was written before is missed.
            let closed = self.closed.load(Ordering::Acquire);
            sources.append(&mut self.sources.lock().unwrap_or_else(PoisonError::into_inner));
            sources.retain_mut(|source| source.read(&self.listener));
            if closed {
                // Whoever still holds a pipe is no worker of this pool.
                sources.iter_mut().for_each(|source| source.flush(&self.listener));
                return;
            }
            let mut polled = vec![PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
            polled.extend(
                sources.iter().map(|source| PollFd::from_borrowed_fd(source.file.as_fd(), PollFlags::IN)),
            );
            if procession_sys::fd::wait(&mut polled, None).is_err() {
                // Only memory can be short here.
                std::thread::yield_now();
            }
            let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        }
    }
}

impl Source {
    /// Hands on what is there; false at the end of the stream.
    fn read(&mut self, listener: &Listener) -> bool {
        let mut buffer = [0; 8192];
        // Not for ever: the others have their turn.
        for _ in 0..16 {
            match self.file.read(&mut buffer) {
                Ok(0) => {
                    self.flush(listener);
                    return false;
                }
                Ok(count) => self.take(&buffer[..count], listener),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8], listener: &Listener) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if part.ends_with(b"\n") || self.rest.len() >= LONGEST {
                self.flush(listener);
            }
        }
    }

    fn flush(&mut self, listener: &Listener) {
        if self.rest.is_empty() {
            return;
        }
        let line = self.rest.strip_suffix(b"\n").unwrap_or(&self.rest);
        let text = String::from_utf8_lossy(line).into_owned();
        self.rest.clear();
        let line = OutputLine { worker: self.worker.clone(), pid: self.pid, stream: self.stream, text };
        // A listener that panics has told so by the panic hook; it gets the next line all the same.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener(line)));
    }
}

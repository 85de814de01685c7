//! The threads on which functions of the user's run, so that they block neither the loop nor other objects.
//!
//! A thread is started when a task comes and none is idle, up to [`MOST`]; one that is idle for [`LINGER`] ends. What a
//! function leaves comes back to the loop by a row and an event.

use crate::ship::{Done, Failure, Job, State};
use crate::{error::ErrorKind, server::body::Apply, server::world::Caller};
use procession_parcel::Panic;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    any::Any,
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const MOST: usize = 64;
const LINGER: Duration = Duration::from_secs(5);

/// What was called, and for whom.
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) replies: bool,
    pub(crate) apply: Apply,
}

struct Task {
    call: Call,
    run: fn(Job) -> Done,
    job: Job,
}

#[derive(Default)]
struct Row {
    tasks: VecDeque<Task>,
    done: Vec<(Call, Done)>,
    /// Hosted objects that nobody has a lease of any more.
    discarded: Vec<Box<dyn Any + Send>>,
    idle: usize,
    threads: usize,
    over: bool,
}

struct Shared {
    row: Mutex<Row>,
    more: Condvar,
    event: OwnedFd,
}

pub(crate) struct Workers(Arc<Shared>);

/// Tells the loop what somebody else has done.
#[derive(Clone)]
pub(crate) struct Completer(Arc<Shared>);

#[cfg_attr(not(feature = "pool"), allow(dead_code, reason = "only pools do so"))]
impl Completer {
    pub(crate) fn push(&self, call: Call, done: Done) {
        self.0.row().done.push((call, done));
        let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
    }
}

impl Shared {
    fn row(&self) -> MutexGuard<'_, Row> {
        // No code of the user's runs under this lock.
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut row = self.row();
        loop {
            if let Some(Task { call, run, job }) = row.tasks.pop_front() {
                drop(row);
                let done = catch_unwind(AssertUnwindSafe(|| run(job))).unwrap_or_else(|payload| {
                    // Trampolines catch; this is a panic in the drop of something.
                    let panic = Panic::from_payload(&*payload);
                    Done { state: State::Object(None), outcome: Err(Failure::Panicked(panic)) }
                });
                row = self.row();
                row.done.push((call, done));
                let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
                continue;
            }
            if let Some(hosted) = row.discarded.pop() {
                drop(row);
                discard(hosted);
                row = self.row();
                continue;
            }
            if row.over {
                break;
            }
            row.idle += 1;
            let (back, timeout) = self.more.wait_timeout(row, LINGER).unwrap_or_else(PoisonError::into_inner);
            row = back;
            row.idle -= 1;
            if timeout.timed_out() && row.tasks.is_empty() && row.discarded.is_empty() {
                break;
            }
        }
        row.threads -= 1;
    }
}

/// Drops a hosted object; its panic is nobody's.
pub(crate) fn discard(hosted: Box<dyn Any + Send>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(hosted))) {
        // Its drop might panic again.
        std::mem::forget(payload);
    }
}

impl Workers {
    pub(crate) fn new() -> io::Result<Workers> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Workers(Arc::new(Shared { row: Mutex::default(), more: Condvar::new(), event })))
    }

    pub(crate) fn completer(&self) -> Completer {
        Completer(self.0.clone())
    }

    /// Readable when something is done.
    pub(crate) fn event(&self) -> &OwnedFd {
        &self.0.event
    }

    pub(crate) fn run(&self, call: Call, run: fn(Job) -> Done, job: Job) {
        let mut row = self.0.row();
        row.tasks.push_back(Task { call, run, job });
        if row.idle < row.tasks.len() + row.discarded.len() && row.threads < MOST {
            match self.start() {
                Ok(_) => row.threads += 1,
                Err(error) if row.threads == 0 => {
                    if let Some(Task { call, job, .. }) = row.tasks.pop_back() {
                        let text = format!("the server has no thread for it: {error}");
                        let outcome = Err(Failure::Other(ErrorKind::System, text));
                        row.done.push((call, Done { state: job.state, outcome }));
                        let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
                    }
                }
                Err(_) => {}
            }
        }
        drop(row);
        self.0.more.notify_one();
    }

    /// Drops a hosted object, on a thread of its own if there is none.
    pub(crate) fn discard(&self, hosted: Box<dyn Any + Send>) {
        let mut row = self.0.row();
        row.discarded.push(hosted);
        // Without a thread it is dropped after the next function.
        let short = row.idle < row.tasks.len() + row.discarded.len() && row.threads < MOST;
        if short && self.start().is_ok() {
            row.threads += 1;
        }
        drop(row);
        self.0.more.notify_one();
    }

    fn start(&self) -> io::Result<std::thread::JoinHandle<()>> {
        let shared = self.0.clone();
        std::thread::Builder::new().name("manager: worker".to_owned()).spawn(move || shared.run())
    }

    /// What is done.
    pub(crate) fn done(&self) -> Vec<(Call, Done)> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0.event, &mut count);
        std::mem::take(&mut self.0.row().done)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.row().over = true;
        self.0.more.notify_all();
    }
}

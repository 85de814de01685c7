//! Panics as values: message, place and backtrace, taken down where the panic happens.
//!
//! The message of a panic is in its payload, but its place and backtrace are told to the panic hook only. So a
//! hook is installed, once, in front of the one that is there. It acts only while [`catch`] runs on the
//! panicking thread: it takes the panic down and prints nothing. Every other panic goes to the hook behind it.
//! A program that installs its own hook later gets messages without place and backtrace.

use serde::{Deserialize, Serialize};
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// A panic that was caught, here or in another process.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic(Box<Details>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Details {
    message: String,
    location: Option<String>,
    backtrace: Option<String>,
    thread: Option<String>,
    payload: String,
}

thread_local! {
    /// Whether a call of ours runs on this thread.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// The last panic that the hook took down here.
    static TAKEN: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();
/// Held for a store or a load only. (Not a `OnceLock`, whose code a child that was forked would touch for this alone.)
static ABORT_SINK: Mutex<Option<fn(&Panic)>> = Mutex::new(None);

fn abort_sink() -> MutexGuard<'static, Option<fn(&Panic)>> {
    ABORT_SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands for the message of a payload that is no text.
const NO_TEXT: &str = "a value that is no text";

impl Panic {
    /// A panic of which only the message is known.
    #[must_use]
    pub fn from_message(message: impl Into<String>) -> Panic {
        Panic::new(message.into(), "String")
    }

    /// What is known from a payload that `catch_unwind` gave.
    #[must_use]
    pub fn from_payload(payload: &(dyn Any + Send)) -> Panic {
        match text(payload) {
            (Some(message), kind) => Panic::new(message.to_owned(), kind),
            (None, kind) => Panic::new(NO_TEXT.to_owned(), kind),
        }
    }

    fn new(message: String, payload: &str) -> Panic {
        let thread = std::thread::current().name().map(str::to_owned);
        let payload = payload.to_owned();
        Panic(Box::new(Details { message, location: None, backtrace: None, thread, payload }))
    }

    fn from_hook(info: &PanicHookInfo<'_>) -> Panic {
        let mut panic = Panic::from_payload(info.payload());
        panic.0.location = info.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            panic.0.backtrace = Some(backtrace.to_string());
        }
        panic
    }

    /// The panic's message; for a payload that is no text, a stand-in that says so.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where it happened, as `file:line:column`.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// The backtrace, where `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asked for one.
    #[must_use]
    pub fn backtrace(&self) -> Option<&str> {
        self.0.backtrace.as_deref()
    }

    /// The name of the thread that panicked.
    #[must_use]
    pub fn thread(&self) -> Option<&str> {
        self.0.thread.as_deref()
    }

    /// The payload's type: `&str`, `String`, or `Box<dyn Any>` for every other.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.0.payload
    }

    /// Goes on panicking with this panic's message, without a new report from the hook.
    ///
    /// The payload is the message, a `String`. A [`catch`] further up gives this panic again, place included.
    pub fn resume(self) -> ! {
        let message = self.0.message.clone();
        TAKEN.set(Some(self));
        panic::resume_unwind(Box::new(message))
    }
}

fn text(payload: &(dyn Any + Send)) -> (Option<&str>, &'static str) {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (Some(text), "&str")
    } else if let Some(text) = payload.downcast_ref::<String>() {
        (Some(text), "String")
    } else {
        (None, "Box<dyn Any>")
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.location {
            Some(location) => write!(f, "panicked at {location}: {}", self.0.message),
            None => write!(f, "panicked: {}", self.0.message),
        }
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        match &self.0.backtrace {
            Some(backtrace) => write!(f, "\n{backtrace}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Panic {}

/// Calls `f`, and gives its panic as a value: nothing unwinds out of here, and nothing is printed.
///
/// Panics of other threads are not concerned. Where panics abort (`panic = "abort"`) the process ends, after the
/// sink of [`set_abort_sink`] was called.
///
/// # Errors
/// The panic.
#[inline]
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Panic> {
    if !HOOK.is_completed() {
        install_hook();
    }
    let outer = INSIDE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    let result = result.map_err(from_caught);
    INSIDE.set(outer);
    result
}

/// Says what to do with a panic that is about to abort the process: report it. The first one set stays.
///
/// It is called by the panic hook, where `panic = "abort"` and a [`catch`] runs on the panicking thread.
pub fn set_abort_sink(sink: fn(&Panic)) {
    abort_sink().get_or_insert(sink);
}

#[cold]
fn install_hook() {
    if std::thread::panicking() {
        return; // The hook cannot be changed now.
    }
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !INSIDE.try_with(Cell::get).unwrap_or(false) {
                return previous(info);
            }
            let panic = Panic::from_hook(info);
            if cfg!(panic = "abort") {
                let sink = *abort_sink();
                match sink {
                    Some(sink) => sink(&panic),
                    None => previous(info),
                }
            }
            TAKEN.set(Some(panic));
        }));
    });
}

#[cold]
fn from_caught(payload: Box<dyn Any + Send>) -> Panic {
    let plain = Panic::from_payload(&*payload);
    let taken = TAKEN.take();
    // The payload's own destructor may panic too.
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    match taken {
        // The hook's record is of another panic if that one was caught by the code that we called.
        Some(taken) if taken.0.message == plain.0.message => taken,
        _ => plain,
    }
}

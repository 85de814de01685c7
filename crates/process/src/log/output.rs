//! The layer behind our subscriber: a line on stderr, or a packet to the parent.

use super::forward::{self, Record};
use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    os::fd::OwnedFd,
    sync::{Arc, PoisonError, RwLock},
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Where this process's records go.
struct Sink {
    /// The process's name, once it has been told one.
    name: Option<String>,
    stderr: bool,
    up: Option<Arc<OwnedFd>>,
}

static SINK: RwLock<Sink> = RwLock::new(Sink { name: None, stderr: false, up: None });

/// Sets where a child's records go: to the parent if there is a socket, else to stderr if that is wanted.
pub(super) fn set(name: &str, stderr: bool, up: Option<Arc<OwnedFd>>) {
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = Sink { name: Some(name.to_owned()), stderr, up };
    forward::forget_dropped();
}

/// Sets whether this process's records go to stderr.
pub(super) fn to_stderr(stderr: bool) {
    SINK.write().unwrap_or_else(PoisonError::into_inner).stderr = stderr;
}

/// Tells the parent how many records were dropped, if there is room for that now.
pub(super) fn report_dropped() {
    let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(up) = &sink.up {
        forward::report_dropped(up, sink.name.as_deref().unwrap_or_default());
    }
}

/// The layer.
pub(super) struct Output;

impl<S: Subscriber> Layer<S> for Output {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut text = Text { forwarded: forward::is_forwarded(metadata), ..Text::default() };
        // Runs the user's `Debug` and `Display`, so no lock is held.
        event.record(&mut text);
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
        let record = Record {
            level: forward::number(*metadata.level()),
            target: metadata.target().to_owned(),
            file: metadata.file().map(str::to_owned),
            line: metadata.line(),
            message: text.message,
            fields: text.fields,
            process: text.process.or_else(|| sink.name.clone()).unwrap_or_else(|| "MainProcess".to_owned()),
            pid: text.pid.unwrap_or_else(std::process::id),
        };
        if let Some(up) = &sink.up {
            forward::deliver(up, record);
        } else if sink.stderr {
            drop(sink);
            // One write for one line; a closed stderr is nobody's fault.
            let _ = io::stderr().write_all(line(&record).as_bytes());
        }
    }
}

fn line(record: &Record) -> String {
    let level = forward::level(record.level).map_or("?", |level| level.as_str());
    let mut line = format!("[{level}/{}] {}", record.process, record.message);
    if !record.fields.is_empty() {
        let gap = if record.message.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = write!(line, "{gap}{}", record.fields);
    }
    let _ = write!(line, " ({}", record.target);
    if let Some(file) = &record.file {
        let _ = write!(line, ", {file}:{}", record.line.unwrap_or_default());
    }
    line.push_str(")\n");
    line
}

/// An event as text.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
    /// Whether the event came from a child: then the process is told by its fields.
    forwarded: bool,
    process: Option<String>,
    pid: Option<u32>,
}

impl Visit for Text {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if self.forwarded && field.name() == forward::PID {
            self.pid = u32::try_from(value).ok();
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A `Debug` that fails leaves what it wrote.
        let _ = match (field.name(), self.forwarded) {
            (forward::MESSAGE, _) => write!(self.message, "{value:?}"),
            (forward::FIELDS, true) => write!(self.fields, "{value:?}"),
            (forward::PROCESS, true) => {
                self.process = Some(format!("{value:?}"));
                Ok(())
            }
            (name, _) => {
                let gap = if self.fields.is_empty() { "" } else { " " };
                write!(self.fields, "{gap}{name}={value:?}")
            }
        };
    }
}

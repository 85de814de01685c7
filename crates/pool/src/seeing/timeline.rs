//! A timeline of a pool in a file: which worker did what, when.
//!
//! The file is in the trace event format of Chrome, as a JSON array, and opens in Perfetto (<https://ui.perfetto.dev>) or
//! `chrome://tracing`. It is written as things happen, through a buffer, so it needs no memory that grows; and since viewers do
//! not insist on the array's end, it can be read also if this process is killed.
//!
//! Times are of the monotonic clock, which all processes of a machine share, and count from when the timeline was made.

use crate::back::{FunctionId, Key};
use procession_sys::Deadline;
use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many events a file has at most.
const MOST: u64 = 1_000_000;
/// A wait shorter than this, in nanoseconds, is not shown.
const SHORTEST_WAIT: u64 = 5_000;
/// How many names of functions are kept.
const NAMES: usize = 1 << 16;

/// What a worker did of a task, without a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) function: FunctionId,
    pub(crate) key: Key,
    /// The first item's index in the task, and how many.
    pub(crate) first: u32,
    pub(crate) items: u32,
    /// In nanoseconds of the monotonic clock.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// A timeline that is being written.
#[derive(Debug)]
pub(crate) struct Timeline {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` once it is finished, or could not be written.
    file: Option<BufWriter<File>>,
    pid: u32,
    start: u64,
    written: u64,
    dropped: u64,
    /// When each track was last busy.
    last: HashMap<u32, u64>,
    names: HashMap<FunctionId, String>,
}

impl Timeline {
    pub(crate) fn create(path: &Path) -> io::Result<Timeline> {
        super::prepare_names();
        let file = BufWriter::with_capacity(1 << 16, File::create(path)?);
        let mut state = State {
            file: Some(file),
            pid: std::process::id(),
            start: Deadline::now().as_nanos(),
            written: 0,
            dropped: 0,
            last: HashMap::new(),
            names: HashMap::new(),
        };
        state.put("[\n");
        let program = std::env::args().next().unwrap_or_default();
        let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        state.describe("process_name", 0, &format!(r#""name":{}"#, text(&format!("pool of {program}"))));
        Ok(Timeline { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of users runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A function has this name from now on.
    pub(crate) fn define(&self, id: FunctionId, name: String) {
        let mut state = self.state();
        if state.names.len() < NAMES {
            state.names.insert(id, name);
        }
    }

    /// A worker has been started.
    pub(crate) fn worker(&self, track: u32, name: &str, index: usize) {
        let mut state = self.state();
        state.describe("thread_name", track, &format!(r#""name":{}"#, text(name)));
        state.describe("thread_sort_index", track, &format!(r#""sort_index":{index}"#));
    }

    /// It became ready.
    pub(crate) fn ready(&self, track: u32, born: u64, ready: u64) {
        let mut state = self.state();
        state.span(track, "start", "life", (born, ready), "");
        state.last.insert(track, ready);
    }

    /// It did this.
    pub(crate) fn task(&self, track: u32, span: &Span) {
        self.named_task(track, span, None, "");
    }

    /// As [`task`](Timeline::task), of a function that is not defined here, or with a remark.
    pub(crate) fn named_task(&self, track: u32, span: &Span, name: Option<&str>, remark: &str) {
        let mut state = self.state();
        let ended = span.ended.max(span.began);
        state.wait(track, span.began);
        let known = state.names.get(&span.function).cloned();
        let name = name.or(known.as_deref()).unwrap_or("task");
        let Key { task, attempt } = span.key;
        let Span { first, items, .. } = span;
        let mut arguments =
            format!(r#""task":{task},"attempt":{attempt},"first item":{first},"items":{items}"#);
        if !remark.is_empty() {
            let _ = write!(arguments, r#","end":{}"#, text(remark));
        }
        state.span(track, name, "task", (span.began, ended), &arguments);
        state.last.insert(track, ended);
    }

    /// Something has happened, to a worker or to the pool.
    pub(crate) fn instant(&self, track: u32, name: &str) {
        let now = Deadline::now().as_nanos();
        let mut state = self.state();
        let scope = if track == 0 { "p" } else { "t" };
        let line = format!(
            r#"{{"ph":"i","name":{},"cat":"life","s":"{scope}","ts":{},"pid":{},"tid":{track}}}"#,
            text(name),
            state.micros(now),
            state.pid
        );
        state.event(&line);
    }

    /// A worker has ended: what it waited is told.
    pub(crate) fn ended(&self, track: u32, remark: &str) {
        let mut state = self.state();
        state.wait(track, Deadline::now().as_nanos());
        state.last.remove(&track);
        drop(state);
        self.instant(track, remark);
    }

    /// Ends the file. What comes later is not written.
    pub(crate) fn finish(&self) {
        let mut state = self.state();
        if state.file.is_none() {
            return;
        }
        // Without a comma behind it.
        let line = format!(
            r#"{{"ph":"M","name":"events left out","pid":{},"tid":0,"args":{{"count":{}}}}}"#,
            state.pid, state.dropped
        );
        state.put(&line);
        state.put("\n]\n");
        if let Some(mut file) = state.file.take() {
            // There is nobody left to tell.
            let _ = file.flush();
        }
    }
}

impl State {
    fn put(&mut self, text: &str) {
        if self.file.as_mut().is_some_and(|file| file.write_all(text.as_bytes()).is_err()) {
            // A full disk: what was written can be read.
            self.file = None;
        }
    }

    fn event(&mut self, line: &str) {
        if self.written >= MOST {
            self.dropped += 1;
            return;
        }
        self.written += 1;
        self.put(line);
        self.put(",\n");
    }

    /// What a viewer is to call something. It is never left out.
    fn describe(&mut self, what: &str, track: u32, arguments: &str) {
        let pid = self.pid;
        self.put(&format!(
            r#"{{"ph":"M","name":"{what}","pid":{pid},"tid":{track},"args":{{{arguments}}}}}"#
        ));
        self.put(",\n");
    }

    fn micros(&self, at: u64) -> String {
        decimal(at.saturating_sub(self.start))
    }

    fn span(&mut self, track: u32, name: &str, kind: &str, (began, ended): (u64, u64), arguments: &str) {
        let line = format!(
            r#"{{"ph":"X","name":{},"cat":"{kind}","ts":{},"dur":{},"pid":{},"tid":{track},"args":{{{arguments}}}}}"#,
            text(name),
            self.micros(began),
            decimal(ended.saturating_sub(began)),
            self.pid
        );
        self.event(&line);
    }

    fn wait(&mut self, track: u32, until: u64) {
        if let Some(since) = self.last.get(&track).copied()
            && until > since.saturating_add(SHORTEST_WAIT)
        {
            self.span(track, "wait", "wait", (since, until), "");
        }
    }
}

/// Nanoseconds as microseconds.
fn decimal(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

/// A string of JSON (RFC 8259, section 7).
fn text(plain: &str) -> String {
    let mut json = String::with_capacity(plain.len() + 2);
    json.push('"');
    for c in plain.chars() {
        match c {
            '"' | '\\' => {
                json.push('\\');
                json.push(c);
            }
            c if c < ' ' => {
                let _ = write!(json, "\\u{:04x}", c as u32);
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_json() {
        assert_eq!(text("a\"b\\c\n\u{1}é"), r#""a\"b\\c\u000a\u0001é""#);
        assert_eq!((decimal(1_234_567), decimal(5)), ("1234.567".to_owned(), "0.005".to_owned()));
    }
}

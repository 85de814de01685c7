//! What happens to a pool, told to `tracing` (feature `tracing`): target `procession_pool`.
//!
//! | event | level | fields |
//! |---|---|---|
//! | `worker started`, `worker replaced` | INFO | those of the span |
//! | `worker ended` | INFO, or WARN if the pool did not want it | `how` |
//! | `task lost` | WARN | `item`, `attempt`, `error` |
//! | `task timed out` | WARN | `item`, `attempt`, `error` |
//! | `task quarantined` | ERROR | `item`, `attempt`, `error` |
//! | `task retried` | WARN | `items`, `attempt`, `error` |
//! | `pool closed`, `pool terminated` | INFO | |
//! | `pool broken` | ERROR | `error` |
//!
//! What happens to a worker is told within a span `worker` (`name`, `pid`, `index`), from its start to its end.
//!
//! A subscriber is code of users, which must not run under a pool's lock. So what happens is queued, and told in its order by a
//! thread of this process, `procession-log`, to the global subscriber; the thread is started when there is something to
//! tell that the subscriber's level admits. A subscriber that is slow delays nobody: beyond 4096 entries what comes is left out,
//! and counted. The end of a pool waits up to 200 ms until what happened to it was told.
//!
//! Workers' own records are the matter of [`procession_process::log`].

#[cfg(feature = "tracing")]
pub(crate) use told::{broken, closed, ended, failed, flush, retried, started, terminated};
#[cfg(not(feature = "tracing"))]
pub(crate) use untold::{broken, closed, ended, failed, flush, retried, started, terminated};

#[cfg(not(feature = "tracing"))]
mod untold {
    use crate::TaskError;

    pub(crate) fn started(_: &str, _: Option<u32>, _: usize, _: bool) {}
    pub(crate) fn ended(_: &str, _: bool, _: impl FnOnce() -> String) {}
    pub(crate) fn failed(_: &TaskError) {}
    pub(crate) fn retried(_: u32, _: u32, _: impl FnOnce() -> TaskError) {}
    pub(crate) fn broken(_: &TaskError) {}
    pub(crate) fn closed() {}
    pub(crate) fn terminated() {}
    pub(crate) fn flush() {}
}

#[cfg(feature = "tracing")]
mod told {
    use crate::{Died, TaskError};
    use procession_sys::{
        Deadline, OverFork,
        hooks::{ForkHooks, around_fork},
    };
    use std::{
        collections::{HashMap, VecDeque},
        panic::{AssertUnwindSafe, catch_unwind},
        sync::{Condvar, Once, PoisonError},
        thread,
        time::Duration,
    };
    use tracing::{Level, Span, error, info, info_span, level_filters::LevelFilter, warn};

    /// How many entries wait at most, and how long the end of a pool waits for them.
    const MOST: usize = 4096;
    const FAREWELL: Duration = Duration::from_millis(200);

    /// Something to tell.
    enum Entry {
        Started { name: String, pid: Option<u32>, index: usize, replaces: bool },
        Ended { name: String, meant: bool, how: String },
        Lost(Box<Died>, String),
        TimedOut(Box<Died>, String),
        Quarantined(Box<Died>, String),
        Retried { items: u32, attempt: u32, error: String },
        Broken(String),
        Closed,
        Terminated,
    }

    #[derive(Default)]
    struct Queue {
        entries: VecDeque<Entry>,
        dropped: u64,
        /// Whether there is a thread, and whether it is at the subscriber.
        thread: bool,
        telling: bool,
    }

    static QUEUE: OverFork<Option<Queue>> = OverFork::new(None);
    static CAME: Condvar = Condvar::new();
    static TOLD: Condvar = Condvar::new();

    fn tell(level: Level, entry: impl FnOnce() -> Entry) {
        // What the subscriber said of itself: nothing of it runs here.
        if LevelFilter::current() < level {
            return;
        }
        static PREPARED: Once = Once::new();
        PREPARED.call_once(|| {
            around_fork(ForkHooks {
                before: Some(|| QUEUE.hold()),
                in_parent: Some(|| QUEUE.release()),
                // Neither the thread nor what it had to tell is there.
                in_child: Some(|| QUEUE.reset(|queue| std::mem::forget(queue.take()))),
            });
        });
        let mut place = QUEUE.lock();
        let queue = place.get_or_insert_default();
        if queue.entries.len() >= MOST {
            queue.dropped += 1;
            return;
        }
        queue.entries.push_back(entry());
        if !queue.thread {
            // Without a thread the next entry tries again.
            let builder = thread::Builder::new().name("procession-log".to_owned());
            queue.thread = builder.spawn(run).is_ok();
        }
        drop(place);
        CAME.notify_one();
    }

    fn run() {
        let mut spans = HashMap::new();
        let mut place = QUEUE.lock();
        loop {
            let Some(queue) = place.as_mut() else { return };
            if let Some(entry) = queue.entries.pop_front() {
                queue.telling = true;
                let dropped = std::mem::take(&mut queue.dropped);
                drop(place);
                // The panic hook has told of it.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    if dropped > 0 {
                        warn!(target: "procession_pool", dropped, "records left out");
                    }
                    say(entry, &mut spans);
                }));
                place = QUEUE.lock();
                continue;
            }
            queue.telling = false;
            TOLD.notify_all();
            place = CAME.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn say(entry: Entry, spans: &mut HashMap<String, Span>) {
        match entry {
            Entry::Started { name, pid, index, replaces } => {
                let span = info_span!(target: "procession_pool", "worker", name, pid, index);
                span.in_scope(|| {
                    if replaces {
                        info!(target: "procession_pool", name, pid, index, "worker replaced");
                    } else {
                        info!(target: "procession_pool", name, pid, index, "worker started");
                    }
                });
                spans.insert(name, span);
            }
            Entry::Ended { name, meant, how } => {
                let span = spans.remove(&name).unwrap_or_else(Span::none);
                span.in_scope(|| {
                    if meant {
                        info!(target: "procession_pool", name, how, "worker ended");
                    } else {
                        warn!(target: "procession_pool", name, how, "worker ended");
                    }
                });
            }
            Entry::Lost(died, error) => {
                let Died { item, attempt, .. } = *died;
                warn!(target: "procession_pool", item, attempt, error, "task lost");
            }
            Entry::TimedOut(died, error) => {
                let Died { item, attempt, .. } = *died;
                warn!(target: "procession_pool", item, attempt, error, "task timed out");
            }
            Entry::Quarantined(died, error) => {
                let Died { item, attempt, .. } = *died;
                error!(target: "procession_pool", item, attempt, error, "task quarantined");
            }
            Entry::Retried { items, attempt, error } => {
                warn!(target: "procession_pool", items, attempt, error, "task retried");
            }
            Entry::Broken(error) => error!(target: "procession_pool", error, "pool broken"),
            Entry::Closed => info!(target: "procession_pool", "pool closed"),
            Entry::Terminated => info!(target: "procession_pool", "pool terminated"),
        }
    }

    pub(crate) fn started(name: &str, pid: Option<u32>, index: usize, replaces: bool) {
        tell(Level::INFO, || Entry::Started { name: name.to_owned(), pid, index, replaces });
    }

    pub(crate) fn ended(name: &str, meant: bool, how: impl FnOnce() -> String) {
        let level = if meant { Level::INFO } else { Level::WARN };
        tell(level, || Entry::Ended { name: name.to_owned(), meant, how: how() });
    }

    pub(crate) fn failed(error: &TaskError) {
        let text = || error.to_string();
        match error {
            TaskError::Died(died) => tell(Level::WARN, || Entry::Lost(died.clone(), text())),
            TaskError::TimedOut(died) => tell(Level::WARN, || Entry::TimedOut(died.clone(), text())),
            TaskError::Quarantined(died) => tell(Level::ERROR, || Entry::Quarantined(died.clone(), text())),
            _ => {}
        }
    }

    pub(crate) fn retried(items: u32, attempt: u32, error: impl FnOnce() -> TaskError) {
        tell(Level::WARN, || Entry::Retried { items, attempt, error: error().to_string() });
    }

    pub(crate) fn broken(error: &TaskError) {
        tell(Level::ERROR, || Entry::Broken(error.to_string()));
    }

    pub(crate) fn closed() {
        tell(Level::INFO, || Entry::Closed);
    }

    pub(crate) fn terminated() {
        tell(Level::INFO, || Entry::Terminated);
    }

    /// Waits until what has happened was told, but not for long. To be called under no lock.
    pub(crate) fn flush() {
        if LevelFilter::current() == LevelFilter::OFF || thread::current().name() == Some("procession-log") {
            return;
        }
        let last = Deadline::after(FAREWELL);
        let mut place = QUEUE.lock();
        while place.as_ref().is_some_and(|queue| queue.thread && (queue.telling || !queue.entries.is_empty()))
            && !last.passed()
        {
            place = TOLD.wait_timeout(place, last.remaining()).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

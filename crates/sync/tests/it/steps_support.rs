//! What the tests that die at every instruction have in common.
#![cfg_attr(crash_points, allow(dead_code, reason = "with crash points nothing is stepped"))]

use procession_shm::{Kind, Segment};
use procession_sys::{SLICE, shorten_slices};
use procession_testkit::isolated_within;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

/// For what must happen soon. Far more than elsewhere: a run over all instructions has the lowest priority, so that each
/// of the many times that a tracer waits for its child can take long.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// How soon a survivor finds out about a death by itself: some thousands of deaths are to take seconds.
pub(crate) const PERIOD: Duration = Duration::from_millis(10);

/// Alone, on one processor, where nobody spins.
pub(crate) fn isolated(name: &str, body: impl FnOnce()) {
    isolated_within(name, Duration::from_secs(300), || {
        let mut set = rustix::thread::CpuSet::new();
        let all = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
        set.set(first);
        rustix::thread::sched_setaffinity(None, &set).unwrap();
        shorten_slices(PERIOD);
        body();
    });
}

/// What two processes say to each other without a system call.
#[derive(Clone)]
pub(crate) struct Words(Segment);

impl Words {
    pub(crate) fn new() -> Words {
        Words(Segment::anonymous(Kind::new("words", 1, 1), 4096).unwrap())
    }

    pub(crate) fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < 1024);
        // SAFETY: within the payload, which is a page at least.
        let word = unsafe { self.0.as_ptr().cast::<u32>().add(index) };
        // SAFETY: aligned, zero at the start, and every process accesses it as an atomic, while `self` lives.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }
    }

    pub(crate) fn long(&self, index: usize) -> &AtomicU64 {
        assert!(index < 512);
        // SAFETY: within the payload, which is a page at least.
        let word = unsafe { self.0.as_ptr().cast::<u64>().add(index) };
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    pub(crate) fn wait(&self, index: usize) {
        while self.word(index).load(SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    pub(crate) fn set(&self, index: usize) {
        self.word(index).store(1, SeqCst);
    }
}

/// The word with the child's pid.
const CHILD: usize = 0;
/// The word that says that the partner is about to wait.
const WAITS: usize = 1;

/// A thread of this process that takes part in what the child does, while the child lives and after its death.
pub(crate) struct Partner<R> {
    gate: Gate,
    process: u32,
    thread: u32,
    handle: Option<JoinHandle<R>>,
}

/// The partner's side.
#[derive(Clone)]
pub(crate) struct Gate {
    words: Words,
    told: Arc<AtomicBool>,
    ready: mpsc::Sender<u32>,
}

impl<R: Send + 'static> Partner<R> {
    /// Starts it, and returns when it says that it is ready.
    pub(crate) fn start(body: impl FnOnce(Gate) -> R + Send + 'static) -> Partner<R> {
        let (ready, is_ready) = mpsc::channel();
        let gate = Gate { words: Words::new(), told: Arc::default(), ready };
        let handle = std::thread::spawn({
            let gate = gate.clone();
            || body(gate)
        });
        let thread = is_ready.recv().unwrap();
        Partner { gate, process: std::process::id(), thread, handle: Some(handle) }
    }

    /// In the child: from now on the partner can see whether it sleeps.
    pub(crate) fn here(&self) {
        // The child waits for the partner, however long that takes: always on the same way.
        shorten_slices(SLICE);
        self.gate.words.word(CHILD).store(std::process::id(), SeqCst);
    }

    /// In the child: as `here`, and returns when the partner sleeps in what it waits for.
    pub(crate) fn here_until_it_waits(&self) {
        self.here();
        self.gate.words.wait(WAITS);
        while !sleeps(&format!("/proc/{}/task/{}/stat", self.process, self.thread)) {
            std::thread::yield_now();
        }
    }

    /// After the child's death: waits for the partner's end.
    pub(crate) fn end(&mut self) -> R {
        self.gate.told.store(true, SeqCst);
        self.handle.take().unwrap().join().unwrap()
    }
}

impl Gate {
    /// The child may begin.
    pub(crate) fn ready(&self) {
        self.ready.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
    }

    /// Until the child sleeps; false if it has died instead.
    pub(crate) fn child_sleeps(&self) -> bool {
        self.until(|| {
            let child = self.words.word(CHILD).load(SeqCst);
            child != 0 && sleeps(&format!("/proc/{child}/stat"))
        })
    }

    /// Until the child is where it waits for the partner to wait; false if it has died instead. The next thing to do is
    /// to wait.
    pub(crate) fn child_is_here(&self) -> bool {
        let here = self.until(|| self.words.word(CHILD).load(SeqCst) != 0);
        self.words.set(WAITS);
        here
    }

    fn until(&self, seen: impl Fn() -> bool) -> bool {
        loop {
            if seen() {
                return true;
            }
            if self.told.load(SeqCst) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Whether a thread sleeps in a system call, and is not stopped.
fn sleeps(stat: &str) -> bool {
    let text = std::fs::read_to_string(stat).unwrap_or_default();
    text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

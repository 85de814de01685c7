//! The threads, and what they share with each other and with the back.
//!
//! # Words
//!
//! A *member* is one thread; its *desk* holds the tasks that it took for itself, and the events that were not fetched
//! yet. The *board* is everything else: the queue, the members, the flags. Locks are taken in this order, and none is held
//! while a function runs: board, desk, guard of a task, bell. Those of clock and bell are taken last.
//!
//! # Protocol
//!
//! * A task is in the queue or on one desk, until its thread pops it. A thread takes from its desk, then from the queue,
//!   several at once if they are short and nobody sleeps, then from other desks. It does the last two and decides to sleep
//!   under the lock of the board, so no task is put anywhere unseen by a thread that falls asleep: the queue needs that
//!   lock, and a desk is filled under it too.
//! * A thread puts events on its desk before it sets `news`; the back clears `news` before it looks at desks. So an event
//!   that was not fetched has `news` set.
//! * The driver says that it sleeps before it looks at `news` for the last time; a thread sets `news` before it looks
//!   whether the driver sleeps (both sequentially consistent), so one of them sees the other.
//! * A task that is refused sets `refused`; a thread that becomes idle makes `room` of it, and says that there is news.
//!   Both happen under the lock of the board. A driver that fetches between the refusal and its sleep leaves it at that, so
//!   it looks once more, and does not sleep with a task in hand beside a thread that has none.
//! * Where no driver waits, a thread that has nothing to do calls the attendant, which fetches events and hands out tasks.
//!   If that fails because the pool's lock is held, it is called again soon.
//! * Who wants to give up a running item decides it under the guard of its task; see [`Guard`](super::task::Guard).

mod bell;
mod clock;
mod infos;
mod member;

pub(super) use bell::CrewWaiter;

use super::task::Task;
use crate::back::{Attendant, Event, Events, Gone, Key};
use crate::seeing::{Timeline, log};
use procession_parcel::{Erased, Parcel};
use procession_sys::Deadline;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How much work is queued for each thread, in nanoseconds, and how many tasks at most.
const AHEAD: u64 = 50_000;
const TASKS_AHEAD: u64 = 256;
/// A task that takes longer than this, in nanoseconds, is taken alone, and none is queued behind it.
const LONG: u64 = 250_000;
/// How many tasks a thread takes at once.
const BATCH: usize = 16;
/// How long a thread works between two looks at the clock, in nanoseconds, about. What it has then is told.
const LOOK: u64 = 20_000;
/// So many initialisers may fail in a row, and how long the next start is put off.
const MAX_FAILED_INITS: u32 = 3;
const RETRY_START: Duration = Duration::from_millis(50);
/// When the attendant is called again if it found the lock held.
const ATTEND_AGAIN: Duration = Duration::from_millis(1);
/// Nothing is due.
const NEVER: u64 = u64::MAX;

/// How threads are started.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) initializer: Option<(Erased, Parcel)>,
    pub(super) timeline: Option<Arc<Timeline>>,
}

/// Everything that the threads share.
#[derive(Debug)]
pub(super) struct Crew {
    recipe: Recipe,
    board: Mutex<Board>,
    /// Where threads without work sleep, and the length of the queue, for those that look before they sleep.
    work: Condvar,
    queued: AtomicUsize,
    /// Whether some event was not fetched yet.
    news: AtomicBool,
    bell: Bell,
    attendant: OnceLock<Attendant>,
    /// Whether everything is to end now.
    pub(super) terminated: AtomicBool,
    clock: Clock,
}

/// Where the driver sleeps.
#[derive(Debug, Default)]
struct Bell {
    /// How many drivers wait, and how many of those sleep: one, but for moments.
    drivers: AtomicUsize,
    asleep: AtomicUsize,
    lock: Mutex<()>,
    rung: Condvar,
}

/// When something is due: an item out of time, a start that was put off.
#[derive(Debug)]
struct Clock {
    due: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
    thread: OnceLock<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Board {
    queue: VecDeque<Arc<Task>>,
    slots: Vec<Slot>,
    /// Threads that were replaced or are too many, as long as they live; and those that were left behind.
    leaving: Vec<Member>,
    left: Vec<Member>,
    /// How many threads could take a task at once, and how many of them sleep.
    idle: usize,
    sleepers: usize,
    /// Whether a task was refused since a thread was idle for the last time.
    refused: bool,
    /// Whether one that was refused may be accepted now, and the driver has not fetched since.
    room: bool,
    closed: bool,
    events: Vec<Event>,
    /// Tasks with a guard that are done.
    finished: Vec<Key>,
    /// The number of the next thread's name.
    next_number: u64,
    failed_inits: u32,
    next_start: Deadline,
    broken: bool,
    /// What threads did that are gone.
    gone: Gone,
}

#[derive(Debug)]
struct Slot {
    member: Option<Member>,
    restarts: u64,
    left_behind: u64,
}

#[derive(Debug)]
struct Member {
    life: Arc<Life>,
    handle: JoinHandle<()>,
}

/// One thread, as others see it.
#[derive(Debug)]
pub(super) struct Life {
    name: String,
    /// Its track in the timeline.
    track: u32,
    desk: Mutex<Desk>,
    /// It is to end after the task that it runs.
    ending: AtomicBool,
    born: Deadline,
}

#[derive(Debug, Default)]
struct Desk {
    tasks: VecDeque<Arc<Task>>,
    out: Vec<Event>,
    finished: Vec<Key>,
    /// The task with a guard that it runs.
    current: Option<Arc<Task>>,
    ready: bool,
    /// Since when it works.
    busy: Option<Deadline>,
    worked: Duration,
    items: u64,
    jobs: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// When its thread was ready.
    ready_at: Option<Deadline>,
}

impl Board {
    fn leave_behind(&mut self, life: &Arc<Life>) {
        let is_its = |member: &Member| Arc::ptr_eq(&member.life, life);
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.member.as_ref().is_some_and(is_its)) {
            slot.left_behind += 1;
            self.left.extend(slot.member.take());
        } else if let Some(at) = self.leaving.iter().position(is_its) {
            self.left.push(self.leaving.swap_remove(at));
        }
    }
}

impl Desk {
    fn pause(&mut self) {
        if let Some(since) = self.busy.take() {
            self.worked += since_then(since);
        }
    }
}

fn since_then(then: Deadline) -> Duration {
    Duration::from_nanos(Deadline::now().as_nanos().saturating_sub(then.as_nanos()))
}

/// No user code runs under any of these locks, so a poisoned one is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Life {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        locked(&self.desk)
    }
}

impl Crew {
    pub(super) fn start(recipe: Recipe, workers: usize) -> io::Result<Arc<Crew>> {
        let now = Deadline::now();
        let crew = Arc::new(Crew {
            recipe,
            board: Mutex::new(Board {
                queue: VecDeque::new(),
                slots: Vec::new(),
                leaving: Vec::new(),
                left: Vec::new(),
                idle: 0,
                sleepers: 0,
                refused: false,
                room: false,
                closed: false,
                events: Vec::new(),
                finished: Vec::new(),
                next_number: 1,
                failed_inits: 0,
                next_start: now,
                broken: false,
                gone: Gone::default(),
            }),
            work: Condvar::new(),
            queued: AtomicUsize::new(0),
            news: AtomicBool::new(false),
            bell: Bell::default(),
            attendant: OnceLock::new(),
            terminated: AtomicBool::new(false),
            clock: Clock {
                due: AtomicU64::new(NEVER),
                lock: Mutex::new(()),
                changed: Condvar::new(),
                thread: OnceLock::new(),
            },
        });
        let mut board = crew.board();
        for _ in 0..workers {
            board.slots.push(Slot { member: None, restarts: 0, left_behind: 0 });
        }
        let started = (0..workers).try_for_each(|index| crew.hire(&mut board, index));
        drop(board);
        match started {
            Ok(()) => Ok(crew),
            Err(error) => {
                crew.terminate(Duration::from_secs(1));
                Err(error)
            }
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        locked(&self.board)
    }

    /// Starts a thread at a place that is free.
    fn hire(self: &Arc<Crew>, board: &mut Board, index: usize) -> io::Result<()> {
        let life = Arc::new(Life {
            name: format!("{}-{}", self.recipe.name, board.next_number),
            track: u32::try_from(board.next_number).unwrap_or(u32::MAX),
            desk: Mutex::default(),
            ending: AtomicBool::new(false),
            born: Deadline::now(),
        });
        if let Some(timeline) = &self.recipe.timeline {
            timeline.worker(life.track, &life.name, index);
        }
        let (crew, alive) = (self.clone(), life.clone());
        let handle =
            thread::Builder::new().name(life.name.clone()).spawn(move || crew.live(&alive, index))?;
        log::started(&life.name, None, index, board.slots[index].restarts > 0);
        board.next_number += 1;
        self.has_become_idle(board);
        board.slots[index].member = Some(Member { life, handle });
        Ok(())
    }

    /// Another thread can be given a task from now on.
    fn has_become_idle(&self, board: &mut Board) {
        board.idle += 1;
        if std::mem::take(&mut board.refused) {
            board.room = true;
            self.ring();
        }
    }

    /// Fills the places that are free, if it is time.
    fn fill(self: &Arc<Crew>, board: &mut Board) {
        if board.closed || board.broken || self.terminated.load(Ordering::Relaxed) {
            return;
        }
        while let Some(index) = board.slots.iter().position(|slot| slot.member.is_none()) {
            if board.next_start.passed() && self.hire(board, index).is_ok() {
                board.slots[index].restarts += 1;
                continue;
            }
            if board.next_start.passed() {
                board.next_start = Deadline::after(RETRY_START);
            }
            return self.due_at(board.next_start);
        }
    }

    pub(super) fn set_attendant(&self, attendant: Attendant) {
        // There is one pool for this back, so this is the first.
        let _ = self.attendant.set(attendant);
    }

    /// Takes in a task; gives it back if the threads have enough to do.
    pub(super) fn submit(&self, item: Option<u64>, task: impl FnOnce() -> Arc<Task>, items: u32) -> bool {
        let mut board = self.board();
        let workers = board.slots.len() as u64;
        let room = match item.map(|item| item.saturating_mul(u64::from(items))) {
            Some(time) if time < LONG => (AHEAD * workers / time.max(1)).min(TASKS_AHEAD * workers).max(1),
            // What is not known may be long.
            _ => 0,
        };
        if board.closed || board.queue.len() >= board.idle.max(room as usize) {
            board.refused = true;
            return false;
        }
        board.queue.push_back(task());
        self.queued.store(board.queue.len(), Ordering::Relaxed);
        let wake = board.sleepers > 0;
        drop(board);
        if wake {
            self.work.notify_one();
        }
        true
    }

    pub(super) fn has_news(&self) -> bool {
        self.news.load(Ordering::Relaxed)
    }

    /// Fetches all events, and the keys of guarded tasks that are done.
    pub(super) fn fetch(&self, events: &mut Events, mut finished: impl FnMut(Key)) {
        if !self.news.swap(false, Ordering::SeqCst) {
            return;
        }
        let mut board = self.board();
        if std::mem::take(&mut board.room) {
            self.news.store(true, Ordering::SeqCst);
        }
        let Board { slots, leaving, left, events: own, finished: done, gone: past, .. } = &mut *board;
        own.drain(..).for_each(|event| events.push(event));
        done.drain(..).for_each(&mut finished);
        for member in slots.iter().filter_map(|slot| slot.member.as_ref()).chain(leaving.iter()) {
            let mut desk = member.life.desk();
            desk.out.drain(..).for_each(|event| events.push(event));
            desk.finished.drain(..).for_each(&mut finished);
        }
        for gone in [leaving, left] {
            gone.retain(|member| {
                let over = member.handle.is_finished();
                if over {
                    infos::add(past, &member.life);
                }
                !over
            });
        }
    }

    /// What is on a desk goes back to the head of the queue.
    fn return_tasks(&self, board: &mut Board, desk: &mut Desk) {
        if !desk.tasks.is_empty() {
            while let Some(task) = desk.tasks.pop_back() {
                board.queue.push_front(task);
            }
            self.queued.store(board.queue.len(), Ordering::Relaxed);
            self.work.notify_all();
        }
    }

    pub(super) fn workers(&self) -> usize {
        self.board().slots.len()
    }

    /// Has a thread end after the task that it runs, and another take its place.
    pub(super) fn restart(self: &Arc<Crew>, index: usize) -> bool {
        let mut board = self.board();
        let Some(member) = board.slots.get_mut(index).and_then(|slot| slot.member.take()) else {
            return false;
        };
        self.dismiss(&mut board, member);
        self.fill(&mut board);
        true
    }

    fn dismiss(&self, board: &mut Board, member: Member) {
        member.life.ending.store(true, Ordering::Relaxed);
        self.return_tasks(board, &mut member.life.desk());
        board.leaving.push(member);
        self.work.notify_all();
    }

    pub(super) fn resize(self: &Arc<Crew>, workers: usize) {
        let mut board = self.board();
        while board.slots.len() > workers.max(1) {
            if let Some(member) = board.slots.pop().and_then(|slot| slot.member) {
                self.dismiss(&mut board, member);
            }
        }
        for index in board.slots.len()..workers {
            board.slots.push(Slot { member: None, restarts: 0, left_behind: 0 });
            if self.hire(&mut board, index).is_err() {
                board.next_start = Deadline::after(RETRY_START);
            }
        }
        self.fill(&mut board);
    }

    /// Threads end once nothing is queued.
    pub(super) fn close(&self) {
        self.board().closed = true;
        self.work.notify_all();
    }

    /// Whether all threads are gone, except for those that were left behind.
    pub(super) fn has_ended(&self) -> bool {
        let is_over =
            |handle: &JoinHandle<()>| handle.is_finished() || handle.thread().id() == thread::current().id();
        let clock = self.clock.thread.get().and_then(Option::as_ref);
        if self.terminated.load(Ordering::Relaxed) && !clock.is_none_or(is_over) {
            return false;
        }
        let board = self.board();
        let mut members = board.slots.iter().filter_map(|slot| slot.member.as_ref()).chain(&board.leaving);
        members.all(|member| is_over(&member.handle))
    }

    /// Asks everything to end, and waits for that, but not longer than `grace`. Then who still runs is left behind.
    pub(super) fn terminate(&self, grace: Duration) {
        let mut board = self.board();
        board.closed = true;
        self.terminated.store(true, Ordering::Relaxed);
        board.queue.clear();
        self.queued.store(0, Ordering::Relaxed);
        for slot in &board.slots {
            if let Some(member) = &slot.member {
                member.life.desk().tasks.clear();
            }
        }
        drop(board);
        self.work.notify_all();
        drop(locked(&self.clock.lock));
        self.clock.changed.notify_all();
        let end = Deadline::after(grace);
        let mut pause = Duration::from_micros(10);
        while !self.has_ended() && !end.passed() {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
        if let Some(timeline) = &self.recipe.timeline {
            timeline.finish();
        }
    }
}

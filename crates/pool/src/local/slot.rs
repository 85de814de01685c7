//! One worker as the parent sees it: its process, its lanes, and what it was given.
#![expect(unsafe_code, reason = "lays out the two lanes of a worker in one segment")]

mod end;

pub(super) use end::{Failures, Verdict};

use super::{
    wire::{self, PIECE, TaskHeader, Times},
    worker::{self, Boot},
};
use crate::{
    Error, TaskError,
    back::{Attendant, Envelope, Event, Events, FunctionId, Key},
    records,
    work::judge,
};
use procession_channel::{
    Bell,
    lane::{self, Config, RawReceiver, RawSender, TrySendError},
};
use procession_parcel::{
    Erased, Fd, Outcome, Parcel, codec,
    wire::packet::{self, Packet},
};
use procession_process::{Process, Resource, StartMethod, watch};
use procession_shm::{Kind, Segment};
use std::{
    collections::{HashSet, VecDeque},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// The size of each lane's ring.
const LANE: usize = 4 * PIECE;
const KIND: Kind = Kind::new("worker lanes", u32::from_le_bytes(*b"pool"), lane::LAYOUT);
/// How many bytes of results are taken out of a lane at once.
const BATCH: usize = 64 * 1024;

/// How workers are started.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) start_method: Option<StartMethod>,
    pub(super) initializer: Option<(Erased, Parcel)>,
}

/// What a worker's death is told by.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) rung: AtomicBool,
    pub(super) bell: Bell,
    /// Sees to the death if nobody waits.
    pub(super) attendant: OnceLock<Attendant>,
}

impl Alarm {
    /// What a watch calls: it has the workers looked after, by the driver or else the attendant.
    pub(super) fn callback(self: &Arc<Alarm>) -> watch::Callback {
        let alarm = self.clone();
        Box::new(move || {
            alarm.rung.store(true, Ordering::Release);
            alarm.bell.ring();
            if let Some(attendant) = alarm.attendant.get() {
                attendant.attend();
            }
        })
    }
}

/// A worker.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) process: Process<()>,
    watch: Option<watch::WatchId>,
    /// Whether it took the place of one that died.
    pub(super) replacement: bool,
    /// `None` once it was told to end.
    tasks: Option<RawSender>,
    results: RawReceiver,
    /// By which it gets functions with descriptors.
    socket: OwnedFd,
    /// Whether its initialiser was called, and whether that is done.
    begun: bool,
    pub(super) ready: bool,
    init_failure: Option<TaskError>,
    /// Whether it has ever told a result, and whether it has since [`Failures::learn`] looked; the same of being ready.
    resulted: bool,
    new_result: bool,
    newly_ready: bool,
    /// Whether its pool killed it because somebody asked for that, or because what it told or what the lanes say was
    /// nonsense.
    pub(super) killed: bool,
    damaged: bool,
    /// What was given to it and is not finished, oldest first.
    given: VecDeque<Given>,
    /// What there was no room for yet.
    outbox: VecDeque<Outgoing>,
    /// The functions it was told of, and the one that its last task calls.
    functions: HashSet<FunctionId>,
    last: Option<FunctionId>,
    /// The function that it was told of last, if that is large or has descriptors, for the sake of this task, and the
    /// ticket of the first message.
    large: Option<(FunctionId, Key, u64)>,
    /// The nanoseconds that everything in `given` should take.
    pub(super) load: u64,
}

/// A task that this worker has.
#[derive(Debug)]
struct Given {
    key: Key,
    items: u32,
    done: u32,
    /// What it should take, in nanoseconds.
    time: u64,
    /// The ticket of the message that carries all of it, or else its messages: the index behind the last item of each,
    /// and its ticket.
    whole: Option<u64>,
    pieces: Vec<(u32, u64)>,
}

impl Given {
    /// The ticket of its first message, if that was sent.
    fn first_ticket(&self) -> Option<u64> {
        self.whole.or(self.pieces.first().map(|(_, ticket)| *ticket))
    }
}

#[derive(Debug)]
enum Outgoing {
    /// The rest of a task: its next items and their records, from `at`; how many of them make the next piece, and
    /// where that ends, if it was tried before.
    Items { header: TaskHeader, records: Vec<u8>, at: usize, piece: Option<(u32, usize)> },
    /// A function with descriptors, for this task.
    Parcel { id: FunctionId, key: Key, parcel: Arc<Parcel> },
    /// The rest of one message, in fragments.
    Fragments { message: Vec<u8>, at: usize, carries: Carries },
}

/// What a message in fragments is.
#[derive(Clone, Copy, Debug)]
enum Carries {
    /// One item of this task, the last one before this index.
    Item(Key, u32),
    /// A function, for the task behind it.
    Function(FunctionId, Key),
    Other,
}

/// The message `kind` about a function.
fn about(kind: u8, id: FunctionId, more: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(5 + more.len());
    message.push(kind);
    message.extend_from_slice(&id.0.to_le_bytes());
    message.extend_from_slice(more);
    message
}

impl Slot {
    pub(super) fn start(recipe: &Recipe, number: u64, alarm: &Arc<Alarm>) -> Result<Slot, Error> {
        let name = format!("{}-{number}", recipe.name);
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(format!("start worker `{name}`"), error)
        };
        let to_worker = Config { capacity: LANE, max_message: u32::MAX as usize, ..Config::default() };
        let from_worker = Config { receiver_bell: Some(alarm.bell.clone()), ..to_worker.clone() };
        let size = to_worker.footprint() + from_worker.footprint();
        let segment = Segment::anonymous(KIND, size).map_err(|error| failed(error.into()))?;
        // SAFETY: the segment was just made, and this lane is the only one in its first part.
        let first = unsafe { lane::pair_in(&segment, 0, &to_worker) };
        let (tasks, theirs) = first.map_err(|error| failed(error.into()))?;
        // SAFETY: likewise in the rest, which begins where the first one ends.
        let second = unsafe { lane::pair_in(&segment, to_worker.footprint(), &from_worker) };
        let (ours, results) = second.map_err(|error| failed(error.into()))?;
        let initializer = match &recipe.initializer {
            None => None,
            Some((function, argument)) => {
                Some((function.clone(), argument.try_clone().map_err(|error| failed(error.into()))?))
            }
        };
        let (socket, end) = packet::pair().map_err(|error| failed(error.into()))?;
        let boot = Boot { tasks: theirs, results: ours, parcels: Fd::from(end), initializer };
        let mut builder = Process::builder().name(name.clone()).daemon(true).limit(Resource::Core, 0);
        if let Some(method) = recipe.start_method {
            builder = builder.start_method(method);
        }
        let process = builder.spawn(worker::run, boot).map_err(|error| failed(error.into()))?;
        Ok(Slot {
            process,
            watch: None,
            replacement: false,
            tasks: Some(tasks),
            results,
            socket,
            begun: false,
            ready: false,
            init_failure: None,
            resulted: false,
            new_result: false,
            newly_ready: false,
            killed: false,
            damaged: false,
            given: VecDeque::new(),
            outbox: VecDeque::new(),
            functions: HashSet::new(),
            last: None,
            large: None,
            load: 0,
        })
    }

    /// Has its death told. This starts a thread in the process, if it is the first watch.
    pub(super) fn watch(&mut self, alarm: &Arc<Alarm>) {
        // Without a watch, deaths are found by looking.
        self.watch = watch::watch(self.process.sentinel(), alarm.callback()).ok();
    }

    /// How many tasks it has.
    pub(super) fn tasks(&self) -> usize {
        self.given.len()
    }

    /// What the task that it is running should take, and what those behind it should.
    pub(super) fn times(&self) -> (u64, u64) {
        let running = self.given.front().map_or(0, |given| given.time);
        (running, self.load.saturating_sub(running))
    }

    /// Whether a message can be sent to it now.
    pub(super) fn takes_more(&self) -> bool {
        self.tasks.is_some() && self.outbox.is_empty()
    }

    // --- to the worker ---

    /// Gives it a task, which should take `time` nanoseconds. What there is no room for is kept and sent on later.
    pub(super) fn give(&mut self, task: &Envelope<'_>, records: &[u8], function: &Arc<Parcel>, time: u64) {
        if self.last != Some(task.function) && self.functions.insert(task.function) {
            self.define(task.function, task.key, function);
        }
        self.last = Some(task.function);
        self.load = self.load.saturating_add(time);
        self.given.push_back(Given {
            key: task.key,
            items: task.items,
            done: 0,
            time,
            whole: None,
            pieces: Vec::new(),
        });
        let header = TaskHeader::of(task);
        if self.outbox.is_empty()
            && TaskHeader::SIZE + records.len() <= PIECE
            && self.send(&[&header.encode(), records])
        {
            self.sent_items(task.key, task.items);
            return;
        }
        self.outbox.push_back(Outgoing::Items { header, records: records.to_vec(), at: 0, piece: None });
        self.flush();
    }

    /// Tells it of a function, for the sake of a task.
    fn define(&mut self, id: FunctionId, key: Key, parcel: &Arc<Parcel>) {
        if parcel.fds().is_empty() {
            let message = about(wire::DEFINE, id, parcel.bytes());
            return self.send_message(message, Carries::Function(id, key));
        }
        self.outbox.push_back(Outgoing::Parcel { id, key, parcel: parcel.clone() });
        self.flush();
    }

    /// Sends a function with descriptors, and then the message that tells of it, if there is room.
    fn send_parcel(&mut self, id: FunctionId, key: Key, parcel: Arc<Parcel>) -> Option<Outgoing> {
        let tail = id.0.to_le_bytes();
        let packet = Packet::new(&[parcel.bytes(), &tail], parcel.fds());
        let message = match packet.and_then(|mut packet| packet.try_send(self.socket.as_fd())) {
            Ok(false) => return Some(Outgoing::Parcel { id, key, parcel }),
            Ok(true) => {
                parcel.mark_delivered();
                about(wire::DEFINE_PARCEL, id, &[])
            }
            // Where the worker has ended, this goes nowhere.
            Err(error) => about(wire::REFUSE, id, error.to_string().as_bytes()),
        };
        self.flush_one(Outgoing::Fragments { message, at: 0, carries: Carries::Function(id, key) })
    }

    pub(super) fn undefine(&mut self, id: FunctionId) {
        self.last = None;
        if self.functions.remove(&id) {
            self.send_message(about(wire::UNDEFINE, id, &[]), Carries::Other);
            self.ring();
        }
    }

    fn send_message(&mut self, message: Vec<u8>, carries: Carries) {
        if self.outbox.is_empty() && message.len() <= PIECE && self.send(&[&message]) {
            return;
        }
        self.outbox.push_back(Outgoing::Fragments { message, at: 0, carries });
    }

    /// Sends one message, without waking the worker; false if there is no room, or never will be. A worker that was told
    /// to end takes anything.
    fn send(&mut self, parts: &[&[u8]]) -> bool {
        let Some(tasks) = &mut self.tasks else { return true };
        match tasks.send_quiet(parts) {
            Ok(()) => true,
            Err(TrySendError::Full) => false,
            // A worker that lives does not close its lane. What it was not given is found so after its death.
            Err(_) => {
                self.end_damaged();
                false
            }
        }
    }

    /// The last message had the items of `key` up to `end`.
    fn sent_items(&mut self, key: Key, end: u32) {
        let ticket = self.tasks.as_ref().map_or(0, RawSender::sent);
        if let Some(given) = self.given.iter_mut().rev().find(|given| given.key == key) {
            if given.pieces.is_empty() && end == given.items {
                given.whole = Some(ticket);
            } else {
                given.pieces.push((end, ticket));
            }
        }
    }

    /// Wakes the worker if it sleeps.
    pub(super) fn ring(&self) {
        if let Some(tasks) = &self.tasks {
            tasks.ring();
        }
    }

    /// Sends on what there was no room for.
    pub(super) fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        while let Some(next) = self.outbox.pop_front() {
            if let Some(rest) = self.flush_one(next) {
                self.outbox.push_front(rest);
                break;
            }
        }
        self.ring();
    }

    /// Sends what it can of `next`, and gives back the rest.
    fn flush_one(&mut self, next: Outgoing) -> Option<Outgoing> {
        match next {
            Outgoing::Parcel { id, key, parcel } => self.send_parcel(id, key, parcel),
            Outgoing::Fragments { message, mut at, carries } => {
                while at < message.len() {
                    let end = message.len().min(at + PIECE - 1);
                    let kind = if end == message.len() { wire::LAST_FRAGMENT } else { wire::FRAGMENT };
                    if !self.send(&[&[kind], &message[at..end]]) {
                        return Some(Outgoing::Fragments { message, at, carries });
                    }
                    // The ticket that counts is the first fragment's.
                    match carries {
                        _ if at > 0 => {}
                        Carries::Item(key, end) => self.sent_items(key, end),
                        Carries::Function(id, key) => {
                            self.large = Some((id, key, self.tasks.as_ref().map_or(0, RawSender::sent)));
                        }
                        Carries::Other => {}
                    }
                    at = end;
                }
                None
            }
            Outgoing::Items { mut header, records, mut at, mut piece } => {
                while header.items > 0 {
                    let (count, end) = piece.take().unwrap_or_else(|| fitting(&records, at, header.items));
                    if count == 0 {
                        // One item that is larger than a piece.
                        let end = at + records::offset_of(&records[at..], 1);
                        let mut message = TaskHeader { items: 1, ..header }.encode().to_vec();
                        message.extend_from_slice(&records[at..end]);
                        header.first += 1;
                        header.items -= 1;
                        self.outbox.push_front(Outgoing::Items { header, records, at: end, piece: None });
                        return self.flush_one(Outgoing::Fragments {
                            message,
                            at: 0,
                            carries: Carries::Item(header.key, header.first),
                        });
                    }
                    let more = if count < header.items { wire::MORE } else { 0 };
                    let head = TaskHeader { flags: more, items: count, ..header };
                    if !self.send(&[&head.encode(), &records[at..end]]) {
                        return Some(Outgoing::Items { header, records, at, piece: Some((count, end)) });
                    }
                    at = end;
                    header.first += count;
                    header.items -= count;
                    self.sent_items(header.key, header.first);
                }
                None
            }
        }
    }

    // --- from the worker ---

    /// Takes in some of what the worker has told; gives how long items took to `times`. Returns how many messages it
    /// took, `None` if the worker told nonsense.
    pub(super) fn collect(&mut self, events: &mut Events, mut times: impl FnMut(Times)) -> Option<usize> {
        if self.damaged {
            return None;
        }
        let Slot { results, given, load, .. } = self;
        let (mut begun, mut ready, mut result, mut failure) = (false, false, false, None);
        let mut run = Run { key: Key { task: 0, attempt: 0 }, first: 0, count: 0, records: Vec::new() };
        let mut sane = true;
        let received = results.recv_batch(BATCH, |message| match message.split_first() {
            // What comes after nonsense is no better.
            _ if !sane => {}
            Some((&wire::VALUE, value)) => {
                let Some(task) = given.front_mut() else { return sane = false };
                result = true;
                if run.count == 0 {
                    run.key = task.key;
                    run.first = task.done;
                    run.records = events.buffer();
                }
                records::append(&mut run.records, value);
                run.count += 1;
                task.done += 1;
                if task.done == task.items {
                    *load -= task.time;
                    given.pop_front();
                    run.flush(events);
                }
            }
            Some((&wire::FAILURE, outcome)) => {
                run.flush(events);
                let Some(task) = given.front_mut() else { return sane = false };
                result = true;
                let (key, item) = (task.key, task.done);
                events.push(Event::Failed { key, item, error: decode_failure(outcome) });
                task.done += 1;
                if task.done == task.items {
                    *load -= task.time;
                    given.pop_front();
                }
            }
            Some((&wire::TIMES, _)) => match Times::decode(message) {
                Some(told) => times(told),
                None => sane = false,
            },
            Some((&wire::BEGUN, _)) => begun = true,
            Some((&wire::READY, _)) => ready = true,
            Some((&wire::INIT_FAILED, outcome)) => failure = Some(decode_failure(outcome)),
            // That the worker was told nonsense is as bad.
            _ => sane = false,
        });
        run.flush(events);
        self.begun |= begun;
        self.newly_ready |= ready && !self.ready;
        self.ready |= ready;
        self.resulted |= result;
        self.new_result |= result;
        self.init_failure = self.init_failure.take().or(failure);
        match received {
            Ok(count) if sane => Some(count),
            // The worker has ended by itself.
            Err(lane::RecvError::Disconnected) if sane => Some(0),
            _ => {
                self.end_damaged();
                None
            }
        }
    }

    /// Whether there may be something to [`collect`](Slot::collect).
    pub(super) fn has_news(&self) -> bool {
        self.results.has_news()
    }

    /// Tells it to end once it has run what it was given.
    pub(super) fn close(&mut self) {
        self.tasks = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch::unwatch(watch);
        }
    }
}

/// Values that follow each other in one task.
struct Run {
    key: Key,
    first: u32,
    count: u32,
    records: Vec<u8>,
}

impl Run {
    fn flush(&mut self, events: &mut Events) {
        if self.count > 0 {
            let Run { key, first, count, .. } = *self;
            events.push(Event::Results { key, first, count, records: std::mem::take(&mut self.records) });
            self.count = 0;
        }
    }
}

/// How many of the next `items` records, from `at`, go into one piece, and where they end.
fn fitting(records: &[u8], at: usize, items: u32) -> (u32, usize) {
    let room = PIECE - TaskHeader::SIZE;
    if records.len() - at <= room {
        return (items, records.len());
    }
    let (mut count, mut end) = (0, at);
    while count < items {
        match records::split(&records[end..]) {
            Some((_, behind)) if records.len() - behind.len() - at <= room => {
                end = records.len() - behind.len();
                count += 1;
            }
            _ => break,
        }
    }
    (count, end)
}

fn decode_failure(outcome: &[u8]) -> TaskError {
    match codec::decode::<Outcome<()>>(outcome).map(judge) {
        Ok(Err(error)) => error,
        Ok(Ok(())) => TaskError::BadResult("the worker called a value a failure".to_owned()),
        Err(error) => TaskError::BadResult(error.to_string()),
    }
}

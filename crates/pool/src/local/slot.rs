//! One worker as the parent sees it: its process, its lanes, and what it was given.
#![expect(unsafe_code, reason = "lays out the two lanes of a worker in one segment")]

mod end;
mod leave;
mod outbox;
mod told;
mod traced;
mod watched;

pub(super) use end::{Failures, Verdict};
use outbox::Outgoing;
use told::{Run, Told};
use watched::Watched;

use super::{
    cargo::Place,
    control::{self, Control},
    output::{OutputStream, Reader},
    wire::{self, PIECE, Times},
    worker::{self, Boot},
};
use crate::{
    Cause, Error, TaskError,
    back::{Attendant, Event, Events, FunctionId, Key},
    records::{self, Layout},
    seeing::{Span, Timeline},
    work::judge,
};
use procession_channel::{
    Bell,
    lane::{self, Config, RawReceiver, RawSender},
};
use procession_parcel::{Erased, Fd, Outcome, Parcel, codec, wire::packet};
use procession_process::{Process, Resource, StartMethod, Stdio, watch};
use procession_shm::{HeapRing, Kind, Segment};
use procession_sys::Deadline;
use std::{
    collections::{HashSet, VecDeque},
    ffi::OsString,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// The size of each lane's ring.
pub(super) const LANE: usize = 4 * PIECE;
const KIND: Kind = Kind::new("worker lanes", u32::from_le_bytes(*b"pool"), lane::LAYOUT);
/// How many bytes of results are taken out of a lane at once.
const BATCH: usize = 64 * 1024;

/// How workers are started.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) start_method: Option<StartMethod>,
    pub(super) initializer: Option<(Erased, Parcel)>,
    /// What makes a worker's state, and what it calls before it ends.
    pub(super) state: Option<(Erased, Parcel)>,
    pub(super) exit: Option<(Erased, Parcel)>,
    /// In bytes.
    pub(super) recycle_memory: Option<u64>,
    pub(super) memory_limit: Option<u64>,
    pub(super) limits: Vec<(Resource, u64)>,
    pub(super) pins: Vec<Vec<usize>>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) timeline: Option<Arc<Timeline>>,
    /// The ring by which blocks of a heap travel.
    pub(super) ring: Option<HeapRing>,
    #[cfg(feature = "sandbox")]
    pub(super) sandbox: Option<super::Sandbox>,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            name: "PoolWorker".to_owned(),
            start_method: None,
            initializer: None,
            state: None,
            exit: None,
            recycle_memory: None,
            memory_limit: None,
            limits: Vec::new(),
            pins: Vec::new(),
            environment: Vec::new(),
            timeline: None,
            ring: None,
            #[cfg(feature = "sandbox")]
            sandbox: None,
        }
    }
}

impl Recipe {
    /// A process as it says.
    fn process(&self, index: usize, captured: bool) -> procession_process::Builder {
        // In a group of its own, so that a stop reaches what it starts.
        let mut builder = Process::builder().daemon(true).process_group().limit(Resource::Core, 0);
        if let Some(method) = self.start_method {
            builder = builder.start_method(method);
        }
        for (resource, value) in &self.limits {
            builder = builder.limit(*resource, *value);
        }
        if let Some(bytes) = self.memory_limit {
            builder = builder.limit(Resource::Data, bytes);
        }
        if !self.pins.is_empty() {
            builder = builder.affinity(self.pins[index % self.pins.len()].iter().copied());
        }
        for (name, value) in &self.environment {
            builder = builder.env(name, value);
        }
        if captured {
            builder = builder.stdout(Stdio::Piped).stderr(Stdio::Piped);
        }
        builder
    }
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
    /// Whether some of the message that grows was taken.
    grown: bool,
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
    control: Control,
    /// The number of the next item that is watched, the ordinal of the next task that may be cancelled, and how many of the
    /// tasks in `given` are watched.
    next_number: u64,
    next_ordinal: u32,
    watched: usize,
    /// What its worker was killed for, if an item was condemned.
    condemned: Option<Cause>,
    /// Whether it was told to end, or said that it does: it gets nothing any more, and its end says nothing about it.
    leaving: bool,
    /// Whether that was for want of work.
    retired: bool,
    /// Whether its lane was found closed though it has not said yet that it leaves.
    suspect: bool,
    /// In bytes.
    memory_limit: Option<u64>,
    timeline: Option<Arc<Timeline>>,
    /// The ring by which blocks of a heap travel, and the last result's token that came with some.
    ring: Option<HeapRing>,
    last_load: u64,
    pub(super) tally: Tally,
}

/// What was counted of a worker.
#[derive(Debug)]
pub(super) struct Tally {
    /// When it was started.
    pub(super) born: Deadline,
    /// What it was given, and the items that it has finished.
    pub(super) tasks_given: u64,
    pub(super) items_given: u64,
    pub(super) items: u64,
    /// Bytes to it, and from it.
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Since when it is seen to have had nothing to do, and how many tasks it had been given then.
    idle_since: (u64, Deadline),
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
    watched: Option<Box<Watched>>,
    /// Of its values.
    layout: Layout,
}

impl Given {
    /// The ticket of its first message, if that was sent.
    fn first_ticket(&self) -> Option<u64> {
        self.whole.or(self.pieces.first().map(|(_, ticket)| *ticket))
    }
}

impl Slot {
    pub(super) fn start(
        recipe: &Recipe,
        index: usize,
        number: u64,
        alarm: &Arc<Alarm>,
        reader: Option<&Reader>,
    ) -> Result<Slot, Error> {
        // Before it can be ready.
        let born = Deadline::now();
        let name = format!("{}-{number}", recipe.name);
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(format!("start worker `{name}`"), error)
        };
        let to_worker = Config { capacity: LANE, max_message: u32::MAX as usize, ..Config::default() };
        let from_worker = Config { receiver_bell: Some(alarm.bell.clone()), ..to_worker.clone() };
        let words = to_worker.footprint() + from_worker.footprint();
        let size = words + control::SIZE;
        let segment = Segment::anonymous(KIND, size).map_err(|error| failed(error.into()))?;
        // SAFETY: the segment was just made, and this lane is the only one in its first part.
        let first = unsafe { lane::pair_in(&segment, 0, &to_worker) };
        let (tasks, theirs) = first.map_err(|error| failed(error.into()))?;
        // SAFETY: likewise in the rest, which begins where the first one ends.
        let second = unsafe { lane::pair_in(&segment, to_worker.footprint(), &from_worker) };
        let (ours, results) = second.map_err(|error| failed(error.into()))?;
        // SAFETY: likewise behind the lanes.
        let control = unsafe { Control::at(&segment, words) };
        let control = control.ok_or_else(|| failed("the lanes do not end where words can lie".into()))?;
        let copy = |called: &Option<(Erased, Parcel)>| {
            let copy =
                |(function, argument): &(Erased, Parcel)| Ok((function.clone(), argument.try_clone()?));
            called
                .as_ref()
                .map(copy)
                .transpose()
                .map_err(|error: procession_parcel::Error| failed(error.into()))
        };
        let (socket, end) = packet::pair().map_err(|error| failed(error.into()))?;
        let boot = Boot {
            tasks: theirs,
            results: ours,
            parcels: Fd::from(end),
            control: control.clone(),
            initializer: copy(&recipe.initializer)?,
            state: copy(&recipe.state)?,
            exit: copy(&recipe.exit)?,
            recycle_memory: recipe.recycle_memory,
            memory_limited: recipe.memory_limit.is_some(),
            traced: recipe.timeline.is_some(),
            ring: recipe.ring.as_ref().map(|ring| Place(ring.beside())),
            #[cfg(feature = "sandbox")]
            sandbox: recipe.sandbox.clone(),
        };
        let builder = recipe.process(index, reader.is_some()).name(name.clone());
        let process = builder.spawn(worker::run, boot).map_err(|error| failed(error.into()))?;
        if let Some(reader) = reader {
            let streams = [
                (OutputStream::Stdout, process.take_stdout()),
                (OutputStream::Stderr, process.take_stderr()),
            ];
            reader.add(&name, process.pid(), streams);
        }
        if let Some(timeline) = &recipe.timeline {
            timeline.worker(process.pid(), &name, index);
        }
        Ok(Slot {
            process,
            timeline: recipe.timeline.clone(),
            watch: None,
            replacement: false,
            tasks: Some(tasks),
            results,
            grown: false,
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
            control,
            next_number: 1,
            next_ordinal: 0,
            watched: 0,
            condemned: None,
            leaving: false,
            retired: false,
            suspect: false,
            memory_limit: recipe.memory_limit,
            ring: recipe.ring.as_ref().map(HeapRing::beside),
            last_load: 0,
            tally: Tally {
                born,
                tasks_given: 0,
                items_given: 0,
                items: 0,
                bytes_in: 0,
                bytes_out: 0,
                idle_since: (0, Deadline::now()),
            },
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
        self.tasks.is_some() && self.outbox.is_empty() && !self.leaving && self.condemned.is_none()
    }

    // --- from the worker ---

    /// Takes in some of what the worker has told; gives how long items took to `times`. Returns how many messages it
    /// took, `None` if the worker told nonsense.
    pub(super) fn collect(&mut self, events: &mut Events, mut times: impl FnMut(Times)) -> Option<usize> {
        if self.damaged {
            return None;
        }
        let Slot { results, given, load, watched, grown, timeline, ring, last_load, .. } = self;
        let track = self.process.pid();
        let (mut begun, mut ready, mut leaving, mut failure) = (false, false, false, None);
        let mut bytes = 0_u64;
        let mut told = Told {
            given,
            load,
            watched,
            last_load: ring.is_some().then_some(last_load),
            items: 0,
            run: Run { key: Key { task: 0, attempt: 0 }, first: 0, count: 0, records: Vec::new() },
        };
        let mut sane = true;
        let mut large = Vec::new();
        // The item of a large value.
        let mut of_large = None;
        let each = |message: &[u8], rest: bool| {
            bytes += message.len() as u64;
            match message.split_first() {
                // What comes after nonsense is no better.
                _ if !sane => {}
                // Only what grows comes in parts.
                _ if rest => {
                    *grown = false;
                    sane = told.values(message, events);
                }
                Some((&wire::VALUES, records)) => sane = told.values(records, events),
                Some((&wire::VALUE, value)) => sane = told.value(value, events),
                Some((&kind @ (wire::FAILURE | wire::CANCELLED), outcome)) => {
                    let cancelled = kind == wire::CANCELLED;
                    let error = if cancelled { TaskError::Cancelled } else { decode_failure(outcome) };
                    sane = told.failure(error, events);
                }
                Some((&wire::LARGE_VALUE, _)) => {
                    of_large = told.large(events);
                    sane = of_large.is_some();
                }
                Some((&wire::TIMES, _)) => match Times::decode(message) {
                    Some(told) => times(told),
                    None => sane = false,
                },
                Some((&wire::SPAN, _)) => match (&timeline, Span::decode(message)) {
                    (Some(timeline), Some(span)) => timeline.task(track, &span),
                    _ => sane = false,
                },
                Some((&wire::BEGUN, _)) => begun = true,
                Some((&wire::READY, _)) => ready = true,
                Some((&wire::LEAVING, _)) => leaving = true,
                Some((&wire::INIT_FAILED, outcome)) => failure = Some(decode_failure(outcome)),
                // That the worker was told nonsense is as bad.
                _ => sane = false,
            }
        };
        let received = results.recv_parts(BATCH, each, &mut large);
        told.run.flush(events);
        if let Some((key, first)) = of_large {
            if records::becomes_one(&mut large) {
                told.note_load(&large[records::PREFIX..]);
                events.push(Event::Results { key, first, count: 1, records: large });
            } else {
                let error = TaskError::BadResult("the worker called a small value large".to_owned());
                events.push(Event::Failed { key, item: first, error });
                sane = false;
            }
        }
        let items = told.items;
        let result = items > 0;
        self.tally.items += items;
        self.tally.bytes_out += bytes;
        self.leaving |= leaving;
        self.begun |= begun;
        if ready && !self.ready {
            self.newly_ready = true;
            self.show_ready();
        }
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

    /// As [`collect`](Slot::collect), for values that are there but not told of yet: of a worker that has died, or runs an
    /// item that takes long. To be called when `collect` finds nothing.
    pub(super) fn collect_growing(&mut self, events: &mut Events) {
        if self.damaged {
            return;
        }
        let Slot { results, given, load, watched, grown, .. } = self;
        // What comes with blocks of a heap does not grow.
        let last_load = None;
        let run = Run { key: Key { task: 0, attempt: 0 }, first: 0, count: 0, records: Vec::new() };
        let mut told = Told { given, load, watched, last_load, items: 0, run };
        let mut sane = true;
        let received = results.recv_growing(|part| {
            let first = !std::mem::replace(grown, true);
            let records = if first { part.strip_prefix(&[wire::VALUES]) } else { Some(part) };
            sane = records.is_some_and(|records| told.values(records, events));
        });
        told.run.flush(events);
        let items = told.items;
        self.tally.items += items;
        if let Ok(bytes) = received {
            self.tally.bytes_out += bytes as u64;
        }
        self.resulted |= items > 0;
        self.new_result |= items > 0;
        if received.is_err() || !sane {
            self.end_damaged();
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

fn decode_failure(outcome: &[u8]) -> TaskError {
    match codec::decode::<Outcome<()>>(outcome).map(judge) {
        Ok(Err(error)) => error,
        Ok(Ok(())) => TaskError::BadResult("the worker called a value a failure".to_owned()),
        Err(error) => TaskError::BadResult(error.to_string()),
    }
}

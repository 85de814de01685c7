//! The worker's side: a process that takes messages from its lane, runs items and commits their results one by one.
//!
//! # What the parent relies on
//!
//! 1. `started` of the task lane is the ticket of the message that is being run, stored before its first item; or of
//!    the fragment that is being taken in, since a large message may be the death of a worker before it is whole.
//! 2. Items are run in order, and each has its result committed before the next is begun. So of the messages up to
//!    `started`, the first item without a result is the one in hand, and there is at most one.
//! 3. Results are committed at once: small values as records of a message that grows, which outlive this process like any
//!    other. That message is finished, so that a parent that is awake sees it, when the clock is read: about each
//!    [`LOOK`] of work, and after each item that takes longer. A parent that sleeps is rung for only when nothing is left
//!    to do, after [`RING`] of work, or when an item takes long. It looks for what grows when it has not heard for long.
#![expect(unsafe_code, reason = "ignores a signal; vouches that the parent runs the same program")]

mod copies;
mod telling;
mod traced;
mod watch;

use super::{
    aborts,
    cargo::{Cargo, Place},
    control::Control,
    fragments::{Fragments, Whole},
    memory::{Heap, Resident},
    wire::{self, TaskHeader, Times, Watched},
};
use crate::{
    back::FunctionId,
    records::{self, Layout},
    token,
};
use procession_channel::lane::{RawReceiver, RawSender, RecvError, TrySendError};
use procession_parcel::{
    Erased, Fd, Outcome, Parcel, codec,
    function::drop_local_state,
    wire::{Limits, Received, packet},
};
use procession_process::{StartMethod, current_process};
use procession_sys::{Deadline, crash_point};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::{cell::Cell, convert::Infallible, io::Write, rc::Rc, time::Duration};
use telling::{Telling, call_specially};
use watch::Watch;

/// What a worker is started with.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Boot {
    pub(super) tasks: RawReceiver,
    pub(super) results: RawSender,
    /// Where functions with descriptors come.
    pub(super) parcels: Fd,
    pub(super) control: Control,
    pub(super) initializer: Option<(Erased, Parcel)>,
    pub(super) state: Option<(Erased, Parcel)>,
    pub(super) exit: Option<(Erased, Parcel)>,
    /// In bytes.
    pub(super) recycle_memory: Option<u64>,
    pub(super) memory_limited: bool,
    /// Whether each task is told of, with its times.
    pub(super) traced: bool,
    pub(super) ring: Option<Place>,
    #[cfg(feature = "sandbox")]
    pub(super) sandbox: Option<super::sandbox::Sandbox>,
}

/// How much work may go by before the parent is rung, in nanoseconds.
const RING: u64 = 50_000;
/// The clock is read about this often, in nanoseconds.
const LOOK: u64 = 5_000;
/// Values of more bytes than this get a message of their own.
const SMALL: usize = 2048;
/// Values larger than this go in a message of their own, in pieces.
const LARGE: usize = super::slot::LANE / 2;
/// Buffers larger than this are given back after use; that of results, of which fresh memory would cost more than all else,
/// once there was nothing to do for `IDLE`, if it is not larger than `KEEP_BUSY`.
const KEEP: usize = 1 << 20;
const KEEP_BUSY: usize = 64 << 20;
const IDLE: Duration = Duration::from_millis(20);

/// How long it is at least between two looks at the memory, in nanoseconds: when there is nothing to do, and between tasks.
const PAUSE_IDLE: u64 = 2_000_000;
const PAUSE_BUSY: u64 = 20_000_000;

/// The function of a worker process.
pub(super) fn run(boot: Boot) {
    // SAFETY: ignoring a signal has no handler that could do harm.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    copies::begin();
    let (tasks, mut results, control) = (boot.tasks, boot.results, boot.control);
    if current_process().start_method() == Some(StartMethod::Spawn) {
        aborts::tell_inherited_peak(&control);
    }
    if boot.memory_limited {
        aborts::tell(&control);
    }
    let heap =
        boot.recycle_memory.and_then(|limit| Some(Heap { limit, resident: Resident::open()?, next: 0 }));
    let cargo = boot.ring.map(|place| place.cargo(&control));
    if boot.initializer.is_some() || boot.state.is_some() {
        // So that an initialiser that ends this process is known for it.
        let _ = results.send(&[&[wire::BEGUN]], None);
    }
    for (function, argument) in boot.initializer.into_iter().chain(boot.state) {
        let outcome = function.call(argument).map(drop);
        if !outcome.is_value() {
            refuse(&mut results, &outcome);
        }
    }
    #[cfg(feature = "sandbox")]
    if let Some(Err(why)) = boot.sandbox.map(|sandbox| sandbox.enter()) {
        refuse(&mut results, &Outcome::BadArguments(format!("failed to enter the sandbox: {why}")));
    }
    // Where memory is counted, none is kept for later.
    let keep = if heap.is_some() || boot.memory_limited { KEEP } else { KEEP_BUSY };
    let now = Deadline::now().as_nanos();
    control.pulse.ready(now);
    let watch = Rc::new(Watch { control, ordinal: Cell::new(None), heavy: Cell::new(false) });
    let mut worker = Worker {
        tasks,
        results,
        parcels: boot.parcels,
        watch: watch.clone(),
        heap,
        traced: boot.traced,
        cargo,
        functions: FxHashMap::default(),
        current: None,
        fragments: Fragments::default(),
        output: Vec::new(),
        keep,
        clock: Clock {
            function: None,
            any: false,
            items: 0,
            unread: 0,
            every: 1,
            read: now,
            rung: now,
            busy: 0,
            total: 0,
        },
    };
    worker.watch.control.pulse.work(now);
    if worker.results.send(&[&[wire::READY]], None).is_ok() {
        // The end of the lane is the end of the worker.
        let Err(end) = token::with_token(Rc::new(move || watch.asked()), || worker.serve());
        match end {
            Gone => {}
            Leaving => drop(worker.results.send(&[&[wire::LEAVING]], None)),
            Nonsense => drop(worker.results.send(&[&[wire::DAMAGED]], None)),
        }
        if let Some((function, argument)) = boot.exit {
            let outcome = function.call(argument).map(drop);
            if !outcome.is_value() {
                let name = current_process().name().to_owned();
                let _ = writeln!(
                    std::io::stderr(),
                    "procession: the exit function of worker `{name}` failed: {outcome:?}"
                );
            }
        }
        drop_local_state();
    }
}

/// Says why this worker cannot work, and ends.
fn refuse(results: &mut RawSender, why: &Outcome<()>) -> ! {
    let mut report = vec![wire::INIT_FAILED];
    // Texts can always be encoded.
    let _ = codec::encode(why, &mut report);
    let _ = results.send(&[&report], None);
    std::process::exit(1)
}

struct Worker {
    tasks: RawReceiver,
    results: RawSender,
    parcels: Fd,
    watch: Rc<Watch>,
    heap: Option<Heap>,
    traced: bool,
    cargo: Option<Cargo>,
    functions: FxHashMap<FunctionId, Rc<Result<Erased, String>>>,
    /// The one that was called last.
    current: Option<(FunctionId, Rc<Result<Erased, String>>)>,
    fragments: Fragments,
    output: Vec<u8>,
    /// Up to which size the output is kept.
    keep: usize,
    clock: Clock,
}

/// How long items take, read as seldom as possible.
struct Clock {
    function: Option<FunctionId>,
    /// Whether any item was run.
    any: bool,
    /// Items not yet told of, those since the last reading, and how many there are between readings.
    items: u32,
    unread: u32,
    every: u32,
    /// When the clock was last read, and the parent last rung.
    read: u64,
    rung: u64,
    busy: u64,
    /// The same since the start, for who looks.
    total: u64,
}

/// Why a worker ends.
enum End {
    /// The parent is gone, or has closed the lane.
    Gone,
    /// It was told to.
    Leaving,
    /// What came is nothing that a parent sends.
    Nonsense,
}
use End::{Gone, Leaving, Nonsense};

impl Worker {
    fn serve(&mut self) -> Result<Infallible, End> {
        let mut message = Vec::new();
        loop {
            let received = self.tasks.try_recv(&mut message).map_err(|error| match error {
                RecvError::Corrupt(_) => Nonsense,
                _ => Gone,
            });
            if !received? {
                self.report()?;
                self.look_at_heap(PAUSE_IDLE);
                if self.watch.is_stopped() {
                    return Err(Leaving);
                }
                self.watch.control.pulse.rest();
                let kept = self.output.capacity() > KEEP;
                if !self.tasks.wait(kept.then(|| Deadline::after(IDLE))) {
                    self.output = Vec::new();
                }
                self.go_on();
                continue;
            }
            // What has come in part is in hand already.
            if self.fragments.is_empty() && self.watch.is_stopped() {
                return Err(Leaving);
            }
            match message.first().copied() {
                Some(wire::FRAGMENT) => {
                    // In hand from its first fragment on: this process may die for want of the memory.
                    self.tasks.mark_started(self.tasks.taken());
                    self.fragments.add(&message[1..]);
                    // The parent has more and waits for room.
                    self.results.ring();
                }
                Some(wire::LAST_FRAGMENT) => {
                    self.fragments.add(&message[1..]);
                    match self.fragments.take().ok_or(Nonsense)? {
                        Whole::Other(message) => self.act_on(&message)?,
                        Whole::Task(head, argument) => {
                            let (header, watched) = TaskHeader::decode(&head).ok_or(Nonsense)?;
                            self.task(header, watched, Some(argument))?;
                        }
                    }
                }
                _ => self.act_on(&message)?,
            }
            if message.capacity() > KEEP {
                message = Vec::new();
            }
        }
    }

    fn act_on(&mut self, message: &[u8]) -> Result<(), End> {
        match message.first().copied() {
            Some(wire::TASK) => {
                let (header, records) = TaskHeader::decode(message).ok_or(Nonsense)?;
                self.task(header, records, None)
            }
            Some(wire::DEFINE) => {
                let id = FunctionId(wire::u32_at(message, 1).ok_or(Nonsense)?);
                let parcel = Parcel::new(message[5..].to_vec(), Vec::new());
                self.functions.insert(id, Rc::new(decode_function(parcel)));
                Ok(())
            }
            Some(wire::DEFINE_PARCEL) => {
                let id = FunctionId(wire::u32_at(message, 1).ok_or(Nonsense)?);
                self.take_parcel(id)
            }
            Some(wire::REFUSE) => {
                let id = FunctionId(wire::u32_at(message, 1).ok_or(Nonsense)?);
                let why = String::from_utf8_lossy(&message[5..]).into_owned();
                self.functions.insert(id, Rc::new(Err(why)));
                Ok(())
            }
            Some(wire::UNDEFINE) => {
                self.functions.remove(&FunctionId(wire::u32_at(message, 1).ok_or(Nonsense)?));
                self.current = None;
                Ok(())
            }
            Some(wire::LEAVE) => {
                self.report()?;
                Err(Leaving)
            }
            _ => Err(Nonsense),
        }
    }

    /// Takes a function with descriptors out of the socket. Each packet is told of once, so this one is the next. What
    /// cannot be taken is an error of the function's calls in this worker.
    fn take_parcel(&mut self, wanted: FunctionId) -> Result<(), End> {
        // As with a fragment: taking it in may be the end of this process.
        self.tasks.mark_started(self.tasks.taken());
        let function = match packet::recv(&self.parcels, &Limits::default(), None) {
            Ok(Received::Parcel(parcel)) => {
                let (mut bytes, fds) = parcel.into_parts();
                let (rest, id) = bytes.split_last_chunk().ok_or(Nonsense)?;
                if u32::from_le_bytes(*id) != wanted.0 {
                    return Err(Nonsense);
                }
                bytes.truncate(rest.len());
                decode_function(Parcel::new(bytes, fds))
            }
            Ok(_) => return Err(Gone),
            Err(error) => {
                if error.is_out_of_descriptors() || error.is_too_large() {
                    // It would be in the way of the next one.
                    packet::discard(&self.parcels).map_err(|_| Gone)?;
                }
                Err(error.to_string())
            }
        };
        // It may have been refused before, and called since.
        self.current = None;
        self.functions.insert(wanted, Rc::new(function));
        Ok(())
    }

    /// Runs items: those of the records, or the one whose argument was large.
    fn task(&mut self, header: TaskHeader, mut records: &[u8], large: Option<Vec<u8>>) -> Result<(), End> {
        self.tasks.mark_started(self.tasks.taken());
        if header.flags & wire::MORE != 0 {
            self.results.ring();
        }
        if self.clock.function != Some(header.function) {
            self.tell_times()?;
            self.clock.function = Some(header.function);
            self.clock.any = true;
        }
        if self.current.as_ref().is_none_or(|(id, _)| *id != header.function) {
            let unknown = || Rc::new(Err("the worker was not told of the function".to_owned()));
            let function = self.functions.get(&header.function).cloned().unwrap_or_else(unknown);
            self.current = Some((header.function, function));
        }
        let Some((_, function)) = self.current.clone() else { return Err(Gone) };
        let mut output = std::mem::take(&mut self.output);
        let watched = if header.flags & wire::WATCHED != 0 {
            let (watched, rest) = Watched::decode(records).ok_or(Nonsense)?;
            records = rest;
            Some(watched)
        } else {
            None
        };
        let told = match (&*function, &watched) {
            (Ok(function), None) if !self.traced && self.cargo.is_none() && large.is_none() => {
                let (items, layouts) = (header.items as usize, header.layouts);
                let mut telling = Telling { worker: self, layout: layouts.values, told: 0, end: Ok(()) };
                function.call_records(items, &mut records, layouts.plainly(), &mut output, &mut telling);
                let Telling { told, end, .. } = telling;
                // What is left over was meant as items of another size.
                let left = told == header.items && !records.is_empty();
                end.and(if left { Err(Nonsense) } else { Ok(told) })
            }
            _ => self.run_each(header, watched.as_ref(), (records, large), &function, &mut output),
        };
        if output.capacity() <= self.keep {
            self.output = output;
        }
        // Fewer records than items are nonsense.
        if told? == header.items { Ok(()) } else { Err(Nonsense) }
    }

    /// Runs items one by one, where something is to be done for each; tells how many there were.
    fn run_each(
        &mut self,
        header: TaskHeader,
        watched: Option<&Watched>,
        (mut records, mut large): (&[u8], Option<Vec<u8>>),
        function: &Result<Erased, String>,
        output: &mut Vec<u8>,
    ) -> Result<u32, End> {
        let began = self.traced.then(|| self.begin_span(header.function));
        for index in 0..header.items {
            let argument = if large.is_some() {
                &[]
            } else {
                let (argument, rest) = header.layouts.items.split(records).ok_or(Nonsense)?;
                records = rest;
                argument
            };
            output.clear();
            let cargo = self.cargo.as_mut();
            let call = || {
                let outcome = match function {
                    Ok(function) => call_specially(
                        function,
                        cargo,
                        large.take(),
                        argument,
                        header.layouts.plainly(),
                        output,
                    ),
                    Err(why) => Outcome::BadArguments(why.clone()),
                };
                // Before it lets go of the item.
                copies::end_if_copy();
                outcome
            };
            let outcome = match watched {
                None => Some(call()),
                Some(watched) => self.watch.run(watched, index, header.limit, call),
            };
            if let Some(began) = began.filter(|_| index + 1 == header.items) {
                // Before the last result, with which the task is known to be over.
                self.end_span(header, began)?;
            }
            match outcome {
                Some(Outcome::Value(())) => {
                    self.commit(wire::VALUE, output)?;
                    crash_point!("pool.load.committed");
                }
                Some(failure) => self.commit_failure(&failure)?,
                None => {
                    self.commit(wire::CANCELLED, &[])?;
                    continue;
                }
            }
            self.count()?;
        }
        Ok(header.items)
    }

    /// An item is over.
    #[inline]
    fn count(&mut self) -> Result<(), End> {
        self.clock.items = self.clock.items.saturating_add(1);
        self.clock.unread += 1;
        if self.clock.unread >= self.clock.every {
            self.look_at_clock()?;
        }
        Ok(())
    }

    /// Commits a value: a record with its length in front, or a plain number.
    #[inline]
    fn commit_record(&mut self, layout: Layout, record: &[u8]) -> Result<(), End> {
        if record.len() <= SMALL {
            match self.results.append_quiet(&[wire::VALUES], record) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full | TrySendError::TooLarge { .. }) => {}
                Err(_) => return Err(Gone),
            }
        }
        self.commit(wire::VALUE, if layout.is_plain() { record } else { &record[records::PREFIX..] })
    }

    #[cold]
    fn commit_failure(&mut self, failure: &Outcome<()>) -> Result<(), End> {
        let mut output = Vec::new();
        encode_failure(failure, &mut output);
        self.commit(wire::FAILURE, &output)
    }

    /// Commits one result, waiting for room if there is none.
    fn commit(&mut self, kind: u8, content: &[u8]) -> Result<(), End> {
        if content.len() > LARGE && kind == wire::VALUE {
            return self.commit_slowly(&[wire::LARGE_VALUE, 0, 0, 0], content);
        }
        match self.results.send_quiet(&[&[kind], content]) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full | TrySendError::TooLarge { .. }) => self.commit_slowly(&[kind], content),
            Err(_) => Err(Gone),
        }
    }

    #[cold]
    fn commit_slowly(&mut self, kind: &[u8], content: &[u8]) -> Result<(), End> {
        use procession_channel::lane::SendError;
        self.read_clock();
        self.results.finish();
        self.results.ring();
        match self.results.send(&[kind, content], None) {
            Ok(()) => {}
            Err(SendError::TooLarge { len, limit }) => {
                let why = format!("it has {len} bytes, encoded; a lane carries at most {limit}");
                let mut failure = Vec::new();
                encode_failure(&Outcome::BadResult(why), &mut failure);
                self.results.send(&[&[wire::FAILURE], &failure], None).map_err(|_| Gone)?;
            }
            Err(_) => return Err(Gone),
        }
        // The wait was not work.
        self.go_on();
        Ok(())
    }

    /// Adds the time since the last reading to the busy time; returns it.
    fn read_clock(&mut self) -> u64 {
        let now = Deadline::now().as_nanos();
        let took = now.saturating_sub(self.clock.read);
        self.clock.read = now;
        self.clock.busy += took;
        self.clock.total += took;
        let function = self.clock.function.map(|id| id.0);
        self.watch.control.pulse.tell(self.clock.total, now, (function, self.clock.unread, took));
        self.clock.unread = 0;
        took
    }

    /// Work begins anew: what has passed since the clock was last read does not count.
    fn go_on(&mut self) {
        let now = Deadline::now().as_nanos();
        self.clock.read = now;
        self.watch.control.pulse.work(now);
    }

    /// Has this worker leave before its next message, if it has become too large by what it ran.
    fn look_at_heap(&mut self, pause: u64) {
        let now = self.clock.read;
        if self.heap.as_mut().is_some_and(|heap| self.clock.any && heap.is_too_large(now, pause)) {
            self.watch.heavy.set(true);
        }
    }

    fn look_at_clock(&mut self) -> Result<(), End> {
        let took = self.read_clock();
        self.results.finish();
        if self.heap.is_some() {
            self.look_at_heap(PAUSE_BUSY);
        }
        if took < LOOK {
            self.clock.every = (self.clock.every * 2).min(1024);
        } else if took > 2 * LOOK {
            self.clock.every = (self.clock.every / 2).max(1);
        }
        // After one long item the next may be long too: its predecessors' results must not wait for it.
        if took > 4 * LOOK || self.clock.read - self.clock.rung >= RING {
            self.tell_times()?;
            self.results.ring();
            self.clock.rung = self.clock.read;
        }
        Ok(())
    }

    /// Nothing is left to do: rings, and tells how long items take.
    fn report(&mut self) -> Result<(), End> {
        self.results.finish();
        self.results.ring();
        if self.clock.items > 0 {
            if self.clock.unread > 0 {
                self.read_clock();
            }
            self.clock.rung = self.clock.read;
            self.tell_times()?;
        }
        Ok(())
    }

    fn tell_times(&mut self) -> Result<(), End> {
        let Clock { function, items, busy, .. } = &mut self.clock;
        if let (Some(function), 1..) = (*function, *items) {
            let times = Times { function, items: *items, nanos: *busy };
            (*items, *busy) = (0, 0);
            // If there is no room, the parent has other things to learn than this.
            match self.results.send_quiet(&[&times.encode()]) {
                Ok(()) | Err(TrySendError::Full) => {}
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }
}

fn encode_failure(outcome: &Outcome<()>, output: &mut Vec<u8>) {
    if let Err(error) = codec::encode(outcome, output) {
        output.clear();
        // Texts can always be encoded.
        let _ = codec::encode(&Outcome::<()>::BadResult(error.to_string()), output);
    }
}

fn decode_function(parcel: Parcel) -> Result<Erased, String> {
    // SAFETY: the bytes came through the lane or the socket of this worker, whose only other end is the process that
    // started it and packed them; it runs the same program, as the start of this process checked.
    let parcel = unsafe { parcel.assume_same_program() };
    let erased: Erased = parcel.unpack().map_err(|error| error.to_string())?;
    // SAFETY: arguments come through the same lane, encoded by the same process.
    Ok(unsafe { erased.assume_inputs_same_program() })
}

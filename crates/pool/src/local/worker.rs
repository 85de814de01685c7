//! The worker's side: a process that takes messages from its lane, runs items and commits their results one by one.
//!
//! # What the parent relies on
//!
//! 1. `started` of the task lane is the ticket of the message that is being run, stored before its first item; or of
//!    the fragment that is being taken in, since a large message may be the death of a worker before it is whole.
//! 2. Items are run in order, and each has its result committed before the next is begun. So of the messages up to
//!    `started`, the first item without a result is the one in hand, and there is at most one.
//! 3. Results are committed at once, but rung for only when nothing is left to do, after [`RING`] of work, or when an
//!    item takes long: a parent that is awake sees them anyway.
#![expect(unsafe_code, reason = "ignores a signal; vouches that the parent runs the same program")]

use super::wire::{self, TaskHeader, Times};
use crate::{back::FunctionId, records};
use procession_channel::lane::{RawReceiver, RawSender, RecvError, TrySendError};
use procession_parcel::{
    Erased, Fd, Outcome, Parcel, codec,
    wire::{Limits, Received, packet},
};
use procession_sys::Deadline;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, convert::Infallible, rc::Rc};

/// What a worker is started with.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Boot {
    pub(super) tasks: RawReceiver,
    pub(super) results: RawSender,
    /// Where functions with descriptors come.
    pub(super) parcels: Fd,
    pub(super) initializer: Option<(Erased, Parcel)>,
}

/// How much work may go by before the parent is rung, in nanoseconds.
const RING: u64 = 50_000;
/// The clock is read about this often, in nanoseconds.
const LOOK: u64 = 5_000;
/// Buffers larger than this are given back after use.
const KEEP: usize = 1 << 20;

/// The function of a worker process.
pub(super) fn run(boot: Boot) {
    // SAFETY: ignoring a signal has no handler that could do harm.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let Boot { tasks, mut results, parcels, initializer } = boot;
    if let Some((function, argument)) = initializer {
        // So that an initialiser that ends this process is known for it.
        let _ = results.send(&[&[wire::BEGUN]], None);
        let outcome = function.call(argument).map(drop);
        if !outcome.is_value() {
            let mut report = vec![wire::INIT_FAILED];
            let _ = codec::encode(&outcome, &mut report);
            let _ = results.send(&[&report], None);
            std::process::exit(1);
        }
    }
    let now = Deadline::now().as_nanos();
    let mut worker = Worker {
        tasks,
        results,
        parcels,
        functions: HashMap::new(),
        current: None,
        fragments: Vec::new(),
        output: Vec::new(),
        clock: Clock { function: None, items: 0, unread: 0, every: 1, read: now, rung: now, busy: 0 },
    };
    if worker.results.send(&[&[wire::READY]], None).is_ok() {
        // The end of the lane is the end of the worker.
        let Err(end) = worker.serve();
        if matches!(end, End::Nonsense) {
            let _ = worker.results.send(&[&[wire::DAMAGED]], None);
        }
    }
}

struct Worker {
    tasks: RawReceiver,
    results: RawSender,
    parcels: Fd,
    functions: HashMap<FunctionId, Rc<Result<Erased, String>>>,
    /// The one that was called last.
    current: Option<(FunctionId, Rc<Result<Erased, String>>)>,
    /// The fragments so far of a large message.
    fragments: Vec<u8>,
    output: Vec<u8>,
    clock: Clock,
}

/// How long items take, read as seldom as possible.
struct Clock {
    function: Option<FunctionId>,
    /// Items not yet told of, those since the last reading, and how many there are between readings.
    items: u32,
    unread: u32,
    every: u32,
    /// When the clock was last read, and the parent last rung.
    read: u64,
    rung: u64,
    busy: u64,
}

/// Why a worker ends.
enum End {
    /// The parent is gone, or has closed the lane.
    Gone,
    /// What came is nothing that a parent sends.
    Nonsense,
}
use End::{Gone, Nonsense};

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
                self.tasks.wait(None);
                self.clock.read = Deadline::now().as_nanos();
                continue;
            }
            match message.first().copied() {
                Some(wire::FRAGMENT) => {
                    // In hand from its first fragment on: this process may die for want of the memory.
                    self.tasks.mark_started(self.tasks.taken());
                    self.fragments.extend_from_slice(&message[1..]);
                    // The parent has more and waits for room.
                    self.results.ring();
                }
                Some(wire::LAST_FRAGMENT) => {
                    self.fragments.extend_from_slice(&message[1..]);
                    let whole = std::mem::take(&mut self.fragments);
                    self.act_on(&whole)?;
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
                self.task(header, records)
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
            _ => Err(Nonsense),
        }
    }

    /// Takes a function with descriptors out of the socket.
    fn take_parcel(&mut self, wanted: FunctionId) -> Result<(), End> {
        // As with a fragment: taking it in may be the end of this process.
        self.tasks.mark_started(self.tasks.taken());
        loop {
            let function = match packet::recv(&self.parcels, &Limits::default(), None) {
                Ok(Received::Parcel(parcel)) => {
                    let (mut bytes, fds) = parcel.into_parts();
                    let (rest, id) = bytes.split_last_chunk().ok_or(Nonsense)?;
                    let (len, id) = (rest.len(), FunctionId(u32::from_le_bytes(*id)));
                    bytes.truncate(len);
                    self.functions.insert(id, Rc::new(decode_function(Parcel::new(bytes, fds))));
                    if id == wanted {
                        return Ok(());
                    }
                    // It is one for which there was no room when it was told of.
                    continue;
                }
                Ok(_) => return Err(Gone),
                Err(error) => Err(error.to_string()),
            };
            self.functions.insert(wanted, Rc::new(function));
            return Ok(());
        }
    }

    fn task(&mut self, header: TaskHeader, mut records: &[u8]) -> Result<(), End> {
        self.tasks.mark_started(self.tasks.taken());
        if header.flags & wire::MORE != 0 {
            self.results.ring();
        }
        if self.clock.function != Some(header.function) {
            self.tell_times()?;
            self.clock.function = Some(header.function);
        }
        if self.current.as_ref().is_none_or(|(id, _)| *id != header.function) {
            let unknown = || Rc::new(Err("the worker was not told of the function".to_owned()));
            let function = self.functions.get(&header.function).cloned().unwrap_or_else(unknown);
            self.current = Some((header.function, function));
        }
        let Some((_, function)) = self.current.clone() else { return Err(Gone) };
        let mut output = std::mem::take(&mut self.output);
        for _ in 0..header.items {
            let (argument, rest) = records::split(records).ok_or(Nonsense)?;
            records = rest;
            output.clear();
            let outcome = match &*function {
                Ok(function) => function.call_bytes(argument, &mut output),
                Err(why) => Outcome::BadArguments(why.clone()),
            };
            if outcome.is_value() {
                self.commit(wire::VALUE, &output)?;
            } else {
                output.clear();
                encode_failure(&outcome, &mut output);
                self.commit(wire::FAILURE, &output)?;
            }
            self.clock.items = self.clock.items.saturating_add(1);
            self.clock.unread += 1;
            if self.clock.unread >= self.clock.every {
                self.look_at_clock()?;
            }
        }
        if output.capacity() <= KEEP {
            self.output = output;
        }
        Ok(())
    }

    /// Commits one result, waiting for room if there is none.
    fn commit(&mut self, kind: u8, content: &[u8]) -> Result<(), End> {
        match self.results.send_quiet(&[&[kind], content]) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full | TrySendError::TooLarge { .. }) => self.commit_slowly(kind, content),
            Err(_) => Err(Gone),
        }
    }

    #[cold]
    fn commit_slowly(&mut self, kind: u8, content: &[u8]) -> Result<(), End> {
        use procession_channel::lane::SendError;
        self.read_clock();
        self.results.ring();
        match self.results.send(&[&[kind], content], None) {
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
        self.clock.read = Deadline::now().as_nanos();
        Ok(())
    }

    /// Adds the time since the last reading to the busy time; returns it.
    fn read_clock(&mut self) -> u64 {
        let now = Deadline::now().as_nanos();
        let took = now.saturating_sub(self.clock.read);
        self.clock.read = now;
        self.clock.busy += took;
        self.clock.unread = 0;
        took
    }

    fn look_at_clock(&mut self) -> Result<(), End> {
        let took = self.read_clock();
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

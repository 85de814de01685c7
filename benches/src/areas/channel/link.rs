//! Ways for bytes to cross between two processes, and what is done with them.

use std::time::{Duration, Instant};

use procession_channel::lane::{Config, RawReceiver, RawSender, pair};
use procession_channel::{Pipe, Queue, Receiver, Sender, channel, connection::Connection};
use serde::{Serialize, de::DeserializeOwned};

use crate::peers::forked::FarSide;
use crate::pin;
use crate::scenario::{Cores, Entry, Failure, Regime};

/// One process's end of a way that goes in both directions.
pub(in crate::areas) trait Link: Sized {
    /// Whether the far side needs the descriptors that were open when the ends were made.
    const DESCRIPTORS: bool = false;

    /// Both ends, one of which goes to a forked child.
    fn pair() -> Result<(Self, Self), Failure>;

    fn send(&mut self, message: &[u8]) -> Result<(), Failure>;

    /// Receives a message in place of the contents of `into`.
    fn recv(&mut self, into: &mut Vec<u8>) -> Result<(), Failure>;
}

/// Makes a [`Link`], and starts its far side: one that echoes, or one that counts.
pub(in crate::areas) type Far = fn(Regime, bool) -> Result<Near, Failure>;

/// The near end of a link, of whichever kind. The calls through it are the same for all.
pub(in crate::areas) struct Near {
    _far: FarSide,
    round_trips: Box<Run>,
}

/// Does it so many times with that message.
type Run = dyn FnMut(Regime, u64, &[u8]) -> Result<Duration, Failure>;

impl Near {
    /// By `self` as a whole, so that a closure that calls it keeps the far side too.
    fn run(&mut self, regime: Regime, n: u64, message: &[u8]) -> Result<Duration, Failure> {
        (self.round_trips)(regime, n, message)
    }
}

/// A kind of link.
pub(in crate::areas) fn of<L: Link + 'static>(regime: Regime, echoes: bool) -> Result<Near, Failure> {
    // An end that is made on a thread with one core takes it that spinning is useless. Right where both sides are on
    // that core; where each has its own, the ends are made before the pinning.
    // The entrant before this one has left the thread on its core.
    let early = if regime.cores == Cores::One {
        pin::near_side(regime)?
    } else {
        pin::widen()?;
        None
    };
    let (mut near, mut far) = L::pair()?;
    let core = if regime.cores == Cores::One { early } else { pin::near_side(regime)? };
    let keep: Vec<i32> = if L::DESCRIPTORS { (3..256).collect() } else { Vec::new() };
    let far = FarSide::fork(&keep, core, move || {
        if echoes {
            let mut message = Vec::new();
            while far.recv(&mut message).is_ok() && far.send(&message).is_ok() {}
        } else {
            while sink(&mut far).is_ok() {}
        }
    })?;
    let mut answer = Vec::new();
    let round_trips = Box::new(move |regime: Regime, n: u64, message: &[u8]| {
        if echoes {
            return regime.timed(n, || {
                near.send(message)?;
                near.recv(&mut answer)?;
                if answer.len() == message.len() {
                    Ok(())
                } else {
                    Err("a message of another length came back".into())
                }
            });
        }
        let mut first = message.to_vec();
        first[..8].copy_from_slice(&n.to_ne_bytes());
        let start = Instant::now();
        near.send(&first)?;
        for _ in 0..n {
            near.send(message)?;
        }
        near.recv(&mut answer)?;
        Ok(start.elapsed())
    });
    Ok(Near { _far: far, round_trips })
}

/// Takes as many messages as the first one says, and confirms the last.
fn sink<L: Link>(link: &mut L) -> Result<(), Failure> {
    let mut message = Vec::new();
    link.recv(&mut message)?;
    let count = u64::from_ne_bytes(message[..8].try_into()?);
    for _ in 0..count {
        link.recv(&mut message)?;
    }
    link.send(&message)
}

pub(in crate::areas) fn round_trip(far: Far, regime: Regime, size: usize) -> Entry {
    let mut near = far(regime, true)?;
    let message = vec![7; size];
    Ok(Box::new(move |n| near.run(regime, n, &message)))
}

pub(super) fn throughput(far: Far, regime: Regime, size: usize) -> Entry {
    let mut near = far(regime, false)?;
    let message = vec![7; size];
    Ok(Box::new(move |n| near.run(regime, n, &message)))
}

/// The lane: bytes in, bytes out.
pub(super) struct LaneLink(RawSender, RawReceiver);

impl Link for LaneLink {
    fn pair() -> Result<(Self, Self), Failure> {
        let (there, inbox) = pair(&Config::default())?;
        let (outbox, back) = pair(&Config::default())?;
        Ok((LaneLink(there, back), LaneLink(outbox, inbox)))
    }

    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        Ok(self.0.send(&[message], None)?)
    }

    #[inline]
    fn recv(&mut self, into: &mut Vec<u8>) -> Result<(), Failure> {
        self.1.recv(into, None)?;
        Ok(())
    }
}

/// The channel, with values that are made of the message and into one again.
pub(super) struct TypedLink<T>(Sender<T>, Receiver<T>);

/// A value that is a message.
pub(in crate::areas) trait Message: Serialize + DeserializeOwned + 'static {
    fn of(bytes: &[u8]) -> Self;
    fn put(self, into: &mut Vec<u8>);
}

impl Message for [u8; super::SIZE] {
    #[inline]
    fn of(bytes: &[u8]) -> Self {
        std::array::from_fn(|at| bytes[at])
    }

    #[inline]
    fn put(self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self);
    }
}

impl Message for Vec<u8> {
    #[inline]
    fn of(bytes: &[u8]) -> Self {
        bytes.to_vec()
    }

    #[inline]
    fn put(self, into: &mut Vec<u8>) {
        *into = self;
    }
}

impl<T: Message> Link for TypedLink<T> {
    fn pair() -> Result<(Self, Self), Failure> {
        let (there, inbox) = channel()?;
        let (outbox, back) = channel()?;
        Ok((TypedLink(there, back), TypedLink(outbox, inbox)))
    }

    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        self.0.send(T::of(message)).map_err(|unsent| unsent.to_string().into())
    }

    #[inline]
    fn recv(&mut self, into: &mut Vec<u8>) -> Result<(), Failure> {
        self.1.recv()?.put(into);
        Ok(())
    }
}

/// A queue for each direction.
pub(in crate::areas) struct QueueLink<T>(Queue<T>, Queue<T>);

impl<T: Message> Link for QueueLink<T> {
    const DESCRIPTORS: bool = true;

    fn pair() -> Result<(Self, Self), Failure> {
        let (there, back) = (Queue::bounded(4096)?, Queue::bounded(4096)?);
        // A thread's spin is made with its first call, and asks then whether there is a second core. A fork copies it.
        there.put(T::of(&[0; super::SIZE])).map_err(|error| error.to_string())?;
        there.get()?;
        Ok((QueueLink(there.clone(), back.clone()), QueueLink(back, there)))
    }

    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        self.0.put(T::of(message)).map_err(|error| error.to_string().into())
    }

    #[inline]
    fn recv(&mut self, into: &mut Vec<u8>) -> Result<(), Failure> {
        self.1.get()?.put(into);
        Ok(())
    }
}

/// Both ends of a pipe: bytes in, bytes out.
pub(super) struct PipeLink(Connection<(), ()>);

impl Link for PipeLink {
    const DESCRIPTORS: bool = true;

    fn pair() -> Result<(Self, Self), Failure> {
        let (near, far) = Pipe::<(), ()>::duplex()?;
        Ok((PipeLink(near), PipeLink(far)))
    }

    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        Ok(self.0.send_bytes(message)?)
    }

    #[inline]
    fn recv(&mut self, into: &mut Vec<u8>) -> Result<(), Failure> {
        *into = self.0.recv_bytes()?;
        Ok(())
    }
}

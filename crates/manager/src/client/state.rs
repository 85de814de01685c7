//! Who waits for what, and who reads.

use super::{Frame, FrameReader, Late, Payload};
use crate::{
    proto::{Header, Op, Reader},
    wire::Wire,
};
use rustc_hash::FxHashMap;
use std::{
    sync::{Arc, Condvar},
    task::Waker,
};

/// How many frames, or bytes of them, are received before the server is told.
const TELL_AFTER: u64 = 64;
const TELL_BYTES: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Slot {
    pub(super) reply: Option<Frame>,
    pub(super) waiter: Option<Arc<Condvar>>,
    /// Or the future's.
    pub(super) waker: Option<Waker>,
    /// The caller has left.
    pub(super) late: Option<Late>,
    pub(super) left: bool,
}

pub(super) struct State {
    pub(super) reader: Option<FrameReader>,
    pub(super) pending: FxHashMap<u64, Slot>,
    pub(super) dead: Option<String>,
    /// Why the wire is broken, until there is another one. Nobody reads then.
    pub(super) down: Option<String>,
    /// How many frames came, where they are counted, and what the server was told of that.
    pub(super) received: u64,
    told: u64,
    bytes: usize,
}

impl State {
    pub(super) fn new(wire: Arc<Wire>) -> State {
        State {
            reader: Some(FrameReader::new(wire)),
            pending: FxHashMap::default(),
            dead: None,
            down: None,
            received: 0,
            told: 0,
            bytes: 0,
        }
    }

    /// Counts a frame; tells what the server is to be told, if it is time for that.
    pub(super) fn count(&mut self, bytes: usize) -> Option<u64> {
        self.received += 1;
        self.bytes += bytes;
        if self.received - self.told < TELL_AFTER && self.bytes < TELL_BYTES {
            return None;
        }
        (self.told, self.bytes) = (self.received, 0);
        Some(self.received)
    }

    /// Gives a reply to whoever waits for it; to nobody, if it has left: then tells what to do about it.
    pub(super) fn deliver(
        &mut self,
        header: &Header,
        payload: Payload,
        waker: &mut Option<Waker>,
    ) -> Option<(Op, u64, u64)> {
        let slot = self.pending.get_mut(&header.request)?;
        if slot.left {
            let late = slot.late.take();
            self.pending.remove(&header.request);
            // A refusal brought nothing.
            let late = late.filter(|_| header.method == 0)?;
            let (op, argument) = (late.undo)(&mut Reader::new(&payload), header.request)?;
            return Some((op, late.object, argument));
        }
        slot.reply = Some(Frame { status: header.method, payload });
        if let Some(waiter) = &slot.waiter {
            waiter.notify_one();
        }
        *waker = slot.waker.take();
        None
    }

    /// Somebody who waits is to read now.
    pub(super) fn wake_next(&self) {
        if self.reader.is_some()
            && self.down.is_none()
            && let Some(waiter) = self
                .pending
                .values()
                .filter(|slot| slot.reply.is_none() && !slot.left)
                .find_map(|slot| slot.waiter.as_ref())
        {
            waiter.notify_one();
        }
    }

    /// The server is gone: tells those who wait, and gives the futures' wakers, for when the lock was let go.
    #[must_use]
    pub(super) fn bury(&mut self, cause: &str) -> Vec<Waker> {
        self.dead.get_or_insert_with(|| cause.to_owned());
        self.pending.retain(|_, slot| !slot.left);
        self.pending.values().filter_map(|slot| slot.waiter.as_ref()).for_each(|waiter| waiter.notify_one());
        self.pending.values_mut().filter_map(|slot| slot.waker.take()).collect()
    }
}

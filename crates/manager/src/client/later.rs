//! Requests that are begun now and waited for later: handles, and futures under any executor.
//!
//! # Protocol
//! A request that was [begun](Client::begin) stands in `pending` as any other does. A thread that waits for it takes part in the
//! reading. A future leaves its waker in its slot; while there are such, a thread of ours takes part for them, so that no task
//! of an executor has to be polled for another one's sake. It ends when there has been no future for [`LINGER`].
//!
//! Who gives up says so (`Forget`): the server then takes the request out of the row that it waits in, and answers that it
//! was given up. If what it waited for was on its way already, that is given back as it is after a timeout (`Late`).
//!
//! # Invariants
//! 1. A future that waits for a reply is counted in `Futures`, and while one is there, the thread is, or could not be started.
//! 2. Wakers are woken without a lock of the client's in hand.
//!
//! # When a process dies
//! The server sees the end of the connection, as it does for every request. A forked child has no such thread, and no use
//! for its parent's requests: dropping one does nothing there.
#![cfg_attr(
    not(all(feature = "async", feature = "pool")),
    allow(dead_code, reason = "handles are of the feature `pool`, futures of `async`")
)]

use super::{Client, Frame, Late, Slot, State, lock, refused};
use crate::{
    error::{Error, ErrorKind, Result},
    proto::{self, Kind, Op, Reader},
};
use procession_sys::Deadline;
use std::{
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    task::{Poll, Waker},
    time::Duration,
};

/// How long the thread stays without a future.
const LINGER: Duration = Duration::from_secs(2);
/// How long it reads before it looks whether there still is one.
const SLICE: Duration = Duration::from_millis(200);
/// The thread's own place among those who wait. No request has this number.
const THREAD: u64 = u64::MAX;

/// Those who wait as futures, and the thread that reads for them.
#[derive(Default)]
pub(crate) struct Futures {
    row: Mutex<Counted>,
    more: Condvar,
}

#[derive(Default)]
struct Counted {
    futures: usize,
    thread: bool,
}

/// A request that was sent, and will be answered.
pub(crate) struct Begun {
    pub(crate) client: Arc<Client>,
    doing: &'static str,
    pub(crate) number: u64,
    /// Where its frame ends ([`Client::lay_down`]).
    end: u64,
    late: Option<Late>,
    /// It is counted in `Futures`.
    counted: bool,
    over: bool,
}

impl Client {
    /// Sends a request, and does not wait for the reply. If the request is given up, what its reply brings is undone by `late`.
    pub(crate) fn begin(
        self: &Arc<Client>,
        doing: &'static str,
        mut request: super::Request<'_>,
        late: Option<Late>,
    ) -> Result<Begun> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let frame = request.frame(Kind::Request, number);
        {
            let mut state = lock(&self.state);
            if let Some(cause) = &state.dead {
                return Err(Error::gone(doing, cause.clone()));
            }
            state.pending.insert(number, Slot::default());
        }
        let end = self.lay_down(frame);
        Ok(Begun { client: self.clone(), doing, number, end, late, counted: false, over: false })
    }

    /// Reads for those who are not there to do it.
    fn read_for_futures(client: &Weak<Client>, futures: &Futures) {
        loop {
            let mut row = lock(&futures.row);
            if row.futures == 0 {
                if let Some(client) = client.upgrade() {
                    let mut state = lock(&client.state);
                    state.pending.remove(&THREAD);
                    // Perhaps the reading was left to it.
                    state.wake_next();
                }
                let waited = futures.more.wait_timeout_while(row, LINGER, |row| row.futures == 0);
                row = waited.unwrap_or_else(PoisonError::into_inner).0;
                if row.futures == 0 {
                    row.thread = false;
                    return;
                }
            }
            drop(row);
            let Some(client) = client.upgrade() else { return };
            let mut state = lock(&client.state);
            if state.dead.is_some() {
                // They were all told.
                drop(state);
                lock(&futures.row).thread = false;
                return;
            }
            // Nobody reads while the wire is broken.
            if state.down.is_none()
                && let Some(mut reader) = state.reader.take()
            {
                drop(state);
                let read = reader.next(Some(Deadline::after(SLICE)));
                client.put_back(reader, read);
                continue;
            }
            let condvar = state.pending.entry(THREAD).or_default().waiter.get_or_insert_default().clone();
            drop(condvar.wait_timeout(state, SLICE).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whether somebody reads for futures.
    fn count_future(self: &Arc<Client>, new: bool) -> bool {
        let mut row = lock(&self.futures.row);
        row.futures += usize::from(new);
        if !row.thread {
            let (client, futures) = (Arc::downgrade(self), self.futures.clone());
            let thread = std::thread::Builder::new().name("manager: reader".to_owned());
            row.thread = thread.spawn(move || Client::read_for_futures(&client, &futures)).is_ok();
        }
        let thread = row.thread;
        drop(row);
        self.futures.more.notify_one();
        thread
    }
}

impl Begun {
    /// The reply, if it is there; or that the server is gone.
    fn taken(&mut self, state: &mut State) -> Option<Result<Frame>> {
        let reply = state.pending.get_mut(&self.number).and_then(|slot| slot.reply.take());
        let outcome = match (reply, &state.dead) {
            (Some(frame), _) if frame.status == 0 => Ok(frame),
            (Some(frame), _) => Err(refused(self.doing, frame.status, &frame.payload)),
            (None, Some(cause)) => {
                Err(Error::gone(self.doing, cause.clone()).in_flight(self.client.may_have(self.end)))
            }
            (None, None) => return None,
        };
        state.pending.remove(&self.number);
        state.wake_next();
        self.over = true;
        Some(outcome)
    }

    fn gone(&self) -> Option<Error> {
        let ours = self.client.generation == crate::site::generation();
        (!ours).then(|| Error::new(ErrorKind::Invalid, self.doing, "it was begun by this process's parent"))
    }

    /// Waits for the reply; `None` at the deadline, after which it can be waited for again.
    pub(crate) fn wait(&mut self, deadline: Option<Deadline>) -> Option<Result<Frame>> {
        if let Some(error) = self.gone() {
            return Some(Err(error));
        }
        let client = self.client.clone();
        let mut state = lock(&client.state);
        loop {
            if let Some(outcome) = self.taken(&mut state) {
                return Some(outcome);
            }
            let over = deadline.is_some_and(Deadline::passed);
            if state.down.is_none()
                && let Some(mut reader) = state.reader.take()
            {
                drop(state);
                // At least once it is looked.
                let read = reader.next(deadline);
                let nothing = matches!(read, Ok(None));
                client.put_back(reader, read);
                state = lock(&client.state);
                if !(over && nothing) {
                    continue;
                }
                let outcome = self.taken(&mut state);
                if let Some(slot) = state.pending.get_mut(&self.number) {
                    // Perhaps the reading was left to it.
                    slot.waiter = None;
                }
                state.wake_next();
                return outcome;
            }
            let Some(slot) = state.pending.get_mut(&self.number) else {
                return Some(Err(Error::gone(self.doing, "its request was forgotten")));
            };
            if over {
                // Nobody is to leave the reading to it.
                slot.waiter = None;
                return None;
            }
            let condvar = slot.waiter.get_or_insert_default().clone();
            state = match deadline {
                None => condvar.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let waited = condvar.wait_timeout(state, deadline.remaining());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The reply, if it is there; else `waker` is woken when it is.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<Frame>> {
        if let Some(error) = self.gone() {
            return Poll::Ready(Err(error));
        }
        let client = self.client.clone();
        let mut state = lock(&client.state);
        if let Some(outcome) = self.taken(&mut state) {
            return Poll::Ready(outcome);
        }
        let Some(slot) = state.pending.get_mut(&self.number) else {
            return Poll::Ready(Err(Error::gone(self.doing, "its request was forgotten")));
        };
        let old = slot.waker.replace(waker.clone());
        drop(state);
        drop(old);
        let new = !std::mem::replace(&mut self.counted, true);
        if client.count_future(new) {
            return Poll::Pending;
        }
        // The system has no thread for us: it looks again and again, as often as its executor lets it.
        waker.wake_by_ref();
        self.wait(Some(Deadline::from_nanos(0))).map_or(Poll::Pending, Poll::Ready)
    }

    /// The reply.
    #[cfg(feature = "async")]
    pub(crate) async fn reply(mut self) -> Result<(Frame, u64)> {
        let frame = std::future::poll_fn(|context| self.poll(context.waker())).await?;
        Ok((frame, self.number))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.client.generation != crate::site::generation() {
            return;
        }
        if self.counted {
            lock(&self.client.futures.row).futures -= 1;
        }
        if self.over {
            return;
        }
        let mut undo = None;
        let waker = {
            let mut state = lock(&self.client.state);
            let Some(slot) = state.pending.get_mut(&self.number) else { return };
            let waker = slot.waker.take();
            slot.waiter = None;
            if let Some(frame) = slot.reply.take() {
                if frame.status == 0
                    && let Some(late) = self.late
                {
                    undo = (late.undo)(&mut Reader::new(&frame.payload), self.number)
                        .map(|(op, argument)| (op, late.object, argument));
                }
                state.pending.remove(&self.number);
            } else {
                (slot.left, slot.late) = (true, self.late);
                undo = Some((Op::Forget, 0, self.number));
            }
            waker
        };
        drop(waker);
        if let Some((op, object, argument)) = undo {
            self.client.tell(op, object, |out| proto::put_u64(out, argument));
        }
    }
}

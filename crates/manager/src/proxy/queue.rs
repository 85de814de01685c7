//! Queues.

use super::nanos;
use crate::{
    error::{Error, ErrorKind, Result},
    hosted::hosted,
    lease::{Answer, Lease},
    proto::{Op, Reader, put_u64},
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

hosted! {
    /// A queue in a manager's server: first in, first out among all.
    ///
    /// An item that `put` has accepted is taken by exactly one `get`. One that was on its way to a process that died, or whose
    /// time was over, goes back to the front.
    Queue<T>, Queue
}

hosted! {
    /// A queue whose items are tasks: [`join`](JoinableQueue::join) waits until each was called done.
    JoinableQueue<T>, JoinableQueue
}

fn put<T: Serialize>(lease: &Lease, items: &[&T], timeout: Option<Duration>) -> Result<()> {
    const DOING: &str = "put into a queue";
    let request = lease.request(Op::PutItem).u64(nanos(timeout));
    let request = lease.with_all(DOING, request, items.iter().copied())?;
    lease.ask_late(DOING, request, timeout, None, |_| Ok(()))
}

fn get<T: DeserializeOwned + 'static>(
    lease: &Lease,
    most: usize,
    timeout: Option<Duration>,
) -> Result<Vec<T>> {
    let request = lease.request(Op::GetItem).u64(nanos(timeout)).u64(most as u64);
    lease.ask_late(GET, request, timeout, Some(give_back), |answer| taken(lease, answer))
}

const GET: &str = "get from a queue";

/// How items go back that came too late.
fn give_back(_: &mut Reader<'_>, number: u64) -> Option<(Op, u64)> {
    Some((Op::GiveBack, number))
}

fn taken<T: DeserializeOwned + 'static>(lease: &Lease, answer: &mut Answer<'_>) -> Result<Vec<T>> {
    let items = answer.values();
    // They are ours now, also where they cannot be decoded.
    let number = answer.number;
    lease.client(GET)?.tell(Op::Took, lease.object, |out| put_u64(out, number));
    items
}

macro_rules! methods {
    ($name:ident) => {
        /// Each of these fails if the server or the object is gone, or something cannot be encoded or decoded.
        #[expect(clippy::missing_errors_doc, reason = "said once, above")]
        impl<T> $name<T>
        where
            T: Serialize + DeserializeOwned + 'static,
        {
            /// Puts an item, and waits for room.
            pub fn put(&self, item: &T) -> Result<()> {
                put(&self.proxy, &[item], None)
            }

            /// Puts an item if there is room now; otherwise [`ErrorKind::Full`].
            pub fn try_put(&self, item: &T) -> Result<()> {
                put(&self.proxy, &[item], Some(Duration::ZERO))
            }

            /// Puts an item, and waits for room for so long; then [`ErrorKind::Timeout`].
            pub fn put_timeout(&self, item: &T, timeout: Duration) -> Result<()> {
                put(&self.proxy, &[item], Some(timeout))
            }

            /// Puts several items, one after the other and in one step, and waits for room for all of them.
            pub fn put_many(&self, items: &[T]) -> Result<()> {
                put(&self.proxy, &items.iter().collect::<Vec<_>>(), None)
            }

            fn one(&self, timeout: Option<Duration>) -> Result<T> {
                let item = get(&self.proxy, 1, timeout)?.pop();
                item.ok_or_else(|| Error::new(ErrorKind::Empty, "get from a queue", "no item came"))
            }

            /// Takes an item, and waits for one.
            pub fn get(&self) -> Result<T> {
                self.one(None)
            }

            /// Takes an item if there is one now; otherwise [`ErrorKind::Empty`].
            pub fn try_get(&self) -> Result<T> {
                self.one(Some(Duration::ZERO))
            }

            /// Takes an item, and waits for one for so long; then [`ErrorKind::Timeout`].
            pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
                self.one(Some(timeout))
            }

            /// Takes as many items as there are, `most` of them, and waits for the first.
            pub fn get_many(&self, most: usize) -> Result<Vec<T>> {
                get(&self.proxy, most.max(1), None)
            }

            /// As `put`, as a future (feature `async`). One that is dropped before it was ready has put the item, or not; if it still
            /// waited for room, not.
            #[cfg(feature = "async")]
            pub async fn put_async(&self, item: &T) -> Result<()> {
                const DOING: &str = "put into a queue";
                let request = self.proxy.request(Op::PutItem).u64(nanos(None));
                let request = self.proxy.with_all(DOING, request, [item])?;
                self.proxy.ask_later(DOING, request, None, |_| Ok(())).await
            }

            /// As `get`, as a future (feature `async`), which can be dropped at any time: an item that had come goes back to the
            /// front.
            #[cfg(feature = "async")]
            pub async fn get_async(&self) -> Result<T> {
                let request = self.proxy.request(Op::GetItem).u64(nanos(None)).u64(1);
                let read = |answer: &mut Answer<'_>| taken(&self.proxy, answer);
                let item = self.proxy.ask_later(GET, request, Some(give_back), read).await?.pop();
                item.ok_or_else(|| Error::new(ErrorKind::Empty, GET, "no item came"))
            }

            /// How many items it holds. Python's `qsize`.
            pub fn len(&self) -> Result<usize> {
                self.proxy.ask_number("count the items of a queue", Op::Len).map(|len| len as usize)
            }

            /// Whether it holds none.
            pub fn is_empty(&self) -> Result<bool> {
                self.len().map(|len| len == 0)
            }

            /// Whether it has no room.
            pub fn is_full(&self) -> Result<bool> {
                self.proxy.ask_number("look whether a queue is full", Op::Full).map(|full| full != 0)
            }
        }
    };
}

methods!(Queue);
methods!(JoinableQueue);

const JOIN: &str = "join a queue";

fn joined(answer: &mut Answer<'_>) -> Result<()> {
    match answer.u64()? {
        0 => Ok(()),
        lost => {
            let text = format!("{lost} tasks were lost with processes that died");
            Err(Error::new(ErrorKind::Lost, JOIN, text))
        }
    }
}

impl<T> JoinableQueue<T> {
    /// A task that was taken is done.
    ///
    /// # Errors
    /// If more were called done than were put ([`ErrorKind::Invalid`]), or the server or the object is gone.
    pub fn task_done(&self) -> Result<()> {
        self.proxy.ask_nothing("call a task done", self.proxy.request(Op::TaskDone).u64(1))
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let request = self.proxy.request(Op::Join).u64(nanos(timeout));
        self.proxy.ask_late(JOIN, request, timeout, None, joined)
    }

    /// As [`join`](JoinableQueue::join), as a future (feature `async`).
    ///
    /// # Errors
    /// As [`join`](JoinableQueue::join).
    #[cfg(feature = "async")]
    pub async fn join_async(&self) -> Result<()> {
        let request = self.proxy.request(Op::Join).u64(nanos(None));
        self.proxy.ask_later(JOIN, request, None, joined).await
    }

    /// Waits until all tasks are done.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if a process died with tasks in hand, which this call does not wait for; or the server or the object
    /// is gone.
    pub fn join(&self) -> Result<()> {
        self.wait(None)
    }

    /// As [`join`](JoinableQueue::join), for so long; then [`ErrorKind::Timeout`].
    ///
    /// # Errors
    /// As [`join`](JoinableQueue::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<()> {
        self.wait(Some(timeout))
    }
}

//! Semaphores, events and barriers.

use super::nanos;
use crate::{
    client::Undo,
    error::Result,
    hosted::hosted,
    lease::Proxy,
    proto::{Op, put_u64},
    site::generation,
};
use std::{fmt, time::Duration};

hosted! {
    /// A semaphore in a manager's server. Anyone may release it.
    Semaphore<>, Semaphore
}

hosted! {
    /// A semaphore in a manager's server that never has more permits than at first.
    BoundedSemaphore<>, BoundedSemaphore
}

/// A permit that returns when this is dropped, and when its process dies.
#[must_use = "the permit returns when this is dropped"]
pub struct Permit {
    proxy: Proxy,
    /// Which of forked copies took it.
    generation: u32,
}

impl Permit {
    fn of(proxy: &Proxy) -> Permit {
        Permit { proxy: proxy.clone(), generation: generation() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // A forked child's copy is no permit: that is its parent's.
        if self.generation != generation() {
            return;
        }
        // A server that is gone has no permits.
        if let Ok(client) = self.proxy.client("return a permit") {
            client.tell(Op::GiveOwned, self.proxy.object, |out| put_u64(out, 1));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.proxy).finish()
    }
}

fn acquire(proxy: &Proxy, timeout: Option<Duration>, owned: bool) -> Result<bool> {
    const DOING: &str = "acquire a semaphore";
    let request = proxy.request(Op::Permit).u64(nanos(timeout)).u64(1).u64(u64::from(owned));
    proxy.ask_late(DOING, request, timeout, Some(give(owned)), |answer| answer.bool())
}

/// How a permit that came too late is given back.
fn give(owned: bool) -> Undo {
    if owned {
        |reply, _| (reply.u64() == Ok(1)).then_some((Op::GiveOwned, 1))
    } else {
        |reply, _| (reply.u64() == Ok(1)).then_some((Op::GivePermits, 1))
    }
}

#[cfg(feature = "async")]
async fn acquire_later(proxy: &Proxy, owned: bool) -> Result<()> {
    const DOING: &str = "acquire a semaphore";
    let request = proxy.request(Op::Permit).u64(nanos(None)).u64(1).u64(u64::from(owned));
    proxy.ask_later(DOING, request, Some(give(owned)), |answer| answer.bool().map(drop)).await
}

macro_rules! semaphore {
    ($name:ident) => {
        /// Each of these fails if the server or the object is gone.
        #[expect(clippy::missing_errors_doc, reason = "said once, above")]
        impl $name {
            /// Takes a permit that nobody owns, and waits for one.
            pub fn acquire(&self) -> Result<()> {
                acquire(&self.proxy, None, false).map(drop)
            }

            /// Takes a permit that nobody owns, if there is one.
            pub fn try_acquire(&self) -> Result<bool> {
                acquire(&self.proxy, Some(Duration::ZERO), false)
            }

            /// Takes a permit that nobody owns, and waits for one for so long.
            pub fn acquire_timeout(&self, timeout: Duration) -> Result<bool> {
                acquire(&self.proxy, Some(timeout), false)
            }

            /// Gives a permit. More than there were at first are [`ErrorKind::Invalid`](crate::ErrorKind) where they are bounded.
            pub fn release(&self) -> Result<()> {
                self.proxy.ask_nothing("release a semaphore", self.proxy.request(Op::GivePermits).u64(1))
            }

            /// Takes a permit that is this process's, and waits for one.
            pub fn permit(&self) -> Result<Permit> {
                acquire(&self.proxy, None, true)?;
                Ok(Permit::of(&self.proxy))
            }

            /// Takes a permit that is this process's, and waits for one for so long.
            pub fn permit_timeout(&self, timeout: Duration) -> Result<Option<Permit>> {
                let came = acquire(&self.proxy, Some(timeout), true)?;
                Ok(came.then(|| Permit::of(&self.proxy)))
            }

            /// As `acquire`, as a future (feature `async`), which can be dropped at any time: then no permit is taken.
            #[cfg(feature = "async")]
            pub async fn acquire_async(&self) -> Result<()> {
                acquire_later(&self.proxy, false).await
            }

            /// As `permit`, as a future (feature `async`), which can be dropped at any time: then no permit is taken.
            #[cfg(feature = "async")]
            pub async fn permit_async(&self) -> Result<Permit> {
                acquire_later(&self.proxy, true).await?;
                Ok(Permit::of(&self.proxy))
            }

            /// How many permits there are now.
            pub fn value(&self) -> Result<usize> {
                self.proxy.ask_number("look at a semaphore", Op::Permits).map(|permits| permits as usize)
            }
        }
    };
}

semaphore!(Semaphore);
semaphore!(BoundedSemaphore);

hosted! {
    /// An event in a manager's server.
    Event<>, Event
}

/// Each of these fails if the server or the object is gone.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Event {
    /// Sets it, and wakes all that wait.
    pub fn set(&self) -> Result<()> {
        self.proxy.ask_nothing("set an event", self.proxy.request(Op::Set))
    }

    /// Clears it.
    pub fn clear(&self) -> Result<()> {
        self.proxy.ask_nothing("clear an event", self.proxy.request(Op::Unset))
    }

    /// Whether it is set.
    pub fn is_set(&self) -> Result<bool> {
        self.proxy.ask_number("look at an event", Op::IsSet).map(|set| set != 0)
    }

    /// Waits until it is set.
    pub fn wait(&self) -> Result<()> {
        let request = self.proxy.request(Op::Wait).u64(nanos(None));
        self.proxy.ask_nothing("wait for an event", request)
    }

    /// Waits until it is set, as a future (feature `async`).
    #[cfg(feature = "async")]
    pub async fn wait_async(&self) -> Result<()> {
        let request = self.proxy.request(Op::Wait).u64(nanos(None));
        self.proxy.ask_later("wait for an event", request, None, |_| Ok(())).await
    }

    /// Waits until it is set, for so long; tells whether it was.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        let request = self.proxy.request(Op::Wait).u64(nanos(Some(timeout)));
        self.proxy.ask_late("wait for an event", request, Some(timeout), None, |answer| answer.bool())
    }
}

hosted! {
    /// A barrier in a manager's server: all parties pass, or nobody does.
    ///
    /// A party whose time is over, or which dies while it waits, breaks it, until it is [reset](Barrier::reset).
    Barrier<>, Barrier
}

/// What a barrier is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BarrierState {
    /// How many must come.
    pub parties: usize,
    /// How many wait.
    pub waiting: usize,
    /// Whether it is broken.
    pub broken: bool,
}

impl Barrier {
    fn pass(&self, timeout: Option<Duration>) -> Result<usize> {
        const DOING: &str = "wait at a barrier";
        let request = self.proxy.request(Op::Pass).u64(nanos(timeout));
        self.proxy.ask_late(DOING, request, timeout, None, |answer| answer.len())
    }

    /// Waits for all parties; gives each of them another number, from 0 on.
    ///
    /// # Errors
    /// [`ErrorKind::Broken`](crate::ErrorKind) if it is, or will be while this waits; if the server or the object is gone.
    pub fn wait(&self) -> Result<usize> {
        self.pass(None)
    }

    /// As [`wait`](Barrier::wait), for so long: then it is broken, for all.
    ///
    /// # Errors
    /// As [`wait`](Barrier::wait), and [`ErrorKind::Timeout`](crate::ErrorKind).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<usize> {
        self.pass(Some(timeout))
    }

    /// As [`wait`](Barrier::wait), as a future (feature `async`), which can be dropped at any time: then this party has not come,
    /// and the barrier stays whole.
    ///
    /// # Errors
    /// As [`wait`](Barrier::wait).
    #[cfg(feature = "async")]
    pub async fn wait_async(&self) -> Result<usize> {
        let request = self.proxy.request(Op::Pass).u64(nanos(None));
        self.proxy.ask_later("wait at a barrier", request, None, |answer| answer.len()).await
    }

    /// Breaks it.
    ///
    /// # Errors
    /// If the server or the object is gone.
    pub fn abort(&self) -> Result<()> {
        self.proxy.ask_nothing("abort a barrier", self.proxy.request(Op::Abort))
    }

    /// Makes it whole again. Those who wait get [`ErrorKind::Broken`](crate::ErrorKind).
    ///
    /// # Errors
    /// If the server or the object is gone.
    pub fn reset(&self) -> Result<()> {
        self.proxy.ask_nothing("reset a barrier", self.proxy.request(Op::Reset))
    }

    /// What it is doing.
    ///
    /// # Errors
    /// If the server or the object is gone.
    pub fn state(&self) -> Result<BarrierState> {
        self.proxy.ask("look at a barrier", self.proxy.request(Op::State), |answer| {
            Ok(BarrierState { parties: answer.len()?, waiting: answer.len()?, broken: answer.bool()? })
        })
    }
}

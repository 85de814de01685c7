//! Locks and conditions.

use super::nanos;
use crate::{
    client::{Late, Undo},
    error::{Error, ErrorKind, LockError, Result},
    hosted::hosted,
    lease::{Answer, Proxy},
    proto::{Op, Reader, put_u64},
    site::generation,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

hosted! {
    /// A lock in a manager's server.
    ///
    /// It belongs to whoever took it, by the guard. If that process dies, the next one gets it at once, with an error that says
    /// who died ([`LockError::Died`]); so does every later one, until somebody calls [`clear_poison`](Lock::clear_poison).
    /// What anyone may release is a [`Semaphore`](crate::Semaphore).
    Lock<>, Lock
}

hosted! {
    /// A lock in a manager's server that its thread may take again. It dies as a [`Lock`] does.
    RLock<>, RLock
}

/// A number that is not used again in this process.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A number of the calling thread.
fn this_thread() -> u64 {
    thread_local! {
        static NUMBER: u64 = next_number();
    }
    NUMBER.with(|number| *number)
}

const TAKE: &str = "take a lock";

/// What a reply that takes a lock says: the lock's token, 0 if it was not taken, and who died with it.
fn token(answer: &mut Answer<'_>) -> Result<(u64, u32)> {
    let token = answer.u64()?;
    Ok((token, if token == 0 { 0 } else { answer.u64()? as u32 }))
}

/// How a lock is let go that came too late: by the reply's token, since one that was taken again has that of the first time.
fn let_go(reply: &mut Reader<'_>, _: u64) -> Option<(Op, u64)> {
    reply.u64().ok().filter(|token| *token != 0).map(|token| (Op::ReleaseLock, token))
}

/// What a lock is held by.
struct Hold {
    proxy: Proxy,
    /// 0 once it is lost.
    token: u64,
    /// Which of forked copies took it.
    generation: u32,
}

impl Hold {
    /// Takes the lock: also tells who died with it, 0 for nobody.
    fn take(proxy: &Proxy, timeout: Option<Duration>) -> Result<Option<(Hold, u32)>> {
        let request = proxy.request(Op::Acquire).u64(nanos(timeout)).u64(this_thread());
        let generation = generation();
        let taken = proxy.ask_late(TAKE, request, timeout, Some(let_go), token)?;
        Ok(Hold::of(proxy, generation, taken))
    }

    fn of(proxy: &Proxy, generation: u32, (token, died): (u64, u32)) -> Option<(Hold, u32)> {
        (token != 0).then(|| (Hold { proxy: proxy.clone(), token, generation }, died))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A forked child's copy holds nothing: the lock is its parent's.
        if self.token == 0 || self.generation != generation() {
            return;
        }
        // A server that is gone has no lock.
        if let Ok(client) = self.proxy.client("let a lock go") {
            client.tell(Op::ReleaseLock, self.proxy.object, |out| put_u64(out, self.token));
        }
    }
}

macro_rules! lock {
    ($name:ident, $guard:ident, $(#[$doc:meta])* $marker:ty) => {
        $(#[$doc])*
        #[must_use = "the lock is let go when this is dropped"]
        pub struct $guard {
            hold: Hold,
            thread: PhantomData<$marker>,
        }

        impl $guard {
            fn new((hold, died): (Hold, u32)) -> Result<$guard, LockError<$guard>> {
                let guard = $guard { hold, thread: PhantomData };
                if died == 0 { Ok(guard) } else { Err(LockError::Died { guard, pid: died }) }
            }
        }

        impl fmt::Debug for $guard {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($guard)).field(&self.hold.proxy).finish()
            }
        }

        impl $name {
            /// Takes the lock, and waits for it.
            ///
            /// # Errors
            /// [`LockError::Died`] with the guard, if a process died while it held the lock; [`LockError::Failed`] if the server
            /// or the object is gone.
            pub fn lock(&self) -> Result<$guard, LockError<$guard>> {
                match Hold::take(&self.proxy, None)? {
                    Some(taken) => $guard::new(taken),
                    None => Err(Error::new(ErrorKind::Timeout, "take a lock", "the server gave up").into()),
                }
            }

            /// Takes the lock, if it is free.
            ///
            /// # Errors
            /// As `lock`.
            pub fn try_lock(&self) -> Result<Option<$guard>, LockError<$guard>> {
                self.lock_timeout(Duration::ZERO)
            }

            /// Takes the lock, and waits for it for so long.
            ///
            /// # Errors
            /// As `lock`.
            pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<$guard>, LockError<$guard>> {
                Hold::take(&self.proxy, Some(timeout))?.map($guard::new).transpose()
            }

            fn state(&self) -> Result<(bool, u64)> {
                let request = self.proxy.request(Op::IsLocked);
                self.proxy.ask("look at a lock", request, |answer| Ok((answer.bool()?, answer.u64()?)))
            }

            /// Whether somebody holds it.
            ///
            /// # Errors
            /// If the server or the object is gone.
            pub fn is_locked(&self) -> Result<bool> {
                self.state().map(|state| state.0)
            }

            /// Who died while it held the lock, since the poison was cleared last.
            ///
            /// # Errors
            /// If the server or the object is gone.
            pub fn poisoned_by(&self) -> Result<Option<u32>> {
                self.state().map(|state| (state.1 != 0).then_some(state.1 as u32))
            }

            /// Says that what it guards is whole again.
            ///
            /// # Errors
            /// If the server or the object is gone.
            pub fn clear_poison(&self) -> Result<()> {
                self.proxy.ask_nothing("clear a lock's poison", self.proxy.request(Op::ClearPoison))
            }
        }
    };
}

lock! {
    Lock, Guard,
    /// A [`Lock`] that is held, by this value.
    ()
}
lock! {
    RLock, RGuard,
    /// An [`RLock`] that is held, by this value and its thread.
    *const ()
}

#[cfg(feature = "async")]
impl Lock {
    /// As [`lock`](Lock::lock), as a future (feature `async`), which can be dropped at any time: then the lock is not taken. A
    /// task that holds the lock already waits for itself.
    ///
    /// # Errors
    /// As [`lock`](Lock::lock).
    pub async fn lock_async(&self) -> Result<Guard, LockError<Guard>> {
        // Tasks of one thread are not one owner.
        let request = self.proxy.request(Op::Acquire).u64(nanos(None)).u64(next_number());
        let generation = generation();
        let taken = self.proxy.ask_later(TAKE, request, Some(let_go), token).await?;
        match Hold::of(&self.proxy, generation, taken) {
            Some(taken) => Guard::new(taken),
            None => Err(Error::new(ErrorKind::Timeout, TAKE, "the server gave up").into()),
        }
    }
}

/// A condition in a manager's server: on a lock that guards what it is about.
///
/// ```no_run
/// # use procession_manager::Manager;
/// # let manager = Manager::start()?;
/// let ready = manager.condition()?;
/// let mut guard = ready.lock()?;
/// ready.wait(&mut guard)?; // until another process calls `notify_one` with the lock in hand
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Condition {
    lock: RLock,
    number: u64,
}

/// How a wait for a condition ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// Somebody notified.
    Notified,
    /// The time was over.
    TimedOut,
}

impl Condition {
    pub(crate) fn of(lock: RLock) -> Condition {
        Condition { lock, number: 0 }
    }

    /// A condition on a lock that guards something already. Conditions of different numbers on one lock are different ones.
    #[must_use]
    pub fn on(lock: &RLock, number: u64) -> Condition {
        Condition { lock: lock.clone(), number }
    }

    /// Its lock.
    #[must_use]
    pub fn rlock(&self) -> &RLock {
        &self.lock
    }

    /// Takes its lock.
    ///
    /// # Errors
    /// As [`RLock::lock`].
    pub fn lock(&self) -> Result<RGuard, LockError<RGuard>> {
        self.lock.lock()
    }

    fn wait_for(&self, guard: &mut RGuard, timeout: Option<Duration>) -> Result<Waited> {
        const DOING: &str = "wait for a condition";
        self.check(DOING, guard)?;
        let proxy = &self.lock.proxy;
        let request = proxy.request(Op::WaitFor).u64(self.number).u64(guard.hold.token).u64(nanos(timeout));
        // The lock is taken again before the reply, however long that takes.
        let undo: Undo = |reply, _| {
            let (_, _, token) = (reply.u64().ok()?, reply.u64().ok()?, reply.u64().ok()?);
            Some((Op::ReleaseLock, token))
        };
        let late = timeout.map(|_| Late { undo, object: proxy.object, patient: true });
        let outcome = proxy.ask_with(DOING, request, timeout, late, |answer| {
            let (notified, died) = (answer.bool()?, answer.u64()?);
            match (notified, died) {
                (true, _) => Ok(Waited::Notified),
                (false, 0) => Ok(Waited::TimedOut),
                (false, pid) => {
                    let text = format!("process {pid} died while it held the lock");
                    Err(Error::new(ErrorKind::Lost, DOING, text))
                }
            }
        });
        if outcome.as_ref().is_err_and(Error::is_timeout) {
            // Should the server give it back later, it is let go at once.
            guard.hold.token = 0;
        }
        outcome
    }

    fn check(&self, doing: &'static str, guard: &RGuard) -> Result<()> {
        if guard.hold.token == 0 || guard.hold.generation != generation() {
            return Err(Error::new(ErrorKind::NotOwner, doing, "the guard does not hold the lock any more"));
        }
        match guard.hold.proxy.is_same(&self.lock.proxy) {
            true => Ok(()),
            false => Err(crate::lease::invalid(doing, "the guard is another lock's")),
        }
    }

    /// Lets the lock go, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if a process died while it held the lock, and perhaps should have notified: the lock is held all the
    /// same. If the server or the object is gone, it is not.
    pub fn wait(&self, guard: &mut RGuard) -> Result<()> {
        self.wait_for(guard, None).map(drop)
    }

    /// As [`wait`](Condition::wait), for so long; then the lock is waited for, as long as the server lives.
    ///
    /// # Errors
    /// As [`wait`](Condition::wait); [`ErrorKind::Timeout`] if the server does not answer: then the guard has lost the lock.
    pub fn wait_timeout(&self, guard: &mut RGuard, timeout: Duration) -> Result<Waited> {
        self.wait_for(guard, Some(timeout))
    }

    /// Waits as long as `condition` holds; that is looked at here, with the lock in hand.
    ///
    /// # Errors
    /// As [`wait`](Condition::wait).
    pub fn wait_while(&self, guard: &mut RGuard, mut condition: impl FnMut() -> bool) -> Result<()> {
        while condition() {
            self.wait(guard)?;
        }
        Ok(())
    }

    /// Wakes one that waits.
    ///
    /// # Errors
    /// If the guard is another lock's, or the server or the object is gone.
    pub fn notify_one(&self, guard: &RGuard) -> Result<()> {
        self.notify_n(guard, 1)
    }

    /// Wakes so many that wait.
    ///
    /// # Errors
    /// As [`notify_one`](Condition::notify_one).
    pub fn notify_n(&self, guard: &RGuard, most: usize) -> Result<()> {
        const DOING: &str = "notify a condition";
        self.check(DOING, guard)?;
        let proxy = &self.lock.proxy;
        let request = proxy.request(Op::Notify).u64(self.number).u64(guard.hold.token).u64(most as u64);
        proxy.ask_nothing(DOING, request)
    }

    /// Wakes all that wait.
    ///
    /// # Errors
    /// As [`notify_one`](Condition::notify_one).
    pub fn notify_all(&self, guard: &RGuard) -> Result<()> {
        self.notify_n(guard, usize::MAX)
    }
}

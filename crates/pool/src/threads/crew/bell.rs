//! How the driver learns that there is something to fetch, and what is done where none waits.

use super::{Crew, locked};
use crate::back::Waiter;
use procession_sys::{Deadline, Spin};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

impl Crew {
    /// Says that there are events to fetch.
    pub(in crate::threads) fn ring(&self) {
        // If it was set and not yet cleared, whoever clears it looks after that.
        if self.news.load(Ordering::SeqCst) && self.bell.asleep.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.news.store(true, Ordering::SeqCst);
        if self.bell.asleep.load(Ordering::SeqCst) > 0 {
            drop(locked(&self.bell.lock));
            self.bell.rung.notify_all();
        }
    }

    /// If nobody drives, does it. Not to be called with a lock held.
    pub(super) fn attend(&self) {
        if self.bell.drivers.load(Ordering::SeqCst) == 0
            && let Some(attendant) = self.attendant.get()
        {
            attendant.attend();
        }
    }
}

/// Where a driver waits.
#[derive(Debug)]
pub(in crate::threads) struct CrewWaiter {
    pub(in crate::threads) crew: Arc<Crew>,
    /// One driver waits at a time, but for moments.
    pub(in crate::threads) spin: Mutex<Spin>,
}

impl Waiter for CrewWaiter {
    fn wait_while(&self, deadline: Option<Deadline>, pending: &mut dyn FnMut() -> bool) {
        struct Driving<'a>(&'a AtomicUsize);
        impl Drop for Driving<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let Crew { bell, news, .. } = &*self.crew;
        bell.drivers.fetch_add(1, Ordering::SeqCst);
        let _driving = Driving(&bell.drivers);
        // Another driver may be about to leave. Then this one does not spin.
        let mut lent = self.spin.try_lock().ok();
        let mut none = Spin::none();
        let spin = lent.as_deref_mut().unwrap_or(&mut none);
        while pending() {
            let time = deadline.map_or(Duration::MAX, Deadline::remaining);
            if time.is_zero() {
                return;
            }
            if spin.until(deadline, || self.crew.has_news()) {
                continue;
            }
            let lock = locked(&bell.lock);
            bell.asleep.fetch_add(1, Ordering::SeqCst);
            if !news.load(Ordering::SeqCst) {
                // Who is woken looks again, whatever woke it.
                drop(bell.rung.wait_timeout(lock, time.min(Duration::from_secs(3600))));
            }
            bell.asleep.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
